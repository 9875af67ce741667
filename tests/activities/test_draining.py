"""An engine that closes: steps in flight end and are recorded, the rest is given up as it stands and goes on later."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
import trio.testing

from engine import Context, Engine, Restart, Retry, Settings, activity, step
from tests.activities.stage import Stage


@step(name="slow")
async def slow(seconds: float) -> str:
    await trio.sleep(seconds)
    return "slow"


async def begun(stage: Stage, definition: Any, *, seconds: float = 1.0, drain_within: float = 10.0) -> None:
    """One life in which the activity is started, and the engine closed a moment later."""

    async def body(engine: Engine) -> None:
        await engine.start(definition, id="it")
        await trio.sleep(seconds)

    await stage.life(body, definition, settings=Settings(drain_within=drain_within))


async def test_a_step_in_flight_ends_and_is_recorded(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        found = await ctx.step(slow, 5)
        stage.done.append("went on")
        return [found, await ctx.step(slow, 5)]

    began = trio.current_time()
    await begun(stage, a)
    assert trio.current_time() - began == 5
    assert stage.story() == ["step.completed slow"]
    assert await stage.played(a) == ["slow", "slow"]


async def test_a_step_that_takes_longer_is_given_up_and_runs_again(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> str:
        return await ctx.step(slow, 60)

    began = trio.current_time()
    await begun(stage, a, drain_within=3)
    assert trio.current_time() - began == 4
    assert stage.story() == []
    assert await stage.played(a) == "slow"


async def test_a_failed_attempt_in_flight_is_recorded_and_the_next_is_made_in_the_next_life(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="fail", retry=Retry(2, 1.0, jitter=0))
    async def fail() -> str:
        stage.done.append(trio.current_time())
        await trio.sleep(5)
        if len(stage.done) == 1:
            raise ValueError
        return "second"

    @activity(name="a")
    async def a(ctx: Context) -> str:
        return await ctx.step(fail)

    await begun(stage, a)
    assert stage.story() == ["step.failed fail"]
    assert len(stage.done) == 1
    assert await stage.played(a) == "second"


@pytest.mark.parametrize("waits", ["sleep", "step", "map", "branches", "nothing"])
@pytest.mark.parametrize("shielded", [False, True])
async def test_what_undoes_work_is_not_done_by_an_engine_that_closes(
    stage: Stage, autojump_clock: trio.testing.MockClock, waits: str, shielded: bool
) -> None:
    """To give a task up is to cancel it: its `finally` runs, and nothing that it does through ctx happens."""

    @step(name="reserve")
    async def reserve() -> None:
        stage.done.append("reserve")

    @step(name="release")
    async def release() -> None:
        stage.done.append("release")

    async def branch(ctx: Context, number: int) -> None:
        try:
            await ctx.sleep(50)
        finally:
            with trio.CancelScope(shield=shielded):
                await ctx.step(release)

    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> str:
        await ctx.step(reserve)
        try:
            match waits:
                case "sleep":
                    await ctx.sleep(50)
                case "step":
                    await ctx.step(slow, 50)
                case "map":
                    await ctx.map(slow, [50.0, 50.0])
                case "branches":
                    await ctx.map(branch, range(2))
                case "nothing":
                    await trio.sleep(50)
        finally:
            with trio.CancelScope(shield=shielded):
                await ctx.step(release)
                await ctx.emit("a.released", 1)
        return "released"

    for _ in range(2):
        with trio.fail_after(1000):
            await begun(stage, a)
    assert stage.done == ["reserve"]
    assert not stage.records("event.emitted", "activity.failed", "activity.crashed", "call.abandoned", "branch.ended")
    assert await stage.played(a) == "released"
    assert stage.done.count("reserve") == 1


async def test_a_sleep_that_the_activity_shields_does_not_hold_the_engine_up(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        with trio.CancelScope(shield=True):
            await ctx.sleep(10_000)

    began = trio.current_time()
    await begun(stage, a)
    assert trio.current_time() - began < 100
    await stage.played(a)
    assert trio.current_time() - began == pytest.approx(10_000)


async def test_no_branch_begins_in_an_engine_that_closes(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def branch(ctx: Context, number: int) -> None:
        stage.done.append(number)
        await ctx.step(slow, 5)

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.map(branch, range(100), limit=2)

    await begun(stage, a)
    assert stage.done == [0, 1]


async def test_what_a_run_that_was_given_up_returns_or_raises_is_ignored(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> str:
        try:
            await ctx.sleep(20)
        except trio.Cancelled:
            stage.done.append("cancelled")
            if len(stage.done) == 1:
                return "too early"
            raise ValueError from None
        return "slept"

    await begun(stage, a)
    await begun(stage, a)
    assert stage.done == ["cancelled", "cancelled"]
    assert await stage.played(a) == "slept"


async def test_an_activity_that_waits_for_its_restart_is_left_as_it_stands(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(1, initial=100, maximum=100, jitter=0))
    async def a(ctx: Context) -> float:
        if ctx.run_number == 1:
            raise ValueError
        return trio.current_time()

    began = trio.current_time()
    await begun(stage, a)
    assert await stage.played(a) - began == pytest.approx(100)


async def test_a_group_that_a_run_which_was_given_up_raises_is_ignored(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """In a nursery of the activity's own one task raises while it is cancelled."""

    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> str:
        async def stubborn(ctx: Context) -> None:
            try:
                await ctx.sleep(20)
            except trio.Cancelled:
                raise ValueError from None

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stubborn, ctx.branch("one"))
            nursery.start_soon(ctx.branch("two").sleep, 20)
        return "slept"

    await begun(stage, a)
    assert stage.story() == ["timer.set one/sleep", "timer.set two/sleep"] or len(stage.story()) == 2
    assert await stage.played(a) == "slept"


async def test_a_thread_that_outlives_the_allowance_is_waited_for_and_recorded(stage: Stage) -> None:
    """It cannot be ended; what it did is known, and must not be done again."""

    def slow() -> str:
        stage.done.append("began")
        threading.Event().wait(0.3)
        return "done"

    @activity(name="a")
    async def a(ctx: Context) -> str:
        return await ctx.step(slow, name="slow")

    await begun(stage, a, seconds=0.05, drain_within=0.05)
    assert stage.story() == ["step.completed slow"]
    assert await stage.played(a) == "done"
    assert stage.done == ["began"]
