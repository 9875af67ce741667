"""A record as it is read back from the journal.

On the way in a record is a plain tuple (an object for each would cost 0.7 us); it becomes a class when it is read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import attrs
import orjson

from engine.errors import JournalDamagedError

COLUMNS = "seq, stream, kind, name, path, run, at, by, facts, data"
"""What of a record the engine reads; the log's columns concern only `log` and `audit`."""


@attrs.frozen
class StoredRecord:
    """One record.

    Attributes:
        seq: its number, from 1 without a gap.
        stream: whose history it belongs to.
        kind: what happened, one of `engine.journal.kinds.KINDS`.
        name: see the table of kinds.
        path: the call it belongs to.
        run: number of the activity's run, from 1.
        at: RFC 3339 in UTC with microseconds, 27 characters.
        by: who asked for it, where somebody did.
        facts: what the engine recorded.
        data: what the user recorded, as JSON text; `None` where there never was any, or where it was erased.
    """

    seq: int
    stream: str
    kind: str
    name: str | None
    path: str | None
    run: int | None
    at: str
    by: str | None
    facts: Mapping[str, Any]
    data: str | None

    @classmethod
    def of(cls, row: tuple[Any, ...] | sqlite3.Row) -> StoredRecord:
        """A record from a row of `COLUMNS`."""
        seq, stream, kind, name, path, run, at, by, facts, data = row
        try:
            made = orjson.loads(facts)
        except ValueError as error:
            raise JournalDamagedError(
                f"the facts of record {seq} are no JSON; restore a copy, or see what `playbill verify` says"
            ) from error
        return cls(seq, stream, kind, name, path, run, at, by, made, data)

    def load(self) -> Any:
        """`data` as plain JSON values; an empty mapping where there is none."""
        return {} if self.data is None else orjson.loads(self.data)
