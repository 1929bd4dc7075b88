"""What only a real GPU can show. The suites in tests/contract run on it, too.

Everything of CuPy is imported inside the tests: these files are collected on machines that have none.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from ndserve.devices import open_device
from ndserve.devices.base import Device
from ndserve.devices.cpu import CpuDevice
from ndserve.engine.lane import Lane
from ndserve.engine.ledger import Ledger
from ndserve.engine.service import InferenceService, QueueBounds
from ndserve.engine.target import BatchDefaults
from ndserve.engine.targets import Targets
from ndserve.errors import StartupError
from ndserve.model_cache.cache import ModelCache
from ndserve.model_cache.costs import Costs
from ndserve.model_cache.disk import repository
from ndserve.model_cache.loader import Loader
from ndserve.model_cache.session import Session
from ndserve.processes.base import builtin_processes
from ndserve.stores.memory import MemoryStore
from ndserve.types import HostArray, Tensors
from tests import onnx_models
from tests.gpu.digits import MODELS, digits, images, on_the_cpu, run

pytestmark = pytest.mark.gpu

MIB = 1 << 20
MAX_GROWTH = 64 * MIB
"""What 200 loads may cost for good. A leak of the weights, arena and handles of one load is several MiB each."""


def opened(tmp_path: Path, proto: Any, device: Device) -> Session:
    onnx_models.save(proto, tmp_path, "model")
    return Session.open(repository.scan(tmp_path)[0], device, threads=1)


# The device


def test_auto_picks_the_gpu(gpu: Device) -> None:
    assert open_device("auto")[0].name == gpu.name == "cuda:0"


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_is_not_there_cannot_be_opened() -> None:
    with pytest.raises(StartupError, match="there is no GPU 99; CUDA sees"):
        open_device("cuda:99")


def test_arrays_are_cupys_and_on_that_gpu(gpu: Device) -> None:
    import cupy

    array = gpu.to_device([np.zeros(3)])
    assert isinstance(array, cupy.ndarray)
    assert f"cuda:{array.device.id}" == gpu.name


def test_the_stream_of_the_device_is_the_threads_own_while_it_is_inside(gpu: Device) -> None:
    import cupy

    provider = gpu.providers()[0]
    assert isinstance(provider, tuple)
    assert str(cupy.cuda.get_current_stream().ptr) == provider[1]["user_compute_stream"] != "0"


def test_an_array_stays_what_it_was_when_its_part_changes_afterwards(gpu: Device) -> None:
    part = np.zeros(4 * MIB)
    array = gpu.to_device([part])
    part[:] = 1
    assert not gpu.to_host(array).any()


def test_many_copies_under_way_at_once_do_not_share_a_buffer(gpu: Device) -> None:
    arrays = [gpu.to_device([np.full(MIB, number, np.int32)]) for number in range(50)]
    assert [np.unique(gpu.to_host(array)).tolist() for array in arrays] == [[number] for number in range(50)]


def test_memory_that_an_array_takes_is_no_longer_free(gpu: Device) -> None:
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    before = gpu.memory()
    array = gpu.to_device([np.zeros(256 * MIB, np.uint8)])
    gpu.synchronize()
    after = gpu.memory()
    del array
    assert after.total == before.total
    assert after.free <= before.free - 256 * MIB


def test_what_a_large_array_leaves_is_free_again_after_the_work(gpu: Device) -> None:
    import cupy

    gpu.synchronize()
    before = gpu.memory()
    array = gpu.xp.zeros(before.total // 4, dtype=gpu.xp.uint8)
    del array
    gpu.synchronize()
    assert cupy.get_default_memory_pool().free_bytes() <= before.total // 8
    assert gpu.memory().free >= before.free - 64 * MIB


def test_the_gpu_is_healthy_while_it_is_busy_and_when_it_is_done(gpu: Device) -> None:
    matrix = gpu.xp.ones((4096, 4096), dtype=gpu.xp.float32)
    for _ in range(20):
        matrix = gpu.xp.matmul(matrix, matrix) / 4096
    assert gpu.healthy()
    gpu.synchronize()
    assert gpu.healthy()


ILLEGAL_ACCESS = """
import cupy
from ndserve.devices import open_device
device, _ = open_device("cuda")
with device:
    assert device.healthy()
    write = cupy.RawKernel('extern "C" __global__ void f(int* p) { *p = 1; }', "f")
    write((1,), (1,), (cupy.uint64(8),))
    try:
        device.synchronize()
    except Exception as error:
        print("raised", type(error).__name__)
    print("healthy", device.healthy())
    print("memory", device.memory().total > 0, flush=True)
    import os
    os._exit(0)  # a dead context may hang at exit
