"""HTTP. `Service` is how a user's own route reaches the engine; `base.py` says how to add one."""

from ndserve.routes.base import Service

__all__ = ["Service"]
