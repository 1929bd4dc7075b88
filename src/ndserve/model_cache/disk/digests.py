"""SHA-256 digests of models: what they are, and which are allowed (`--allow-digests`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from ndserve.errors import ModelLoadError, StartupError
from ndserve.model_info import ModelInfo

_LINE = re.compile(r"\\?([0-9A-Fa-f]{64})(\s+\*?\S.*)?")
"""A digest and perhaps a name, as sha256sum writes them; a name with odd characters has a backslash before the digest.

https://www.gnu.org/software/coreutils/manual/html_node/cksum-output-modes.html
"""


class ContentDigest(NamedTuple):
    """What a model's content comes to.

    `files` are the digests of its files in hexadecimal digits, by their names in the model's folder; the model file
    comes first. `whole` stands for all of them: the model file's own where there is no other.
    """

    files: tuple[tuple[str, str], ...]
    whole: str


def digest_of(info: ModelInfo) -> ContentDigest:
    """Read the model's files and external data. Takes long for large ones.

    Raises:
        ModelLoadError: a file cannot be read.
    """
    folder = info.path.parent
    files = tuple((file.relative_to(folder).as_posix(), _sha256(file)) for file in (info.path, *info.external))
    if len(files) == 1:
        return ContentDigest(files, files[0][1])
    # As sha256sum would write them: made of this text, the digest of all can be checked by hand.
    text = "".join(f"{digest}  {name}\n" for name, digest in files)
    return ContentDigest(files, hashlib.sha256(text.encode()).hexdigest())


class AllowedDigests:
    """The only files that may become models."""

    def __init__(self, digests: Iterable[str]) -> None:
        """`digests` are SHA-256 in lower-case hexadecimal digits."""
        self._digests = frozenset(digests)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file as `sha256sum` writes it, or with a bare digest in each line; lines with `#` are remarks.

        Raises:
            StartupError: it cannot be read, or a line of it is none of these.
        """
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text in UTF-8"
            raise StartupError(f"--allow-digests: {path} cannot be read: {reason}") from None
        digests = []
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            found = _LINE.fullmatch(text)
            if found is None:
                raise StartupError(
                    f"--allow-digests: line {number} of {path} is {text[:100]!r}; it must be a SHA-256 digest of 64"
                    " hexadecimal digits, and after blanks perhaps a file's name, as sha256sum writes them"
                )
            digests.append(found[1].lower())
        return cls(digests)

    def check(self, digest: ContentDigest) -> None:
        """Refuse a model of which any file is not allowed.

        Raises:
            ModelLoadError: names the file and its digest.
        """
        for name, file in digest.files:
            if file not in self._digests:
                raise ModelLoadError(f"{name} has the SHA-256 digest {file}, which --allow-digests does not list")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error.strerror}") from None
