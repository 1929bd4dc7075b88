"""What a model's digest is, and the list of digests that are allowed."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from ndserve.errors import ModelLoadError, StartupError
from ndserve.model_cache.disk.digests import AllowedDigests, ContentDigest, digest_of
from ndserve.model_cache.disk.repository import scan
from ndserve.model_info import ModelInfo
from tests import onnx_models

A, B = "a" * 64, "b" * 64
ONE = ContentDigest((("model.onnx", A),), A)
TWO = ContentDigest((("model.onnx", A), ("w.bin", B)), "c" * 64)


def with_weights(root: Path) -> ModelInfo:
    path = onnx_models.save(onnx_models.with_external_weights("sub/v.bin", "w.bin"), root, "m")
    (path.parent / "sub").mkdir()
    (path.parent / "sub" / "v.bin").write_bytes(bytes(8))
    (path.parent / "w.bin").write_bytes(bytes(16))
    (info,) = scan(root)
    return info


def test_a_single_files_digest_is_the_models(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.double(), tmp_path, "m")
    (info,) = scan(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest_of(info) == ContentDigest((("model.onnx", digest),), digest)


def test_external_data_have_digests_and_count_in_the_whole(tmp_path: Path) -> None:
    info = with_weights(tmp_path)
    before = digest_of(info)
    assert [name for name, _ in before.files] == ["model.onnx", "sub/v.bin", "w.bin"]
    assert before.files[2][1] == hashlib.sha256(bytes(16)).hexdigest()
    info.external[1].write_bytes(bytes(15) + b"\1")
    after = digest_of(info)
    assert after.whole != before.whole
    assert after.files[:2] == before.files[:2]


def test_the_whole_can_be_checked_with_sha256sum(tmp_path: Path) -> None:
    info = with_weights(tmp_path)
    line = "sha256sum model.onnx sub/v.bin w.bin | sha256sum"
    printed = subprocess.run(
        ["sh", "-c", line], cwd=info.path.parent, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split()[0] == digest_of(info).whole


def test_a_file_that_cannot_be_read_is_told_without_its_folder(tmp_path: Path) -> None:
    info = with_weights(tmp_path)
    info.external[1].unlink()
    with pytest.raises(ModelLoadError) as caught:
        digest_of(info)
    assert caught.value.message == "w.bin cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "line", [A, A.upper(), f"{A}  model.onnx", f"{A} *model.onnx", f"{A}\tx", f"\\{A}  odd\\nname", f" {A} \r"]
)
def test_a_digest_is_read_as_sha256sum_writes_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "allowed"
    path.write_text(f"# ours\n\n  # more\n{B}  w.bin\n{line}\n")
    allowed = AllowedDigests.read(path)
    allowed.check(ONE)
    allowed.check(TWO)


@pytest.mark.parametrize("line", ["model.onnx", A[:-1], A + "0", "g" * 64, f"SHA256 (m) = {A}", f"{A}model", f"m  {A}"])
def test_any_other_line_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "allowed"
    path.write_text(f"# ours\n{B}\n{line}\n")
    with pytest.raises(StartupError, match=rf"--allow-digests: line 3 of {path} is .*64 hexadecimal digits"):
        AllowedDigests.read(path)


def test_a_list_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        AllowedDigests.read(tmp_path / "allowed")
    (tmp_path / "allowed").write_bytes(b"\xff\xfe")
    with pytest.raises(StartupError, match="not a text in UTF-8"):
        AllowedDigests.read(tmp_path / "allowed")


def test_a_model_that_is_not_listed_is_refused_with_its_digest() -> None:
    with pytest.raises(ModelLoadError) as caught:
        AllowedDigests([B]).check(ONE)
    assert caught.value.message == f"model.onnx has the SHA-256 digest {A}, which --allow-digests does not list"


def test_external_data_have_to_be_listed_too() -> None:
    with pytest.raises(ModelLoadError, match=rf"^w\.bin has .* {B}"):
        AllowedDigests([A, TWO.whole]).check(TWO)


def test_an_empty_list_allows_nothing(tmp_path: Path) -> None:
    (tmp_path / "allowed").write_text("# nothing yet\n")
    with pytest.raises(ModelLoadError):
        AllowedDigests.read(tmp_path / "allowed").check(ONE)
