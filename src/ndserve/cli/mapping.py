"""`ndserve map`: every file through a target, and a result file for each."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ndserve.cli import files, show
from ndserve.cli.exits import DONE, INTERRUPTED, NOT_DONE, UsageError, code_of
from ndserve.client import Client, ConnectionFailedError, ForbiddenError, UnauthorizedError, UnknownTargetError
from ndserve.errors import NdserveError

HOPELESS = (ConnectionFailedError, UnknownTargetError, UnauthorizedError, ForbiddenError)
"""What would meet every other file as well: the rest is not tried."""


@dataclass(slots=True)
class Report:
    """What has become of the files."""

    done: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str, str]] = field(default_factory=list)
    """File, code and message."""

    def fail(self, file: Path, error: Exception) -> None:
        code = error.code if isinstance(error, NdserveError) else "file"
        self.failed.append((file, code, str(error)))

    def show(self, total: int, seconds: float, as_json: bool) -> None:
        for file, _, message in self.failed:
            show.note(f"{file}: {message}")
        rest = total - self.done - self.skipped - len(self.failed)
        words = {"done": self.done, "skipped": self.skipped, "failed": len(self.failed), "not tried": rest}
        counts = ", ".join(f"{count} {word}" for word, count in words.items() if count or word == "done")
        rate = f" ({self.done / seconds:.1f}/s)" if seconds and self.done else ""
        show.note(f"{counts} in {seconds:.1f} s{rate}")
        if as_json:
            failed = [{"file": str(file), "code": code, "message": text} for file, code, text in self.failed]
            counted = {"done": self.done, "skipped": self.skipped, "not_tried": rest}
            show.document({**counted, "failed": failed, "seconds": round(seconds, 3)})


class _Inputs:
    """The arrays of files, read when they are wanted. A file that cannot be read is reported and left out.

    `sent` are the files whose results have not come yet, in order.
    """

    def __init__(self, paths: Sequence[Path], report: Report) -> None:
        self._paths = paths
        self._report = report
        self.sent: deque[Path] = deque()

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Any]:
        for path in self._paths:
            try:
                arrays = files.read(str(path))
            except UsageError as error:
                self._report.fail(path, error)
                continue
            self.sent.append(path)
            yield arrays


def map_files(client: Client, options: argparse.Namespace, task_options: Mapping[str, Any]) -> int:
    """Run the files through the target; gives the exit code.

    Raises:
        UsageError: the files or the folder cannot be used; nothing was sent.
    """
    folder = Path(options.output)
    paths = files.find(options.files)
    total, report = len(paths), Report()
    _check_folder(folder, paths)
    if options.resume:
        paths = [path for path in paths if not _is_done(folder, path)]
        report.skipped = total - len(paths)
    began = time.monotonic()
    try:
        code = _write_results(client, options, task_options, _Inputs(paths, report), report)
    except KeyboardInterrupt:
        show.note("interrupted; tasks that were submitted go on. The same command with --resume does the rest")
        code = INTERRUPTED
    report.show(total, time.monotonic() - began, options.json)
    return code


def _write_results(
    client: Client, options: argparse.Namespace, task_options: Mapping[str, Any], inputs: _Inputs, report: Report
) -> int:
    results = client.map(options.target, inputs, concurrency=options.concurrency, return_errors=True, **task_options)
    with closing(results):
        for outcome in results:
            path = inputs.sent.popleft()
            if isinstance(outcome, Exception):
                report.fail(path, outcome)
                if isinstance(outcome, HOPELESS):
                    return code_of(outcome)
                continue
            suffix = ".npz" if isinstance(outcome, dict) else ".npy"
            try:
                files.write(outcome, str(Path(options.output) / f"{path.stem}{suffix}"))
                report.done += 1
            except UsageError as error:
                report.fail(path, error)
    return NOT_DONE if report.failed else DONE


def _check_folder(folder: Path, paths: Sequence[Path]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}") from None
    for path in paths:
        if path.suffix.lower() in files.ARRAYS and path.resolve().parent == folder.resolve():
            raise UsageError(f"{folder}: the result of {path.name} would take its place; choose another folder")


def _is_done(folder: Path, path: Path) -> bool:
    return any((folder / f"{path.stem}{suffix}").exists() for suffix in files.ARRAYS)
