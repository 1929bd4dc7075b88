"""One suite for every built-in process, on every device, against references that were computed in another way."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from ndserve.devices.base import Device
from ndserve.devices.cpu import CpuDevice
from ndserve.model_cache.disk import repository
from ndserve.model_cache.session import Session
from ndserve.processes.base import ModelCall, Process, builtin_processes
from ndserve.types import Array, HostArray
from tests import onnx_models
from tests.contract.foreign_device import LACKING, ForeignDevice
from tests.gpu.opening import gpu_or_skip

MODELS = Path(__file__).parents[2] / "models"
PROCESSES = {process.name: process for process in builtin_processes()}
OPENERS: dict[str, Callable[[], Device]] = {"cpu": CpuDevice, "foreign": ForeignDevice, "cuda": gpu_or_skip}
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float32", "float64")


@pytest.fixture(params=["cpu", "foreign", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    with OPENERS[request.param]() as device:
        yield device


def run(device: Device, name: str, items: HostArray, **parameters: Any) -> dict[str, HostArray]:
    """The named outputs of a built-in process for stacked items, with the real models where it calls any."""
    process = PROCESSES[name]
    models = {model: digits(device) for model in process.models}
    return outputs_of(device, process, items, models, parameters)


def outputs_of(
    device: Device, process: Process, items: HostArray, models: Mapping[str, ModelCall], parameters: Mapping[str, Any]
) -> dict[str, HostArray]:
    (spec,) = process.inputs
    outputs = process.run(device.xp, models, {spec.name: device.to_device([items])}, parameters)
    return {output: device.to_host(array) for output, array in outputs.items()}


def digits(device: Device) -> ModelCall:
    """The model in `models/`; the foreign device's arrays go to it over the host."""
    (info,) = (info for info in repository.scan(MODELS) if info.name == "digits")
    if not isinstance(device, ForeignDevice):
        session = Session.open(info, device, threads=1)
        return lambda image: session.run({"image": image})["probabilities"]
    session = Session.open(info, CpuDevice(), threads=1)
    return lambda image: device.to_device([session.run({"image": device.to_host(image)})["probabilities"]])


def random(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> HostArray:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(dtype)


def skip_what_array_api_strict_lacks(device: Device, dtype: str) -> None:
    if isinstance(device, ForeignDevice) and dtype in LACKING:
        pytest.skip(f"array_api_strict has no {dtype}")


# resize


@cache
def onnx_resize() -> ort.InferenceSession:
    """ONNX's own Resize of the last two of four axes, to a size that is an input."""
    node = helper.make_node(
        "Resize", ["x", "", "", "size"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel"
    )
    inputs = [onnx_models.tensor("x", [None] * 4), onnx_models.tensor("size", [4], TensorProto.INT64)]
    proto = onnx_models.model([node], inputs, [onnx_models.tensor("y", [None] * 4)])
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def resized_by_onnx(items: HostArray, height: int, width: int) -> HostArray:
    images = items[:, np.newaxis].astype(np.float32)
    size = np.array([len(items), 1, height, width])
    resized: HostArray = onnx_resize().run(["y"], {"x": images, "size": size})[0]
    return resized[:, 0]


SIZES = [
    ((5, 7), (10, 14)),
    ((10, 14), (5, 7)),
    ((9, 5), (4, 13)),
    ((7, 7), (7, 7)),
    ((1, 1), (3, 5)),
    ((1, 6), (4, 1)),
    ((6, 1), (1, 9)),
    ((31, 17), (1, 1)),
    ((3, 3), (64, 65)),
]


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize("dtype", [*FLOATS, "float16"])
def test_resize_gives_what_onnx_resize_gives(
    device: Device, dtype: str, before: tuple[int, int], after: tuple[int, int]
) -> None:
    skip_what_array_api_strict_lacks(device, dtype)
    items = random((2, *before), dtype)
    resized = run(device, "resize", items, height=after[0], width=after[1])["output"]
    assert resized.dtype == dtype
    np.testing.assert_allclose(resized, resized_by_onnx(items, *after), atol=3e-2 if dtype == "float16" else 1e-4)


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16"])
def test_resize_rounds_integers_to_the_nearest(
    device: Device, dtype: str, before: tuple[int, int], after: tuple[int, int]
) -> None:
    limits = np.iinfo(dtype)
    items = np.random.default_rng(0).integers(limits.min, limits.max, (2, *before), dtype, endpoint=True)
    resized = run(device, "resize", items, height=after[0], width=after[1])["output"]
    exact = resized_by_onnx(items, *after)
    assert resized.dtype == dtype
    assert np.max(np.abs(resized - exact)) <= 0.5 + 1e-6 * limits.max


@pytest.mark.parametrize("dtype", INTEGERS)
def test_resize_leaves_an_image_of_one_integer_as_it_is(device: Device, dtype: str) -> None:
    for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        resized = run(device, "resize", np.full((1, 2, 3), value, dtype), height=4, width=2)["output"]
        assert resized.dtype == dtype
        assert set(resized.ravel().tolist()) == {value}


def test_resize_keeps_the_axes_before_the_last_two(device: Device) -> None:
    items = random((2, 3, 4, 5))
    resized = run(device, "resize", items, height=6, width=2)["output"]
    channels = [resized_by_onnx(items[:, channel], 6, 2) for channel in range(3)]
    np.testing.assert_allclose(resized, np.stack(channels, axis=1), atol=1e-5)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 0, 3), (2, 3, 0)])
