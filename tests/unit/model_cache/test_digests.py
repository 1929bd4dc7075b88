"""Digests of models, and the list of those that may be loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ndserve.errors import ModelLoadError, StartupError
from ndserve.model_cache.digests import AllowedDigests, digest_of
from ndserve.model_info import ModelInfo

MODEL, WEIGHTS = b"model", b"weights"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def info(tmp_path: Path) -> ModelInfo:
    """A model with external data."""
    path, external = tmp_path / "model.onnx", tmp_path / "sub" / "w.bin"
    external.parent.mkdir()
    path.write_bytes(MODEL)
    external.write_bytes(WEIGHTS)
    return ModelInfo("m", "1", path, 12, (), (), external=(external,))


def alone(info: ModelInfo) -> ModelInfo:
    return ModelInfo("m", "1", info.path, 5, (), ())


def test_the_digest_of_a_single_file_is_the_files_own(info: ModelInfo) -> None:
    digest = digest_of(alone(info))
    assert (digest.whole, digest.files) == (sha256(MODEL), (("model.onnx", sha256(MODEL)),))


def test_external_data_has_digests_of_its_own_and_counts_for_the_whole(info: ModelInfo) -> None:
    before = digest_of(info)
    assert before.files == (("model.onnx", sha256(MODEL)), ("sub/w.bin", sha256(WEIGHTS)))
    info.external[0].write_bytes(b"other weights")
    assert digest_of(info).whole not in (before.whole, sha256(MODEL))


def test_a_file_that_cannot_be_read_is_told_without_its_folder(info: ModelInfo) -> None:
    info.external[0].unlink()
    with pytest.raises(ModelLoadError) as caught:
        digest_of(info)
    assert "No such file" in caught.value.message
    assert str(info.path.parent) not in caught.value.message


def listed(tmp_path: Path, text: str) -> AllowedDigests:
    path = tmp_path / "allowed.txt"
    path.write_text(text)
    return AllowedDigests.read(path)


def test_a_model_is_allowed_when_all_of_its_files_are_listed_as_sha256sum_prints_them(
    tmp_path: Path, info: ModelInfo
) -> None:
    text = f"# ours\n\n{sha256(MODEL)}  models/m/1/model.onnx\n{sha256(WEIGHTS).upper()}  # the weights\n"
    listed(tmp_path, text).check(digest_of(info))


@pytest.mark.parametrize(("content", "told"), [(MODEL, "sub/w.bin"), (WEIGHTS, "model.onnx")])
def test_a_file_that_is_not_listed_is_named_with_its_digest(
    tmp_path: Path, info: ModelInfo, content: bytes, told: str
) -> None:
    missing = WEIGHTS if content is MODEL else MODEL
    with pytest.raises(ModelLoadError) as caught:
        listed(tmp_path, sha256(content)).check(digest_of(info))
    assert f"{told} has the SHA-256 {sha256(missing)}" in caught.value.message


@pytest.mark.parametrize("line", ["abc", "x" * 64, "a" * 63, "a" * 65, f"sha256:{'a' * 64}", f"{'a' * 64}x"])
def test_a_line_that_is_no_digest_is_told_with_its_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(StartupError, match=r"allowed\.txt:2: .*SHA-256"):
        listed(tmp_path, f"{'b' * 64}\n{line}\n")


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_a_list_of_nothing_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(StartupError, match="no digest"):
        listed(tmp_path, text)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="allow-digests"):
        AllowedDigests.read(tmp_path / "missing.txt")
