"""What onnxruntime gives when it is run alone: the measure of what is served."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from ndserve import byte_strings
from ndserve.dtypes import carried, is_narrow
from ndserve.model_cache.disk.onnx_file import DTYPES
from ndserve.types import HostArray

NUMBERS = {dtype: number for number, dtype in DTYPES.items()}


def alone(proto: Any, inputs: Mapping[str, HostArray]) -> dict[str, HostArray]:
    """The outputs by name. Texts are byte strings on both sides, narrow floats of ml_dtypes' dtypes."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    if any(array.dtype.hasobject for array in inputs.values()):
        feed = {name: byte_strings.decoded(a) if a.dtype.hasobject else _value(a) for name, a in inputs.items()}
        return {name: _encoded(array) for name, array in zip(names, session.run(names, feed), strict=True)}
    values = session.run_with_ort_values(names, {name: _value(array) for name, array in inputs.items()})
    return {name: _array(value) for name, value in zip(names, values, strict=True)}


def _value(array: HostArray) -> Any:
    if is_narrow(array.dtype):
        bits = carried(array).copy()  # onnxruntime goes by the address alone, whatever the strides
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, NUMBERS[array.dtype])
    return ort.OrtValue.ortvalue_from_numpy(array)


def _array(value: Any) -> HostArray:
    dtype = DTYPES[value.element_type()]
    if not is_narrow(dtype):
        return _encoded(value.numpy())
    shape = tuple(value.shape())
    nbytes = dtype.itemsize * int(np.prod(shape))
    return np.frombuffer(ctypes.string_at(value.data_ptr(), nbytes), dtype).reshape(shape)


def _encoded(array: HostArray) -> HostArray:
    return byte_strings.encoded(array) if array.dtype.hasobject else array


def assert_same(actual: Mapping[str, HostArray], expected: Mapping[str, HostArray]) -> None:
    """Equal names, dtypes, shapes and bits."""
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert (name, actual[name].dtype, actual[name].shape) == (name, array.dtype, array.shape)
        assert bits(actual[name]) == bits(array)


def bits(array: HostArray) -> bytes:
    """What tells an array from others of its dtype and shape."""
    return byte_strings.pack(array) if array.dtype.hasobject else array.tobytes()


def values(dtype: np.dtype[Any], *shape: int) -> HostArray:
    """Some values of any dtype, the same each time."""
    count = int(np.prod(shape))
    if dtype.hasobject:
        return byte_strings.of([f"tëxt {number}".encode() for number in range(count)], shape)
    return (np.arange(count) % 7).astype(dtype).reshape(shape)