def test_resize_refuses_what_is_no_image(device: Device, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least two non-empty axes"):
        run(device, "resize", np.zeros(shape, np.float32))


@pytest.mark.parametrize("side", [0, -1, 16_385])
@pytest.mark.parametrize("name", ["height", "width"])
def test_resize_refuses_a_side_out_of_range(device: Device, name: str, side: int) -> None:
    with pytest.raises(ValueError, match=f"{name} {side}"):
        run(device, "resize", np.zeros((1, 2, 2), np.float32), **{"height": 2, "width": 2, name: side})


# softmax


def softmax_in_double_precision(items: HostArray) -> HostArray:
    scores = items.astype(np.float64)
    return np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True))


@pytest.mark.parametrize("scale", [1, 30_000])
@pytest.mark.parametrize("dtype", [*FLOATS, "float16"])
def test_softmax_gives_what_double_precision_gives(device: Device, dtype: str, scale: int) -> None:
    skip_what_array_api_strict_lacks(device, dtype)
    items = (np.random.default_rng(0).uniform(-1, 1, (4, 3, 7)) * scale).astype(dtype)
    output = run(device, "softmax", items)["output"]
    assert output.dtype == dtype
    np.testing.assert_allclose(output, softmax_in_double_precision(items), atol=2e-3 if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_softmax_of_integers_is_float32(device: Device, dtype: str) -> None:
    limits = np.iinfo(dtype)
    items = np.array([[0, 1, 2, 3], [0, limits.max, 0, limits.min]], dtype)
    output = run(device, "softmax", items)["output"]
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, softmax_in_double_precision(items), atol=1e-6)


# top_k


def top_k_by_sorting(row: list[Any], k: int) -> list[int]:
    return sorted(range(len(row)), key=lambda index: (-row[index], index))[:k]


@pytest.mark.parametrize("k", [1, 4, 12])
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
def test_top_k_gives_what_a_stable_sort_gives(device: Device, dtype: str, k: int) -> None:
    limits = np.iinfo(dtype) if dtype in INTEGERS else np.finfo(dtype)
    choices = np.array([limits.min, limits.max, 0, 1, 2, limits.max], dtype)
    items = np.random.default_rng(0).choice(choices, (3, 2, 12))  # so few values that most rows hold ties
    outputs = run(device, "top_k", items, k=k)
    assert [outputs[name].dtype.name for name in ("values", "indices")] == [dtype, "int64"]
    for row, values, indices in zip(
        items.reshape(-1, 12), outputs["values"].reshape(-1, k), outputs["indices"].reshape(-1, k), strict=True
    ):
        assert indices.tolist() == top_k_by_sorting(row.tolist(), k)
        assert values.tolist() == row[indices].tolist()


@pytest.mark.parametrize("k", [0, -1, 5])
def test_top_k_refuses_a_k_out_of_range(device: Device, k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}"):
        run(device, "top_k", np.zeros((2, 4), np.float32), k=k)


# normalize


def standardised(item: HostArray) -> HostArray:
    values = [float(value) for value in item.ravel()]
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    return np.array([(value - mean) / deviation for value in values]).reshape(item.shape)


