"""`@process`: which functions it takes, what it reads from their signatures, and what they may return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ndserve.processes.base import Process, process
from ndserve.types import TensorSpec


def named(function: Callable[..., Any]) -> Process:
    return process("mine", batched=True)(function)


def run(made: Process, **inputs: Any) -> dict[str, Any]:
    return made.run(np, {}, inputs, {})


# What the signature says


def test_positional_arguments_are_the_inputs_in_their_order() -> None:
    made = named(lambda xp, image, mask: image)
    assert made.inputs == (TensorSpec("image"), TensorSpec("mask"))


def test_keyword_only_arguments_are_parameters_with_their_defaults() -> None:
    def function(xp: Any, x: Any, *, gain: float = 0.5, mode: str = "fast", n: int = 3, flip: bool = False) -> Any:
        return x

    assert named(function).parameters == {"gain": 0.5, "mode": "fast", "n": 3, "flip": False}


def test_an_input_takes_the_spec_of_its_name() -> None:
    spec = TensorSpec("mask", np.dtype(bool), (None, 4))
    made = process("mine", batched=True, inputs=[spec])(lambda xp, image, mask: image)
    assert made.inputs == (TensorSpec("image"), spec)


def test_an_argument_called_models_is_no_input() -> None:
    made = process("mine", batched=False, models=["a", "b"])(lambda xp, models, x: x)
    assert made.inputs == (TensorSpec("x"),)
    assert made.models == ("a", "b")


def test_the_declaration_is_kept() -> None:
    for batched in (True, False):
        made = process("a.b-c_1", batched=batched)(lambda xp, x: x)
        assert (made.name, made.batched) == ("a.b-c_1", batched)


def test_the_source_is_the_file_of_the_function() -> None:
    assert named(lambda xp, x: x).source == __file__


def test_the_source_of_a_partial_is_the_module_that_defines_it() -> None:
    made = named(partial(lambda xp, x, *, gain: x * gain, gain=2))
    assert made.parameters == {"gain": 2}
    assert made.source == made.module


def test_a_process_is_called_like_the_function_it_is_made_of() -> None:
    def scaled(xp: ModuleType, x: Any, *, gain: int = 2) -> Any:
        return x * gain

    assert named(scaled)(np, 3, gain=5) == 15


# What is refused


def takes_default(xp: Any, x: Any = None) -> Any: ...
def takes_any_number(xp: Any, *x: Any) -> Any: ...
def takes_any_name(xp: Any, x: Any, **rest: Any) -> Any: ...
def takes_parameter_without_default(xp: Any, x: Any, *, gain: float) -> Any: ...
def takes_list(xp: Any, x: Any, *, sizes: list[int] = []) -> Any: ...  # noqa: B006
def takes_none(xp: Any, x: Any, *, size: int | None = None) -> Any: ...
def takes_positional_only(xp: Any, x: Any, /) -> Any: ...


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (takes_default, "x"),
        (takes_any_number, r"\*x"),
        (takes_any_name, r"\*\*rest"),
        (takes_parameter_without_default, "gain"),
        (takes_list, "sizes"),
        (takes_none, "size"),
        (takes_positional_only, "x"),
    ],
)
def test_an_argument_that_is_neither_input_nor_parameter_is_named(function: Callable[..., Any], argument: str) -> None:
    with pytest.raises(ValueError, match=f"process 'mine': {argument}.* must be an input array without a default"):
        named(function)


def test_the_first_argument_must_be_xp() -> None:
    with pytest.raises(ValueError, match="process 'mine': the first argument must be xp, not x"):
        named(lambda x, xp: x)


def test_a_function_without_arguments_is_told_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="process 'mine': the first argument must be xp, not none"):
        named(lambda: None)


@pytest.mark.parametrize("function", [lambda xp: xp.ones(1), lambda xp, models: xp.ones(1)])
def test_a_function_without_inputs_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="process 'mine' takes the inputs none"):
        named(function)


def test_a_spec_of_no_input_is_refused() -> None:
    with pytest.raises(ValueError, match="process 'mine' takes the inputs x; its specs name y"):
        process("mine", batched=True, inputs=[TensorSpec("y")])(lambda xp, x: x)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "../x", ".x", "-x", "x\n"])
def test_a_name_that_a_url_or_a_file_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="process name"):
        process(name, batched=True)


# What `run` gives


def test_one_array_is_called_output() -> None:
    assert run(named(lambda xp, x: x + 1), x=np.array([1]))["output"].tolist() == [2]


def test_a_dict_of_arrays_keeps_its_names() -> None:
    outputs = run(named(lambda xp, x: {"low": x - 1, "high": x + 1}), x=np.array([5]))
    assert {name: array.tolist() for name, array in outputs.items()} == {"low": [4], "high": [6]}


def test_inputs_go_by_name_and_xp_goes_first() -> None:
    made = named(lambda xp, a, b: xp.subtract(a, b))
    assert run(made, b=np.array(1), a=np.array(7))["output"] == 6


def test_parameters_reach_the_function() -> None:
    def function(xp: Any, x: Any, *, gain: int = 1) -> Any:
        return x * gain

    assert named(function).run(np, {}, {"x": np.array(2)}, {"gain": 4})["output"] == 8


def test_models_reach_a_function_that_asks_for_them() -> None:
    def function(xp: Any, models: Mapping[str, Any], x: Any) -> Any:
        return models["double"](x)

    made = process("mine", batched=True, models=["double"])(function)
    assert made.run(np, {"double": lambda x: x * 2}, {"x": np.array(3)}, {})["output"] == 6


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "'output' is of type NoneType"),
        ([1, 2], "'output' is of type list"),
        ((np.ones(1), np.ones(1)), "'output' is of type tuple"),
        (3.0, "'output' is of type float"),
        ({"a": np.ones(1), "b": [1]}, "'b' is of type list"),
        ({1: np.ones(1)}, "1 is of type ndarray"),
    ],
)
def test_anything_but_arrays_is_refused_by_name_and_type(returned: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"process 'mine' must return an array or a dict of arrays; {message}"):
        run(named(lambda xp, x: returned), x=np.ones(1))


def test_what_the_function_raises_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        run(named(lambda xp, x: 1 // 0), x=np.ones(1))
