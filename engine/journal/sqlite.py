"""The embedded journal: one SQLite file, one engine that owns it, any number of readers beside it.

Opening takes the lock beside the file, brings the schema up to date, and restores the log's tree; a process killed
anywhere in between leaves what the next opening completes. A file that is refused stays as it was. WAL and
`synchronous=FULL`: what is committed survives a power cut. The file is made with mode 0600, and so are its companions,
whose mode SQLite takes from it.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import socket
import sqlite3
import stat
import uuid
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import trio

from engine.errors import JournalDamagedError, JournalError
from engine.journal.events import seen_as_event
from engine.journal.kinds import ENDED, ENGINE_STREAM, EVENT_KINDS, SYSTEM_TOPICS
from engine.journal.log import Tree, covered_by_tiles
from engine.journal.origin import system_user
from engine.journal.ownership import Ownership
from engine.journal.records import COLUMNS, StoredRecord
from engine.journal.schema import SCHEMA, check_schema, migrate
from engine.journal.store import ActivityState, SubscriptionState
from engine.journal.writer import Writer
from engine.messages import ActivityStatus

OLDEST_SQLITE = (3, 37, 0)
"""The first SQLite with STRICT tables."""

_EVENTS = ", ".join(f"'{kind}'" for kind in EVENT_KINDS)
_SEEN = ", ".join(f"'{kind}'" for kind in (*EVENT_KINDS, *SYSTEM_TOPICS))

_SCANNED_AT_ONCE = 2_000
"""Records that are looked through in about a millisecond."""

_ENDED = ", ".join(f"'{status}'" for status in sorted(ENDED))

_STATE = "id, name, status, accepted, ended, priority"
"""The columns of an `ActivityState`."""

_LIMITED = "deadline IS NOT NULL AND ended IS NULL"
"""As the index of those that have a deadline says it."""

_OF_RECORDS = ", ".join(f"records.{column}" for column in COLUMNS.split(", "))
_PARKED = "status = 'waiting' AND due IS NOT NULL"
"""As the index of those that are to be woken says it."""


def journal_path(url: str | Path) -> Path:
    """The file that a journal's URL names: a plain path, or `sqlite:///PATH`.

    Raises:
        JournalError: the URL names another kind of store, or no file.
    """
    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "sqlite":
        raise JournalError(f"{text}: this version keeps journals in SQLite alone; name a file, or sqlite:///FILE")
    named = rest.removeprefix("/") if separator else text
    path = Path(named)
    if named == ":memory:":
        raise JournalError(f"{text}: a journal outlives its process, and so is a file; in a test, a temporary one")
    if not path.name or named.endswith(os.sep) or "\0" in text:
        raise JournalError(f"{text!r} names no file; name one for the journal, as orders.db or sqlite:///orders.db")
    return path


def refuse_foreign(path: Path) -> None:
    """Refuse what is there and can be no journal, by a look that leaves nothing beside it. A file that is empty, or
    whose making was killed half-way, can become one.

    Raises:
        JournalDamagedError: it is no file of SQLite's.
        JournalError: this user may not look at it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise JournalDamagedError(f"{path} is no regular file; name a journal's file")
        with path.open("rb") as file:
            begins = file.read(len(_MAGIC))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise JournalError(f"cannot read {path} ({error.strerror}); see that this user may read it") from error
    # SQLite itself would take a file of less than a page for an empty database, and write over it. Where a process was
    # killed that made it, SQLite mends what it holds by the rollback journal.
    if begins not in (b"", _MAGIC) and not _beside(path, "-journal").exists():
        raise JournalDamagedError(
            f"{path} is no SQLite database, and so no journal; name a journal's file, or restore a copy"
        )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def connect(path: Path, *, read_only: bool, options: str = "") -> sqlite3.Connection:
    """A connection in autocommit mode.

    Raises:
        JournalError: the file cannot be opened.
    """
    mode = "ro" if read_only else "rw"
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}{options}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            # The loop must not stand still in SQLite's own waiting; the writer tries again by itself.
            timeout=0.0 if not read_only else 5.0,
        )
    except sqlite3.Error as error:
        raise JournalError(f"cannot open {path}: {error}") from error
    return connection


