"""Requests of the protocol, and what must be true of its answers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ndserve.testing import InProcessServer
from ndserve.types import HostArray
from tests.routes.bodies import JSON

LENGTH = "inference-header-content-length"

PLAIN = {"accept-encoding": "identity"}
"""For answers as they are; the test's own HTTP library would ask for compressed ones."""

X = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}


def document(*inputs: dict[str, Any], **members: Any) -> bytes:
    """The JSON of a request; for X without inputs."""
    return json.dumps({"inputs": list(inputs) or [X], **members}).encode()


def post(server: InProcessServer, model: str, body: bytes, **headers: str) -> Any:
    """Ask for an inference; underscores in the headers' names stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.http.post(f"/v2/models/{model}/infer", content=body, headers={**PLAIN, **named})


def post_binary(server: InProcessServer, model: str, name: str, array: HostArray, **members: Any) -> Any:
    """The same with an array in binary."""
    entry = {"name": name, "datatype": "FP32", "shape": list(array.shape)}
    head = document({**entry, "parameters": {"binary_data_size": array.nbytes}}, **members)
    return server.http.post(
        f"/v2/models/{model}/infer", content=head + array.tobytes(), headers={**PLAIN, LENGTH: str(len(head))}
    )


def values(answer: Any) -> list[Any]:
    """The data of the only output of an answer in JSON."""
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    data: list[Any] = output["data"]
    return data


def binary(answer: Any) -> HostArray:
    """The values of the only output of a binary answer, as floats."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    (output,) = json.loads(answer.content[: int(answer.headers[LENGTH])])["outputs"]
    array: HostArray = np.frombuffer(answer.content[int(answer.headers[LENGTH]) :], np.float32)
    return array.reshape(output["shape"])


def refused(answer: Any, status: int, told: str = "") -> str:
    """The text of a refusal, which must have the protocol's form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON
    assert answer.json().keys() == {"error"}
    text: str = answer.json()["error"]
    assert told in text
    return text
