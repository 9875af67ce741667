"""Killed and resumed: an activity is given what it was given before, and goes on."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from engine import ActivityFailedError, ActivityStatus, Context, Engine, Restart, Retry, activity, current_step, step
from engine.testing import crash_everywhere
from engine.testing.clock import TrioTime
from engine.testing.killing import Death
from tests.activities.stage import Stage

REPOSITORY = Path(__file__).resolve().parents[2]


class BoomError(Exception):
    pass


@activity(name="plain", restart=Restart(2, initial=0.1, jitter=0))
async def plain(ctx: Context, ends: str) -> Any:
    """Ends as its argument says."""
    reserved = await ctx.step(reserve, ends)
    match ends:
        case "returns":
            return reserved
        case "raises":
            raise BoomError(ends)
        case "handles":
            try:
                return await ctx.step(fail)
            except BoomError:
                return await ctx.step(refund)
        case "handles, then raises":
            with suppress(BoomError):
                await ctx.step(fail)
            raise KeyError(ends)
        case "compensates, then raises the same":
            try:
                await ctx.step(fail)
            except BoomError:
                await ctx.step(refund)
                raise
        case "compensates, then raises another":
            try:
                await ctx.step(fail)
            except BoomError as error:
                await ctx.step(refund)
                raise KeyError(ends) from error
        case "fails again in the handler":
            try:
                await ctx.step(fail)
            except BoomError:
                await ctx.step(fail_too)
        case "unlocks":
            try:
                await ctx.step(fail)
            finally:
                await ctx.step(refund)
        case "sleeps":
            await ctx.sleep(10)
            return await ctx.step(refund)


DONE: list[str] = []


@step(name="reserve")
async def reserve(what: str) -> str:
    DONE.append("reserve")
    return what


@step(name="fail")
async def fail() -> None:
    DONE.append("fail")
    raise BoomError("no")


@step(name="fail_too")
async def fail_too() -> None:
    DONE.append("fail_too")
    raise BoomError("neither")


@step(name="refund")
async def refund() -> str:
    DONE.append("refund")
    return "refunded"


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    DONE.clear()


# ---------------------------------------------------------------------------------------------------- once


async def test_a_recorded_step_never_runs_again(stage: Stage) -> None:
    await stage.killed(plain, "returns", at=("step.completed", "reserve"))
    await stage.killed(plain, "returns", at=("activity.resumed", None))
    assert await stage.played(plain, "returns") == "returns"
    assert DONE == ["reserve"]


async def test_an_activity_that_was_killed_anywhere_ends_as_if_it_had_not_been(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for ends in ("returns", "handles", "sleeps"):
        crashes = await crash_everywhere(plain, ends, setup=DONE.clear)
        assert crashes.runs == 2 * crashes.records
        assert max(crashes.effects.values()) <= 3


async def test_an_event_is_emitted_once_however_often_the_process_ends(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        return [(await ctx.emit("a.b", number)).id for number in range(3)]

    await stage.killed(a, at=("event.emitted", "emit"), told=True)
    await stage.killed(a, at=("event.emitted", "emit#2"))
    ids = await stage.played(a)
    assert [record["facts"]["id"] for record in stage.records("event.emitted")] == ids
    assert [record["data"]["data"] for record in stage.records("event.emitted")] == [0, 1, 2]


async def test_several_calls_of_one_name_are_told_apart(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        return [await ctx.step(reserve, str(number)) for number in range(3)]

    await stage.killed(a, at=("step.completed", "reserve#2"))
    assert await stage.played(a) == ["0", "1", "2"]
    assert [record["path"] for record in stage.records("step.completed")] == ["reserve", "reserve#2", "reserve#3"]


async def test_a_start_that_is_recorded_begins_in_the_next_life(stage: Stage) -> None:
    await stage.killed(plain, "returns", at=("activity.started", None))

    async def body(engine: Engine) -> Any:
        return await engine.handle("it", plain).result()

    assert await stage.life(body, plain) == "returns"


# ---------------------------------------------------------------------------------------------------- done about it


@pytest.mark.parametrize(
    ("ends", "done", "why"),
    [
        ("raises", ["reserve"], "limit"),
        ("handles", ["reserve", "fail", "refund"], None),
        # (a) what was undone is not done again
        ("unlocks", ["reserve", "fail", "refund"], "acted_upon"),
        # (b) nor where another error is raised then
        ("compensates, then raises the same", ["reserve", "fail", "refund"], "acted_upon"),
        ("compensates, then raises another", ["reserve", "fail", "refund"], "acted_upon"),
        # (c) only the later failure is tried anew
        ("fails again in the handler", ["reserve", "fail", "fail_too", "fail_too", "fail_too"], "limit"),
        # (e) a failure that was handled stays, though the activity crashes for another reason
        ("handles, then raises", ["reserve", "fail"], "limit"),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
async def test_a_restart_tries_anew_only_what_nothing_was_done_about(
    stage: Stage, autojump_clock: trio.testing.MockClock, ends: str, done: list[str], why: str | None, killed: bool
) -> None:
    if killed:
        # Killed in front of each decision, so that it is taken in another life from what is recorded.
        for _ in range(3):
            await stage.life(_until_ended(ends), plain, death=Death(at=("activity.crashed", None)))
            await stage.life(_until_ended(ends), plain, death=Death(terminal=True))
    status = await stage.status(plain, ends)
    assert done == DONE
    if why is None:
        assert status is ActivityStatus.COMPLETED
    else:
        assert [record["facts"]["why"] for record in stage.records("activity.failed")] == [why]


def _until_ended(ends: str) -> Any:
    async def body(engine: Engine) -> None:
        await (await engine.start(plain, ends, id="it")).wait(ActivityStatus.COMPLETED, ActivityStatus.FAILED)

    return body


async def test_both_failures_of_a_scope_are_tried_anew(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    """(d) two branches failed, and only one failure left the function."""

    @step(name="fail_once")
    async def fail_once(number: int) -> int:
        stage.done.append(number)
        if stage.done.count(number) == 1:
            raise BoomError(number)
        return number

    @activity(name="a")
    async def a(ctx: Context) -> list[int]:
        return await ctx.map(fail_once, range(2))

    assert await stage.played(a) == [0, 1]
    (crashed,) = stage.records("activity.crashed")
    assert crashed["facts"]["origins"] == ["map[0]/fail_once", "map[1]/fail_once"]
    assert crashed["facts"]["superseded"] == ["map", "map[0]/fail_once", "map[1]/fail_once"]


async def test_what_succeeded_before_a_crash_is_not_repeated(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="third")
    async def third() -> str:
        if current_step().attempt < 3:
            raise BoomError
        return "third time"

    @activity(name="a", restart=Restart(5))
    async def a(ctx: Context) -> str:
        await ctx.step(reserve, "x")
        return await ctx.step(third)

    assert await stage.played(a) == "third time"
    assert DONE == ["reserve"]
    assert [record["run"] for record in stage.records("activity.crashed")] == [1, 2]


async def test_a_fatal_error_is_never_tried_again(stage: Stage) -> None:
    @activity(name="a", fatal=(BoomError,))
    async def a(ctx: Context) -> None:
        await ctx.step(fail)

    with pytest.raises(ActivityFailedError):
        await stage.played(a)
    assert DONE == ["fail"]
    assert stage.records("activity.failed")[0]["facts"]["why"] == "fatal"


async def test_what_is_not_waited_for_counts_as_something_done_about_a_failure(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """The call that a cancel scope of the activity's own ended in the handler was begun, and may have taken effect."""

    @activity(name="a")
    async def a(ctx: Context) -> None:
        try:
            await ctx.step(fail)
        except BoomError:
            with trio.move_on_after(1):
                await ctx.step(trio.sleep, 9, name="refund")
            raise

    with pytest.raises(ActivityFailedError):
        await stage.played(a)
    assert DONE == ["fail"]
    assert stage.records("activity.failed")[0]["facts"]["acted_upon"] == ["fail"]