@pytest.mark.parametrize("shape", [(3, 16), (3, 4, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [*FLOATS, "float16"])
def test_normalize_gives_each_item_mean_0_and_deviation_1(device: Device, dtype: str, shape: tuple[int, ...]) -> None:
    skip_what_array_api_strict_lacks(device, dtype)
    items = random(shape, dtype) * 2 + 5
    output = run(device, "normalize", items)["output"]
    assert output.dtype == dtype
    expected = np.stack([standardised(item) for item in items])
    np.testing.assert_allclose(output, expected, atol=1e-2 if dtype == "float16" else 1e-5)


@pytest.mark.parametrize("dtype", [*FLOATS, "float16"])
def test_normalize_takes_the_pixels_of_a_whole_image(device: Device, dtype: str) -> None:
    skip_what_array_api_strict_lacks(device, dtype)
    items = np.random.default_rng(0).integers(0, 256, (2, 64, 64)).astype(dtype)
    output = run(device, "normalize", items)["output"]
    expected = np.stack([standardised(item) for item in items])
    np.testing.assert_allclose(output, expected, atol=1e-2 if dtype == "float16" else 1e-5)


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
def test_normalize_of_integers_and_booleans_is_float32(device: Device, dtype: str) -> None:
    items = np.array([[0, 1, 1, 1], [1, 0, 1, 0]], dtype)
    output = run(device, "normalize", items)["output"]
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, np.stack([standardised(item) for item in items]), atol=1e-5)


@pytest.mark.parametrize("dtype", [*FLOATS, "float16"])
@pytest.mark.parametrize("value", [0, 1, -7, 0.1, 1 / 3, 1000.1])
def test_normalize_makes_zeros_of_a_constant_item(device: Device, value: float, dtype: str) -> None:
    skip_what_array_api_strict_lacks(device, dtype)
    for size in (1, 2, 7, 10, 100):
        items = np.stack([np.full(size, value), np.arange(size) % 2]).astype(dtype)
        constant, _ = run(device, "normalize", items)["output"]
        assert constant.tolist() == [0] * size


def test_normalize_makes_a_zero_of_a_lone_number(device: Device) -> None:
    assert run(device, "normalize", np.array([3, -2], np.int16))["output"].tolist() == [0, 0]


# classify_digit and identity


def test_identity_gives_the_array_back(device: Device) -> None:
    items = random((2, 3))
    assert run(device, "identity", items)["output"].tolist() == items.tolist()


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, "float16", "bool"])
def test_classify_digit_gives_the_likeliest_label_of_a_float32_image(device: Device, dtype: str) -> None:
    skip_what_array_api_strict_lacks(device, dtype)
    probabilities = np.array([[0.1] * 8 + [0.2, 0], [0.3, 0.7] + [0] * 8], np.float32)
    seen: list[Array] = []

    def model(image: Array) -> Array:
        seen.append(image)
        return device.to_device([probabilities])

    items = np.ones((2, 8, 8), dtype)
    outputs = outputs_of(device, PROCESSES["classify_digit"], items, {"digits": model}, {})
    assert [image.dtype for image in seen] == [device.xp.float32]
    assert outputs["label"].tolist() == [8, 1]
    assert outputs["confidence"].tolist() == np.max(probabilities, axis=1).tolist()
    assert [outputs[name].dtype.name for name in ("label", "confidence")] == ["int64", "float32"]


def test_classify_digit_reads_the_samples(device: Device) -> None:
    items = np.stack([np.load(MODELS / "digits" / "samples" / f"digit_{digit}.npy") for digit in range(10)])
    outputs = run(device, "classify_digit", items)
    assert outputs["label"].tolist() == list(range(10))
    assert np.all((outputs["confidence"] > 0.5) & (outputs["confidence"] <= 1))


# every process


@pytest.mark.parametrize("name", ["normalize", "resize", "softmax", "top_k", "classify_digit"])
def test_complex_arrays_are_refused_by_processes_for_real_numbers(device: Device, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} takes real numbers, not .*complex64"):
        run(device, name, np.full((1, 8, 8), 1 + 2j, np.complex64))


TAKES_AXES = {"identity": range(4), "normalize": range(4), "softmax": range(1, 4), "top_k": range(1, 4)}
TAKES_AXES |= {"resize": range(2, 4), "classify_digit": range(2, 3)}
SHAPES = [(), (8,), (8, 8), (3, 8, 8)]
CALLS = [(name, shape) for name in PROCESSES for shape in SHAPES if len(shape) in TAKES_AXES[name]]
REFUSALS = [(name, shape) for name in PROCESSES for shape in SHAPES if len(shape) not in TAKES_AXES[name]]
PARAMETERS = {"top_k": {"k": 3}, "resize": {"height": 5, "width": 11}}


@pytest.mark.parametrize(("name", "shape"), CALLS)
def test_a_batch_gives_what_its_items_give_one_by_one(device: Device, name: str, shape: tuple[int, ...]) -> None:
    items = random((5, *shape))
    parameters = PARAMETERS.get(name, {})
    together = run(device, name, items, **parameters)
    alone = [run(device, name, items[row : row + 1], **parameters) for row in range(5)]
    for output, batched in together.items():
        expected = np.concatenate([outputs[output] for outputs in alone])
        assert batched.shape == expected.shape
        np.testing.assert_allclose(batched, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "shape"), CALLS)
def test_every_output_has_one_row_an_item(device: Device, name: str, shape: tuple[int, ...]) -> None:
    outputs = run(device, name, random((5, *shape)), **PARAMETERS.get(name, {}))
    assert {output: array.shape[0] for output, array in outputs.items()} == dict.fromkeys(outputs, 5)


@pytest.mark.parametrize(("name", "shape"), [call for call in REFUSALS if call[0] != "classify_digit"])
def test_items_of_too_few_axes_are_refused_with_a_reason(device: Device, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"items of at least|the last axis"):
        run(device, name, random((5, *shape)), **PARAMETERS.get(name, {}))
