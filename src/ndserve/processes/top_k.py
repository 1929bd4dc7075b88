"""The largest values and where they are."""

from __future__ import annotations

from types import ModuleType

from ndserve.processes.base import process, require_real
from ndserve.types import Array


@process("top_k", batched=True)
def top_k(xp: ModuleType, x: Array, *, k: int = 5) -> dict[str, Array]:
    """`values` and `indices` (int64) of the k largest along each item's last axis, largest first.

    Among equal values the one with the lower index comes first.

    Raises:
        TypeError: the array is complex.
        ValueError: k is out of range, or the items have no axis.
    """
    require_real(xp, x, "top_k")
    if x.ndim < 2 or not 1 <= k <= x.shape[-1]:
        raise ValueError(f"k is {k}; it must be from 1 to the length of the last axis, here {list(x.shape[1:])}")
    # A stable ascending sort of the reversed axis, reversed again, keeps the lower index first among equals.
    last = x.shape[-1] - 1
    order = xp.argsort(xp.flip(x, axis=-1), axis=-1, stable=True)
    indices = last - xp.flip(order, axis=-1)[..., :k]
    return {"values": xp.take_along_axis(x, indices, axis=-1), "indices": xp.astype(indices, xp.int64)}
