"""The parameters of a process: filled in, converted from text, and refused."""

from __future__ import annotations

from typing import Any

import pytest

from ndserve.codecs.base import UNNAMED
from ndserve.engine.admission import admit
from ndserve.engine.target import BatchDefaults, Target, process_target
from ndserve.errors import InvalidParameterError
from ndserve.processes.base import process
from ndserve.types import BatchKey, Parameter
from tests.unit.engine.rig import item


@process("tuned", batched=True)
def tuned(xp: Any, x: Any, *, k: int = 5, scale: float = 0.5, mode: str = "linear", flip: bool = False) -> Any:
    return x


@process("plain", batched=True)
def plain(xp: Any, x: Any) -> Any:
    return x


def target(of: Any = tuned) -> Target:
    return process_target(of, {}, BatchDefaults())


def key(**parameters: Parameter) -> BatchKey:
    return admit(target(), {UNNAMED: item(1)}, parameters).key


def test_what_is_not_given_has_its_default() -> None:
    assert dict(key().parameters) == {"k": 5, "scale": 0.5, "mode": "linear", "flip": False}
    assert dict(key(k=7).parameters) == {"k": 7, "scale": 0.5, "mode": "linear", "flip": False}


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("k", "7", 7),
        ("k", "-7", -7),
        ("k", 7, 7),
        ("k", 7.0, 7),
        ("scale", "2.5", 2.5),
        ("scale", "1e-3", 0.001),
        ("scale", 2, 2.0),
        ("mode", "cubic", "cubic"),
        ("mode", "7", "7"),
        ("flip", "true", True),
        ("flip", "True", True),
        ("flip", "1", True),
        ("flip", "false", False),
        ("flip", "0", False),
        ("flip", True, True),
        ("flip", 0, False),
    ],
)
def test_a_value_is_converted_to_the_type_of_the_default(name: str, given: Parameter, value: Parameter) -> None:
    converted = dict(key(**{name: given}).parameters)[name]
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("k", "seven", "int"),
        ("k", "7.5", "int"),
        ("k", 7.5, "int"),
        ("k", "", "int"),
        ("k", float("nan"), "int"),
        ("k", float("inf"), "int"),
        ("scale", "much", "float"),
        pytest.param("scale", 10**400, "float", id="an integer beyond every float"),
        ("mode", 7, "str"),
        ("flip", "yes", "bool"),
        ("flip", 2, "bool"),
    ],
)
def test_a_value_of_another_kind_is_refused(name: str, given: Parameter, kind: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"parameter '{name}' takes a {kind}"):
        key(**{name: given})


def test_an_unknown_parameter_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidParameterError, match="no parameter 'kk'; it has k, scale, mode, flip"):
        key(kk=7)


def test_a_target_without_parameters_refuses_every_parameter() -> None:
    with pytest.raises(InvalidParameterError, match="it has none"):
        admit(target(plain), {UNNAMED: item(1)}, {"k": 7})


def test_only_equal_parameters_share_a_batch() -> None:
    assert key(k=7, scale=1.0) == key(scale="1", k="7")
    assert key(k=7) != key(k=8)


def test_a_default_that_is_given_shares_the_batch_of_those_that_leave_it_out() -> None:
    assert key(k="5") == key()
