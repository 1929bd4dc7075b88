"""Requests and answers as values: what goes out for a call, and what an answer means. Nothing here sends."""

from __future__ import annotations

import io
import json
import os
import re
import uuid
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote, urlencode

import httpx2 as httpx
import numpy as np

from ndserve.client import texts
from ndserve.client.body import Body
from ndserve.client.errors import BY_CODE, FAILURES, REFUSALS, ServerError, TaskFailedError, UnexpectedAnswerError
from ndserve.types import HostArray

Inputs: TypeAlias = Any
"""One array, or a mapping of arrays by input name; whatever `numpy.asarray` takes is an array, of texts as well."""

Result: TypeAlias = HostArray | dict[str, HostArray]
"""One array, or a dict by output name where the target has several. Writable, and the caller's own.

Texts come as an array of objects, each of them `bytes`.
"""

DEFAULT_URL = "http://127.0.0.1:8076"
MAX_CONNECT = 10.0
EXCERPT = 200
KEY_VARIABLE = "NDSERVE_API_KEY"
_KEY = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_NPY, _NPZ = "application/x-npy", "application/x-npz"
_ARRAYS = f"{_NPY}, {_NPZ}, {texts.MEDIA_TYPE};q=0.5"
"""What a result may be. The last is for texts, which the others cannot hold."""
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)


class Call(NamedTuple):
    """One request. `wait` is how long the server may take by request, on top of the client's own timeout."""

    method: str
    url: str
    headers: Mapping[str, str] = {}
    content: bytes | Body | None = None
    wait: float = 0.0


def base_url(url: str) -> str:
    """The address without a slash at its end.

    Raises:
        ValueError: it is no http or https address.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(f"{url!r} is not the URL of a server; it looks like http://127.0.0.1:8076")
    return url.rstrip("/")


def without_password(url: str) -> str:
    """The address as it may be shown."""
    return str(httpx.URL(url).copy_with(username=None, password=None))


def path(*parts: str) -> str:
    """`/a/b`, with each part quoted."""
    return "".join("/" + quote(part, safe="") for part in parts)


def query(values: Mapping[str, Any]) -> str:
    """`?a=1&b=true`, or nothing; names whose value is None are left out."""
    texts = {name: _query_value(value) for name, value in values.items() if value is not None}
    return "?" + urlencode(texts) if texts else ""


def _query_value(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ",".join(str(each) for each in value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def submission(
    base: str, target: str, inputs: Inputs, options: Mapping[str, Any], key: str | None, wait: float
) -> Call:
    """The request that submits `inputs`; with `wait` its answer may be the result.

    Raises:
        TypeError: an array of Python objects.
    """
    content, form = encode(inputs)
    headers = {**form, "Accept": _ARRAYS, "Idempotency-Key": key or uuid.uuid4().hex}
    # Never more than was asked for: the rest of a millisecond would be a request of its own.
    url = base + path("tasks", target) + query({**options, "wait": round(wait, 3) or None})
    return Call("POST", url, headers, content, wait)


def result_of(base: str, task_id: str, wait: float) -> Call:
    """The request for a result, which waits for it on the server."""
    url = base + path("result", task_id) + query({"wait": round(wait, 3) or None})
    return Call("GET", url, {"Accept": _ARRAYS}, wait=wait)


def encode(inputs: Inputs) -> tuple[bytes, dict[str, str]]:
    """A body and its headers: `.npy` for one array, `.npz` for a mapping of them, and another form with texts.

    Raises:
        TypeError: an array of Python objects other than texts, or a mapping that holds none.
    """
    if not isinstance(inputs, Mapping):
        array = _checked(inputs, "the array")
        return texts.encode({"": array}) if texts.is_text(array) else (_npy(array), {"Content-Type": _NPY})
    if not inputs:
        raise TypeError("a mapping of arrays must hold at least one")
    arrays = {name: _checked(array, f"input {name!r}") for name, array in inputs.items()}
    if any(map(texts.is_text, arrays.values())):
        return texts.encode(arrays)
    body = io.BytesIO()
    # As numpy.savez writes it, which has no place for an input called "file".
    with zipfile.ZipFile(body, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", _npy(array))
    return body.getvalue(), {"Content-Type": _NPZ}


def _checked(value: Any, what: str) -> HostArray:
    array: HostArray = np.asarray(value, order="C")
    if array.dtype.hasobject and not texts.is_text(array):
        raise TypeError(f"{what} holds Python objects, which are never sent; give it a dtype of numbers, or texts")
    return array


def _npy(array: HostArray) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return b"".join((head.getvalue(), array.reshape(-1).view(np.uint8).data))


def decode(response: httpx.Response) -> Result:
    """The arrays of an answer.

    Raises:
        UnexpectedAnswerError: it holds none, or they are cut off.
    """
    # From a BytesIO numpy.load copies once, into an array that may be written to.
    try:
        if response.headers.get("content-type", "").startswith(texts.FAMILY):
            length = int(response.headers.get(texts.LENGTH_HEADER, len(response.content)))
            arrays = texts.decode(response.content, length)
            return arrays if len(arrays) != 1 else next(iter(arrays.values()))
        loaded = np.load(io.BytesIO(response.content), allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise unexpected(response, f"no arrays ({error})") from None


def ticket(response: httpx.Response) -> str | None:
    """The task id, where an answer has that instead of the result."""
    if not _is_json(response):
        return None
    task_id = document(response).get("task_id")
    return task_id if isinstance(task_id, str) else None


def document(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        UnexpectedAnswerError: it is something else.
    """
    found = json_of(response)
    if not isinstance(found, dict):
        raise unexpected(response, "no JSON object")
    return found


