"""Server CPU and rates, ndserve beside its rivals, in interleaved rounds on the same core.

    scripts/bench            everything
    scripts/bench sync       the cost of one synchronous request of a tiny model, beside a bare uvicorn answer
    scripts/bench infer      the same by Open Inference with binary tensors, and with an API key
    scripts/bench tasks      submit and result, beside a FastAPI endpoint with a dict and a thread, and on each store
    scripts/bench filled     the same, and what is known of old tasks, with 100,000 finished tasks in the store
    scripts/bench loading    the latency of a tiny model while one of 300 MB is loaded again and again

Figures are medians over the rounds; ratios are taken within each round, because machines are noisy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.filled import fill
from benchmarks.loading import loading
from ndserve.access import Role, new_key
from ndserve.codecs.npy import write_npy
from ndserve.types import HostArray

UVICORN = [
    *("-m", "uvicorn", "--http", "httptools", "--ws", "none", "--no-access-log", "--log-level", "warning"),
    *("--no-proxy-headers", "--no-server-header"),
]


OBVIOUS = "FastAPI, dict, thread"
BOUNDARY = "benchmark"


@dataclass(frozen=True)
class Contender:
    """A server to start, and what to ask of it.

    `form` wraps the array as an HTML form does. `known` is a file of paths to get, instead of tasks to submit.
    `headers` go with the requests of a contender that gives no path of a `result`.
    """

    name: str
    command: list[str]
    path: str
    result: str | None = None
    form: bool = False
    known: Path | None = None
    headers: tuple[str, ...] = ("Content-Type=application/x-npy",)


@dataclass(frozen=True)
class Sample:
    """Units of work a second, and microseconds of the server's CPU a unit, all its threads together."""

    rate: float
    cpu_us: float


def tiny_model(folder: Path) -> Path:
    """Y = 2x + 1 for rows of 16 float32: as good as no work, so that what is measured is the server."""
    weights = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("two", 2), ("one", 1))]
    nodes = [helper.make_node("Mul", ["x", "two"], ["d"]), helper.make_node("Add", ["d", "one"], ["y"])]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "n"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "tiny", tensors[:1], tensors[1:], weights)
    path = folder / "models" / "tiny" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return path


