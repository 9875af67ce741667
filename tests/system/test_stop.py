"""An engine that stops gives its activities up without undoing anything; the next one takes them on.

When an engine closes, Python unwinds the activities' functions: their `finally:` blocks run. That is no reason to
release what was reserved: such a run is fenced, and nothing that it still does through `ctx` has any effect. The same
block does its work when the function itself comes to its end, in whatever process that is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from engine import Activity, ActivityStatus, Context, Engine, FencedError, Settings, activity, current_step
from engine.audit import Ledger
from tests.system import stopping

PROGRAM = Path(stopping.__file__)

PATIENCE = 30.0
"""Seconds after which what is waited for will not come."""

WAIT = 0.7
"""Seconds that the activities here sleep: long enough to be still asleep when the engine is closed, short enough to be
slept out by the next one."""


class World:
    """What the steps of a test have done, in order, and how a step can be made to take long."""

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.keys: dict[str, set[str]] = {}
        self.entered = trio.Event()
        self.seconds = 0.0

    async def work(self, effect: str) -> str:
        self.effects.append(effect)
        self.keys.setdefault(effect, set()).add(current_step().idempotency_key)
        self.entered.set()
        await trio.sleep(self.seconds)
        self.effects.append(f"{effect}, done")
        return effect

    def work_in_thread(self, effect: str) -> str:
        self.effects.append(effect)
        trio.from_thread.run_sync(self.entered.set)
        threading.Event().wait(self.seconds)
        self.effects.append(f"{effect}, done")
        return effect

    async def act(self, effect: str) -> str:
        self.effects.append(effect)
        return effect


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def kinds(journal: Path) -> list[str]:
    """The kinds of all records of activities, in order."""
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT kind FROM records WHERE stream NOT LIKE '/%' ORDER BY seq").fetchall()
    return [kind for (kind,) in rows]


async def recorded(journal: Path, kind: str, times: int = 1) -> None:
    """Wait until a live engine, of this process or another, has made so many records of that kind."""
    with trio.fail_after(PATIENCE):
        while True:
            with contextlib.suppress(sqlite3.OperationalError):  # until the journal is there, with its tables
                if kinds(journal).count(kind) >= times:
                    return
            await trio.sleep(0.005)


def verifies(journal: Path) -> bool:
    with Ledger.open(journal) as ledger:
        return ledger.verify().ok


# ------------------------------------------------------------------------------------------------ how an engine closes


@contextlib.asynccontextmanager
async def left(journal: Path, *definitions: Activity[..., Any]) -> AsyncIterator[Engine]:
    """The block is left at its end."""
    async with Engine.open(str(journal), *definitions) as engine:
        yield engine


@contextlib.asynccontextmanager
async def cancelled(journal: Path, *definitions: Activity[..., Any]) -> AsyncIterator[Engine]:
    """The block is cancelled from outside."""
    with trio.CancelScope() as scope:
        async with Engine.open(str(journal), *definitions) as engine:
            yield engine
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


@contextlib.asynccontextmanager
async def failed(journal: Path, *definitions: Activity[..., Any]) -> AsyncIterator[Engine]:
    """An exception leaves the block."""
    try:
        async with Engine.open(str(journal), *definitions) as engine:
            yield engine
            raise ZeroDivisionError
    except ZeroDivisionError:
        return


WAYS = [left, cancelled, failed]


@pytest.mark.parametrize("way", WAYS)
async def test_a_finally_does_nothing_when_the_engine_closes_and_its_work_when_the_body_ends(
    way: Callable[..., contextlib.AbstractAsyncContextManager[Engine]], world: World, journal: Path
) -> None:
    unwound: list[BaseException] = []

    @activity
    async def hold(ctx: Context) -> str:
        await ctx.step(world.act, "reserve")
        try:
            await ctx.sleep(WAIT)
        finally:
            try:
                await ctx.step(world.act, "release")
            except BaseException as error:
                unwound.append(error)
                raise
        return "held"

    async with way(journal, hold) as engine:
        await engine.start(hold, id="hold-1")
        await recorded(journal, "timer.set")
    assert world.effects == ["reserve"]
    assert len(unwound) == 1
    assert kinds(journal) == ["command.accepted", "activity.started", "step.completed", "timer.set"]

    async with Engine.open(str(journal), hold) as engine:
        with trio.fail_after(PATIENCE):
            assert await engine.handle("hold-1", hold).result() == "held"
    assert world.effects == ["reserve", "release"]
    assert len(unwound) == 1
    assert verifies(journal)


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_fenced_run_swallows_raises_or_returns_is_ignored(
    way: Callable[..., contextlib.AbstractAsyncContextManager[Engine]], world: World, journal: Path
) -> None:
    ends: list[int] = []

    @activity
    async def stubborn(ctx: Context, number: int) -> str:
        try:
            await ctx.sleep(WAIT)
        except BaseException as error:
            ends.append(number)
            if number == 0:
                return "nonsense"
            if number == 1:
                raise ValueError("nonsense") from error
            for _ in range(3):
                with contextlib.suppress(BaseException):
                    await ctx.step(world.act, "too late")
                with contextlib.suppress(BaseException):
                    await ctx.emit("too.late", None)
            raise
        return "slept"

    async with way(journal, stubborn) as engine:
        for number in range(3):
            await engine.start(stubborn, number, id=f"stubborn-{number}")
        await recorded(journal, "timer.set", times=3)
    assert sorted(ends) == [0, 1, 2]
    assert world.effects == []
    assert set(kinds(journal)) == {"command.accepted", "activity.started", "timer.set"}

    async with Engine.open(str(journal), stubborn) as engine:
        with trio.fail_after(PATIENCE):
            assert [await engine.handle(f"stubborn-{n}", stubborn).result() for n in range(3)] == ["slept"] * 3
    assert world.effects == []


# ------------------------------------------------------------------------------------------------ steps in flight


@pytest.mark.parametrize("thread", [False, True], ids=["coroutine", "thread"])
async def test_a_step_in_flight_may_end_within_the_allowance_and_is_recorded(
    thread: bool, world: World, journal: Path
) -> None:
    @activity
    async def hold(ctx: Context) -> str:
        try:
            return await ctx.step(world.work_in_thread if thread else world.work, "work")
        finally:
            await ctx.step(world.act, "release")

    world.seconds = 0.3
    async with Engine.open(str(journal), hold, settings=Settings(drain_within=10.0)) as engine:
        await engine.start(hold, id="hold-1")
        await world.entered.wait()
    assert world.effects == ["work", "work, done"]
    assert kinds(journal) == ["command.accepted", "activity.started", "step.completed"]

    async with Engine.open(str(journal), hold) as engine:
        with trio.fail_after(PATIENCE):
            assert await engine.handle("hold-1", hold).result() == "work"
    assert world.effects == ["work", "work, done", "release"]


async def test_a_step_in_flight_beyond_the_allowance_is_given_up_and_run_again_under_the_same_key(
    world: World, journal: Path
) -> None:
    @activity
    async def hold(ctx: Context) -> str:
        try:
            return await ctx.step(world.work, "work")
        finally:
            await ctx.step(world.act, "release")

    world.seconds = 3_600.0
    with trio.fail_after(PATIENCE):
        async with Engine.open(str(journal), hold, settings=Settings(drain_within=0.1)) as engine:
            await engine.start(hold, id="hold-1")
            await world.entered.wait()
    assert world.effects == ["work"]
    assert kinds(journal) == ["command.accepted", "activity.started"]

    world.seconds = 0.0
    async with Engine.open(str(journal), hold) as engine:
        with trio.fail_after(PATIENCE):
            assert await engine.handle("hold-1", hold).result() == "work"
    assert world.effects == ["work", "work", "work, done", "release"]
    assert len(world.keys["work"]) == 1


async def test_nothing_new_begins_while_another_step_drains(world: World, journal: Path) -> None:
    slow_began, slow_may_end = trio.Event(), trio.Event()

    async def slow() -> None:
        slow_began.set()
        await slow_may_end.wait()

    @activity
    async def one_step(ctx: Context) -> None:
        await ctx.step(slow)

    @activity
    async def two_steps(ctx: Context) -> None:
        await ctx.step(world.work, "first")
        await ctx.step(world.work, "second")

    async def let_slow_end() -> None:
        await recorded(journal, "step.completed")
        await trio.sleep(0.3)  # time enough for a second step to begin, if anything lets it
        slow_may_end.set()

    world.seconds = 0.2
    async with trio.open_nursery() as nursery:
        async with Engine.open(str(journal), one_step, two_steps) as engine:
            await engine.start(one_step, id="one")
            await engine.start(two_steps, id="two")
            await slow_began.wait()
            await world.entered.wait()
            nursery.start_soon(let_slow_end)
        assert slow_may_end.is_set()
    assert world.effects == ["first", "first, done"]
    assert kinds(journal).count("step.completed") == 2


async def test_a_shielded_finally_does_nothing_either(world: World, journal: Path) -> None:
    refused: list[type[BaseException]] = []

    @activity
    async def hold(ctx: Context) -> None:
        await ctx.step(world.act, "reserve")
        try:
            await ctx.sleep(WAIT)
        finally:
            with trio.CancelScope(shield=True):
                for call in (lambda: ctx.step(world.act, "release"), lambda: ctx.emit("released", None)):
                    try:
                        await call()
                    except FencedError as error:
                        refused.append(type(error))

    async with Engine.open(str(journal), hold) as engine:
        await engine.start(hold, id="hold-1")
        await recorded(journal, "timer.set")
    assert refused == [FencedError, FencedError]
    assert world.effects == ["reserve"]
    assert kinds(journal)[-1] == "timer.set"

    async with Engine.open(str(journal), hold) as engine:
        with trio.fail_after(PATIENCE):
            await engine.handle("hold-1", hold).result()
    assert world.effects == ["reserve", "release"]
    assert kinds(journal).count("event.emitted") == 1


async def test_closing_records_how_many_activities_are_left_to_be_resumed(journal: Path) -> None:
    @activity
    async def sleeper(ctx: Context) -> None:
        await ctx.sleep(WAIT)

    async with Engine.open(str(journal), sleeper) as engine:
        handle = await engine.start(sleeper, id="sleeper-1")
        assert await handle.status() in {ActivityStatus.RUNNING, ActivityStatus.WAITING, ActivityStatus.PENDING}
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        last = connection.execute("SELECT kind, facts FROM records ORDER BY seq DESC LIMIT 1").fetchone()
    assert last == ("engine.closed", '{"running":1}')


# ------------------------------------------------------------------------------------------------ signals


SIGNALS = [("receives", signal.SIGTERM), ("interrupted", signal.SIGINT)]


@pytest.mark.parametrize(("way", "number"), SIGNALS, ids=[number.name for _, number in SIGNALS])
async def test_a_finally_does_nothing_when_the_process_is_asked_to_stop(
    way: str, number: signal.Signals, tmp_path: Path, journal: Path
) -> None:
    world = tmp_path / "world.txt"
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run_program, journal, world, way, WAIT)
        await recorded(journal, "timer.set")
        process.send_signal(number)
        with trio.fail_after(PATIENCE):
            await process.wait()
    assert [line.split()[0] for line in world.read_text().splitlines()] == ["reserve"]
    assert kinds(journal) == ["command.accepted", "activity.started", "step.completed", "timer.set"]

    async with trio.open_nursery() as nursery:
        process = await nursery.start(run_program, journal, world, way, WAIT)
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
    assert [line.split()[0] for line in world.read_text().splitlines()] == ["reserve", "release"]
    assert verifies(journal)


async def run_program(
    journal: Path, world: Path, way: str, seconds: float, *, task_status: trio.TaskStatus[trio.Process]
) -> None:
    arguments = [str(PROGRAM), str(journal), str(world), way, str(seconds)]
    root = str(PROGRAM.parents[2])

    await trio.run_process(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
        stdin=subprocess.DEVNULL,
        check=False,
        capture_stdout=True,
        capture_stderr=True,
        task_status=task_status,
    )
