"""Steps that are to be done at most once: their intent, what is known after a kill, and who settles it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from engine import (
    ActivityEndedError,
    ActivityFailedError,
    ActivityNotFoundError,
    ActivityStatus,
    CommandDeniedError,
    Context,
    DefinitionError,
    Engine,
    PayloadError,
    Restart,
    Retry,
    StepInterruptedError,
    activity,
    current_step,
    step,
)
from engine.testing.killing import Death
from tests.activities.stage import ENDED, Stage
from tests.activities.test_side_by_side import BoomError, at_second, work

INTENT = ("step.intended", "pay")


def paying(stage: Stage, fails: bool = False, seconds: float = 1) -> Any:
    """A step whose every effect is seen."""

    @step(name="pay", at_most_once=True)
    async def pay(cents: int) -> int:
        stage.done.append(current_step().attempt)
        await trio.sleep(seconds)
        if fails:
            raise BoomError("no")
        return cents

    return pay


def plain(stage: Stage, **options: Any) -> Any:
    pay = paying(stage, **options)

    @activity(name="a")
    async def a(ctx: Context) -> int:
        paid: int = await ctx.step(pay, 12)
        await ctx.step(work, 0)
        return paid

    return a


async def settled(stage: Stage, definition: Any, path: str, value: object = None, **more: Any) -> Any:
    """A life in which a step is settled, and the activity comes to its end; its result, or else its status."""

    async def body(engine: Engine) -> Any:
        handle: Any = engine.handle("it", definition)
        await handle.resolve(path, value, **more)
        status = await handle.wait(*ENDED)
        return await handle.result() if status is ActivityStatus.COMPLETED else status

    return await stage.life(body, definition)


# ---------------------------------------------------------------------------------------------------- once


async def test_the_intent_is_durable_before_the_attempt(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    seen: list[list[str]] = []

    @step(name="look", at_most_once=True)
    async def look() -> None:
        seen.append(stage.story())

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(look)

    await stage.played(a)
    assert seen == [["step.intended look"]]
    assert stage.story() == ["step.intended look", "step.completed look", "activity.completed"]


async def test_killed_before_the_intent_it_is_done_once(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    a = plain(stage)
    await stage.killed(a, at=("activity.started", None))
    assert await stage.played(a) == 12
    assert stage.done == [1]


@pytest.mark.parametrize("told", [False, True])
async def test_killed_between_intent_and_record_it_is_not_done_again(
    stage: Stage, autojump_clock: trio.testing.MockClock, told: bool
) -> None:
    a = plain(stage)
    await stage.killed(a, at=INTENT, told=told)
    assert await stage.status(a) is ActivityStatus.BLOCKED
    assert len(stage.done) <= 1
    assert stage.story() == [
        "step.intended pay",
        "activity.resumed",
        "step.interrupted pay",
        "activity.blocked",
    ]
    (blocked,) = stage.records("activity.blocked")
    assert blocked["facts"]["cause"] == "interrupted"
    assert blocked["facts"]["interrupted"] == ["pay"]


async def test_killed_after_its_record_it_is_given_again(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    a = plain(stage)
    await stage.killed(a, at=("step.completed", "pay"))
    assert await stage.played(a) == 12
    assert stage.done == [1]


async def test_at_most_one_effect_whatever_records_kill_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Killed at each record, and once more at each record of the next life."""
    a = plain(stage)
    for first in range(5, 9):
        for second in range(first + 2, first + 6):
            for told in (False, True):
                stage.done.clear()
                place = Stage(stage.journal.with_name(f"{first}-{second}-{told}.db"), stage.done)
                await place.status(a, death=Death(after=first, told=told))
                await place.status(a, death=Death(after=second, told=told))
                status = await place.status(a)
                assert len(stage.done) <= 1
                assert status is (ActivityStatus.COMPLETED if place.records("step.completed") else ENDED[-1])


