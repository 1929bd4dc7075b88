"""`python -m ndserve`."""

import sys

from ndserve.cli import main

sys.exit(main())
