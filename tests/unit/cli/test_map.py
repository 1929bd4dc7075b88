"""`ndserve map`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ndserve.cli import files
from ndserve.cli.exits import UsageError
from tests.unit.cli.conftest import Ndserve
from tests.unit.cli.fake_server import FakeServer


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        np.save(folder / f"{number}.npy", np.array([number]))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_file_has_a_result(called: Ndserve, inputs: Path, tmp_path: Path) -> None:
    done = called("map", "double", "in/*.npy", "-o", "new/out")
    assert (done.code, done.out) == (0, "")
    assert "5 done in" in done.err
    out = tmp_path / "new" / "out"
    assert [np.load(out / name).tolist() for name in names(out)] == [[0], [2], [4], [6], [8]]


def test_several_arrays_become_npz(called: Ndserve, inputs: Path, tmp_path: Path) -> None:
    called("map", "pair", "in/3.npy", "-o", "out")
    assert np.load(tmp_path / "out" / "3.npz")["high"].tolist() == [4]


def test_resume_skips_what_is_there(called: Ndserve, server: FakeServer, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "1.npy").touch()
    (out / "2.npz").touch()
    done = called("map", "double", "in/*.npy", "-o", "out", "--resume", "--json")
    assert sorted(request.array.item() for request in server.requests) == [0, 3, 4]
    assert (done.document["done"], done.document["skipped"]) == (3, 2)


def test_without_resume_results_are_made_anew(called: Ndserve, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.npy").touch()
    called("map", "double", "in/1.npy", "-o", "out")
    assert np.load(tmp_path / "out" / "1.npy").tolist() == [2]


def test_files_that_fail_are_named_and_the_rest_is_done(called: Ndserve, inputs: Path, tmp_path: Path) -> None:
    (inputs / "2.npy").write_bytes(b"broken")
    done = called("map", "double", "in/*.npy", "-o", "out", "--json")
    assert done.code == 1
    assert "in/2.npy: " in done.err
    assert names(tmp_path / "out") == ["0.npy", "1.npy", "3.npy", "4.npy"]
    (failure,) = done.document["failed"]
    assert (failure["file"], failure["code"]) == ("in/2.npy", "file")


def test_a_task_that_fails_has_its_code_in_the_report(called: Ndserve, inputs: Path, tmp_path: Path) -> None:
    done = called("map", "broken", "in/*.npy", "-o", "out", "--json")
    assert done.code == 1
    assert {failure["code"] for failure in done.document["failed"]} == {"execution_failed"}
    assert names(tmp_path / "out") == []


def test_an_unknown_target_ends_it_at_once(called: Ndserve, inputs: Path) -> None:
    done = called("map", "nothing", "in/*.npy", "-o", "out", "--json")
    assert (done.code, len(done.document["failed"]), done.document["not_tried"]) == (4, 1, 4)


def test_a_server_that_is_not_there_ends_it_at_once(ndserve: Ndserve, inputs: Path) -> None:
    done = ndserve("map", "double", "in/*.npy", "-o", "out", "--url", "http://127.0.0.1:1", "--patience", "0")
    assert done.code == 3
    assert "0 done, 1 failed, 4 not tried" in done.err


def test_two_files_with_one_result_are_refused_up_front(called: Ndserve, server: FakeServer, inputs: Path) -> None:
    np.savez(inputs / "3.npz", a=[1])
    done = called("map", "double", "in/*", "-o", "out")
    assert done.code == 2
    assert "3.npy" in done.err
    assert server.requests == []


def test_a_file_that_is_named_twice_is_done_once(called: Ndserve, server: FakeServer, inputs: Path) -> None:
    called("map", "double", "in/3.npy", "in/*.npy", "-o", "out")
    assert len(server.requests) == 5


def test_results_do_not_take_the_place_of_their_inputs(called: Ndserve, server: FakeServer, inputs: Path) -> None:
    assert called("map", "double", "in/*.npy", "-o", "in").code == 2
    assert server.requests == []


@pytest.mark.parametrize("pattern", ["in/*.png", "in", "missing.npy"])
def test_a_pattern_that_fits_nothing_ends_with_2(called: Ndserve, inputs: Path, pattern: str) -> None:
    done = called("map", "double", pattern, "-o", "out")
    assert done.code == 2
    assert pattern in done.err


def test_a_file_with_brackets_in_its_name_is_no_pattern(called: Ndserve, inputs: Path, tmp_path: Path) -> None:
    (inputs / "0.npy").rename(inputs / "[0].npy")
    assert called("map", "double", "in/[0].npy", "-o", "out").code == 0
    assert names(tmp_path / "out") == ["[0].npy"]


def test_options_reach_the_server(called: Ndserve, server: FakeServer, inputs: Path) -> None:
    called("map", "double", "in/1.npy", "-o", "out", "--priority", "2", "--param", "a=b", "--cast")
    assert server.requests[0].query == {"priority": "2", "a": "b", "cast": "true", "wait": "30"}


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(
    called: Ndserve, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write

    def interrupted(result: np.ndarray, name: str) -> None:
        if name.endswith("2.npy"):
            raise KeyboardInterrupt
        write(result, name)

    monkeypatch.setattr(files, "write", interrupted)
    done = called("map", "double", "in/*.npy", "-o", "out")
    assert done.code == 130
    assert "--resume" in done.err
    assert names(tmp_path / "out") == ["0.npy", "1.npy"]


def test_a_result_that_breaks_off_while_it_is_written_leaves_no_file(tmp_path: Path) -> None:
    target = tmp_path / "out.npy"
    target.mkdir()
    with pytest.raises(UsageError):
        files.write(np.ones(3), str(target))
    assert names(tmp_path) == ["out.npy"]
