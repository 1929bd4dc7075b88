"""Reports of progress: who hears them, and what is no report."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from ndserve.progress import MAX_MESSAGE, Listener, listening, report_progress

Report = tuple[float, str]


def into(reports: list[Report]) -> Listener:
    return lambda fraction, message: reports.append((fraction, message))


def heard(fraction: Any, message: str = "") -> Report:
    reports: list[Report] = []
    with listening(into(reports)):
        report_progress(fraction, message)
    (report,) = reports
    return report


def test_a_report_reaches_the_listener() -> None:
    assert heard(0.25, "denoising") == (0.25, "denoising")


def test_a_report_needs_no_message() -> None:
    assert heard(0.25) == (0.25, "")


def test_a_report_that_nobody_listens_to_does_nothing() -> None:
    report_progress(0.5, "alone")


def test_every_report_is_heard_in_the_order_in_which_they_were_made() -> None:
    reports: list[Report] = []
    with listening(into(reports)):
        for step in range(3):
            report_progress(step / 2, f"step {step}")
    assert reports == [(0.0, "step 0"), (0.5, "step 1"), (1.0, "step 2")]


def test_after_the_listening_nothing_is_heard() -> None:
    reports: list[Report] = []
    with listening(into(reports)):
        pass
    report_progress(0.5)
    assert reports == []


def test_the_listening_ends_with_an_exception_too() -> None:
    reports: list[Report] = []
    with pytest.raises(KeyError), listening(into(reports)):
        raise KeyError
    report_progress(0.5)
    assert reports == []


def test_only_the_inner_of_two_listeners_hears_a_report() -> None:
    outer: list[Report] = []
    inner: list[Report] = []
    with listening(into(outer)):
        with listening(into(inner)):
            report_progress(0.5, "inner")
        report_progress(1.0, "outer")
    assert (outer, inner) == ([(1.0, "outer")], [(0.5, "inner")])


def test_a_listener_does_not_hear_another_thread() -> None:
    reports: list[Report] = []

    def elsewhere() -> None:
        with listening(lambda fraction, message: None):
            report_progress(0.5)

    with listening(into(reports)):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert reports == []


@pytest.mark.parametrize(
    "fraction", [np.float32(0.5), np.float64(0.5), np.array(0.5), np.array(0.5, np.float16)], ids=repr
)
def test_a_numpy_number_is_heard_as_a_plain_float(fraction: Any) -> None:
    done, _ = heard(fraction)
    assert (done, type(done)) == (0.5, float)


@pytest.mark.parametrize("bound", [0, 1, 0.0, 1.0, -0.0, np.int64(1)], ids=repr)
def test_the_bounds_themselves_are_fractions(bound: Any) -> None:
    assert heard(bound) == (float(bound), "")


@pytest.mark.parametrize("fraction", [-0.001, 1.001, 50, float("inf"), float("-inf"), float("nan")])
def test_a_number_beyond_the_bounds_is_refused_by_name(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 1, not {float(fraction)}$"):
        report_progress(fraction)


@pytest.mark.parametrize("fraction", ["0.5", b"0.5", None, 0.5j, [0.5]], ids=repr)
def test_what_is_no_real_number_is_refused(fraction: Any) -> None:
    with pytest.raises(TypeError, match=f"must be a real number, not {type(fraction).__name__}$"):
        report_progress(fraction)


def test_an_array_with_several_numbers_is_refused() -> None:
    with pytest.raises(TypeError):
        report_progress(np.array([0.25, 0.5]))


def test_a_message_that_is_no_string_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a string, not int"):
        report_progress(0.5, 7)  # type: ignore[arg-type]


def test_a_refused_report_is_not_heard() -> None:
    reports: list[Report] = []
    with listening(into(reports)), pytest.raises(ValueError, match="from 0 to 1"):
        report_progress(2.0)
    assert reports == []


def test_a_long_message_is_cut() -> None:
    _, message = heard(0.5, "ä" * (MAX_MESSAGE + 1))
    assert message == "ä" * MAX_MESSAGE


def test_a_message_that_just_fits_is_whole() -> None:
    _, message = heard(0.5, "x" * MAX_MESSAGE)
    assert len(message) == MAX_MESSAGE
