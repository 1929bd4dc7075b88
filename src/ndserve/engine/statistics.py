"""What each target has done since it came, as Open Inference's statistics extension defines it.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
Every request of a batch counts the whole time of the batch, and once its own time in the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ndserve.types import Task

MAX_SIZES = 1024
"""Batch sizes that are told apart: arrays of any length run whole, and clients choose them."""


class Spans(NamedTuple):
    """Nanoseconds that one batch took: onto the device, through the model or process, back to the host."""

    input: int
    infer: int
    output: int


@dataclass(slots=True)
class Duration:
    """How often something took time, and nanoseconds in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


@dataclass(slots=True)
class BatchStatistics:
    """The batches of one size. The counts of its durations are the number of these batches."""

    count: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0


@dataclass(slots=True)
class Statistics:
    """One target's figures. `last` is in Unix seconds, and 0 before the first inference.

    `inferences` counts rows, `executions` batches. `success` runs from a request's acceptance to its result, `fail`
    to its failure or the expiry of its time; a cancelled request is neither. `queue` ends when the batch begins, and
    leaves out the loading of models.
    """

    last: float = 0.0
    inferences: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    batches: dict[int, BatchStatistics] = field(default_factory=dict)

    def ran(self, tasks: Sequence[Task], spans: Spans, now: float) -> None:
        """Count a batch whose tasks succeed now, as if those among them that have ended before had not been there."""
        count, rows, waited, took = 0, 0, 0.0, 0.0
        for task in tasks:
            if task.live:
                count += 1
                rows += task.rows
                took += now - task.created
                waited += (task.started or now) - task.created - task.load_seconds
        if not count:
            return
        self.last = now
        self.executions += 1
        self.inferences += rows
        self.success.add(round(took * 1e9), count)
        self.queue_ns += round(waited * 1e9)
        self.input_ns += count * spans.input
        self.infer_ns += count * spans.infer
        self.output_ns += count * spans.output
        batch = self.batches.get(rows)
        if batch is None:
            if len(self.batches) >= MAX_SIZES:
                return
            batch = self.batches[rows] = BatchStatistics()
        batch.count += 1
        batch.input_ns += spans.input
        batch.infer_ns += spans.infer
        batch.output_ns += spans.output

    def failed(self, task: Task, now: float) -> None:
        """Count a task that fails or expires now."""
        self.fail.add(max(0, round((now - task.created) * 1e9)))
