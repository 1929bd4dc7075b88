"""Open Inference's statistics after a load of which everything is known.

What each figure means: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from tests.e2e.client import npy
from tests.e2e.running import RunningServer, serving
from tests.e2e.tritonclient.asking import connected, given, lane_held, outcome, refused, wait_until_queued
from tests.onnx_models import double, minus_batch_mean, save

ONES = np.ones((1, 4), np.float32)
COMPUTE = ("compute_input", "compute_infer", "compute_output")
TIMEOUT_US = 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    models = tmp_path_factory.mktemp("models")
    save(double(), models, "double", options="max_batch_size = 8\n")
    save(double(), models, "versioned", version=1)
    save(double(), models, "versioned", version=2)
    save(minus_batch_mean(), models, "unbatched")
    with serving(models=models) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[InferenceServerClient]:
    with connected(server, concurrency=64) as opened:
        yield opened


def statistics(client: InferenceServerClient, name: str, version: str = "") -> dict[str, Any]:
    """The entry of a model, after a look at what must hold for each whose requests have all been answered."""
    (entry,) = client.get_inference_statistics(name, version)["model_stats"]
    check_sums(entry)
    check_shares(entry)
    found: dict[str, Any] = entry
    return found


def check_sums(entry: dict[str, Any]) -> None:
    """What holds at any time."""
    stats, batches = entry["inference_stats"], entry["batch_stats"]
    assert entry["execution_count"] == sum(batch["compute_infer"]["count"] for batch in batches)
    assert entry["inference_count"] == sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in batches)
    assert {stats[name]["count"] for name in ("success", "queue", *COMPUTE)} == {stats["success"]["count"]}
    assert stats["queue"]["ns"] + sum(stats[name]["ns"] for name in COMPUTE) <= stats["success"]["ns"]
    for batch in batches:
        assert len({batch[name]["count"] for name in COMPUTE}) == 1


def check_shares(entry: dict[str, Any]) -> None:
    """What holds where every request that has run was answered, and had at least one row."""
    stats, batches = entry["inference_stats"], entry["batch_stats"]
    assert entry["execution_count"] <= stats["success"]["count"] <= entry["inference_count"]
    for name in COMPUTE:
        # Each request of a batch counts the whole time of the batch, and there are no more requests than rows.
        alone = sum(batch[name]["ns"] for batch in batches)
        at_most = sum(batch["batch_size"] * batch[name]["ns"] for batch in batches)
        assert alone <= stats[name]["ns"] <= at_most


def counts(entry: dict[str, Any]) -> tuple[int, int, int, int]:
    """Rows, batches, successes and failures."""
    stats = entry["inference_stats"]
    return entry["inference_count"], entry["execution_count"], stats["success"]["count"], stats["fail"]["count"]


def gained(before: dict[str, Any], after: dict[str, Any]) -> tuple[int, ...]:
    return tuple(new - old for old, new in zip(counts(before), counts(after), strict=True))


def sizes(before: dict[str, Any], after: dict[str, Any]) -> dict[int, int]:
    """How many batches of each size came between two reads."""
    old = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in before["batch_stats"]}
    new = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in after["batch_stats"]}
    return {size: count - old.get(size, 0) for size, count in new.items() if count > old.get(size, 0)}


def batch_ns(before: dict[str, Any], after: dict[str, Any], size: int, name: str) -> int:
    """Nanoseconds that batches of a size took between two reads."""
    old, new = ({batch["batch_size"]: batch[name]["ns"] for batch in entry["batch_stats"]} for entry in (before, after))
    spent: int = new[size] - old.get(size, 0)
    return spent


def send_together(
    server: RunningServer, client: InferenceServerClient, pipe: Path, target: str, arrays: Sequence[Any]
) -> list[Any]:
    """Requests that wait together while the lane is held, and share batches then; gives the client's handles."""
    with lane_held(server, pipe):
        handles = [client.async_infer(target, [given("x", array)]) for array in arrays]
        wait_until_queued(server, len(arrays) + 1)
    return handles


def test_nothing_is_counted_before_the_first_request(client: InferenceServerClient) -> None:
    entry = statistics(client, "top_k")
    assert counts(entry) == (0, 0, 0, 0)
    assert (entry["last_inference"], entry["batch_stats"], entry["response_stats"]) == (0, [], {})


def test_requests_one_by_one_are_a_batch_each(client: InferenceServerClient) -> None:
    before = statistics(client, "double")
    for rows in (1, 3, 8, 20, 3):
        outcome(client, "double", np.ones((rows, 4), np.float32))
    after = statistics(client, "double")
    assert gained(before, after) == (35, 5, 5, 0)
    assert sizes(before, after) == {1: 1, 3: 2, 8: 1, 20: 1}


