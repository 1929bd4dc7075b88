"""The reader of model files: it agrees with the onnx library, refuses everything else, and leaves the weights alone."""

from __future__ import annotations

import io
import resource
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import (
    ModelProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
    helper,
    load_model_from_string,
    numpy_helper,
)

from ndserve.errors import ModelLoadError
from ndserve.model_cache.disk.onnx_file import _UNSERVED, DTYPES, Signature, read_signature
from ndserve.types import TensorSpec
from tests import onnx_models

UNSERVED = {
    "undefined": TensorProto.UNDEFINED,
    "complex64": TensorProto.COMPLEX64,
    "complex128": TensorProto.COMPLEX128,
    "uint4": TensorProto.UINT4,
    "int4": TensorProto.INT4,
    "float4e2m1": TensorProto.FLOAT4E2M1,
    "float8e8m0": 24,
    "uint2": 25,
    "int2": 26,
}

OPERATOR_SETS: bytes = ModelProto(opset_import=[helper.make_opsetid("", 17)]).SerializeToString()

PLAIN = onnx_models.tensor("plain", ["n"])


def read(data: bytes) -> Signature:
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(data)
        file.flush()
        return read_signature(Path(file.name))


def by_the_library(data: bytes) -> Signature:
    """What the onnx library says of the same bytes."""
    model = load_model_from_string(data)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    tensors = list(_tensors(graph, *model.functions))
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors]
    outside = [entry for entry in entries if entry]
    bodies = [*graph.node, *graph.initializer, *graph.sparse_initializer, *(n for f in model.functions for n in f.node)]
    sizes = [body.ByteSize() for body in bodies] + [int(entry["length"]) for entry in outside if "length" in entry]
    return Signature(
        tuple(_spec(value) for value in graph.input if value.name not in weights),
        tuple(_spec(value) for value in graph.output),
        frozenset(entry["location"] for entry in outside),
        max(sizes),
        frozenset(entry["location"] for entry in outside if "length" not in entry),
    )


def _tensors(*bodies: Any) -> Iterator[Any]:
    """Every TensorProto of these graphs and functions, and of all that is in them."""
    for body in bodies:
        yield from getattr(body, "initializer", ())
        sparse = list(getattr(body, "sparse_initializer", ()))
        for attribute in [attribute for node in body.node for attribute in node.attribute]:
            yield from _tensors(attribute.g, *attribute.graphs)
            yield from (attribute.t, *attribute.tensors)
            sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
        for tensor in sparse:
            yield from (tensor.values, tensor.indices)


