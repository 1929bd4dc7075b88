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

An input of texts is NumPy's on every device: an object array of `bytes`. Texts are returned so, or as arrays of `str`.
No array namespace has bfloat16 or float8: a model takes and gives their bits here, as uint16 and uint8.

The function returns one array (called `output`) or a dict of arrays.

A user's folder is a package of its own. What several of its files share lies in one whose name begins with `_`
and is imported relatively: `from ._filters import blur`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from ndserve.errors import StartupError
from ndserve.types import NAME, Array, Parameter, TensorSpec, join_names

ModelCall = Callable[..., Any]
"""A resident model as a process sees it: device arrays in, one device array or a dict of them out."""


@dataclass(frozen=True, eq=False)
class Process:
    """A function that `@process` has named. Calling it calls the function, so that it is tested like any other.

    `module` is the name of the module that defines it, which need not be the function's.
    """

    name: str
    function: Callable[..., Any]
    batched: bool
    inputs: tuple[TensorSpec, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    takes_models: bool = False
    module: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def source(self) -> str:
        """The file that the function is written in; the module where the function has none, such as a partial."""
        code = getattr(self.function, "__code__", None)
        return self.module if code is None else str(code.co_filename)

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
        if not named:
            raise TypeError(f"process {self.name!r} returned no array")
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
        module = _module_at_work()
        return Process(name, function, batched, ordered, parameters, tuple(models), takes_models, module)

    return wrap


def require_real(xp: ModuleType, x: Array, name: str) -> None:
    """Refuse a complex array, of which the process `name` would make no sense.

    Raises:
        TypeError: the array is complex.
    """
    if xp.isdtype(x.dtype, "complex floating"):
        raise TypeError(f"{name} takes real numbers, not {x.dtype}")


def _module_at_work() -> str:
    """The name of the module whose top level is being executed, however deep in other modules' functions."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__", ""))


def _read_signature(name: str, function: Callable[..., Any]) -> tuple[list[str], dict[str, Parameter]]:
    """The positional arguments after `xp`, and the keyword-only ones with their defaults."""
    signature = inspect.signature(function).parameters
    first = list(signature)[:1]
    if first != ["xp"]:
        raise ValueError(f"process {name!r}: the first argument must be xp, not {join_names(first)}")
    arguments: list[str] = []
    parameters: dict[str, Parameter] = {}
    for argument in list(signature.values())[1:]:
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

    Each call reads all files afresh; the modules of an earlier call are forgotten.

    Raises:
        StartupError: as for `load_processes`.
    """
    if not folder.is_dir():
        raise StartupError(f"{folder} is not a folder")
    _start_package(package, folder.absolute())
    modules = []
    for path in sorted(folder.glob("[!_.]*.py")):
        try:
            modules.append(importlib.import_module(f"{package}.{path.stem}"))
        except Exception as error:
            raise StartupError(f"{_place(path, error)}: {type(error).__name__}: {error}") from error
    return modules


def _start_package(name: str, folder: Path) -> None:
    """Make a package of the folder, so that its files can import one another; `__init__.py` plays no part."""
    for module in [module for module in sys.modules if f"{module}.".startswith(f"{name}.")]:
        del sys.modules[module]
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules[name] = module_from_spec(spec)
    importlib.invalidate_caches()  # of which files the folder holds


def _place(path: Path, error: Exception) -> str:
    """`file:line` that is to blame: the last of the folder's own lines on the way to the error, else line 1 of `path`.

    A syntax error names its file itself. File names are given as `path` is, relative or absolute.
    """
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        lines.append((error.filename, error.lineno))
    folder = path.parent.absolute()
    own = [(path.with_name(Path(file).name), line) for file, line in lines if Path(file).parent == folder]
    file, line = own[-1] if own else (path, None)
    return f"{file}:{line or 1}"


def _collect(modules: Iterable[ModuleType]) -> list[Process]:
    """Every process that a module defines, once; one that it merely imports is not its own."""
    found = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Process) and value.module == module.__name__
    ]
    return list(dict.fromkeys(found))
