"""The folder of optimised graphs: what is kept there, for how long, and what becomes of one that cannot be used."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from ndserve.model_cache import optimized
from ndserve.model_cache.optimized import GRAPH, WEIGHTS, OptimizedModels
from ndserve.model_info import ModelInfo

MIB = 1 << 20


class Opener:
    """Gives the way in which each session was made, and keeps the list of all ways tried."""

    def __init__(self, *failing: str, nbytes: int = 100) -> None:
        self.failing = failing
        self.nbytes = nbytes
        self.tried: list[str] = []

    def __call__(self, *, ready: Path | None = None, save: Path | None = None) -> str:
        way = "ready" if ready else "save" if save else "plain"
        self.tried.append(way)
        if ready:
            assert sorted(path.name for path in ready.parent.iterdir()) == [GRAPH, WEIGHTS]
        if save:
            save.write_bytes(b"graph")
            save.with_name(WEIGHTS).write_bytes(bytes(self.nbytes - 5))
        if way in self.failing:
            raise RuntimeError(f"no {way}")
        return way


@pytest.fixture
def info(tmp_path: Path) -> ModelInfo:
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(100))
    return ModelInfo("model", "1", path, 100, (), ())


@pytest.fixture
def graphs(tmp_path: Path) -> OptimizedModels:
    return OptimizedModels(tmp_path / "graphs", MIB)


def opened(graphs: OptimizedModels, info: ModelInfo, opener: Opener | None = None, digest: str = "abc") -> list[str]:
    """What an opener was asked for at one load."""
    opener = opener or Opener()
    graphs.open(info, graphs.path_for(digest), opener)
    return opener.tried


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "graphs").iterdir())


def test_the_first_load_keeps_the_graph_and_later_ones_use_it(graphs: OptimizedModels, info: ModelInfo) -> None:
    assert [opened(graphs, info) for _ in range(3)] == [["save"], ["ready"], ["ready"]]


def test_a_graph_outlives_the_process(tmp_path: Path, graphs: OptimizedModels, info: ModelInfo) -> None:
    opened(graphs, info)
    assert opened(OptimizedModels(tmp_path / "graphs", MIB), info) == ["ready"]


def test_nobody_else_can_read_the_graphs(tmp_path: Path, graphs: OptimizedModels, info: ModelInfo) -> None:
    opened(graphs, info)
    assert (tmp_path / "graphs").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a", "1.0"), ("b", "1.0")), (("a", "1.0"), ("a", "1.1")), (("a", "b", "c"), ("a", "bc")), (("a",), ("a", ""))],
)
def test_whatever_a_graph_depends_on_gives_it_another_place(
    graphs: OptimizedModels, one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    assert graphs.path_for(*one) == graphs.path_for(*one) != graphs.path_for(*other)


def test_another_processor_has_other_graphs(graphs: OptimizedModels, monkeypatch: pytest.MonkeyPatch) -> None:
    here = graphs.path_for("a")
    monkeypatch.setattr(optimized, "_processor", lambda: "x86_64 flags: sse2")
    assert graphs.path_for("a") != here


def test_the_processor_is_told_by_its_instructions() -> None:
    assert len(optimized._processor().split()) > 5


def test_a_graph_that_does_not_load_is_removed_and_the_model_itself_is_loaded(
    tmp_path: Path, graphs: OptimizedModels, info: ModelInfo, caplog: pytest.LogCaptureFixture
) -> None:
    opened(graphs, info)
    assert opened(graphs, info, Opener("ready")) == ["ready", "plain"]
    assert left(tmp_path) == []
    assert "model model/1 does not load: no ready" in caplog.text
    assert opened(graphs, info) == ["plain"], "what has failed once is not written again and again"


def test_a_graph_that_cannot_be_written_does_no_harm(
    tmp_path: Path, graphs: OptimizedModels, info: ModelInfo, caplog: pytest.LogCaptureFixture
) -> None:
    assert opened(graphs, info, Opener("save")) == ["save", "plain"]
    assert left(tmp_path) == []
    assert "model model/1 is not kept: no save" in caplog.text
    assert opened(graphs, info) == ["plain"]


def test_a_model_that_does_not_load_raises_its_own_error_and_blames_no_graph(
    tmp_path: Path, graphs: OptimizedModels, info: ModelInfo, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match="no plain"):
        opened(graphs, info, Opener("save", "plain"))
    assert left(tmp_path) == []
    assert caplog.text == ""


def test_a_folder_that_cannot_be_made_does_no_harm(
    tmp_path: Path, info: ModelInfo, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert opened(OptimizedModels(tmp_path / "file" / "graphs", MIB), info) == ["plain"]
    assert "cannot keep optimised graphs: Not a directory" in caplog.text


def test_a_disk_that_is_nearly_full_is_left_to_others(
    graphs: OptimizedModels, info: ModelInfo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage("/")._replace(free=256 * MIB + 99)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert opened(graphs, info) == ["plain"]
    assert f"{256 * MIB + 99} bytes are free" in caplog.text
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=256 * MIB + 100))
    assert opened(graphs, info) == ["save"]


def test_a_model_larger_than_the_folder_is_not_kept(tmp_path: Path, info: ModelInfo) -> None:
    assert opened(OptimizedModels(tmp_path / "graphs", 99), info) == ["plain"]


def test_a_graph_that_has_grown_larger_than_the_folder_is_not_kept(
    tmp_path: Path, graphs: OptimizedModels, info: ModelInfo
) -> None:
    assert [opened(graphs, info, Opener(nbytes=MIB + 1)) for _ in range(2)] == [["save"], ["plain"]]
    assert left(tmp_path) == []


def test_the_graph_used_least_recently_goes_where_there_are_too_many(
    tmp_path: Path, graphs: OptimizedModels, info: ModelInfo
) -> None:
    for age, digest in enumerate(("new", "old")):
        opened(graphs, info, Opener(nbytes=MIB // 3), digest)
        os.utime(graphs.path_for(digest), (1000 - age, 1000 - age))
    opened(graphs, info, digest="old")
    opened(graphs, info, Opener(nbytes=MIB // 2), "another")
    assert left(tmp_path) == sorted(graphs.path_for(digest).name for digest in ("old", "another"))


def test_what_a_crash_has_left_goes_first(tmp_path: Path, graphs: OptimizedModels, info: ModelInfo) -> None:
    leftover = tmp_path / "graphs" / ".abc.0123"
    leftover.mkdir(parents=True)
    (leftover / WEIGHTS).write_bytes(bytes(MIB))
    os.utime(leftover, (0, 0))
    opened(graphs, info)
    assert left(tmp_path) == [graphs.path_for("abc").name]


@pytest.mark.parametrize("changed", ["model.onnx", "weights.bin"])
def test_a_graph_of_files_that_change_while_they_are_read_is_not_kept(
    tmp_path: Path, graphs: OptimizedModels, info: ModelInfo, changed: str
) -> None:
    (tmp_path / "weights.bin").write_bytes(b"1")
    info = ModelInfo("model", "1", info.path, 100, (), (), external=(tmp_path / "weights.bin",))

    class Changing(Opener):
        def __call__(self, *, ready: Path | None = None, save: Path | None = None) -> str:
            (tmp_path / changed).write_bytes(b"other")
            return super().__call__(ready=ready, save=save)

    assert opened(graphs, info, Changing()) == ["save"]
    assert left(tmp_path) == []
    assert opened(graphs, info) == ["save"]


def test_a_graph_that_another_process_has_kept_meanwhile_stays(
    tmp_path: Path, graphs: OptimizedModels, info: ModelInfo, caplog: pytest.LogCaptureFixture
) -> None:
    class Overtaken(Opener):
        def __call__(self, *, ready: Path | None = None, save: Path | None = None) -> str:
            opened(OptimizedModels(tmp_path / "graphs", MIB), info)
            return super().__call__(ready=ready, save=save)

    with caplog.at_level(logging.WARNING):
        assert opened(graphs, info, Overtaken()) == ["save"]
    assert left(tmp_path) == [graphs.path_for("abc").name]
    assert opened(graphs, info) == ["ready"]
