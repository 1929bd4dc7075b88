"""`ndserve submit` and `ndserve result`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ndserve.client import Client
from tests.unit.cli.conftest import Ndserve
from tests.unit.cli.fake_server import FakeServer, array, document, problem


def interrupted(*arguments: Any, **options: Any) -> Any:
    raise KeyboardInterrupt


def test_submit_prints_the_id_and_nothing_else(called: Ndserve, file: Path) -> None:
    assert called("submit", "double", file) == (0, "task0\n", "")


def test_submit_prints_the_id_as_json(called: Ndserve, file: Path) -> None:
    assert called("submit", "double", file, "--json").document == {"task_id": "task0", "status": "queued"}


def test_options_and_parameters_reach_the_server(called: Ndserve, server: FakeServer, file: Path) -> None:
    words = (
        "--priority 9 --ttl 60 --start-within 5 --run-within 2.5 --version 2 --cast --split --param a=1 --param b=x=y"
    )
    called("submit", "double", file, "--key", "mine", *words.split())
    (request,) = server.requests
    assert request.headers["idempotency-key"] == "mine"
    spans = {"ttl": "60", "start_within": "5", "run_within": "2.5"}
    assert request.query == {
        "priority": "9",
        "version": "2",
        "cast": "true",
        "split": "true",
        "a": "1",
        "b": "x=y",
        **spans,
    }


def test_nothing_is_sent_that_was_not_asked_for(called: Ndserve, server: FakeServer, file: Path) -> None:
    called("submit", "double", file)
    assert server.requests[0].query == {}


def test_submit_and_wait_shows_the_result(called: Ndserve, file: Path) -> None:
    assert called("submit", "double", file, "--wait") == (0, "float32 [2]\n[3. 4.]\n", "")


def test_several_arrays_are_shown_by_name(called: Ndserve, file: Path) -> None:
    done = called("submit", "pair", file, "--wait", "5")
    assert done.out == "low: float32 [2]\n[1.5 2. ]\nhigh: float32 [2]\n[2.5 3. ]\n"


def test_a_result_as_json_has_the_servers_form(called: Ndserve, file: Path) -> None:
    done = called("submit", "double", file, "--wait", "--json")
    expected = {"task_id": "task0", "status": "succeeded", "array": [3.0, 4.0], "dtype": "float32", "shape": [2]}
    assert done.document == expected


def test_several_arrays_as_json_are_outputs(called: Ndserve, file: Path) -> None:
    outputs = called("submit", "pair", file, "--wait", "--json").document["outputs"]
    assert outputs["high"] == {"array": [2.5, 3.0], "dtype": "float32", "shape": [2]}


def test_json_has_short_floats_and_null_for_nan(called: Ndserve, server: FakeServer) -> None:
    server.results["t"] = array(np.array([0.1, np.nan, np.inf], np.float32))
    assert called("result", "t", "--json").document["array"] == [0.1, None, None]


@pytest.mark.parametrize("values", [np.zeros(20_000), np.array([1j])])
def test_json_describes_an_array_that_is_large_or_has_no_json_form(
    called: Ndserve, server: FakeServer, values: np.ndarray
) -> None:
    server.results["t"] = array(values)
    found = called("result", "t", "--json").document
    assert (found["shape"], "array" in found) == (list(values.shape), False)


def test_a_result_is_written_to_a_file_that_implies_the_wait(called: Ndserve, file: Path, tmp_path: Path) -> None:
    done = called("submit", "double", file, "-o", "out.npy")
    assert (done.code, done.out) == (0, "")
    assert "out.npy" in done.err
    assert np.load(tmp_path / "out.npy").tolist() == [3.0, 4.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "out.npy"]


def test_several_arrays_are_written_as_npz(called: Ndserve, file: Path, tmp_path: Path) -> None:
    called("submit", "pair", file, "-o", "out.npz")
    assert np.load(tmp_path / "out.npz")["high"].tolist() == [2.5, 3.0]


def test_several_arrays_do_not_fit_a_npy_file(called: Ndserve, file: Path) -> None:
    done = called("submit", "pair", file, "-o", "out.npy")
    assert done.code == 2
    assert "low, high" in done.err
    assert "ndserve result task0 -o FILE" in done.err


@pytest.mark.parametrize("output", ["out.txt", "missing/out.npy"])
def test_an_output_that_cannot_be_is_refused_before_the_submit(
    called: Ndserve, server: FakeServer, file: Path, output: str
) -> None:
    assert called("submit", "double", file, "-o", output).code == 2
    assert server.requests == []


def test_json_names_the_file(called: Ndserve, file: Path) -> None:
    done = called("submit", "double", file, "-o", "out.npy", "--json")
    assert done.document["file"] == "out.npy"
    assert "array" not in done.document


@pytest.mark.parametrize(
    ("words", "code", "word"),
    [
        (["submit", "broken", "in.npy", "--wait"], 1, "it cannot be done"),
        (["submit", "nothing", "in.npy"], 4, "unknown_target"),
        (["submit", "double", "no.npy"], 2, "no.npy: No such file"),
        (["submit", "double", "conftest.py"], 2, "not a file of arrays"),
        (["submit", "double", "in.npy", "--param", "x"], 2, "NAME=VALUE"),
        (["submit", "double", "in.npy", "--param", "wait=3"], 2, "--param wait"),
        (["submit", "double", "in.npy", "--priority", "10"], 2, "--priority"),
        (["submit", "double", "in.npy", "--ttl", "-1"], 2, "--ttl"),
        (["submit", "--wait", "double", "in.npy"], 2, "write --wait behind everything else"),
        (["result", "unknown"], 4, "unknown_task"),
    ],
)
def test_each_failure_has_its_exit_code(called: Ndserve, file: Path, words: list[str], code: int, word: str) -> None:
    done = called(*words)
    assert (done.code, done.out) == (code, "")
    assert word in done.err
    assert "Traceback" not in done.err


def test_a_failed_task_as_json_has_its_code(called: Ndserve, file: Path) -> None:
    done = called("submit", "broken", file, "--wait", "--json")
    fault = {"code": "execution_failed", "message": "it cannot be done"}
    assert (done.code, done.document) == (1, {"task_id": "task0", "status": "failed", "error": fault})


def test_a_task_that_was_cancelled_ends_with_1(called: Ndserve, server: FakeServer) -> None:
    server.results["t"] = problem(410, "gone", "the task was cancelled")
    done = called("result", "t")
    assert done.code == 1
    assert "the task was cancelled" in done.err


def test_a_result_that_is_not_there_yet_ends_with_5(called: Ndserve, server: FakeServer) -> None:
    server.results["t"] = document(202, {"task_id": "t", "status": "running"})
    done = called("result", "t")
    assert (done.code, done.out) == (5, "")
    assert "ndserve result t --wait" in done.err


def test_a_wait_that_runs_out_ends_with_5_and_the_id(called: Ndserve, file: Path) -> None:
    done = called("submit", "slow", file, "--wait", "0")
    assert (done.code, done.out) == (5, "task0\n")


def test_a_wait_that_runs_out_tells_the_status_as_json(called: Ndserve, file: Path) -> None:
    done = called("submit", "slow", file, "--wait=0", "--json")
    assert (done.code, done.document) == (5, {"task_id": "task0", "status": "queued"})


def test_ctrl_c_while_waiting_ends_with_130_and_names_the_task(
    called: Ndserve, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "get_result", interrupted)
    done = called("submit", "slow", file, "--wait")
    assert done.code == 130
    assert "the task goes on: ndserve result task0 --wait" in done.err


def test_ctrl_c_while_submitting_gives_the_key_that_finds_the_task(
    called: Ndserve, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "submit_task", interrupted)
    done = called("submit", "slow", file)
    assert done.code == 130
    assert "--key " in done.err


def test_an_array_comes_from_stdin(called: Ndserve, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(file.read_bytes())))
    assert called("submit", "double", "-", "--wait").out == "float32 [2]\n[3. 4.]\n"


def test_npz_is_submitted_as_several_arrays(called: Ndserve, server: FakeServer, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", a=[1], b=[2])
    called("submit", "slow", "in.npz")
    assert server.requests[0].array.files == ["a", "b"]


@pytest.mark.parametrize(("mode", "shape"), [("L", [2, 3]), ("RGB", [2, 3, 3]), ("P", [2, 3, 3]), ("1", [2, 3])])
def test_an_image_is_an_array_of_bytes(
    called: Ndserve, server: FakeServer, tmp_path: Path, mode: str, shape: list[int]
) -> None:
    Image.new(mode, (3, 2), 1).save(tmp_path / "in.png")
    called("submit", "slow", "in.png")
    assert server.requests[0].array.dtype == np.uint8
    assert list(server.requests[0].array.shape) == shape


def test_a_photo_that_was_taken_sideways_is_turned(called: Ndserve, server: FakeServer, tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.new("L", (3, 2)).save(tmp_path / "in.jpg", exif=tags)
    called("submit", "slow", "in.jpg")
    assert server.requests[0].array.shape == (3, 2)


def test_an_image_of_16_bits_is_not_cut_to_8(called: Ndserve, tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(tmp_path / "in.png")
    done = called("submit", "slow", "in.png")
    assert done.code == 2
    assert "16" in done.err


@pytest.mark.parametrize("name", ["in.npy", "in.npz", "in.png"])
def test_a_file_that_is_not_what_its_name_says_ends_with_2(called: Ndserve, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something else")
    done = called("submit", "slow", name)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1


def test_a_file_of_python_objects_is_not_loaded(called: Ndserve, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.array([{}], object), allow_pickle=True)
    assert called("submit", "slow", "in.npy").code == 2


def test_a_result_goes_to_stdout_as_npy(called: Ndserve, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out, flush=lambda: None))
    assert called("submit", "double", file, "-o", "-").code == 0
    assert np.load(io.BytesIO(out.getvalue())).tolist() == [3.0, 4.0]


def test_json_is_one_line(called: Ndserve, file: Path) -> None:
    (line,) = called("submit", "double", file, "--wait", "--json").out.splitlines()
    assert json.loads(line)["status"] == "succeeded"
