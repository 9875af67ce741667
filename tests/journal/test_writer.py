"""How a commit forms: what becomes durable together, who is told when, and what no cancellation takes away."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.errors import JournalError
from engine.journal.log import Tree
from tests.journal.journals import Desk, opened, read, rows, seqs, stamp, tree_root, writing

ROOTS = "SELECT seq, root FROM records WHERE root IS NOT NULL ORDER BY seq"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


# ------------------------------------------------------------------------------------------------ seq


async def test_seq_is_gapless_over_tasks_commits_and_openings(path: Path) -> None:
    async def write(desk: Any, count: int) -> None:
        for _ in range(count):
            await desk.durable(desk.append("/engine", "definition.registered"))

    for _ in range(2):
        async with opened(path) as journal, trio.open_nursery() as nursery:
            for count in range(1, 6):
                nursery.start_soon(write, journal, count)
    assert seqs(path) == list(range(1, journal.last_seq + 1))
    assert journal.last_seq == 2 * 15 + 3


async def test_append_tells_the_seq_that_the_record_gets(path: Path) -> None:
    async with writing(path) as desk:
        given = {desk.append(name=f"n{number}"): f"n{number}" for number in range(5)}
        assert desk.writer.last_seq == 5
        assert desk.writer.durable_seq == 0
    assert dict(rows(path, "SELECT seq, name FROM records")) == given
    assert desk.writer.durable_seq == 5


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        pytest.param("definition.registered", {"type": object()}, id="facts that are no JSON"),
        pytest.param("definition.registered", {"type": "\ud800"}, id="a text that is no text"),
        pytest.param("activity.started", {"generation": 0}, id="facts that lack what a projection reads"),
    ],
)
@pytest.mark.parametrize("before", [0, 1], ids=["alone", "beside another record"])
async def test_an_append_that_raises_leaves_neither_a_gap_nor_a_trace(
    path: Path, kind: str, facts: dict[str, Any], before: int
) -> None:
    async with writing(path) as desk:
        for _ in range(before):
            desk.append()
        with pytest.raises((TypeError, KeyError)):
            desk.append("one", kind, facts=facts, begins="activity")
        await trio.testing.wait_all_tasks_blocked()
        await desk.writer.durable(desk.append(name="after"))
    assert rows(path, "SELECT seq, name FROM records ORDER BY seq DESC LIMIT 1") == [(before + 1, "after")]
    assert seqs(path) == list(range(1, before + 2))
    assert rows(path, "SELECT count(*) FROM streams WHERE id = 'one'") == [(0,)]


async def test_a_clock_that_raises_leaves_no_gap(path: Path) -> None:
    def broken() -> str:
        raise OSError("no clock")

    async with writing(path) as desk:
        desk.writer._stamp = broken
        with pytest.raises(OSError, match="no clock"):
            desk.append()
        await desk.writer.durable(desk.append(at=stamp()))
    assert seqs(path) == [1]


async def test_an_interrupt_cannot_tear_an_append(path: Path) -> None:
    protected: list[bool] = []

    def noting() -> str:
        protected.append(trio.lowlevel.currently_ki_protected())
        return stamp()

    async with writing(path) as desk:
        desk.writer._stamp = noting
        assert not trio.lowlevel.currently_ki_protected()
        desk.append()
    assert protected == [True]


# ------------------------------------------------------------------------------------------------ what is one commit


async def test_what_many_tasks_append_in_one_tick_is_one_commit_with_one_root(path: Path) -> None:
    async def write_two(desk: Desk, number: int) -> None:
        desk.append(name=f"{number} a")
        await desk.writer.durable(desk.append(name=f"{number} b"))

    async with writing(path) as desk, trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(write_two, desk, number)
    assert [seq for seq, _ in rows(path, ROOTS)] == [60]
    assert len(desk.connection.inserted) == 1


async def test_the_tasks_that_one_commit_woke_share_the_next(path: Path) -> None:
    async def write(desk: Desk) -> None:
        for _ in range(4):
            await desk.writer.durable(desk.append())

    async with writing(path) as desk, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(write, desk)
    assert [seq for seq, _ in rows(path, ROOTS)] == [10, 20, 30, 40]


async def test_a_lone_append_is_a_commit_of_its_own(path: Path) -> None:
    async with writing(path) as desk:
        for _ in range(3):
            await desk.writer.durable(desk.append())
    assert [seq for seq, _ in rows(path, ROOTS)] == [1, 2, 3]


async def test_records_appended_without_a_checkpoint_between_them_are_one_commit(path: Path) -> None:
    async with opened(path) as journal:
        await journal.durable(journal.last_seq)
        first = journal.last_seq
        for _ in range(100):
            last = journal.append("/engine", "definition.registered")
        await journal.durable(last)
    assert [seq for seq, _ in rows(path, ROOTS)] == [first, last]


async def test_each_root_is_that_of_all_leaves_up_to_its_record(path: Path) -> None:
    async with writing(path) as desk:
        for count in (1, 2, 5, 1, 7):
            for _ in range(count):
                last = desk.append()
            await desk.writer.durable(last)
    leaves = [leaf for (leaf,) in rows(path, "SELECT leaf FROM records ORDER BY seq")]
    roots = rows(path, ROOTS)
    assert [seq for seq, _ in roots] == [1, 3, 8, 9, 16]
    assert [root for _, root in roots] == [tree_root(leaves[:seq]) for seq, _ in roots]


async def test_a_commit_delay_gathers_what_is_appended_meanwhile(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with writing(path, commit_delay=0.5) as desk:
        desk.append()
        await trio.sleep(0.4)
        last = desk.append()
        assert desk.writer.durable_seq == 0
        await desk.writer.durable(last)
        assert trio.current_time() == pytest.approx(0.5)
    assert [seq for seq, _ in rows(path, ROOTS)] == [2]


# ------------------------------------------------------------------------------------------------ what durable means


async def test_nothing_is_seen_by_others_before_commit_and_all_after(path: Path, tmp_path: Path) -> None:
    seen: list[list[int]] = []
    async with writing(path) as desk:

        def commit() -> None:
            seen.append(seqs(path))
            desk.connection.really_commit()
            seen.append(seqs(path))

        desk.connection.commit = commit
        for _ in range(3):
            last = desk.append()
        await desk.writer.durable(last)
    assert seen == [[], [1, 2, 3]]


async def test_a_crash_before_commit_loses_the_whole_batch_and_one_after_nothing(path: Path, tmp_path: Path) -> None:
    def crash(name: str) -> Path:
        copy = tmp_path / name
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        return copy

    crashed: list[Path] = []
    async with writing(path) as desk:
        desk.append()
        await desk.writer.durable(1)

        def commit() -> None:
            crashed.append(crash("before"))
            desk.connection.really_commit()
            crashed.append(crash("after"))

        desk.connection.commit = commit
        desk.append("one", "command.accepted", name="n", facts={"command": "start"}, begins="activity")
        await desk.writer.durable(desk.append("one", "activity.started", name="n", run=1, facts={"version": "1"}))
    before, after = crashed
    assert (seqs(before), rows(before, "SELECT id FROM activities")) == ([1], [])
    assert (seqs(after), rows(after, "SELECT id, status FROM activities")) == ([1, 2, 3], [("one", "running")])


async def test_durable_returns_only_after_commit(path: Path) -> None:
    events: list[str] = []
    async with writing(path) as desk:

        def commit() -> None:
            events.append("commit")
            desk.connection.really_commit()

        desk.connection.commit = commit
        await desk.writer.durable(desk.append())
        events.append("durable")
    assert events == ["commit", "durable"]


async def test_waiting_for_what_is_durable_already_waits_for_no_commit(path: Path) -> None:
    async with writing(path) as desk:
        await desk.writer.durable(desk.append())
        desk.append()
        await desk.writer.durable(1)
        await desk.writer.durable_within(1, 0)
        assert desk.writer.durable_seq == 1


async def test_a_record_of_the_commit_under_way_is_not_waited_for_together_with_the_next_commit(path: Path) -> None:
    async with writing(path) as desk:

        def refuse() -> None:
            raise sqlite3.OperationalError("disk I/O error")

        def commit() -> None:
            desk.append()
            desk.connection.really_commit()
            desk.connection.commit = refuse

        desk.connection.commit = commit
        with trio.fail_after(10):
            await desk.writer.durable(desk.append())
        assert (desk.writer.durable_seq, desk.writer.last_seq) == (1, 2)
        desk.connection.commit = desk.connection.really_commit
        await desk.writer.durable(2)


# ------------------------------------------------------------------------------------------------ cancelling


async def test_a_waiter_that_is_cancelled_leaves_its_record(path: Path) -> None:
    async with writing(path) as desk:
        with trio.CancelScope() as scope:
            seq = desk.append(name="left")
            scope.cancel()
            await desk.writer.durable_within(seq, 30)
        assert scope.cancelled_caught
        assert desk.writer.durable_seq == 0
        await desk.writer.durable(seq)
    assert rows(path, "SELECT seq, name FROM records") == [(1, "left")]


async def test_a_waiter_that_was_cancelled_is_not_woken_later(path: Path) -> None:
    async with writing(path) as desk:
        with trio.CancelScope() as scope:
            seq = desk.append()
            scope.cancel()
            await desk.writer.durable_within(seq, 30)
        with trio.CancelScope() as elsewhere:  # whoever is woken twice, or for nothing, fails here
            desk.append(landed=elsewhere.cancel)
            await trio.sleep_forever()
        assert elsewhere.cancelled_caught
        assert desk.writer.durable_seq == 2


async def test_durable_is_not_cancelled_and_the_cancellation_comes_at_the_next_checkpoint(path: Path) -> None:
    passed: list[int] = []
    async with writing(path) as desk:
        with trio.CancelScope() as scope:
            seq = desk.append()
            scope.cancel()
            await desk.writer.durable(seq)
            passed.append(desk.writer.durable_seq)
            await trio.lowlevel.checkpoint()
            passed.append(-1)
        assert scope.cancelled_caught
    assert passed == [seq]


async def test_cancelling_the_writer_loses_nothing(path: Path) -> None:
    desk = Desk(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.writer.run)
        desk.append()
        nursery.cancel_scope.cancel()
        desk.append()
        desk.writer.close()
    desk.connection.connection.close()
    assert seqs(path) == [1, 2]


# ------------------------------------------------------------------------------------------------ callbacks


async def test_callbacks_run_in_the_order_of_the_records_and_before_any_task_goes_on(path: Path) -> None:
    order: list[object] = []

    async def wait(desk: Desk, seq: int) -> None:
        await desk.writer.durable(seq)
        order.append("a task")

    async with writing(path) as desk:
        desk.writer.on_durable = lambda seq: order.append(("up to", seq))
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(wait, desk, desk.append(landed=lambda number=number: order.append(number)))
    assert order == [0, 1, 2, ("up to", 3), "a task", "a task", "a task"]


async def test_a_callback_finds_its_record_durable(path: Path) -> None:
    found: list[tuple[int, list[int]]] = []
    async with writing(path) as desk:
        desk.append(landed=lambda: found.append((desk.writer.durable_seq, seqs(path))))
    assert found == [(1, [1])]


async def test_what_a_callback_appends_is_written_with_the_next_commit(path: Path) -> None:
    async with writing(path) as desk:
        desk.append(landed=lambda: [desk.append(name="from a callback"), None][1])
        await desk.writer.durable(1)
        assert desk.writer.last_seq == 2
        await desk.writer.durable(2)
    assert [seq for seq, _ in rows(path, ROOTS)] == [1, 2]


# ------------------------------------------------------------------------------------------------ closing


async def test_closing_writes_all_that_was_appended(path: Path) -> None:
    async with writing(path) as desk:
        for _ in range(3):
            desk.append()
        desk.writer.close()
        desk.append()
    assert seqs(path) == [1, 2, 3, 4]


async def test_a_writer_that_is_closed_before_it_runs_writes_and_ends(path: Path) -> None:
    desk = Desk(path)
    desk.append()
    desk.writer.close()
    with trio.fail_after(10):
        await desk.writer.run()
    desk.connection.connection.close()
    assert seqs(path) == [1]


async def test_what_a_callback_appends_at_the_close_is_written_too(path: Path) -> None:
    async with writing(path) as desk:
        desk.append(landed=lambda: [desk.append(), None][1])
    assert seqs(path) == [1, 2]


# ------------------------------------------------------------------------------------------------ breaking down


def broken_by(group: BaseExceptionGroup[BaseException]) -> list[type[BaseException]]:
    return sorted({type(error) for error in group.exceptions}, key=lambda kind: kind.__name__)


async def test_a_record_that_sqlite_will_never_take_ends_the_writer_and_all_who_wait_are_told(path: Path) -> None:
    told: list[str] = []

    async def wait(desk: Desk, seq: int) -> None:
        with pytest.raises(JournalError, match="broke down"):
            await desk.writer.durable(seq)
        told.append("durable")

    async def wait_within(desk: Desk, seq: int) -> None:
        with pytest.raises(JournalError, match="broke down"):
            await desk.writer.durable_within(seq, 30)
        told.append("durable_within")

    with trio.fail_after(10), pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012  (the nursery is what raises)
        async with writing(path) as desk:
            await desk.writer.durable(desk.append())
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait, desk, desk.append())
                    facts = {"command": "start", "priority": "high"}
                    seq = desk.append("one", "command.accepted", name="n", facts=facts, begins="activity")
                    nursery.start_soon(wait_within, desk, seq)
                with pytest.raises(JournalError, match="broke down"):
                    await desk.writer.durable(seq)
    assert broken_by(raised.value) == [sqlite3.IntegrityError]
    assert sorted(told) == ["durable", "durable_within"]
    assert seqs(path) == [1]


async def test_a_callback_that_raises_ends_the_writer_and_nobody_waits_for_ever(path: Path) -> None:
    with trio.fail_after(10), pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012
        async with writing(path) as desk:
            with pytest.raises(JournalError, match="broke down"):
                await desk.writer.durable(desk.append(landed=lambda: 1 // 0))
    assert broken_by(raised.value) == [ZeroDivisionError]


async def test_a_journal_goes_on_at_the_next_opening_after_its_writer_broke_down(path: Path) -> None:
    with pytest.raises(BaseExceptionGroup):  # noqa: PT012
        async with opened(path) as journal:
            await journal.durable(journal.last_seq)
            facts = {"command": "start", "priority": 2**63}
            journal.append("one", "command.accepted", name="n", facts=facts, begins="activity")
            await trio.sleep_forever()
    async with opened(path) as journal:
        await journal.durable(journal.append("/engine", "definition.registered"))
    assert seqs(path) == [1, 2, 3, 4]
    with read(path) as connection:
        leaves = [leaf for (leaf,) in connection.execute("SELECT leaf FROM records ORDER BY seq")]
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    assert rows(path, ROOTS)[-1] == (4, tree.root())
