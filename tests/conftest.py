"""What holds for the whole run of the tests."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Take the eight thousand collected tests out of the collector's sight: each sweep over them takes 0.1 s."""
    gc.collect()
    gc.freeze()
