"""Everything that can go wrong for a caller, in one tree.

Where each class arises on the way of a request::

    socket   -> gate      UnauthorizedError, ForbiddenError, NotFoundError
             -> routes    MethodNotAllowedError, BodyTooLargeError, InvalidParameterError, NotAcceptableError,
                        UnknownTaskError, GoneError
             -> codecs    MalformedBodyError, UnsupportedMediaTypeError, UnsupportedError,
                        UnsupportedEncodingError, InvalidInputError
             -> service   UnknownTargetError, UnavailableError, InvalidInputError, QueueFullError, ShuttingDownError,
                        ConflictError
             -> stores    StoreFullError, StoreUnavailableError
             -> cache     ModelLoadError, ModelChangedError, ModelTooLargeError, ModelMemoryFullError
             -> uploads   InvalidModelError, DigestMismatchError, ConflictError, StoreFullError
             -> lane      ExecutionError, EngineDeadError
    back       service   TaskFailedError, TaskTimeoutError, InterruptedTaskError, GroupFailedError, GoneError,
                        NotFailedError
    start-up              StartupError (never reaches a client)

`code` is stable: clients may branch on it. `status` is the HTTP status that reports it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ndserve.types import Failure


class NdserveError(Exception):
    """The root. `message` is for people; `details` are extra members of the problem document."""

    code: str = "internal"
    status: int = 500
    retry_after: ClassVar[int | None] = None
    """Seconds after which the same request may well be accepted; None where nothing is known of that."""
    challenge: str | None = None
    """What to present instead, as a value of WWW-Authenticate (https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1)."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def failure(self) -> Failure:
        return Failure(self.code, self.message, self.status)


class StartupError(NdserveError):
    """The server cannot start as configured."""

    code = "startup"


class UnauthorizedError(NdserveError):
    """The request needs an API key that is in force, and carries none."""

    code = "unauthorized"
    status = 401

    def __init__(self, message: str, *, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class ForbiddenError(NdserveError):
    """The key's role does not suffice, or management is closed to this request."""

    code = "forbidden"
    status = 403

    def __init__(self, message: str, *, challenge: str | None = None) -> None:
        super().__init__(message)
        self.challenge = challenge


class NotFoundError(NdserveError):
    """No route has this path."""

    code = "not_found"
    status = 404


class MalformedBodyError(NdserveError):
    """The body is not what its media type says."""

    code = "malformed_body"
    status = 400


class MethodNotAllowedError(NdserveError):
    """The path is there, and does not answer this method."""

    code = "method_not_allowed"
    status = 405


class InvalidParameterError(NdserveError):
    """A query parameter or header is unknown or has no usable value."""

    code = "invalid_parameter"
    status = 422


class InvalidInputError(NdserveError):
    """The arrays do not fit the target: names, dtype or shape."""

    code = "invalid_input"
    status = 422


class InvalidModelError(NdserveError):
    """What was uploaded is no model that can be served."""

    code = "invalid_model"
    status = 422


class DigestMismatchError(NdserveError):
    """What arrived is not what its digest says."""

    code = "digest_mismatch"
    status = 400


class UnsupportedMediaTypeError(NdserveError):
    """No codec reads this Content-Type."""

    code = "unsupported_media_type"
    status = 415


class NotAcceptableError(NdserveError):
    """No form of the result fits the Accept header."""

    code = "not_acceptable"
    status = 406


class BodyTooLargeError(NdserveError):
    """The body, or what it inflates to, is over the limit."""

    code = "body_too_large"
    status = 413


class UnsupportedError(NdserveError):
    """What is asked for is part of a protocol of which this server does not do that part."""

    code = "unsupported"
    status = 501


class UnsupportedEncodingError(NdserveError):
    """The body is compressed in a way that is not read."""

    code = "unsupported_encoding"
    status = 415


class UnknownTargetError(NdserveError):
    """No model or process has this name or version."""

    code = "unknown_target"
    status = 404


class UnavailableError(NdserveError):
    """The model or process is there, and is not served now: it was unloaded."""

    code = "unavailable"
    status = 503


class UnknownTaskError(NdserveError):
    """No task has this id, or it was forgotten long ago."""

    code = "unknown_task"
    status = 404


class GoneError(NdserveError):
    """The task was here; its result no longer is."""

    code = "gone"
    status = 410


class ConflictError(NdserveError):
    """The idempotency key or the id belongs to another request, or the task's state does not allow this."""

    code = "conflict"
    status = 409


class NotFailedError(ConflictError):
    """Only a failed task can be run again."""

    code = "not_failed"


class QueueFullError(NdserveError):
    """The queue is at its bound of tasks or bytes; try again after `retry_after` seconds."""

    code = "queue_full"
    status = 429
    retry_after = 1


class StoreFullError(NdserveError):
    """The task store is at its bound of tasks or bytes, or the disk is full."""

    code = "store_full"
    status = 507


class StoreUnavailableError(NdserveError):
    """The task store could not write; nothing was accepted. Its reason is in the message."""

    code = "store_unavailable"
    status = 503
    retry_after = 1


class ShuttingDownError(NdserveError):
    """The server is draining; another one should be asked."""

    code = "shutting_down"
    status = 503
    retry_after = 5


class ModelLoadError(NdserveError):
    """The model's file could not become a session."""

    code = "model_load_failed"
    status = 500


class ModelChangedError(ModelLoadError):
    """The model's files are no longer those that were read. They are read anew in a moment."""

    code = "model_changed"
    status = 503
    retry_after = 1


class ModelTooLargeError(NdserveError):
    """The model, or the set of models that a process calls, is larger than the whole budget."""

    code = "model_too_large"
    status = 507


class ModelMemoryFullError(NdserveError):
    """Other models are in use or pinned, and have left no room for this one for as long as `--load-wait`."""

    code = "model_memory_full"
    status = 503
    retry_after = 5


class ExecutionError(NdserveError):
    """The model or the process raised on this task's arrays."""

    code = "execution_failed"
    status = 500


class TaskTimeoutError(NdserveError):
    """The task had not ended when its `run_within` was over."""

    code = "timeout"
    status = 504


class InterruptedTaskError(NdserveError):
    """The server died while the task ran, as often as `--max-attempts` allows."""

    code = "interrupted"
    status = 500


class GroupFailedError(NdserveError):
    """Not all tasks of the group have succeeded, so there is no whole result."""

    code = "group_failed"
    status = 500


class TaskFailedError(NdserveError):
    """A task's own failure, with the code and status that were recorded when it ended."""

    def __init__(self, failure: Failure, **details: Any) -> None:
        super().__init__(failure.message, **details)
        self.code = failure.code
        self.status = failure.status


class EngineDeadError(NdserveError):
    """The device no longer answers; the process is about to end so that a supervisor restarts it."""

    code = "engine_dead"
    status = 503
    retry_after = 5
