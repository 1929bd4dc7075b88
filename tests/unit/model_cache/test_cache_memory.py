"""Real models on the CPU, loaded and evicted a thousand times: the process grows by the budget and no more."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from ndserve.devices.cpu import CpuDevice
from ndserve.model_cache.cache import ModelCache
from ndserve.model_cache.costs import Costs
from ndserve.model_cache.disk.repository import scan
from ndserve.model_cache.loader import Loader
from ndserve.model_cache.session import Session, check_runtime
from ndserve.model_info import ModelInfo
from tests import onnx_models

CYCLES = 1000
WIDTH = 700
"""A square matrix of so many float32 has 2 MB."""

MARGIN = 16 << 20
"""Bytes beyond the budget, which the allocator keeps in pieces for later. So far the process grew by less than it."""


def lay(root: Path, count: int) -> list[ModelInfo]:
    """Models of one dense layer."""
    chance = np.random.default_rng(0)
    for number in range(count):
        weight = chance.standard_normal((WIDTH, WIDTH)).astype(np.float32)
        axes: onnx_models.Axes = ["batch", WIDTH]
        proto = onnx_models.model(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            [onnx_models.tensor("x", axes)],
            [onnx_models.tensor("y", axes)],
            w=weight,
        )
        onnx_models.save(proto, root, f"m{number}")
    return scan(root)


@pytest.mark.timeout(120)
def test_a_thousand_loads_and_evictions_leave_the_process_within_the_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = CpuDevice()
    check_runtime(device)
    infos = lay(tmp_path, 6)
    budget = 3 * infos[0].nbytes + infos[0].largest
    opener = partial(Session.open, device=device, threads=1)
    loader = Loader(device, opener, Costs(None, "test", budget), max_batch_size=4)
    x = np.ones((1, WIDTH), np.float32)

    async def main() -> tuple[int, int, ModelCache]:
        cache = ModelCache(loader, budget, time.monotonic)
        before, highest = loader._used(), 0
        try:
            for number in itertools.count():
                info = infos[number % len(infos)]  # more than fit, in turns
                async with cache.loaded([info]):
                    with cache.lease([info]) as sessions:
                        sessions[info.name].run({"x": x})
                assert cache.nbytes <= budget
                if number % 50 == 49:
                    highest = max(highest, loader._used())
                if cache.evictions >= CYCLES:
                    break
        finally:
            await cache.close()
        return before, highest, cache

    before, highest, cache = asyncio.run(main())
    with capsys.disabled():
        sys.stdout.write(
            f"\n{cache.evictions} evictions: the process grew by {(highest - before) / 2**20:.1f} MiB at most;"
            f" the budget is {budget / 2**20:.1f} MiB\n"
        )
    assert highest - before <= budget + MARGIN