def test_the_time_of_batches_with_one_request_is_the_time_of_the_requests(client: InferenceServerClient) -> None:
    for rows in (1, 5, 5):
        outcome(client, "softmax", np.ones((rows, 4), np.float32))
    entry = statistics(client, "softmax")
    for name in COMPUTE:
        assert sum(batch[name]["ns"] for batch in entry["batch_stats"]) == entry["inference_stats"][name]["ns"] > 0


def test_requests_that_share_a_batch_are_told_apart_from_it(
    server: RunningServer, client: InferenceServerClient, tmp_path: Path
) -> None:
    """1 + 3 + 2 + 2 rows fill a batch of 8, and the rest makes another."""
    before = statistics(client, "double")
    arrays = [np.full((rows, 4), rows, np.float32) for rows in (1, 3, 2, 2, 4, 1)]
    handles = send_together(server, client, tmp_path / "pipe", "double", arrays)
    for array, handle in zip(arrays, handles, strict=True):
        assert np.array_equal(handle.get_result().as_numpy("y"), 2 * array)
    after = statistics(client, "double")
    assert gained(before, after) == (13, 2, 6, 0)
    assert sizes(before, after) == {8: 1, 5: 1}
    for name in COMPUTE:
        spent = after["inference_stats"][name]["ns"] - before["inference_stats"][name]["ns"]
        assert spent == 4 * batch_ns(before, after, 8, name) + 2 * batch_ns(before, after, 5, name)


def test_a_model_that_cannot_be_batched_runs_each_request_by_itself(
    server: RunningServer, client: InferenceServerClient, tmp_path: Path
) -> None:
    outcome(client, "unbatched", ONES)
    before = statistics(client, "unbatched")
    for handle in send_together(server, client, tmp_path / "pipe", "unbatched", [ONES] * 5):
        handle.get_result()
    after = statistics(client, "unbatched")
    assert gained(before, after) == (5, 5, 5, 0)
    assert sizes(before, after) == {1: 5}


def test_of_a_batch_in_which_some_fail_the_others_are_counted(
    server: RunningServer, client: InferenceServerClient, tmp_path: Path
) -> None:
    """`picky` raises on negative numbers: the batch is halved until those stand alone."""
    before = statistics(client, "picky")
    signs = [1, 1, -1, 1, 1, 1, -1, 1]
    handles = send_together(server, client, tmp_path / "pipe", "picky", [sign * ONES[0] for sign in signs])
    for sign, handle in zip(signs, handles, strict=True):
        if sign > 0:
            handle.get_result()
        else:
            with refused(500, "picky"):
                handle.get_result()
    after = statistics(client, "picky")
    rows, executions, successes, failures = gained(before, after)
    assert (rows, successes, failures) == (6, 6, 2)
    assert sum(sizes(before, after).values()) == executions < 6
    assert after["inference_stats"]["fail"]["ns"] > before["inference_stats"]["fail"]["ns"]


def test_requests_whose_timeout_is_over_have_failed_and_took_that_time(
    server: RunningServer, client: InferenceServerClient, tmp_path: Path
) -> None:
    before = statistics(client, "double")
    with lane_held(server, tmp_path / "pipe"):
        for _ in range(3):
            with refused(503, "timeout"):
                client.infer("double", [given("x", ONES)], timeout=TIMEOUT_US)
        wait_until_queued(server, 1)
    outcome(client, "double", ONES)
    after = statistics(client, "double")
    assert gained(before, after) == (1, 1, 1, 3)
    failed = after["inference_stats"]["fail"]["ns"] - before["inference_stats"]["fail"]["ns"]
    assert failed >= 3 * TIMEOUT_US * 1000


