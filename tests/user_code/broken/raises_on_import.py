"""A file that cannot be imported: its last line is at fault."""

import math

LIMIT = math.sqrt(-1)
