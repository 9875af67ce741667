"""The stored roots and tiles against the leaves.

The tree is built from the leaves as they are stored, so that one altered record is no problem here. A leaf that was
made anew makes all roots from its commit on wrong, and only the first is named: since the tree only grows, a later
root that fits clears all leaves up to it, and roots before it that do not fit were altered themselves.

Where records are missing or moved the tree cannot be built, and the roots from there on say nothing.
"""

from __future__ import annotations

import copy
import sqlite3

from engine.audit.checks.findings import Findings
from engine.journal.log import TILE_HEIGHT, Tree

_TILE = "SELECT hashes FROM tiles WHERE level = ? AND n = ?"

_MOST = 100
"""Roots that do not fit which are kept in mind, until a later one fits."""


class _Branch:
    """A tree, and the tiles that do not fit it."""

    __slots__ = ("tiles", "tree")

    def __init__(self) -> None:
        self.tree = Tree()
        self.tiles: list[tuple[int, int]] = []


class TreeCheck:
    """Grows the tree, record by record."""

    def __init__(self, findings: Findings, connection: sqlite3.Connection) -> None:
        self._findings = findings
        self._connection = connection
        self._stored = _Branch()
        self._computed: _Branch | None = None
        self._misfits: list[int] = []
        self._more = 0

    def check(self, seq: int, leaf: object, root: bytes | None, computed: bytes | None) -> None:
        """Look at the next record.

        Args:
            leaf: the leaf that stands on it.
            computed: the leaf that it should have, where that is another one.
        """
        if self._findings.incomplete:
            return
        if computed is not None and self._computed is None:
            # Either the record was altered or the leaf that stands on it; the next root that fits tells which.
            self._computed = copy.deepcopy(self._stored)
        if type(leaf) is not bytes:
            leaf = computed or b""
        self._append(self._stored, leaf)
        if self._computed is not None:
            self._append(self._computed, computed or leaf)
        if root is not None:
            self._check_root(seq, root)

    def _append(self, branch: _Branch, leaf: bytes) -> None:
        for level, n, hashes in branch.tree.append(leaf):
            try:
                row = self._connection.execute(_TILE, (level, n)).fetchone()
            except sqlite3.DatabaseError:
                row = None
            if row is None or row[0] != hashes:
                branch.tiles.append((level, n))

    def _check_root(self, seq: int, root: bytes) -> None:
        if root == self._stored.tree.root():
            self._clear()
        elif self._computed is not None and root == self._computed.tree.root():
            self._stored = self._computed
            self._clear()
        elif len(self._misfits) < _MOST:
            self._misfits.append(seq)
        else:
            self._more += 1

    def _clear(self) -> None:
        """A root fits: all leaves are as they were, and what did not fit before was altered itself."""
        for seq in self._misfits:
            self._findings.add("roots that do not fit", seq, "the root that stands on it was altered: later ones fit")
        for level, n in self._stored.tiles:
            what = f"tile {n} of level {level} is missing or was altered; it does not fit the leaves under it"
            self._findings.add("tiles that do not fit", None, what)
        self._misfits.clear()
        self._stored.tiles.clear()
        self._computed = None

    def finish(self) -> bytes | None:
        """Say what never fitted, once all records have been seen; returns the root of the whole, if it fits."""
        if self._misfits:
            first, more = self._misfits[0], len(self._misfits) + self._more - 1
            what = (
                "the root of the commit that ends here does not fit the leaves up to it: a leaf was made anew after it "
                "was recorded, or the root was altered"
            )
            rest = f" (nor do the {more} roots after it)" if more else ""
            self._findings.add("roots that do not fit", first, what + rest)
            return None
        return None if self._findings.incomplete else self._stored.tree.root()

    def check_last(self, row: tuple[object, ...] | None) -> None:
        """The journal's last record has a root."""
        if row is not None and row[13] is None:
            what = "the last record has no root: the tail was cut off within a commit, or records were added to it"
            self._findings.add("a last record without a root", row[0] if isinstance(row[0], int) else None, what)


def check_foreign_tiles(findings: Findings, connection: sqlite3.Connection, size: int) -> None:
    """Tiles that a tree of this size does not have."""
    for level, n in connection.execute("SELECT level, n FROM tiles"):
        whole = isinstance(level, int) and isinstance(n, int) and 1 <= level <= 6 and n >= 0
        if not whole or (n + 1) << (TILE_HEIGHT * (level + 1)) > size:
            what = f"tile {n} of level {level} is none that a tree of {size} leaves has"
            findings.add("foreign tiles", None, what)
