"""Processes that are loaded and unloaded, by themselves and with the models that they call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ndserve.engine.management import Change, Entry
from ndserve.engine.service import InferenceService
from ndserve.errors import InvalidInputError, ModelLoadError, UnavailableError
from ndserve.model_info import ModelInfo
from ndserve.processes.base import process
from tests.unit.engine.managed import Revisions, X, entry, factor, lay, let_go, managing
from tests.unit.engine.rig import run


@process("caller", batched=True, models=["m"])
def caller(xp: Any, models: Any, x: Any) -> Any:
    return models["m"](x)


@process("negate", batched=True)
def negate(xp: Any, x: Any) -> Any:
    return -x


async def called(service: InferenceService, name: str) -> float:
    """The first number that a process gives for X."""
    return float((await service.infer(name, X))["output"][0])


def test_a_process_is_unloaded_and_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        async with managing(tmp_path, negate) as (management, service):
            await management.unload("negate")
            with pytest.raises(UnavailableError):
                await service.submit("negate", X)
            await let_go(management)
            assert await entry(management, "negate") == Entry("negate", "1", "UNAVAILABLE", "unloaded")
            await management.load("negate")
            assert await called(service, "negate") == -1
            assert await entry(management, "negate") == Entry("negate", "1", "READY")

    run(main())


def test_a_process_takes_no_change(tmp_path: Path) -> None:
    async def main() -> None:
        async with managing(tmp_path, negate) as (management, service):
            with pytest.raises(InvalidInputError, match="takes no configuration and no files"):
                await management.load("negate", Change(options=lambda info: info.options))
            assert await called(service, "negate") == -1

    run(main())


def test_a_process_follows_its_model_and_goes_and_comes_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path, caller) as (management, service):
            assert await called(service, "caller") == 1
            lay(tmp_path)
            await management.load("m")
            assert await called(service, "caller") == 2
            await management.unload("m")
            assert (await entry(management, "caller")).reason == "it calls m, which is unloaded"
            with pytest.raises(UnavailableError):
                await management.load("caller")
            await management.load("m")
            assert await called(service, "caller") == service.target("m").revision + 1
            await let_go(management)
            assert service.cache.nbytes == service.target("m").models[0].nbytes

    run(main())


@pytest.mark.parametrize("dependents", [False, True])
def test_the_models_of_a_process_are_unloaded_with_it_only_if_that_is_asked(tmp_path: Path, dependents: bool) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path, caller) as (management, service):
            await factor(service)
            await management.unload("caller", dependents=dependents)
            await let_go(management)
            assert (await entry(management, "m")).state == ("UNAVAILABLE" if dependents else "READY")
            assert (service.cache.nbytes == 0) is dependents

    run(main())


def test_a_process_that_was_unloaded_stays_away_when_its_model_comes(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path, caller) as (management, service):
            await management.unload("caller", dependents=True)
            await management.load("m")
            with pytest.raises(UnavailableError):
                service.target("caller")
            await management.load("caller")
            assert await called(service, "caller") == 2

    run(main())


def broken(info: ModelInfo) -> None:
    raise ModelLoadError("torn")


def test_a_process_whose_model_does_not_load_is_not_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        shelf.on_open = broken
        lay(tmp_path)
        async with managing(tmp_path, caller, shelf=shelf) as (management, _):
            with pytest.raises(ModelLoadError, match="torn"):
                await management.load("caller")

    run(main())
