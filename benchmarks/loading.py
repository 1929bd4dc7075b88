"""What a load costs those who use other models: the latency of a tiny model while a large one is loaded."""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ndserve.codecs.npy import write_npy

PORT = 18_090
CONNECTIONS = 200
LAYERS, WIDTH = 4, 4330
"""Four square matrices of float32: 300 MB."""

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def large_model(root: Path) -> None:
    """Four dense layers."""
    chance = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(LAYERS):
        weight = chance.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"]))
        nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"y{layer}"]))
        last = f"y{layer}"
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "large", tensors[:1], tensors[1:], weights)
    path = root / "large" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(proto.SerializeToString())


def loading(server: list[str], root: Path, rounds: int, seconds: int) -> None:
    """200 requests at a time of the tiny model, with and without loads beside them, in turns."""
    large_model(root)
    with tempfile.TemporaryDirectory() as folder, _started(server):
        body = Path(folder) / "body.npy"
        body.write_bytes(b"".join(write_npy(np.ones((1, 16), np.float32))))
        _measure(body, seconds)
        quiet, busy, loads = [], [], []
        for number in range(rounds):
            quiet.append(_measure(body, seconds))
            with _loads() as taken:
                busy.append(_measure(body, seconds))
            loads += taken
            print(f"\rloading, round {number + 1}/{rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"\nLatency of a tiny model, {CONNECTIONS} requests at a time, while 300 MB are loaded again and again")
    for name, samples in (("nothing is loaded", quiet), (f"{len(loads)} loads", busy)):
        p50, p99, rate = (statistics.median(values) for values in zip(*samples, strict=True))
        print(f"{name:28}p50 {p50:8.2f} ms   p99 {p99:8.2f} ms   {rate:10,.0f} requests/s")
    ratio = statistics.median(b[1] / q[1] for q, b in zip(quiet, busy, strict=True))
    print(f"p99 ratio {ratio:.2f}; a load took {statistics.median(loads):.2f} s")


def _measure(body: Path, seconds: int) -> tuple[float, float, float]:
    """The median and the 99th percentile in milliseconds, and requests a second."""
    script = Path(__file__).parent / "call.lua"
    url = f"http://127.0.0.1:{PORT}/process_np_array?model=tiny&wait=10"
    load = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script), url, "--"]
    output = subprocess.run(
        [*load, str(body), "Content-Type=application/x-npy"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=seconds + 60,
    ).stdout
    found = {
        name: float(value) * _UNITS[unit] for name, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", output)
    }
    units = re.search(r"units (\d+) seconds ([\d.]+) bad (\d+)", output)
    if units is None or int(units[3]):
        raise SystemExit(f"the load failed:\n{output}")
    return found["50"], found["99"], int(units[1]) / float(units[2])


@contextlib.contextmanager
def _loads() -> Iterator[list[float]]:
    """Load the large model and unload it, again and again; gives the seconds of each load."""
    taken: list[float] = []
    over = threading.Event()

    def turn() -> None:
        while not over.is_set():
            began = time.perf_counter()
            _post("load")
            taken.append(time.perf_counter() - began)
            _post("unload")

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def _post(what: str) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/models/large/{what}", method="POST")
    with urllib.request.urlopen(request, timeout=60):
        pass


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, *command, "--port", str(PORT)])
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5):
                break
            if process.poll() is not None:
                raise SystemExit("ndserve did not start")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()
