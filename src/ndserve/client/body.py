"""A file as the body of a request: hashed first, and then read in blocks, from its beginning for each attempt."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

BLOCK = 1 << 18
"""Bytes that are read and sent at once. A write that takes longer than the client's timeout breaks the request off."""


def _unheard(sent: int) -> None:
    return


class Body:
    """`length` bytes whose SHA-256 is `digest`, of a file or in memory. `sent` is told how many of them have gone."""

    def __init__(self, source: Path | memoryview, length: int, digest: bytes) -> None:
        """`of` makes one."""
        self._source = source
        self.length = length
        self.digest = digest
        self.sent: Callable[[int], None] = _unheard

    @classmethod
    def of(cls, file: str | os.PathLike[str] | bytes) -> Body:
        """The file at a path, or the bytes themselves; all of it is read once.

        Raises:
            OSError: it cannot be read.
        """
        if isinstance(file, bytes):
            return cls(memoryview(file), len(file), hashlib.sha256(file).digest())
        path = Path(file)
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").digest()
            return cls(path, opened.tell(), digest)

    @property
    def headers(self) -> dict[str, str]:
        """The length, so that a server can refuse what is too large before it comes, and the digest.

        https://www.rfc-editor.org/rfc/rfc9530#section-2
        """
        digest = base64.b64encode(self.digest).decode()
        return {"Content-Length": str(self.length), "Content-Digest": f"sha-256=:{digest}:"}

    def __iter__(self) -> Iterator[bytes]:
        """The content in blocks.

        Raises:
            OSError: the file cannot be read, or has become shorter since it was hashed.
        """
        done = 0
        self.sent(done)
        for block in self._blocks():
            yield block
            done += len(block)
            self.sent(done)

    def _blocks(self) -> Iterator[bytes]:
        if isinstance(self._source, memoryview):
            for start in range(0, self.length, BLOCK):
                yield bytes(self._source[start : start + BLOCK])
            return
        with self._source.open("rb") as opened:
            left = self.length
            while left:
                block = opened.read(min(BLOCK, left))
                if not block:
                    raise OSError(f"{self._source} has become shorter while it was sent; send it anew")
                left -= len(block)
                yield block


class AsyncBody:
    """A body for asyncio: the disk is read on a thread."""

    def __init__(self, body: Body) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        blocks = iter(self._body)
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            yield block
