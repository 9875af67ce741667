"""What the tests of the journal share: an opened journal, a writer over a connection, and a look at the file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import trio

from engine.clock import SystemClock
from engine.journal import SQLiteJournal
from engine.journal.log import Tree
from engine.journal.schema import migrate
from engine.journal.writer import Writer

stamp = SystemClock().stamp

STARTED = {"generation": 0, "version": "1", "seed": "00"}


def made(path: Path) -> SQLiteJournal:
    """A journal that is open, and whose writer does not run."""
    return SQLiteJournal(path, version="1.0", stamp=stamp)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SQLiteJournal]:
    """A journal whose writer runs; what was appended in the block is written when it is left."""
    journal = made(path)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            try:
                yield journal
            finally:
                journal.close_soon()
    finally:
        journal.close()


class Interposed:
    """A connection whose COMMIT the test does, and whose other statements it sees.

    Attributes:
        connection: the real connection.
        commit: called in place of COMMIT.
        before: called with each other statement before it is executed.
        inserted: the rows of each try to insert records, in order.
        tiles: the same of tiles.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.commit: Callable[[], None] = self.really_commit
        self.before: Callable[[str], object] = str
        self.inserted: list[list[tuple[Any, ...]]] = []
        self.tiles: list[list[tuple[Any, ...]]] = []

    def really_commit(self) -> None:
        self.connection.execute("COMMIT")

    @property
    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor | None:
        if statement == "COMMIT":
            self.commit()
            return None
        self.before(statement)
        return self.connection.execute(statement, parameters)

    def executemany(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> sqlite3.Cursor:
        rows = list(rows)
        if "INTO records" in statement:
            self.inserted.append(rows)
        elif "INTO tiles" in statement:
            self.tiles.append(rows)
        return self.connection.executemany(statement, rows)


def connected(path: Path) -> sqlite3.Connection:
    """A connection to an empty journal, as the writer takes it."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    migrate(connection, str(path))
    return connection


class Desk:
    """A writer at work, with its interposed connection."""

    def __init__(self, path: Path, *, tree: Tree | None = None, commit_delay: float = 0.0) -> None:
        self.path = path
        self.connection = Interposed(connected(path))
        self.writer = Writer(
            self.connection,  # type: ignore[arg-type]  # it has all of a connection that a writer uses
            tree=tree or Tree(),
            stamp=stamp,
            commit_delay=commit_delay,
        )

    def append(self, stream: str = "/engine", kind: str = "definition.registered", **columns: Any) -> int:
        return self.writer.append(stream, kind, **columns)


@asynccontextmanager
async def writing(path: Path, *, tree: Tree | None = None, commit_delay: float = 0.0) -> AsyncIterator[Desk]:
    """A writer that runs; what was appended in the block is written when it is left."""
    desk = Desk(path, tree=tree, commit_delay=commit_delay)
    with closing(desk.connection.connection):
        async with trio.open_nursery() as nursery:
            await nursery.start(desk.writer.run)
            try:
                yield desk
            finally:
                desk.writer.close()


@contextmanager
def read(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's view of the file: a connection that only reads."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        yield connection


def rows(path: Path, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """What another process reads of the file now."""
    with read(path) as connection:
        return connection.execute(statement, parameters).fetchall()


def seqs(path: Path) -> list[int]:
    return [seq for (seq,) in rows(path, "SELECT seq FROM records ORDER BY seq")]


def tree_root(hashes: Sequence[bytes]) -> bytes:
    """The root of a Merkle tree by the definition in RFC 6962 section 2.1, level by level.

    A node without a sibling is handed up as it is, which splits the leaves at the same powers of two.
    """
    level = list(hashes)
    while len(level) > 1:
        level = [
            sha256(b"\x01" + level[at] + level[at + 1]).digest() if at + 1 < len(level) else level[at]
            for at in range(0, len(level), 2)
        ]
    return level[0] if level else sha256(b"").digest()


def subtree_roots(leaves: Sequence[bytes], size: int) -> list[bytes]:
    """The roots of the perfect trees of so many leaves each, without what is left over."""
    return [tree_root(leaves[at : at + size]) for at in range(0, len(leaves) - size + 1, size)]