@contextlib.contextmanager
def started(contender: Contender, port: int, core: int) -> Iterator[int]:
    """The server on a core of its own; gives its process id."""
    command = ["taskset", "-c", str(core), sys.executable, *contender.command, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/docs", timeout=5):
                break
            if process.poll() is not None:
                raise SystemExit(f"{contender.name} did not start")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, to the nanosecond (/proc/PID/task/*/schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(contender: Contender, pid: int, port: int, body: Path, seconds: int, core: int) -> Sample:
    """One load of 64 connections by wrk, on a core of its own."""
    scripts = Path(__file__).parent
    arguments = [str(body.with_suffix(".form") if contender.form else body)]
    if contender.result is None:
        arguments += contender.headers
    if contender.result is not None:
        content_type = f"multipart/form-data; boundary={BOUNDARY}" if contender.form else "application/x-npy"
        arguments += [content_type, contender.path, contender.result]
    script = scripts / ("call.lua" if contender.result is None else "tasks.lua")
    if contender.known is not None:
        script, arguments = scripts / "known.lua", [str(contender.known)]
    load = ["taskset", "-c", str(core), "wrk", "-t1", "-c64", f"-d{seconds}s", "-s", str(script)]
    load += [f"http://127.0.0.1:{port}{contender.path}", "--", *arguments]
    before = cpu_seconds(pid)
    output = subprocess.run(load, check=True, stdout=subprocess.PIPE, text=True, timeout=seconds + 60).stdout
    used = cpu_seconds(pid) - before
    found = re.search(r"units (\d+) seconds ([\d.]+) bad (\d+)", output)
    if found is None or int(found[3]) or not int(found[1]):
        raise SystemExit(f"{contender.name}: the load failed:\n{output}")
    return Sample(int(found[1]) / float(found[2]), used / int(found[1]) * 1e6)


def compare(
    contenders: list[Contender], array: HostArray | bytes, rounds: int, seconds: int
) -> dict[str, list[Sample]]:
    """Rounds in which each contender has its turn, so that a noisy minute hits all alike."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = cores[0], cores[-1]
    samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
    with contextlib.ExitStack() as stack:
        body = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "body.npy"
        body.write_bytes(array if isinstance(array, bytes) else b"".join(write_npy(array)))
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="array.npy"\r\n\r\n'
        body.with_suffix(".form").write_bytes(head.encode() + body.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode())
        servers = []
        for number, contender in enumerate(contenders):
            port = 18_080 + number
            servers.append((contender, stack.enter_context(started(contender, port, server_core)), port))
        for number in range(-1, rounds):  # the first round warms up
            for contender, pid, port in servers:
                sample = measure(contender, pid, port, body, seconds, load_core)
                if number >= 0:
                    samples[contender.name].append(sample)
                print(f"\r{contender.name:28} round {number + 1}/{rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return samples


def report(title: str, samples: dict[str, list[Sample]], base: str, unit: str) -> None:
    print(f"\n{title}\n{'':28}{unit + '/s':>14}{'CPU us/' + unit:>16}{'CPU ratio':>12}{'rate ratio':>12}")
    for name, own in samples.items():
        pairs = list(zip(own, samples[base], strict=True))
        print(
            f"{name:28}{statistics.median(s.rate for s in own):14,.0f}{statistics.median(s.cpu_us for s in own):16.1f}"
            f"{statistics.median(s.cpu_us / b.cpu_us for s, b in pairs):12.2f}"
            f"{statistics.median(s.rate / b.rate for s, b in pairs):12.2f}"
        )


SIZES = {"64 bytes": 16, "1 KB": 256, "600 KB": 150_000}
"""Arrays of float32, by what they are called."""

FINISHED = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="?", choices=["sync", "infer", "tasks", "filled", "loading"], help="one comparison alone"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        os.environ["TINY_MODEL"] = str(tiny_model(Path(folder)))
        if options.what in (None, "sync"):
            sync(Path(folder), options.rounds, options.seconds)
        if options.what in (None, "infer"):
            infer(Path(folder), options.rounds, options.seconds)
        if options.what in (None, "tasks"):
            tasks(Path(folder), options.rounds, options.seconds)
        if options.what in (None, "filled"):
            filled(Path(folder), options.rounds, options.seconds)
        if options.what in (None, "loading"):
            loading(serve(Path(folder), "memory"), Path(folder) / "models", options.rounds, options.seconds)


def serve(folder: Path, store: str, data: str = "data") -> list[str]:
    """The command of an ndserve with the tiny model."""
    command = [
        "-m",
        "ndserve",
        "serve",
        "--device",
        "cpu",
        "--models",
        str(folder / "models"),
        "--log-level",
        "warning",
    ]
    return [*command, "--store", store, "--data-dir", str(folder / data), "--result-ttl", "60"]


def sync(folder: Path, rounds: int, seconds: int) -> None:
    """One request that waits for its result, beside the floor."""
    contenders = [
        Contender("bare uvicorn", [*UVICORN, "benchmarks.rivals:bare"], "/"),
        Contender("ndserve", serve(folder, "sqlite"), "/process_np_array?model=tiny&wait=10"),
    ]
    samples = compare(contenders, np.ones((1, 16), np.float32), rounds, seconds)
    report("One synchronous request of a tiny model, 64 bytes", samples, "bare uvicorn", "request")


def infer(folder: Path, rounds: int, seconds: int) -> None:
    """The same by Open Inference, binary in and out, with an API key; the floor gets the very same requests."""
    tensor = {"name": "x", "shape": [1, 16], "datatype": "FP32", "parameters": {"binary_data_size": 64}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    secret, line = new_key("bench", Role.INFER)
    (folder / "keys").write_text(line)
    headers = (f"Inference-Header-Content-Length={len(head)}", f"Authorization=Bearer {secret}")
    path = "/v2/models/tiny/infer"
    contenders = [
        Contender("bare uvicorn", [*UVICORN, "benchmarks.rivals:bare"], path, headers=headers),
        Contender(
            "ndserve", [*serve(folder, "sqlite"), "--api-keys-file", str(folder / "keys")], path, headers=headers
        ),
    ]
    samples = compare(contenders, head + np.ones((1, 16), np.float32).tobytes(), rounds, seconds)
    report("One inference of a tiny model by Open Inference, 64 bytes", samples, "bare uvicorn", "request")


def tasks(folder: Path, rounds: int, seconds: int) -> None:
    """Submit and result as two requests: beside what one would write first, and the stores beside each other."""
    rival = [*UVICORN, "benchmarks.rivals:obvious"]
    paths = ("/process_np_array?model=tiny", "/result/%s?wait=10")
    contenders = [
        Contender(OBVIOUS, rival, "/process_np_array", "/result/%s", form=True),
        Contender(f"{OBVIOUS}, raw", rival, "/process_raw_array", "/result/%s"),
        Contender("ndserve", serve(folder, "sqlite"), *paths),
    ]
    samples = compare(contenders, np.ones((1, 16), np.float32), rounds, seconds)
    report("Submit and result of a tiny model, 64 bytes", samples, OBVIOUS, "task")
    for size, items in SIZES.items():
        contenders = [
            Contender("memory", serve(folder, "memory"), *paths),
            Contender("sqlite, normal", serve(folder, "sqlite"), *paths),
        ]
        samples = compare(contenders, np.ones((1, items), np.float32), rounds, seconds)
        report(f"The stores: submit and result, {size}", samples, "memory", "task")


def filled(folder: Path, rounds: int, seconds: int) -> None:
    """A store with 1,000 finished tasks, and one with 100,000."""
    array = np.ones((1, 16), np.float32)
    submits, statuses, results = [], [], []
    for number in (1_000, FINISHED):
        name, data = f"{number:,} tasks", f"data-{number}"
        ids = fill(folder / data, number)[:1000]
        for kind in ("status", "result"):
            lines = [f"/tasks/{task_id}" if kind == "status" else f"/result/{task_id}" for task_id in ids]
            (folder / f"{kind}-{number}").write_text("\n".join(lines) + "\n")
        server = serve(folder, "sqlite", data)
        submits.append(Contender(name, server, "/process_np_array?model=tiny", "/result/%s?wait=10"))
        statuses.append(Contender(name, server, "/", known=folder / f"status-{number}"))
        results.append(Contender(name, server, "/", known=folder / f"result-{number}"))
    for title, contenders in (("the status", statuses), ("the result", results)):
        samples = compare(contenders, array, rounds, seconds)
        report(f"Finished tasks in the store: {title} of the oldest 1,000", samples, "1,000 tasks", "request")
    samples = compare(submits, array, rounds, seconds)
    report("Finished tasks in the store: submit and result", samples, "1,000 tasks", "task")


if __name__ == "__main__":
    main()
