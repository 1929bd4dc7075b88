"""Which versions are to answer: by what lies there, what answers now, and what has loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from ndserve.engine.succession import Succession
from ndserve.engine.target import BatchDefaults, Target
from ndserve.engine.targets import Targets
from ndserve.errors import ModelLoadError, ModelMemoryFullError, NdserveError
from ndserve.model_info import ModelInfo, ModelOptions

TORN = ModelLoadError("torn")
FULL = ModelMemoryFullError("full")


def info(version: int, problem: str = "") -> ModelInfo:
    return ModelInfo("m", str(version), Path("m"), 1, (), (), ModelOptions(), problem)


def made(version: int) -> Target:
    target = Targets([info(version)], [], BatchDefaults(1, 0.0)).served("m", str(version))
    assert target is not None
    return target


ONE, TWO = made(1), made(2)


def after(*served: Target, current: Target | None = None, eager: bool = False) -> Succession:
    return Succession({target.version: target for target in served}, current, eager=eager, ready=None)


def tried(succession: Succession, version: int, target: Target | None, fault: NdserveError | None = None) -> None:
    succession.offer(target)
    succession.note(info(version, "" if target else str(fault)), target, fault)


def test_a_newer_version_must_load_and_takes_the_place_of_the_default() -> None:
    succession = after(ONE, current=ONE)
    assert succession.must_load(TWO)
    assert succession.instead_of(TWO) == [ONE]


def test_new_files_of_a_version_must_load_and_take_the_place_of_the_former() -> None:
    succession, again = after(ONE, TWO, current=TWO), made(1)
    assert succession.must_load(again)
    assert succession.instead_of(again) == [ONE]


def test_an_older_version_that_is_new_need_not_load() -> None:
    assert not after(TWO, current=TWO).must_load(ONE)


def test_what_answers_already_need_not_load_again() -> None:
    succession = after(ONE, TWO, current=ONE)
    assert not succession.must_load(ONE)
    assert not succession.must_load(TWO)


def test_a_newer_version_that_did_not_load_must_where_a_load_is_asked_for() -> None:
    assert after(ONE, TWO, current=ONE, eager=True).must_load(TWO)


def test_only_the_newest_that_loads_must_where_nothing_answers() -> None:
    succession = after(eager=True)
    assert succession.must_load(TWO)
    tried(succession, 2, TWO)
    assert not succession.must_load(ONE)


def test_what_has_loaded_answers_in_the_order_of_the_versions() -> None:
    succession = after()
    tried(succession, 2, TWO)
    tried(succession, 1, ONE)
    succession.check(whole=True)
    assert succession.answering == succession.accepted[::-1] == [ONE, TWO]


def test_new_files_that_do_not_load_leave_the_former_to_answer() -> None:
    succession, again = after(ONE, current=ONE), made(1)
    tried(succession, 1, again, TORN)
    assert (succession.answering, succession.refused) == ([ONE], [again])
    assert succession.failures == {"1": TORN}


def test_a_new_version_that_does_not_load_can_be_asked_for_the_reason() -> None:
    succession = after(ONE, current=ONE)
    tried(succession, 2, TWO, TORN)
    tried(succession, 1, ONE)
    assert (succession.answering, succession.failures) == ([ONE, TWO], {"2": TORN})


def test_a_new_version_for_which_there_was_no_room_cannot_be_asked() -> None:
    succession = after(ONE, current=ONE)
    tried(succession, 2, TWO, FULL)
    tried(succession, 1, ONE)
    assert (succession.answering, succession.refused) == ([ONE], [TWO])
    assert [each.problem for each in succession.broken] == ["full"]


def test_what_is_no_model_is_told_of_and_the_others_answer() -> None:
    succession = after(ONE, current=ONE)
    tried(succession, 2, None, TORN)
    tried(succession, 1, ONE)
    succession.check(whole=False)
    assert (succession.answering, [each.version for each in succession.broken]) == ([ONE], ["2"])


def test_what_is_all_or_nothing_is_refused_for_one_failure() -> None:
    succession = after()
    tried(succession, 2, TWO)
    tried(succession, 1, ONE, TORN)
    with pytest.raises(ModelLoadError, match="torn"):
        succession.check(whole=True)


def test_nothing_is_accepted_where_nothing_loads_that_was_asked_for() -> None:
    succession = after(eager=True)
    tried(succession, 2, None, TORN)
    with pytest.raises(ModelLoadError, match="version 2 cannot be served: torn"):
        succession.check(whole=False)