def code_of(response: httpx.Response) -> str | None:
    """The stable code of an answer that reports an error in ndserve's way."""
    problem = json_of(response)
    code = problem.get("code") if isinstance(problem, dict) else None
    return code if isinstance(code, str) else None


def error_of(response: httpx.Response, *, task_id: str | None = None, of_models: bool = False) -> ServerError:
    """The error that an answer reports.

    With `task_id` it is the answer of that task's result. With `of_models` what was asked concerns a model and no task:
    then a model that does not load is an error of its own, and not what a task has failed of.
    """
    code = code_of(response)
    if code is None:
        return unexpected(response, "an error that is not ndserve's")
    problem = document(response)
    detail = str(problem.get("detail") or problem.get("title") or "no reason was given")
    failed = not of_models and (code in FAILURES or (task_id is not None and code not in REFUSALS))
    kind = TaskFailedError if failed else BY_CODE.get(code, ServerError)
    return kind(response.status_code, code, detail, problem, task_id)


def is_overload(response: httpx.Response) -> bool:
    """Whether the same request may well succeed later: the server, or a proxy before it, is full or on its way up."""
    if response.status_code in (429, 503):
        # A task that has failed stays failed. So does a load for now: the server has waited for room before it said so.
        return code_of(response) not in FAILURES
    # A proxy says so while the server restarts; from ndserve itself a 504 is a task that took too long.
    return response.status_code in (502, 504) and not _is_json(response)


def unexpected(response: httpx.Response, what: str) -> UnexpectedAnswerError:
    """An answer that makes no sense here, with as much of it as helps."""
    text = " ".join(_TAGS.sub(" ", response.text[: 20 * EXCERPT]).split())
    if _is_json(response) or response.headers.get("content-type", "").startswith("text/"):
        said = f": {text[:EXCERPT]}…" if len(text) > EXCERPT else f": {text}" if text else ""
    else:
        said = ""
    where = without_password(str(response.url.copy_with(query=None)))
    if response.is_redirect:
        said = f", which leads to {response.headers.get('location')}; use that server's URL"
    detail = f"{where} answered with {what}{said}"
    return UnexpectedAnswerError(response.status_code, "unexpected_answer", detail)


def _is_json(response: httpx.Response) -> bool:
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def json_of(response: httpx.Response) -> Any:
    """What an answer has as JSON; None where it has something else."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def _authorization(api_key: str | None, headers: Mapping[str, str]) -> dict[str, str]:
    """The header with the caller's key, or with that of the environment; an Authorization of the caller's counts more.

    The form of a key is https://www.rfc-editor.org/rfc/rfc6750#section-2.1. Neither is shown in the errors.

    Raises:
        ValueError: it has another form, or both a key and such a header were given.
    """
    has_own = any(name.lower() == "authorization" for name in headers)
    if api_key is None:
        api_key = "" if has_own else os.environ.get(KEY_VARIABLE, "")
        what = KEY_VARIABLE
    elif has_own:
        raise ValueError("give api_key or an Authorization header, not both")
    else:
        what = "api_key"
        if not api_key:
            raise ValueError("api_key is empty")
    if api_key and not _KEY.fullmatch(api_key):
        raise ValueError(f"{what} is no key: it has characters other than letters, digits and . _ ~ + / -")
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def http_options(timeout: float, headers: Mapping[str, str] | None, api_key: str | None) -> dict[str, Any]:
    """How both clients set up httpx. The caller's threads or tasks bound the connections, so the pool does not.

    Raises:
        ValueError: the key is none, or stands against a header.
    """
    own = headers or {}
    fields = {"User-Agent": "ndserve-client", "Accept-Encoding": "identity", **_authorization(api_key, own), **own}
    return {
        "headers": httpx.Headers(fields),  # whose repr hides the key
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=30.0),
        "timeout": read_timeout(timeout, 0.0),
        # This machine is never asked for through a proxy, whatever HTTP_PROXY says.
        "mounts": dict.fromkeys(("all://127.0.0.1", "all://localhost", "all://[::1]")),
    }


def read_timeout(timeout: float, wait: float) -> httpx.Timeout:
    """The limits of one request that the server may hold for `wait` seconds."""
    return httpx.Timeout(timeout, connect=min(timeout, MAX_CONNECT), read=timeout + wait, pool=None)


def request(call: Call, timeout: float) -> dict[str, Any]:
    """A call as the arguments of httpx's `request`."""
    return {
        "method": call.method,
        "url": call.url,
        "headers": call.headers,
        "content": call.content,
        "timeout": read_timeout(timeout, call.wait),
    }
