"""Poison: what takes the process down each time is blocked, and takes nobody along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from engine import ActivityStatus, Context, Engine, Settings, activity
from engine.activities.suspicion import is_suspect, unclean_ends
from engine.audit import Ledger
from engine.journal import StoredRecord
from tests.activities.stage import Stage

PROGRAM = """
import os, signal
import trio
from engine import ActivityStatus, Context, Engine, activity

@activity(name="poison")
async def poison(ctx: Context) -> None:
    await ctx.step(kill)

async def kill() -> None:
    await trio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)

@activity(name="innocent")
async def innocent(ctx: Context) -> str:
    await ctx.step(wait)
    return ctx.id

async def wait() -> None:
    await trio.sleep(0.2)

async def main() -> None:
    async with Engine.open("journal.db", poison, innocent) as engine:
        for number in range(4):
            await engine.start(poison if number == 2 else innocent, id=f"a{number}")
        for number in range(4):
            handle = engine.handle(f"a{number}")
            print(handle.id, await handle.wait(ActivityStatus.COMPLETED, ActivityStatus.BLOCKED))

trio.run(main)
"""


def test_an_activity_that_kills_the_process_each_time_is_blocked_and_its_neighbours_end(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    lives = 0
    while lives < 20:
        lives += 1
        ended = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        if not ended.returncode:
            break
    assert ended.stdout.split("\n")[:-1] == ["a0 completed", "a1 completed", "a2 blocked", "a3 completed"]
    assert lives == 6
    with Ledger.open(tmp_path / "journal.db") as ledger:
        (blocked,) = [record for record in ledger.history("a2") if record.kind == "activity.blocked"]
        assert blocked.facts["cause"] == "poison"
        assert "5 times" in blocked.facts["recorded"]
        assert ledger.verify().ok


# ---------------------------------------------------------------------------------------------------- counting


def records(*kinds: str) -> list[StoredRecord]:
    """Records by their kinds; a resume by its cause, and whether the end before it was clean."""
    found = []
    for seq, text in enumerate(kinds, start=1):
        cause, _, clean = text.partition(" ")
        kind = "activity.resumed" if clean else cause
        facts = {"generation": 0, "cause": cause, "clean": clean == "clean"}
        found.append(StoredRecord(seq, "a", kind, "n", None, 1, "", None, facts, None))
    return found


@pytest.mark.parametrize(
    ("history", "ends"),
    [
        (("command.accepted", "activity.started"), 1),
        (("activity.started", "opened unclean"), 2),
        (("activity.started", "opened unclean", "opened unclean", "opened unclean"), 4),
        (("activity.started", "opened unclean", "command.denied", "opened unclean"), 3),
        (("activity.started", "opened unclean", "step.completed"), 1),
        (("step.failed", "opened unclean", "opened clean", "opened unclean"), 2),
        (("activity.started", "opened unclean", "activity.parked", "unparked unclean", "opened unclean"), 2),
        (("opened unclean", "opened unclean", "activity.blocked", "command.accepted", "resumed unclean"), 1),
    ],
)
def test_unclean_ends_count_as_long_as_nothing_is_recorded_between_them(history: tuple[str, ...], ends: int) -> None:
    assert unclean_ends(records(*history), clean=False) == ends


def test_a_clean_end_counts_for_nothing() -> None:
    assert unclean_ends(records("activity.started", "opened unclean", "opened unclean"), clean=True) == 0


def test_none_is_a_suspect_after_one_end_unless_two_would_be_too_many() -> None:
    assert [is_suspect(ends, 5) for ends in (0, 1, 2, 4)] == [False, False, True, True]
    assert [is_suspect(ends, 2) for ends in (0, 1)] == [False, True]
    assert not is_suspect(0, 1)


# ---------------------------------------------------------------------------------------------------- suspects

STAYS: list[str] = []


@activity(name="stays")
async def stays(ctx: Context) -> None:
    STAYS.append(ctx.id)
    await ctx.step(trio.sleep_forever)


async def noop() -> None:
    pass


async def torn_down(stage: Stage, settings: Settings, lives: int, seconds: float = 0) -> list[list[str]]:
    """Lives that end uncleanly after so many seconds; who began in each."""
    began = []

    async def body(engine: Engine) -> None:
        for id in "abc":
            await engine.start(stays, id=id)
        await trio.sleep(seconds)
        await trio.testing.wait_all_tasks_blocked()
        engine._journal.append = lambda *args, **columns: 0  # what would be said at a clean end

    for _ in range(lives):
        STAYS.clear()
        await stage.life(body, stays, settings=settings)
        began.append(list(STAYS))
    return began


async def test_suspects_are_resumed_one_at_a_time(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    began = await torn_down(stage, Settings(drain_within=0), 4)
    assert [sorted(life) for life in began[:2]] == [list("abc")] * 2
    assert began[2:] == [["a"], ["b"]]


async def test_nobody_runs_beside_a_suspect_at_first(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await torn_down(stage, Settings(drain_within=0), 2)
    STAYS.clear()

    async def body(engine: Engine) -> None:
        await engine.start(stays, id="d")
        await trio.sleep(1)
        assert STAYS == ["a"]
        await trio.sleep(10)
        assert sorted(STAYS) == list("abcd")

    await stage.life(body, stays, settings=Settings(drain_within=0))


async def test_a_suspect_that_neither_ends_nor_records_anything_is_alone_for_a_while_only(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    began = await torn_down(stage, Settings(drain_within=0), 3, seconds=25)
    assert began[2] == list("abc")
    # One more end would have them blocked: each is alone for as long as it takes.
    began = await torn_down(Stage(stage.journal.with_name("other.db")), Settings(drain_within=0, poison_after=3), 3, 25)
    assert began[2] == ["a"]


async def test_a_suspect_that_records_something_makes_room_for_the_next(stage: Stage) -> None:
    @activity(name="stays")
    async def goes_on(ctx: Context) -> str:
        await ctx.step(noop, name="sleep_forever")
        return ctx.id

    await torn_down(stage, Settings(drain_within=0, poison_after=3), 2)

    async def body(engine: Engine) -> list[str]:
        return [str(await engine.handle(id).wait(ActivityStatus.COMPLETED, ActivityStatus.BLOCKED)) for id in "abc"]

    assert await stage.life(body, goes_on, settings=Settings(poison_after=3)) == ["completed"] * 3


async def test_one_that_was_poison_is_taken_on_by_command(stage: Stage) -> None:
    settings = Settings(drain_within=0, poison_after=1)
    await torn_down(stage, settings, 1)

    async def body(engine: Engine) -> None:
        assert await engine.handle("a").status() == ActivityStatus.BLOCKED
        await engine.resume("a", by="alice", reason="mended")
        assert await engine.handle("a").status() == ActivityStatus.RUNNING

    await stage.life(body, stays, settings=settings)
    kinds = [record["kind"] for record in stage.records(id="a")]
    assert kinds[-3:] == ["activity.blocked", "command.accepted", "activity.resumed"]
