"""What callers are told of a task, as plain values; times are RFC 3339 in UTC, spans milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ndserve.engine.tasks import GroupStatus
from ndserve.types import Task, TaskState


def describe(task: Task, position: int | None = None, *, ending: bool = False) -> dict[str, Any]:
    """A task as it is now. Its end is told once it is public, or where it is about to be (`ending`)."""
    told = task.live or task.public or ending
    state = task.state if told else task.visible_state
    return {
        "task_id": task.id,
        "status": state.value,
        "target": task.key.target,
        "version": task.key.version or None,
        "group": task.group,
        "priority": task.options.priority,
        "position": position if state is TaskState.QUEUED else None,
        "attempts": task.attempts,
        "device": task.device or None,
        "progress": _progress(task),
        "timings": _timings(task, told),
        "created": rfc3339(task.created),
        "started": rfc3339(task.started),
        "ended": rfc3339(task.ended) if told else None,
        "expires": rfc3339(task.expires) if told else None,
        "start_by": rfc3339(task.start_by),
        "run_by": rfc3339(task.run_by),
        "error": {"code": task.failure.code, "message": task.failure.message} if told and task.failure else None,
    }


def describe_group(status: GroupStatus) -> dict[str, Any]:
    """A group as it is now."""
    group, counts = status.group, status.counts
    ended = sum(number for state, number in counts.items() if state not in ("queued", "running"))
    return {
        "task_id": group.id,
        "group_id": group.id,
        "status": status.state.value,
        "target": group.target,
        "version": group.version or None,
        "total": group.total,
        "counts": dict(counts),
        "progress": {"fraction": ended / group.total, "message": f"{ended} of {group.total} tasks have ended"},
        "created": rfc3339(group.created),
        "expires": rfc3339(group.expires),
    }


def rfc3339(seconds: float | None) -> str | None:
    """Unix seconds as a text, to the microsecond."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _progress(task: Task) -> dict[str, Any] | None:
    if task.progress is None:
        return None
    return {"fraction": task.progress.fraction, "message": task.progress.message}


def _timings(task: Task, told: bool) -> dict[str, float | None]:
    """`queue` is the time in the queue without that for loading models, `store` that for the commit of the submit."""
    queue = None if task.started is None else task.started - task.created - task.load_seconds
    run = None if task.started is None or task.ended is None or not told else task.ended - task.started
    load = None if task.started is None else task.load_seconds
    spans = {"queue": queue, "load": load, "run": run, "store": task.store_seconds}
    return {f"{name}_ms": None if span is None else round(max(0.0, span) * 1000, 3) for name, span in spans.items()}
