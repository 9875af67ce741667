"""Cancelling: how it comes to an activity's code, what may still be done, and how the activity ends."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from engine import (
    ActivityCancelledError,
    ActivityStatus,
    Context,
    Engine,
    Handle,
    Restart,
    Retry,
    Settings,
    activity,
    current_step,
    step,
)
from engine.testing.killing import Death
from tests.activities.stage import Stage

OVER = (ActivityStatus.COMPLETED, ActivityStatus.FAILED, ActivityStatus.CANCELLED, ActivityStatus.BLOCKED)


class BoomError(Exception):
    pass


@step(name="work")
async def work(seconds: float, what: str = "") -> str:
    await trio.sleep(seconds)
    if what.startswith("fail"):
        raise BoomError(what)
    return what


async def cancelled(
    stage: Stage, definition: Any, *args: Any, after: float = 1.0, then: float = 0.0, **options: Any
) -> ActivityStatus | None:
    """One life in which the activity is started and cancelled, unless it was before; its status at the end."""

    async def body(engine: Engine) -> ActivityStatus:
        handle = await engine.start(definition, *args, id="it")
        await trio.sleep(after)
        if await handle.status() not in OVER:
            await handle.cancel(by="alice", reason="changed her mind")
        status = await handle.wait(*OVER)
        await trio.sleep(then)
        return status

    found: ActivityStatus | None = await stage.life(body, definition, **options)
    return found


async def everywhere(
    stage: Stage, definition: Any, *args: Any, check: Callable[[Stage], object] = lambda place: None
) -> list[list[str]]:
    """The stories of runs that were killed at each of the activity's records, cancelled as it was without a kill, and
    replayed as a whole at the end."""
    assert await cancelled(stage, definition, *args) is ActivityStatus.CANCELLED
    whole = [record["seq"] for record in stage.records()]
    stories = []
    for seq in range(whole[0] + 1, whole[-1] + 1):
        for told in (False, True):
            place = Stage(stage.journal.with_name(f"{stage.journal.stem}-killed-{seq}-{told}.db"))
            await cancelled(place, definition, *args, death=Death(after=seq, told=told, terminal=True))
            await cancelled(place, definition, *args, death=Death(terminal=True))
            assert await cancelled(place, definition, *args) is ActivityStatus.CANCELLED, place.story()
            check(place)
            stories.append(place.story())
    return stories


def saga(stage: Stage, body: Callable[[Context], Awaitable[Any]]) -> Any:
    """An activity that reserves, does something, and releases whatever happens."""

    @step(name="reserve")
    async def reserve() -> None:
        stage.done.append("reserve")

    @step(name="release")
    async def release() -> None:
        stage.done.append("release")

    @activity(name="saga", restart=Restart(1, initial=0.1, jitter=0))
    async def saga(ctx: Context) -> str:
        await ctx.step(reserve)
        try:
            await body(ctx)
        finally:
            async with ctx.cleanup():
                await ctx.step(release)
        return "done"

    return saga


def released_once(place: Stage) -> None:
    completed = [record["path"] for record in place.records("step.completed")]
    assert completed.count("cleanup/release") == completed.count("reserve")


# ---------------------------------------------------------------------------------------------------- delivery


@pytest.mark.parametrize("waits", ["sleep", "step", "backoff", "nothing", "branches", "plain", "race"])
async def test_a_cancel_reaches_what_the_activity_waits_in_at_once(
    stage: Stage, autojump_clock: trio.testing.MockClock, waits: str
) -> None:
    async def branch(ctx: Context, number: int) -> None:
        await ctx.sleep(100)

    @activity(name="a")
    async def a(ctx: Context) -> None:
        match waits:
            case "sleep":
                await ctx.sleep(100)
            case "step":
                await ctx.step(work, 100)
            case "backoff":
                await ctx.step(work, 0, "fail", retry=Retry(2, 100, maximum=100))
            case "nothing":
                await trio.sleep(100)
            case "branches":
                await ctx.map(branch, range(3))
            case "plain":
                await ctx.map(work, [100.0, 100.0])
            case "race":
                await ctx.race(a=lambda ctx: branch(ctx, 0), b=lambda ctx: branch(ctx, 1))

    assert await cancelled(stage, a) is ActivityStatus.CANCELLED
    assert trio.current_time() == 1
    assert stage.records("call.abandoned") == []
    kinds = [record["kind"] for record in stage.records()]
    assert kinds[-1] == "activity.cancelled"
    assert kinds.index("command.accepted", 1) + 1 == kinds.index("activity.cancelling")


async def test_whoever_waits_for_the_result_is_told_who_cancelled_and_why(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.sleep(100)

    async def body(engine: Engine) -> None:
        handle = await engine.start(a, id="it")
        await handle.cancel(by="alice", reason="changed her mind")
        for asked in (handle, engine.handle("it")):
            with pytest.raises(ActivityCancelledError, match="by alice: changed her mind") as raised:
                await asked.result()
            assert (raised.value.by, raised.value.reason) == ("alice", "changed her mind")

    await stage.life(body, a)
    (_, command) = stage.records("command.accepted")
    (cancelling,) = stage.records("activity.cancelling")
    assert (command["by"], command["facts"]["command"], command["data"]) == (
        "alice",
        "cancel",
        {"reason": "changed her mind"},
    )
    assert cancelling["facts"] == {"generation": 0, "cause": "command", "command": command["seq"]}


@pytest.mark.parametrize("body", ["sleep", "step", "nothing", "branches"])
async def test_what_was_reserved_is_released_once_wherever_it_is_killed(
    stage: Stage, autojump_clock: trio.testing.MockClock, body: str
) -> None:
    async def branch(ctx: Context, number: int) -> None:
        await ctx.step(work, number / 2)
        await ctx.sleep(100)

    async def block(ctx: Context) -> None:
        match body:
            case "sleep":
                await ctx.sleep(100)
            case "step":
                await ctx.step(work, 100)
            case "nothing":
                await trio.sleep(100)
            case "branches":
                await ctx.map(branch, range(4))

    await everywhere(stage, saga(stage, block), check=released_once)


async def test_a_cancel_comes_at_replay_when_everything_before_it_was_given_in_every_branch(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 2: a branch whose first step is recorded is entered again before it is cancelled, so it releases."""

    @step(name="reserve")
    async def reserve(seconds: float) -> None:
        await trio.sleep(seconds)

    @step(name="release")
    async def release() -> None:
        await trio.sleep(0.1)

    async def branch(ctx: Context, number: int) -> None:
        await ctx.step(reserve, number / 4)
        try:
            await ctx.step(work, 100)
        finally:
            async with ctx.cleanup():
                await ctx.step(release)

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.map(branch, range(3))

    def check(place: Stage) -> None:
        completed = [record["path"] for record in place.records("step.completed")]
        for number in range(3):
            assert completed.count(f"map[{number}]/reserve") == completed.count(f"map[{number}]/cleanup/release")

    await everywhere(stage, a, check=check)


