"""What a model file is, whatever it is called: its SHA-256, and the list of those that may be loaded."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from ndserve.errors import ModelLoadError, StartupError
from ndserve.model_info import ModelInfo

_LINE = re.compile(r"([0-9A-Fa-f]{64})(?:\s.*)?")


class ContentDigest(NamedTuple):
    """The SHA-256 of each of a model's files in hex, by their paths in its folder, and one that stands for all."""

    files: tuple[tuple[str, str], ...]
    whole: str


def digest_of(info: ModelInfo) -> ContentDigest:
    """Read all of a model's files.

    Raises:
        ModelLoadError: one cannot be read.
    """
    folder = info.path.parent
    try:
        files = tuple((path.relative_to(folder).as_posix(), _sha256(path)) for path in (info.path, *info.external))
    except OSError as error:
        raise ModelLoadError(
            f"model {info.name!r} version {info.version} cannot be read: {error.strerror or error}"
        ) from None
    if len(files) == 1:
        return ContentDigest(files, files[0][1])
    return ContentDigest(files, hashlib.sha256(repr(files).encode()).hexdigest())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class AllowedDigests:
    """The files that may be loaded, by what is in them."""

    def __init__(self, digests: frozenset[str]) -> None:
        self._digests = digests

    @classmethod
    def read(cls, path: Path) -> AllowedDigests:
        """The digests of a file such as `sha256sum` writes: a digest in hex a line, behind it whatever one likes.

        Raises:
            StartupError: it cannot be read, holds none, or has a line of another form.
        """
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise StartupError(f"{path}: cannot be read: {error} (--allow-digests)") from None
        digests = set()
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            match = _LINE.fullmatch(text)
            if match is not None:
                digests.add(match[1].lower())
            elif text:
                raise StartupError(
                    f"{path}:{number}: {text[:80]!r} does not begin with a SHA-256 of 64 hex digits, as sha256sum"
                    " prints it (--allow-digests)"
                )
        if not digests:
            raise StartupError(f"{path}: no digest in it, so that nothing could be loaded (--allow-digests)")
        return cls(frozenset(digests))

    def check(self, digest: ContentDigest) -> None:
        """Refuse a model of which any file is not listed.

        Raises:
            ModelLoadError: there is such a file; names it and its digest.
        """
        for name, sha256 in digest.files:
            if sha256 not in self._digests:
                raise ModelLoadError(f"{name} has the SHA-256 {sha256}, which is not among those of --allow-digests")
