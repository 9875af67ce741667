"""What waits for long is given up in memory, and goes on as if it had not been."""

from __future__ import annotations

import datetime as dt
import math
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine import ActivityStatus, Context, Engine, Handle, Retry, Settings, activity, current_step, step
from engine.activities.waiting import Wait, after, wait
from engine.testing import crash_everywhere
from engine.testing.clock import TrioTime
from engine.testing.killing import Death
from tests.activities.stage import ENDED, Stage

WAITING = ActivityStatus.WAITING
AT_ONCE = Settings(park_after=0.0)
AFTER_TEN = Settings(park_after=10.0)


class ParkingStage(Stage):
    """A stage on which activities are parked after ten seconds, unless said otherwise."""

    async def life(self, body: Callable[[Engine], Awaitable[Any]], *definitions: Any, **options: Any) -> Any:
        options.setdefault("settings", AFTER_TEN)
        return await super().life(body, *definitions, **options)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return ParkingStage(tmp_path / "it.db")


DONE: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    DONE.clear()


async def noted(what: str) -> str:
    DONE.append(what)
    return what


async def parked(stage: Stage, definition: Any, seconds: float = 12.0, **options: Any) -> Any:
    """Whether the activity is parked after so many seconds. Its run is given up then."""

    async def body(engine: Engine) -> bool:
        handle = await engine.start(definition, id="it")
        await trio.sleep(seconds)
        is_parked = await handle.status() is WAITING
        assert not (is_parked and "it" in engine._activities.live)
        return is_parked

    return await stage.life(body, definition, **options)


# ---------------------------------------------------------------------------------------------------- what is parked


@activity(name="sleeps")
async def sleeps(ctx: Context, seconds: float) -> float:
    await ctx.step(noted, "before")
    await ctx.sleep(seconds)
    await ctx.step(noted, "after")
    return trio.current_time()


