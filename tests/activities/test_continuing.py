"""`ctx.continue_as_new`: an activity goes on with nothing of its past but what it hands on to itself."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any, NoReturn

import pytest
import trio
import trio.testing

from engine import (
    ActivityFailedError,
    ActivityStatus,
    Context,
    DefinitionError,
    Engine,
    Restart,
    Settings,
    activity,
    current_step,
    step,
)
from engine.audit import Ledger
from engine.testing import crash_everywhere
from engine.testing.killing import Death
from tests.activities.stage import Stage

DONE: list[str] = []


@step(name="do")
async def do(what: int) -> int:
    DONE.append(current_step().idempotency_key)
    return what


@activity(name="counter")
async def counter(ctx: Context, number: int, last: int) -> list[Any]:
    await ctx.step(do, number, name="charge")
    await ctx.sleep(1)
    if number < last:
        await ctx.continue_as_new(counter, number + 1, last)
    return [number, str(ctx.uuid())]


@pytest.fixture(autouse=True)
def _nothing() -> None:
    DONE.clear()


def verified(stage: Stage) -> None:
    with Ledger.open(stage.journal) as ledger:
        assert ledger.verify().problems == ()


async def test_each_generation_has_keys_of_its_own(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    result = await stage.played(counter, 0, 2)
    assert result[0] == 2
    assert DONE == ["it/0/charge", "it/1/charge", "it/2/charge"]
    continued = stage.records("activity.continued")
    assert [record["facts"]["generation"] for record in continued] == [1, 2]
    assert [record["data"]["args"] for record in continued] == [[1, 2], [2, 2]]
    assert {record["facts"]["generation"] for record in stage.records("activity.completed")} == {2}
    verified(stage)


async def test_killed_anywhere_it_goes_on_in_its_generation(autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="plain")
    async def plain(ctx: Context, number: int) -> int:
        await ctx.step(do, number, name="charge")
        if number < 3:
            await ctx.continue_as_new(plain, number + 1)
        return number

    crashes = await crash_everywhere(plain, 1)
    assert crashes.result == 3


async def test_what_is_before_its_generation_is_not_read(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.killed(counter, 0, 5, at=("activity.continued", None))
    await stage.played(counter, 0, 5)
    async with Engine.open_idle(str(stage.journal)) as engine:
        records = engine._journal.histories(["it", "other"])["it"]
        assert records[0].kind == "activity.continued"
        assert records[0].facts["generation"] == 5
    verified(stage)


async def test_draws_differ_from_generation_to_generation(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="draws")
    async def draws(ctx: Context, before: list[str]) -> list[str]:
        drawn = [*before, str(ctx.uuid())]
        if len(drawn) < 3:
            await ctx.continue_as_new(draws, drawn)
        return drawn

    assert len(set(await stage.played(draws, []))) == 3


async def test_nothing_that_its_clean_up_does_has_an_effect(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="cleans")
    async def cleans(ctx: Context, number: int) -> int:
        try:
            if number == 0:
                await ctx.continue_as_new(cleans, 1)
        finally:
            await ctx.step(do, number, name="undo")
        return number

    assert await stage.played(cleans, 0) == 1
    assert DONE == ["it/1/undo"]


async def test_it_can_go_on_with_another_activity(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="first")
    async def first(ctx: Context) -> NoReturn:
        await ctx.continue_as_new(second, "x")

    @activity(name="second", version="7")
    async def second(ctx: Context, given: str) -> str:
        await ctx.sleep(10)
        return f"{ctx.name} {given}"

    async def body(engine: Engine) -> Any:
        return await (await engine.start(first, id="it")).result()

    async def wait(engine: Engine) -> Any:
        return await engine.handle("it").result()

    await stage.life(body, first, second, death=Death(at=("activity.continued", None)))
    assert await stage.life(wait, first, second) == "second x"
    with Ledger.open(stage.journal) as ledger:
        assert ledger.activity("it").status is ActivityStatus.COMPLETED
    verified(stage)


async def test_messages_that_were_not_received_are_kept_in_order(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="reads")
    async def reads(ctx: Context, seen: list[int]) -> list[int]:
        await ctx.sleep(10)
        number = await ctx.receive(int)
        if number < 3:
            await ctx.continue_as_new(reads, [*seen, number])
        return [*seen, number]

    async def body(engine: Engine) -> Any:
        handle = await engine.start(reads, [], id="it")
        for number in range(5):
            await handle.send(number)
        return await handle.result()

    async def again(engine: Engine) -> Any:
        return await engine.handle("it").result()

    await stage.life(body, reads, death=Death(at=("activity.continued", None)))
    await stage.life(again, reads, death=Death(at=("activity.continued", None), told=True))
    assert await stage.life(again, reads) == [0, 1, 2, 3]
    assert [record["facts"]["message"] for record in stage.records("message.unread")] == [
        stage.records("message.received")[4]["facts"]["id"]
    ]
    verified(stage)


async def test_children_go_on_and_the_last_generation_ends_after_them(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="child")
    async def child(ctx: Context) -> str:
        await ctx.sleep(100)
        return "grown"

    @activity(name="parent")
    async def parent(ctx: Context, number: int) -> int:
        if number == 0:
            await ctx.start(child, id="kid", on_parent_end="wait")
        if number < 2:
            await ctx.continue_as_new(parent, number + 1)
        return number

    async def body(engine: Engine) -> Any:
        handle = await engine.start(parent, 0, id="it")
        return await handle.result(), await engine.handle("kid").status(), trio.current_time()

    result, status, at = await stage.life(body, parent, child)
    assert (result, status, at) == (2, ActivityStatus.COMPLETED, pytest.approx(100))
    verified(stage)


async def test_its_deadline_and_its_notes_stay(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="late", timeout=100)
    async def late(ctx: Context, number: int) -> NoReturn:
        await ctx.note("number", number)
        await ctx.sleep(30)
        await ctx.continue_as_new(late, number + 1)

    async def body(engine: Engine) -> Any:
        handle = await engine.start(late, 0, id="it")
        with pytest.raises(ActivityFailedError, match="deadline"):
            await handle.result()
        return trio.current_time(), await handle.notes()

    assert await stage.life(body, late) == (pytest.approx(100), {"number": 3})
    verified(stage)


async def test_a_cancel_that_comes_first_wins(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="stays")
    async def stays(ctx: Context, number: int) -> NoReturn:
        try:
            await ctx.sleep(100)
        except trio.Cancelled:
            await ctx.continue_as_new(stays, number + 1)
        await ctx.continue_as_new(stays, number + 1)

    async def body(engine: Engine) -> Any:
        handle = await engine.start(stays, 0, id="it")
        await trio.sleep(250)
        await handle.cancel()
        return await handle.wait(ActivityStatus.CANCELLED, ActivityStatus.FAILED)

    assert await stage.life(body, stays) is ActivityStatus.CANCELLED
    assert len(stage.records("activity.continued")) == 2
    verified(stage)


async def test_in_a_branch_it_is_an_error(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="branches", restart=Restart(0))
    async def branches(ctx: Context) -> str:
        async def branch(ctx: Context, number: int) -> None:
            await ctx.continue_as_new(branches)

        try:
            await ctx.map(branch, [1])
        except DefinitionError as error:
            return str(error)
        return ""

    assert "was called in a branch" in await stage.played(branches)


async def test_a_paused_one_goes_on_in_its_generation(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def body(engine: Engine) -> Any:
        handle = await engine.start(counter, 0, 5, id="it")
        await trio.sleep(2.5)
        await handle.pause()
        await trio.sleep(50)
        await handle.resume()
        return (await handle.result())[0]

    assert await stage.life(body, counter) == 5
    assert [f"it/{number}/charge" for number in range(6)] == DONE
    verified(stage)


async def test_one_that_went_on_can_be_forked_and_retried(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    broken = True

    @activity(name="breaks", restart=Restart(1, initial=0.1))
    async def breaks(ctx: Context, number: int) -> int:
        await ctx.step(do, number, name="charge")
        if number < 2:
            await ctx.continue_as_new(breaks, number + 1)
        if broken:
            raise KeyError
        return number

    async def body(engine: Engine) -> Any:
        nonlocal broken
        handle = await engine.start(breaks, 0, id="it")
        assert await handle.wait(ActivityStatus.FAILED) is ActivityStatus.FAILED
        broken = False
        fork = await handle.fork(at="charge", id="new")
        await handle.retry()
        return await fork.result(), await handle.result()

    assert await stage.life(body, breaks) == (2, 2)
    assert DONE[-1:] == ["new/2/charge"]
    verified(stage)


@pytest.mark.long
async def test_ten_thousand_generations_cost_no_more_memory_than_one_nor_time_to_resume(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="many")
    async def many(ctx: Context, number: int) -> int:
        await ctx.step(do, number, name="charge")
        if number < 10_000:
            await ctx.continue_as_new(many, number + 1)
        await ctx.sleep(1000)
        return number

    async def body(engine: Engine) -> int:
        await engine.start(many, 0, id="it")
        tracemalloc.start()
        while not engine._activities.live["it"].run or engine._activities.live["it"].run.generation < 9_999:
            await trio.sleep(0.001)
            if len(DONE) == 1_000:
                tracemalloc.reset_peak()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert await stage.life(body, many, settings=Settings(drain_within=0)) < 20 * 2**20
    began = time.perf_counter()
    async with Engine.open(str(stage.journal), many):
        assert time.perf_counter() - began < 1
