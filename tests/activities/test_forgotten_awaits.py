"""Calls that nobody awaits: they do nothing, and the activity says so."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any

import pytest
import trio
import trio.testing

from engine import ActivityFailedError, Context, Engine, Restart, activity
from tests.activities.stage import Stage
from tests.activities.test_side_by_side import work


async def failure(stage: Stage, definition: Any) -> ActivityFailedError:
    with pytest.raises(ActivityFailedError) as failed:
        await stage.played(definition)
    return failed.value


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("call", ["emit", "step", "sleep", "note", "gather"])
async def test_a_call_that_is_not_awaited_fails_the_activity_by_its_name_and_place(stage: Stage, call: str) -> None:
    """Program 25."""

    @activity(name="a")
    async def a(ctx: Context) -> str:
        match call:
            case "emit":
                ctx.emit("it.happened", 1)
            case "step":
                ctx.step(work, 0)
            case "sleep":
                ctx.sleep(1)
            case "note":
                ctx.note("progress", 1)
            case "gather":
                ctx.gather(lambda branch: branch.sleep(1))
        return await ctx.step(work, 0)

    failed = await failure(stage, a)
    assert failed.type == "engine.errors.PlaybillError"
    assert f"ctx.{call} in " in failed.message
    lines, first = inspect.getsourcelines(a.function)  # type: ignore[attr-defined]
    line = first + next(index for index, text in enumerate(lines) if f"ctx.{call}(" in text)
    assert f"{__file__}:{line}, was not awaited" in failed.message
    # Nothing follows, and no restart repeats it.
    assert stage.story() == ["activity.failed"]


async def test_one_at_the_very_end_fails_the_activity_too(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(work, 0)
        ctx.emit("it.happened", 1)

    assert "ctx.emit" in (await failure(stage, a)).message
    assert stage.story() == ["step.completed work", "activity.failed"]


async def test_a_call_on_a_child_that_is_not_awaited_fails_the_activity(stage: Stage) -> None:
    @activity(name="child")
    async def child(ctx: Context) -> None:
        await ctx.sleep(1)

    @activity(name="a")
    async def a(ctx: Context) -> None:
        (await ctx.start(child)).result()
        await ctx.step(work, 0)

    async def body(engine: Engine) -> None:
        with pytest.raises(ActivityFailedError, match=r"child\.result in"):
            await (await engine.start(a, id="it")).result()

    await stage.life(body, a, child)


async def test_one_in_a_branch_fails_the_activity(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        async def forgetful(ctx: Context) -> None:
            await ctx.sleep(1)
            ctx.emit("it.happened", 1)
            await trio.sleep(1000)

        await ctx.gather(lambda branch: branch.sleep(10_000), forgetful)

    assert "ctx.emit" in (await failure(stage, a)).message
    # At once, and not when somebody makes the next call.
    assert trio.current_time() < 1000


async def test_an_error_that_left_the_function_stands_where_a_call_was_made_and_not_awaited(stage: Stage) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        call = ctx.emit("it.happened", 1)
        if call is not None:
            raise ValueError("broken")
        await call

    assert (await failure(stage, a)).message == "broken"


async def test_a_call_may_be_made_before_it_is_awaited_and_has_its_place_where_it_is(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        first, second = ctx.step(work, 0, "first"), ctx.step(work, 0, "second")
        return [await second, await first]

    assert await stage.played(a) == ["second", "first"]
    assert [record["data"]["value"] for record in stage.records("step.completed")] == ["second", "first"]
    assert stage.story()[:2] == ["step.completed work", "step.completed work#2"]


async def test_a_call_may_be_given_to_others_to_await(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def waited(call: Awaitable[str]) -> str:
        return await call

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.branch("b").sleep, 1)
            nursery.start_soon(ctx.branch("c").step, work, 1, "x")
        return [await waited(ctx.step(work, 0, "y"))]

    assert await stage.played(a) == ["y"]


async def test_a_call_that_is_closed_is_not_forgotten(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> str:
        ctx.step(work, 0, "never").close()
        return await ctx.step(work, 0, "x")

    assert await stage.played(a) == "x"
    assert stage.story() == ["step.completed work", "activity.completed"]


async def test_a_call_can_be_awaited_once(stage: Stage) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        call = ctx.step(work, 0)
        await call
        await call

    assert "already awaited" in (await failure(stage, a)).message