def test_a_request_whose_timeout_is_over_while_it_runs_has_failed_once(
    server: RunningServer, client: InferenceServerClient, tmp_path: Path
) -> None:
    """It stands at its pipe until it is refused. What came of its rows went nowhere, and so they do not count."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (before,) = client.get_inference_statistics("fifo")["model_stats"]
    handle = client.async_infer("fifo", [given("x", ONES)], timeout=500_000, parameters={"path": str(pipe)})
    wait_until_queued(server, 1)
    writer = os.open(pipe, os.O_WRONLY)  # waits until the process is there
    try:
        with refused(503, "timeout of 500000 microseconds"):
            handle.get_result()
    finally:
        os.close(writer)
    outcome(client, "identity", ONES)  # behind it on the lane
    (after,) = client.get_inference_statistics("fifo")["model_stats"]
    check_sums(after)
    assert gained(before, after) == (0, 0, 0, 1)


def test_refused_requests_are_not_counted(client: InferenceServerClient) -> None:
    before = statistics(client, "double")
    with refused(400, "'x'"):
        client.infer("double", [given("x", np.ones((1, 5), np.float32))])
    with refused(404, "'9'"):
        client.infer("double", [given("x", ONES)], model_version="9")
    assert statistics(client, "double") == before


@pytest.mark.parametrize("header", ["", "Accept-Encoding: identity\r\n"])
def test_a_request_whose_client_has_hung_up_is_neither_a_success_nor_a_failure(
    server: RunningServer, client: InferenceServerClient, tmp_path: Path, header: str
) -> None:
    """One that asks for an encoding is answered by other code than one that does not."""
    before = statistics(client, "double")
    body, length = InferenceServerClient.generate_request_body([given("x", ONES)])
    header += f"Host: test\r\nContent-Length: {len(body)}\r\nInference-Header-Content-Length: {length}\r\n"
    with lane_held(server, tmp_path / "pipe"):
        with socket.create_connection((server.host, server.port)) as gone:
            gone.sendall(f"POST /v2/models/double/infer HTTP/1.1\r\n{header}\r\n".encode() + body)
            wait_until_queued(server, 2)
        wait_until_queued(server, 1)
    outcome(client, "double", ONES)
    assert gained(before, statistics(client, "double")) == (1, 1, 1, 0)


def test_tasks_that_come_by_other_routes_are_counted_as_well(
    server: RunningServer, client: InferenceServerClient
) -> None:
    before = statistics(client, "double")
    connection = http.client.HTTPConnection(server.host, server.port, timeout=40)
    connection.request("POST", "/tasks/double?wait=30", npy(np.ones((3, 4), np.float32)))
    assert connection.getresponse().status == 200
    connection.close()
    assert gained(before, statistics(client, "double")) == (3, 1, 1, 0)


def test_each_version_has_its_own_statistics(client: InferenceServerClient) -> None:
    for version in ("1", "2", "2", ""):
        client.infer("versioned", [given("x", ONES)], model_version=version)
    assert counts(statistics(client, "versioned", "1")) == (1, 1, 1, 0)
    assert counts(statistics(client, "versioned", "2")) == (3, 3, 3, 0)
    both = client.get_inference_statistics("versioned")["model_stats"]
    assert [(entry["version"], entry["inference_count"]) for entry in both] == [("1", 1), ("2", 3)]


def test_without_a_name_the_statistics_of_everything_are_given(client: InferenceServerClient) -> None:
    entries = client.get_inference_statistics()["model_stats"]
    for entry in entries:
        check_sums(entry)
    named = {(entry["name"], entry["version"]) for entry in entries}
    assert named >= {("double", "1"), ("versioned", "1"), ("versioned", "2"), ("softmax", "1"), ("picky", "1")}
    assert len(named) == len(entries)


def test_the_last_inference_is_told_in_milliseconds(client: InferenceServerClient) -> None:
    since = round(time.time() * 1000)
    outcome(client, "identity", ONES)
    assert since <= statistics(client, "identity")["last_inference"] <= round(time.time() * 1000)


def test_a_model_that_is_loaded_tells_what_it_takes(client: InferenceServerClient) -> None:
    outcome(client, "double", ONES)
    (usage,) = statistics(client, "double")["memory_usage"]
    assert (usage["type"], usage["id"]) == ("CPU", 0)
    assert usage["byte_size"] > 0


def test_many_requests_of_many_sizes_add_up(server: RunningServer) -> None:
    """Eight clients at once, each with a sequence of its own; every fifth request fails."""
    each, workers = 25, 8
    rows = np.random.default_rng(0).integers(1, 12, size=(workers, each)).tolist()

    def load(worker: int) -> None:
        with connected(server) as own:
            for number, size in enumerate(rows[worker]):
                array = np.full((size, 4), worker, np.float32)
                if number % 5 == 4:
                    with refused(500, "picky"):
                        own.infer("picky", [given("x", -1 - array)])
                else:
                    assert np.array_equal(outcome(own, "double", array), 2 * array)

    names = ("double", "picky")
    with connected(server) as client, ThreadPoolExecutor(workers) as threads:
        before = {name: statistics(client, name) for name in names}
        list(threads.map(load, range(workers)))
        after = {name: statistics(client, name) for name in names}
    bad = workers * each // 5
    total = sum(size for sequence in rows for number, size in enumerate(sequence) if number % 5 < 4)
    executions = sum(sizes(before["double"], after["double"]).values())
    assert gained(before["double"], after["double"]) == (total, executions, workers * each - bad, 0)
    assert sum(size * count for size, count in sizes(before["double"], after["double"]).items()) == total
    assert gained(before["picky"], after["picky"]) == (0, 0, 0, bad)
