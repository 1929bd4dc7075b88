"""Tasks in an SQLite database: they outlive the process.

`store.py` has the verbs, `writer.py` the one thread that writes, `rows.py` tasks as rows, `arrays.py` their arrays in
rows and files, `at_hand.py` the latest results in memory, `running.py` the note of what has begun to run, `reserve.py`
room for removals, `folder.py` the data directory, `schema.py` the tables.
"""

from ndserve.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
