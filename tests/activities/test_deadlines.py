"""Deadlines: instants that hold whatever becomes of the activity."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import trio
import trio.testing

from engine import (
    ActivityFailedError,
    ActivityStatus,
    ActivityTimeoutError,
    Context,
    DefinitionError,
    Engine,
    Restart,
    Retry,
    Settings,
    activity,
    step,
)
from engine.testing.killing import Death
from tests.activities.stage import Stage

OVER = (ActivityStatus.COMPLETED, ActivityStatus.FAILED, ActivityStatus.CANCELLED, ActivityStatus.BLOCKED)


@step(name="work")
async def work(seconds: float, what: str = "") -> str:
    await trio.sleep(seconds)
    return what


@activity(name="limited", timeout=100)
async def limited(ctx: Context, seconds: float) -> str:
    try:
        await ctx.sleep(seconds)
    finally:
        async with ctx.cleanup():
            await ctx.step(work, 1, "clean")
    return "in time"


async def begin(stage: Stage, definition: Any, *args: Any, seconds: float) -> None:
    """One life, in which the activity is started, unless it was before, of so many seconds."""

    async def body(engine: Engine) -> None:
        await engine.start(definition, *args, id="it")
        await trio.sleep(seconds)

    await stage.life(body, definition, settings=Settings(drain_within=0))


async def test_one_that_does_not_end_in_time_fails_after_its_cleanup(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> None:
        handle = await engine.start(limited, 1000, id="it")
        with pytest.raises(ActivityFailedError) as raised:
            await handle.result()
        assert isinstance(raised.value.__cause__, ActivityTimeoutError)

    await stage.life(body, limited)
    assert trio.current_time() == 101
    assert stage.story() == [
        "timer.set sleep",
        "activity.cancelling",
        "scope.opened cleanup",
        "step.completed cleanup/work",
        "scope.ended cleanup",
        "activity.failed",
    ]
    (cancelling,) = stage.records("activity.cancelling")
    assert cancelling["facts"] == {"generation": 0, "cause": "deadline"}
    (failed,) = stage.records("activity.failed")
    assert failed["facts"]["why"] == "deadline"


async def test_one_that_ends_in_time_is_left_alone(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def body(engine: Engine) -> str:
        handle = await engine.start(limited, 50, id="it")
        found = await handle.result()
        await trio.sleep(1000)
        return found

    assert await stage.life(body, limited) == "in time"


async def test_it_holds_over_restarts_of_the_activity(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def fail() -> None:
        raise ValueError

    @activity(name="a", timeout=100, restart=Restart(1000, initial=7, factor=1, jitter=0))
    async def a(ctx: Context) -> None:
        await ctx.step(fail, name="fail")

    assert await stage.status(a) is ActivityStatus.FAILED
    assert trio.current_time() == 100
    (failed,) = stage.records("activity.failed")
    assert failed["facts"]["why"] == "deadline"


async def test_it_holds_over_ends_of_the_process(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    for _ in range(3):
        await begin(stage, limited, 1000, seconds=10)
        await trio.sleep(20)
    assert await stage.status(limited, 1000) is ActivityStatus.FAILED
    assert trio.current_time() == 101


async def test_one_whose_time_is_over_when_the_engine_opens_is_cancelled_at_once(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await begin(stage, limited, 1000, seconds=10)
    await trio.sleep(500)
    assert await stage.status(limited, 1000) is ActivityStatus.FAILED
    assert trio.current_time() == 511


async def test_a_wait_that_was_over_before_comes_first_however_late_the_engine_looks(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 18, of a timer and a deadline."""
    for number in range(5):
        place = Stage(stage.journal.with_name(f"{number}.db"))
        await begin(place, limited, 99, seconds=10)
        await trio.sleep(500)
        assert await place.status(limited, 99) in (ActivityStatus.FAILED, ActivityStatus.COMPLETED)
        assert place.story()[:3] == ["timer.set sleep", "activity.resumed", "timer.fired sleep"]


