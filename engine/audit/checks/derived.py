"""The derived tables against the records.

While the records are looked at, the derived tables are made anew from them, by the functions that the engine itself
uses, in a temporary database that SQLite keeps on disk once it grows. Then both are read side by side, in the order of
their keys, within one read transaction: a live engine may have written further records since, and those are taken along
first, so that the tables fit.

Rows that follow from records that are not what was recorded are left out, since the records are reported already.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson
from sqlite_utils import Database

from engine.audit.checks.findings import Findings
from engine.audit.checks.scan import Unreadable, pages
from engine.journal.kinds import SUBSCRIBER_STREAMS
from engine.journal.projections import PROJECTED, TABLES, Projected, Projections
from engine.journal.projections import Row as Columns
from engine.journal.schema import migrations

KEYS: Mapping[str, tuple[str, ...]] = {"streams": ("id",), **TABLES}
"""Every derived table with its primary key."""

_NUMBERS = (
    "accepted",
    "started",
    "ended",
    "attached",
    "record",
    "event",
    "received",
    "taken",
    "replied",
    "unread",
)
"""The columns that refer to a record."""

_TYPES = {"engine": "engine", "subscribers": "subscriber", "bridges": "bridge"}


class _Staged(Projections):
    """Changes of more than one commit: a row made anew forgets the changes to the one before."""

    __slots__ = ()

    def insert(self, table: str, key: tuple[Any, ...], row: Columns) -> None:
        self.updated.get(table, {}).pop(key, None)
        super().insert(table, key, row)


class DerivedCheck:
    """Makes the derived tables anew, record by record, and compares."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        # A database without a name is a temporary one, kept in memory while it is small.
        self._rebuilt = sqlite3.connect("", isolation_level=None)
        migrations.apply(Database(self._rebuilt))
        self._drop_indexes()
        self._rebuilt.execute("PRAGMA journal_mode = OFF")
        self._rebuilt.execute("PRAGMA synchronous = OFF")
        self._staged = _Staged()
        self._streams: set[str] = set()
        self._failed = False

    def _drop_indexes(self) -> None:
        """They cost time, and nothing asks for them here."""
        indexes = self._rebuilt.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND sql NOT NULL"
        ).fetchall()
        for (index,) in indexes:
            self._rebuilt.execute(f'DROP INDEX "{index}"')

    def close(self) -> None:
        self._rebuilt.close()

    def stream(self, stream: str) -> None:
        """Take note of a stream that may be a new one."""
        self._streams.add(stream)

    def apply(self, seq: int, row: tuple[Any, ...], facts: Mapping[str, Any]) -> None:
        """Take note of a record whose kind is in `PROJECTED`."""
        _, stream, kind, name, _, run, at, by, *_ = row
        try:
            self._staged.apply(Projected(seq, stream, kind, name, run, at, by, facts))
        except (KeyError, TypeError, ValueError) as error:
            self._findings.doubt(seq, stream)
            what = f"its facts do not hold what `{kind}` says: {type(error).__name__}: {error}"
            self._findings.add("records that hold what no record holds", seq, what)

    def flush(self) -> None:
        """Write what was noted; to be called now and then, so that little is kept in memory."""
        if self._failed:
            self._staged = _Staged()
            self._streams.clear()
            return
        self._rebuilt.execute("BEGIN")
        self._rebuilt.executemany("INSERT OR IGNORE INTO streams(id, type) VALUES (?, ?)", map(_typed, self._streams))
        self._streams.clear()
        try:
            self._staged.write(self._rebuilt)
        except sqlite3.Error as error:
            # Only records that the engine never writes get here: without a name, with a number in place of a text…
            self._failed = True
            what = f"the derived tables cannot be made from the records: {error}"
            self._findings.add("derived tables", None, what)
        self._staged = _Staged()
        self._rebuilt.execute("COMMIT")

    def compare(self, connection: sqlite3.Connection, size: int) -> None:
        """Take along what was recorded since, and compare; within the caller's read transaction.

        Args:
            connection: the journal's.
            size: the records that were taken note of so far.
        """
        (last,) = connection.execute("SELECT max(seq) FROM records").fetchone()
        for page in pages(connection, size + 1, last or 0):
            if isinstance(page, Unreadable):
                return
            for row in page:
                self.stream(row[1])
                if row[2] in PROJECTED:
                    self.apply(row[0], row, orjson.loads(row[8]))
        self.flush()
        if self._failed:
            return
        for table, key in KEYS.items():
            self._compare_table(connection, table, key)

    def _compare_table(self, connection: sqlite3.Connection, table: str, key: tuple[str, ...]) -> None:
        columns = [name for _, name, *_ in self._rebuilt.execute(f"PRAGMA table_info({table})")]
        names = [*key, *(name for name in columns if name not in key)]
        statement = f"SELECT {_listed(names)} FROM {table} ORDER BY {_listed(key)}"
        stored, rebuilt = connection.execute(statement), self._rebuilt.execute(statement)
        for mine, theirs in _side_by_side(stored, rebuilt, len(key)):
            if mine == theirs or self._is_doubtful(names, mine) or self._is_doubtful(names, theirs):
                continue
            row = dict(zip(names, mine or theirs or (), strict=True))
            what = f"table {table}, {_named(row, key)}: {_difference(names, mine, theirs)}"
            self._findings.add("derived rows", None, what)

    def _is_doubtful(self, names: Sequence[str], values: tuple[Any, ...] | None) -> bool:
        """Whether a row follows from a record that is reported already."""
        findings = self._findings
        if values is None or not findings.doubtful:
            return False
        row = dict(zip(names, values, strict=True))
        streams = {str(row.get(column)) for column in ("id", "stream", "activity")}
        streams.add(SUBSCRIBER_STREAMS + str(row.get("subscriber")))
        columns = (
            "accepted",
            "started",
            "ended",
            "attached",
            "record",
            "event",
            "received",
            "taken",
            "replied",
            "unread",
        )
        numbers = {row.get(column) for column in columns}
        return bool(streams & findings.doubtful_streams or numbers & findings.doubtful)


