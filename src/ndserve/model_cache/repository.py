"""What models exist on disk.

A repository is a folder of `<name>/<version>/model.onnx`, with integers as versions and an optional
`<name>/model.toml`, or of single files `<name>.onnx`, which are version 1.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path, PurePath
from typing import Any

from ndserve.errors import ModelLoadError, StartupError
from ndserve.model_cache.onnx_file import Signature, read_signature
from ndserve.model_info import ModelInfo, ModelOptions
from ndserve.types import NAME

MODEL_FILE = "model.onnx"
OPTIONS_FILE = "model.toml"
MAX_BATCH = 1_000_000


def scan(root: Path, only: str | None = None) -> list[ModelInfo]:
    """Every version of every model under `root`, or of the model called `only`, by name and then by version.

    A file that is no model, or a `model.toml` that cannot be read, is listed with the `problem` that it has:
    one bad file does not keep the others from being served.

    Raises:
        StartupError: two places hold the same model.
    """
    found: dict[tuple[str, str], ModelInfo] = {}
    for name, version, path, options_path in _locate(root):
        if only not in (None, name):
            continue
        info = _read(name, version, path, options_path)
        other = found.setdefault((name, version), info)
        if other is not info:
            raise StartupError(f"model {name!r} version {version} is both {other.path} and {path}; remove one")
    return sorted(found.values(), key=lambda info: (info.name, int(info.version)))


def names(root: Path) -> list[str]:
    """What there is under `root`, without a look into any file."""
    return sorted({name for name, *_ in _locate(root)})


def _locate(root: Path) -> Iterator[tuple[str, str, Path, Path]]:
    """Name, version, model file and options file of each version."""
    for entry in sorted(root.iterdir()):
        if entry.suffix == ".onnx" and entry.is_file() and NAME.fullmatch(entry.stem):
            yield entry.stem, "1", entry, entry.with_suffix(".toml")
        elif entry.is_dir() and NAME.fullmatch(entry.name):
            for version in sorted(entry.iterdir()):
                if version.name.isdecimal() and str(int(version.name)) == version.name:
                    path = version / MODEL_FILE
                    if path.is_file():
                        yield entry.name, version.name, path, entry / OPTIONS_FILE


def _read(name: str, version: str, path: Path, options_path: Path) -> ModelInfo:
    signature, options, nbytes, problem = Signature((), (), frozenset()), ModelOptions(), 0, ""
    stamp: tuple[int, ...] = ()
    try:
        stamp = stamp_of(path) + (stamp_of(options_path) if options_path.is_file() else ())
        options = read_options(options_path)
        signature = read_signature(path)
        external = [stamp_of(file) for file in _external_files(path, signature)]
        stamp += tuple(number for each in external for number in each)
        nbytes = path.stat().st_size + sum(size for _, size, _ in external)
    except (ModelLoadError, OSError) as error:
        problem = error.message if isinstance(error, ModelLoadError) else str(error.strerror)
    return ModelInfo(name, version, path, nbytes, signature.inputs, signature.outputs, options, problem, stamp)


STAMP = 3
"""The numbers that `stamp_of` gives."""


def stamp_of(path: Path) -> tuple[int, ...]:
    """What a file system changes when a file's content does."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _external_files(path: Path, signature: Signature) -> Iterator[Path]:
    for location in sorted(signature.external):
        file = _inside(path, location)
        if file.is_file():
            yield file


def _inside(path: Path, location: str) -> Path:
    """The file that holds external data. What the model's text places elsewhere is not even looked up.

    Raises:
        ModelLoadError: it lies outside the model's folder, be it by way of a link.
    """
    relative = PurePath(location)
    if not relative.is_absolute() and ".." not in relative.parts and "\0" not in location:
        file = Path(os.path.realpath(path.parent / relative))
        # As onnxruntime has it: where the model is itself a link, its data may lie beside what it links to.
        if any(file.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent)):
            return file
    raise ModelLoadError(f"external data {location!r} lies outside the model's folder")


def read_options(path: Path) -> ModelOptions:
    """The options in a `model.toml`; the defaults where there is none.

    Raises:
        ModelLoadError: no TOML, an unknown key, or a value that cannot be.
    """
    if not path.is_file():
        return ModelOptions()
    try:
        values = tomllib.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, a number of 5,000 digits, nested too deep
        raise ModelLoadError(f"{path.name} is not TOML: {error}") from None
    known = [field.name for field in fields(ModelOptions)]
    for key, value in values.items():
        if key not in known:
            raise ModelLoadError(f"{path.name}: unknown key {key!r}; known are {', '.join(known)}")
        if not _fits(key, value):
            raise ModelLoadError(f"{path.name}: {key} cannot be {value!r}")
    return ModelOptions(**values)


def _fits(key: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match key:
        case "max_batch_size":
            return isinstance(value, int) and number and 1 <= value <= MAX_BATCH
        case "max_wait_ms":
            return number and 0 <= value <= 60_000
        case "batching":
            return value in ("auto", "off")
        case _:
            return isinstance(value, bool)
