"""Many items at once: the order, how far ahead they are drawn, failures, and an early stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import httpx2 as httpx
import numpy as np
import pytest

from ndserve.client import TaskFailedError
from tests.unit.client.fakes import Script, accepted, npy, problem, refused, sent_array

HANG = 30


def doubled(request: httpx.Request) -> httpx.Response:
    return npy(sent_array(request) * 2)


def failing_on_three(request: httpx.Request) -> httpx.Response:
    return problem(500, "execution_failed", "three") if sent_array(request) == 3 else doubled(request)


def values(results: Iterator[object]) -> list[object]:
    return [result.item() if isinstance(result, np.ndarray) else type(result) for result in results]


def map_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ndserve-map")]


def test_results_come_in_the_order_of_the_items() -> None:
    first_may_end = threading.Event()

    def reply(request: httpx.Request) -> httpx.Response:
        item = int(sent_array(request))
        if item == 0:
            assert first_may_end.wait(HANG)
        if item == 3:
            first_may_end.set()
        return doubled(request)

    with Script(reply).client() as client:
        assert values(client.map("double", range(20), concurrency=4)) == [2 * item for item in range(20)]
    assert map_threads() == []


def test_an_item_takes_one_request() -> None:
    script = Script(doubled)
    with script.client() as client:
        list(client.map("double", range(10), priority=2))
    assert set(script.paths) == {"/tasks/double?priority=2&wait=30"}
    assert len(set(script.keys)) == len(script.requests) == 10


def test_an_item_that_takes_longer_is_waited_for() -> None:
    script = Script(accepted("t9"), npy(4))
    with script.client() as client:
        assert values(client.map("double", [2])) == [4]
    assert script.paths[1] == "/result/t9?wait=30"


def test_an_item_is_sent_again_with_its_key() -> None:
    script = Script(refused(), problem(429, "queue_full"), doubled)
    with script.client() as client:
        assert values(client.map("double", [2])) == [4]
    assert len(set(script.keys)) == 1


def test_no_item_is_drawn_far_ahead() -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        while drawn < 100:
            drawn += 1
            yield drawn

    with Script(doubled).client() as client, closing(client.map("double", items(), concurrency=3)) as results:
        for taken, _ in enumerate(results, 1):
            assert drawn <= taken + 6
            if taken == 50:
                break
    assert drawn <= 56


def test_no_item_is_drawn_before_the_first_result_is_wanted() -> None:
    with Script(doubled).client() as client:
        items = iter(range(3))
        client.map("double", items)
        assert next(items) == 0


def test_the_first_failure_is_raised_in_its_place() -> None:
    with Script(failing_on_three).client() as client:
        results = client.map("double", range(10), concurrency=4)
        assert values(next(results) for _ in range(3)) == [0, 2, 4]
        with pytest.raises(TaskFailedError, match="three") as raised:
            next(results)
    assert raised.value.__notes__ == ["item 3 of the map, counted from 0"]
    assert map_threads() == []


def test_failures_may_be_given_in_their_places() -> None:
    with Script(failing_on_three).client() as client:
        results = client.map("double", range(5), return_errors=True)
        assert values(results) == [0, 2, 4, TaskFailedError, 8]


def test_an_item_that_cannot_be_sent_is_a_failure_like_others() -> None:
    with Script(doubled).client() as client:
        assert values(client.map("double", [1, np.array([None])], return_errors=True)) == [2, TypeError]


def test_a_caller_who_stops_early_leaves_no_threads() -> None:
    with Script(doubled).client() as client:
        results = client.map("double", iter(int, 1), concurrency=4)
        next(results)
        results.close()
        assert map_threads() == []


def test_an_error_of_the_items_leaves_no_threads() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError

    with Script(doubled).client() as client:
        with pytest.raises(LookupError):
            list(client.map("double", items()))
        assert map_threads() == []


def test_a_map_needs_a_thread() -> None:
    with Script(doubled).client() as client, pytest.raises(ValueError, match="at least 1"):
        client.map("double", [], concurrency=0)


def test_one_key_for_many_items_is_refused() -> None:
    with Script(doubled).client() as client, pytest.raises(TypeError, match="idempotency key"):
        client.map("double", [1, 2], idempotency_key="k")


def test_nothing_is_shown_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Script(doubled).client() as client:
        list(client.map("double", [1, 2]))
    assert capsys.readouterr() == ("", "")


def test_the_bar_shows_how_many_and_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Script(doubled).client() as client:
        list(client.map("double", [1, 2], progress=True))
    out, err = capsys.readouterr()
    assert out == ""
    assert "double" in err
    assert "2/2" in err
