"""Inputs and outputs as the server's documents have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ndserve.types import TensorSpec, name_of


def spec_documents(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    """`name`, `dtype` and `shape` of each; a null axis is free."""
    return [
        {
            "name": spec.name,
            "dtype": None if spec.dtype is None else name_of(spec.dtype),
            "shape": None if spec.shape is None else list(spec.shape),
        }
        for spec in specs
    ]