def _spec(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    axes = [axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return TensorSpec(value.name, np.dtype(dtype), tuple(axes) if tensor.HasField("shape") else None)


names = st.text("abcxyz_/.0ä", min_size=1, max_size=8)
texts = st.text(max_size=20)
axes = st.lists(st.none() | st.text(max_size=5) | st.integers(1, 2**40), max_size=5)


def values(taken: list[str]) -> st.SearchStrategy[Any]:
    """A ValueInfoProto of one of these names, with or without a shape."""
    return st.builds(
        helper.make_tensor_value_info,
        st.sampled_from(taken),
        st.sampled_from(sorted(DTYPES)),
        st.none() | axes,
        doc_string=texts,
    )


@st.composite
def weights(draw: st.DrawFn, name: str) -> Any:
    """A TensorProto: inside the file in either form, or outside it."""
    array = np.arange(draw(st.integers(0, 40)), dtype=np.float32)
    if draw(st.booleans()):
        return helper.make_tensor(name, TensorProto.FLOAT, array.shape, array)
    tensor = numpy_helper.from_array(array, name)
    if draw(st.booleans()):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        keys = ["location", "offset", "length"][: draw(st.integers(1, 3))]
        for key in draw(st.permutations(keys)):
            value = draw(names) if key == "location" else str(draw(st.integers(0, 2**40)))
            tensor.external_data.add(key=key, value=value)
    return tensor


def sparse_weights() -> st.SearchStrategy[Any]:
    return st.builds(SparseTensorProto, values=weights("v"), indices=weights("i"), dims=st.just([4]))


@st.composite
def attribute_values(draw: st.DrawFn, depth: int = 2) -> dict[str, Any]:
    """Attributes of a node: none, or one of any kind, with weights and nodes inside."""
    kind = draw(st.sampled_from(["none", "int", "floats", "tensor", "tensors", "sparse", "graph", "graphs"]))
    if kind in ("graph", "graphs") and depth:
        nodes = [helper.make_node("Op", [], ["inner"], **draw(attribute_values(depth - 1)))]
        outputs = [helper.make_tensor_value_info("inner", TensorProto.STRING, None)]
        body = helper.make_graph(nodes, "body", [], outputs, [draw(weights("inner"))])
        return {"body": body if kind == "graph" else [body, body]}
    values: dict[str, Any] = {"int": 1, "floats": [1.0, 2.5], "tensor": draw(weights("t"))}
    values["tensors"] = [draw(weights("t")), values["tensor"]]
    values["sparse"] = draw(sparse_weights())
    return {"value": values[kind]} if kind in values else {}


@st.composite
def model_bytes(draw: st.DrawFn) -> bytes:
    """A model with anything around its inputs and outputs; in either order of the graph and the rest."""
    taken = draw(st.lists(names, min_size=2, max_size=6, unique=True))
    inputs = draw(st.lists(values(taken), max_size=4, unique_by=lambda value: value.name))
    outputs = draw(st.lists(values(taken), min_size=1, max_size=3, unique_by=lambda value: value.name))
    initializers = [draw(weights(name)) for name in draw(st.lists(st.sampled_from(taken), max_size=3, unique=True))]
    attributes = draw(attribute_values())
    nodes = [helper.make_node("Op", taken, ["y"], doc_string=draw(texts), **attributes)]
    graph = helper.make_graph(nodes, draw(names), inputs, outputs, initializers, doc_string=draw(texts))
    graph.sparse_initializer.extend(draw(st.lists(sparse_weights(), max_size=1)))
    graph.value_info.extend(draw(st.lists(values(taken), max_size=2)))
    inner = [helper.make_node("Op", [], ["y"], **draw(attribute_values()))]
    function = helper.make_function("own", "Fn", [], ["y"], inner, [helper.make_opsetid("own", 1)])
    model = helper.make_model(
        graph,
        producer_name=draw(texts),
        doc_string=draw(texts),
        ir_version=draw(st.sampled_from([3, 8, 10])),
        functions=[function],
    )
    helper.set_model_props(model, draw(st.dictionaries(names, texts, max_size=3)))
    if draw(st.booleans()):
        return bytes(model.SerializeToString())
    rest, alone = ModelProto(), ModelProto(graph=graph)
    rest.CopyFrom(model)
    rest.ClearField("graph")
    return bytes(alone.SerializeToString() + rest.SerializeToString())


@settings(max_examples=200, deadline=None)
@given(model_bytes())
def test_the_signature_is_what_the_onnx_library_reads(data: bytes) -> None:
    assert read(data) == by_the_library(data)


def test_a_scalar_has_a_shape_without_axes() -> None:
    scalar = onnx_models.tensor("x", [])
    assert read(helper.make_model(helper.make_graph([], "g", [scalar], [scalar])).SerializeToString()) == Signature(
        (TensorSpec("x", np.dtype(np.float32), ()),), (TensorSpec("x", np.dtype(np.float32), ()),), frozenset()
    )


def test_the_weights_are_stepped_over_and_not_read(tmp_path: Path) -> None:
    hole = 3 << 30
    path = tmp_path / "huge.onnx"
    whole = onnx_models.double().graph
    tail = whole.SerializeToString()
    name = b"\x42\x01w"
    raw_data = b"\x4a" + _varint(hole)  # field 9, with a length
    tensor = b"\x2a" + _varint(len(name) + len(raw_data) + hole)  # field 5 of the graph
    graph = b"\x3a" + _varint(len(tensor) + len(name) + len(raw_data) + hole + len(tail))  # field 7 of the model
    with path.open("wb") as file:
        file.write(graph + tensor + name + raw_data)
        file.seek(hole, io.SEEK_CUR)
        file.write(tail + OPERATOR_SETS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signature = read_signature(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert [spec.name for spec in (*signature.inputs, *signature.outputs)] == ["x", "y"]
    assert signature.largest == len(name) + len(raw_data) + hole
    assert grown < 64 << 10, "kilobytes; the weights were read"


def nested(depth: int) -> bytes:
    """A model whose graph holds a node with a graph and so on, and weights outside the file in the innermost."""
    tensor = TensorProto(name="w", data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    inside = _field(5, tensor.SerializeToString())
    for _ in range(depth):
        inside = _field(1, _field(5, _field(6, inside)))
    return _field(7, inside + _field(12, onnx_models.double().graph.output[0].SerializeToString())) + OPERATOR_SETS


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def test_weights_outside_the_file_are_found_in_subgraphs() -> None:
    assert read(nested(30)).external == {"w.bin"}


@pytest.mark.parametrize("depth", [40, 1000, 20_000])
def test_a_model_that_nests_deeper_than_can_be_loaded_is_refused(depth: int) -> None:
    with pytest.raises(ModelLoadError):
        read(nested(depth))


def _varint(number: int) -> bytes:
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.onnx", onnx_models.double().SerializeToString())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is no model\n",
        b'{"inputs": []}',
        b"\x93NUMPY\x01\x00",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n",
        _archive(),
        bytes(4096),
        helper.make_model(helper.make_graph([], "no outputs", [], [])).SerializeToString(),
        onnx_models.double().SerializeToString() + b"\x28" + b"\x80" * 11 + b"\x01",  # model_version
    ],
    ids=["empty", "text", "json", "npy", "git-lfs", "zip", "zeros", "no-outputs", "number-of-12-bytes"],
)
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(ModelLoadError):
        read(data)


def test_every_prefix_of_a_model_reads_or_is_refused() -> None:
    data = onnx_models.double().SerializeToString()
    whole = read(data)
    for length in range(len(data)):
        try:
            signature = read(data[:length])
        except ModelLoadError:
            continue
        assert signature == whole


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_read_or_are_refused(data: bytes) -> None:
    _reads_or_is_refused(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_model_reads_or_is_refused(data: st.DataObject) -> None:
    damaged = bytearray(onnx_models.double().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    _reads_or_is_refused(bytes(damaged))


def _reads_or_is_refused(data: bytes) -> None:
    try:
        signature = read(data)
    except ModelLoadError:
        return
    assert signature.outputs


@pytest.mark.parametrize("place", ["input", "output"])
@pytest.mark.parametrize("kind", UNSERVED)
def test_a_tensor_that_onnxruntime_does_not_run_is_refused_by_name_and_type(kind: str, place: str) -> None:
    odd = onnx_models.tensor("odd", ["n"], UNSERVED[kind])
    inputs, outputs = ([odd], [PLAIN]) if place == "input" else ([PLAIN], [odd])
    data = helper.make_model(helper.make_graph([], "g", inputs, outputs)).SerializeToString()
    with pytest.raises(ModelLoadError, match=rf"'odd'.*element type {UNSERVED[kind]} \({kind}\), which"):
        read(data)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (helper.make_tensor_sequence_value_info("odd", TensorProto.FLOAT, ["n"]), "a sequence"),
        (helper.make_sparse_tensor_value_info("odd", TensorProto.FLOAT, ["n"]), "a sparse tensor"),
        (helper.make_value_info("odd", helper.make_optional_type_proto(PLAIN.type)), "optional"),
        (helper.make_value_info("odd", helper.make_map_type_proto(TensorProto.INT64, PLAIN.type)), "a map"),
        (ValueInfoProto(name="odd"), "without a type"),
    ],
    ids=["sequence", "sparse", "optional", "map", "untyped"],
)
@pytest.mark.parametrize("place", ["input", "output"])
def test_what_is_no_plain_tensor_is_refused_by_name_and_kind(value: Any, kind: str, place: str) -> None:
    inputs, outputs = ([value], [PLAIN]) if place == "input" else ([PLAIN], [value])
    data = helper.make_model(helper.make_graph([], "g", inputs, outputs)).SerializeToString()
    with pytest.raises(ModelLoadError, match=f"'odd' is not a plain tensor, but {kind}"):
        read(data)


def test_every_element_type_of_onnx_is_served_or_refused_with_its_name() -> None:
    unserved = {number: name.lower() for name, number in TensorProto.DataType.items() if number not in DTYPES}
    assert unserved.items() <= _UNSERVED.items()


def test_a_file_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_signature(tmp_path / "model.onnx")
