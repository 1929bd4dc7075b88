"""What tasks can be sent to: which version answers, what is suggested, and what stops the server from starting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ndserve.engine.target import BatchDefaults, model_target, process_target
from ndserve.engine.targets import Targets
from ndserve.errors import ModelLoadError, StartupError, UnknownTargetError
from ndserve.model_cache.disk import repository
from ndserve.model_info import ModelInfo, ModelOptions
from ndserve.processes.base import Process, process
from tests import onnx_models
from tests.unit.engine.rig import batch_key, model_info


@process("halve", batched=True)
def halve(xp: Any, x: Any) -> Any:
    return x / 2


@process("alone", batched=False)
def alone(xp: Any, x: Any) -> Any:
    return x


@process("caller", batched=True, models=["first", "second"])
def caller(xp: Any, models: Any, x: Any) -> Any:
    return models["second"](models["first"](x))


def targets(*processes: Process, models: tuple[ModelInfo, ...] = ()) -> Targets:
    return Targets(models, processes, BatchDefaults(max_batch_size=16, max_wait=0.25))


def test_the_newest_version_is_the_highest_number(tmp_path: Path) -> None:
    for version in (10, 9, 2):
        onnx_models.save(onnx_models.double(), tmp_path, "m", version)
    assert targets(models=tuple(repository.scan(tmp_path))).find("m").version == "10"


def test_every_version_answers_when_it_is_asked_for() -> None:
    found = targets(models=(model_info(version="9"), model_info(version="10"))).find("m", "9")
    assert (found.version, found.models[0].version) == ("9", "9")


def test_a_version_that_is_not_there_is_refused_with_those_that_are() -> None:
    known = targets(models=(model_info(version="9"), model_info(version="10")))
    with pytest.raises(UnknownTargetError, match="no version '3'; it has 9, 10"):
        known.find("m", "3")


def test_a_process_has_no_versions() -> None:
    with pytest.raises(UnknownTargetError, match="no version '1'; it has none"):
        targets(halve).find("halve", "1")


def test_an_unknown_name_suggests_those_that_look_alike() -> None:
    with pytest.raises(UnknownTargetError, match="did you mean digits-2 or digits"):
        targets(halve, models=(model_info("digits"), model_info("digits-2"))).find("digit-2")


def test_a_name_like_no_other_is_told_where_the_list_is() -> None:
    with pytest.raises(UnknownTargetError, match="GET /models"):
        targets(halve).find("zzzzzz")


def test_a_model_and_a_process_of_one_name_stop_the_start_and_both_files_are_named() -> None:
    info = model_info("halve")
    with pytest.raises(StartupError) as caught:
        targets(halve, models=(info,))
    assert str(info.path) in caught.value.message
    assert __file__ in caught.value.message


def test_two_processes_of_one_name_stop_the_start() -> None:
    @process("halve", batched=False)
    def again(xp: Any, x: Any) -> Any:
        return x

    with pytest.raises(StartupError, match="'halve' is taken twice"):
        targets(halve, again)


def test_a_process_that_calls_a_missing_model_stops_the_start_and_is_named() -> None:
    with pytest.raises(StartupError) as caught:
        targets(caller, models=(model_info("first"),))
    assert "'caller'" in caught.value.message
    assert __file__ in caught.value.message
    assert "the model(s) second, which are not there; known models: first" in caught.value.message


def test_a_process_calls_the_newest_version_of_its_models() -> None:
    models = (model_info("first", "9"), model_info("first", "10"), model_info("second"))
    found = targets(caller, models=models).find("caller")
    assert [(info.name, info.version) for info in found.models] == [("first", "10"), ("second", "1")]


def test_a_broken_model_answers_with_its_problem() -> None:
    known = targets(models=(model_info("torn", problem="the file ends too early"),))
    with pytest.raises(ModelLoadError, match="the file ends too early"):
        known.find("torn")
    with pytest.raises(ModelLoadError, match="the file ends too early"):
        known.find("torn", "1")


def test_a_broken_version_leaves_the_older_one_in_service() -> None:
    known = targets(models=(model_info(version="1"), model_info(version="2", problem="torn")))
    assert known.find("m").version == "1"
    with pytest.raises(ModelLoadError, match="version 2 cannot be served: torn"):
        known.find("m", "2")


def test_broken_models_are_not_among_the_targets() -> None:
    known = targets(halve, models=(model_info(), model_info("torn", problem="torn")))
    assert {target.name for target in known} == {"m", "halve"}


def test_the_target_of_a_key_is_the_version_that_the_key_names() -> None:
    known = targets(models=(model_info(version="1"), model_info(version="2")))
    assert known.of(batch_key("m", "1")).version == "1"


def test_a_model_without_options_has_the_servers_defaults() -> None:
    target = model_target(model_info(), BatchDefaults(16, 0.25))
    assert (target.max_batch_size, target.max_wait) == (16, 0.25)


def test_a_models_own_options_count_before_the_defaults() -> None:
    options = ModelOptions(max_batch_size=4, max_wait_ms=0)
    target = model_target(model_info(options=options), BatchDefaults(16, 0.25))
    assert (target.max_batch_size, target.max_wait) == (4, 0.0)
    options = ModelOptions(max_wait_ms=20)
    assert model_target(model_info(options=options), BatchDefaults()).max_wait == 0.02


def test_a_model_runs_alone_until_it_has_been_probed() -> None:
    target = model_target(model_info(), BatchDefaults(16))
    assert (target.batching.mode, target.limit) == ("untested", 1)


def test_a_model_whose_options_say_so_is_never_batched() -> None:
    target = model_target(model_info(options=ModelOptions(batching="off")), BatchDefaults(16))
    assert (target.batching.mode, target.limit) == ("off", 1)


def test_a_process_is_batched_as_it_declares() -> None:
    assert process_target(halve, {}, BatchDefaults(16)).limit == 16
    assert process_target(alone, {}, BatchDefaults(16)).limit == 1
