"""Models on a real GPU that say how they want to run, and what they leave behind there.

Everything of CuPy is imported inside the tests: these files are collected on machines that have none.
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from ndserve.devices.base import Device
from ndserve.errors import ModelLoadError
from ndserve.model_cache.cache import ModelCache
from ndserve.model_cache.costs import Costs
from ndserve.model_cache.disk import repository
from ndserve.model_cache.loader import Loader
from ndserve.model_cache.on_host import host_run
from ndserve.model_cache.optimized import OptimizedModels
from ndserve.model_cache.session import Session
from ndserve.model_cache.warm_up import warm_up
from ndserve.model_info import ModelInfo, ModelOptions
from tests import onnx_models
from tests.gpu.digits import digits, images, on_the_cpu, run

pytestmark = pytest.mark.gpu

MIB = 1 << 20
WEIGHT = 256 * MIB
"""Bytes of the weights of `large`."""


def asking(**options: Any) -> ModelInfo:
    """The digits model with such a model.toml."""
    return replace(digits(), options=ModelOptions(**options))


def large(folder: Path) -> ModelInfo:
    side = 8192
    weight = np.full((side, side), 1 / side, np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x, y = (onnx_models.tensor(name, ["n", side]) for name in "xy")
    onnx_models.save(onnx_models.model([node], [x], [y], w=weight), folder, "large")
    (info,) = repository.scan(folder)
    return info


def opened(info: ModelInfo, device: Device, *more: Any) -> Session:
    return Session.open(info, device, 1, *more)


# Providers


def test_a_model_of_the_cpu_runs_there_and_gives_arrays_of_the_gpu(gpu: Device) -> None:
    import cupy

    session = opened(asking(providers=("cpu",)), gpu)
    output = session.run({"image": gpu.to_device([images()])})["probabilities"]
    assert session._session.get_providers() == ["CPUExecutionProvider"]
    assert isinstance(output, cupy.ndarray)
    np.testing.assert_allclose(gpu.to_host(output), on_the_cpu(), atol=1e-6)


def test_a_model_of_the_cpu_takes_what_a_kernel_has_just_computed(gpu: Device) -> None:
    session = opened(asking(providers=("cpu",)), gpu)
    halves = gpu.to_device([images() / 2])
    for _ in range(20):
        output = session.run({"image": halves + halves})["probabilities"]
        np.testing.assert_allclose(gpu.to_host(output), on_the_cpu(), atol=1e-6)


def test_the_options_of_a_model_reach_the_provider_beside_the_devices_own(gpu: Device) -> None:
    asked = (("cuda", (("gpu_mem_limit", "2147483648"), ("user_compute_stream", "1"))),)
    session = opened(asking(providers=("cuda", "cpu"), provider_options=asked), gpu)
    options = session._session.get_provider_options()["CUDAExecutionProvider"]
    of_device = gpu.providers()[0]
    assert isinstance(of_device, tuple)
    assert options["gpu_mem_limit"] == "2147483648"
    assert options["user_compute_stream"] == of_device[1]["user_compute_stream"]


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_tensorrt_gives_what_the_cpu_gives_or_says_what_it_lacks(gpu: Device) -> None:
    try:
        session = opened(asking(providers=("tensorrt", "cuda", "cpu")), gpu)
    except ModelLoadError as error:
        assert "TensorrtExecutionProvider could not be loaded; is TensorRT installed" in error.message  # noqa: PT017
        pytest.skip(f"needs TensorRT: {error.message}")
    assert session._session.get_providers()[0] == "TensorrtExecutionProvider"
    # TensorRT may use TF32 where the GPU has it: ten bits of mantissa.
    np.testing.assert_allclose(run(gpu, session, image=images())["probabilities"], on_the_cpu(), atol=1e-2)


# Optimised graphs


def test_an_optimised_graph_gives_what_the_model_gives(gpu: Device, tmp_path: Path) -> None:
    expected = run(gpu, opened(digits(), gpu), image=images())["probabilities"]
    graphs = OptimizedModels(tmp_path / "graphs", 100 * MIB)
    first = opened(digits(), gpu, graphs, "abc")
    (kept,) = (tmp_path / "graphs").iterdir()
    second = opened(digits(), gpu, graphs, "abc")
    assert kept.exists(), "it did not load"
    for session in (first, second):
        assert session._session.get_providers()[0] == "CUDAExecutionProvider"
        np.testing.assert_allclose(run(gpu, session, image=images())["probabilities"], expected, atol=1e-6)


def test_a_graph_for_the_cpu_is_not_that_for_the_gpu(gpu: Device, tmp_path: Path) -> None:
    graphs = OptimizedModels(tmp_path / "graphs", 100 * MIB)
    for providers in (("cpu",), ("cuda", "cpu")):
        opened(asking(providers=providers), gpu, graphs, "abc")
    assert len(list((tmp_path / "graphs").iterdir())) == 2


# Warming up, and the memory that is left


def test_a_model_is_warmed_up_on_the_gpu(gpu: Device) -> None:
    session = opened(digits(), gpu)
    warm_up(host_run(gpu, session.run), session.info, 64, True)
    before = gpu.memory().free
    run(gpu, session, image=images()[:64])
    assert gpu.memory().free >= before - 8 * MIB, "the first request has taken memory although it had been warmed up"


def test_a_declared_shape_that_fails_on_the_gpu_is_told(gpu: Device) -> None:
    info = asking(warmup=((("image", (1, 3, 3, 3, 3)),),))
    with pytest.raises(ModelLoadError, match=r"its warmup declares, image \[1, 3, 3, 3, 3\]"):
        warm_up(host_run(gpu, opened(info, gpu).run), info, 64, True)


@pytest.mark.parametrize("kept", [False, True], ids=["from its file", "from an optimised graph"])
def test_a_session_takes_its_weights_memory_and_gives_it_back(gpu: Device, tmp_path: Path, kept: bool) -> None:
    info = large(tmp_path / "models")
    more = (OptimizedModels(tmp_path / "graphs", 1024 * MIB), "abc") if kept else ()
    x = np.ones((4, 8192), np.float32)
    # What is made once for the process, such as the handle of cuBLAS, is made here.
    session = opened(info, gpu, *more)
    run(gpu, session, x=x)
    del session
    gc.collect()
    gpu.synchronize()
    before = gpu.memory().free
    session = opened(info, gpu, *more)
    np.testing.assert_allclose(run(gpu, session, x=x)["y"], np.ones((4, 8192)), rtol=1e-5)
    assert before - gpu.memory().free >= WEIGHT
    del session
    gc.collect()
    gpu.synchronize()
    assert before - gpu.memory().free <= WEIGHT // 8


def test_the_cache_books_what_a_model_takes_on_the_gpu_and_has_it_back(gpu: Device, tmp_path: Path) -> None:
    opener = partial(Session.open, device=gpu, threads=1)
    loader = Loader(gpu, opener, Costs(None, "gpu", 16 * 1024 * MIB), max_batch_size=4)

    async def main() -> None:
        cache = ModelCache(loader, 4 * 1024 * MIB, time.monotonic)
        async with cache.loaded([digits()]):
            pass  # what is made once for the process is made here
        info = large(tmp_path)
        before = gpu.memory().used
        async with cache.loaded([info]):
            known = cache.known(info)
            assert known.nbytes >= WEIGHT
            assert abs(known.nbytes - (gpu.memory().used - before)) <= WEIGHT // 8
        cache.drop(info)
        await asyncio.get_running_loop().run_in_executor(cache._books._closer, int)
        assert gpu.memory().used - before <= WEIGHT // 8
        await cache.close()

    asyncio.run(main())