def _typed(stream: str) -> tuple[str, str]:
    if not stream.startswith("/"):
        return stream, "activity"
    first = stream.split("/")[1]
    return stream, _TYPES.get(first, first)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _side_by_side(
    stored: Iterable[tuple[Any, ...]], rebuilt: Iterable[tuple[Any, ...]], width: int
) -> Iterator[tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]]:
    """Rows of both tables, paired by the key in their first `width` columns; `None` where one lacks the row."""
    mine, theirs = iter(stored), iter(rebuilt)
    left, right = next(mine, None), next(theirs, None)
    while left is not None or right is not None:
        here = None if left is None else [_rank(value) for value in left[:width]]
        there = None if right is None else [_rank(value) for value in right[:width]]
        if there is None or (here is not None and here < there):
            yield left, None
            left = next(mine, None)
        elif here is None or there < here:
            yield None, right
            right = next(theirs, None)
        else:
            yield left, right
            left, right = next(mine, None), next(theirs, None)


def _rank(value: Any) -> tuple[int, Any]:
    """What sorts as SQLite sorts: NULL, numbers, texts, BLOBs."""
    if value is None:
        return (0, 0)
    return (1 if isinstance(value, int | float) else 2 if isinstance(value, str) else 3, value)


def _named(row: Mapping[str, Any], key: tuple[str, ...]) -> str:
    return "row " + ", ".join(f"{name} {row[name]!r}" for name in key)


def _difference(names: list[str], mine: tuple[Any, ...] | None, theirs: tuple[Any, ...] | None) -> str:
    if mine is None:
        return "the row is missing; the records say that it should be there"
    if theirs is None:
        return "no record says that there is such a row"
    parts = [
        f"{name} is {value!r}, by the records {told!r}"
        for name, value, told in zip(names, mine, theirs, strict=True)
        if value != told
    ]
    return "; ".join(parts)
