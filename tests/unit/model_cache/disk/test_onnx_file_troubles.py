"""What is said of a file that is no model, and of one of which a part is missing."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ndserve.errors import ModelLoadError
from ndserve.model_cache.disk.onnx_file import read_signature
from ndserve.model_cache.disk.protobuf import Span, fields_of
from tests import onnx_models
from tests.unit.model_cache.disk.test_onnx_file import OPERATOR_SETS, read

WHOLE: bytes = onnx_models.double().SerializeToString()


def trouble(data: bytes) -> str:
    with pytest.raises(ModelLoadError) as caught:
        read(data)
    return caught.value.message


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"PK\x03\x04" + bytes(100), "a zip archive"),
        (b"PK\x05\x06" + bytes(18), "an empty zip archive"),
        (gzip.compress(WHOLE, mtime=0), "compressed with gzip"),
        (b"\x93NUMPY\x01\x00" + bytes(100), "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<title>404 Not Found</title>", "but text"),
        (b'{"inputs": []}', "but text"),
        ("Grüße\r\n".encode() * 200, "but text"),
        (b"hello", "but text"),
    ],
)
def test_a_file_of_another_kind_is_told_by_its_kind(data: bytes, told: str) -> None:
    assert trouble(data).startswith("the file is not an ONNX model, but ")
    assert told in trouble(data)


@pytest.mark.parametrize("data", [bytes(4096), b"\x00", b"\x0b" * 50, b"\x08\x08" + b"\x0f" * 9, b"\xff" * 99])
def test_any_other_bytes_are_no_model(data: bytes) -> None:
    assert trouble(data) == "the file is not an ONNX model"


@given(st.integers(1, len(WHOLE) - 1))
def test_a_model_that_is_cut_off_anywhere_is_refused(length: int) -> None:
    assert trouble(WHOLE[:length])


def test_a_model_that_is_cut_off_in_its_graph_is_told_with_both_sizes() -> None:
    assert (
        trouble(WHOLE[:50])
        == f"the file is cut off: it has 50 bytes of at least {len(WHOLE) - len(OPERATOR_SETS)}; copy or send it anew"
    )


def test_a_model_that_is_cut_off_in_a_tag_is_told() -> None:
    assert trouble(WHOLE[:3]) == "the file is cut off after 3 bytes; copy or send it anew"


def test_a_model_that_ends_before_its_operator_sets_is_not_whole() -> None:
    proto = onnx_models.double()
    proto.ClearField("opset_import")
    assert "operator sets (opset_import) are missing" in trouble(proto.SerializeToString())


def test_zeros_in_place_of_the_rest_are_refused() -> None:
    """As a copy leaves them that has reserved its room beforehand."""
    half = len(WHOLE) // 2
    assert trouble(WHOLE[:half] + bytes(len(WHOLE) - half))
    assert trouble(WHOLE + b"\0") == "the file is not an ONNX model"


def test_a_large_model_that_is_cut_off_in_its_weights_is_told(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    x, y = onnx_models.tensor("x", [50_000]), onnx_models.tensor("y", [50_000])
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_models.model([node], [x], [y], w=np.zeros(50_000, np.float32)).SerializeToString())
    os.truncate(path, 100_000)
    with pytest.raises(ModelLoadError, match=r"cut off: it has 100000 bytes of at least 200\d\d\d"):
        read_signature(path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x0a\x80\x20" + bytes(4096) + b"\x0a\x80\x20" + bytes(4096))
    with path.open("rb") as file:
        found = fields_of(Span(file.fileno(), 0, 8198))
        next(found)
        os.truncate(path, 0)
        with pytest.raises(IndexError):
            next(found)


def test_the_largest_weight_may_be_a_constant_of_a_node() -> None:
    tensor = numpy_helper.from_array(np.zeros(1000, np.float32))
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["x", "c"], ["y"])]
    x, y = onnx_models.tensor("x", [1000]), onnx_models.tensor("y", [1000])
    assert 4000 < read(onnx_models.model(nodes, [x], [y]).SerializeToString()).largest < 4100


@pytest.mark.parametrize("length", ["", "-1", "1.5", "x", "٣", "9" * 20])
def test_a_weight_outside_with_a_length_that_is_none_is_unmeasured(length: str) -> None:
    proto = onnx_models.double()
    tensor = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    tensor.external_data.add(key="length", value=length)
    signature = read(proto.SerializeToString())
    assert signature.unmeasured == signature.external == {"w.bin"}


def test_weights_outside_the_file_are_found_in_training_graphs() -> None:
    proto = onnx_models.double()
    tensor = proto.training_info.add().algorithm.initializer.add(name="w", data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../w.bin")
    assert read(proto.SerializeToString()).external == {"../w.bin"}
