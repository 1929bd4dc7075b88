"""A routes file that forgot its router."""

from fastapi import APIRouter

routes = APIRouter()
