"""What the tests of Triton's clients share: inputs made of arrays, a lane that is held, and refusals."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ndserve.types import HostArray
from tests.e2e.client import npy
from tests.e2e.running import RunningServer


def address(server: RunningServer) -> str:
    """Where it is, as Triton's clients want it."""
    return f"{server.host}:{server.port}"


@contextmanager
def connected(server: RunningServer, **options: Any) -> Iterator[InferenceServerClient]:
    """A client of its own: none may be shared between threads."""
    with InferenceServerClient(address(server), **options) as client:
        yield client


def given(name: str, array: Any, *, binary: bool = True) -> InferInput:
    """An input that holds the array."""
    array = np.asarray(array)
    made = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return made.set_data_from_numpy(array, binary_data=binary)


def asked(name: str, *, binary: bool = True, classes: int = 0) -> InferRequestedOutput:
    return InferRequestedOutput(name, binary_data=binary, class_count=classes)


def outcome(client: InferenceServerClient, target: str, array: Any, **options: Any) -> HostArray:
    """What the target makes of one array; it has the input `x`, and one output."""
    result = client.infer(target, [given("x", array)], **options)
    (output,) = result.get_response()["outputs"]
    array = result.as_numpy(output["name"])
    assert isinstance(array, np.ndarray)
    return array


@contextmanager
def refused(status: int, *words: str) -> Iterator[pytest.ExceptionInfo[InferenceServerException]]:
    """The server says no with this status, and its message has all of these words."""
    with pytest.raises(InferenceServerException) as raised:
        yield raised
    assert raised.value.status() == str(status), raised.value
    missing = [word for word in words if word not in raised.value.message()]
    assert not missing, raised.value.message()


@contextmanager
def lane_held(server: RunningServer, pipe: Path) -> Iterator[None]:
    """While it lasts a process stands still on the lane, so that whatever else comes is queued."""
    os.mkfifo(pipe)
    connection = http.client.HTTPConnection(server.host, server.port, timeout=40)
    try:
        connection.request("POST", f"/tasks/fifo?wait=40&path={pipe}", npy([0]))
        writer = os.open(pipe, os.O_WRONLY)  # waits until the process is there
        try:
            yield
        finally:
            os.close(writer)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
    finally:
        connection.close()


def wait_until_queued(server: RunningServer, number: int) -> None:
    """Return once so many tasks wait or run. The lane must be held, so that none of them ends meanwhile.

    It asks through gevent, so that the requests of this thread's own clients go out meanwhile.
    """
    with connected(server) as client:
        live = -1
        while live != number:
            live = json.loads(client._get("health", None, None).read())["queue"]["live"]
