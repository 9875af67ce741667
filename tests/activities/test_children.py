"""Children: activities that an activity runs, starts, waits for and takes along at its end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine import (
    ActivityCancelledError,
    ActivityFailedError,
    ActivityStatus,
    Child,
    Context,
    DefinitionError,
    Engine,
    Handle,
    IdConflictError,
    Restart,
    WaitTimeoutError,
    activity,
    step,
)
from engine.testing import crash_everywhere
from tests.activities.stage import Stage


class BrokenError(Exception):
    pass


@step(name="add")
async def add(one: int, other: int) -> int:
    return one + other


@step(name="say")
async def say(what: str) -> str:
    return what


@activity(name="double")
async def double(ctx: Context, number: int) -> int:
    return await ctx.step(add, number, number)


@activity(name="slow")
async def slow(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return "slept"


@activity(name="broken", restart=Restart(0))
async def broken(ctx: Context) -> None:
    raise BrokenError("in two")


@activity(name="parent")
async def parent(ctx: Context, number: int) -> int:
    once = await ctx.run(double, number)
    return await ctx.run(double, once)


async def ended(stage: Stage, parent: Any, child: Any) -> ActivityStatus:
    """How the parent ends."""

    async def body(engine: Engine) -> ActivityStatus:
        return await (await engine.start(parent, id="it")).wait(ActivityStatus.COMPLETED, ActivityStatus.FAILED)

    found: ActivityStatus = await stage.life(body, parent, child)
    return found


async def test_a_child_s_result_is_the_call_s(stage: Stage) -> None:
    async def body(engine: Engine) -> int:
        return await engine.run(parent, 3, id="it", by="alice")

    assert await stage.life(body, parent, double) == 12
    assert stage.story() == [
        "child.started double",
        "child.ended double",
        "child.started double#2",
        "child.ended double#2",
        "activity.completed",
    ]
    (asked,) = stage.records("command.accepted", id="it/double#2")
    assert (asked["by"], asked["facts"]["parent"], asked["facts"]["via"]) == ("alice", "it", "activity")


async def test_a_child_s_error_is_raised_as_itself(stage: Stage) -> None:
    @activity(name="catching")
    async def catching(ctx: Context) -> str:
        try:
            await ctx.run(broken)
        except BrokenError as error:
            return await ctx.step(say, str(error))
        return "fine"

    assert (await crash_everywhere(catching, definitions=[broken])).result == "in two"


async def test_a_child_that_failed_is_begun_anew_by_a_restart_with_another_id(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="twice", restart=Restart(1, initial=0.1, jitter=0))
    async def twice(ctx: Context) -> None:
        await ctx.run(broken)

    assert await ended(stage, twice, broken) is ActivityStatus.FAILED
    ids = [record["facts"]["id"] for record in stage.records("child.started")]
    assert ids == ["it/broken", "it/broken~2"]


async def test_every_item_of_a_map_is_a_child(autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="mapping")
    async def mapping(ctx: Context) -> list[int]:
        return await ctx.map(double, [1, 2, 3], limit=2)

    assert (await crash_everywhere(mapping, definitions=[double])).result == [2, 4, 6]


async def test_an_activity_that_the_engine_was_not_given_is_no_child(stage: Stage) -> None:
    @activity(name="unknown", restart=Restart(0))
    async def unknown(ctx: Context) -> None:
        await ctx.run(double, 1)

    with pytest.raises(ActivityFailedError, match="was not given"):
        await stage.played(unknown)


async def test_what_is_no_activity_is_no_child(stage: Stage) -> None:
    @activity(name="wrong", restart=Restart(0))
    async def wrong(ctx: Context) -> None:
        with pytest.raises(DefinitionError, match="no activity"):
            await ctx.run(add, 1, 2)  # type: ignore[arg-type]

    await stage.played(wrong)


async def test_an_id_that_is_taken_is_refused_also_at_replay(autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="taking")
    async def taking(ctx: Context) -> str:
        await ctx.run(double, 1, id="mine")
        try:
            await ctx.run(double, 2, id="mine")
        except IdConflictError as error:
            return await ctx.step(say, error.id)
        return "fine"

    assert (await crash_everywhere(taking, definitions=[double])).result == "mine"


# ------------------------------------------------------------------------------------------------ beside the parent


async def test_a_started_child_runs_beside_its_parent(autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="starting")
    async def starting(ctx: Context) -> list[Any]:
        child: Child[str] = await ctx.start(slow, 5)
        try:
            await child.result(timeout=1)
        except WaitTimeoutError:
            early = await ctx.step(add, 1, 1)
        return [early, await child.result(), child.id.rpartition("/")[2]]

    assert (await crash_everywhere(starting, definitions=[slow])).result == [2, "slept", "slow"]


async def test_a_child_is_waited_for_in_a_branch(autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="racing")
    async def racing(ctx: Context) -> list[Any]:
        child = await ctx.start(slow, 5)
        name, _ = await ctx.race(done=lambda ctx: child.result(), late=lambda ctx: ctx.sleep(1))
        return [name, await child.result()]

    assert (await crash_everywhere(racing, definitions=[slow])).result == ["late", "slept"]


async def test_a_parent_sends_its_child_a_message_and_cancels_it(autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="listening")
    async def listening(ctx: Context) -> None:
        await ctx.receive(str)
        await ctx.sleep(1000)

    @activity(name="talking")
    async def talking(ctx: Context) -> str:
        child = await ctx.start(listening)
        await child.send("hello")
        await ctx.sleep(1)
        await child.cancel(reason="enough")
        try:
            await child.result()
        except ActivityCancelledError as error:
            return await ctx.step(say, error.id)
        return "fine"

    result = (await crash_everywhere(talking, definitions=[listening])).result
    assert result.endswith("/listening")


# ------------------------------------------------------------------------------------------------ the parent's end


@pytest.mark.parametrize(
    ("on_parent_end", "ends", "within"),
    [("cancel", ActivityStatus.CANCELLED, 1), ("wait", ActivityStatus.COMPLETED, 60)],
)
async def test_the_parent_ends_after_its_children(
    stage: Stage, autojump_clock: trio.testing.MockClock, on_parent_end: Any, ends: ActivityStatus, within: float
) -> None:
    @activity(name="leaving")
    async def leaving(ctx: Context) -> str:
        await ctx.start(slow, 50, on_parent_end=on_parent_end)
        return "left"

    async def body(engine: Engine) -> ActivityStatus:
        assert await engine.run(leaving, id="it") == "left"
        return await engine.handle("it/slow").status()

    began = trio.current_time()
    assert await stage.life(body, leaving, slow) is ends
    assert trio.current_time() - began < within
    child, own = stage.records(id="it/slow")[-1], stage.records()[-1]
    assert child["seq"] < own["seq"]


async def test_an_abandoned_child_goes_on(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="leaving")
    async def leaving(ctx: Context) -> str:
        await ctx.start(slow, 50, on_parent_end="abandon")
        return "left"

    async def body(engine: Engine) -> Any:
        assert await engine.run(leaving, id="it") == "left"
        assert await engine.handle("it/slow").status() is ActivityStatus.RUNNING
        return await engine.handle("it/slow", slow).result()

    assert await stage.life(body, leaving, slow) == "slept"


async def test_a_parent_that_fails_takes_its_children_along_and_a_crash_does_not(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="failing", restart=Restart(1, initial=5, jitter=0))
    async def failing(ctx: Context) -> None:
        await ctx.start(slow, 50)
        raise BrokenError("parent")

    assert await ended(stage, failing, slow) is ActivityStatus.FAILED
    (crashed,), cancelling = stage.records("activity.crashed"), stage.records("activity.cancelling", id="it/slow")[0]
    assert crashed["seq"] < cancelling["seq"] < stage.records("activity.failed")[0]["seq"]
    assert cancelling["facts"]["cause"] == "parent"


async def test_a_parent_that_waits_for_its_children_goes_on_waiting_after_every_kill(
    autojump_clock: trio.testing.MockClock,
) -> None:
    @activity(name="waiting")
    async def waiting(ctx: Context) -> str:
        await ctx.start(slow, 5, on_parent_end="wait")
        return await ctx.step(say, "done")

    assert (await crash_everywhere(waiting, definitions=[slow])).result == "done"


async def test_a_cancel_that_comes_while_children_are_waited_for_wins(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="leaving")
    async def leaving(ctx: Context) -> str:
        await ctx.start(slow, 50, on_parent_end="wait")
        return "left"

    async def body(engine: Engine) -> ActivityStatus:
        handle = await engine.start(leaving, id="it")
        await trio.sleep(5)
        await handle.cancel()
        return await handle.wait(ActivityStatus.COMPLETED, ActivityStatus.CANCELLED)

    assert await stage.life(body, leaving, slow) is ActivityStatus.CANCELLED
    assert stage.records(id="it/slow")[-1]["kind"] == "activity.completed"


async def test_a_cancelled_parent_has_the_child_cancelled_that_it_runs(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="running")
    async def running(ctx: Context) -> str:
        return await ctx.run(slow, 50)

    async def body(engine: Engine) -> ActivityStatus:
        handle: Handle[str] = await engine.start(running, id="it")
        await trio.sleep(5)
        await handle.cancel()
        return await handle.wait(ActivityStatus.COMPLETED, ActivityStatus.CANCELLED)

    assert await stage.life(body, running, slow) is ActivityStatus.CANCELLED
    assert stage.records(id="it/slow")[-1]["kind"] == "activity.cancelled"
    assert stage.records(id="it/slow")[-1]["seq"] < stage.records()[-1]["seq"]


async def test_a_child_in_a_branch_that_loses_is_cancelled_with_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="racing")
    async def racing(ctx: Context) -> str:
        name, _ = await ctx.race(child=lambda ctx: ctx.run(slow, 50), late=lambda ctx: ctx.sleep(1))
        return await ctx.step(say, name)

    async def body(engine: Engine) -> str:
        return await engine.run(racing, id="it")

    assert await stage.life(body, racing, slow) == "late"
    (cancelling,) = stage.records("activity.cancelling", id="it/race[child]/slow")
    assert cancelling["seq"] < stage.records("step.completed")[0]["seq"]
    assert (await crash_everywhere(racing, definitions=[slow])).result == "late"


async def test_a_child_has_no_more_time_than_its_parent(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="limited", timeout=5, restart=Restart(0))
    async def limited(ctx: Context) -> str:
        return await ctx.run(slow, 50)

    assert await ended(stage, limited, slow) is ActivityStatus.FAILED
    (child,), (own,) = stage.records("activity.started", id="it/slow"), stage.records("activity.started")
    assert child["facts"]["deadline"] == own["facts"]["deadline"]


async def test_an_engine_that_closes_waits_for_nobody_s_children(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="leaving")
    async def leaving(ctx: Context) -> str:
        await ctx.start(slow, 50, on_parent_end="wait")
        return "left"

    async def begin(engine: Engine) -> None:
        await engine.start(leaving, id="it")
        await trio.sleep(5)

    async def end(engine: Engine) -> str:
        return await engine.handle("it", leaving).result()

    began = trio.current_time()
    await stage.life(begin, leaving, slow)
    assert trio.current_time() - began < 6
    assert await stage.life(end, leaving, slow) == "left"


async def test_a_parent_that_is_paused_while_it_waits_for_its_children_ends_when_it_is_resumed(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="leaving")
    async def leaving(ctx: Context) -> str:
        await ctx.start(slow, 10, on_parent_end="wait")
        return "left"

    async def body(engine: Engine) -> str:
        handle = await engine.start(leaving, id="it")
        await trio.sleep(5)
        await handle.pause()
        await trio.sleep(20)
        assert await handle.status() is ActivityStatus.PAUSED
        await handle.resume()
        return await handle.result()

    assert await stage.life(body, leaving, slow) == "left"


async def test_terminating_a_parent_has_its_children_cancelled(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="running")
    async def running(ctx: Context) -> str:
        return await ctx.run(slow, 50)

    async def body(engine: Engine) -> None:
        handle: Handle[str] = await engine.start(running, id="it")
        await trio.sleep(5)
        await handle.terminate()
        await engine.handle("it/slow").wait(ActivityStatus.CANCELLED)

    await stage.life(body, running, slow)
    assert stage.records(id="it/slow")[-1]["kind"] == "activity.cancelled"
