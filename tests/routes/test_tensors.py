"""Every tensor that ONNX models have, through the whole server: the same as onnxruntime gives when run alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from ndserve import byte_strings
from ndserve.dtypes import TEXT, is_narrow, name_of
from ndserve.model_cache.disk.onnx_file import DTYPES
from ndserve.testing import InProcessServer, serving
from ndserve.types import HostArray, Tensors
from tests import onnx_models
from tests.onnx_alone import alone, assert_same, values
from tests.routes.bodies import JSON, NPY, NPZ, npy, npz, problem

NAMES = {number: TensorProto.DataType.Name(number).lower() for number in DTYPES}
SHAPES: dict[str, tuple[int, ...]] = {"scalar": (), "empty": (0, 3), "fixed": (2, 3)}

MODELS = {
    **{f"identity-{name}": onnx_models.identity(number) for number, name in NAMES.items()},
    **{
        f"{kind}-{name}": onnx_models.identity(number, shape if kind != "empty" else ["n", 3])
        for kind, shape in SHAPES.items()
        for number, name in NAMES.items()
    },
    **{
        f"doubled-{NAMES[number]}": onnx_models.doubled_as_float(number)
        for number, dtype in DTYPES.items()
        if is_narrow(dtype)
    },
    **{f"sum-{count}": onnx_models.sum_of(count) for count in (1, 2, 7, 30)},
    "dropout": onnx_models.dropout(mask=False),
    "dropout-mask": onnx_models.dropout(mask=True),
    "upper": onnx_models.upper_case(),
    "numbers": onnx_models.numbers_of_words(one=1, two=2),
    "words": onnx_models.words_of_numbers("zero", "one", "two"),
    "mixed": onnx_models.texts_and_narrow(),
}

every_type = pytest.mark.parametrize("elem_type", DTYPES, ids=NAMES.get)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessServer]:
    folder = tmp_path_factory.mktemp("models")
    for name, proto in MODELS.items():
        onnx_models.save(proto, folder, name)
    data = tmp_path_factory.mktemp("data")
    with serving(models=folder, store="sqlite", data_dir=data) as started:
        yield started


def listed(array: HostArray) -> dict[str, Any]:
    """An array as JSON has it; the lists of an empty one do not tell its shape."""
    elements = byte_strings.decoded(array) if array.dtype == TEXT else array
    return {"array": elements.tolist(), "dtype": name_of(array.dtype), "shape": list(array.shape)}


def post(server: InProcessServer, model: str, inputs: Tensors, query: str = "") -> Any:
    """Post as .npz, or as JSON where that has no form for texts; the answer."""
    url = f"/tasks/{model}?wait=30{query}"
    if any(array.dtype == TEXT for array in inputs.values()):
        document = {"inputs": {name: listed(array) for name, array in inputs.items()}}
        return server.http.post(url, json=document)
    return server.http.post(url, content=npz(**inputs))


def outputs_of(server: InProcessServer, model: str, answer: Any) -> dict[str, HostArray]:
    """The arrays of an answer, in whichever form it came, with narrow floats as the model's specs have them."""
    assert answer.status_code == 200, answer.text
    specs = server.service.targets.find(model).outputs
    form = answer.headers["content-type"]
    if form == JSON:
        document = answer.json()
        entries = document["outputs"] if "outputs" in document else {specs[0].name: document}
        return {name: _from_json(entry) for name, entry in entries.items()}
    loaded = np.load(io.BytesIO(answer.content), allow_pickle=False)
    arrays = {specs[0].name: loaded} if form == NPY else dict(loaded)
    dtypes = {spec.name: spec.dtype for spec in specs}
    return {name: array.view(dtypes[name]) if array.dtype.kind == "V" else array for name, array in arrays.items()}


def _from_json(entry: Any) -> HostArray:
    shape = tuple(entry["shape"])
    if entry["dtype"] == "bytes":
        return byte_strings.encoded(np.array(entry["array"], object)).reshape(shape)
    return np.array(entry["array"], entry["dtype"]).reshape(shape)


def assert_served_as_alone(server: InProcessServer, model: str, inputs: Tensors) -> None:
    served = outputs_of(server, model, post(server, model, inputs))
    assert_same(served, alone(MODELS[model], inputs))


@every_type
def test_every_type_is_served_as_onnxruntime_runs_it_alone(server: InProcessServer, elem_type: int) -> None:
    assert_served_as_alone(server, f"identity-{NAMES[elem_type]}", {"x": values(DTYPES[elem_type], 2, 3)})


