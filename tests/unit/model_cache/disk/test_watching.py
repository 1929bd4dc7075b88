"""The file system's word on what has changed, as names of models."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from ndserve.model_cache.disk.watching import _names_of, changed_names

PATIENCE = 20.0
"""Seconds after which a watch that says nothing fails its test."""


def test_a_change_anywhere_below_a_model_is_told_by_its_name_and_others_are_not(tmp_path: Path) -> None:
    async def main() -> set[str]:
        told: set[str] = set()
        async with asyncio.timeout(PATIENCE), contextlib.aclosing(changed_names(tmp_path)) as changes:
            await anext(changes)  # from now on
            upload = tmp_path / ".ndserve-upload-1" / "hidden" / "1"
            for folder in (tmp_path / "m" / "1", upload):
                folder.mkdir(parents=True)
                (folder / "model.onnx").touch()
            (tmp_path / "single.onnx").touch()
            (tmp_path / "only.toml").touch()
            async for names in changes:
                told |= names
                if told >= {"m", "single", "only"}:
                    break
        return told

    assert asyncio.run(main()) == {"m", "single", "single.onnx", "only", "only.toml"}


def test_a_folder_that_is_not_there_ends_the_watch_with_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with contextlib.aclosing(changed_names(tmp_path / "missing")) as changes:
            await anext(changes)

    with pytest.raises((OSError, RuntimeError)):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("m", {"m"}),
        ("m/1/model.onnx", {"m"}),
        ("m.onnx", {"m", "m.onnx"}),
        ("m.v2.onnx", {"m.v2", "m.v2.onnx"}),
        ("m.onnx/1/model.onnx", {"m", "m.onnx"}),
        ("m.toml", {"m", "m.toml"}),
        (".hidden/m/1", set()),
        ("", set()),
        ("../m", set()),
        ("a name/1", set()),
    ],
)
def test_the_models_that_a_path_may_belong_to(path: str, names: set[str]) -> None:
    root = Path("/models")
    assert _names_of(Path("/m") if path == "../m" else root / path, root) == names
