"""A load: checked, opened, warmed up, tried and measured, on the loader's thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ndserve.devices.base import Memory
from ndserve.devices.cpu import CpuDevice
from ndserve.errors import ModelLoadError
from ndserve.model_cache.costs import OVERHEAD, Cost, Costs
from ndserve.model_cache.disk.digests import AllowedDigests
from ndserve.model_cache.disk.repository import scan
from ndserve.model_cache.loader import Loader
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo
from ndserve.types import Array
from tests import onnx_models

LIMIT = 1 << 30


class Measured(CpuDevice):
    """The CPU with as much memory in use as the test says, and a note of who entered it."""

    def __init__(self) -> None:
        self.used = 1000
        self.entered = 0

    def memory(self) -> Memory:
        return Memory(LIMIT, LIMIT, self.used)

    def __enter__(self) -> Measured:
        self.entered += 1
        return self


class Opened:
    """Opens sessions that take memory and note their runs."""

    def __init__(self, device: Measured, takes: int = 500) -> None:
        self.takes = takes
        self.device = device
        self.shapes: list[tuple[int, ...]] = []
        self.digests: list[str] = []

    def __call__(self, info: ModelInfo, *, digest: str) -> Session:
        self.digests.append(digest)
        self.device.used += self.takes
        self.info = info
        return cast(Session, self)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert self.device.entered, "the thread has not entered the device"
        (array,) = inputs.values()
        self.shapes.append(array.shape)
        return {"y": array * np.float32(2)}


@pytest.fixture
def device() -> Measured:
    return Measured()


def model(root: Path, options: str = "", proto: Any = None) -> ModelInfo:
    onnx_models.save(proto or onnx_models.double(), root, "m", options=options)
    return scan(root)[0]


def loader(device: Measured, opened: Opened | None = None, **options: Any) -> Loader:
    return Loader(device, opened or Opened(device), Costs(None, "test", LIMIT), **options)


def load(loader: Loader, info: ModelInfo, *, judge: bool = True) -> Any:
    return loader.load(info, loader.cost(info), judge=judge)


def test_a_model_is_expected_to_take_its_file_and_then_what_it_took(tmp_path: Path, device: Measured) -> None:
    info, it = model(tmp_path), loader(device)
    before = it.cost(info)
    loaded = load(it, info)
    assert before == Cost(info.nbytes + OVERHEAD, info.nbytes + OVERHEAD + info.largest, measured=False)
    assert loaded.reading.alone == 500
    assert it.cost(info) == Cost(500, 500 + info.largest, measured=True)


def test_memory_that_others_gave_back_does_not_make_a_model_look_like_nothing(tmp_path: Path, device: Measured) -> None:
    info, it = model(tmp_path), loader(device, Opened(device, takes=-10_000))
    assert load(it, info).reading.alone == info.nbytes


def test_the_cost_is_known_at_once_when_the_files_have_been_read(tmp_path: Path, device: Measured) -> None:
    info, it = model(tmp_path), loader(device)
    assert (it.known_cost(info), it.known_digest(info)) == (None, None)
    cost = it.cost(info)
    assert it.known_cost(info) == cost
    assert it.known_digest(info) == it.digest(info).whole


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path, device: Measured) -> None:
    it, before = loader(device), model(tmp_path)
    first = it.digest(before).whole
    before.path.unlink()
    before.path.write_bytes(onnx_models.double(("n", 5)).SerializeToString())
    assert it.digest(scan(tmp_path)[0]).whole != first


def test_a_file_that_changed_since_it_was_looked_at_is_not_loaded(tmp_path: Path, device: Measured) -> None:
    info = model(tmp_path)
    info.path.write_bytes(onnx_models.double(("n", 5)).SerializeToString())
    with pytest.raises(ModelLoadError, match="has changed"):
        loader(device).cost(info)


def test_a_model_is_run_at_one_row_and_at_the_most_before_anybody_else_does(tmp_path: Path, device: Measured) -> None:
    opened = Opened(device)
    load(loader(device, opened, max_batch_size=16), model(tmp_path), judge=False)
    assert opened.shapes == [(1, 4), (16, 4)]


def test_a_models_own_word_on_its_warm_up_counts(tmp_path: Path, device: Measured) -> None:
    opened = Opened(device)
    load(loader(device, opened, max_batch_size=16), model(tmp_path, "warmup = [[3, 4]]"), judge=False)
    assert opened.shapes == [(3, 4)]


@pytest.mark.parametrize("judge", [True, False])
def test_batch_safety_is_tried_where_that_is_asked(tmp_path: Path, device: Measured, judge: bool) -> None:
    verdict = load(loader(device), model(tmp_path), judge=judge).verdict
    assert (verdict.mode if verdict else None) == ("on" if judge else None)


def test_a_model_that_is_not_allowed_is_never_opened(tmp_path: Path, device: Measured) -> None:
    opened = Opened(device)
    it = loader(device, opened, allowed=AllowedDigests(frozenset({"0" * 64})))
    with pytest.raises(ModelLoadError, match="--allow-digests"):
        load(it, model(tmp_path))
    assert opened.digests == []


def test_external_data_is_looked_at_again_before_it_is_opened(tmp_path: Path, device: Measured) -> None:
    opened, info = Opened(device), model(tmp_path)
    (tmp_path / "secret").touch()
    link = info.path.parent / "w.bin"
    link.symlink_to(tmp_path / "secret")
    it = loader(device, opened)
    with pytest.raises(ModelLoadError, match="has changed since it was read"):
        it.load(replace(info, external=(link,)), Cost(1, 1, measured=False), judge=False)
    assert opened.digests == []


def test_a_load_that_fails_does_not_disturb_the_next_measurement(tmp_path: Path, device: Measured) -> None:
    opened = Opened(device)
    it, info = loader(device, opened), model(tmp_path, "warmup = [[3, 4]]")
    setattr(opened, "run", None)  # noqa: B010 - mypy takes no assignment to a method
    with pytest.raises(ModelLoadError, match="warmup"):
        load(it, info)
    del opened.run
    assert load(it, info).reading.alone == 500


def test_a_real_model_is_loaded_and_takes_memory(tmp_path: Path) -> None:
    device = CpuDevice()
    it = Loader(device, partial(Session.open, device=device, threads=1), Costs(None, "test", LIMIT), max_batch_size=4)
    info = model(tmp_path)
    loaded = it.load(info, it.cost(info), judge=True)
    session, verdict = loaded.take(), loaded.verdict
    assert session is not None
    assert (session.run({"x": np.ones((1, 4), np.float32)})["y"] == 2).all()
    assert verdict is not None
    assert (loaded.take(), verdict.mode) == (None, "on")
