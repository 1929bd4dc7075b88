"""The API key that a client sends, and what it makes of a refusal."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from ndserve import errors
from ndserve.client import ForbiddenError, TaskFailedError, UnauthorizedError
from tests.unit.client.fakes import Script, accepted, problem

KEY = "nds_secret-of-mine"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NDSERVE_API_KEY", raising=False)


def sent(script: Script) -> list[str]:
    """The Authorization headers of the last request."""
    headers: list[str] = script.requests[-1].headers.get_list("authorization")
    return headers


def submit(script: Script, **options: Any) -> list[str]:
    with script.client(**options) as client:
        client.submit_task("double", [1.0])
    return sent(script)


def submit_async(script: Script, **options: Any) -> list[str]:
    async def test() -> None:
        async with script.async_client(**options) as client:
            await client.submit_task("double", [1.0])

    asyncio.run(test())
    return sent(script)


Call = Callable[..., list[str]]
both = pytest.mark.parametrize("call", [submit, submit_async])


@both
def test_the_key_goes_with_every_request(call: Call) -> None:
    assert call(Script(accepted()), api_key=KEY) == [f"Bearer {KEY}"]


@both
def test_the_key_of_the_environment_goes_where_none_was_given(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDSERVE_API_KEY", KEY)
    assert call(Script(accepted())) == [f"Bearer {KEY}"]


@both
def test_a_key_that_was_given_wins_over_the_environment(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDSERVE_API_KEY", "nds_other")
    assert call(Script(accepted()), api_key=KEY) == [f"Bearer {KEY}"]


@both
def test_a_header_of_the_callers_wins_over_the_environment(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDSERVE_API_KEY", KEY)
    assert call(Script(accepted()), headers={"authorization": "Basic x"}) == ["Basic x"]


@both
def test_an_empty_key_in_the_environment_is_none(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDSERVE_API_KEY", "")
    assert call(Script(accepted())) == []


@both
@pytest.mark.parametrize("key", ["", "a b", "a\r\nX: y", "schlüssel", "a=b"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(call: Call, key: str) -> None:
    with pytest.raises(ValueError, match="api_key") as raised:
        call(Script(accepted()), api_key=key)
    assert not key or key not in str(raised.value)


@both
def test_a_key_beside_a_header_that_takes_its_place_is_refused(call: Call) -> None:
    with pytest.raises(ValueError, match="not both"):
        call(Script(accepted()), api_key=KEY, headers={"Authorization": "Basic x"})


def test_the_key_is_in_no_repr() -> None:
    client = Script(accepted()).client(api_key=KEY)
    assert KEY not in repr(client)
    assert KEY not in repr(vars(client))
    client.close()


@pytest.mark.parametrize(
    ("status", "code", "kind"), [(401, "unauthorized", UnauthorizedError), (403, "forbidden", ForbiddenError)]
)
def test_a_refusal_is_an_error_of_its_own_and_no_failed_task(
    status: int, code: str, kind: type[errors.NdserveError]
) -> None:
    script = Script(problem(status, code))
    with script.client() as client, pytest.raises(kind) as raised:
        client.get_result("t1")
    assert not isinstance(raised.value, TaskFailedError)
    assert len(script.requests) == 1
    assert pickle.loads(pickle.dumps(raised.value)).args == raised.value.args


def test_a_path_that_is_none_is_no_failed_task() -> None:
    with Script(problem(404, "not_found")).client() as client, pytest.raises(errors.NdserveError) as raised:
        client.get_result("a/b")
    assert not isinstance(raised.value, TaskFailedError)
