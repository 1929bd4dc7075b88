"""Which processes a folder holds, and what is said of a file that cannot be imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ndserve.errors import StartupError
from ndserve.processes.base import builtin_processes, load_processes

PROCESS = """\
from ndserve import process

@process("{name}", batched=True)
def function(xp, x):
    return x
"""


@pytest.fixture(autouse=True)
def forget_the_modules() -> Iterator[None]:
    """A folder's files become modules of this process; the next test must not find them."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder: Path, **files: str) -> Path:
    for stem, text in files.items():
        (folder / f"{stem}.py").write_text(text)
    return folder


def names(folder: Path) -> list[str]:
    return [process.name for process in load_processes(folder)]


def test_every_file_gives_its_processes_in_the_order_of_the_file_names(tmp_path: Path) -> None:
    write(tmp_path, b=PROCESS.format(name="first"), a=PROCESS.format(name="second"))
    assert names(tmp_path) == ["second", "first"]


def test_a_file_may_hold_several_processes(tmp_path: Path) -> None:
    two = PROCESS.format(name="one") + PROCESS.format(name="two").replace("function", "another")
    assert names(write(tmp_path, both=two)) == ["one", "two"]


def test_a_loaded_process_runs(tmp_path: Path) -> None:
    (loaded,) = load_processes(write(tmp_path, a=PROCESS.format(name="same")))
    assert loaded.run(np, {}, {"x": np.array([7])}, {})["output"].tolist() == [7]


def test_the_source_of_a_loaded_process_is_its_file(tmp_path: Path) -> None:
    (loaded,) = load_processes(write(tmp_path, a=PROCESS.format(name="same")))
    assert loaded.source == str(tmp_path / "a.py")


def test_files_that_begin_with_an_underscore_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, _private="raise RuntimeError", a=PROCESS.format(name="public"))
    assert names(tmp_path) == ["public"]


def test_other_files_and_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("raise RuntimeError")
    (tmp_path / "._a.py").write_text("raise RuntimeError")  # as macOS leaves them
    (tmp_path / "package").mkdir()
    write(tmp_path / "package", deep="raise RuntimeError")
    assert names(tmp_path) == []


def test_a_process_that_a_file_imports_is_not_its_own(tmp_path: Path) -> None:
    write(tmp_path, a="from ndserve.processes.resize import resize\n" + PROCESS.format(name="mine"))
    assert names(tmp_path) == ["mine"]


def test_a_process_may_be_made_of_a_function_from_elsewhere(tmp_path: Path) -> None:
    lines = [
        "from ndserve import process",
        "from ndserve.processes.identity import identity",
        "mine = process('mine', batched=True)(identity.function)",
    ]
    assert names(write(tmp_path, a="\n".join(lines))) == ["mine"]


def test_a_process_of_two_names_in_its_file_is_one(tmp_path: Path) -> None:
    write(tmp_path, a=PROCESS.format(name="mine") + "again = function\n")
    assert names(tmp_path) == ["mine"]


def test_a_file_name_need_not_be_an_identifier(tmp_path: Path) -> None:
    (tmp_path / "3d-filter.py").write_text(PROCESS.format(name="mine"))
    assert names(tmp_path) == ["mine"]


# Files that share code

SHARING = """\
from ndserve import process
from ._shared import gain

@process("{name}", batched=True)
def function(xp, x):
    return x * gain
"""


def results(folder: Path) -> list[list[int]]:
    return [process.run(np, {}, {"x": np.array([1])}, {})["output"].tolist() for process in load_processes(folder)]


def test_files_may_share_the_code_of_a_private_file(tmp_path: Path) -> None:
    write(tmp_path, _shared="gain = 7", a=SHARING.format(name="a"), b=SHARING.format(name="b"))
    assert results(tmp_path) == [[7], [7]]


def test_every_folder_has_private_files_of_its_own(tmp_path: Path) -> None:
    for name, gain in (("first", 2), ("second", 30)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, _shared=f"gain = {gain}", a=SHARING.format(name="a"))
    assert results(tmp_path / "first") == [[2]]
    assert results(tmp_path / "second") == [[30]]
    assert results(tmp_path / "first") == [[2]]


def test_loading_again_reads_private_files_again(tmp_path: Path) -> None:
    write(tmp_path, _shared="gain = 2", a=SHARING.format(name="a"))
    assert results(tmp_path) == [[2]]
    write(tmp_path, _shared="gain = 30")
    assert results(tmp_path) == [[30]]


def test_a_file_that_another_one_imports_is_run_once(tmp_path: Path) -> None:
    write(tmp_path, a="from .b import function as other\n" + PROCESS.format(name="a"), b=PROCESS.format(name="b"))
    assert names(tmp_path) == ["a", "b"]


def test_a_process_belongs_to_the_file_that_has_it_made(tmp_path: Path) -> None:
    make = "def make(name):\n    return process(name, batched=True)(lambda xp, x: x)\n"
    private = f"from ndserve import process\n{make}\nprivate = make('private')\n"
    write(tmp_path, _shared=private, a="from ._shared import make, private\nmine = make('mine')\n")
    assert names(tmp_path) == ["mine"]


@pytest.mark.parametrize(("text", "line"), [("x = 1\nx / 0\n", 2), ("x = 1\n\ny = (\n", 3)], ids=["raises", "syntax"])
def test_a_broken_private_file_is_named_itself(tmp_path: Path, text: str, line: int) -> None:
    write(tmp_path, _shared=text, a=SHARING.format(name="a"))
    with pytest.raises(StartupError) as raised:
        load_processes(tmp_path)
    assert raised.value.message.startswith(f"{tmp_path / '_shared.py'}:{line}: ")


# Files that cannot be imported

BROKEN = {
    "syntax": ("x = 1\ny = (\n", r"a\.py:2: SyntaxError: "),
    "import": ("x = 1\n\nimport no_such_module\n", r"a\.py:3: ModuleNotFoundError: No module named 'no_such_module'"),
    "raises": ("x = 1\nx / 0\n", r"a\.py:2: ZeroDivisionError: division by zero"),
    "in a function": ("def f():\n    return {}['k']\n\n\nf()\n", r"a\.py:2: KeyError: 'k'"),
    "in a helper": ("import json\n\njson.loads('{')\n", r"a\.py:3: JSONDecodeError: "),
    "process": (PROCESS.format(name="a b"), r"a\.py:3: ValueError: process name 'a b'"),
}


@pytest.mark.parametrize("form", ["absolute", "relative", "of the parent"])
@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_with_the_line_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str, form: str
) -> None:
    write(tmp_path, a=text, z=PROCESS.format(name="fine"))
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below" if form == "of the parent" else tmp_path.parent)
    folder = {"absolute": tmp_path, "relative": Path(tmp_path.name), "of the parent": Path("..")}[form]
    with pytest.raises(StartupError, match=message) as raised:
        load_processes(folder)
    assert raised.value.message.startswith(str(folder / "a.py"))


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_folder_that_is_none_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=f"{name} is not a folder"):
        load_processes(tmp_path / name)


def test_the_builtin_processes_have_names_of_their_own() -> None:
    builtin = [process.name for process in builtin_processes()]
    assert len(set(builtin)) == len(builtin)
    assert {"classify_digit", "identity", "normalize", "resize", "softmax", "top_k"} <= set(builtin)


def test_the_builtin_processes_explain_themselves() -> None:
    assert [process.name for process in builtin_processes() if not process.function.__doc__] == []