async def test_an_interruption_can_be_caught(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    pay = paying(stage)

    @activity(name="a")
    async def a(ctx: Context) -> str:
        try:
            await ctx.step(pay, 12)
        except StepInterruptedError as error:
            return await ctx.step(work, 0, f"asked the bank of {error.path}")
        return "paid"

    await stage.killed(a, at=INTENT, told=True)
    await stage.killed(a, at=("step.interrupted", "pay"))
    assert await stage.played(a) == "asked the bank of pay"
    assert stage.done == [1]


async def test_an_interruption_that_was_acted_upon_fails_the_activity(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    pay = paying(stage)

    @activity(name="a")
    async def a(ctx: Context) -> None:
        try:
            await ctx.step(pay, 12)
        except StepInterruptedError:
            await ctx.step(work, 0, "told somebody")
            raise

    await stage.killed(a, at=INTENT, told=True)
    assert await stage.status(a) is ActivityStatus.FAILED
    (failed,) = stage.records("activity.failed")
    assert failed["facts"]["why"] == "acted_upon"


async def test_an_interruption_that_is_fatal_fails_the_activity(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    pay = paying(stage)

    @activity(name="a", fatal=(StepInterruptedError,))
    async def a(ctx: Context) -> None:
        await ctx.step(pay, 12)

    await stage.killed(a, at=INTENT, told=True)
    assert await stage.status(a) is ActivityStatus.FAILED


# ---------------------------------------------------------------------------------------------------- one attempt


@pytest.mark.parametrize("how", ["fails", "takes too long", "gives what cannot be encoded"])
async def test_its_first_failure_is_final_for_retries_and_restarts(
    stage: Stage, autojump_clock: trio.testing.MockClock, how: str
) -> None:
    """Program 4."""

    @step(name="pay", at_most_once=True, timeout=5)
    async def pay() -> Any:
        stage.done.append(current_step().attempt)
        if how == "fails":
            raise BoomError
        await trio.sleep(60 if how == "takes too long" else 0)
        return object()

    @activity(name="a", restart=Restart(3))
    async def a(ctx: Context) -> None:
        await ctx.step(pay)

    assert await stage.status(a) is ActivityStatus.FAILED
    assert stage.done == [1]
    (failed,) = stage.records("step.failed")
    assert failed["facts"]["final"] is True
    assert stage.records("activity.failed")[0]["facts"]["why"] == "acted_upon"


def test_a_definition_with_more_than_one_attempt_is_refused() -> None:
    with pytest.raises(DefinitionError, match="one attempt"):

        @step(at_most_once=True, retry=Retry(2))
        async def pay() -> None: ...

    @step(at_most_once=True, retry=Retry(1))
    async def pay_once() -> None: ...


@pytest.mark.parametrize("given", ["bare", "partial"])
async def test_a_call_with_more_than_one_attempt_is_refused(stage: Stage, given: str) -> None:
    pay = paying(stage)

    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        if given == "bare":
            await ctx.step(pay, 12, retry=Retry(3))
        else:
            await ctx.step(partial(pay, 12), retry=Retry(3))

    with pytest.raises(ActivityFailedError, match="one attempt"):
        await stage.played(a)
    assert not stage.done


async def test_a_restart_that_tries_something_else_anew_leaves_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    pay = paying(stage)

    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> str:
        await ctx.step(pay, 12)
        return await ctx.step(at_second)

    assert await stage.played(a) == "second time"
    assert stage.done == [1]


async def test_one_that_was_cancelled_beside_a_failure_is_not_done_again(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """The restart tries the whole map anew; whether the payment took effect before it was cancelled nobody knows."""
    pay = paying(stage, seconds=60)

    @activity(name="a", restart=Restart(3, initial=0.1, jitter=0))
    async def a(ctx: Context) -> list[Any]:
        return list(await ctx.gather(lambda branch: branch.step(pay, 12), slow_at_second))

    async def slow_at_second(ctx: Context) -> str:
        await ctx.sleep(1)
        return await ctx.step(at_second)

    assert await stage.status(a) is ActivityStatus.BLOCKED
    assert stage.done == [1]
    assert await settled(stage, a, "gather[0]/pay", 12) == [12, "second time"]
    assert stage.done == [1]


async def test_one_that_its_own_scope_ended_is_given_up_and_not_done_again(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    pay = paying(stage, seconds=60)

    @activity(name="a")
    async def a(ctx: Context) -> bool:
        with trio.move_on_after(5) as scope:
            await ctx.step(pay, 12)
        await ctx.step(work, 0)
        return scope.cancelled_caught

    await stage.killed(a, at=("call.abandoned", "pay"), told=True)
    assert await stage.played(a) is True
    assert stage.done == [1]


# ---------------------------------------------------------------------------------------------------- settled


async def test_a_value_settles_it_and_the_activity_goes_on(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    a = plain(stage)
    await stage.killed(a, at=INTENT, told=True)
    await stage.status(a)
    assert await settled(stage, a, "pay", 12, by="ada", reason="the bank says so") == 12
    assert stage.done == [1]
    assert stage.story()[-5:] == [
        "command.accepted",
        "step.resolved pay",
        "activity.resumed",
        "step.completed work",
        "activity.completed",
    ]
    command = stage.records("command.accepted")[-1]
    assert (command["facts"]["command"], command["by"]) == ("resolve", "ada")
    assert command["data"] == {"reason": "the bank says so"}
    (resolved,) = stage.records("step.resolved")
    assert resolved["facts"]["command"] == command["seq"]
    assert resolved["data"] == {"value": 12}


@pytest.mark.parametrize("at", [("step.resolved", "pay"), ("step.completed", "work")])
async def test_what_settled_it_is_given_again_after_a_kill(
    stage: Stage, autojump_clock: trio.testing.MockClock, at: tuple[str, str]
) -> None:
    a = plain(stage)
    await stage.killed(a, at=INTENT, told=True)
    await stage.status(a)

    async def body(engine: Engine) -> None:
        await engine.resolve("it", "pay", 12)
        await engine.handle("it").wait(*ENDED)

    await stage.life(body, a, death=Death(at=at))
    assert await stage.played(a) == 12
    assert stage.done == [1]


@pytest.mark.parametrize(("error", "type"), [(BoomError("lost"), "BoomError"), ("lost", "StepFailedError")])
async def test_an_error_settles_it_too(
    stage: Stage, autojump_clock: trio.testing.MockClock, error: Any, type: str
) -> None:
    pay = paying(stage)

    @activity(name="a")
    async def a(ctx: Context) -> str:
        try:
            return str(await ctx.step(pay, 12))
        except Exception as error:
            return await ctx.step(work, 0, f"{error.__class__.__name__} {error}")

    @activity(name="a")
    async def uncaught(ctx: Context) -> None:
        await ctx.step(pay, 12)

    await stage.killed(uncaught, at=INTENT, told=True)
    await stage.status(uncaught)
    assert type in await settled(stage, a, "pay", error=error)


async def test_an_error_that_settled_it_is_final(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    a = plain(stage)
    await stage.killed(a, at=INTENT, told=True)
    await stage.status(a)
    assert await settled(stage, a, "pay", error=BoomError("lost")) is ActivityStatus.FAILED
    assert stage.records("activity.failed")[0]["facts"]["why"] == "acted_upon"


async def test_a_value_that_the_step_cannot_have_given_leaves_it_to_be_settled_anew(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    a = plain(stage)
    await stage.killed(a, at=INTENT, told=True)
    await stage.status(a)
    assert await settled(stage, a, "pay", "twelve") is ActivityStatus.BLOCKED
    blocked = stage.records("activity.blocked")[-1]
    assert (blocked["facts"]["cause"], blocked["facts"]["interrupted"]) == ("interrupted", ["pay"])
    assert await settled(stage, a, "pay", 12) == 12


async def test_a_loser_that_shields_itself_does_not_begin_one(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """What the engine cancelled does nothing new outside of a cleanup, so a restart finds nothing to be settled."""
    pay = paying(stage)

    async def loser(ctx: Context) -> None:
        try:
            await ctx.sleep(60)
        finally:
            with trio.CancelScope(shield=True):
                await ctx.step(pay, 12)

    async def flaky(ctx: Context) -> str:
        await ctx.sleep(1)
        return await ctx.step(at_second)

    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> str:
        name, _ = await ctx.race(loser=loser, flaky=flaky)
        return name

    assert await stage.played(a) == "flaky"
    assert stage.done == []
    assert not stage.records("step.intended")


async def test_several_that_were_interrupted_are_settled_one_by_one(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    pay = paying(stage)

    @activity(name="a")
    async def a(ctx: Context) -> list[int]:
        async def branch(ctx: Context, cents: int) -> int:
            paid: int = await ctx.step(pay, cents)
            return paid

        return await ctx.map(branch, [1, 2])

    await stage.killed(a, at=("step.intended", "map[1]/pay"), told=True)
    assert len(stage.done) == 2
    assert await stage.status(a) is ActivityStatus.BLOCKED
    first = stage.records("activity.blocked")[-1]["facts"]["interrupted"][0]
    assert await settled(stage, a, first, 100) is ActivityStatus.BLOCKED
    (second,) = stage.records("activity.blocked")[-1]["facts"]["interrupted"]
    assert {first, second} == {"map[0]/pay", "map[1]/pay"}
    assert sorted(await settled(stage, a, second, 200)) == [100, 200]
    assert len(stage.done) == 2


async def test_one_in_a_plain_map_is_settled(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    pay = paying(stage)

    @activity(name="a")
    async def a(ctx: Context) -> list[int]:
        return await ctx.map(pay, [1])

    await stage.killed(a, at=("step.intended", "map[0]/pay"), told=True)
    await stage.status(a)
    assert await settled(stage, a, "map[0]/pay", 7) == [7]


async def test_resuming_it_unsettled_blocks_it_again(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    a = plain(stage)
    await stage.killed(a, at=INTENT, told=True)
    await stage.status(a)

    async def body(engine: Engine) -> ActivityStatus:
        handle = engine.handle("it")
        await handle.resume()
        return await handle.wait(*ENDED)

    assert await stage.life(body, a) is ActivityStatus.BLOCKED
    assert len(stage.records("step.interrupted")) == 1
    assert await settled(stage, a, "pay", 12) == 12


Call = Callable[[Engine], Awaitable[Any]]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda engine: engine.resolve("nobody", "pay", 1), ActivityNotFoundError),
        (lambda engine: engine.resolve("it", "other", 1), CommandDeniedError),
        (lambda engine: engine.resolve("it", "", 1), PayloadError),
        (lambda engine: engine.resolve("it", "pay", object()), PayloadError),
        (lambda engine: engine.resolve("it", "pay", 1, error="both"), PayloadError),
        (lambda engine: engine.resolve("it", "pay", error=3), PayloadError),
    ],
)
async def test_what_settles_nothing_is_refused(
    stage: Stage, autojump_clock: trio.testing.MockClock, call: Call, error: type[Exception]
) -> None:
    a = plain(stage)
    await stage.killed(a, at=INTENT, told=True)
    await stage.status(a)

    async def body(engine: Engine) -> None:
        with pytest.raises(error):
            await call(engine)
        assert await engine.handle("it").status() is ActivityStatus.BLOCKED

    await stage.life(body, a)
    denied = [*stage.records("command.denied"), *stage.records("command.denied", id="/engine")]
    assert [record["facts"]["command"] for record in denied] == ([] if error is PayloadError else ["resolve"])


async def test_an_activity_that_has_ended_settles_nothing(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    a = plain(stage)
    await stage.played(a)

    async def body(engine: Engine) -> None:
        with pytest.raises(ActivityEndedError):
            await engine.resolve("it", "pay", 1)

    await stage.life(body, a)


async def test_one_that_was_settled_by_an_engine_without_its_code_goes_on_in_the_next(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    a = plain(stage)
    await stage.killed(a, at=INTENT, told=True)
    await stage.status(a)
    async with Engine.open_idle(str(stage.journal)) as engine:
        await engine.resolve("it", "pay", 12, by="ada")
    assert await stage.played(a) == 12
