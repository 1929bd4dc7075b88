"""What models exist on disk.

A repository is a folder of `<name>/<version>/model.onnx`, with integers as versions and an optional
`<name>/model.toml`, or of single files `<name>.onnx`, which are version 1. All of it lies in the folder: the folder
itself may be a link, and links from one place in it to another are followed, but none that leads out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ndserve.errors import ModelLoadError, StartupError
from ndserve.model_cache.disk.external import external_files
from ndserve.model_cache.disk.model_toml import fit_warmup, read_options
from ndserve.model_cache.disk.onnx_file import Signature, read_signature
from ndserve.model_cache.disk.stamps import stamp_of
from ndserve.model_info import ModelInfo, ModelOptions
from ndserve.types import NAME

MODEL_FILE = "model.onnx"
OPTIONS_FILE = "model.toml"
VERSION = re.compile(r"0|[1-9][0-9]{0,17}")
"""What a version may be called: a number as it is written, which fits into 64 bits."""


class Place(NamedTuple):
    """Where a version of a model lies, or is about to."""

    name: str
    version: str
    path: Path
    options: Path


def scan(root: Path, only: str | None = None) -> list[ModelInfo]:
    """Every version of every model under `root`, or of the model called `only`, by name and then by version.

    A file that is no model, or a `model.toml` that cannot be read, is listed with the `problem` that it has:
    one bad file does not keep the others from being served.

    Raises:
        StartupError: two places hold the same model.
        OSError: the folder cannot be read.
    """
    found: dict[tuple[str, str], ModelInfo] = {}
    for place in locate(root):
        if only not in (None, place.name):
            continue
        info = read(place, root)
        other = found.setdefault((place.name, place.version), info)
        if other is not info:
            raise StartupError(
                f"model {place.name!r} version {place.version} is both {other.path} and {place.path}; remove one"
            )
    return sorted(found.values(), key=lambda info: (info.name, int(info.version)))


def names(root: Path) -> list[str]:
    """What there is under `root`, without a look into any file."""
    return sorted({place.name for place in locate(root)})


def locate(root: Path) -> Iterator[Place]:
    """Each version of each model under `root`. A folder that is a link out of it is version 1, and not looked into."""
    for entry in sorted(root.iterdir()):
        if entry.suffix == ".onnx" and NAME.fullmatch(entry.stem) and entry.is_file():
            yield single_place(root, entry.stem)
        elif NAME.fullmatch(entry.name) and entry.is_dir():
            if leaves(root, entry):
                yield folder_place(root, entry.name, "1")
                continue
            for version in sorted(entry.iterdir()):
                place = folder_place(root, entry.name, version.name)
                if VERSION.fullmatch(version.name) and (place.path.is_file() or leaves(root, place.path)):
                    yield place


def folder_place(root: Path, name: str, version: str) -> Place:
    """Where the version lies as a folder."""
    return Place(name, version, root / name / version / MODEL_FILE, root / name / OPTIONS_FILE)


def single_place(root: Path, name: str) -> Place:
    """Where the model lies as a single file."""
    return Place(name, "1", root / f"{name}.onnx", root / f"{name}.toml")


def leaves(root: Path, path: Path) -> bool:
    """Whether a link leads from `path` out of `root`. `path` need not exist."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def read(place: Place, root: Path) -> ModelInfo:
    """The version of a model that lies at `place` under `root`, or the problem that it has."""
    name, version, path, options_path = place
    signature, options, nbytes, largest, problem = Signature((), (), frozenset()), ModelOptions(), 0, 0, ""
    stamp: tuple[int, ...] = ()
    files: tuple[Path, ...] = ()
    try:
        _check_links(place, root)
        stamp = stamp_of(path) + (stamp_of(options_path) if options_path.is_file() else ())
        nbytes = path.stat().st_size
        options = read_options(options_path)
        signature = read_signature(path)
        options = fit_warmup(options, signature.inputs)
        files = external_files(path, signature.external)
        stamps = [stamp_of(file) for file in files]
        stamp += tuple(number for each in stamps for number in each)
        nbytes += sum(size for _, size, _ in stamps)
        largest = _largest(path, signature, nbytes)
    except (ModelLoadError, OSError) as error:
        problem = error.message if isinstance(error, ModelLoadError) else str(error.strerror)
    return ModelInfo(
        name,
        version,
        path,
        nbytes,
        signature.inputs,
        signature.outputs,
        options,
        problem,
        stamp,
        largest=largest,
        external=files,
    )


def _check_links(place: Place, root: Path) -> None:
    for path in (place.path, place.options):
        if leaves(root, path):
            raise ModelLoadError(
                f"{path.name} is a link out of the model folder, or lies behind one; put the file itself there"
            )


def _largest(path: Path, signature: Signature, nbytes: int) -> int:
    """The most that one weight may take. What the file says of it cannot be more than there is."""
    unmeasured = (file.stat().st_size for file in external_files(path, signature.unmeasured))
    return min(max([signature.largest, *unmeasured]), nbytes)
