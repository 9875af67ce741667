"""Steps: what can be one, what it is given, and how it is tried again."""

from __future__ import annotations

import datetime as dt
import functools
import re
import threading
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from engine import (
    ActivityFailedError,
    Context,
    DefinitionError,
    NoStepError,
    PayloadError,
    Restart,
    Retry,
    RetryAfter,
    Settings,
    StepFailedError,
    StepTimeoutError,
    activity,
    current_step,
    step,
)
from engine.activities.definition import step_for
from engine.testing.clock import TrioTime
from tests.activities.stage import Stage

NO_RESTART = Restart(0)


class BoomError(Exception):
    pass


@step
async def add(a: int, b: int) -> int:
    return a + b


def halved(number: int) -> float:
    return number / 2


# ---------------------------------------------------------------------------------------------------- what can be one


class Machine:
    factor = 10

    @step
    async def times(self, number: int) -> int:
        return self.factor * number

    def plus(self, number: int) -> int:
        return self.factor + number

    def __call__(self, number: int) -> int:
        return self.factor - number


MACHINE = Machine()


@pytest.mark.parametrize(
    ("function", "args", "options", "value", "path"),
    [
        (add, (1, 2), {}, 3, "add"),
        (halved, (3,), {}, 1.5, "halved"),
        (functools.partial(add, b=5), (1,), {}, 6, "add"),
        (functools.partial(halved, 8), (), {}, 4.0, "halved"),
        (functools.partial(functools.partial(add, 1), 2), (), {}, 3, "add"),
        (lambda number: number + 1, (1,), {}, 2, "<lambda>"),
        (MACHINE.times, (4,), {}, 40, "Machine.times"),
        (MACHINE.plus, (4,), {}, 14, "Machine.plus"),
        (MACHINE, (4,), {"name": "minus"}, 6, "minus"),
        (halved, (3,), {"name": "half"}, 1.5, "half"),
    ],
)
async def test_a_step_can_be_any_callable(
    stage: Stage, function: Any, args: tuple[Any, ...], options: dict[str, Any], value: Any, path: str
) -> None:
    @activity(name="a", restart=NO_RESTART)
    async def a(ctx: Context) -> Any:
        return await ctx.step(function, *args, **options)

    assert await stage.played(a) == value
    assert [record["path"] for record in stage.records("step.completed")] == [path]
    # The same at replay, where it does not run.
    (record,) = stage.records("step.completed")
    assert record["data"]["value"] == value


@pytest.mark.parametrize(
    ("function", "args", "options", "why"),
    [
        (MACHINE, (1,), {}, "name="),
        (3, (), {}, "a step is a function"),
        (add, (1,), {}, "add takes 2 arguments"),
        (add, (1, 2), {"name": "a/b"}, "a/b"),
        (add, (1, 2), {"name": "add#2"}, "add#2"),
        (add, (1, 2), {"name": "map[1]"}, "map"),
        (add, (1, 2), {"name": ""}, "name"),
    ],
)
async def test_what_cannot_be_a_step_is_refused_before_anything_is_recorded(
    stage: Stage, function: Any, args: tuple[Any, ...], options: dict[str, Any], why: str
) -> None:
    @activity(name="a", restart=NO_RESTART)
    async def a(ctx: Context) -> str:
        with pytest.raises((DefinitionError, PayloadError, TypeError), match=re.escape(why)):
            await ctx.step(function, *args, **options)
        return "refused"

    assert await stage.played(a) == "refused"
    assert stage.story() == ["activity.completed"]


