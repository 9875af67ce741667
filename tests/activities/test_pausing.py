"""Pausing, resuming and terminating: what goes on, what is kept, what is given up."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
import trio.testing

from engine import (
    ActivityCancelledError,
    ActivityStatus,
    CommandDeniedError,
    Context,
    Engine,
    Restart,
    activity,
    step,
)
from tests.activities.stage import Stage

OVER = (ActivityStatus.COMPLETED, ActivityStatus.FAILED, ActivityStatus.CANCELLED, ActivityStatus.BLOCKED)


@step(name="work")
async def work(seconds: float, what: str = "") -> str:
    await trio.sleep(seconds)
    return what


@activity(name="three")
async def three(ctx: Context) -> list[str]:
    """Three steps of five seconds, and what each was released by."""
    return [await ctx.step(work, 5, what) for what in "abc"]


async def test_a_step_in_flight_ends_and_nothing_new_begins(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> list[str]:
        handle = await engine.start(three, id="it")
        await trio.sleep(7)
        await handle.pause(by="alice", reason="lunch")
        assert await handle.status() is ActivityStatus.PAUSED
        await trio.sleep(100)
        assert [record["path"] for record in stage.records("step.completed")] == ["work", "work#2"]
        assert "it" not in engine._activities.live
        await handle.resume(by="alice", reason="coffee")
        assert await handle.status() is ActivityStatus.RUNNING
        return await handle.result()

    assert await stage.life(body, three) == ["a", "b", "c"]
    assert trio.current_time() == 112
    (paused,) = stage.records("activity.paused")
    (resumed,) = stage.records("activity.resumed")
    commands = stage.records("command.accepted")[1:]
    assert [(command["facts"]["command"], command["by"], command["data"]["reason"]) for command in commands] == [
        ("pause", "alice", "lunch"),
        ("resume", "alice", "coffee"),
    ]
    assert paused["facts"]["command"] == commands[0]["seq"]
    assert resumed["facts"]["cause"] == "unpaused"


async def test_it_stays_paused_over_restarts_of_the_engine(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def begin(engine: Engine) -> None:
        handle = await engine.start(three, id="it")
        await trio.sleep(1)
        await handle.pause()
        await trio.sleep(10)

    async def look(engine: Engine) -> ActivityStatus:
        await trio.sleep(100)
        return await engine.handle("it").status()

    async def resume(engine: Engine) -> Any:
        await engine.resume("it")
        return await engine.handle("it").result()

    await stage.life(begin, three)
    assert await stage.life(look, three) is ActivityStatus.PAUSED
    assert await stage.life(resume, three) == ["a", "b", "c"]


async def test_the_rest_of_a_sleep_goes_on_while_it_is_paused(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.sleep(10)
        await ctx.sleep(10)

    async def body(engine: Engine) -> None:
        handle = await engine.start(a, id="it")
        await trio.sleep(4)
        await handle.pause()
        await trio.sleep(100)
        await handle.resume()
        await handle.result()

    await stage.life(body, a)
    assert trio.current_time() == 114


async def test_one_that_is_resumed_before_its_step_has_ended_goes_on_with_what_that_gives(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> list[str]:
        handle = await engine.start(three, id="it")
        for _ in range(2):
            await trio.sleep(1)
            await handle.pause()
            await trio.sleep(1)
            await handle.resume()
        return await handle.result()

    assert await stage.life(body, three) == ["a", "b", "c"]
    assert trio.current_time() == 15


async def test_nothing_is_cleaned_up_by_a_pause(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> str:
        try:
            await ctx.sleep(50)
        finally:
            async with ctx.cleanup():
                stage.done.append(trio.current_time())
        return "slept"

    async def body(engine: Engine) -> str:
        handle = await engine.start(a, id="it")
        await trio.sleep(1)
        await handle.pause()
        await trio.sleep(1)
        await handle.resume()
        return await handle.result()

    assert await stage.life(body, a) == "slept"
    assert stage.done == [50]


async def test_a_wait_for_the_restart_is_paused_too(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a", restart=Restart(1, initial=10, maximum=10, jitter=0))
    async def a(ctx: Context) -> float:
        if ctx.run_number == 1:
            raise ValueError
        return trio.current_time()

    async def body(engine: Engine) -> float:
        handle = await engine.start(a, id="it")
        await trio.sleep(1)
        await handle.pause()
        await trio.sleep(100)
        await handle.resume()
        return await handle.result()

    assert await stage.life(body, a) == 101


@pytest.mark.parametrize("first_rests", [False, True])
async def test_one_that_is_paused_can_be_cancelled(
    stage: Stage, autojump_clock: trio.testing.MockClock, first_rests: bool
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(work, 0, "reserve")
        try:
            await ctx.step(work, 20)
        finally:
            async with ctx.cleanup():
                stage.done.append(await ctx.step(work, 1, "release"))

    async def body(engine: Engine) -> ActivityStatus:
        handle = await engine.start(a, id="it")
        await trio.sleep(1)
        await handle.pause()
        await trio.sleep(100 if first_rests else 1)
        await handle.cancel()
        assert await handle.status() is ActivityStatus.CANCELLING
        return await handle.wait(*OVER)

    assert await stage.life(body, a) is ActivityStatus.CANCELLED
    assert stage.done == ["release"]
    assert trio.current_time() == (102 if first_rests else 3)


async def test_a_thread_that_outlasts_the_pause_and_the_cancel_is_not_run_again(stage: Stage) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        stage.done.append("slow")
        began.set()
        go_on.wait(10)
        return "slow"

    @activity(name="a")
    async def a(ctx: Context) -> None:
        found = ""
        try:
            found = await ctx.step(slow, name="slow")
        finally:
            async with ctx.cleanup():
                stage.done.append(await ctx.step(work, 0, f"after {found}"))

    async def body(engine: Engine) -> ActivityStatus:
        handle = await engine.start(a, id="it")
        await trio.to_thread.run_sync(began.wait)
        await handle.pause()
        await handle.cancel()
        await trio.sleep(0.05)
        go_on.set()
        return await handle.wait(*OVER)

    assert await stage.life(body, a) is ActivityStatus.CANCELLED
    assert stage.done == ["slow", "after slow"]


# ---------------------------------------------------------------------------------------------------- terminate


async def test_one_that_is_terminated_ends_at_once_and_cleans_nothing_up(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        try:
            await ctx.sleep(100)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
                stage.done.append("lingered")
                async with ctx.cleanup():
                    await ctx.step(work, 0)

    async def body(engine: Engine) -> None:
        handle = await engine.start(a, id="it")
        await trio.sleep(1)
        await handle.terminate(by="alice", reason="enough")
        assert await handle.status() is ActivityStatus.CANCELLED
        with pytest.raises(ActivityCancelledError, match="by alice: enough"):
            await handle.result()
        await trio.sleep(100)

    await stage.life(body, a)
    assert stage.done == ["lingered"]
    assert stage.story() == ["timer.set sleep", "command.accepted", "activity.cancelled"]


async def test_what_a_thread_gives_after_the_end_is_not_recorded(stage: Stage) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        go_on.wait(10)
        stage.done.append("ended")

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(slow, name="slow")

    async def body(engine: Engine) -> None:
        handle = await engine.start(a, id="it")
        await trio.to_thread.run_sync(began.wait)
        await handle.terminate()
        go_on.set()

    await stage.life(body, a)
    assert stage.done == ["ended"]
    assert stage.story() == ["command.accepted", "activity.cancelled"]


async def test_one_that_is_being_cancelled_can_be_terminated(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        try:
            await ctx.sleep(100)
        finally:
            async with ctx.cleanup():
                await ctx.step(work, 20)
                stage.done.append("cleaned up")

    async def body(engine: Engine) -> ActivityStatus:
        handle = await engine.start(a, id="it")
        await trio.sleep(1)
        await handle.cancel()
        await trio.sleep(1)
        await handle.terminate()
        return await handle.status()

    assert await stage.life(body, a) is ActivityStatus.CANCELLED
    assert stage.done == []
    assert trio.current_time() == 2


async def test_a_refused_command_is_recorded_with_the_status(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        pass

    async def body(engine: Engine) -> None:
        handle = await engine.start(a, id="it")
        await handle.result()
        with pytest.raises(CommandDeniedError, match="is completed"):
            await handle.pause(by="alice", reason="too late")

    await stage.life(body, a)
    (denied,) = stage.records("command.denied")
    assert (denied["by"], denied["data"], denied["facts"]["rule"]) == (
        "alice",
        {"reason": "too late"},
        "activity 'it' is completed",
    )
