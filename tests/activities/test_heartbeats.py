"""What an attempt at a step leaves for the next one."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine import ActivityFailedError, Context, PayloadError, Restart, Retry, activity, current_step, step
from engine.testing.killing import Death
from tests.activities.stage import Stage
from tests.activities.test_side_by_side import BoomError


def copying(stage: Stage, pieces: int, fails_at: int, seconds: float = 0.1) -> Any:
    """A step that copies so many pieces, leaves each behind it, and fails once."""

    @step(name="copy", retry=Retry(2, 10, jitter=0))
    async def copy() -> list[int]:
        info = current_step()
        begin = info.details or 0
        stage.done.append((info.attempt, begin))
        for piece in range(begin, pieces):
            await trio.sleep(seconds)
            if info.attempt == 1 and piece == fails_at:
                raise BoomError
            info.heartbeat(piece + 1)
        return [begin, pieces]

    return copy


def copied(stage: Stage, *args: Any, **options: Any) -> Any:
    copy = copying(stage, *args, **options)

    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> list[int]:
        found: list[int] = await ctx.step(copy)
        return found

    return a


async def test_the_next_attempt_sees_what_the_one_before_left_last(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    assert await stage.played(copied(stage, 9, 4)) == [4, 9]
    assert stage.done == [(1, 0), (2, 4)]
    (failed,) = stage.records("step.failed")
    assert failed["data"]["details"] == 4


async def test_what_is_left_is_recorded_once_a_second_at_most(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Thirty in three seconds: the first at once, and then the last of each second."""
    await stage.played(copied(stage, 31, -1))
    left = [record["data"]["details"] for record in stage.records("step.heartbeat")]
    assert left[0] == 1
    assert len(left) <= 5
    assert left[1:] == sorted(left[1:])
    assert left[-1] >= 20


async def test_what_was_left_is_seen_after_a_kill(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    a = copied(stage, 9, -1, seconds=2)
    await stage.killed(a, at=("step.heartbeat", "copy"), told=True)
    begun = stage.records("step.heartbeat")[-1]["data"]["details"]
    assert await stage.played(a) == [begun, 9]
    assert stage.done[-1] == (2, begun)


async def test_what_a_failed_attempt_left_is_seen_after_a_kill_in_the_wait(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    a = copied(stage, 9, 4)
    await stage.killed(a, at=("step.failed", "copy"))
    assert await stage.played(a) == [4, 9]
    assert [begun for _, begun in stage.done] == [0, 4]


async def test_what_was_left_is_seen_by_a_restart_that_tries_the_step_anew(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    copy = copying(stage, 9, 4)

    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> list[int]:
        found: list[int] = await ctx.step(copy, retry=Retry(1))
        return found

    assert await stage.played(a) == [4, 9]
    assert stage.records("activity.crashed")


async def test_a_step_that_leaves_nothing_sees_nothing(stage: Stage) -> None:
    @step(name="look")
    async def look() -> Any:
        return current_step().details

    @activity(name="a")
    async def a(ctx: Context) -> Any:
        return await ctx.step(look)

    assert await stage.played(a) is None


async def test_a_step_in_a_thread_leaves_details_too(stage: Stage) -> None:
    @step(name="count", retry=Retry(2, 0.01))
    def count() -> Any:
        info = current_step()
        if info.attempt == 1:
            info.heartbeat({"counted": 3})
            raise BoomError
        return info.details

    @activity(name="a")
    async def a(ctx: Context) -> Any:
        return await ctx.step(count)

    assert await stage.played(a) == {"counted": 3}


async def test_details_that_cannot_be_encoded_are_refused(stage: Stage) -> None:
    @step(name="wrong")
    async def wrong() -> None:
        current_step().heartbeat(object())

    @activity(name="a", fatal=(PayloadError,))
    async def a(ctx: Context) -> None:
        await ctx.step(wrong)

    with pytest.raises(ActivityFailedError, match="details"):
        await stage.played(a)


async def test_what_comes_after_the_attempt_is_not_heard(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    kept: list[Any] = []

    @step(name="keep")
    async def keep() -> None:
        kept.append(current_step())

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(keep)
        kept[0].heartbeat("late")
        await ctx.sleep(5)

    await stage.played(a)
    assert not stage.records("step.heartbeat")


async def test_every_kill_ends_as_it_would_have(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    a = copied(stage, 12, 6, seconds=0.5)
    await stage.status(a)
    whole = [record["seq"] for record in stage.records()]
    for seq in range(whole[0] + 1, whole[-1] + 1):
        for told in (False, True):
            place = Stage(stage.journal.with_name(f"{seq}-{told}.db"))
            await place.status(a, death=Death(after=seq, told=told, terminal=True))
            await place.status(a, death=Death(terminal=True))
            assert (await place.played(a))[1] == 12