@every_type
def test_every_type_is_served_in_batches(server: InProcessServer, elem_type: int) -> None:
    model, items = f"identity-{NAMES[elem_type]}", values(DTYPES[elem_type], 20, 3)
    for query in ("", "&split=true"):  # the first judges whether the model may be batched
        answer = post(server, model, {"x": items}, query)
        assert_same(outputs_of(server, model, answer), alone(MODELS[model], {"x": items}))
    assert server.service.targets.find(model).batching.mode == "on"


@every_type
@pytest.mark.parametrize("kind", SHAPES)
def test_every_type_is_served_without_axes_without_elements_and_of_fixed_shape(
    server: InProcessServer, kind: str, elem_type: int
) -> None:
    assert_served_as_alone(server, f"{kind}-{NAMES[elem_type]}", {"x": values(DTYPES[elem_type], *SHAPES[kind])})


@every_type
def test_a_model_tells_the_names_of_its_dtypes(server: InProcessServer, elem_type: int) -> None:
    (told,) = server.http.get(f"/models/identity-{NAMES[elem_type]}").json()
    assert told["inputs"] == [{"name": "x", "dtype": name_of(DTYPES[elem_type]), "shape": [None, 3]}]


@pytest.mark.parametrize("elem_type", [number for number, dtype in DTYPES.items() if is_narrow(dtype)], ids=NAMES.get)
@pytest.mark.parametrize("split", ["", "&split=true"], ids=["whole", "split"])
def test_narrow_floats_are_computed_with(server: InProcessServer, elem_type: int, split: str) -> None:
    model, x = f"doubled-{NAMES[elem_type]}", values(DTYPES[elem_type], 8, 3)
    answer = server.http.post(f"/tasks/{model}?wait=30{split}", content=npy(x))
    assert answer.headers["content-type"] == NPY
    assert_same(outputs_of(server, model, answer), alone(MODELS[model], {"x": x}))


@pytest.mark.parametrize("count", [1, 2, 7, 30])
@pytest.mark.parametrize("split", ["", "&split=true"], ids=["whole", "split"])
def test_models_of_many_inputs_are_served(server: InProcessServer, count: int, split: str) -> None:
    inputs = {f"x{number}": np.full((4, 3), number, np.float32) for number in range(count)}
    answer = post(server, f"sum-{count}", inputs, split)
    assert answer.headers["content-type"] == NPZ
    assert_same(outputs_of(server, f"sum-{count}", answer), alone(MODELS[f"sum-{count}"], inputs))


@pytest.mark.parametrize("model", ["dropout", "dropout-mask"])
def test_an_output_that_may_be_left_out_comes_where_the_model_has_it(server: InProcessServer, model: str) -> None:
    assert_served_as_alone(server, model, {"x": values(np.dtype(np.float32), 2, 3)})


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("upper", {"x": byte_strings.of([b"one", b"two"], (2,))}),
        ("numbers", {"x": byte_strings.of([b"two", b"what", b"one"], (3,))}),
        ("words", {"x": np.array([2, 0, 1])}),
        ("mixed", {"x": byte_strings.of([b"a"], (1,)), "b": np.ones(1, DTYPES[TensorProto.BFLOAT16])}),
    ],
    ids=["normalizer", "labels of texts", "texts of labels", "beside bfloat16"],
)
def test_texts_are_computed_with(server: InProcessServer, model: str, inputs: Tensors) -> None:
    assert_served_as_alone(server, model, inputs)


@pytest.mark.parametrize(
    "elements", [[b""], [b"\0", b"a\0b\0"], [b"x" * 100_000, b"short"]], ids=["empty", "nul", "long"]
)
def test_texts_of_any_length_and_content_are_served(server: InProcessServer, elements: list[bytes]) -> None:
    assert_served_as_alone(server, "scalar-string", {"x": byte_strings.of(elements[:1], ())})
    rows = byte_strings.of([element for element in elements for _ in range(3)], (len(elements), 3))
    assert_served_as_alone(server, "identity-string", {"x": rows})


def test_texts_have_no_npy_form(server: InProcessServer) -> None:
    answer = server.http.post(
        "/tasks/identity-string?wait=30", json=[["a", "b", "c"]], headers={"Accept": "application/x-npy"}
    )
    assert "comes as application/json" in problem(answer, 406, "not_acceptable")["detail"]


def test_a_narrow_float_for_a_process_is_refused_before_it_is_queued(server: InProcessServer) -> None:
    document = {"array": [1, 2], "dtype": "bfloat16"}
    answer = server.http.post("/tasks/softmax?wait=30", json=document)
    assert "send float32" in problem(answer, 422, "invalid_input")["detail"]
