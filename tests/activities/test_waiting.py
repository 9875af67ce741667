"""The durable wait: what is seen of it while it lasts, and what ends it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine import Context, Engine, Retry, activity
from engine.activities.waiting import Wait, after
from tests.activities.stage import Stage

NOON = "2026-01-01T12:00:00.000000Z"


async def waits_of(stage: Stage, definition: Any) -> dict[str, Wait]:
    """The waits of the activity, five seconds after it was started."""

    async def body(engine: Engine) -> dict[str, Wait]:
        await engine.start(definition, id="it")
        await trio.sleep(5)
        run = engine._activities.live["it"].run
        assert run is not None
        return dict(run.waits)

    found: dict[str, Wait] = await stage.life(body, definition)
    return found


async def test_a_sleep_is_seen_with_the_instant_that_is_recorded(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.sleep(60)

    waits = await waits_of(stage, a)
    (timer,) = stage.records("timer.set")
    assert {path: (wait.call, wait.due) for path, wait in waits.items()} == {"sleep": ("sleep", timer["facts"]["due"])}


async def test_a_backoff_is_seen_under_the_path_of_its_step(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def fail() -> None:
        raise ValueError

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(fail, name="fail", retry=Retry(2, 60, maximum=60))

    waits = await waits_of(stage, a)
    (failed,) = stage.records("step.failed")
    assert {path: (wait.call, wait.due) for path, wait in waits.items()} == {
        "fail": ("step", failed["facts"]["retry_at"])
    }


async def test_a_wait_that_has_ended_is_seen_no_more(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.sleep(2)
        with trio.move_on_after(1):
            await ctx.sleep(60)
        await trio.sleep(60)

    assert await waits_of(stage, a) == {}


async def test_a_wait_that_is_woken_ends_at_once(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> float:
        await ctx.sleep(60)
        return trio.current_time()

    async def body(engine: Engine) -> float:
        handle = await engine.start(a, id="it")
        await trio.sleep(5)
        run = engine._activities.live["it"].run
        assert run is not None
        run.waits["sleep"].wake(run.stamp())
        return await handle.result()

    assert await stage.life(body, a) == pytest.approx(5)


@pytest.mark.parametrize(
    ("due", "came", "is_over"),
    [
        (None, [NOON], False),
        (NOON, [], True),
        (NOON, [NOON], False),
        (NOON, [after(NOON, 1)], True),
        (NOON, [after(NOON, 1), after(NOON, -1)], False),
        (NOON, [after(NOON, -1), after(NOON, 1)], False),
    ],
)
def test_the_earlier_instant_wins_however_late_it_is_seen(due: str | None, came: list[str], is_over: bool) -> None:
    wait = Wait("receive", "receive", due)
    for instant in came:
        wait.wake(instant)
    assert wait.is_over is is_over