"""


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("gpu")
def test_after_an_illegal_access_the_gpu_is_not_healthy() -> None:
    """In a process of its own, because none of its CUDA calls works afterwards."""
    child = subprocess.run([sys.executable, "-c", ILLEGAL_ACCESS], capture_output=True, text=True, timeout=100)
    assert child.stdout.splitlines() == ["raised CUDARuntimeError", "healthy False", "memory True"], child.stderr


# Models


def test_onnxruntime_runs_the_model_on_the_gpu(gpu: Device) -> None:
    session = Session.open(digits(), gpu, threads=1)
    assert session._session.get_providers()[0] == "CUDAExecutionProvider"


def test_a_model_gives_what_it_gives_on_the_cpu(gpu: Device) -> None:
    probabilities = run(gpu, Session.open(digits(), gpu, threads=1), image=images())["probabilities"]
    np.testing.assert_allclose(probabilities, on_the_cpu(), atol=1e-4)


@pytest.mark.parametrize("rows", [0, 1, 2, 33])
def test_a_model_takes_batches_of_any_size(gpu: Device, rows: int) -> None:
    session = Session.open(digits(), gpu, threads=1)
    probabilities = run(gpu, session, image=images()[:rows])["probabilities"]
    assert probabilities.shape == (rows, 10)
    np.testing.assert_allclose(probabilities, on_the_cpu()[:rows], atol=1e-4)


def test_outputs_stay_on_the_gpu(gpu: Device) -> None:
    import cupy

    output = Session.open(digits(), gpu, threads=1).run({"image": gpu.to_device([images()])})["probabilities"]
    assert isinstance(output, cupy.ndarray)
    assert f"cuda:{output.device.id}" == gpu.name
    with pytest.raises(TypeError):
        np.asarray(output)


def test_an_output_outlives_its_session_and_later_runs(gpu: Device) -> None:
    session = Session.open(digits(), gpu, threads=1)
    kept = [session.run({"image": gpu.to_device([images()[row : row + 1]])})["probabilities"] for row in range(20)]
    del session
    gc.collect()
    result = np.concatenate([gpu.to_host(output) for output in kept])
    np.testing.assert_allclose(result, on_the_cpu()[:20], atol=1e-4)


def test_a_model_takes_what_a_kernel_has_just_computed(gpu: Device) -> None:
    session = Session.open(digits(), gpu, threads=1)
    halves = gpu.to_device([images() / 2])
    for _ in range(20):  # if onnxruntime did not wait for the kernel, it would read old memory now and then
        output = session.run({"image": halves + halves})["probabilities"]
        np.testing.assert_allclose(gpu.to_host(output + 0), on_the_cpu(), atol=1e-4)


def test_a_model_takes_an_array_that_is_not_contiguous(gpu: Device) -> None:
    session = Session.open(digits(), gpu, threads=1)
    turned = gpu.to_device([images().transpose(0, 2, 1).copy()])
    output = session.run({"image": gpu.xp.permute_dims(turned, (0, 2, 1))})["probabilities"]
    np.testing.assert_allclose(gpu.to_host(output), on_the_cpu(), atol=1e-4)


def test_a_model_may_hand_its_input_through(gpu: Device, tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    proto = onnx_models.model([node], [onnx_models.tensor("x", ["n", 3])], [onnx_models.tensor("y", ["n", 3])])
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert run(gpu, opened(tmp_path, proto, gpu), x=sent)["y"].tolist() == sent.tolist()


def test_a_model_may_take_several_inputs(gpu: Device, tmp_path: Path) -> None:
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    assert run(gpu, opened(tmp_path, onnx_models.add(), gpu), a=a, b=b)["sum"].tolist() == [[3, 3, 3]] * 2


@pytest.mark.timeout(300)
def test_loading_and_dropping_a_model_again_and_again_leaves_no_memory_behind(gpu: Device) -> None:
    def cycle() -> None:
        run(gpu, Session.open(digits(), gpu, threads=1), image=images()[:32])
        gc.collect()

    for _ in range(5):  # what is made once for the process is made here
        cycle()
    before = gpu.memory().free
    for _ in range(200):
        cycle()
    assert before - gpu.memory().free <= MAX_GROWTH


# Processes


@pytest.mark.parametrize("name", [process.name for process in builtin_processes()])
def test_a_process_gives_what_it_gives_on_the_cpu(gpu: Device, name: str) -> None:
    (process,) = (process for process in builtin_processes() if process.name == name)
    (spec,) = process.inputs

    def outputs(device: Device) -> dict[str, HostArray]:
        session = Session.open(digits(), device, threads=1)
        models = {"digits": lambda image: session.run({"image": image})["probabilities"]}
        given = process.run(device.xp, models, {spec.name: device.to_device([images()])}, process.parameters)
        return {output: device.to_host(array) for output, array in given.items()}

    on_gpu, on_cpu = outputs(gpu), outputs(CpuDevice())
    assert on_gpu.keys() == on_cpu.keys()
    for output, expected in on_cpu.items():
        assert on_gpu[output].dtype == expected.dtype
        np.testing.assert_allclose(on_gpu[output], expected, rtol=1e-4, atol=1e-4)


# The whole service


def service_on(device: Device) -> InferenceService:
    return InferenceService(
        targets=Targets(repository.scan(MODELS), builtin_processes(), BatchDefaults()),
        ledger=Ledger(MemoryStore(max_tasks=1000, max_bytes=1 << 30), time.monotonic, 60.0, None),
        cache=ModelCache(
            Loader(device, partial(Session.open, device=device, threads=1), Costs(None, "test", 1 << 30)),
            1 << 30,
            time.monotonic,
        ),
        lane=Lane(device),
        bounds=QueueBounds(1000, 1 << 30),
        clock=time.monotonic,
        on_dead=print,
    )


async def infer_all(device: Device, target: str) -> tuple[list[Tensors], dict[str, Any]]:
    """The outputs for 200 images, asked for one by one and all at once, and the service's figures."""
    service = service_on(device)
    await service.start()
    try:
        results = await asyncio.gather(*(service.infer(target, image) for image in images()[:200]))
        return results, service.stats()
    finally:
        await service.close()


@pytest.mark.parametrize("target", ["digits", "classify_digit"])
def test_a_service_gives_200_callers_their_own_results_in_batches(gpu: Device, target: str) -> None:
    results, stats = asyncio.run(infer_all(gpu, target))
    expected = on_the_cpu()[:200]
    if target == "digits":
        np.testing.assert_allclose(np.stack([result["probabilities"] for result in results]), expected, atol=1e-4)
    else:
        assert [int(result["label"]) for result in results] == np.argmax(expected, axis=1).tolist()
    assert stats["ended"]["succeeded"] == 200
    assert stats["batches"]["count"] < 50
