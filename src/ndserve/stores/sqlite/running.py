"""Which tasks have begun to run, noted without waiting for anything.

A task that ends the process (a crash in native code) must be counted before it can do so, or it would run again for
ever. A commit before each batch would keep the device waiting. So the note goes into a small file that is mapped into
memory: what is written there stays when the process dies, and costs what writing memory costs.

The file is a ring of (number of the task, time of its start). Notes of tasks that have ended are simply overwritten
in time, and passed over when the file is read: the database knows that those have ended.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from itertools import count
from pathlib import Path

NOTES = 1 << 16
"""Far more than tasks that can have begun while their ends are not committed yet."""

_NOTE = struct.Struct("<qd")


class Running:
    """The ring, open."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        """With `sync` a note is on the disk when `add` returns."""
        self._sync = sync
        self._positions = count()  # safe between threads: a waiting caller's task may be noted while the lane notes
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Every block is there from the start: a full disk must not kill the process when a note is written.
            os.posix_fallocate(descriptor, 0, NOTES * _NOTE.size)
            self._notes = mmap.mmap(descriptor, NOTES * _NOTE.size)
        finally:
            os.close(descriptor)

    def started(self) -> dict[int, float]:
        """When each noted task started last, by its number."""
        # By time, and not by place: once the ring has gone around, a later note may stand before an earlier one.
        return {
            seq: time for time, seq in sorted((time, seq) for seq, time in _NOTE.iter_unpack(self._notes[:]) if seq)
        }

    def clear(self) -> None:
        self._notes[:] = bytes(len(self._notes))
        self._notes.flush()

    def add(self, seqs: Iterable[int], time: float) -> None:
        for seq in seqs:
            _NOTE.pack_into(self._notes, next(self._positions) % NOTES * _NOTE.size, seq, time)
        if self._sync:
            self._notes.flush()

    def forget(self, seq: int) -> None:
        """Take out the notes of a task that is to run anew."""
        for position, (noted, _) in enumerate(_NOTE.iter_unpack(self._notes[:])):
            if noted == seq:
                _NOTE.pack_into(self._notes, position * _NOTE.size, 0, 0.0)

    def close(self) -> None:
        self._notes.close()
