"""What a process is: a Python array function with a name, run on the device.

To add one: write one file here, or in the folder that `--processes` names, with one function::

    from ndserve import process

    @process("double", batched=True)
    def double(xp, x):
        return x * 2

`xp` is the device's array namespace (NumPy on the CPU, CuPy on a GPU); write against the array API standard
(https://data-apis.org/array-api/latest/), create arrays with `device=x.device`, and never write to an input.
Every other positional argument is an input array, by its name. A keyword-only argument is a parameter that
callers set in the query string; its default gives its type. An argument called `models` gives the models that
`models=[...]` names: `models["digits"](x)` runs one without leaving the device.

The function returns one array (called `output`) or a dict of arrays.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ndserve.errors import StartupError
from ndserve.types import NAME, Array, Parameter, TensorSpec, join_names

ModelCall = Callable[..., Any]
"""A resident model as a process sees it: device arrays in, one device array or a dict of them out."""


@dataclass(frozen=True, eq=False)
class Process:
    """A function that `@process` has named. Calling it calls the function, so that it is tested like any other."""

    name: str
    function: Callable[..., Any]
    batched: bool
    inputs: tuple[TensorSpec, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    takes_models: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def source(self) -> str:
        return inspect.getsourcefile(self.function) or self.function.__module__

    def run(
        self,
        xp: ModuleType,
        models: Mapping[str, ModelCall],
        inputs: Mapping[str, Array],
        parameters: Mapping[str, Parameter],
    ) -> dict[str, Array]:
        """Call the function on device arrays and give its outputs by name.

        Raises:
            TypeError: it returned neither an array nor a dict of arrays.
        """
        given = {**inputs, "models": models} if self.takes_models else inputs
        outputs = self.function(xp, **given, **parameters)
        named = outputs if isinstance(outputs, dict) else {"output": outputs}
        for name, array in named.items():
            if not isinstance(name, str) or not hasattr(array, "shape") or not hasattr(array, "dtype"):
                raise TypeError(
                    f"process {self.name!r} must return an array or a dict of arrays;"
                    f" {name!r} is of type {type(array).__name__}"
                )
        return named


def process(
    name: str, *, batched: bool, inputs: Sequence[TensorSpec] = (), models: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Process]:
    """Make a process of an array function.

    Args:
        name: letters, digits, `.`, `_` and `-`.
        batched: True lets the server stack items along a new axis 0 before the call; every output must then
            have one row an item. False calls the function once a task, with the arrays as they were posted.
        inputs: specs of the inputs; shapes include the batch axis (None) where `batched`. Without specs an
            input takes any dtype and shape, and each posted array is one item.
        models: names of the models that the function calls.

    Raises:
        ValueError: the name or the function's signature is not as described.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"process name {name!r} must consist of letters, digits, '.', '_' and '-'")

    def wrap(function: Callable[..., Any]) -> Process:
        arguments, parameters = _read_signature(name, function)
        takes_models = "models" in arguments
        names = [argument for argument in arguments if argument != "models"]
        specs = {spec.name: spec for spec in inputs}
        if not names or specs.keys() - set(names):
            raise ValueError(
                f"process {name!r} takes the inputs {join_names(names)}; its specs name {join_names(specs)}"
            )
        ordered = tuple(specs.get(argument, TensorSpec(argument)) for argument in names)
        return Process(name, function, batched, ordered, parameters, tuple(models), takes_models)

    return wrap


def _read_signature(name: str, function: Callable[..., Any]) -> tuple[list[str], dict[str, Parameter]]:
    """The positional arguments after `xp`, and the keyword-only ones with their defaults."""
    first, *others = inspect.signature(function).parameters.values()
    if first.name != "xp":
        raise ValueError(f"process {name!r}: the first argument must be xp, not {first.name}")
    arguments: list[str] = []
    parameters: dict[str, Parameter] = {}
    for argument in others:
        if argument.kind is argument.POSITIONAL_OR_KEYWORD and argument.default is argument.empty:
            arguments.append(argument.name)
        elif argument.kind is argument.KEYWORD_ONLY and isinstance(argument.default, str | int | float | bool):
            parameters[argument.name] = argument.default
        else:
            raise ValueError(
                f"process {name!r}: {argument} must be an input array without a default, or keyword-only"
                " with a str, int, float or bool as its default"
            )
    return arguments, parameters


def builtin_processes() -> list[Process]:
    """The processes of this folder."""
    package = sys.modules[__package__]
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base")
    return _collect(importlib.import_module(f"{__package__}.{name}") for name in names)


def load_processes(folder: Path) -> list[Process]:
    """The processes of a user's folder: every `*.py` in it that does not begin with `_`.

    Raises:
        StartupError: the folder is missing, or a file cannot be imported; names the file and line.
    """
    return _collect(import_folder(folder, "ndserve_user_processes"))


def import_folder(folder: Path, package: str) -> list[ModuleType]:
    """Import every `*.py` of `folder` that does not begin with `_`, as `package.<stem>`.

    Raises:
        StartupError: as for `load_processes`.
    """
    if not folder.is_dir():
        raise StartupError(f"{folder} is not a folder")
    modules = []
    for path in sorted(folder.glob("[!_]*.py")):
        spec = importlib.util.spec_from_file_location(f"{package}.{path.stem}", path)
        if spec is None or spec.loader is None:
            raise StartupError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise StartupError(f"{path}:{_line_in(path, error)}: {type(error).__name__}: {error}") from error
        modules.append(module)
    return modules


def _line_in(path: Path, error: Exception) -> int:
    """The line of `path` that is to blame: the syntax error's own, or the last one on the stack."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return (lines[-1] if lines else None) or 1


def _collect(modules: Iterable[ModuleType]) -> list[Process]:
    """Every process that a module defines; one that it merely imports is not its own."""
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Process) and value.function.__module__ == module.__name__
    ]
