"""The one file that knows onnxruntime: an ONNX model on a device, ready to run.

Arrays go in and out by I/O binding, as pointers into the device's own memory, so that the same lines serve the
GPU and the CPU and nothing is copied on the way (https://onnxruntime.ai/docs/api/python/api_summary.html#iobinding).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# From 1.29 on, onnxruntime sends usage data to Microsoft, and for that keeps a device id in ~/.cache and files in the
# temporary folder. A server must not do so unasked. Only the environment at the import can prevent all of it
# (Privacy.md in onnxruntime's wheel, "Disabling Telemetry"); who sets the variable to 0 has asked for it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

from ndserve.devices.base import Device, DeviceUnavailableError
from ndserve.errors import ModelLoadError
from ndserve.model_cache.onnx_file import DTYPES
from ndserve.types import Array, ModelInfo

_ONNX_TYPES = {dtype: number for number, dtype in DTYPES.items()}

# Only what is fatal: errors are raised, and the fallbacks that are merely logged are found out by `_open`.
ort.set_default_logger_severity(4)

_PROBE_MODEL = bytes.fromhex(
    # y = Relu(x) for float32 x of shape [1]: opset 17, IR version 8
    "080812003a330a0c0a0178120179220452656c751201705a0f0a0178120a0a08080112040a02"
    "0801620f0a0179120a0a08080112040a02080142040a001011"
)


class Session:
    """A loaded model. Only the lane's thread runs it; dropping the last reference frees its memory."""

    def __init__(self, info: ModelInfo, device: Device, session: ort.InferenceSession) -> None:
        self.info = info
        self._session = session
        self._device = device  # kept: the session works on its stream, which must not go before it does
        kind, _, index = device.name.partition(":")
        self._place = (kind, int(index or 0))

    @classmethod
    def open(cls, info: ModelInfo, device: Device, threads: int) -> Session:
        """Load the model from its path. Takes long; onnxruntime releases the interpreter lock meanwhile.

        Args:
            threads: of one operator on the CPU.

        Raises:
            ModelLoadError: onnxruntime refused the file, or gave another device than the one asked for.
        """
        try:
            return cls(info, device, _open(str(info.path), device, threads))
        except Exception as error:  # onnxruntime's errors have no common base class
            reason = _without_folders(str(error).replace(str(info.path), f"{info.name}/{info.version}"))
            raise ModelLoadError(f"model {info.name!r} version {info.version} does not load: {reason}") from None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on device arrays and give its outputs as device arrays, without copies.

        Raises:
            RuntimeError: the model cannot run on these inputs; mostly onnxruntime's own message.
        """
        xp, (kind, index) = self._device.xp, self._place
        binding = self._session.io_binding()
        kept = {}  # the binding does not keep alive what a pointer points to
        for name, array in inputs.items():
            dense = xp.ascontiguousarray(array).reshape(array.shape)  # which a scalar would lose
            if dense.dtype not in _ONNX_TYPES:
                raise RuntimeError(f"input {name!r} has dtype {dense.dtype}, which ONNX does not have")
            pointer = _pointer(dense)
            kept[pointer] = dense
            binding.bind_input(name, kind, index, _ONNX_TYPES[dense.dtype], dense.shape, pointer)
        for spec in self.info.outputs:
            binding.bind_output(spec.name, kind, index)
        self._session.run_with_iobinding(binding)
        # Indexed, because iterating (as get_outputs does) ends in a C++ exception that costs 20 us.
        values = binding.get_outputs_as_ortvaluevector()
        return {
            spec.name: xp.asarray(_View(values[number], kind, spec.dtype, kept.get(values[number].data_ptr())))
            for number, spec in enumerate(self.info.outputs)
        }


def check_runtime(device: Device) -> None:
    """Make sure that onnxruntime can really use the device, by loading something onto it.

    Its list of available providers and `get_device()` name the GPU on machines that have none.

    Raises:
        DeviceUnavailableError: it does not; says what is missing.
    """
    if device.name != "cpu":
        if not ort.cuda_version:
            raise DeviceUnavailableError(
                "the installed onnxruntime has no CUDA provider (onnxruntime-gpu is missing, or hidden by onnxruntime)"
            )
        built, cupy = ort.cuda_version.partition(".")[0], _cupy_major()
        if cupy is not None and built != cupy:
            raise DeviceUnavailableError(
                f"onnxruntime {ort.__version__} is built for CUDA {built}, but CuPy for CUDA {cupy}"
                " (install the extra cuda12 or cuda13, which keep them together)"
            )
        # The CUDA libraries lie in wheels, where the loader does not look by itself. What it misses it prints.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    try:
        _open(_PROBE_MODEL, device, 1)
    except Exception as error:
        raise DeviceUnavailableError(f"onnxruntime {ort.__version__} cannot use {device.name}: {error}") from None


# Of an absolute path: in quotes, where its names may hold blanks, or up to the next blank.
_FOLDERS = re.compile(r'(?<=")/[^"/]+/(?:[^"]*/)?|(?<![\w.])/[^\s"/]+/(?:[^\s"]*/)?')


def _without_folders(text: str) -> str:
    """The text with files of this machine by their last names. Operators, such as /encoder/Add, keep theirs."""

    def shorten(folders: re.Match[str]) -> str:
        top = Path("/", folders[0].split("/")[1])
        return "" if top in Path("/").iterdir() else folders[0]

    return _FOLDERS.sub(shorten, text)


def _cupy_major() -> str | None:
    for distribution in importlib.metadata.distributions():
        match = re.fullmatch(r"cupy-cuda(\d+)x", distribution.name or "")
        if match:
            return match[1]
    return None


def _open(model: str | bytes, device: Device, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads sleep: spinning would take the core from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = device.providers()
    session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted:
        raise RuntimeError(f"{wanted} could not be loaded; are the CUDA and cuDNN libraries installed?")
    return session


def _pointer(array: Array) -> int:
    """The address of the array's first element, by the protocols that NumPy and CuPy arrays follow."""
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    address: int = interface["data"][0]
    return address


class _View:
    """An OrtValue as NumPy and CuPy read foreign arrays: without a copy, and kept alive by the array made of it.

    A model may hand an input through as an output, which then points to the input's memory (`source`): that is kept,
    too, and not to be written to.
    https://numpy.org/doc/stable/reference/arrays.interface.html
    https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
    """

    def __init__(self, value: Any, kind: str, dtype: np.dtype[Any] | None, source: Array | None) -> None:
        assert dtype is not None  # an ONNX output always has one
        self._kept = (value, source)
        interface = {
            "shape": tuple(value.shape()),
            "typestr": dtype.str,
            "data": (value.data_ptr(), source is not None),
            "version": 3,
        }
        setattr(self, "__cuda_array_interface__" if kind == "cuda" else "__array_interface__", interface)
