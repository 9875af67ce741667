"""A slow COMMIT leaves the loop, for a thread; and comes back where the thread is later still."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.errors import JournalBusyError
from engine.journal import writer as writer_module
from engine.journal.commit_place import BACK_FIRST, BACK_LONGEST, PROBED_EVERY, SLOW, CommitPlace
from tests.journal.journals import Desk, rows, seqs, writing

COMMIT_THREAD = "playbill-commit"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def commit_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == COMMIT_THREAD]


# ------------------------------------------------------------------------------------------------ where


def learnt(place: CommitPlace, seconds: float) -> CommitPlace:
    """What the place decides once it knows how long a COMMIT takes in the loop."""
    for _ in range(100):
        place.took_in_loop(seconds)
    return place


def count_in_loop(place: CommitPlace, seconds: float) -> int:
    """How many COMMITs in a row take place in the loop."""
    count = 0
    while place.is_loop():
        place.took_in_loop(seconds)
        count += 1
        assert count <= BACK_LONGEST
    return count


def test_a_quick_commit_stays_in_the_loop_and_a_slow_one_leaves_it() -> None:
    assert CommitPlace().is_loop()
    assert learnt(CommitPlace(), SLOW * 0.5).is_loop()
    assert not learnt(CommitPlace(), SLOW * 2).is_loop()


def test_one_slow_commit_among_quick_ones_leaves_the_loop_alone() -> None:
    place = learnt(CommitPlace(), SLOW * 0.1)
    place.took_in_loop(SLOW * 5)
    assert place.is_loop()


def test_a_thread_that_is_late_by_more_than_a_commit_brings_it_back_twice_as_long_each_time() -> None:
    slow = SLOW * 5
    place = learnt(CommitPlace(), slow)
    stays = []
    for _ in range(10):
        place.took_in_thread(slow * 3)
        stays.append(count_in_loop(place, slow))
    assert stays[:3] == [BACK_FIRST, 2 * BACK_FIRST, 4 * BACK_FIRST]
    assert stays[-1] == BACK_LONGEST


def test_a_thread_that_answers_in_time_keeps_the_commit_but_for_a_probe_now_and_then() -> None:
    slow = SLOW * 5
    place = learnt(CommitPlace(), slow)
    for _ in range(3):
        for _ in range(PROBED_EVERY):
            assert not place.is_loop()
            place.took_in_thread(slow * 1.2)
        assert place.is_loop()
        place.took_in_loop(slow)


def test_a_disk_that_becomes_quick_brings_the_commit_back() -> None:
    place = learnt(CommitPlace(), SLOW * 1.5)
    rounds = 0
    while not place.is_loop() or rounds == 0:
        for _ in range(PROBED_EVERY):
            place.took_in_thread(SLOW * 0.3)
        count = 0
        while place.is_loop() and count < PROBED_EVERY:
            place.took_in_loop(SLOW * 0.1)
            count += 1
        rounds += 1
        if count == PROBED_EVERY:
            break
    assert rounds < 10


# ------------------------------------------------------------------------------------------------ the thread


class AlwaysThread(CommitPlace):
    """Sends each COMMIT to the thread."""

    def is_loop(self) -> bool:
        return False


@pytest.fixture
def _in_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "CommitPlace", AlwaysThread)


class HangingCommit:
    """A COMMIT that takes until it is released."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._begun = threading.Event()
        self._released = threading.Event()
        self.threads: list[str] = []
        desk.connection.commit = self.commit

    def commit(self) -> None:
        self.threads.append(threading.current_thread().name)
        self._begun.set()
        assert self._released.wait(10), "the loop stood still meanwhile"
        self._desk.connection.really_commit()

    async def begun(self) -> None:
        while not self._begun.is_set():
            await trio.lowlevel.checkpoint()

    def release(self) -> None:
        self._released.set()


@pytest.mark.usefixtures("_in_thread")
async def test_the_loop_goes_on_while_a_slow_commit_is_in_its_thread(path: Path) -> None:
    async with writing(path) as desk:
        hanging = HangingCommit(desk)
        first = desk.append(name="a")
        await hanging.begun()
        second = desk.append(name="b")
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert desk.writer.durable_seq == 0
        assert seqs(path) == []
        hanging.release()
        await desk.writer.durable(first)
        await desk.writer.durable(second)
    assert hanging.threads == [COMMIT_THREAD, COMMIT_THREAD]
    assert rows(path, "SELECT seq, name FROM records") == [(1, "a"), (2, "b")]


