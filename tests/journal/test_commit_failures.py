"""A commit that fails: rolled back whole, tried again with the same records, and never written twice."""

from __future__ import annotations

import logging
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
import trio.testing

from engine.errors import JournalBusyError, JournalError, JournalFullError
from engine.journal.log import Tree
from engine.journal.writer import RETRY_LONGEST
from tests.journal.journals import Desk, rows, seqs, tree_root, writing

FILLING = "x" * 100_000
"""`data` for which SQLite needs pages that it does not have yet."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another connection holds the file's write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def without_room(desk: Desk) -> Iterator[None]:
    """The database may not grow, as on a full disk."""
    connection = desk.connection.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (before,) = connection.execute("PRAGMA max_page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA max_page_count = {before}")


@contextmanager
def unwritable(desk: Desk) -> Iterator[None]:
    """SQLite may not write, as on a disk that was mounted anew read-only."""
    desk.connection.connection.execute("PRAGMA query_only = ON")
    try:
        yield
    finally:
        desk.connection.connection.execute("PRAGMA query_only = OFF")


@contextmanager
def failing_disk(desk: Desk) -> Iterator[None]:
    """The system refuses each write beyond the end of the WAL: SQLite reports an error of input or output."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{desk.path}-wal").stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def lock(desk: Desk) -> AbstractContextManager[None]:
    return locked(desk.path)


Failing: TypeAlias = Callable[[Desk], AbstractContextManager[None]]

FAILURES = [
    pytest.param(without_room, JournalFullError, id="no room"),
    pytest.param(unwritable, JournalFullError, id="read-only"),
    pytest.param(failing_disk, JournalFullError, id="disk error"),
    pytest.param(lock, JournalBusyError, id="locked"),
]


