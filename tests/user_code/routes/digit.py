"""Routes of a user: one that asks a model, and some that go wrong."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter

from ndserve.routes import Service

router = APIRouter()


@router.post("/digit")
async def digit(service: Service, pixels: list[list[float]]) -> dict[str, int]:
    outputs = await service.infer("digits", np.array(pixels, np.float32))
    return {"digit": int(outputs["probabilities"].argmax())}


@router.get("/square/{number}")
async def square(number: int) -> int:
    return number * number


@router.get("/crash")
async def crash() -> None:
    raise ZeroDivisionError("a fault in the user's own code")