# ---------------------------------------------------------------------------------------------------- waiting


async def test_the_rest_of_a_sleep_is_waited_for_after_a_kill(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    await stage.killed(plain, "sleeps", at=("timer.set", "sleep"))
    await trio.sleep(4)
    await stage.played(plain, "sleeps")
    assert trio.current_time() - began == pytest.approx(10)


async def test_a_sleep_that_was_over_while_nobody_looked_ends_at_once(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.killed(plain, "sleeps", at=("timer.set", "sleep"))
    await trio.sleep(1000)
    began = trio.current_time()
    await stage.played(plain, "sleeps")
    assert trio.current_time() == began


@attrs.define
class Wrong:
    """A clock that is set to another time between two lives."""

    off: float

    def now(self) -> dt.datetime:
        return TrioTime().now() + dt.timedelta(seconds=self.off)


async def test_a_clock_that_went_back_makes_no_sleep_longer_than_it_was(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    await stage.killed(plain, "sleeps", at=("timer.set", "sleep"))
    await stage.played(plain, "sleeps", clock=Wrong(-600))
    assert trio.current_time() - began == pytest.approx(10)


async def test_a_clock_that_went_back_makes_no_retrys_wait_longer(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        await ctx.step(fail, retry=Retry(2, 5.0, jitter=0))

    began = trio.current_time()
    await stage.killed(a, at=("step.failed", "fail"))
    await stage.status(a, clock=Wrong(-600))
    assert trio.current_time() - began == pytest.approx(5)


async def test_the_wait_before_a_restart_is_durable(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a", restart=Restart(1, initial=20.0, jitter=0))
    async def a(ctx: Context) -> float:
        if ctx.run_number == 1:
            raise BoomError
        return trio.current_time()

    began = trio.current_time()
    await stage.killed(a, at=("activity.crashed", None))
    await trio.sleep(15)
    assert await stage.played(a) - began == pytest.approx(20)


async def test_restarts_that_get_no_further_are_counted_however_long_they_take(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(3, 60, initial=1000, maximum=1000, jitter=0))
    async def a(ctx: Context) -> None:
        await ctx.sleep(120)
        raise BoomError

    with pytest.raises(ActivityFailedError):
        await stage.played(a)
    assert len(stage.records("activity.crashed")) == 3


# ---------------------------------------------------------------------------------------------------- drawn values


async def test_what_is_drawn_is_the_same_in_every_life(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    drawn: list[Any] = []

    @step(name="charge")
    async def charge(*what: Any) -> None:
        drawn.append(what)
        await trio.sleep(3)
        if len(drawn) < 4:
            await trio.sleep_forever()

    async def branch(ctx: Context, number: int) -> None:
        drawn.append((ctx.random().random(), str(ctx.uuid())))

    @activity(name="a")
    async def a(ctx: Context) -> None:
        values = [ctx.random().random(), ctx.random().random(), str(ctx.uuid()), ctx.now().isoformat()]
        await ctx.step(reserve, "x")
        values += [ctx.random().random(), ctx.now().isoformat()]
        assert len({str(value) for value in values}) >= len(values) - 1
        await ctx.step(charge, *values)
        await ctx.map(branch, range(2))

    for _ in range(3):
        with trio.move_on_after(10):
            await stage.life(lambda engine: _started_and_waited(engine, a), a, death=Death(terminal=True))
    await stage.killed(a, at=("branch.ended", "map[1]"))
    await stage.played(a)
    assert len(set(drawn[:4])) == 1
    assert len(set(drawn[4:])) == 2
    assert drawn[4:6] == drawn[6:8]


async def _started_and_waited(engine: Engine, definition: Any) -> None:
    await (await engine.start(definition, id="it")).result()


async def test_now_is_the_instant_of_the_last_outcome(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[float]:
        began = ctx.now()
        first = ctx.now()
        await ctx.sleep(5)
        await trio.sleep(3)
        return [(instant - began).total_seconds() for instant in (first, ctx.now())]

    assert await stage.played(a) == [0.0, 5.0]


async def test_two_activities_draw_different_values(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[Any]:
        return [ctx.random().random(), str(ctx.uuid())]

    one, other = await stage.played(a, id="one"), await stage.played(a, id="other")
    assert not set(one) & set(other)


# ---------------------------------------------------------------------------------------------------- digests


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("set[str]", "{'paid', 'open', 'late', 'refused', 'new'}"),
        ("dict[str, frozenset[str]]", "{'b': frozenset({'x', 'y', 'z'}), 'a': frozenset('uvw')}"),
        ("list[set[tuple[str, float]]]", "[{('x', 1.0), ('y', -0.0), ('z', 2.5)}]"),
    ],
)
def test_arguments_have_one_digest_in_every_process(annotation: str, value: str) -> None:
    """Sets come in hash order, which each process has otherwise."""
    program = (
        "from engine import step\n"
        "from engine.codec import digest\n"
        f"def take(what: {annotation}) -> int: return 1\n"
        f"print(digest(bytes(16), step(take).signature.encode(({value},))))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            cwd=REPOSITORY,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(("first", "then"), [(0.0, -0.0), (1.0, 1), ({"b": 1, "a": 2}, {"a": 2, "b": 1})])
async def test_arguments_that_are_equal_in_json_have_one_digest(stage: Stage, first: Any, then: Any) -> None:
    @step(name="take")
    async def take(what: Any) -> int:
        return 1

    @activity(name="a")
    async def a(ctx: Context) -> int:
        return await ctx.step(take, then if ctx.replaying else first)

    await stage.killed(a, at=("step.completed", "take"))
    assert await stage.played(a) == 1
