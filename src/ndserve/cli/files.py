"""Arrays from files and into files."""

from __future__ import annotations

import glob
import io
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ndserve.cli.exits import UsageError

if TYPE_CHECKING:
    from ndserve.client.wire import Result

ARRAYS = (".npy", ".npz")
IMAGES = (".png", ".jpg", ".jpeg")


def read(name: str) -> Any:
    """The array of a file, or its arrays by name; `-` is stdin.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    suffix = Path(name).suffix.lower()
    if name == "-":
        return _arrays("stdin", io.BytesIO(sys.stdin.buffer.read()))
    if suffix not in ARRAYS + IMAGES:
        raise UsageError(f"{name}: not a file of arrays; {', '.join(ARRAYS + IMAGES)} are read")
    try:
        with Path(name).open("rb") as file:
            return _arrays(name, file) if suffix in ARRAYS else _image(name, file)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from None


def _arrays(name: str, file: BinaryIO) -> Any:
    try:
        loaded = np.load(file, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{name}: no arrays that can be read ({error})") from None


def _image(name: str, file: BinaryIO) -> Any:
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise UsageError(f"{name}: reading images needs Pillow: pip install pillow") from None
    try:
        # A camera stores how it was held beside the pixels; people and models want the picture upright.
        image = ImageOps.exif_transpose(Image.open(file))
        if image.mode in ("1", "P"):
            # Black and white, or numbers of colours in a palette: neither are the values that one sees.
            image = image.convert("L" if image.mode == "1" else "RGBA" if "transparency" in image.info else "RGB")
        pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{name}: no image that can be read ({error})") from None
    if pixels.dtype != np.uint8:
        raise UsageError(f"{name}: an image of {pixels.dtype} values; only 8 bits a channel are read. Save it as .npy")
    return pixels


def find(patterns: Sequence[str]) -> list[Path]:
    """The files that names and patterns stand for, each once, in order.

    Raises:
        UsageError: one of them stands for nothing, or two files would have one result.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        # A name may hold brackets: it is a pattern only where there is no such file.
        found = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        fitting = [Path(name) for name in found if Path(name).is_file()]
        if not fitting:
            hint = f"; for the files of a folder: '{pattern}/*.npy'" if Path(pattern).is_dir() else ""
            raise UsageError(f"no file fits {pattern!r}{hint}")
        files.update(dict.fromkeys(fitting))
    stems: dict[str, Path] = {}
    for file in files:
        if stems.setdefault(file.stem, file) != file:
            raise UsageError(f"{stems[file.stem]} and {file} would both be written as {file.stem}.npy")
    return list(files)


def check_output(name: str | None) -> None:
    """Refuse an output before any work is done.

    Raises:
        UsageError: the name is not that of a file of arrays, or its folder is missing.
    """
    if name is None or name == "-":
        return
    if Path(name).suffix.lower() not in ARRAYS:
        raise UsageError(f"{name}: results are written as .npy or .npz")
    if not Path(name).parent.is_dir():
        raise UsageError(f"{name}: there is no folder {Path(name).parent}")


def write(result: Result, name: str) -> None:
    """Write a result to a file that appears when it is complete, or to stdout for `-`.

    Raises:
        UsageError: it cannot be written, or several arrays do not fit a .npy file.
    """
    if name == "-":
        body = io.BytesIO()
        _save(result, body, several=isinstance(result, dict))
        sys.stdout.buffer.write(body.getvalue())
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    several = path.suffix.lower() == ".npz"
    if isinstance(result, dict) and not several:
        raise UsageError(f"{name}: the result has the arrays {', '.join(result)}; write it to a .npz file")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("wb") as file:
                _save(result, file, several=several)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from None


def _save(result: Result, file: BinaryIO, *, several: bool) -> None:
    for array in result.values() if isinstance(result, dict) else (result,):
        if array.dtype.hasobject:
            raise UsageError("the result holds texts, which no .npy or .npz file can; leave -o out to see them")
    if not several:
        np.save(file, result, allow_pickle=False)  # type: ignore[arg-type]
        return
    arrays = result if isinstance(result, dict) else {"result": result}
    # As numpy.savez writes it, which has no place for an array called "file".
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