async def test_a_sleep_that_is_longer_than_park_after_parks_at_once_and_ends_when_it_is_due(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> float:
        began = trio.current_time()
        handle = await engine.start(sleeps, 60, id="it")
        await handle.wait(WAITING)
        assert trio.current_time() == began
        await trio.testing.wait_all_tasks_blocked()
        assert not engine._activities.live
        return await handle.result() - began

    assert await stage.life(body, sleeps) == pytest.approx(60)
    assert stage.story() == [
        "step.completed noted",
        "timer.set sleep",
        "activity.parked",
        "activity.resumed",
        "timer.fired sleep",
        "step.completed noted#2",
        "activity.completed",
    ]
    timer, said, resumed = stage.records("timer.set", "activity.parked", "activity.resumed")
    due = timer["facts"]["due"]
    assert said["facts"] == {"generation": 0, "waits": [{"call": "sleep", "path": "sleep", "due": due}], "due": due}
    assert resumed["facts"]["cause"] == "unparked"
    assert DONE == ["before", "after"]


async def test_a_wait_and_that_it_is_parked_are_one_commit(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await parked(stage, sleeping_for(60))
    timer, said = stage.records("timer.set", "activity.parked")
    assert (timer["root"], said["seq"]) == (None, timer["seq"] + 1)


def sleeping_for(seconds: float) -> Any:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.sleep(seconds)

    return a


@pytest.mark.parametrize(("seconds", "park_after"), [(9, 10), (10, 10), (60, 61), (1e5, math.inf)])
async def test_a_sleep_that_is_not_longer_stays_in_memory(
    stage: Stage, autojump_clock: trio.testing.MockClock, seconds: float, park_after: float
) -> None:
    async def body(engine: Engine) -> list[str]:
        await engine.start(a, id="it")
        await trio.sleep(seconds - 1)
        return list(engine._activities.live)

    a = sleeping_for(seconds)
    assert await stage.life(body, a, settings=Settings(park_after=park_after)) == ["it"]
    assert not stage.records("activity.parked")


async def waits_for(ctx: Context, name: str, seconds: float = math.inf) -> None:
    """A wait whose end nobody knows beforehand, as one for a message."""
    await ctx._begin("sleep", name, "")
    due = None if seconds == math.inf else after(ctx._run.stamp(), seconds)
    await wait(Wait("receive", name, due), ctx, "", seconds=seconds)


async def test_one_that_waits_side_by_side_is_woken_for_the_first(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def branch(ctx: Context, seconds: float) -> float:
        await ctx.sleep(seconds)
        return seconds

    @activity(name="a")
    async def a(ctx: Context) -> list[float]:
        return await ctx.map(branch, [300, 100, 200])

    assert await stage.played(a) == [300, 100, 200]
    timers = {record["path"]: record["facts"]["due"] for record in stage.records("timer.set")}
    dues = [record["facts"]["due"] for record in stage.records("activity.parked")]
    assert dues == sorted(timers.values())
    assert [len(record["facts"]["waits"]) for record in stage.records("activity.parked")] == [3, 2, 1]


@pytest.mark.parametrize("what", ["step", "task", "deadline"])
async def test_one_that_waits_for_anything_else_as_well_is_kept(
    stage: Stage, autojump_clock: trio.testing.MockClock, what: str
) -> None:
    async def branch(ctx: Context, index: int) -> None:
        if index and what == "step":
            await ctx.step(trio.sleep, 3600)
        else:
            await ctx.sleep(1e6)

    @activity(name="a")
    async def a(ctx: Context) -> None:
        async with trio.open_nursery() as nursery:
            if what == "task":
                nursery.start_soon(trio.sleep, 3600)
            with trio.move_on_after(3600 if what == "deadline" else math.inf):
                await ctx.map(branch, range(2))

    assert await parked(stage, a, 3000) is False
    assert await parked(ParkingStage(stage.journal.with_name("later.db")), a, 4000) is (what != "deadline")


async def test_a_backoff_between_attempts_is_a_wait(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    attempts: list[int] = []

    async def fail() -> None:
        attempts.append(current_step().attempt)
        if len(attempts) < 3:
            raise ValueError("no")

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(fail, name="fail", retry=Retry(3, 60, maximum=60, jitter=0))

    await stage.played(a)
    assert attempts == [1, 2, 3]
    waits = [record["facts"]["waits"] for record in stage.records("activity.parked")]
    assert [[(entry["call"], entry["path"]) for entry in each] for each in waits] == [[("step", "fail")]] * 2


# ---------------------------------------------------------------------------------------------------- the fence


async def test_parking_runs_nothing_that_the_users_clean_up_does(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(noted, "reserve")
        try:
            await ctx.sleep(60)
            await ctx.step(noted, "use")
        finally:
            await ctx.step(noted, "release")

    await stage.played(a)
    assert DONE == ["reserve", "use", "release"]


async def test_one_that_is_woken_while_its_function_still_unwinds_goes_on_after_that(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    runs = 0

    @activity(name="a")
    async def a(ctx: Context) -> float:
        nonlocal runs
        runs += 1
        try:
            await ctx.sleep(60)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)
            runs -= 1
        assert runs == 0
        return trio.current_time()

    assert await stage.played(a) == pytest.approx(200)


async def test_what_holds_the_run_that_was_given_up_does_nothing_through_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    contexts: list[Context] = []

    @activity(name="a")
    async def a(ctx: Context) -> None:
        contexts.append(ctx)
        await ctx.sleep(60)

    await stage.played(a)
    assert [context._run.fenced for context in contexts] == [True, True]


@activity(name="saga")
async def saga(ctx: Context) -> str:
    try:
        for number in range(3):
            await ctx.step(noted, f"body {number}")
            await ctx.sleep(20)
        return "done"
    finally:
        await ctx.step(noted, "finally", name="finally")


async def test_an_activity_with_a_step_in_finally_that_is_parked_drained_and_killed_runs_it_once_after_the_body(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def drained(engine: Engine) -> None:
        await engine.start(saga, id="it")
        await trio.sleep(1)

    for life in range(100):
        death = Death(after=6 + 2 * life) if life % 3 == 2 else Death()
        settings = (AFTER_TEN, Settings(), AT_ONCE)[life % 3]
        await stage.life(drained, saga, settings=settings, death=death)
    assert await stage.played(saga) == "done"
    assert DONE.count("finally") == 1
    assert DONE[-1] == "finally"
    assert [record["path"] for record in stage.records("step.completed")] == ["noted", "noted#2", "noted#3", "finally"]


async def test_an_activity_that_is_parked_at_each_wait_and_killed_anywhere_ends_as_if_it_had_not_been(
    autojump_clock: trio.testing.MockClock,
) -> None:
    crashes = await crash_everywhere(saga, setup=DONE.clear, settings=AT_ONCE)
    assert crashes.result == "done"
    assert crashes.effects["finally"] <= 3


# ---------------------------------------------------------------------------------------------------- waking


async def test_the_parked_are_not_loaded_when_the_journal_is_opened_and_are_woken_when_they_are_due(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def first(engine: Engine) -> None:
        for number in range(5):
            await engine.start(sleeps, 100 + number, id=f"a{number}")
        await trio.testing.wait_all_tasks_blocked()

    async def second(engine: Engine) -> list[float]:
        assert not engine._activities.live
        assert await engine.handle("a0").status() is WAITING
        await trio.sleep(80)
        assert not engine._activities.live
        return [round(await engine.handle(f"a{number}").result()) for number in range(5)]

    await stage.life(first, sleeps)
    assert await stage.life(second, sleeps) == [100, 101, 102, 103, 104]


async def test_those_that_were_due_while_nothing_ran_are_woken_at_the_opening(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def second(engine: Engine) -> float:
        return round(await engine.handle("it").result())

    await parked(stage, sleeping_for(100))
    await trio.sleep(1000)

    @activity(name="a")
    async def a(ctx: Context) -> float:
        await ctx.sleep(100)
        return trio.current_time()

    assert await stage.life(second, a) == 1012


async def test_of_more_than_may_run_the_best_are_woken_first(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.sleep(100)
        await ctx.step(noted, ctx.id)
        await ctx.step(trio.sleep, 5)

    async def first(engine: Engine) -> None:
        for id, priority in (("low", -1), ("mid", 0), ("high", 5), ("later", 0)):
            await engine.start(a, id=id, priority=priority)
        await trio.testing.wait_all_tasks_blocked()

    async def second(engine: Engine) -> None:
        for id in ("low", "mid", "high", "later"):
            await engine.handle(id).result()

    await stage.life(first, a)
    await trio.sleep(200)
    await stage.life(second, a, settings=Settings(park_after=10, max_running=1))
    assert DONE == ["high", "mid", "later", "low"]


async def test_those_that_wait_leave_their_places_to_others(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> list[float]:
        handles: list[Handle[float]] = [await engine.start(sleeps, 50, id=f"a{number}") for number in range(20)]
        return [await handle.result() for handle in handles]

    ends = await stage.life(body, sleeps, settings=Settings(park_after=10, max_running=2))
    assert max(ends) < 60


async def test_one_without_its_definition_is_blocked_when_it_is_due_and_goes_on_when_it_is_there_again(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def without(engine: Engine) -> ActivityStatus:
        found: ActivityStatus = await engine.handle("it").status()
        await trio.sleep(200)
        assert await engine.handle("it").status() is ActivityStatus.BLOCKED
        return found

    await parked(stage, sleeping_for(100))
    assert await stage.life(without) is WAITING
    await stage.played(sleeping_for(100))
    kinds = [record["kind"] for record in stage.records()]
    assert kinds[2:] == [
        "timer.set",
        "activity.parked",
        "activity.blocked",
        "activity.resumed",
        "timer.fired",
        "activity.completed",
    ]


async def test_a_clock_that_went_on_while_nothing_ran_wakes_them(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    class Later(TrioTime):
        def now(self) -> Any:
            return super().now() + dt.timedelta(hours=1)

    await parked(stage, sleeping_for(3000))
    began = trio.current_time()
    await stage.played(sleeping_for(3000), clock=Later())
    assert trio.current_time() == pytest.approx(began)


# ---------------------------------------------------------------------------------------------------- from outside


async def test_whoever_waits_for_a_result_waits_on_while_the_activity_is_parked(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> tuple[Any, ...]:
        handle = await engine.start(sleeps, 60, id="it")
        seen = []
        async with trio.open_nursery() as nursery:

            async def see() -> None:
                seen.append(await handle.wait(WAITING))
                seen.append(await handle.wait(ActivityStatus.RUNNING))
                seen.append(await handle.wait(ActivityStatus.COMPLETED))

            nursery.start_soon(see)
            return await handle.result(), seen

    result, seen = await stage.life(body, sleeps)
    assert result == pytest.approx(60)
    assert seen == ["waiting", "running", "completed"]


async def test_a_parked_activity_is_told_apart_by_its_row(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await parked(stage, sleeping_for(100))
    with sqlite3.connect(stage.journal) as connection:
        rows = connection.execute("SELECT status, due FROM activities").fetchall()
    (said,) = stage.records("activity.parked")
    assert rows == [("waiting", said["facts"]["due"])]
    await stage.played(sleeping_for(100))
    with sqlite3.connect(stage.journal) as connection:
        assert connection.execute("SELECT status, due FROM activities").fetchall() == [("completed", None)]


async def test_an_attempt_after_a_park_is_the_first(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> int:
        await ctx.map(_branch, range(2))
        return await ctx.step(attempt)

    async def _branch(ctx: Context, index: int) -> int:
        for _ in range(2 * index):
            await ctx.sleep(60)
        if not index:
            await ctx.sleep(90)
        return await ctx.step(attempt)

    @step(name="attempt")
    async def attempt() -> int:
        return current_step().attempt

    assert await stage.played(a) == 1
    assert {record["facts"]["attempt"] for record in stage.records("step.completed")} == {1}


# ------------------------------------------------------------------------------------------------ kept in memory


async def test_one_that_waits_for_a_message_stays_in_memory(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> str | None:
        return await ctx.receive(str, timeout=1_000)

    async def body(engine: Engine) -> str | None:
        handle = await engine.start(a, id="it")
        await trio.sleep(100)
        assert list(engine._activities.live) == ["it"]
        await handle.send("word")
        return await handle.result()

    assert await stage.life(body, a) == "word"


async def test_a_message_that_comes_while_it_is_parked_is_received_when_it_is_woken(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> str | None:
        await ctx.sleep(100)
        return await ctx.receive(str, timeout=0)

    async def body(engine: Engine) -> str | None:
        handle = await engine.start(a, id="it")
        await handle.wait(WAITING)
        await handle.send("word")
        return await handle.result()

    assert await stage.life(body, a) == "word"


# ------------------------------------------------------------------------------------------------ commands


@activity(name="cleans")
async def cleans(ctx: Context) -> None:
    try:
        await ctx.sleep(100)
    finally:
        async with ctx.cleanup():
            await ctx.step(noted, "cleaned")


@pytest.mark.parametrize("soon", [True, False], ids=["as it is parked", "later"])
@pytest.mark.parametrize("command", ["cancel", "terminate", "pause"])
async def test_a_command_reaches_one_that_is_parked(
    stage: Stage, autojump_clock: trio.testing.MockClock, command: str, soon: bool
) -> None:
    DONE.clear()

    async def body(engine: Engine) -> None:
        handle = await engine.start(cleans, id="it")
        await handle.wait(WAITING)
        if not soon:
            await trio.sleep(50)
        if command == "pause":
            await handle.pause()
            await trio.sleep(500)
            assert await handle.status() == ActivityStatus.PAUSED
            await handle.resume()
            await handle.result()
        else:
            await getattr(handle, command)()
            await handle.wait(ActivityStatus.CANCELLED)

    await stage.life(body, cleans)
    assert ([] if command == "terminate" else ["cleaned"]) == DONE


async def test_a_deadline_reaches_one_that_is_parked(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a", timeout=50)
    async def a(ctx: Context) -> None:
        await ctx.sleep(100)

    async def body(engine: Engine) -> float:
        began = trio.current_time()
        handle = await engine.start(a, id="it")
        assert await handle.wait(*ENDED) == "failed"
        return trio.current_time() - began

    assert await stage.life(body, a) == pytest.approx(50, abs=1)
