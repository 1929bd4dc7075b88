"""A route whose path is the server's own."""

from fastapi import APIRouter

router = APIRouter()


@router.get("/health")
async def health() -> str:
    return "fine"