async def test_a_cancel_during_a_replay_comes_after_all_that_is_recorded(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def block(ctx: Context) -> None:
        for _ in range(20):
            await ctx.step(work, 0)
        await ctx.sleep(100)

    definition = saga(stage, block)
    for steps in range(12):
        place = Stage(stage.journal.with_name(f"{steps}.db"), stage.done)
        await place.killed(definition, at=("timer.set", "sleep"))

        async def body(engine: Engine, steps: int = steps) -> ActivityStatus:
            handle = engine.handle("it")
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            await handle.cancel()
            return await handle.wait(*OVER)

        assert await place.life(body, definition) is ActivityStatus.CANCELLED
        released_once(place)
        assert len(place.records("step.completed")) == 22


async def test_a_step_handed_to_the_journal_before_a_cancel_is_given_to_the_code(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 6, tried at several instants around the step's end."""

    @activity(name="a")
    async def a(ctx: Context) -> None:
        try:
            await ctx.step(work, 1, "reserve")
            stage.done.append("knows")
            await ctx.sleep(50)
        finally:
            stage.done.append("left")

    for ticks in range(8):
        stage.done.clear()
        place = Stage(stage.journal.with_name(f"{ticks}.db"))

        async def body(engine: Engine, ticks: int = ticks) -> ActivityStatus:
            handle = await engine.start(a, id="it")
            await trio.sleep(1)
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            await handle.cancel()
            return await handle.wait(*OVER)

        await place.life(body, a, death=Death(terminal=True))
        assert await cancelled(place, a) is ActivityStatus.CANCELLED
        recorded = bool(place.records("step.completed"))
        assert stage.done == (["knows", "left"] if recorded else ["left"]) * 2, (ticks, place.story())


async def test_a_thread_is_waited_for_and_what_it_gave_is_recorded(stage: Stage) -> None:
    """Program 11: it cannot be stopped, so it must not run beside what undoes it."""
    began, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        go_on.wait(10)
        stage.done.append("thread")
        return "done"

    @step(name="undo")
    async def undo(what: str) -> None:
        stage.done.append(f"undo {what}")

    @activity(name="a")
    async def a(ctx: Context) -> None:
        given = ""
        try:
            given = await ctx.step(slow, name="slow")
            await ctx.sleep(100)
        finally:
            async with ctx.cleanup():
                await ctx.step(undo, given)

    async def body(engine: Engine) -> ActivityStatus:
        handle = await engine.start(a, id="it")
        await trio.to_thread.run_sync(began.wait)
        await handle.cancel()
        await trio.sleep(0.05)
        go_on.set()
        return await handle.wait(*OVER)

    assert await stage.life(body, a) is ActivityStatus.CANCELLED
    assert stage.done == ["thread", "undo done"]


@pytest.mark.parametrize("shielded", [False, True])
async def test_a_cancel_that_is_swallowed_comes_again_at_every_later_call(
    stage: Stage, autojump_clock: trio.testing.MockClock, shielded: bool
) -> None:
    """Program 26."""

    @activity(name="a")
    async def a(ctx: Context) -> str:
        for _ in range(50):
            try:
                with trio.CancelScope(shield=shielded):
                    await ctx.step(work, 1)
                    await ctx.emit("a.happened", 1)
            except BaseException:
                stage.done.append("swallowed")
        return "swallowed them all"

    assert await cancelled(stage, a, after=1.5) is ActivityStatus.CANCELLED
    assert len(stage.records("step.completed")) == (2 if shielded else 1)
    assert len(stage.done) == 49 if not shielded else 48
    assert stage.records("event.emitted")[1:] == []


async def test_an_exception_of_one_that_is_cancelled_is_a_crash_and_the_cleanup_goes_on(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="release")
    async def release() -> None:
        if current_step().attempt == 1:
            raise BoomError

    @activity(name="a", restart=Restart(1, initial=5, jitter=0))
    async def a(ctx: Context) -> None:
        try:
            await ctx.sleep(100)
        finally:
            async with ctx.cleanup():
                await ctx.step(release)

    assert await cancelled(stage, a) is ActivityStatus.CANCELLED
    assert stage.story()[-7:] == [
        "step.failed cleanup/release",
        "scope.ended cleanup",
        "activity.crashed",
        "step.completed cleanup/release",
        "scope.ended cleanup",
        "activity.cancelled",
    ] or stage.story()[-6:] == [
        "step.failed cleanup/release",
        "scope.ended cleanup",
        "activity.crashed",
        "step.completed cleanup/release",
        "scope.ended cleanup",
        "activity.cancelled",
    ]
    (crashed,) = stage.records("activity.crashed")
    assert crashed["facts"]["superseded"] == ["cleanup", "cleanup/release"]
    assert crashed["facts"]["cancelling"] is True


async def test_one_that_cannot_be_cleaned_up_fails_when_its_restarts_are_spent(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(1, initial=1, jitter=0))
    async def a(ctx: Context) -> None:
        try:
            await ctx.sleep(100)
        finally:
            async with ctx.cleanup():
                await ctx.step(work, 0, "fail to release")

    assert await cancelled(stage, a) is ActivityStatus.FAILED


async def test_a_cancel_does_not_wait_for_the_restart_after_a_crash(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def block(ctx: Context) -> None:
        await ctx.sleep(1)
        if ctx.run_number == 1:
            raise BoomError

    @activity(name="a", restart=Restart(1, initial=1000, maximum=1000, jitter=0))
    async def a(ctx: Context) -> None:
        await ctx.sleep(1)
        if ctx.run_number == 1:
            raise BoomError
        await ctx.sleep(100)

    assert await cancelled(stage, a, after=5) is ActivityStatus.CANCELLED
    assert trio.current_time() == 5


async def test_one_that_does_not_end_is_terminated_when_its_allowance_is_over(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)
            async with ctx.cleanup():
                stage.done.append("too late")

    assert await cancelled(stage, a, settings=Settings(cancel_within=10), then=200) is ActivityStatus.CANCELLED
    (end,) = stage.records("activity.cancelled")
    assert end["facts"]["cause"] == "terminate"
    assert end["at"] == "2026-01-01T00:00:11.000000Z"
    assert stage.done == []


async def test_the_time_in_cleanups_does_not_count(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    """Program 12."""

    @activity(name="a")
    async def a(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            for _ in range(3):
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)
                async with ctx.cleanup(within=60):
                    await ctx.step(work, 50)

    assert await cancelled(stage, a, settings=Settings(cancel_within=10)) is ActivityStatus.CANCELLED
    (end,) = stage.records("activity.cancelled")
    assert end["facts"]["cause"] == "command"
    assert len(stage.records("step.completed")) == 3


@pytest.mark.parametrize("swallows", [False, True])
async def test_user_scopes_that_meet_a_cancel_do_not_lead_a_replay_astray(
    stage: Stage, autojump_clock: trio.testing.MockClock, swallows: bool
) -> None:
    """The activity's own time limit is over in the same instant as the cancel."""

    async def block(ctx: Context) -> None:
        try:
            with trio.move_on_after(1):
                await ctx.sleep(100)
            await ctx.step(work, 100)
        except BaseException:
            if not swallows:
                raise

    await everywhere(stage, saga(stage, block), check=released_once)


async def test_what_branches_share_is_the_same_when_they_are_cancelled(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="release")
    async def release(seconds: float) -> None:
        await trio.sleep(seconds)

    @activity(name="a")
    async def a(ctx: Context) -> None:
        shared: list[str] = []
        stage.done.append(shared)

        async def inner(ctx: Context, number: int) -> None:
            try:
                await ctx.step(work, 0.5 * number)
                shared.append(f"{ctx._scope.path} worked")
                await ctx.sleep(100)
            finally:
                shared.append(f"{ctx._scope.path} cancelled")
                async with ctx.cleanup():
                    await ctx.step(release, (number * 7 % 3) / 4)
                    shared.append(f"{ctx._scope.path} released")
                shared.append(f"{ctx._scope.path} left")

        async def outer(ctx: Context, number: int) -> None:
            try:
                await ctx.map(inner, range(3))
            finally:
                shared.append(f"{number} ends")

        await ctx.map(outer, range(2))

    def check(place: Stage) -> None:
        *_, before, last = stage.done
        assert last == before, place.story()
        stage.done.clear()

    await everywhere(stage, a, check=check)


async def test_a_map_that_was_decided_and_not_closed_before_the_cancel_raises_it_at_replay_too(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def branch(ctx: Context, number: int) -> None:
        try:
            await ctx.step(work, number, "fail" if number == 1 else "")
            await ctx.sleep(50)
        finally:
            async with ctx.cleanup():
                await ctx.step(work, 3)

    async def block(ctx: Context) -> None:
        try:
            await ctx.map(branch, range(3))
        except BoomError:
            stage.done.append("handled")
            raise

    await everywhere(stage, saga(stage, block), check=released_once)
    assert "handled" not in stage.done


async def test_one_that_is_cancelled_before_its_actor_has_begun_does_nothing(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(work, 0)

    async def body(engine: Engine) -> ActivityStatus:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_start, engine, a)
            await trio.lowlevel.checkpoint()
            while engine._activities.standing("it") is None:
                await trio.lowlevel.checkpoint()
            await engine.cancel("it")
        return await engine.handle("it").wait(*OVER)

    assert await stage.life(body, a) is ActivityStatus.CANCELLED
    assert stage.records("step.completed") == []


async def _start(engine: Engine, definition: Any) -> Handle[Any]:
    return await engine.start(definition, id="it")
