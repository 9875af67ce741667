"""Reading a journal without ever writing it, also one that a live engine is writing.

The file is opened read-only. What was there when it was opened is what is seen: `size` is the last `seq` of that
moment, every query asks for records up to it, and records never change. So no read transaction is held between two
queries, and the engine's checkpoints go on. Longer answers come page by page, each page beginning after the last key
of the one before.

On read-only media SQLite cannot open a journal of the WAL mode, since it would have to make the file of the shared
memory; where no WAL file stands beside it, nothing is missing from the journal itself, and it is opened as `immutable`.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from engine.audit.rows import Record
from engine.clock import parse
from engine.errors import JournalDamagedError, JournalError
from engine.journal.records import COLUMNS
from engine.journal.schema import check_schema
from engine.journal.sqlite import journal_path, refuse_foreign

PAGE = 256
"""Records a page: few enough to hold, many enough that the query itself costs little."""

_WAIT = 5.0
"""Seconds to wait for a lock. In WAL mode readers wait for nobody, but while a WAL left by a crash is recovered."""


class Reader:
    """A read-only connection to a journal, as of its size at opening.

    Attributes:
        path: the journal's file.
        size: the last `seq` when the journal was opened.
    """

    def __init__(self, url: str | Path) -> None:
        """Open a journal.

        Raises:
            JournalError: there is no such file, or it cannot be opened.
            JournalDamagedError: it is no journal, or too damaged to be read at all.
            JournalVersionError: a newer Playbill wrote it.
        """
        self.path = journal_path(url)
        refuse_foreign(self.path)
        if not self.path.exists():
            raise JournalError(f"there is no journal {self.path}; name the file that the engine was given")
        # Nothing can say more of a file that cannot even be opened.
        self._advice = "restore a copy"
        self._connection: sqlite3.Connection | None = self._connect()
        try:
            self._check()
            self.size = self._last_seq()
            self._advice = "restore a copy, or see what `playbill verify` says"
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        try:
            return _connected(self.path, "mode=ro")
        except sqlite3.OperationalError as error:
            if _with_suffix(self.path, "-wal").exists():
                raise JournalError(
                    f"cannot open {self.path}: {error}; where its folder is read-only, copy the journal with its -wal "
                    "file to a writable one"
                ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        try:
            return _connected(self.path, "mode=ro&immutable=1")
        except sqlite3.OperationalError as error:
            raise JournalError(f"cannot open {self.path}: {error}; see that you may read it") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _check(self) -> None:
        assert self._connection is not None
        try:
            check_schema(self._connection, str(self.path))
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        if not self.query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'records'"):
            raise JournalDamagedError(f"{self.path} holds no records, and so is no journal; name a journal's file")

    def _last_seq(self) -> int:
        try:
            rows = self.query("SELECT max(seq) FROM records")
        except JournalDamagedError:
            # The page with the last records is damaged: the index still tells of them, and `verify` will say so.
            rows = self.query("SELECT max(seq) FROM records INDEXED BY records_by_stream")
        return int(rows[0][0] or 0)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, in autocommit mode.

        Raises:
            JournalError: the reader is closed.
        """
        if self._connection is None:
            raise JournalError(f"the ledger of {self.path} is closed; open it again")
        return self._connection

    def query(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        """All rows of a query; nothing is left open behind it.

        Raises:
            JournalDamagedError: the file is damaged where the rows stand.
        """
        try:
            return self.connection.execute(statement, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def rows(
        self, where: str, parameters: Sequence[object] = (), *, after: int = 0, columns: str = COLUMNS, page: int = PAGE
    ) -> Iterator[list[Any]]:
        """Pages of records by `seq`, at most up to `size`; `columns` begin with `seq`."""
        statement = f"SELECT {columns} FROM records WHERE {where} AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        while rows := self.query(statement, (*parameters, after, self.size, page)):
            yield rows
            if len(rows) < page:
                return
            after = rows[-1][0]

    def records(self, where: str, parameters: Sequence[object] = (), *, after: int = 0) -> Iterator[Record]:
        """Records by `seq`, page by page."""
        for rows in self.rows(where, parameters, after=after):
            for row in rows:
                yield self.record(row)

    def record(self, row: Sequence[Any]) -> Record:
        """A record from a row of `COLUMNS`.

        Raises:
            JournalDamagedError: it does not hold what a record holds.
        """
        seq, stream, kind, name, path, run, at, by, facts, data = row
        try:
            return Record(
                seq=seq,
                stream=stream,
                kind=kind,
                name=name,
                path=path,
                run=run,
                at=parse(at),
                by=by,
                facts=_mapping(facts),
                data=None if data is None else parsed(data),
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise JournalDamagedError(
                f"{self.path}: record {seq} cannot be read: {error}; `playbill verify` says what is wrong"
            ) from error

    def _damaged(self, error: sqlite3.Error) -> JournalError:
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _NOT_DAMAGE:
            return JournalError(f"cannot read {self.path}: {error}; see that you may read it, and who locks it")
        return JournalDamagedError(f"{self.path} cannot be read as a journal: {error}; {self._advice}")


_NOT_DAMAGE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
)


def _connected(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", uri=True, isolation_level=None, timeout=_WAIT, check_same_thread=False
    )
    try:
        # SQLite opens lazily: only a read finds that the file cannot be used.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


# orjson would give numbers of more than 64 bits as floats.
_LONG_NUMBER = re.compile(r"\d{19}").search


def parsed(text: str) -> Any:
    """JSON text as plain values, with all digits of its numbers."""
    return json.loads(text) if _LONG_NUMBER(text) else orjson.loads(text)


def _mapping(text: str) -> dict[str, Any]:
    facts = orjson.loads(text)
    if not isinstance(facts, dict):
        raise ValueError("its facts are no JSON object")
    return facts
