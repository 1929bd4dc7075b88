"""The probe that decides whether a model's inputs may be stacked, on real models in onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from ndserve.devices.cpu import CpuDevice
from ndserve.model_cache import batch_safety
from ndserve.model_cache.on_host import host_run
from ndserve.model_info import Batching, ModelInfo, ModelOptions
from ndserve.types import HostArray, Tensors, TensorSpec
from tests import onnx_models
from tests.unit.model_cache import graphs
from tests.unit.model_cache.graphs import graph, less_batch_mean, node, open_model

FREE = ["batch", "n"]
FLOAT16, INT64, BOOL = TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL


def at_load(folder: Path, proto: Any) -> Batching:
    session = open_model(folder, proto)
    return batch_safety.at_load(host_run(CpuDevice(), session.run), session.info)


def with_request(folder: Path, proto: Any, **inputs: HostArray) -> Batching:
    session = open_model(folder, proto)
    verdict = batch_safety.with_request(host_run(CpuDevice(), session.run), inputs)
    assert verdict is not None
    return verdict


def cannot_tell(folder: Path, proto: Any, **inputs: HostArray) -> bool:
    """Whether the request has nothing to perturb."""
    session = open_model(folder, proto)
    for array in inputs.values():
        array.flags.writeable = False  # as a request's arrays are
    return batch_safety.with_request(host_run(CpuDevice(), session.run), inputs) is None


def row(*values: float) -> HostArray:
    return np.array([values], np.float32)


def spec(*shape: int | None) -> TensorSpec:
    return TensorSpec("x", np.dtype(np.float32), shape)


def info(*inputs: TensorSpec, output: TensorSpec | None = None) -> ModelInfo:
    return ModelInfo("model", "1", Path("model.onnx"), 1, inputs, (output or spec(None, 4),))


def unused(inputs: Tensors) -> Tensors:
    raise AssertionError("the model was run")


SAFE = {
    "product": onnx_models.double(),
    "two inputs": onnx_models.add(),
    "dense": graphs.dense(np.float32, TensorProto.FLOAT),
    "dense in half precision": graphs.dense(np.float16, FLOAT16),
    "softmax over each row": graph(node("Softmax", ["x"], ["y"], axis=1)),
    "argmax of each row": graph(node("ArgMax", ["x"], ["y"], axis=1), y=["batch", 1], dtypes=(1, INT64)),
    "batch normalisation for inference": graphs.batch_norm(training=False),
    "embedding": graphs.embedding(1000),
    "embedding of two ids": graphs.embedding(2),
    "comparison": graph(node("Greater", ["x", "zero"], ["y"]), dtypes=(1, BOOL), zero=np.float32(0)),
    "two classes": graph(node("ArgMax", ["x"], ["y"], axis=1), x=["n", 2], y=["n", 1], dtypes=(1, INT64)),
    "silent where values are small": graphs.threshold(20),
    "constant beside the product": onnx_models.model(
        [node("Mul", ["x", "two"], ["y"]), node("Mul", ["x", "zero"], ["z"])],
        [onnx_models.tensor("x", ["n", 4])],
        [onnx_models.tensor("y", ["n", 4]), onnx_models.tensor("z", ["n", 4])],
        two=np.array(2, np.float32),
        zero=np.array(0, np.float32),
    ),
    "mask": graph(node("Not", ["x"], ["y"]), dtypes=(BOOL, BOOL)),
    "NaN at the same places": graph(node("Log", ["x"], ["y"])),
    "infinite": graph(node("Mul", ["x", "large"], ["y"]), large=np.float32(3e38)),
    "output of unknown shape": graphs.of_unknown_shape(),
}


MIXES_ROWS = {
    "less the batch's mean": onnx_models.minus_batch_mean(),
    "batch normalisation in training": graphs.batch_norm(training=True),
    "point cloud": graphs.point_cloud(),
    "softmax over the batch": graph(node("Softmax", ["x"], ["y"], axis=0)),
    "argmax over the batch": graph(
        *(node("ArgMax", ["x"], ["top"], axis=0), node("Expand", ["top", "rows"], ["y"])),
        y=["batch", 4],
        dtypes=(1, INT64),
        rows=np.array([1, 4]),
    ),
    "above the batch's mean": graph(
        *(node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1), node("Greater", ["x", "mean"], ["y"])),
        dtypes=(1, BOOL),
    ),
    "running sum over the batch": graph(node("CumSum", ["x", "axis"], ["y"]), axis=np.array(0)),
    "half precision": graph(
        *(node("ReduceMax", ["x"], ["top"], axes=[0], keepdims=1), node("Sub", ["x", "top"], ["y"])),
        dtypes=(FLOAT16, FLOAT16),
    ),
    "integers": graph(
        *(node("ReduceMax", ["x"], ["top"], axes=[0], keepdims=1), node("Sub", ["x", "top"], ["y"])),
        dtypes=(INT64, INT64),
    ),
    "tiny outputs": less_batch_mean(node("Mul", ["x", "tiny"], ["v"]), tiny=np.float32(1e-6)),
    "only where values are large": graph(
        node("ReduceMax", ["x"], ["top"], axes=[0], keepdims=1),
        node("Sub", ["top", "six"], ["over"]),
        node("Relu", ["over"], ["extra"]),
        node("Add", ["x", "extra"], ["y"]),
        x=["batch", 64],
        y=["batch", 64],
        six=np.float32(6),
    ),
}


@pytest.mark.parametrize("name", SAFE)
def test_a_model_that_works_row_by_row_may_be_batched(tmp_path: Path, name: str) -> None:
    assert at_load(tmp_path, SAFE[name]).mode == "on"


@pytest.mark.parametrize("name", MIXES_ROWS)
def test_a_model_that_mixes_rows_is_not_batched(tmp_path: Path, name: str) -> None:
    verdict = at_load(tmp_path, MIXES_ROWS[name])
    assert verdict.mode == "off"
    assert "'y'" in verdict.reason


def test_a_model_that_gives_one_row_for_all_is_not_batched(tmp_path: Path) -> None:
    verdict = at_load(tmp_path, graphs.global_feature())
    assert (verdict.mode, "one row for each" in verdict.reason) == ("off", True)


def test_a_model_that_fails_on_two_rows_is_not_batched(tmp_path: Path) -> None:
    verdict = at_load(tmp_path, graphs.one_row_only())
    assert (verdict.mode, "fails on stacked inputs" in verdict.reason) == ("off", True)


@pytest.mark.parametrize(
    "proto",
    [
        graphs.gru(["time", "batch", 2], [2, "batch", 128], layers=2),
        graphs.gru([1, "batch", 2], [1, "batch", 128]),
        graphs.audio_gate(),
        graphs.scaled_by_rate(),
    ],
    ids=["two layers", "one layer", "state and rate", "rate"],
)
def test_a_model_with_a_fixed_axis_0_or_a_scalar_is_not_even_tried(tmp_path: Path, proto: Any) -> None:
    model = open_model(tmp_path, proto).info
    verdict = batch_safety.at_load(unused, model)
    assert (verdict.mode, "is not free" in verdict.reason) == ("off", True)


def test_a_state_with_every_axis_free_waits_for_a_request(tmp_path: Path) -> None:
    proto = graphs.gru(["time", "batch", "features"], ["layers", "batch", "hidden"])
    assert at_load(tmp_path, proto).mode == "untested"


@pytest.mark.parametrize("batch", [1, 3])
def test_a_request_shows_that_a_state_with_every_axis_free_cannot_be_stacked(tmp_path: Path, batch: int) -> None:
    generator = np.random.default_rng(2)
    x, state = (generator.standard_normal((1, batch, size)).astype(np.float32) for size in (2, 128))
    proto = graphs.gru(["time", "batch", "features"], ["layers", "batch", "hidden"])
    assert with_request(tmp_path, proto, x=x, state=state).mode == "off"


def test_a_request_with_a_state_of_two_layers_does_not_allow_batches(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    x, state = (generator.standard_normal((2, 1, size)).astype(np.float32) for size in (2, 128))
    proto = graphs.gru(["time", "batch", "features"], ["layers", "batch", "hidden"], layers=2)
    assert with_request(tmp_path, proto, x=x, state=state).mode != "on"


def test_other_free_axes_wait_for_a_request(tmp_path: Path) -> None:
    model = open_model(tmp_path, onnx_models.double(FREE)).info
    assert batch_safety.at_load(unused, model).mode == "untested"


def test_a_request_shows_that_a_model_may_be_batched(tmp_path: Path) -> None:
    assert with_request(tmp_path, onnx_models.double(FREE), x=row(1, 2, 3)).mode == "on"


def test_a_request_shows_that_a_model_mixes_rows(tmp_path: Path) -> None:
    assert with_request(tmp_path, less_batch_mean(node("Neg", ["x"], ["v"]), x=FREE), x=row(1, 2, 3)).mode == "off"


def test_a_request_of_ids_is_tried_with_its_own_ids_only(tmp_path: Path) -> None:
    ids = np.array([[40, 7, 7, 23]])
    assert with_request(tmp_path, graphs.embedding(41, None), x=ids).mode == "on"


@pytest.mark.parametrize("x", [np.zeros((1, 4)), np.zeros((0, 4)), np.zeros((5, 4))], ids=["zeros", "empty", "rows"])
def test_a_constant_request_cannot_tell(tmp_path: Path, x: HostArray) -> None:
    proto = less_batch_mean(node("Neg", ["x"], ["v"]), x=FREE)
    assert cannot_tell(tmp_path, proto, x=x.astype(np.float32))


def test_a_request_of_one_repeated_id_cannot_tell(tmp_path: Path) -> None:
    assert cannot_tell(tmp_path, graphs.embedding(41, None), x=np.full((1, 6), 7))


def test_a_request_of_nan_cannot_tell(tmp_path: Path) -> None:
    proto = less_batch_mean(node("Neg", ["x"], ["v"]), x=FREE)
    assert with_request(tmp_path, proto, x=row(np.nan, np.nan, np.nan)).mode != "on"


def test_outputs_that_are_all_nan_cannot_tell(tmp_path: Path) -> None:
    nodes = [node("Sub", ["x", "large"], ["less"]), node("Log", ["less"], ["v"])]
    verdict = at_load(tmp_path, less_batch_mean(*nodes, large=np.float32(1e4)))
    assert (verdict.mode, "gave the same outputs" in verdict.reason) == ("untested", True)


SILENT = {
    "saturated": graphs.threshold(10_000),
    "always the same class": graph(
        *(node("Add", ["x", "much"], ["z"]), node("ArgMax", ["z"], ["y"], axis=1)),
        y=["batch", 1],
        dtypes=(1, INT64),
        much=np.array([0, 1e6, 0, 0], np.float32),
    ),
}


@pytest.mark.parametrize("name", SILENT)
def test_outputs_that_are_always_the_same_cannot_tell(tmp_path: Path, name: str) -> None:
    verdict = at_load(tmp_path, SILENT[name])
    assert (verdict.mode, "gave the same outputs" in verdict.reason) == ("untested", True)


@pytest.mark.parametrize(("values", "mode"), [([1, 2, 3, 4], "untested"), ([300, 200, 150, 400], "on")])
def test_a_request_tells_only_where_the_outputs_are_not_the_same(tmp_path: Path, values: list[int], mode: str) -> None:
    assert with_request(tmp_path, graphs.threshold(100), x=row(*values)).mode == mode


@pytest.mark.parametrize(("dtype", "rounds"), [("float32", 2), ("int64", len(batch_safety._SCALES))])
def test_integers_need_more_rounds_because_they_agree_by_chance(dtype: str, rounds: int) -> None:
    runs = 0

    def run(inputs: Tensors) -> Tensors:
        nonlocal runs
        runs += 1
        return {"y": (inputs["x"] * 1000).astype(dtype)}

    model = info(spec(None, 4), output=TensorSpec("y", np.dtype(dtype), (None, 4)))
    assert (batch_safety.at_load(run, model).mode, runs) == ("on", 3 * rounds)


def test_random_inputs_that_the_model_refuses_leave_it_untested(tmp_path: Path) -> None:
    verdict = at_load(tmp_path, graphs.embedding(1))
    assert (verdict.mode, "do not suit" in verdict.reason) == ("untested", True)


def test_only_one_row_of_a_request_is_tried_at_a_time() -> None:
    seen: list[int] = []

    def run(inputs: Tensors) -> Tensors:
        seen.append(len(inputs["x"]))
        return inputs

    batch_safety.with_request(run, {"x": np.arange(40.0).reshape(10, 4)})
    assert seen == [1, 1, 2]


@pytest.mark.parametrize(
    ("dtype", "error", "mode"),
    [
        ("float32", 1e-5, "on"),
        ("float32", 1e-3, "off"),
        ("float64", 1e-5, "on"),
        ("float64", 1e-3, "off"),
        ("float16", 4e-3, "on"),
        ("float16", 4e-2, "off"),
        ("complex64", 1e-5, "on"),
        ("complex64", 1e-3, "off"),
    ],
)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_rounding_is_allowed_and_more_is_not(dtype: str, error: float, mode: str, scale: float) -> None:
    def run(inputs: Tensors) -> Tensors:
        x = inputs["x"] / np.abs(inputs["x"]).max(axis=1, keepdims=True) * scale
        return {"y": (x + error * scale * (len(x) == 2)).astype(dtype)}

    verdict = batch_safety.with_request(run, {"x": np.array([[1.0, 2.0, 3.0, 4.0]])})
    assert verdict is not None
    assert verdict.mode == mode


def test_an_option_turns_batching_off() -> None:
    model = replace(info(spec(None, 4)), options=ModelOptions(batching="off"))
    verdict = batch_safety.at_load(unused, model)
    assert (verdict.mode, "model.toml" in verdict.reason) == ("off", True)


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        (info(spec(None, 4)), "untested"),
        (info(spec(None, 4), spec(None)), "untested"),
        (info(spec(None, 4), output=TensorSpec("y", np.dtype(np.float32), None)), "untested"),
        (info(), "off"),
        (info(spec(1, 4)), "off"),
        (info(spec(None, 4), spec(2, None)), "off"),
        (info(spec(None, 4), spec()), "off"),
        (info(TensorSpec("x", np.dtype(np.float32), None)), "off"),
        (info(spec(None, 4), output=spec(1, 4)), "off"),
        (info(spec(None, 4), output=spec()), "off"),
    ],
)
def test_the_specs_alone_can_rule_batches_out(model: ModelInfo, mode: str) -> None:
    assert batch_safety.before_loading(model).mode == mode


@pytest.mark.parametrize(
    ("model", "has"),
    [
        (info(spec(None, 4)), True),
        (info(spec(1, 4), output=spec(1, 4)), True),
        (info(spec(1, 4)), True),
        (info(spec(2, 4)), False),
        (info(spec(None, 4), spec()), False),
        (info(spec(None, 4), output=spec(2, 4)), False),
        (info(), False),
    ],
)
def test_a_batch_axis_is_free_or_of_length_1(model: ModelInfo, has: bool) -> None:
    assert batch_safety.has_batch_axis(model) is has