@pytest.mark.usefixtures("_in_thread")
async def test_under_a_clock_that_jumps_a_slow_commit_stays_in_the_loop(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    # Such a clock jumps as soon as the loop has nothing to do, whatever a thread is doing meanwhile.
    async with writing(path) as desk:
        threads: list[str] = []

        def commit() -> None:
            threads.append(threading.current_thread().name)
            desk.connection.really_commit()

        desk.connection.commit = commit
        await desk.writer.durable(desk.append())
        await desk.writer.durable(desk.append())
    assert len(threads) == 2
    assert COMMIT_THREAD not in threads


@pytest.mark.usefixtures("_in_thread")
async def test_a_call_is_refused_in_time_while_a_commit_hangs_in_its_thread(path: Path) -> None:
    async with writing(path) as desk:
        hanging = HangingCommit(desk)
        under_way = desk.append()
        await hanging.begun()
        for seq in (under_way, desk.append()):
            with pytest.raises(JournalBusyError, match="the disk is slow"), trio.fail_after(5):
                await desk.writer.durable_within(seq, 0.01)
        hanging.release()
        await desk.writer.durable(2)
    assert seqs(path) == [1, 2]


@pytest.mark.usefixtures("_in_thread")
async def test_cancelling_beside_a_commit_in_its_thread_loses_nothing(path: Path) -> None:
    async with writing(path) as desk:
        hanging = HangingCommit(desk)
        with trio.CancelScope() as scope:
            seq = desk.append()
            await hanging.begun()
            scope.cancel()
            await desk.writer.durable_within(seq, 30)
        assert scope.cancelled_caught
        hanging.release()
    assert seqs(path) == [1]


@pytest.mark.usefixtures("_in_thread")
async def test_a_commit_that_fails_in_its_thread_is_tried_again(path: Path) -> None:
    async with writing(path) as desk:

        def commit() -> None:
            desk.connection.commit = desk.connection.really_commit
            raise sqlite3.OperationalError("disk I/O error")

        desk.connection.commit = commit
        await desk.writer.durable(desk.append())
    assert len(desk.connection.inserted) == 2
    assert seqs(path) == [1]


@pytest.mark.usefixtures("_in_thread")
async def test_whatever_a_commit_raises_in_its_thread_reaches_the_loop(path: Path) -> None:
    def commit() -> None:
        raise MemoryError

    with trio.fail_after(10), pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012  (the nursery is what raises)
        async with writing(path) as desk:
            desk.connection.commit = commit
            desk.append()
            await trio.sleep_forever()
    assert raised.value.subgroup(MemoryError) is not None


@pytest.mark.usefixtures("_in_thread")
async def test_the_thread_is_gone_when_the_writer_has_ended(path: Path) -> None:
    async with writing(path) as desk:
        await desk.writer.durable(desk.append())
        assert len(commit_threads()) == 1
    assert commit_threads() == []


async def test_a_round_trip_to_the_thread_counts_with_all_that_the_loop_was_late(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, float]] = []

    class Noting(CommitPlace):
        """Sends every second COMMIT to the thread, and notes what it is told."""

        def is_loop(self) -> bool:
            return len(told) % 2 == 0

        def took_in_loop(self, seconds: float) -> None:
            told.append(("loop", seconds))

        def took_in_thread(self, seconds: float) -> None:
            told.append(("thread", seconds))

    monkeypatch.setattr(writer_module, "CommitPlace", Noting)
    late = 0.05
    async with writing(path) as desk:
        await desk.writer.durable(desk.append())
        committed = threading.Event()

        def commit() -> None:
            desk.connection.really_commit()
            committed.set()

        desk.connection.commit = commit
        seq = desk.append()
        while not committed.is_set():
            await trio.lowlevel.checkpoint()
        busy_until = trio.current_time() + late
        while trio.current_time() < busy_until:  # the loop does not look at the thread's answer meanwhile
            pass
        await desk.writer.durable(seq)
    assert [place for place, _ in told] == ["loop", "thread"]
    assert told[1][1] >= late


async def test_a_writer_on_a_quick_disk_has_no_thread(path: Path) -> None:
    places: set[str] = set()
    async with writing(path) as desk:

        def commit() -> None:
            places.add(threading.current_thread().name)
            desk.connection.really_commit()

        desk.connection.commit = commit
        for _ in range(3):
            await desk.writer.durable(desk.append())
        if COMMIT_THREAD not in places:  # whether this disk is a quick one just now, nobody can promise
            assert commit_threads() == []


async def test_a_disk_that_is_slow_all_the_time_sends_its_commits_to_the_thread(path: Path) -> None:
    places: list[str] = []
    disk = threading.Event()
    async with writing(path) as desk:

        def commit() -> None:
            places.append(threading.current_thread().name)
            disk.wait(3 * SLOW)
            desk.connection.really_commit()

        desk.connection.commit = commit
        for _ in range(2 * BACK_FIRST):
            await desk.writer.durable(desk.append())
    assert places[0] == threading.main_thread().name
    assert COMMIT_THREAD in places
    assert seqs(path) == list(range(1, 2 * BACK_FIRST + 1))
