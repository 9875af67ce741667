"""Verification: is the journal what was recorded?

The records are read once, in order. Each is held against its leaf; the leaves make the tree, against which the stored
roots and tiles are held; what ended activities say of the records before them, and what was erased, is checked on the
way, and the derived tables are made anew. Then, in one read transaction, these are compared with the stored ones, and
the schema with that of this version. The log's format is told in docs/reference/log.md, what each check rests upon in
the modules of `engine.audit.checks`.

Nothing that stands in the file makes verification raise: all of it becomes problems. What nobody can find in the file
alone is a tail cut off with its commit, an old copy put back, or a rewrite with all hashes made anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from engine.audit.checks.chains import ChainCheck
from engine.audit.checks.derived import DerivedCheck
from engine.audit.checks.erasures import ErasureCheck
from engine.audit.checks.findings import Findings
from engine.audit.checks.leaves import LeafCheck
from engine.audit.checks.scan import Row, Unreadable, pages
from engine.audit.checks.schema import check_schema, check_soundness
from engine.audit.checks.tree import TreeCheck, check_foreign_tiles
from engine.audit.rows import Verification
from engine.journal.projections import PROJECTED

if TYPE_CHECKING:
    from engine.audit.ledger import Ledger

Progress: TypeAlias = Callable[[int, int], None]
"""Told now and then how many records have been looked at, and of how many."""

_ERASED = "payload.erased"


def verify(ledger: Ledger, *, progress: Progress | None = None) -> Verification:
    """See whether a journal is what was recorded, as of the ledger's size.

    Args:
        ledger: an open ledger; the engine may go on writing the journal.
        progress: called now and then with how many records have been looked at, and of how many.

    Returns:
        What is wrong, if anything is; a problem that follows from another one is left out where that can be told.

    Raises:
        JournalError: the ledger is closed.
    """
    connection = ledger.reader.connection
    findings = Findings()
    checks = _Checks(findings, connection)
    try:
        with _guarded(findings, "the records"):
            checks.run(ledger.size, progress)
        root = checks.finish()
        with _guarded(findings, "the schema"):
            check_schema(findings, connection)
        with _guarded(findings, "the database file"):
            check_soundness(findings, connection)
        with _guarded(findings, "the derived tables"):
            checks.compare(ledger.size)
    finally:
        checks.close()
    problems = findings.finish()
    return Verification(ok=not problems, size=ledger.size, problems=tuple(problems), root=root)


@contextmanager
def _guarded(findings: Findings, what: str) -> Iterator[None]:
    """What SQLite cannot read is a problem like any other. So is what the checks did not foresee: whoever altered the
    file must not be able to choose that it cannot be verified."""
    try:
        yield
    except sqlite3.Error as error:
        findings.add("what cannot be read", None, f"{what} cannot be read: {error}")
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        findings.add("what cannot be read", None, f"{what} cannot be checked: {type(error).__name__}: {error}")


class _Checks:
    """All that is looked at record by record."""

    def __init__(self, findings: Findings, connection: sqlite3.Connection) -> None:
        self._findings = findings
        self._connection = connection
        self._leaves = LeafCheck(findings)
        self._tree = TreeCheck(findings, connection)
        self._chains = ChainCheck(findings, connection)
        self._erasures = ErasureCheck(findings)
        self._derived = DerivedCheck(findings)
        self._last: Row | None = None

    def close(self) -> None:
        self._derived.close()

    def run(self, size: int, progress: Progress | None) -> None:
        """Look at all records up to `size`."""
        for (seq,) in self._connection.execute("SELECT seq FROM records WHERE seq < 1 LIMIT 100").fetchall():
            self._findings.add("records before the first", seq, "it stands before record 1: inserted")
        for page in pages(self._connection, 1, size):
            if isinstance(page, Unreadable):
                self._leaves.lost(page)
                continue
            for row in page:
                self._check(row)
            self._last = page[-1]
            self._derived.flush()
            if progress is not None:
                progress(self._last[0], size)
        if not size:
            self._findings.add("records that are missing", None, "the journal has no records, not even its first")

    def _check(self, row: Row) -> None:
        seq, stream, kind, leaf = row[0], row[1], row[2], row[12]
        facts, computed = self._leaves.check(row)
        self._tree.check(seq, leaf, row[13], computed)
        if type(leaf) is not bytes or type(stream) is not str or type(kind) is not str:
            return
        if self._chains.check(seq, stream, kind, facts, leaf):
            self._derived.stream(stream)
        if row[9] is None and row[11] is not None:
            self._erasures.erased(seq)
        if facts is not None:
            if kind in PROJECTED:
                self._derived.apply(seq, row, facts)
            elif kind == _ERASED:
                self._erasures.named(seq, facts)

    def finish(self) -> bytes | None:
        """Say what can be said only once all records have been seen; returns the tree's root, if that fits."""
        self._leaves.finish()
        root = self._tree.finish()
        self._tree.check_last(self._last)
        self._erasures.finish()
        return root

    def compare(self, size: int) -> None:
        """Hold the stored tables against what the records say, in one read transaction."""
        self._connection.execute("BEGIN")
        try:
            (last,) = self._connection.execute("SELECT max(seq) FROM records").fetchone()
            check_foreign_tiles(self._findings, self._connection, last or 0)
            if not (self._findings.incomplete or self._findings.crowded):
                self._derived.compare(self._connection, size)
        finally:
            self._connection.execute("ROLLBACK")
