"""Models for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

_UNITS = ("kB", "MB", "GB", "TB")


def size(nbytes: int) -> str:
    """`512 B`, `1.2 MB`: in powers of 1000."""
    if nbytes < 1000:
        return f"{nbytes} B"
    amount, unit = nbytes / 1000, 0
    while amount >= 999.95 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}"


def plain(text: str) -> str:
    """The text without what a terminal would take for commands: it may come from a file that anybody has made."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def memory(account: Mapping[str, Any]) -> str:
    """How full a server's memory is, in a line."""
    words = ("load", "eviction")
    counts = ", ".join(f"{n} {word}{'s' * (n != 1)}" for word in words if (n := account.get(f"{word}s")) is not None)
    used = f"model memory: {size(account.get('bytes', 0))} of {size(account.get('budget_bytes', 0))} used"
    return f"{used}; {counts}" if counts else used


def show(found: Sequence[Mapping[str, Any]]) -> None:
    """A table of versions. It needs rich."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "version", "state", "device"):
        table.add_column(title, overflow="fold")
    for title in ("file", "memory", "hits"):
        table.add_column(title, justify="right", overflow="fold")
    table.add_column("", overflow="fold")
    for each in found:
        row = [each.get("name"), each.get("version"), each.get("state"), each.get("device")]
        row += [_file(each), _memory(each), each.get("hits"), _remark(each)]
        table.add_row(*(Text("" if value is None else plain(str(value))) for value in row))
    # A pipe has no width, and a name that is cut to fit is of no use.
    Console(width=None if sys.stdout.isatty() else 1000, highlight=False).print(table)


def _file(version: Mapping[str, Any]) -> str | None:
    nbytes = (version.get("bytes") or {}).get("file")
    return None if nbytes is None else size(nbytes)


def _memory(version: Mapping[str, Any]) -> str | None:
    """What it takes of the memory, or as long as that is not known what it is expected to take."""
    known = version.get("bytes") or {}
    if known.get("measured") is not None:
        return size(known["measured"])
    return None if known.get("predicted") is None else f"~{size(known['predicted'])}"


def _remark(version: Mapping[str, Any]) -> str:
    """What else a person wants to know of a version."""
    words = [word for word in ("default", "pinned") if version.get(word)]
    if version.get("leases"):
        words.append("in use")
    if version.get("reason"):
        words.append(str(version["reason"]))
    return ", ".join(words)
