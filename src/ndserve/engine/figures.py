"""A service in figures, since its start, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndserve.engine.service import InferenceService


def figures(service: InferenceService) -> dict[str, Any]:
    """Figures since the start."""
    batches, tasks, ledger = service.worker.batches, service.worker.batched_tasks, service.ledger
    return {
        "queue": {
            "queued": len(service.worker.batcher),
            "live": len(ledger.live),
            "bytes": ledger.nbytes,
            "max_tasks": service.bounds.tasks,
            "max_bytes": service.bounds.nbytes,
        },
        "ended": {state.value: number for state, number in ledger.ended.items()},
        "settled_late": ledger.late,
        "batches": {"count": batches, "tasks": tasks, "mean_size": round(tasks / batches, 2) if batches else None},
        "store": {"durable": service.store.durable, **service.store.usage()._asdict()},
        "models": {
            "budget_bytes": service.cache.budget,
            "bytes": service.cache.nbytes,
            "loads": service.cache.loads,
            "evictions": service.cache.evictions,
        },
        "waiting": len(service.waiters),
    }
