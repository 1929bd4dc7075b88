"""ndserve puts array code behind HTTP: post a NumPy array, get a task id, fetch the result.

`import ndserve` needs NumPy and nothing else. The server lives in `ndserve.main`, and `Client` and `AsyncClient` in
`ndserve.client`, which is imported when they are asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ndserve.errors import NdserveError
from ndserve.processes.base import Process, process
from ndserve.progress import report_progress
from ndserve.types import TaskState, TensorSpec

if TYPE_CHECKING:
    from ndserve.client import AsyncClient, Client

__all__ = [
    "AsyncClient",
    "Client",
    "NdserveError",
    "Process",
    "TaskState",
    "TensorSpec",
    "__version__",
    "process",
    "report_progress",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        return getattr(importlib.import_module("ndserve.client"), name)
    raise AttributeError(f"module 'ndserve' has no attribute {name!r}")
