"""What a client raises, in one tree.

::

    ClientError
      ConnectionFailedError    no answer, for as long as the client's patience
      UnfinishedTaskError      the task has not ended in the time given
      ServerError              the server's answer, with its `code` and `status`
        TaskFailedError        the task ran and failed; `code` says how
        GoneError, UnknownTaskError, UnknownTargetError, InvalidInputError, InvalidParameterError,
        ConflictError, QueueFullError, StoreFullError, UnauthorizedError, ForbiddenError
        InvalidModelError, DigestMismatchError, ModelTooLargeError, ModelMemoryFullError
                               of `Client.models` alone: a task that fails of such a thing is a TaskFailedError
        UnexpectedAnswerError  no answer of ndserve's: a proxy's page, a redirect, a broken body

They can be pickled, as an error must be that leaves a process of a pool.

A class with the name of one in `ndserve.errors` is a subclass of it, so ``except ndserve.errors.GoneError`` catches
the error on both sides of the wire. A code without a class of its own arrives as `ServerError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ndserve import errors
from ndserve.errors import NdserveError


class ClientError(NdserveError):
    """The root of what a client raises."""

    code = "client"


class ConnectionFailedError(ClientError):
    """No usable connection to `url`, however often it was tried; `last` is the last attempt's error."""

    code = "connection_failed"

    def __init__(self, url: str, last: Exception) -> None:
        reason = str(last) or type(last).__name__
        super().__init__(f"no answer from {url}: {reason}")
        self.url = url
        self.last = last

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.last)


class UnfinishedTaskError(ClientError, TimeoutError):
    """The task `task_id` had not ended in the time given. It goes on: `get_result` fetches it later."""

    code = "unfinished"

    def __init__(self, task_id: str, seconds: float) -> None:
        super().__init__(f"task {task_id} has not ended within {seconds:g} s; it goes on", task_id=task_id)
        self.task_id = task_id
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.task_id, self.seconds)


class ServerError(ClientError):
    """The server answered that it cannot or will not.

    `code` is stable and `status` the HTTP status; `detail` is for people; `document` is the whole problem document.
    `task_id` names the task where the error is of one.
    """

    def __init__(
        self, status: int, code: str, detail: str, document: Mapping[str, Any] | None = None, task_id: str | None = None
    ) -> None:
        # Not super(): the server's TaskFailedError, a base of ours, is made from something else.
        NdserveError.__init__(self, f"{detail} ({code}, HTTP {status})")
        self.status = status
        self.code = code
        self.detail = detail
        self.document = dict(document or {})
        self.task_id = task_id or self.document.get("task_id")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.code, self.detail, self.document, self.task_id)


class TaskFailedError(ServerError, errors.TaskFailedError):
    """The task was accepted and failed: on its arrays, at its deadline, or with its server."""


class GoneError(ServerError, errors.GoneError):
    """The task was here; it was cancelled, it expired, or its result was removed."""


class UnknownTaskError(ServerError, errors.UnknownTaskError):
    """The server knows no task of this id."""


class UnknownTargetError(ServerError, errors.UnknownTargetError):
    """The server has no model or process of this name or version."""


class InvalidInputError(ServerError, errors.InvalidInputError):
    """The arrays do not fit the target."""


class InvalidParameterError(ServerError, errors.InvalidParameterError):
    """An option or a parameter is unknown or has no usable value."""


class ConflictError(ServerError, errors.ConflictError):
    """The idempotency key was used for something else, the task is not in a state for this, or the version is there."""


class QueueFullError(ServerError, errors.QueueFullError):
    """The queue was full for as long as the client's patience."""


class StoreFullError(ServerError, errors.StoreFullError):
    """The server keeps as many tasks or bytes as it may, or its disk is full."""


class UnauthorizedError(ServerError, errors.UnauthorizedError):
    """The server asks for an API key, and got none that is in force."""


class ForbiddenError(ServerError, errors.ForbiddenError):
    """The key's role does not suffice, or management is closed to this caller."""


class InvalidModelError(ServerError, errors.InvalidModelError):
    """What was sent, or is to be loaded, is no model that the server can serve."""


class DigestMismatchError(ServerError, errors.DigestMismatchError):
    """The server has got something else than was sent."""


class ModelTooLargeError(ServerError, errors.ModelTooLargeError):
    """The model is larger than all of the server's model memory."""


class ModelMemoryFullError(ServerError, errors.ModelMemoryFullError):
    """Models that are in use or pinned leave no room for this one; later they may."""


class UnexpectedAnswerError(ServerError):
    """Something other than ndserve answered, or its answer arrived broken; `detail` has an excerpt."""


BY_CODE: Mapping[str, type[ServerError]] = {
    "unknown_task": UnknownTaskError,
    "gone": GoneError,
    "unknown_target": UnknownTargetError,
    "invalid_input": InvalidInputError,
    "invalid_parameter": InvalidParameterError,
    "conflict": ConflictError,
    "not_failed": ConflictError,
    "queue_full": QueueFullError,
    "store_full": StoreFullError,
    "unauthorized": UnauthorizedError,
    "forbidden": ForbiddenError,
    "invalid_model": InvalidModelError,
    "digest_mismatch": DigestMismatchError,
    "model_too_large": ModelTooLargeError,
    "model_memory_full": ModelMemoryFullError,
}

FAILURES = frozenset(
    error.code
    for error in (
        errors.ExecutionError,
        errors.TaskTimeoutError,
        errors.InterruptedTaskError,
        errors.GroupFailedError,
        errors.ModelLoadError,
        errors.ModelTooLargeError,
        errors.ModelMemoryFullError,
    )
)
"""Codes of tasks that were accepted and failed, also where the submit itself waited for them."""

REFUSALS = frozenset(
    {
        *("unknown_task", "gone", "invalid_parameter", "not_acceptable", "queue_full", "shutting_down"),
        *("store_unavailable", "unauthorized", "forbidden", "not_found"),
    }
)
"""Codes that say why a result is not given, where every other code is the task's own."""
