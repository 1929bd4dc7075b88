"""Targets that change while tasks go on: replaced, withdrawn, restored, forgotten."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ndserve.engine.admission import admit
from ndserve.engine.target import BatchDefaults, Target
from ndserve.engine.targets import Targets
from ndserve.errors import ModelLoadError, UnavailableError, UnknownTargetError
from ndserve.model_info import ModelInfo, ModelOptions
from ndserve.processes.base import process
from ndserve.types import BatchKey
from tests.unit.engine.rig import model_info


@process("halve", batched=True)
def halve(xp: Any, x: Any) -> Any:
    return x / 2


@process("caller", batched=True, models=["first", "second"])
def caller(xp: Any, models: Any, x: Any) -> Any:
    return models["second"](models["first"](x))


def targets(*names: str) -> Targets:
    """The processes, and models of these names."""
    usable = [halve, caller] if {"first", "second"} <= set(names) else [halve]
    return Targets([model_info(name) for name in names], usable, BatchDefaults())


def key_of(target: Target) -> BatchKey:
    return BatchKey(target.name, target.version, (), (), target.revision)


def called(known: Targets) -> list[tuple[str, str, int]]:
    """The versions and revisions of the models that `caller` calls now."""
    return [info.key for info in known.find("caller").models]


def put(known: Targets, *infos: ModelInfo) -> list[Target]:
    """Replace a model by these versions, with other files than before; gives what is retired."""
    prepared = [known.prepare(changed(info)) for info in infos]
    return known.replace(
        infos[0].name, [target for target in prepared if target is not None], [info for info in infos if info.problem]
    )


def changed(info: ModelInfo) -> ModelInfo:
    """The same with files that no other has."""
    return replace(info, stamp=(next(_stamps),))


_stamps = itertools.count(1)


def prepared(known: Targets, info: ModelInfo) -> Target:
    target = known.prepare(info)
    assert target is not None
    return target


def test_nobody_finds_what_is_only_prepared() -> None:
    known = targets("m")
    target = prepared(known, changed(model_info("m")))
    assert known.find("m") is not target
    assert known.admitted(key_of(target)) is None


def test_a_broken_version_is_not_prepared() -> None:
    assert targets().prepare(model_info("m", "2", problem="torn")) is None


def test_what_is_served_and_has_not_changed_is_prepared_as_it_is() -> None:
    known = targets("m")
    put(known, model_info("m"))
    served = known.find("m")
    assert known.prepare(replace(served.models[0], revision=0)) is served


@pytest.mark.parametrize("other", [{"stamp": (1, 2)}, {"options": ModelOptions(pinned=True)}, {"change": "x"}])
def test_what_differs_in_anything_is_prepared_anew(other: Any) -> None:
    known = targets("m")
    assert known.prepare(replace(model_info("m"), **other)) is not known.find("m")


def test_every_preparation_has_a_revision_of_its_own() -> None:
    known = targets("m")
    found = [prepared(known, changed(model_info("m"))) for _ in range(3)]
    assert len({known.find("m").revision, *(target.revision for target in found)}) == 4
    assert all(target.models[0].revision == target.revision for target in found)


def test_what_stays_as_it_is_is_not_retired() -> None:
    known = targets("m")
    kept = known.find("m")
    added = prepared(known, model_info("m", "2"))
    assert known.replace("m", [kept, added]) == []
    assert (known.find("m", "1"), known.find("m")) == (kept, added)


def test_what_replaces_a_model_answers_to_its_name() -> None:
    known = targets("m")
    old = known.find("m")
    new = prepared(known, changed(model_info("m")))
    assert known.replace("m", [new]) == [old]
    assert known.find("m") is new
    assert known.find("m", "1") is new
    assert list(known) == [known.find("halve"), new]


def test_the_versions_that_are_there_now_replace_all_that_were() -> None:
    known = Targets([model_info("m", "1"), model_info("m", "2")], [], BatchDefaults())
    put(known, model_info("m", "2"), model_info("m", "3"))
    assert [target.version for target in known.versions("m")] == ["2", "3"]
    with pytest.raises(UnknownTargetError, match="no version '1'; it has 2, 3"):
        known.find("m", "1")


def test_a_retired_target_is_still_that_of_the_tasks_that_it_has() -> None:
    known = targets("m")
    old = known.find("m")
    put(known, model_info("m"))
    assert known.of(key_of(old)) is old
    assert known.admitted(key_of(old)) is old


def test_a_forgotten_target_is_nobodys() -> None:
    known = targets("m")
    (old,) = put(known, model_info("m"))
    known.forget(old)
    assert known.admitted(key_of(old)) is None
    with pytest.raises(KeyError):
        known.of(key_of(old))
    known.forget(old)


def test_a_forgotten_target_takes_no_tasks_although_it_knows_their_form() -> None:
    known = targets("m")
    old, inputs = known.find("m"), {"x": np.zeros((1, 4), np.float32)}
    put(known, model_info("m"))
    admit(old, inputs, {})
    known.forget(old)
    with pytest.raises(UnavailableError, match="'m' was replaced or unloaded while the request came"):
        admit(old, inputs, {})


def test_a_model_is_in_use_until_its_last_target_is_forgotten() -> None:
    known = targets("first", "second")
    old = known.find("first")
    retired = put(known, model_info("first"))
    assert {target.name for target in retired} == {"first", "caller"}
    for target in retired:
        assert known.uses(old.models[0])
        known.forget(target)
    assert not known.uses(old.models[0])
    assert known.uses(known.find("first").models[0])


def test_broken_versions_come_and_go_with_their_model() -> None:
    known = Targets([model_info("m", "2", problem="torn"), model_info("n", problem="bent")], [], BatchDefaults())
    put(known, model_info("m", "2"), model_info("m", "3", problem="burnt"))
    assert {key: info.problem for key, info in known.broken.items()} == {("m", "3"): "burnt", ("n", "1"): "bent"}
    with pytest.raises(ModelLoadError, match="burnt"):
        known.find("m", "3")


def test_a_withdrawn_model_cannot_be_asked_and_is_not_listed() -> None:
    known = targets("m")
    old = known.find("m")
    assert known.withdraw("m") == [old]
    with pytest.raises(UnavailableError, match="'m' cannot be asked now: unloaded"):
        known.find("m")
    with pytest.raises(UnavailableError):
        known.find("m", "1")
    assert [target.name for target in known] == ["halve"]
    assert known.versions("m") == []
    assert known.admitted(key_of(old)) is old


def test_a_model_that_comes_back_is_not_withdrawn_any_more() -> None:
    known = targets("m")
    known.withdraw("m")
    put(known, model_info("m"))
    assert known.find("m").revision > 0
    assert known.withdrawn == {}


def test_a_process_follows_its_model_to_the_newest_version() -> None:
    known = targets("first", "second")
    old = known.find("caller")
    retired = put(known, model_info("first", "1"), model_info("first", "7"))
    revision = known.find("first").revision
    assert called(known) == [("first", "7", revision), ("second", "1", 0)]
    assert old in retired
    assert known.find("caller") is not old
    assert known.of(key_of(old)) is old


def test_a_process_whose_models_stay_stays() -> None:
    known = targets("first", "second", "m")
    old = known.find("caller")
    assert len(put(known, model_info("m"))) == 1
    assert known.find("caller") is old


def test_a_process_goes_with_its_model_and_says_why() -> None:
    known = targets("first", "second")
    old = known.find("caller")
    assert {target.name for target in known.withdraw("second")} == {"second", "caller"}
    with pytest.raises(UnavailableError, match="'caller' cannot be asked now: it calls second, which is unloaded"):
        known.find("caller")
    assert known.of(key_of(old)) is old


def test_a_process_comes_back_when_the_last_of_its_models_does() -> None:
    known = targets("first", "second")
    known.withdraw("first")
    known.withdraw("second")
    with pytest.raises(UnavailableError, match="it calls first, second, which is unloaded"):
        known.find("caller")
    put(known, model_info("first"))
    with pytest.raises(UnavailableError, match="it calls second, which"):
        known.find("caller")
    put(known, model_info("second"))
    assert [name for name, _, _ in called(known)] == ["first", "second"]
    assert known.withdrawn == {}


def test_a_process_that_was_unloaded_itself_does_not_come_back_with_its_model() -> None:
    known = targets("first", "second")
    known.withdraw("caller")
    known.withdraw("first")
    put(known, model_info("first"))
    with pytest.raises(UnavailableError, match="unloaded"):
        known.find("caller")


def test_a_withdrawn_process_is_restored_with_the_models_of_now() -> None:
    known = targets("first", "second")
    old = known.find("caller")
    known.withdraw("caller")
    put(known, model_info("first", "3"))
    known.restore("caller")
    assert called(known)[0][:2] == ("first", "3")
    assert known.find("caller").revision > old.revision


def test_a_process_cannot_be_restored_without_its_models() -> None:
    known = targets("first", "second")
    known.withdraw("caller")
    known.withdraw("first")
    with pytest.raises(UnavailableError, match="'caller' cannot be loaded: it calls first, which is unloaded"):
        known.restore("caller")
    put(known, model_info("first"))
    with pytest.raises(UnavailableError, match="'caller' cannot be asked now: unloaded"):
        known.find("caller")


def test_a_process_that_calls_no_model_is_withdrawn_and_restored() -> None:
    known = targets()
    old = known.find("halve")
    assert known.withdraw("halve") == [old]
    known.restore("halve")
    assert known.find("halve").key != old.key
    assert known.find("halve").limit == old.limit
