"""Model files of any size, and a server that is asked about them."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from tests import onnx_models
from tests.e2e.running import RunningServer

ONES = b'{"array": [[1, 1, 1, 1]], "dtype": "float32"}'
"""A row of four numbers as JSON."""


def scaling(factor: float, mbytes: int = 0) -> bytes:
    """The model y = factor * x for rows of four numbers, with so many megabytes of weights that change nothing."""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["scaled"])]
    weights: dict[str, Any] = {"factor": np.array(factor, np.float32)}
    last = "scaled"
    for number in range(mbytes // 8):
        weights[f"w{number}"] = np.full((4, 500_000), number, np.float32)
        nodes += [
            helper.make_node("MatMul", [last, f"w{number}"], [f"wide{number}"]),
            helper.make_node("ReduceMax", [f"wide{number}"], [f"most{number}"], axes=[1], keepdims=1),
            helper.make_node("Mul", [f"most{number}", "nothing"], [f"none{number}"]),
            helper.make_node("Add", [last, f"none{number}"], [f"sum{number}"]),
        ]
        weights["nothing"] = np.array(0, np.float32)
        last = f"sum{number}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    axes: onnx_models.Axes = ["batch", 4]
    proto = onnx_models.model(nodes, [onnx_models.tensor("x", axes)], [onnx_models.tensor("y", axes)], **weights)
    content: bytes = proto.SerializeToString()
    return content


def external(*locations: str) -> bytes:
    """A model with weights in other files."""
    content: bytes = onnx_models.with_external_weights(*locations).SerializeToString()
    return content


def put(root: Path, content: bytes, name: str = "m", version: int = 1) -> Path:
    """Copy a model into the folder as a careful user does: under another name first."""
    path = root / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)
    return path


def ask(server: RunningServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """The status and the document of an answer."""
    request = urllib.request.Request(server.url + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=40) as answer:
            content, status = answer.read(), answer.status
    except urllib.error.HTTPError as refused:
        content, status = refused.read(), refused.code
    return status, json.loads(content) if content else None


def digest(content: bytes) -> dict[str, str]:
    """The header that tells what a body is."""
    return {"content-digest": f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"}


def factor_of(server: RunningServer, name: str = "m") -> float:
    """What the model that answers now multiplies by."""
    status, answer = ask(server, "POST", f"/tasks/{name}?wait=30", ONES, accept="application/json")
    assert status == 200, answer
    return float(answer["array"][0][0])


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))
