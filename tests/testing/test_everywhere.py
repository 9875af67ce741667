"""What users kill their activities at every record with."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import trio
import trio.testing

from engine import ActivityFailedError, Context, DefinitionError, Handle, Settings, activity, step
from engine.testing import Crashes, crash_everywhere
from engine.testing.clock import EPOCH


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

    with pytest.raises(AssertionError) as caught:
        await crash_everywhere(bad, setup=calls.clear)
    assert str(caught.value) == (
        "killed before record 6 (step.completed count), and resumed: bad returned 2; without a kill it returned 1"
    )


async def test_an_activity_that_goes_another_way_at_replay_is_found_out() -> None:
    ways: list[str] = []

    @activity(name="bad")
    async def bad(ctx: Context) -> None:
        ways.append("")
        await ctx.sleep(len(ways))

    with pytest.raises(AssertionError) as caught:
        await crash_everywhere(bad, setup=ways.clear)
    assert str(caught.value) == (
        "killed after record 6 (timer.set sleep), and resumed: bad is blocked: the history holds sleep sleep, "
        "the code asked for sleep sleep with other arguments"
    )


@pytest.mark.parametrize(
    ("step_is_in", "said"),
    [("the first run", "did not begin step add, which it does"), ("the others", "began step add, which it does not")],
)
async def test_a_step_too_few_or_too_many_is_found_out(step_is_in: str, said: str) -> None:
    runs: list[int] = []

    @activity(name="bad")
    async def bad(ctx: Context) -> None:
        if (len(runs) == 1) is (step_is_in == "the first run"):
            await ctx.step(add, 1, 1)

    with pytest.raises(AssertionError, match=f"bad {said}"):
        await crash_everywhere(bad, setup=lambda: runs.append(1))


async def test_what_the_outside_world_shows_is_found_out() -> None:
    booked: list[int] = []

    async def book() -> None:
        booked.append(1)

    @activity(name="bad")
    async def bad(ctx: Context) -> None:
        await ctx.step(book, name="book")

    def check() -> None:
        if booked != [1]:
            raise LookupError(f"booked {len(booked)} times")

    with pytest.raises(
        AssertionError, match=r"killed before record 6 \(step.completed book\), .*: LookupError\('booked 2"
    ):
        await crash_everywhere(bad, setup=booked.clear, check=check)


async def test_the_functions_of_the_test_may_be_async() -> None:
    called: list[str] = []

    async def setup() -> None:
        await trio.lowlevel.checkpoint()
        called.append("setup")

    async def check() -> None:
        await trio.lowlevel.checkpoint()
        called.append("check")

    crashes = await crash_everywhere(good, 1, setup=setup, check=check)
    assert called == ["setup", "check"] * (crashes.runs + 1)


async def test_an_activity_that_does_not_end_is_found_out() -> None:
    lives: list[int] = []

    @activity(name="bad")
    async def bad(ctx: Context) -> None:
        lives.append(1)
        if len(lives) > 1:
            await trio.sleep_forever()

    with pytest.raises(AssertionError, match="bad does not end: it is running, and waits for what does not come"):
        await crash_everywhere(bad, setup=lives.clear)


async def test_a_day_takes_no_time_whatever_trio_goes_by() -> None:
    @activity(name="patient")
    async def patient(ctx: Context) -> dt.datetime:
        await ctx.sleep(86_400)
        return ctx.now()

    with trio.fail_after(1_000_000_000):
        crashes = await crash_everywhere(patient)
    # The same instant in every run, however many went before it.
    assert crashes.result == EPOCH + dt.timedelta(days=1)


async def test_random_values_are_the_same_in_every_run() -> None:
    @activity(name="drawing")
    async def drawing(ctx: Context) -> list[str]:
        await ctx.step(add, 1, 1)
        return [str(ctx.uuid()), str(ctx.random().random())]

    assert len((await crash_everywhere(drawing)).result) == 2


async def test_steps_that_were_cancelled_for_anothers_sake_are_left_aside() -> None:
    class FirstError(Exception):
        pass

    async def work(number: int) -> None:
        await trio.sleep(number)
        if number == 1:
            raise FirstError

    async def branch(ctx: Context, number: int) -> None:
        await ctx.step(work, number, name="one")
        await ctx.step(work, number, name="two")

    @activity(name="a")
    async def a(ctx: Context) -> str:
        try:
            await ctx.map(branch, [3, 1])
        except FirstError:
            return await ctx.step(_say, "one failed")
        return "none failed"

    crashes = await crash_everywhere(a)
    assert crashes.result == "one failed"
    assert "_say" in crashes.effects


async def _say(what: str) -> str:
    return what


async def test_an_activity_that_fails_without_a_fault_is_none_to_be_tried() -> None:
    @activity(name="bad", fatal=(ValueError,))
    async def bad(ctx: Context) -> int:
        raise ValueError("broken")

    with pytest.raises(ActivityFailedError, match="broken"):
        await crash_everywhere(bad)


async def test_an_activity_that_is_to_fail_must_fail_so_in_every_run() -> None:
    runs: list[int] = []

    @activity(name="a", fatal=(ValueError,))
    async def a(ctx: Context) -> int:
        await ctx.step(add, 1, 1)
        raise ValueError("broken")

    @activity(name="a", fatal=(ValueError,))
    async def bad(ctx: Context) -> int:
        await ctx.step(add, 1, 1)
        raise ValueError(f"broken {len(runs)}")

    with pytest.raises(ActivityFailedError, match="broken"):
        await crash_everywhere(a, check=lambda: runs.append(1))
    assert len(runs) == 9
    runs.clear()
    with pytest.raises(AssertionError, match=r"a ended with .*broken 2; without a kill it ended with .*broken 1"):
        await crash_everywhere(bad, setup=lambda: runs.append(1))


async def test_what_drives_an_activity_is_called_in_each_life_until_it_returns() -> None:
    driven: list[str] = []

    async def drive_for_ever(handle: Handle[Any]) -> None:
        driven.append(handle.id)
        await trio.sleep_forever()

    async def drive_once(handle: Handle[Any]) -> None:
        driven.append(handle.id)

    crashes = await crash_everywhere(good, 1, drive=drive_for_ever)
    assert crashes.runs < len(driven) <= 3 * crashes.runs + 1
    driven.clear()
    crashes = await crash_everywhere(good, 1, drive=drive_once)
    assert len(driven) == crashes.runs + 1


async def test_an_error_of_what_drives_an_activity_is_raised_itself() -> None:
    async def drive(handle: Handle[Any]) -> None:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await crash_everywhere(good, 1, drive=drive)


async def test_only_activities_are_taken() -> None:
    with pytest.raises(DefinitionError, match="no activity"):
        await crash_everywhere(add, 1, 2)  # type: ignore[arg-type]
