"""The Python client: arrays in, arrays out, through broken connections and restarts of the server.

::

    from ndserve import Client

    with Client("http://127.0.0.1:8076") as client:
        probabilities = client.run("digits", image)
        for result in client.map("digits", images):
            ...

`client.models` manages what the server serves.

`Client` blocks and may be shared by threads; `AsyncClient` has the same methods as coroutines. Both need NumPy and
httpx2, and nothing of the server: ``pip install 'ndserve[client]'``.

A server with API keys is sent the one in NDSERVE_API_KEY, or ``Client(url, api_key=...)``.

Every submit carries an Idempotency-Key, so a request whose answer was lost is sent again and the task runs once.
"""

try:
    import httpx2 as _httpx  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "ndserve's client needs httpx2: pip install 'ndserve[client]'", name=error.name
    ) from error

from ndserve.client.asynchronous import AsyncClient
from ndserve.client.errors import (
    ClientError,
    ConflictError,
    ConnectionFailedError,
    DigestMismatchError,
    ForbiddenError,
    GoneError,
    InvalidInputError,
    InvalidModelError,
    InvalidParameterError,
    ModelMemoryFullError,
    ModelTooLargeError,
    QueueFullError,
    ServerError,
    StoreFullError,
    TaskFailedError,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnfinishedTaskError,
    UnknownTargetError,
    UnknownTaskError,
)
from ndserve.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "ConflictError",
    "ConnectionFailedError",
    "DigestMismatchError",
    "ForbiddenError",
    "GoneError",
    "InvalidInputError",
    "InvalidModelError",
    "InvalidParameterError",
    "ModelMemoryFullError",
    "ModelTooLargeError",
    "QueueFullError",
    "ServerError",
    "StoreFullError",
    "TaskFailedError",
    "UnauthorizedError",
    "UnexpectedAnswerError",
    "UnfinishedTaskError",
    "UnknownTargetError",
    "UnknownTaskError",
]
