"""The one file that knows onnxruntime: an ONNX model on a device, ready to run.

Arrays go in and out by I/O binding, as pointers into the device's own memory, so that the same lines serve the
GPU and the CPU and nothing is copied on the way (https://onnxruntime.ai/docs/api/python/api_summary.html#iobinding).
Texts have no such pointers: a model that takes some runs on host arrays, and those that a model gives are read there.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

# From 1.29 on, onnxruntime sends usage data to Microsoft, and for that keeps a device id in ~/.cache and files in the
# temporary folder. A server must not do so unasked. Only the environment at the import can prevent all of it
# (Privacy.md in onnxruntime's wheel, "Disabling Telemetry"); who sets the variable to 0 has asked for it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

from ndserve import byte_strings
from ndserve.devices.base import Device, DeviceUnavailableError
from ndserve.dtypes import NARROW, PLAIN, TEXT, carrier, is_narrow
from ndserve.errors import ModelLoadError
from ndserve.model_cache import providers
from ndserve.model_cache.disk.onnx_file import DTYPES
from ndserve.model_cache.disk.stamps import STAMP, stamp_of
from ndserve.model_cache.foreign_memory import View, address_of
from ndserve.model_cache.optimized import WEIGHTS, OptimizedModels
from ndserve.model_cache.providers import Providers
from ndserve.model_info import ModelInfo, ModelOptions
from ndserve.types import Array, HostArray, TensorSpec

_TYPE_NAMES = {
    **{dtype: f"tensor({name})" for name, dtype in PLAIN.items()},
    PLAIN["float16"]: "tensor(float16)",
    PLAIN["float32"]: "tensor(float)",
    PLAIN["float64"]: "tensor(double)",
    TEXT: "tensor(string)",
    **{dtype: f"tensor({name.replace('float8_', 'float8')})" for name, dtype in NARROW.items()},
}
"""dtype -> what onnxruntime calls a tensor of it."""

_ONNX_TYPES = {dtype: number for number, dtype in DTYPES.items()}
_BOUND = {dtype: number for dtype, number in _ONNX_TYPES.items() if dtype != TEXT and not is_narrow(dtype)}
"""The ONNX types of arrays that are bound as what they are."""

# Only what is fatal: errors are raised, and the fallbacks that are merely logged are found out by `_open`.
ort.set_default_logger_severity(4)

RUNTIME = f"onnxruntime {ort.__version__}"
"""What models run in."""

_PROBE_MODEL = bytes.fromhex(
    # y = Relu(x) for float32 x of shape [1]: opset 17, IR version 8
    "080812003a330a0c0a0178120179220452656c751201705a0f0a0178120a0a08080112040a02"
    "0801620f0a0179120a0a08080112040a02080142040a001011"
)


class Session:
    """A loaded model. Only the lane's thread runs it; dropping the last reference frees its memory."""

    def __init__(
        self, info: ModelInfo, device: Device, session: ort.InferenceSession, *, on_host: bool = False
    ) -> None:
        """`on_host`: the model runs on the host, wherever the device's arrays lie."""
        self.info = info
        self._session = session
        self._device = device  # kept: the session works on its stream, which must not go before it does
        kind, _, index = device.name.partition(":")
        self._place = ("cpu", 0) if on_host else (kind, int(index or 0))
        self._on_host = on_host
        self._takes_texts = any(spec.dtype == TEXT for spec in info.inputs)
        # Of a narrow float the bits are bound, as what the model takes them for.
        self._narrow = {spec.name: _bits(spec.dtype) for spec in info.inputs if is_narrow(spec.dtype)}
        self._outputs = [_Output.of(spec, self._place) for spec in info.outputs]

    @classmethod
    def open(
        cls,
        info: ModelInfo,
        device: Device,
        threads: int,
        optimized: OptimizedModels | None = None,
        digest: str | None = None,
    ) -> Session:
        """Load the model from its path. Takes long; onnxruntime releases the interpreter lock meanwhile.

        Args:
            threads: of one operator on the CPU.
            optimized: graphs of former loads, which spare this one the optimising.
            digest: of the model's file and its external data, by which its graph is found there; None leaves it out.

        Raises:
            ModelLoadError: onnxruntime refused the file, or gave another device than the one asked for; the file is
                not the one that `info` was read from; the model's options have one that no model may have; or the
                model takes texts and gives narrow floats, which onnxruntime's Python API has no way to run.
        """
        narrow = [str(spec) for spec in info.outputs if is_narrow(spec.dtype)]
        if narrow and any(spec.dtype == TEXT for spec in info.inputs):
            raise ModelLoadError(
                f"model {info.name!r} version {info.version} takes texts and gives {narrow[0]}:"
                " onnxruntime's Python API cannot do both at once"
            )
        try:
            chosen = providers.chosen(device, info.options)
            opener = partial(_open_checked, info, chosen, threads)
            if optimized is None or digest is None or not providers.can_be_saved(chosen):
                session = opener()
            else:
                path = optimized.path_for(digest, ort.__version__, ort.get_build_info(), providers.of(device, chosen))
                session = optimized.open(info, path, opener)
            return cls(info, device, session, on_host=providers.on_host(device, chosen))
        except Exception as error:  # onnxruntime's errors have no common base class
            reason = _without_folders(str(error).replace(str(info.path), f"{info.name}/{info.version}"))
            raise ModelLoadError(f"model {info.name!r} version {info.version} does not load: {reason}") from None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on device arrays and give its outputs as device arrays, without copies.

        Narrow floats come and go as their bits (`dtypes.carrier`), texts as host arrays of byte strings.

        Raises:
            RuntimeError: the model cannot run on these inputs; mostly onnxruntime's own message.
        """
        if self._takes_texts:
            return self._run_unbound(inputs)
        if not self._on_host:
            return self._run_bound(self._device.xp, inputs)
        to_host, to_device = self._device.to_host, self._device.to_device
        outputs = self._run_bound(np, {name: to_host(array) for name, array in inputs.items()})
        return {name: array if array.dtype == TEXT else to_device([array]) for name, array in outputs.items()}

    def _run_bound(self, xp: ModuleType, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run on arrays of that namespace, which lie where the model runs."""
        kind, index = self._place
        binding = self._session.io_binding()
        kept = {}  # the binding does not keep alive what a pointer points to
        narrow = self._narrow
        for name, array in inputs.items():
            dense = xp.ascontiguousarray(array).reshape(array.shape)  # which a scalar would lose
            numbers = narrow.get(name, _BOUND)
            if dense.dtype not in numbers:
                raise _unfit(name, dense)
            pointer = address_of(dense)
            kept[pointer] = dense
            binding.bind_input(name, kind, index, numbers[dense.dtype], dense.shape, pointer)
        for name, place, _ in self._outputs:
            binding.bind_output(name, *place)
        self._session.run_with_iobinding(binding)
        # Indexed, because iterating (as get_outputs does) ends in a C++ exception that costs 20 us.
        values = binding.get_outputs_as_ortvaluevector()
        return {
            name: xp.asarray(View(values[number], kind, typestr, kept.get(values[number].data_ptr())))
            if typestr
            # Not by `copy_outputs_to_cpu`, which dies of texts (seen with 1.32).
            else byte_strings.encoded(values[number].numpy())
            for number, (name, _, typestr) in enumerate(self._outputs)
        }

    def _run_unbound(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The same for a model that takes texts, by way of host arrays."""
        device = self._device
        feed: dict[str, Any] = {}
        kept = []  # an OrtValue does not keep alive the array that it was made of
        for name, array in inputs.items():
            if array.dtype == TEXT:
                feed[name] = _decoded(name, array)
                continue
            feed[name] = host = device.to_host(array)
            if name in self._narrow:
                numbers = self._narrow[name]
                if host.dtype not in numbers:
                    raise _unfit(name, host)
                kept.append(dense := np.ascontiguousarray(host).reshape(host.shape))
                feed[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(dense, numbers[host.dtype])
        try:
            arrays: Sequence[HostArray] = self._session.run([name for name, *_ in self._outputs], feed)
        except Exception as error:  # onnxruntime's errors have no common base class, and it adds its own ValueError
            raise RuntimeError(str(error)) from None
        return {
            name: device.to_device([array]) if typestr else byte_strings.encoded(array)
            for array, (name, _, typestr) in zip(arrays, self._outputs, strict=True)
        }


def _check(info: ModelInfo, session: ort.InferenceSession) -> None:
    """Make sure that the session is what `info` says. Its outputs are read from memory as what that says they are.

    Raises:
        ValueError: they differ: the file has changed since it was read, or says one thing twice.
    """
    if info.stamp and stamp_of(info.path) != info.stamp[:STAMP]:
        raise ValueError("its file has changed since it was read; load the model anew")
    for specs, found in ((info.inputs, session.get_inputs()), (info.outputs, session.get_outputs())):
        types = {each.name: each.type for each in found}
        for spec in specs:
            if spec.dtype is not None and types.get(spec.name) != _TYPE_NAMES[spec.dtype]:
                raise ValueError(f"onnxruntime has {types.get(spec.name, 'nothing')} for {spec}")


class _Output(NamedTuple):
    """Where onnxruntime is to leave an output, and its elements as the array protocols say it; empty for texts."""

    name: str
    place: tuple[str, int]
    typestr: str

    @classmethod
    def of(cls, spec: TensorSpec, place: tuple[str, int]) -> _Output:
        assert spec.dtype is not None  # an ONNX output always has one
        if spec.dtype == TEXT:
            return cls(spec.name, ("cpu", 0), "")
        return cls(spec.name, place, carrier(spec.dtype).str)


def _bits(dtype: np.dtype[Any] | None) -> dict[np.dtype[Any], int]:
    """The ONNX type under which the bits of a narrow float are bound, by their dtype."""
    assert dtype is not None
    return {carrier(dtype): _ONNX_TYPES[dtype]}


def _unfit(name: str, array: Array) -> RuntimeError:
    return RuntimeError(f"input {name!r} has dtype {array.dtype}, which ONNX does not have or the input does not take")


def _decoded(name: str, array: HostArray) -> HostArray:
    """The texts as `str`, since onnxruntime takes the `repr` of anything else; ONNX has them in UTF-8."""
    try:
        return byte_strings.decoded(array)
    except UnicodeDecodeError as error:
        raise RuntimeError(f"input {name!r}: {error.reason}, as ONNX strings are") from None
    except AttributeError:
        raise RuntimeError(f"input {name!r} holds something else than bytes") from None


def check_runtime(device: Device) -> None:
    """Make sure that onnxruntime can really use the device, by running something on it.

    Its list of available providers and `get_device()` name the GPU on machines that have none. What onnxruntime takes
    once for all models it takes here, so that the first of them is not measured with it.

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
        session = _open(_PROBE_MODEL, providers.chosen(device, ModelOptions()), 1)
        session.run(None, {"x": np.zeros(1, np.float32)})
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


def _open_checked(
    info: ModelInfo, chosen: Providers, threads: int, *, ready: Path | None = None, save: Path | None = None
) -> ort.InferenceSession:
    """As `optimized.Opener` says it.

    Raises:
        RuntimeError, ValueError: the session is not the one that was asked for, or onnxruntime's own error.
    """
    session = _open(str(ready or info.path), chosen, threads, optimize=ready is None, save=save)
    _check(info, session)
    return session


def _open(
    model: str | bytes, chosen: Providers, threads: int, *, optimize: bool = True, save: Path | None = None
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads sleep: spinning would take the core from the event loop. Two threads on two cores were a third faster
    # with it while both cores were free, a tenth slower while something else was busy, and took up to twice the CPU.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save is not None:
        options.optimized_model_filepath = str(save)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
        # Less than that stays in the graph: operators read shapes from there while it is loaded.
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    session = ort.InferenceSession(model, options, providers=chosen, enable_fallback=0)
    if lacking := providers.missing(chosen, session.get_providers()):
        raise RuntimeError(lacking)
    return session
