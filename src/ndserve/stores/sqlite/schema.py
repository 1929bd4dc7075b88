"""The tables, their version, and how the database file is opened.

`normal` durability is WAL with `synchronous=NORMAL`: a commit is in the file's cache when it returns, so it survives
the end of this process, and a power cut can take the last of them without harming the rest. `full` is
`synchronous=FULL`, which waits for the disk. (https://www.sqlite.org/pragma.html#pragma_synchronous)
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ndserve.errors import StartupError

VERSION = 1
APPLICATION_ID = 0x6E647372  # "ndsr": marks the file as ours

CHECKPOINT_PAGES = 4000
"""Pages of 4 KiB in the log after which they are moved into the database: 16 MB, so that it happens seldom."""

_TABLES = """
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    target TEXT NOT NULL,
    version TEXT NOT NULL,
    parameters TEXT,
    options TEXT,
    idempotency_key TEXT,
    group_id TEXT,
    rows INTEGER NOT NULL,
    single INTEGER NOT NULL,
    created REAL NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    started REAL,
    run_by REAL,
    ended REAL,
    expires REAL,
    device TEXT,
    load_seconds REAL,
    store_seconds REAL,
    progress TEXT,
    failure TEXT,
    nbytes INTEGER NOT NULL,
    filed INTEGER NOT NULL,
    arrays BLOB
) STRICT;
CREATE INDEX tasks_expire ON tasks (expires) WHERE expires IS NOT NULL;
CREATE INDEX tasks_by_key ON tasks (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX tasks_by_group ON tasks (group_id) WHERE group_id IS NOT NULL;

CREATE TABLE groups (
    id TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    version TEXT NOT NULL,
    total INTEGER NOT NULL,
    created REAL NOT NULL,
    idempotency_key TEXT,
    fingerprint TEXT NOT NULL,
    expires REAL
) STRICT, WITHOUT ROWID;
CREATE INDEX groups_by_key ON groups (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE traces (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    reason TEXT NOT NULL,
    until REAL NOT NULL
) STRICT;

CREATE TABLE outbox (
    id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    body BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    due REAL NOT NULL
) STRICT;
CREATE INDEX outbox_due ON outbox (due);
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one thread at a time; transactions are begun by hand."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("PRAGMA temp_store=MEMORY")
    return connection


def open_database(path: Path, durability: str) -> sqlite3.Connection:
    """The connection that writes, with the tables in place.

    Raises:
        StartupError: the file is not a task store, is of a newer version, or cannot be used.
    """
    try:
        connection = connect(path)
        try:
            _check_version(connection, path)  # first: a file of something else stays as it is
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={'FULL' if durability == 'full' else 'NORMAL'}")
            connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise StartupError(f"the task store {path} cannot be opened: {error} (--data-dir)") from None
    return connection


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise StartupError(f"{path} is a database of something else; choose another --data-dir")
    if version > VERSION:
        raise StartupError(
            f"the task store {path} has schema version {version}, and this ndserve knows up to {VERSION}:"
            " it was written by a newer one; use that, or choose another --data-dir"
        )
    if version == 0:
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={VERSION}; {_TABLES} COMMIT;"
        )
