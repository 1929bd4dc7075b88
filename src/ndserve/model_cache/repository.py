"""What models exist on disk.

A repository is a folder of `<name>/<version>/model.onnx`, with integers as versions and an optional
`<name>/model.toml`, or of single files `<name>.onnx`, which are version 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ndserve.errors import ModelLoadError, StartupError
from ndserve.model_cache.external import external_files
from ndserve.model_cache.model_toml import named_warmup, read_options
from ndserve.model_cache.onnx_file import read_signature
from ndserve.model_info import ModelInfo
from ndserve.types import NAME

MODEL_FILE = "model.onnx"
OPTIONS_FILE = "model.toml"


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
        info = _read(root, name, version, path, options_path)
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


def _read(root: Path, name: str, version: str, path: Path, options_path: Path) -> ModelInfo:
    found = ModelInfo(name, version, path, 0, (), ())
    try:
        for file in (path, options_path):
            _check_inside(root, file)
        stamp = stamp_of(path) + (stamp_of(options_path) if options_path.is_file() else ())
        found = replace(found, stamp=stamp)
        found = replace(found, options=read_options(options_path))
        signature = read_signature(path)
        external = external_files(path, signature.external)
        stamps = [stamp_of(file) for file in external]
        return replace(
            found,
            nbytes=path.stat().st_size + sum(size for _, size, _ in stamps),
            inputs=signature.inputs,
            outputs=signature.outputs,
            stamp=stamp + tuple(number for each in stamps for number in each),
            options=replace(found.options, warmup=named_warmup(found.options, signature.inputs, options_path.name)),
            largest=max([signature.largest, *(size for _, size, _ in stamps if signature.untold)]),
            external=external,
        )
    except (ModelLoadError, OSError) as error:
        problem = error.message if isinstance(error, ModelLoadError) else str(error.strerror)
        return replace(found, problem=problem)


STAMP = 3
"""The numbers that `stamp_of` gives."""


def stamp_of(path: Path) -> tuple[int, ...]:
    """What a file system changes when a file's content does."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _check_inside(root: Path, file: Path) -> None:
    """Refuse a file that a link takes out of the repository. The repository itself may be a link.

    Raises:
        ModelLoadError: it lies elsewhere.
    """
    if not file.resolve().is_relative_to(root.resolve()):
        raise ModelLoadError(f"{file.name} is reached by a link that leads out of the model folder; copy it there")
