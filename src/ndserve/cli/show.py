"""Results and statuses for people, and as JSON for scripts. Both go to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ndserve.types import HostArray

if TYPE_CHECKING:
    from ndserve.client.wire import Result

MAX_VALUES = 10_000
"""Larger arrays are described without their values; -o writes them."""


def note(text: str) -> None:
    """A word beside the result."""
    print(f"ndserve: {text}", file=sys.stderr)


def fault(code: str, message: str, as_json: bool) -> None:
    """What has gone wrong, in words, and in JSON where that is asked for."""
    note(message)
    if as_json:
        document({"error": {"code": code, "message": message}})


def document(values: Mapping[str, Any]) -> None:
    """One JSON document, on one line."""
    print(json.dumps(values, ensure_ascii=False, allow_nan=False))


def described(result: Result, *, values: bool = True) -> dict[str, Any]:
    """A result as JSON: `array`, `dtype` and `shape`, or those of each array under `outputs`."""
    if isinstance(result, dict):
        return {"outputs": {name: described(array, values=values) for name, array in result.items()}}
    found: dict[str, Any] = {"dtype": result.dtype.name, "shape": list(result.shape)}
    if values and result.size <= MAX_VALUES and result.dtype.kind in "biuf":
        found = {"array": _values(result), **found}
    return found


def _values(array: HostArray) -> Any:
    """Nested lists; JSON has no NaN and no infinity, so they are null, as in the server's own JSON."""
    if array.dtype.kind != "f":
        return array.tolist()
    # The shortest text that means the value: 0.1 and not 0.10000000149011612.
    exact = array if array.dtype.itemsize == 8 else array.astype("U32").astype(np.float64)
    values = exact.astype(object)
    values[~np.isfinite(exact)] = None
    return values.tolist()


def result(found: Result) -> None:
    """A result for people: dtype and shape, then the values, abridged where there are many."""
    arrays = found if isinstance(found, dict) else {"": found}
    for name, array in arrays.items():
        print(f"{name}: {summary(array)}" if name else summary(array))
        with np.printoptions(threshold=200, edgeitems=3, linewidth=100):
            print(array)


def summary(found: Result) -> str:
    """`float32 [10]`, for several arrays by name."""
    if isinstance(found, dict):
        return ", ".join(f"{name}: {summary(array)}" for name, array in found.items())
    return f"{found.dtype.name} {list(found.shape)}"


def status(values: Mapping[str, Any]) -> None:
    """A status document for people: a line for each word that says something."""
    lines: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines |= {f"{name}.{inner}": each for inner, each in value.items() if each is not None}
        elif value is not None:
            lines[name] = value
    width = max(map(len, lines), default=0)
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")


def tasks(found: Sequence[Mapping[str, Any]]) -> None:
    """A table of statuses."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "status", "target", "created", "run ms", ""):
        table.add_column(title, justify="right" if title == "run ms" else "left", overflow="fold")
    for each in found:
        taken = (each.get("timings") or {}).get("run_ms")
        row = [each.get("task_id"), each.get("status"), each.get("target"), each.get("created")]
        row += [None if taken is None else f"{taken:.1f}", _remark(each)]
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    # A pipe has no width, and an id that is cut to fit is of no use.
    Console(width=None if sys.stdout.isatty() else 1000, highlight=False).print(table)


def _remark(values: Mapping[str, Any]) -> str:
    """What else a person wants to know of a task."""
    error, progress = values.get("error"), values.get("progress")
    if error:
        return f"{error.get('code')}: {error.get('message')}"
    if values.get("position") is not None:
        return f"position {values['position']}"
    if progress and values.get("status") == "running":
        return f"{progress['fraction']:.0%} {progress.get('message') or ''}".rstrip()
    return ""