@pytest.mark.parametrize(("failing", "refusal"), FAILURES)
async def test_a_call_is_refused_after_its_allowance_and_the_record_lands_later(
    path: Path,
    failing: Failing,
    refusal: type[JournalError],
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with writing(path) as desk:
        await desk.writer.durable(desk.append())
        with failing(desk):
            seq = desk.append(name="late", data=FILLING)
            with pytest.raises(refusal, match="it may still be recorded: ask again with the same id") as raised:
                await desk.writer.durable_within(seq, 5)
            assert trio.current_time() == pytest.approx(5)
            assert type(raised.value) is refusal
            assert seqs(path) == [1]
        await desk.writer.durable(seq)
    assert rows(path, "SELECT seq, name FROM records WHERE seq > 1") == [(2, "late")]


@pytest.mark.parametrize(("failing", "refusal"), FAILURES)
async def test_the_engines_own_waits_go_on_until_the_commit_succeeds(
    path: Path,
    failing: Failing,
    refusal: type[JournalError],
    autojump_clock: trio.testing.MockClock,
) -> None:
    ended: list[float] = []

    async def wait(desk: Desk, seq: int) -> None:
        await desk.writer.durable(seq)
        ended.append(trio.current_time())

    async with writing(path) as desk, trio.open_nursery() as nursery:
        await desk.writer.durable(desk.append())
        with failing(desk):
            nursery.start_soon(wait, desk, desk.append(data=FILLING))
            await trio.sleep(3600)
            assert ended == []
    assert len(ended) == 1
    assert ended[0] <= 3600 + RETRY_LONGEST


@pytest.mark.parametrize(("failing", "refusal"), FAILURES)
async def test_a_batch_that_fails_part_of_the_way_is_rolled_back_whole(
    path: Path,
    failing: Failing,
    refusal: type[JournalError],
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with writing(path) as desk:
        await desk.writer.durable(desk.append())
        with failing(desk):
            facts = {"command": "start"}
            desk.append("one", "command.accepted", name="n", facts=facts, begins="activity")
            desk.append("one", "step.completed", name="s", path="1", run=1, data=FILLING)
            last = desk.append("one", "step.completed", name="s", path="2", run=1, data=FILLING)
            await trio.sleep(10)
            assert not desk.connection.in_transaction
            assert seqs(path) == [1]
            assert rows(path, "SELECT id FROM streams UNION SELECT id FROM activities") == []
        await desk.writer.durable(last)
    assert seqs(path) == [1, 2, 3, 4]
    assert rows(path, "SELECT id FROM activities") == [("one",)]


@pytest.mark.parametrize("failing", [without_room, failing_disk])
async def test_each_try_writes_the_same_records_with_the_same_hashes_and_tiles(
    path: Path, failing: Failing, autojump_clock: trio.testing.MockClock
) -> None:
    # The log's tree as of a journal whose next but one record fills the first tile.
    before = [number.to_bytes(32, "big") for number in range(65_534)]
    async with writing(path, tree=Tree.restore([], before)) as desk:
        await desk.writer.durable(desk.append())
        with failing(desk):
            last = desk.append(data='"first"')
            last = desk.append(data=FILLING)
            await trio.sleep(5)
        await desk.writer.durable(last)
        await desk.writer.durable(desk.append())
    _, *tries, _ = desk.connection.inserted
    assert len(tries) > 1
    assert all(rows == tries[0] for rows in tries)
    assert all(tiles == desk.connection.tiles[0] for tiles in desk.connection.tiles)
    stored = rows(path, "SELECT leaf, root FROM records ORDER BY seq")
    leaves = before + [leaf for leaf, _ in stored]
    assert [root for _, root in stored] == [
        tree_root(leaves[:65_535]),
        None,
        tree_root(leaves[:65_537]),
        tree_root(leaves[:65_538]),
    ]
    assert rows(path, "SELECT level, n, length(hashes) FROM tiles") == [(1, 0, 8192)]


async def test_what_is_appended_while_a_commit_fails_lands_after_it_and_in_order(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    landed: list[int] = []
    async with writing(path) as desk:
        with locked(path):
            for number in range(5):
                desk.append(landed=lambda number=number: landed.append(number))
                await trio.sleep(1)
            with pytest.raises(JournalBusyError):
                await desk.writer.durable_within(5, 1)
            assert landed == []
    assert landed == [0, 1, 2, 3, 4]
    assert [seq for (seq,) in rows(path, "SELECT seq FROM records WHERE root NOT NULL")] == [1, 5]


async def test_no_refusal_speaks_of_a_locked_database(path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with writing(path) as desk:
        in_plain_words = "another program writes to the journal's file"
        with locked(path), pytest.raises(JournalBusyError, match=in_plain_words) as raised:
            await desk.writer.durable_within(desk.append(), 1)
    assert "database is locked" not in str(raised.value)


async def test_each_of_many_calls_is_refused_after_its_own_allowance(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    refused: list[tuple[float, float]] = []

    async def call(desk: Desk, begins: float, seconds: float) -> None:
        await trio.sleep(begins)
        with pytest.raises(JournalBusyError):
            await desk.writer.durable_within(desk.append(), seconds)
        refused.append((begins + seconds, trio.current_time()))

    async def call_side_by_side(desk: Desk) -> None:
        async with trio.open_nursery() as nursery:
            for begins, seconds in [(0, 0.001), (0, 10), (3.25, 0.5), (3.25, 2), (3.3, 0.01), (9, 30)]:
                nursery.start_soon(call, desk, begins, seconds)

    async with writing(path) as desk:
        with locked(path):
            await call_side_by_side(desk)
    assert [now for _, now in refused] == pytest.approx([due for due, _ in refused])
    assert len(refused) == 6


async def test_a_call_that_is_cancelled_while_commits_fail_is_not_refused_later(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with writing(path) as desk:
        with locked(path):
            with trio.move_on_after(1) as scope:
                await desk.writer.durable_within(desk.append(), 2)
            assert scope.cancelled_caught
            await trio.sleep(10)
    assert seqs(path) == [1]


async def test_a_failure_is_logged_once_and_so_is_its_end(
    path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "playbill.journal")
    async with writing(path) as desk:
        with locked(path):
            desk.append()
            await trio.sleep(30)
            assert len(caplog.records) == 1
        await desk.writer.durable(desk.append())
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("a commit failed and is tried again")
    assert second == "commits succeed again"


# ------------------------------------------------------------------------------------------------ an unclear end


def io_error() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error


async def test_a_commit_that_succeeded_and_raised_is_read_back_and_not_written_twice(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with writing(path) as desk:

        def commit() -> None:
            desk.connection.really_commit()
            raise io_error()

        desk.connection.commit = commit
        await desk.writer.durable(desk.append(name="a"))
        await desk.writer.durable(desk.append(name="b"))
        assert trio.current_time() == 0
    assert len(desk.connection.inserted) == 2
    assert rows(path, "SELECT name FROM records ORDER BY seq") == [("a",), ("b",)]


async def test_a_commit_that_succeeded_and_cannot_be_read_back_at_once_is_not_written_twice(path: Path) -> None:
    async with writing(path) as desk:
        unreadable = [True]

        def before(statement: str) -> None:
            if statement.startswith("SELECT max") and unreadable:
                unreadable.clear()
                raise io_error()

        def commit() -> None:
            desk.connection.commit = desk.connection.really_commit
            desk.connection.really_commit()
            raise io_error()

        desk.connection.before = before
        desk.connection.commit = commit
        await desk.writer.durable(desk.append(name="a"))
        await desk.writer.durable(desk.append(name="b"))
    assert not unreadable
    assert len(desk.connection.inserted) == 3
    assert rows(path, "SELECT seq, name FROM records ORDER BY seq") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("rolled_back", [False, True], ids=["transaction still open", "rolled back by SQLite"])
async def test_a_commit_that_raised_and_did_not_take_place_is_tried_again(path: Path, rolled_back: bool) -> None:
    tries: list[int] = []
    async with writing(path) as desk:

        def commit() -> None:
            tries.append(len(seqs(path)))
            if len(tries) < 3:
                if rolled_back:
                    desk.connection.connection.execute("ROLLBACK")
                raise io_error()
            desk.connection.really_commit()

        desk.connection.commit = commit
        await desk.writer.durable(desk.append())
    assert tries == [0, 0, 0]
    assert seqs(path) == [1]


async def test_a_rollback_that_fails_too_is_tried_again(path: Path) -> None:
    async with writing(path) as desk:
        rollbacks: list[str] = []

        def before(statement: str) -> None:
            if statement == "ROLLBACK":
                rollbacks.append(statement)
                if len(rollbacks) == 1:
                    raise io_error()

        def commit() -> None:
            desk.connection.commit = desk.connection.really_commit
            raise io_error()

        desk.connection.before = before
        desk.connection.commit = commit
        await desk.writer.durable(desk.append(name="a"))
    assert len(rollbacks) == 2
    assert rows(path, "SELECT seq, name FROM records") == [(1, "a")]
