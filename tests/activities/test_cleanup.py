"""`ctx.cleanup`: what it shields from, what it does not, and how it goes on."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine import (
    ActivityStatus,
    Context,
    DefinitionError,
    Engine,
    Restart,
    Retry,
    Settings,
    WaitTimeoutError,
    activity,
    current_step,
    step,
)
from engine.testing import crash_everywhere
from tests.activities.stage import Stage


class BoomError(Exception):
    pass


@step(name="work")
async def work(seconds: float, what: str = "") -> str:
    await trio.sleep(seconds)
    if what.startswith("fail"):
        raise BoomError(what)
    return what


@step(name="late")
async def late() -> str:
    """Fails at first, for a good while."""
    if current_step().attempt < 3:
        await trio.sleep(20)
        raise BoomError
    return "done"


async def test_a_cleanup_that_nothing_led_to_is_a_scope_of_steps(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        found = []
        for _ in range(2):
            async with ctx.cleanup():
                found.append(await ctx.step(work, 0, "x"))
                async with ctx.cleanup(within=None):
                    found.append(await ctx.step(work, 0, "y"))
        return [*found, await ctx.step(work, 0, "z")]

    assert await stage.played(a) == ["x", "y", "x", "y", "z"]
    assert [record["path"] for record in stage.records("step.completed")] == [
        "cleanup/work",
        "cleanup/cleanup/work",
        "cleanup#2/work",
        "cleanup#2/cleanup/work",
        "work",
    ]


@pytest.mark.parametrize("within", [0, -1, True, "soon"])
async def test_an_allowance_that_is_none_is_refused(stage: Stage, within: Any) -> None:
    @activity(name="a", restart=Restart(0), fatal=(DefinitionError,))
    async def a(ctx: Context) -> str:
        try:
            async with ctx.cleanup(within=within):
                return "entered"
        except DefinitionError:
            return "refused"

    assert await stage.played(a) == "refused"


async def test_every_kill_of_one_with_cleanups_ends_as_it_would_have(autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a", restart=Restart(2, initial=0.1, jitter=0))
    async def a(ctx: Context) -> list[str]:
        found: list[str] = []

        async def branch(ctx: Context, number: int) -> None:
            try:
                if number == 1:
                    await ctx.step(work, 1, "fail")
                await ctx.sleep(1000)
            finally:
                async with ctx.cleanup():
                    await ctx.sleep(1 + number)
                    found.append(await ctx.step(work, 0, f"undone {number}"))

        try:
            await ctx.map(branch, range(3))
        except BoomError:
            found.append("failed")
        return found

    assert (await crash_everywhere(a)).result == ["undone 1", "undone 0", "undone 2", "failed"]


# ---------------------------------------------------------------------------------------------------- the fence


async def test_an_engine_that_closes_cleans_nothing_up(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    """Program 1: a run that is given up without a recorded cancel must not undo what the next life goes on with."""

    @activity(name="a")
    async def a(ctx: Context) -> str:
        try:
            await ctx.sleep(50)
        finally:
            async with ctx.cleanup():
                stage.done.append("entered")
                await ctx.step(work, 0)
        return "slept"

    async def begin(engine: Engine) -> None:
        await engine.start(a, id="it")
        await trio.sleep(10)

    for _ in range(3):
        await stage.life(begin, a)
    assert stage.done == []
    assert not stage.records("scope.opened", "activity.failed")
    assert await stage.played(a) == "slept"
    assert stage.done == ["entered"]


async def test_an_engine_that_closes_during_a_cleanup_leaves_the_rest_to_the_next(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> str:
        async with ctx.cleanup():
            for number in range(3):
                await ctx.sleep(5)
                stage.done.append(await ctx.step(work, 0, str(number)))
        return "clean"

    async def begin(engine: Engine) -> None:
        await engine.start(a, id="it")
        await trio.sleep(7)

    await stage.life(begin, a)
    assert stage.done == ["0"]
    assert await stage.played(a) == "clean"
    assert len(stage.records("step.completed")) == 3


# ---------------------------------------------------------------------------------------------------- the allowance


async def test_a_cleanup_that_takes_too_long_is_cancelled_and_tried_anew_by_a_restart(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(3, initial=1, jitter=0))
    async def a(ctx: Context) -> str:
        async with ctx.cleanup(within=30):
            return await ctx.step(late, retry=Retry(5, 1, jitter=0))

    assert await stage.played(a) == "done"
    assert stage.story() == [
        "scope.opened cleanup",
        "step.failed cleanup/late",
        "timer.fired cleanup",
        "scope.ended cleanup",
        "activity.crashed",
        "step.completed cleanup/late",
        "scope.ended cleanup",
        "activity.completed",
    ]
    (crashed,) = stage.records("activity.crashed")
    assert crashed["facts"]["superseded"] == ["cleanup"]


async def test_who_handles_the_end_of_an_allowance_is_told_of_it_again_at_replay(
    autojump_clock: trio.testing.MockClock,
) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> list[str]:
        found: list[str] = []
        try:
            async with ctx.cleanup(within=5):
                found.append(await ctx.step(work, 1, "one"))
                await ctx.step(work, 30)
                found.append("never")
        except WaitTimeoutError:
            found.append("late")
        found.append(await ctx.step(work, 0, "after"))
        return found

    crashes = await crash_everywhere(a)
    assert crashes.result == ["one", "late", "after"]


async def test_the_allowance_begins_anew_in_each_life(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        async with ctx.cleanup(within=10):
            for _ in range(4):
                await ctx.sleep(4)

    for _ in range(3):

        async def begin(engine: Engine) -> None:
            await engine.start(a, id="it")
            await trio.sleep(4)

        await stage.life(begin, a, settings=Settings(drain_within=0))
        await trio.sleep(100)
    assert await stage.status(a) is ActivityStatus.COMPLETED


# ---------------------------------------------------------------------------------------------------- after a failure


async def test_a_failure_after_which_a_branch_that_lost_was_cleaned_up_is_not_tried_anew(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """A restart would go on in a branch whose work was undone."""

    async def branch(ctx: Context, number: int) -> None:
        await ctx.step(work, 0)
        try:
            await ctx.step(work, number, "fail" if number == 1 else "")
            await ctx.sleep(10)
        finally:
            if number == 0:
                async with ctx.cleanup():
                    await ctx.step(work, 0)

    @activity(name="a", restart=Restart(3, initial=0.1, jitter=0))
    async def a(ctx: Context) -> None:
        await ctx.map(branch, range(2))

    assert await stage.status(a) is ActivityStatus.FAILED
    (failed,) = stage.records("activity.failed")
    assert failed["facts"]["why"] == "acted_upon"


async def test_a_failure_before_a_cleanup_is_not_tried_anew(stage: Stage) -> None:
    """Program 5 (a): the work would be done without the lock."""

    @activity(name="a", restart=Restart(3, initial=0.1, jitter=0))
    async def a(ctx: Context) -> None:
        await ctx.step(work, 0, name="lock")
        try:
            await ctx.step(work, 0, "fail")
        finally:
            async with ctx.cleanup():
                await ctx.step(work, 0, name="unlock")

    assert await stage.status(a) is ActivityStatus.FAILED
    assert stage.story() == [
        "step.completed lock",
        "step.failed work",
        "scope.opened cleanup",
        "step.completed cleanup/unlock",
        "scope.ended cleanup",
        "activity.failed",
    ]


async def test_a_branch_that_lost_still_cleans_up(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def loser(ctx: Context) -> str:
        try:
            await ctx.sleep(100)
        finally:
            async with ctx.cleanup():
                stage.done.append(await ctx.step(work, 3, "undone"))
        return "never"

    @activity(name="a")
    async def a(ctx: Context) -> str:
        name, _ = await ctx.race(loser=loser, winner=lambda ctx: ctx.step(work, 1, "won"))
        return name

    assert await stage.played(a) == "winner"
    assert stage.done == ["undone"]
    assert trio.current_time() == 4
