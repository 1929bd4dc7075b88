"""A route that the server's own would shadow: its path differs in the name of its parameter alone."""

from fastapi import APIRouter

router = APIRouter()


@router.get("/result/{id}")
async def result(id: str) -> str:  # noqa: A002
    return id
