"""How much memory models may take, by what is asked and what there is."""

from __future__ import annotations

import pytest

from ndserve.devices.base import Memory
from ndserve.errors import StartupError
from ndserve.model_cache.budget import MARGIN, budget_of

GIB = 1024**3
DEVICE = Memory(free=60 * GIB, total=80 * GIB, used=20 * GIB)


@pytest.mark.parametrize(
    ("wanted", "is_gpu", "budget"),
    [
        ("auto", False, 30 * GIB),
        ("auto", True, 60 * GIB - MARGIN - 10 * GIB),
        ("40%", True, 32 * GIB),
        ("12.5%", False, 10 * GIB),
        (str(5 * GIB), True, 5 * GIB),
        (str(70 * GIB), True, 70 * GIB),
    ],
)
def test_the_budget_is_what_was_asked_for_or_what_is_free_less_a_margin(wanted: str, is_gpu: bool, budget: int) -> None:
    assert budget_of(wanted, DEVICE, is_gpu=is_gpu) == budget


@pytest.mark.parametrize(
    ("wanted", "memory"),
    [("auto", Memory(2 * GIB, 80 * GIB, 78 * GIB)), (str(81 * GIB), DEVICE), ("0", DEVICE), ("0.000000001%", DEVICE)],
    ids=["a full GPU", "more than there is", "nothing", "next to nothing"],
)
def test_a_budget_that_cannot_be_is_refused_with_the_figures(wanted: str, memory: Memory) -> None:
    with pytest.raises(StartupError, match=rf"--model-memory {wanted}.*{memory.total} bytes.*{memory.free} are free"):
        budget_of(wanted, memory, is_gpu=True)