@pytest.mark.parametrize("rests", [False, True])
async def test_it_ends_a_pause(stage: Stage, autojump_clock: trio.testing.MockClock, rests: bool) -> None:
    async def body(engine: Engine) -> ActivityStatus:
        handle = await engine.start(limited, 1000, id="it")
        await trio.sleep(50)
        await handle.pause()
        return await handle.wait(*OVER)

    async def look(engine: Engine) -> ActivityStatus:
        return await engine.handle("it").wait(*OVER)

    if rests:
        await stage.life(body, limited, death=Death(at=("activity.paused", None)))
        assert await stage.life(look, limited) is ActivityStatus.FAILED
    else:
        assert await stage.life(body, limited) is ActivityStatus.FAILED
    assert trio.current_time() == 101


async def test_during_a_cleanup_it_does_nothing(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    """Program 27: the first cause stays."""

    @activity(name="a", timeout=100)
    async def a(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            async with ctx.cleanup(within=None):
                await ctx.step(work, 200)

    async def body(engine: Engine) -> ActivityStatus:
        handle = await engine.start(a, id="it")
        await trio.sleep(50)
        await handle.cancel()
        return await handle.wait(*OVER)

    assert await stage.life(body, a) is ActivityStatus.CANCELLED
    assert trio.current_time() == 250


async def test_a_clock_that_went_back_gives_no_more_time_than_there_was(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 23."""

    class Wrong:
        def now(self) -> dt.datetime:
            return dt.datetime(2025, 12, 31, 12, tzinfo=dt.UTC) + dt.timedelta(seconds=trio.current_time())

    await begin(stage, limited, 1000, seconds=10)
    assert await stage.status(limited, 1000, clock=Wrong()) is ActivityStatus.FAILED
    assert trio.current_time() == pytest.approx(111)


async def test_many_deadlines_are_met_in_their_order(
    stage: Stage, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.activities.deadlines.READ_AT_ONCE", 3)

    async def body(engine: Engine) -> None:
        for number in range(20):
            await engine.start(limited, 1000, id=str(number))
            await trio.sleep(1)

    async def look(engine: Engine) -> list[float]:
        ends = []
        for number in range(20):
            await engine.handle(str(number)).wait(*OVER)
            ends.append(trio.current_time())
        return ends

    await stage.life(body, limited, settings=Settings(drain_within=0))
    assert await stage.life(look, limited) == [101.0 + number for number in range(20)]


async def test_a_blocked_one_fails_when_it_is_resumed(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a", timeout=100)
    async def a(ctx: Context) -> None:
        await ctx.step(work, 0, name="old")
        await ctx.sleep(1000)

    async def changed(ctx: Context) -> None:
        await ctx.step(work, 0, name="new")

    async def block(engine: Engine) -> None:
        assert await engine.handle("it").wait(*OVER) is ActivityStatus.BLOCKED
        await trio.sleep(500)
        assert await engine.handle("it").status() is ActivityStatus.BLOCKED

    async def resume(engine: Engine) -> ActivityStatus:
        await engine.resume("it")
        return await engine.handle("it").wait(*OVER)

    await begin(stage, a, seconds=10)
    await stage.life(block, activity(name="a", timeout=100)(changed))
    assert await stage.life(resume, a) is ActivityStatus.FAILED
    (failed,) = stage.records("activity.failed")
    assert failed["facts"]["why"] == "deadline"


@pytest.mark.parametrize("timeout", [0, -1, True, "soon"])
def test_a_time_that_is_none_is_refused(timeout: Any) -> None:
    with pytest.raises(DefinitionError, match="timeout"):
        activity(timeout=timeout)(limited.function)


async def test_a_retry_that_would_come_after_it_is_not_waited_for(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def fail() -> None:
        raise ValueError

    @activity(name="a", timeout=100)
    async def a(ctx: Context) -> None:
        await ctx.step(fail, name="fail", retry=Retry(2, 1000, maximum=1000))

    assert await stage.status(a) is ActivityStatus.FAILED
    assert trio.current_time() == 100
