"""Reading all records, whatever state the file is in.

Records come in pages; where a page cannot be read, its records are read one by one, so that a damaged page of the file
costs the records on it and no others. Texts that are no UTF-8 are read with surrogates in place of their wrong bytes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, TypeAlias

import attrs

PAGE = 1000

COLUMNS = "seq, stream, kind, name, path, run, at, by, facts, data, salt, digest, leaf, root"
"""A whole record, in the order in which the checks take it."""

Row: TypeAlias = tuple[Any, ...]


@attrs.frozen
class Unreadable:
    """Records that cannot be read: from `first` to `last`, and why."""

    first: int
    last: int
    why: str


def pages(connection: sqlite3.Connection, first: int, last: int) -> Iterator[list[Row] | Unreadable]:
    """All records from `first` to `last`, by `seq`, in lists; in between, what cannot be read."""
    statement = f"SELECT {COLUMNS} FROM records WHERE seq >= ? AND seq <= ? ORDER BY seq LIMIT {PAGE}"
    while first <= last:
        try:
            rows = connection.execute(statement, (first, last)).fetchall()
        except sqlite3.DatabaseError:
            end = min(first + PAGE - 1, last)
            found = False
            for part in _one_by_one(connection, first, end):
                found = found or isinstance(part, list)
                yield part
            first = end + 1 if found else _next(connection, end + 1, last)
            continue
        if rows:
            yield rows
        if len(rows) < PAGE:
            return
        first = rows[-1][0] + 1


def _one_by_one(connection: sqlite3.Connection, first: int, last: int) -> Iterator[list[Row] | Unreadable]:
    lost: Unreadable | None = None
    for seq in range(first, last + 1):
        row = _record(connection, seq)
        if isinstance(row, str):
            lost = Unreadable(seq if lost is None else lost.first, seq, row)
            continue
        if lost is not None:
            yield lost
            lost = None
        if row is not None:
            yield [row]
    if lost is not None:
        yield lost


def _record(connection: sqlite3.Connection, seq: int) -> Row | str | None:
    """One record, `None` where there is none, or why it cannot be read."""
    connection.text_factory = _lenient
    try:
        row: Row | None = connection.execute(f"SELECT {COLUMNS} FROM records WHERE seq = ?", (seq,)).fetchone()
        return row
    except sqlite3.DatabaseError as error:
        return str(error)
    finally:
        connection.text_factory = str


def _lenient(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _next(connection: sqlite3.Connection, first: int, last: int) -> int:
    """Where to go on after a page that cannot be read at all; the index may know, so that no great gap is tried."""
    try:
        (found,) = connection.execute(
            "SELECT min(seq) FROM records INDEXED BY records_by_stream WHERE seq >= ?", (first,)
        ).fetchone()
    except sqlite3.DatabaseError:
        return first
    return last + 1 if found is None else int(found)
