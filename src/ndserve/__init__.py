"""ndserve puts array code behind HTTP: post a NumPy array, get a task id, fetch the result.

`import ndserve` needs NumPy and nothing else; the server lives in `ndserve.main`.
"""

from ndserve.errors import NdserveError
from ndserve.processes.base import Process, process
from ndserve.types import TaskState, TensorSpec

__all__ = ["NdserveError", "Process", "TaskState", "TensorSpec", "__version__", "process"]

__version__ = "0.1.0"
