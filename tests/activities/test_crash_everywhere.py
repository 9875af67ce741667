"""The tool by which users kill their activities at every record."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine import ActivityFailedError, Context, DefinitionError, Handle, Settings, activity, current_step, step
from engine.testing import Crashes, Death, crash_everywhere
from tests.activities.stage import Stage


@step(name="add")
async def add(one: int, other: int) -> int:
    return one + other


@activity(name="good")
async def good(ctx: Context, number: int) -> list[int]:
    first = await ctx.step(add, number, 1)
    await ctx.sleep(5)
    return await ctx.map(_double, [first, first + 1])


async def _double(number: int) -> int:
    return 2 * number


async def test_a_good_activity_gives_the_same_in_every_run(autojump_clock: trio.testing.MockClock) -> None:
    runs: list[str] = []
    crashes = await crash_everywhere(
        good,
        3,
        setup=lambda: runs.append("setup"),
        check=lambda: runs.append("check"),
        settings=Settings(drain_within=1),
    )
    assert isinstance(crashes, Crashes)
    assert crashes.result == [8, 10]
    assert crashes.records == 10
    assert crashes.runs == 20
    assert runs == ["setup", "check"] * 21
    # A step that had run and was not recorded runs again, and after a second kill once more.
    assert set(crashes.effects) == {"add", "map[0]/_double", "map[1]/_double"}
    assert 2 <= max(crashes.effects.values()) <= 3


async def test_an_activity_that_keeps_things_in_memory_is_found_out() -> None:
    calls: list[int] = []

    @step(name="count")
    async def count() -> int:
        calls.append(1)
        return len(calls)

    @activity(name="bad")
    async def bad(ctx: Context) -> int:
        return await ctx.step(count)

    with pytest.raises(AssertionError, match="bad gave 2 instead of 1"):
        await crash_everywhere(bad, setup=calls.clear)


async def test_an_activity_that_goes_another_way_at_replay_is_found_out(autojump_clock: trio.testing.MockClock) -> None:
    ways: list[str] = []

    @activity(name="bad")
    async def bad(ctx: Context) -> int:
        ways.append("")
        await ctx.step(add, 1, 1, name="even" if len(ways) % 2 else "odd")
        return await ctx.step(add, 1, 1)

    # One that hung would fail at once, since the clock jumps; a slow machine is given all the time it needs.
    with trio.fail_after(1_000_000), pytest.raises(AssertionError, match="blocked"):
        await crash_everywhere(bad, setup=ways.clear)


async def test_an_activity_that_fails_without_a_fault_is_none_to_be_tried() -> None:
    @activity(name="bad", fatal=(ValueError,))
    async def bad(ctx: Context) -> int:
        raise ValueError("broken")

    with pytest.raises(ActivityFailedError, match="broken"):
        await crash_everywhere(bad)


async def test_what_drives_an_activity_is_called_in_each_life(autojump_clock: trio.testing.MockClock) -> None:
    driven: list[str] = []

    async def drive(handle: Handle[Any]) -> None:
        driven.append(handle.id)
        await trio.sleep_forever()

    crashes = await crash_everywhere(good, 1, drive=drive)
    assert crashes.runs < len(driven) <= 3 * crashes.runs + 1


async def test_only_activities_are_taken() -> None:
    with pytest.raises(DefinitionError, match="no activity"):
        await crash_everywhere(add, 1, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("told", [False, True])
async def test_nothing_after_the_end_of_a_life_is_recorded_or_done(stage: Stage, told: bool) -> None:
    @step(name="again")
    async def again(number: int) -> int:
        stage.done.append(current_step().path)
        return number

    @activity(name="a")
    async def a(ctx: Context) -> int:
        try:
            return sum([await ctx.step(again, number) for number in range(3)])
        finally:
            await ctx.step(again, 9)

    await stage.killed(a, at=("step.completed", "again#2"), told=told)
    assert stage.story() == ["step.completed again", "step.completed again#2"]
    assert stage.done == ["again", "again#2"] + (["again#3"] if told else [])
    kinds = [record["kind"] for record in stage.records(id="/engine")]
    assert kinds == ["journal.created", "engine.opened", "definition.registered"]


async def test_a_start_is_not_parted_from_its_command(stage: Stage) -> None:
    death = Death(after=4)
    assert await stage.status(good, 1, death=death) is None
    assert death.dead
    assert [record["kind"] for record in stage.records()] == ["command.accepted", "activity.started"]
