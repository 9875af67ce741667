"""Waits until an instant of the wall clock, also where that is set meanwhile."""

from __future__ import annotations

import datetime as dt

import attrs
import pytest
import trio
import trio.testing

from engine import ActivityFailedError, Context, Engine, Restart, activity
from engine.testing import crash_everywhere
from engine.testing.killing import TrioTime
from tests.activities.stage import Stage
from tests.activities.test_side_by_side import work

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
"""TrioTime begins twelve hours before."""


@attrs.define
class SetClock:
    """A wall clock that goes with Trio's, and is set, once, to another hour."""

    seconds: float = 0.0

    def now(self) -> dt.datetime:
        return TrioTime().now() + dt.timedelta(seconds=self.seconds)


@activity(name="until-noon")
async def until_noon(ctx: Context) -> str:
    await ctx.sleep_until(NOON)
    return ctx.now().isoformat()


async def test_it_waits_until_the_instant(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    assert await stage.played(until_noon) == NOON.isoformat()
    assert trio.current_time() == 12 * 3600
    (timer,) = stage.records("timer.set")
    assert (timer["path"], timer["facts"]["for"]) == ("sleep_until", "sleep_until")
    assert (timer["facts"]["due"], timer["facts"]["length"]) == ("2026-01-01T12:00:00.000000Z", 12 * 3600)


async def test_an_instant_in_another_zone_is_the_same_instant(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    zone = dt.timezone(dt.timedelta(hours=-3))

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.sleep_until(NOON.astimezone(zone))

    await stage.played(a)
    assert trio.current_time() == 12 * 3600


async def test_an_instant_that_has_passed_is_not_waited_for(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.sleep_until(NOON - dt.timedelta(days=400))

    await stage.played(a)
    assert trio.current_time() == 0
    assert stage.story() == ["timer.set sleep_until", "timer.fired sleep_until", "activity.completed"]
    assert stage.records("timer.set")[0]["facts"]["length"] == 0


async def test_a_restart_waits_until_the_same_instant(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.killed(until_noon, at=("timer.set", "sleep_until"))
    await trio.sleep(3600)
    await stage.played(until_noon)
    assert trio.current_time() == pytest.approx(12 * 3600)


async def test_an_instant_that_passed_while_down_is_not_waited_for(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.killed(until_noon, at=("timer.set", "sleep_until"))
    await trio.sleep(24 * 3600)
    await stage.played(until_noon)
    assert trio.current_time() == 24 * 3600


@pytest.mark.parametrize(("hours", "earliest", "latest"), [(5, 6.99, 7.5), (-5, 16.99, 17.01)])
async def test_a_clock_that_is_set_is_followed(
    stage: Stage, autojump_clock: trio.testing.MockClock, hours: int, earliest: float, latest: float
) -> None:
    clock = SetClock()

    async def body(engine: Engine) -> None:
        handle = await engine.start(until_noon, id="it")
        await trio.sleep(1800)
        clock.seconds = 3600 * hours
        await handle.result()

    await stage.life(body, until_noon, clock=clock)
    assert earliest * 3600 <= trio.current_time() <= latest * 3600


@pytest.mark.parametrize("instant", [dt.datetime(2026, 1, 1), "2026-01-01", 3])
async def test_what_is_no_instant_is_refused(stage: Stage, instant: dt.datetime) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        await ctx.sleep_until(instant)

    with pytest.raises(ActivityFailedError, match="instant"):
        await stage.played(a)
    assert stage.story() == ["activity.failed"]


async def test_a_sleep_in_its_place_does_not_fit(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    is_absolute = True

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await (ctx.sleep_until(NOON) if is_absolute else ctx.sleep(1))

    await stage.killed(a, at=("timer.set", "sleep_until"))
    is_absolute = False
    with pytest.raises(AssertionError, match="sleep_until"):
        await stage.played(a)


async def test_its_own_scope_may_end_it(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> bool:
        with trio.move_on_after(10) as scope:
            await ctx.sleep_until(NOON)
        await ctx.step(work, 1)
        return scope.cancelled_caught

    assert (await crash_everywhere(a)).result is True
