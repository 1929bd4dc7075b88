"""API keys: a file of names, digests and roles, and the check of what a caller presents.

One key a line, its words apart by blanks; what follows `#` is a comment::

    alice  sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  manage

A secret is 32 random bytes, which nobody guesses, so a plain SHA-256 of it is enough: the slow hashes that passwords
need would cost every request thousands of times more and protect nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from ndserve.errors import InvalidParameterError, StartupError

logger = logging.getLogger("ndserve")

MAX_FILE = 1024**2
"""Bytes: most of a key file, about ten thousand keys."""

PREFIX = 8
"""Bytes of a digest by which a key is looked up. Only digests made to do so share them."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_DIGEST = re.compile(r"sha256:([0-9A-Fa-f]{64})")
_OTHERS_WRITE = 0o002


class Role(Enum):
    """What a key is good for. `manage` includes `infer`."""

    INFER = "infer"
    MANAGE = "manage"


class Key(NamedTuple):
    """One key in force: the name of its holder, the SHA-256 of its secret (32 bytes), and its role."""

    name: str
    digest: bytes
    role: Role


_NOBODY = Key("", secrets.token_bytes(32), Role.INFER)
"""What is compared where no key begins as the caller's does, so that this takes no less time."""


class KeyFile:
    """The keys of a file, as they were when it was last read without a fault."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: dict[bytes, Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def load(self) -> None:
        """Read the file; its keys take the place of those in force.

        Raises:
            StartupError: it cannot be read, has a fault or holds no key; says in which line. Nothing has changed.
        """
        keys = read_keys(self._path)
        # One assignment, so that a request meets the old keys or the new ones.
        self._keys = {key.digest[:PREFIX]: key for key in keys}

    def reload(self) -> None:
        """Read the file again. Where it has a fault the keys stay as they are, and the log says why."""
        before = set(self._keys.values())
        try:
            self.load()
        except StartupError as error:
            logger.error("%s; the keys read before (%d) stay in force", error.message, len(before))
            return
        now = set(self._keys.values())
        logger.info("keys in force: %d (%d new, %d gone)", len(now), len(now - before), len(before - now))

    def find(self, authorization: bytes) -> Key | None:
        """The key in the value of an Authorization header; None where it holds none that is in force.

        The form is that of https://www.rfc-editor.org/rfc/rfc6750#section-2.1, with the scheme in any case
        (https://www.rfc-editor.org/rfc/rfc9110#section-11.1).
        """
        if authorization[:7].lower() != b"bearer ":
            return None
        digest = hashlib.sha256(authorization[7:].strip(b" ")).digest()
        key = self._keys.get(digest[:PREFIX], _NOBODY)
        return key if hmac.compare_digest(digest, key.digest) else None


def read_keys(path: Path) -> list[Key]:
    """The keys of a file, in its order.

    Raises:
        StartupError: it cannot be read, has a fault or holds no key; says in which line. Secrets that stand where they
            should not are not repeated.
    """
    keys: list[Key] = []
    lines: dict[object, int] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            key = _key(words)
        except ValueError as fault:
            raise StartupError(f"{path}:{number}: {fault}") from None
        for mark, what in ((key.name, f"the name {key.name!r}"), (key.digest[:PREFIX], "this digest")):
            if mark in lines:
                raise StartupError(f"{path}:{number}: {what} is that of line {lines[mark]} already")
            lines[mark] = number
        keys.append(key)
    if not keys:
        raise StartupError(
            f"{path}: no key in it, so nobody could get in; `ndserve key NAME` makes one (--api-keys-file)"
        )
    return keys


def new_key(name: str, role: Role) -> tuple[str, str]:
    """A new secret, and the line of a key file that lets its holder in.

    Raises:
        InvalidParameterError: no name for a key.
    """
    if not _NAME.fullmatch(name):
        raise InvalidParameterError(f"{name[:80]!r} is no name of a key; {_NAMES}")
    secret = f"nds_{secrets.token_urlsafe(32)}"
    return secret, f"{name} sha256:{hashlib.sha256(secret.encode()).hexdigest()} {role.value}"


_NAMES = "it is made of letters, digits and . _ -"


def _key(words: list[str]) -> Key:
    """The key that the words of one line are.

    Raises:
        ValueError: they are none.
    """
    if len(words) != 3:
        raise ValueError(f"{len(words)} words, where NAME sha256:HEX ROLE is three")
    name, digest, role = words
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise ValueError(
            f"the second of its words, of {len(digest)} characters, is not sha256: and 64 hexadecimal digits"
            " (the secret itself does not belong here)"
        )
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name {name[:20]!r} is of no use; {_NAMES}")
    if role not in (each.value for each in Role):
        raise ValueError(f"the role {role[:10]!r} is neither infer nor manage")
    return Key(name, bytes.fromhex(found[1]), Role(role))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        others_write = path.stat().st_mode & _OTHERS_WRITE
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror or type(error).__name__} (--api-keys-file)") from None
    if len(content) > MAX_FILE:
        raise StartupError(f"{path}: over {MAX_FILE} bytes, which no key file has (--api-keys-file)")
    # To read it harms nobody, since no secret comes back from its digest; and a container reads it as another user.
    if others_write:
        logger.warning("%s: every user of this machine can write to it, and so let themselves in", path)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StartupError(f"{path}:{line}: it is not UTF-8") from None
