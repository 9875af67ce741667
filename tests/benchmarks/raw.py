"""What SQLite gives without anything around it: the measure of how much of it Playbill leaves to its users.

One connection of `sqlite3`, WAL, `synchronous=FULL`, a table without an index besides its key, rows of about the size
of a record of the journal. No hashes, no projections, no encoding: no journal can be as fast as this.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measuring import Figures, Options

BATCH = 500
"""Rows a commit, of `batched_rows`."""

ROW_BYTES = 277
"""Bytes of a row: what the columns of a record take in the benchmark's activities; `bytes a record` measures it."""

_INSERT = "INSERT INTO rows(seq, stream, kind, at, body, leaf) VALUES (?, ?, ?, ?, ?, ?)"


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(Path(directory) / "raw.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(
            "CREATE TABLE rows(seq INTEGER PRIMARY KEY, stream TEXT, kind TEXT, at TEXT, body TEXT, leaf BLOB) STRICT"
        )
        yield connection


def _row(seq: int) -> tuple[int, str, str, str, str, bytes]:
    stream = f"019387b6-0000-7000-8000-{seq // 8:012d}"
    at = "2026-01-01T00:00:00.000000Z"
    leaf = bytes(32)
    kind = "step.completed"
    body = "x" * (ROW_BYTES - len(stream) - len(at) - len(leaf) - len(kind))
    return seq, stream, kind, at, body, leaf


def batched_rows(options: Options) -> Figures:
    """Rows a second, `BATCH` a commit."""
    rows = [_row(seq) for seq in range(1, options.count + 1)]
    with _opened(options.directory) as connection:
        began = time.perf_counter()
        for first in range(0, len(rows), BATCH):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, rows[first : first + BATCH])
            connection.execute("COMMIT")
        seconds = time.perf_counter() - began
    return {"rows a second": options.count / seconds}


def single_commits(options: Options) -> Figures:
    """Commits of one row each a second."""
    rows = [_row(seq) for seq in range(1, options.count + 1)]
    with _opened(options.directory) as connection:
        began = time.perf_counter()
        for row in rows:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_INSERT, row)
            connection.execute("COMMIT")
        seconds = time.perf_counter() - began
    return {"commits a second": options.count / seconds}
