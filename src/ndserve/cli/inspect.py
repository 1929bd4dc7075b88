"""`ndserve inspect`: what a model file takes and gives.

It needs the extra `server`, and neither a server nor onnxruntime. The fields that it reads are those of `ModelProto` in
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ndserve.cli import show
from ndserve.cli.exits import DONE, USAGE, UsageError
from ndserve.cli.model_table import plain, size
from ndserve.cli.specs import spec_documents
from ndserve.dtypes import TEXT
from ndserve.errors import ModelLoadError
from ndserve.model_cache.batch_safety import before_loading
from ndserve.model_cache.disk.digests import ContentDigest, digest_of
from ndserve.model_cache.disk.protobuf import Span, all_of, integer_of, text_of
from ndserve.model_cache.disk.repository import MODEL_FILE, OPTIONS_FILE, VERSION, Place, read
from ndserve.model_cache.warm_up import shapes_to_run
from ndserve.model_info import Batching, ModelInfo

ONNX_DOMAIN = "ai.onnx"
"""What the empty domain stands for."""

Shapes = Mapping[str, tuple[int, ...]]


class Head(NamedTuple):
    """What a model file says of how it was made. `opsets` are versions of operator sets by their domains."""

    ir_version: int | None
    producer: str
    opsets: dict[str, int]


class Found(NamedTuple):
    """All that is shown of a model file."""

    info: ModelInfo
    head: Head
    digest: ContentDigest
    batching: Batching
    warmup: Sequence[Shapes]


def inspect(options: argparse.Namespace) -> int:
    """Show what the file says; gives the exit code."""
    try:
        found = look_into(options.file, options.model_toml, options.max_batch_size)
    except UsageError as error:
        show.fault("invalid_model", str(error), options.json)
        return USAGE
    if options.json:
        show.document({"file": options.file, **described(found)})
    else:
        lines(options.file, found)
    return DONE


def look_into(file: str, options: str | None, max_batch: int) -> Found:
    """Read the file at that path.

    Raises:
        UsageError: it is no model that can be served, or cannot be read; says why.
    """
    # Where the file is a link, its external data lies beside what it leads to.
    path = Path(os.path.realpath(file))
    if path.exists() and not path.is_file():  # a pipe would never end
        raise UsageError(f"{file}: is not a regular file")
    if options is not None and not Path(options).is_file():
        raise UsageError(f"{options}: there is no such file")
    place = _place(path, options)
    try:
        # Anything below `/` may be looked at: the file is the caller's own.
        info = read(place, Path("/"))
        if info.problem:
            raise UsageError(f"{file}: {plain(info.problem)}")
        head, digest = read_head(path), digest_of(info)
    except ModelLoadError as error:
        raise UsageError(f"{file}: {plain(error.message)}") from None
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    batching = _batching(info)
    rows = info.options.max_batch_size or max_batch
    return Found(info, head, digest, batching, shapes_to_run(info, rows, batching.mode != "off"))


def _place(path: Path, options: str | None) -> Place:
    """The file as a version of a model, with the options that a server would find for it."""
    versioned = path.name == MODEL_FILE and VERSION.fullmatch(path.parent.name)
    usual = (
        path.parent.parent / OPTIONS_FILE if versioned else path.with_name(f"{path.name.removesuffix('.onnx')}.toml")
    )
    name, version = (path.parent.parent.name, path.parent.name) if versioned else (path.stem, "1")
    return Place(name, version, path, usual if options is None else Path(os.path.realpath(options)))


def read_head(path: Path) -> Head:
    """How the model at `path` was made.

    Raises:
        ModelLoadError: it does not say so as an ONNX model does.
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        model = Span(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        try:
            opsets = {text_of(each, 1) or ONNX_DOMAIN: integer_of(each, 2) or 0 for each in all_of(model, 8)}
            return Head(integer_of(model, 1), " ".join((text_of(model, 2), text_of(model, 3))).strip(), opsets)
        except (IndexError, ValueError):
            raise ModelLoadError("the file is not an ONNX model") from None


def _batching(info: ModelInfo) -> Batching:
    """What is known without a run, and where it is not known, when it will be."""
    found = before_loading(info)
    if found.mode != "untested":
        return found
    known = all(spec.shape is not None and None not in spec.shape[1:] and spec.dtype != TEXT for spec in info.inputs)
    when = "when it is loaded" if known else "with the shapes of the first request"
    return Batching("untested", f"a trial {when} decides")


def described(found: Found) -> dict[str, Any]:
    """The findings as JSON. Sizes are in bytes; a null axis is free."""
    info = found.info
    folder = info.path.parent
    digests = dict(found.digest.files)
    external = [(file, file.relative_to(folder).as_posix()) for file in info.external]
    return {
        "sha256": found.digest.whole,
        "bytes": {
            "file": info.nbytes - sum(_sizes(info)),
            "external": sum(_sizes(info)),
            "largest_weight": info.largest,
        },
        "external_data": [
            {"name": name, "bytes": file.stat().st_size, "sha256": digests[name]} for file, name in external
        ],
        "ir_version": found.head.ir_version,
        "producer": found.head.producer,
        "opsets": found.head.opsets,
        "inputs": spec_documents(info.inputs),
        "outputs": spec_documents(info.outputs),
        "batching": {"mode": found.batching.mode, "reason": found.batching.reason},
        "warmup": [{name: list(shape) for name, shape in shapes.items()} for shapes in found.warmup],
    }


def lines(file: str, found: Found) -> None:
    """The findings for people."""
    info, head = found.info, found.head
    external = sum(_sizes(info))
    outside = f", and {size(external)} of external data in {len(info.external)} file(s)" if external else ""
    rows = [
        ("file", file),
        ("sha256", found.digest.whole),
        ("size", size(info.nbytes - external) + outside),
        ("largest weight", f"at most {size(info.largest)}"),
        ("producer", head.producer or "not told"),
        ("IR version", "not told" if head.ir_version is None else str(head.ir_version)),
        ("opsets", ", ".join(f"{domain} {version}" for domain, version in head.opsets.items())),
        *(("input", str(spec)) for spec in info.inputs),
        *(("output", str(spec)) for spec in info.outputs),
        ("batching", f"{found.batching.mode}: {found.batching.reason}"),
        *(("warm-up", _told(shapes)) for shapes in found.warmup),
    ]
    if not found.warmup:
        rows.append(("warm-up", "none: model.toml says so, or no shapes are known that would do"))
    width = max(len(title) for title, _ in rows)
    for title, text in rows:
        print(f"{title:<{width}}  {plain(text)}")


def _sizes(info: ModelInfo) -> list[int]:
    return [file.stat().st_size for file in info.external]


def _told(shapes: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "without inputs"
