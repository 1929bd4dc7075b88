"""What can be asked for, and the management of models."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from ndserve.engine.management import Management
from ndserve.errors import (
    BodyTooLargeError,
    InvalidModelError,
    InvalidParameterError,
    MalformedBodyError,
    ModelLoadError,
    UnavailableError,
    UnknownTargetError,
    UnsupportedEncodingError,
)
from ndserve.routes.asgi import MAX_DIGITS
from ndserve.routes.base import ManagementOf, PublishingOf
from ndserve.routes.model_views import Catalogue, ModelView, catalogue, versions, view_of
from ndserve.routes.openapi import problem_answers

router = APIRouter(tags=["models"])

Version = Annotated[str | None, Query(description="One version; without it the model as a whole.")]

UNKNOWN = (404, "There is no such model or version (code `unknown_target`).")
IN_PLACE = (
    (409, "It does not lie in the model folder, but behind a link (code `conflict`)."),
    (507, "The model folder cannot be written to (code `store_full`)."),
)
BUSY = (503, "Models that are in use or pinned leave no room (code `model_memory_full`).")
LARGE = (507, "The model is larger than `--model-memory` (code `model_too_large`).")
NO_LOAD = (422, "It does not load (code `invalid_model`); `detail` says why.")

_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "description": "The ONNX file.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    "parameters": [
        {
            "name": "Content-Digest",
            "in": "header",
            "description": "`sha-256=:BASE64:` of the body (RFC 9530); a body that differs is refused.",
            "schema": {"type": "string"},
        }
    ],
}


@router.get("/models", summary="All models and processes")
async def list_models(management: ManagementOf) -> Catalogue:
    return catalogue(management)


@router.get("/models/{name}", summary="The versions of one model", responses=problem_answers(UNKNOWN))
async def get_model(management: ManagementOf, name: str) -> list[ModelView]:
    return _known(management, name)


@router.get("/models/{name}/versions/{version}", summary="One version of a model", responses=problem_answers(UNKNOWN))
async def get_version(management: ManagementOf, name: str, version: str) -> ModelView:
    return _one(management, name, version)


@router.put(
    "/models/{name}/versions/{version}",
    summary="Upload a version of a model",
    status_code=201,
    responses={
        200: {"description": "It has replaced what was there.", "model": ModelView},
        **problem_answers(
            (400, "The body is not what its digest says (code `digest_mismatch`)."),
            (409, "The version is there already (code `conflict`)."),
            (413, "It is larger than `--max-model-bytes` (code `body_too_large`)."),
            (415, "It is compressed (code `unsupported_encoding`)."),
            (422, "It is no model that can be served (code `invalid_model`)."),
            BUSY,
            (507, "The disk is full, or the model is larger than `--model-memory`."),
        ),
    },
    openapi_extra=_UPLOAD_BODY,
)
async def upload(
    request: Request,
    response: Response,
    management: ManagementOf,
    publishing: PublishingOf,
    name: str,
    version: str,
    replace: Annotated[bool, Query(description="Replace the version that is there.")] = False,
) -> ModelView:
    _check_headers(request.headers, publishing.max_bytes)
    digest = digest_of(request.headers)
    try:
        is_new, info = await publishing.upload(name, version, request.stream(), digest=digest, replaces=replace)
    except ClientDisconnect:
        raise MalformedBodyError("the body ended before all of it had come") from None
    if not is_new:
        response.status_code = 200
    response.headers["location"] = f"{request.scope.get('root_path', '')}/models/{name}/versions/{version}"
    return view_of(management, info)


@router.delete(
    "/models/{name}", status_code=204, summary="Delete a model", responses=problem_answers(UNKNOWN, *IN_PLACE)
)
async def delete_model(publishing: PublishingOf, name: str) -> None:
    await publishing.delete(name)


@router.delete(
    "/models/{name}/versions/{version}",
    status_code=204,
    summary="Delete a version of a model, once its tasks are done",
    responses=problem_answers(UNKNOWN, *IN_PLACE),
)
async def delete_version(publishing: PublishingOf, name: str, version: str) -> None:
    await publishing.delete(name, version)


@router.post(
    "/models/{name}/load",
    summary="Load a model as it lies in the repository now",
    responses=problem_answers(UNKNOWN, NO_LOAD, BUSY, LARGE),
)
async def load(management: ManagementOf, name: str, version: Version = None) -> list[ModelView]:
    try:
        if version is None:
            await management.load(name)
        else:
            await management.load_version(name, version)
    except ModelLoadError as error:
        if not versions(management, name):
            raise UnknownTargetError(error.message) from None
        raise InvalidModelError(error.message) from None
    return versions(management, name)


@router.post(
    "/models/{name}/unload",
    summary="Have nothing answer to the name until it is loaded, and free its memory",
    responses=problem_answers(UNKNOWN),
)
async def unload(request: Request, management: ManagementOf, name: str) -> list[ModelView]:
    if request.query_params:
        raise InvalidParameterError("unload takes a model as a whole; it has no parameters")
    # Whoever lost the answer may ask again.
    with contextlib.suppress(UnavailableError):
        await management.unload(name)
    return _known(management, name)


@router.post("/models/{name}/pin", summary="Keep a model loaded once it is", responses=problem_answers(UNKNOWN))
async def pin(management: ManagementOf, name: str, version: Version = None) -> list[ModelView]:
    management.pin(name, version, pinned=True)
    return versions(management, name)


@router.post("/models/{name}/unpin", summary="Let a model be evicted again", responses=problem_answers(UNKNOWN))
async def unpin(management: ManagementOf, name: str, version: Version = None) -> list[ModelView]:
    management.pin(name, version, pinned=False)
    return versions(management, name)


def _check_headers(headers: Headers, max_bytes: int) -> None:
    """Refuse early a body that would be refused.

    Raises:
        BodyTooLargeError, UnsupportedEncodingError: it is too large, or compressed.
    """
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > MAX_DIGITS or int(length) > max_bytes):
        raise BodyTooLargeError(
            f"the model has {length[:40]} bytes; at most {max_bytes} are taken (--max-model-bytes)", limit=max_bytes
        )
    if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise UnsupportedEncodingError("a model is uploaded as it is, without a Content-Encoding")


_MEMBER = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):\s*")


def digest_of(headers: Headers) -> bytes | None:
    """The SHA-256 that the client gives of its body; None where it gives no digest.

    Nothing is encoded on the way, so both fields mean the same (https://www.rfc-editor.org/rfc/rfc9530#section-2).

    Raises:
        InvalidParameterError: the field holds no SHA-256, or two of them differ.
    """
    found: set[bytes] = set()
    for field in ("content-digest", "repr-digest"):
        for value in headers.getlist(field):
            members = [_MEMBER.fullmatch(part) for part in value.split(",")]
            digests = {match[1]: match[2] for match in members if match is not None}
            try:
                found.add(base64.b64decode(digests["sha-256"], validate=True))
            except (KeyError, binascii.Error):
                raise InvalidParameterError(
                    f"{field} must hold the SHA-256 as sha-256=:BASE64:, not {value[:100]!r}"
                ) from None
    if len(found) > 1 or any(len(digest) != 32 for digest in found):
        raise InvalidParameterError("the digests of the body are not one SHA-256 of 32 bytes")
    return next(iter(found), None)


def _known(management: Management, name: str) -> list[ModelView]:
    found = versions(management, name)
    if not found:
        raise UnknownTargetError(f"no model is called {name[:100]!r}; GET /models lists what there is")
    return found


def _one(management: Management, name: str, version: str) -> ModelView:
    found = {view.version: view for view in _known(management, name)}
    if version not in found:
        raise UnknownTargetError(f"{name!r} has no version {version[:20]!r}; it has {', '.join(found)}")
    return found[version]