async def test_a_coroutine_given_as_a_step_is_refused_with_what_to_do(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> str:
        with pytest.raises(DefinitionError, match="give it the function"):
            await ctx.step(add(1, 2))  # type: ignore[call-overload]
        return "refused"

    assert await stage.played(a) == "refused"


@pytest.mark.parametrize(
    "describe",
    [
        lambda: step(retry=3)(halved),  # type: ignore[call-overload]
        lambda: step(3),  # type: ignore[call-overload]
        lambda: step(add),
        lambda: step(timeout=0)(halved),
        lambda: step(name="a#b")(halved),
        lambda: activity(halved),  # type: ignore[arg-type]
        lambda: activity(name="")(_one),
        lambda: activity(fatal=("BoomError",))(_one),  # type: ignore[arg-type]
        lambda: activity(_without_context),  # type: ignore[arg-type]
        lambda: step_for(activity(_one)),
    ],
)
def test_a_wrong_definition_is_refused_where_it_is_made(describe: Any) -> None:
    with pytest.raises((DefinitionError, PayloadError)):
        describe()


async def _one(ctx: Context) -> int:
    return 1


async def _without_context(number: int) -> int:
    return number


async def test_definitions_stay_callable() -> None:
    assert await add(1, 2) == 3
    assert await activity(_one)(None) == 1  # type: ignore[arg-type]
    assert await MACHINE.times(3) == 30
    assert step(halved)(5) == 2.5


# ---------------------------------------------------------------------------------------------------- what it knows


async def test_the_idempotency_key_is_the_same_for_every_attempt_life_and_restart(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(retry=Retry(2, 1.0))
    async def charge() -> None:
        stage.done.append(current_step().idempotency_key)
        raise BoomError

    @activity(name="a", restart=Restart(1))
    async def a(ctx: Context) -> None:
        await ctx.step(charge)

    await stage.killed(a, at=("activity.crashed", None))
    await stage.status(a)
    name = charge.name
    assert stage.done == [f"it/0/{name}"] * 4


async def test_current_step_is_known_in_the_loop_and_in_threads_and_nowhere_else(stage: Stage) -> None:
    def in_thread() -> list[Any]:
        info = current_step()
        return [info.name, info.path, info.attempt]

    @activity(name="a", restart=NO_RESTART)
    async def a(ctx: Context) -> list[Any]:
        with pytest.raises(NoStepError):
            current_step()
        return await ctx.step(in_thread, name="inside")

    assert await stage.played(a) == ["inside", "inside", 1]


async def test_a_step_that_is_killed_before_it_is_recorded_is_told_that_it_may_have_run(stage: Stage) -> None:
    @step(name="charge")
    async def charge() -> int:
        stage.done.append(current_step().attempt)
        return current_step().attempt

    @activity(name="a")
    async def a(ctx: Context) -> int:
        await ctx.step(add, 1, 1)
        return await ctx.step(charge)

    # Twice the process ends when the step has run and nothing of that is recorded.
    await stage.killed(a, at=("step.completed", "add"), told=True)
    await stage.killed(a, at=("activity.resumed", None), told=True)
    assert await stage.played(a) == 3
    assert stage.done == [1, 2, 3]


async def test_a_branch_that_was_cancelled_and_is_tried_anew_is_told_that_it_may_have_run(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="slow")
    async def slow(number: int) -> int:
        stage.done.append((number, current_step().attempt))
        if number == 0:
            await trio.sleep(1)
            if current_step().attempt == 1:
                raise BoomError
        await trio.sleep(2)
        return number

    @activity(name="a")
    async def a(ctx: Context) -> list[int]:
        return await ctx.map(slow, range(2))

    assert await stage.played(a) == [0, 1]
    assert sorted(stage.done) == [(0, 1), (0, 2), (1, 1), (1, 2)]


# ---------------------------------------------------------------------------------------------------- tried again


async def test_a_failing_step_is_tried_as_often_as_its_policy_says_with_durable_waits(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="charge", retry=Retry(3, 1.0, 2.0, jitter=0))
    async def charge() -> None:
        stage.done.append(trio.current_time())
        raise BoomError("no")

    @activity(name="a", restart=NO_RESTART)
    async def a(ctx: Context) -> None:
        await ctx.step(charge)

    with pytest.raises(ActivityFailedError) as failure:
        await stage.played(a)
    assert failure.value.message == "no"
    assert [later - stage.done[0] for later in stage.done] == [0.0, 1.0, 3.0]
    failures = stage.records("step.failed")
    assert [record["facts"]["attempt"] for record in failures] == [1, 2, 3]
    assert ["retry_at" in record["facts"] for record in failures] == [True, True, False]
    assert [record["facts"]["final"] for record in failures] == [False, False, False]


async def test_the_rest_of_a_retrys_wait_is_waited_for_after_a_kill(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="charge", retry=Retry(2, 10.0, jitter=0))
    async def charge() -> int:
        stage.done.append(trio.current_time())
        if len(stage.done) == 1:
            raise BoomError
        return current_step().attempt

    @activity(name="a")
    async def a(ctx: Context) -> int:
        return await ctx.step(charge)

    await stage.killed(a, at=("step.failed", "charge"))
    await trio.sleep(4)
    # It was not begun in between: only its wait was interrupted.
    assert await stage.played(a) >= 2
    assert stage.done[1] - stage.done[0] == 10.0


async def test_a_step_says_itself_when_it_is_to_be_tried_again(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="charge", retry=Retry(2))
    async def charge() -> int:
        stage.done.append(trio.current_time())
        if len(stage.done) == 1:
            raise RetryAfter(77)
        return 1

    @activity(name="a")
    async def a(ctx: Context) -> int:
        return await ctx.step(charge)

    assert await stage.played(a) == 1
    assert stage.done[1] - stage.done[0] == pytest.approx(77)


async def test_a_failure_that_is_none_of_those_to_be_tried_again_is_left_to_a_restart(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="charge", retry=Retry(5, on=(OSError,)))
    async def charge() -> int:
        stage.done.append(current_step().attempt)
        if len(stage.done) == 1:
            raise ConnectionError
        if len(stage.done) == 2:
            raise BoomError
        return len(stage.done)

    @activity(name="a", restart=Restart(1))
    async def a(ctx: Context) -> int:
        return await ctx.step(charge)

    assert await stage.played(a) == 3
    assert len(stage.records("activity.crashed")) == 1
    assert [record["facts"]["final"] for record in stage.records("step.failed")] == [False, False]


async def test_a_failure_that_its_policy_gives_up_is_final_for_restarts_too(stage: Stage) -> None:
    @step(name="charge", retry=Retry(5, give_up_on=(BoomError,)))
    async def charge() -> None:
        stage.done.append("charge")
        raise BoomError

    @activity(name="a", restart=Restart(5))
    async def a(ctx: Context) -> None:
        await ctx.step(charge)

    with pytest.raises(ActivityFailedError):
        await stage.played(a)
    assert stage.done == ["charge"]
    assert [record["facts"]["final"] for record in stage.records("step.failed")] == [True]
    assert stage.records("activity.failed")[0]["facts"]["why"] == "acted_upon"


async def test_the_policy_given_at_the_call_wins(stage: Stage) -> None:
    @step(name="charge", retry=Retry(9, 0))
    async def charge() -> None:
        stage.done.append("charge")
        raise BoomError

    @activity(name="a", restart=NO_RESTART)
    async def a(ctx: Context) -> None:
        await ctx.step(charge, retry=Retry(2, 0))

    with pytest.raises(ActivityFailedError):
        await stage.played(a)
    assert len(stage.done) == 2


# ---------------------------------------------------------------------------------------------------- timeouts


async def test_a_step_that_takes_too_long_is_cancelled_and_tried_again(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="slow", timeout=5, retry=Retry(3, 1.0, jitter=0))
    async def slow() -> str:
        stage.done.append(trio.current_time())
        if len(stage.done) < 3:
            await trio.sleep_forever()
        return "in time"

    @activity(name="a")
    async def a(ctx: Context) -> str:
        return await ctx.step(slow)

    assert await stage.played(a) == "in time"
    assert [later - stage.done[0] for later in stage.done] == [0.0, 6.0, 13.0]
    assert {record["facts"]["error"] for record in stage.records("step.failed")} == {"engine.errors.StepTimeoutError"}


async def test_a_timeout_is_given_to_the_activity_as_what_it_is(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[Any]:
        try:
            await ctx.step(trio.sleep, 60, name="slow", timeout=2)
        except StepTimeoutError as error:
            return [error.path, error.seconds, isinstance(error, TimeoutError)]
        return []

    assert await stage.played(a) == ["slow", 2, True]


async def test_a_thread_that_is_late_is_waited_for_before_it_is_tried_again(
    stage: Stage, mock_clock: trio.testing.MockClock
) -> None:
    running: list[int] = []
    began = trio.Event()
    released = threading.Event()

    def slow() -> int:
        running.append(1)
        most.append(len(running))
        if len(most) == 1:
            trio.from_thread.run_sync(began.set)
            released.wait()
        running.pop()
        return len(most)

    async def be_late() -> None:
        await began.wait()
        mock_clock.jump(10)
        await trio.testing.wait_all_tasks_blocked()
        released.set()

    most: list[int] = []

    @activity(name="a")
    async def a(ctx: Context) -> int:
        return await ctx.step(slow, timeout=5, retry=Retry(2, 0, jitter=0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_late)
        assert await stage.played(a) == 2
    assert most == [1, 1]
    assert [record["facts"]["error"] for record in stage.records("step.failed")] == ["engine.errors.StepTimeoutError"]


# ---------------------------------------------------------------------------------------------------- payloads


@attrs.frozen
class Opaque:
    inner: Any


async def test_a_result_that_cannot_be_encoded_is_a_final_failure_and_the_step_is_not_repeated(stage: Stage) -> None:
    @step(name="make", retry=Retry(5, 0))
    async def make() -> Any:
        stage.done.append("make")
        return object()

    @activity(name="a", restart=Restart(3))
    async def a(ctx: Context) -> str:
        try:
            await ctx.step(make)
        except PayloadError as error:
            return error.path
        return ""

    await stage.killed(a, at=("step.failed", "make"))
    assert await stage.played(a) == "result"
    assert stage.done == ["make"]
    assert [record["facts"]["final"] for record in stage.records("step.failed")] == [True]


async def test_an_argument_that_cannot_be_encoded_leaves_no_record(stage: Stage) -> None:
    @activity(name="a", restart=NO_RESTART)
    async def a(ctx: Context) -> str:
        with pytest.raises(PayloadError):
            await ctx.step(add, object(), 1)  # type: ignore[arg-type, call-arg]
        with pytest.raises(PayloadError):
            await ctx.emit("a.b", object())
        with pytest.raises(PayloadError):
            await ctx.sleep(float("nan"))
        return "refused"

    assert await stage.played(a) == "refused"
    assert stage.story() == ["activity.completed"]


async def test_a_payload_that_is_too_large_is_refused(stage: Stage) -> None:
    @activity(name="a", restart=NO_RESTART)
    async def a(ctx: Context) -> list[str]:
        refused = []
        for function, args in ((len, ("x" * 600,)), (str.upper, ("x" * 400,)), (repeated, ("x" * 300,))):
            try:
                await ctx.step(function, *args, name="s")
            except PayloadError as error:
                refused.append(error.path)
        return refused

    assert await stage.played(a, settings=Settings(max_payload=500)) == ["arguments", "result"]


def repeated(text: str) -> str:
    return 2 * text


async def test_arguments_that_are_not_to_be_recorded_are_not(stage: Stage) -> None:
    @step(name="login", record_arguments=False)
    async def login(password: str) -> bool:
        return password == "secret"

    @activity(name="a")
    async def a(ctx: Context) -> bool:
        return await ctx.step(login, "secret")

    assert await stage.played(a)
    assert all("secret" not in str(record["data"]) for record in stage.records())


# ---------------------------------------------------------------------------------------------------- as at replay


class RefusedError(Exception):
    """Its constructor takes other arguments than it keeps."""

    def __init__(self, code: int, why: str) -> None:
        self.code, self.why = code, why
        super().__init__(f"{code}: {why}")


async def test_user_code_is_given_live_what_a_replay_gives(stage: Stage) -> None:
    """Tuples, aliases, errors that cannot be made from their arguments: the decoded copy, in every life."""
    shared = [1]

    @step(name="make")
    async def make() -> tuple[list[int], list[int], dt.timedelta]:
        return shared, shared, dt.timedelta(seconds=1)

    @step(name="refuse")
    async def refuse() -> None:
        raise RefusedError(7, "closed") from KeyError("inner")

    @step(name="strange")
    async def strange() -> None:
        class HiddenError(Exception):
            pass

        raise HiddenError("who")

    @activity(name="a")
    async def a(ctx: Context) -> None:
        one, other, length = await ctx.step(make)
        seen: list[Any] = [one, other, one is other, one is shared, length]
        try:
            await ctx.step(refuse)
        except RefusedError as error:
            seen += [error.code, error.why, str(error), repr(error.__cause__)]
        try:
            await ctx.step(strange)
        except StepFailedError as error:
            seen += [error.type.rpartition(".")[2], error.message]
        stage.done.append(seen)

    await stage.killed(a, at=("step.failed", "strange"), told=True)
    await stage.played(a)
    assert stage.done[0][:5] == [[1], [1], False, False, dt.timedelta(seconds=1)]
    assert stage.done[0][5:] == [7, "closed", "7: closed", "KeyError('inner')", "HiddenError", "who"]
    assert len(stage.done) == 2
    assert stage.done[1] == stage.done[0]


def test_the_time_of_a_test_goes_with_trios() -> None:
    async def main() -> list[float]:
        clock, began = TrioTime(), TrioTime().now()
        await trio.sleep(3600)
        return [(clock.now() - began).total_seconds()]

    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == [3600.0]
