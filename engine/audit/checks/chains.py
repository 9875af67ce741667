"""What records of ended activities say of the records before them.

From the record with which an activity ends on, each record of its stream holds `before`: how many records of the stream
stand before it, and a hash chain over their leaves. It is by this that a receipt shows a whole stream, and so it is
checked for all of them. Nothing is kept in mind for each stream that ever was: a bounded number of chains is, the rest
is computed anew from the stored leaves where it is needed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, TypeAlias

from engine.audit.checks.findings import Findings
from engine.journal.kinds import TERMINAL_KINDS
from engine.journal.log import EMPTY_CHAIN

_Chain: TypeAlias = tuple[int, bytes, bool]
"""How many records, the chain over their leaves, and whether the activity has ended."""

_KEPT = 20_000
"""Streams of one generation; two generations are kept, so that the busy ones stay."""


class ChainCheck:
    """Looks at one record after the other."""

    def __init__(self, findings: Findings, connection: sqlite3.Connection) -> None:
        self._findings = findings
        self._connection = connection
        self._young: dict[str, _Chain] = {}
        self._old: dict[str, _Chain] = {}

    def check(self, seq: int, stream: str, kind: str, facts: Mapping[str, Any] | None, leaf: bytes) -> bool:
        """Look at the next record; returns whether the stream was not at hand, and so may be a new one.

        Args:
            facts: the record's facts; `None` where they cannot be relied upon.
        """
        chain = self._young.get(stream)
        unknown = chain is None
        if chain is None:
            chain = self._old.get(stream) or self._computed(stream, seq)
        count, hashed, ended = chain
        ended = ended or kind in TERMINAL_KINDS
        if facts is not None and not (self._findings.incomplete or self._findings.crowded):
            before = facts.get("before")
            if (before is not None or ended) and stream not in self._findings.doubtful_streams:
                hashed = self._compared(seq, ended, before, count, hashed)
        if len(self._young) >= _KEPT:
            self._old, self._young = self._young, {}
        self._young[stream] = (count + 1, sha256(hashed + leaf).digest(), ended)
        return unknown

    def _compared(self, seq: int, ended: bool, before: Any, count: int, chain: bytes) -> bytes:
        """Report what does not fit; returns the chain to go on with, so that it is reported once."""
        if not ended:
            what = "it holds `before`, though the activity had not ended"
        elif not isinstance(before, Mapping):
            what = "it holds no `before`, though the activity has ended with it or earlier"
        elif before.get("records") != count:
            what = f"its `before` counts {before.get('records')!r} records of the stream before it; {count} are there"
        elif before.get("leaves") != chain.hex():
            what = f"its `before` does not fit the leaves of the {count} records of the stream before it"
        else:
            return chain
        self._findings.add("counts of records that do not fit", seq, what)
        try:
            return bytes.fromhex(before["leaves"])
        except (TypeError, KeyError, ValueError):
            return chain

    def _computed(self, stream: str, seq: int) -> _Chain:
        count, chain, ended = 0, EMPTY_CHAIN, False
        try:
            for kind, leaf in self._connection.execute(
                "SELECT kind, leaf FROM records WHERE stream = ? AND seq < ? ORDER BY seq", (stream, seq)
            ):
                count, chain, ended = count + 1, sha256(chain + leaf).digest(), ended or kind in TERMINAL_KINDS
        except (sqlite3.DatabaseError, TypeError):
            self._findings.incomplete = True
        return count, chain, ended