class SQLiteJournal:
    """A `Store` in one SQLite file."""

    append: Callable[..., int]
    durable: Callable[[int], Coroutine[Any, Any, None]]
    durable_within: Callable[[int, float], Coroutine[Any, Any, None]]

    def __init__(self, url: str | Path, *, version: str, stamp: Callable[[], str], commit_delay: float = 0.0) -> None:
        """Open a journal as its owner, or make it.

        Args:
            url: a path, or `sqlite:///PATH`.
            version: Playbill's version, for the records.
            stamp: gives the present instant, as `at` holds it.
            commit_delay: seconds to wait for further records before each commit.

        Raises:
            JournalOwnedError: another engine owns it.
            JournalDamagedError: the file is no journal, or is damaged.
            JournalVersionError: a newer Playbill wrote it.
            JournalError: it cannot be made or opened, or is read-only.
        """
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise JournalError(f"SQLite {sqlite3.sqlite_version} is too old: Playbill needs 3.37 or newer")
        # By whatever link it is named, a file has one lock.
        self.path = Path(os.path.realpath(journal_path(url)))
        # Before the lock, whose file stays.
        refuse_foreign(self.path)
        self._ownership = Ownership(self.path)
        self._connection: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        try:
            self._open(version, stamp, commit_delay)
        except sqlite3.DatabaseError as error:
            self.close()
            raise _named(self.path, error) from error
        except BaseException:
            self.close()
            raise

    def _open(self, version: str, stamp: Callable[[], str], commit_delay: float) -> None:
        _make_file(self.path)
        if not os.access(self.path, os.W_OK):
            raise JournalError(f"{self.path} is read-only; make it writable, or read it with `playbill list`")
        tree = _look(self.path)
        connection = self._connection = connect(self.path, read_only=False)
        # A reader that opens or closes just now holds locks for a moment.
        connection.execute("PRAGMA busy_timeout = 5000")
        check_schema(connection, str(self.path))
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise JournalError(f"{self.path} stands on a disk where SQLite can keep no WAL; put it on a local one")
        connection.execute("PRAGMA synchronous = FULL")
        # What an erasure removes must be gone from the file's free pages too.
        connection.execute("PRAGMA secure_delete = FAST")
        migrate(connection, str(self.path))
        connection.execute("PRAGMA busy_timeout = 0")
        self._reader = connect(self.path, read_only=True)
        tree = tree or _restore_tree(connection)
        writer = Writer(connection, tree=tree, stamp=stamp, commit_delay=commit_delay, reopened=self._reopened())
        self._writer = writer
        # The hot path calls the writer's own methods, not a wrapper for each.
        self.append, self.durable, self.durable_within = writer.append, writer.durable, writer.durable_within
        self._describe(version)

    def _reopened(self) -> list[str]:
        """The activities that were retried, and have not ended since."""
        return [id for (id,) in self._read("SELECT id FROM activities WHERE retried IS NOT NULL AND ended IS NULL")]

    def _describe(self, version: str) -> None:
        """Record that the journal was made or migrated, and who opens it."""
        if not self.durable_seq:
            self.id = str(uuid.uuid4())
            facts: dict[str, Any] = {"id": self.id, "version": version, "schema": SCHEMA}
            self.append(ENGINE_STREAM, "journal.created", facts=facts, begins="engine")
            self.clean = True
        else:
            self.id, migrated = self._read_first()
            self.clean = self._last_kind(ENGINE_STREAM, ("engine.opened", "engine.closed")) != "engine.opened"
            if migrated:
                self.append(ENGINE_STREAM, "journal.migrated", facts={"version": version, "schema": migrated})
        facts = {
            "version": version,
            "python": platform.python_version(),
            "user": system_user(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "clean": self.clean,
        }
        self.append(ENGINE_STREAM, "engine.opened", facts=facts)

    def _read_first(self) -> tuple[str, list[str]]:
        """The journal's id, and the migrations of which no record tells yet: a process may have been killed between a
        migration and its record."""
        try:
            first = self.record(1)
            if first is None or first.kind != "journal.created":
                raise ValueError("record 1 is no `journal.created`")
            id, recorded = str(first.facts["id"]), set(first.facts["schema"])
            if not recorded.issuperset(SCHEMA):
                for (facts,) in self._read(
                    "SELECT facts FROM records WHERE stream = ? AND kind = 'journal.migrated'", ENGINE_STREAM
                ):
                    recorded.update(orjson.loads(facts)["schema"])
        except (ValueError, KeyError, TypeError) as error:
            raise sqlite3.DatabaseError(f"its beginning does not say what journal it is: {error}") from error
        return id, [name for name in SCHEMA if name not in recorded]

    def close(self) -> None:
        for connection in (self._reader, self._connection):
            if connection is not None:
                connection.close()
        self._reader = self._connection = None
        self._ownership.release()

    # ------------------------------------------------------------------------------------------------ writing

    @property
    def durable_seq(self) -> int:
        return self._writer.durable_seq

    @property
    def last_seq(self) -> int:
        return self._writer.last_seq

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._writer.run(task_status=task_status)

    def close_soon(self, within: float = math.inf) -> None:
        self._writer.close(within)

    def give_up_within(self, seconds: float) -> None:
        self._writer.give_up_within(seconds)

    def watch(self, durable: Callable[[int], None]) -> None:
        self._writer.on_durable = durable

    # ------------------------------------------------------------------------------------------------ reading

    def _read(self, statement: str, *parameters: object) -> sqlite3.Cursor:
        if self._reader is None:
            raise JournalError("the engine has closed the journal; open it again")
        return self._reader.execute(statement, parameters)

    def _last_kind(self, stream: str, kinds: tuple[str, ...]) -> str | None:
        marks = ", ".join("?" for _ in kinds)
        row = self._read(
            f"SELECT kind FROM records WHERE stream = ? AND kind IN ({marks}) ORDER BY seq DESC LIMIT 1", stream, *kinds
        ).fetchone()
        return None if row is None else str(row[0])

    def activity(self, id: str) -> ActivityState | None:
        found = _states(self._read(f"SELECT {_STATE} FROM activities WHERE id = ?", id))
        return found[0] if found else None

    def in_line(
        self, statuses: Collection[ActivityStatus], limit: int, *, after: tuple[int, int] | None = None
    ) -> list[ActivityState]:
        # Written out, so that SQLite sees that the index of those that are pending serves.
        listed = " OR ".join(f"status = '{status}'" for status in statuses)
        beyond = "" if after is None else "AND (priority < ?1 OR (priority = ?1 AND accepted > ?2))"
        statement = (
            f"SELECT {_STATE} FROM activities WHERE ({listed}) {beyond} ORDER BY priority DESC, accepted LIMIT {limit}"
        )
        return _states(self._read(statement, *(() if after is None else (-after[0], after[1]))))

    def due(self, by: str, limit: int) -> list[ActivityState]:
        statement = f"SELECT {_STATE} FROM activities WHERE {_PARKED} AND due <= ? ORDER BY priority DESC, accepted"
        return _states(self._read(f"{statement} LIMIT ?", by, limit))

    def next_due(self, after: str) -> str | None:
        row = self._read(f"SELECT due FROM activities WHERE {_PARKED} AND due > ? ORDER BY due LIMIT 1", after)
        found = row.fetchone()
        return None if found is None else str(found[0])

    def deadlines(self, after: tuple[str, str], limit: int) -> list[tuple[str, str, str]]:
        statement = f"SELECT id, started_at, deadline FROM activities WHERE {_LIMITED} AND (deadline, id) > (?, ?)"
        return self._read(f"{statement} ORDER BY deadline, id LIMIT ?", *after, limit).fetchall()

    def deadlines_begun_after(self, instant: str) -> list[tuple[str, str, str]]:
        statement = f"SELECT id, started_at, deadline FROM activities WHERE {_LIMITED} AND started_at > ?"
        return self._read(statement, instant).fetchall()

    def count_unfinished(self) -> int:
        (count,) = self._read(f"SELECT count(*) FROM activities WHERE status NOT IN ({_ENDED})").fetchone()
        return int(count)

    def histories(self, ids: Sequence[str]) -> Mapping[str, list[StoredRecord]]:
        found: dict[str, list[StoredRecord]] = {id: [] for id in ids}
        marks = ", ".join("?" for _ in ids)
        continued = dict(
            self._read(f"SELECT id, continued FROM activities WHERE id IN ({marks}) AND continued IS NOT NULL", *ids)
        )
        for row in self._read(
            f"SELECT {COLUMNS} FROM records WHERE stream IN ({marks}) ORDER BY stream, seq"
            if not continued
            else f"SELECT {_OF_RECORDS} FROM activities JOIN records ON stream = id AND seq >= ifnull(continued, 0) "
            f"WHERE id IN ({marks}) ORDER BY stream, seq",
            *ids,
        ):
            found[row[1]].append(StoredRecord.of(row))
        for id in continued:
            unread = [self.record(seq) for seq in found[id][0].facts.get("unread", ())]
            found[id] = [*(record for record in unread if record is not None), *found[id]]
        return found

    def tail(self, stream: str, limit: int) -> list[StoredRecord]:
        rows = self._read(f"SELECT {COLUMNS} FROM records WHERE stream = ? ORDER BY seq DESC LIMIT ?", stream, limit)
        return [StoredRecord.of(row) for row in rows][::-1]

    def record(self, seq: int) -> StoredRecord | None:
        row = self._read(f"SELECT {COLUMNS} FROM records WHERE seq = ?", seq).fetchone()
        return None if row is None else StoredRecord.of(row)

    def events(self, after: int, limit: int, *, system: bool = False) -> tuple[list[StoredRecord], int]:
        size = self.durable_seq
        if system:
            # These have no index: not more is looked through at a time than other tasks can wait for.
            size = min(size, after + _SCANNED_AT_ONCE)
        rows = self._read(
            f"SELECT {COLUMNS} FROM records WHERE seq > ? AND seq <= ? AND kind IN ({_SEEN if system else _EVENTS}) "
            "ORDER BY seq LIMIT ?",
            after,
            size,
            limit,
        ).fetchall()
        events = [StoredRecord.of(row) for row in rows]
        if system:
            events = [seen_as_event(record) if record.kind in SYSTEM_TOPICS else record for record in events]
        return events, (events[-1].seq if len(events) == limit else size)

    def message(self, activity: str, id: str) -> StoredRecord | None:
        row = self._read("SELECT received FROM messages WHERE activity = ? AND id = ?", activity, id).fetchone()
        return None if row is None else self.record(row[0])

    def answer(self, activity: str, id: str) -> StoredRecord | None:
        row = self._read("SELECT replied FROM messages WHERE activity = ? AND id = ?", activity, id).fetchone()
        return None if row is None or row[0] is None else self.record(row[0])

    def publication(self, id: str) -> StoredRecord | None:
        row = self._read("SELECT record FROM publications WHERE id = ?", id).fetchone()
        return None if row is None else self.record(row[0])

    def subscription(self, name: str) -> SubscriptionState | None:
        row = self._read("SELECT name, patterns, cursor, beyond FROM subscriptions WHERE name = ?", name).fetchone()
        if row is None:
            return None
        beyond = [(low, high) for low, high in orjson.loads(row[3])]
        return SubscriptionState(row[0], orjson.loads(row[1]), row[2], beyond)

    def stream_after(self, stream: str, after: int) -> list[StoredRecord]:
        rows = self._read(f"SELECT {COLUMNS} FROM records WHERE stream = ? AND seq > ? ORDER BY seq", stream, after)
        return [StoredRecord.of(row) for row in rows]

    def registered(self) -> Mapping[tuple[str, str], Mapping[str, Any]]:
        rows = self._read(
            "SELECT name, facts FROM records WHERE stream = ? AND kind = 'definition.registered' ORDER BY seq",
            ENGINE_STREAM,
        )
        found = {}
        for name, text in rows:
            facts = orjson.loads(text)
            found[facts["type"], name] = facts
        return found


def _states(rows: Iterable[tuple[Any, ...]]) -> list[ActivityState]:
    return [ActivityState(row[0], row[1], ActivityStatus(row[2]), *row[3:]) for row in rows]


def _make_file(path: Path) -> None:
    """Make the file before SQLite does, since SQLite would make it readable for others."""
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise JournalError(
            f"cannot make {path} ({error.strerror}); the journal's folder must exist and be writable"
        ) from error


_MAGIC = b"SQLite format 3\x00"
"""What each SQLite file begins with."""


def _look(path: Path) -> Tree | None:
    """Refuse a file that is no journal, or is damaged, before anything is written to it.

    A connection that may write puts into the file, at its end, what a crash has left in a WAL. One that may not leaves
    files of its own beside it, unless it is told that the file is `immutable`: then it sees the file alone.

    Returns:
        The log's tree; `None` where there is none yet.
    """
    if not path.stat().st_size:
        return None
    refuse_foreign(path)
    options = "" if _beside(path, "-wal").exists() else "&immutable=1"
    connection = connect(path, read_only=True, options=options)
    try:
        check_schema(connection, str(path))
        made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'records'").fetchone()
        return None if made is None else _restore_tree(connection)
    except sqlite3.DatabaseError:
        # The process that made the file was killed before it had its first page: SQLite mends that when it may write.
        if not _beside(path, "-journal").exists():
            raise
        return None
    finally:
        connection.close()


def _restore_tree(connection: sqlite3.Connection) -> Tree:
    (size,) = connection.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()
    tiles = [row[0] for row in connection.execute("SELECT hashes FROM tiles WHERE level = 1 ORDER BY n")]
    covered = covered_by_tiles(size)
    leaves = [row[0] for row in connection.execute("SELECT leaf FROM records WHERE seq > ? ORDER BY seq", (covered,))]
    tree = Tree.restore(tiles, leaves)
    (root,) = connection.execute("SELECT root FROM records WHERE seq = ?", (size,)).fetchone() or (tree.root(),)
    if tree.size != size or tree.root() != root:
        raise sqlite3.DatabaseError("the log's tree does not fit the records")
    return tree


_NOT_DAMAGE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _named(path: Path, error: sqlite3.DatabaseError) -> JournalError:
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalError(f"cannot open {path}, since another program writes to the file; end it first")
    if code & 0xFF in _NOT_DAMAGE and code != sqlite3.SQLITE_IOERR_SHORT_READ:
        return JournalError(f"cannot open {path}: {error}; see that its disk has room, and that its folder is writable")
    return JournalDamagedError(
        f"{path} cannot be read as a journal: {error}; restore a copy, or see what `playbill verify` says of it"
    )
