"""Retrying: an activity that has failed runs again, as far as nothing was done about what it failed of."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine import (
    ActivityEndedError,
    ActivityFailedError,
    ActivityFilter,
    ActivityNotFoundError,
    ActivityStatus,
    CommandDeniedError,
    Context,
    Engine,
    Restart,
    Retry,
    activity,
    current_step,
    step,
)
from engine.audit import Ledger
from engine.testing.killing import Death
from tests.activities.stage import Stage

BROKEN: set[str] = set()
DONE: list[str] = []


class FatalError(Exception):
    pass


@step(name="do")
async def do(what: str) -> str:
    info = current_step()
    DONE.append(f"{info.idempotency_key} {info.attempt}")
    if what in BROKEN:
        raise ValueError(what)
    return what


@step(name="final", retry=Retry(3, give_up_on=(ValueError,)))
async def final() -> None:
    raise ValueError("final")


@activity(name="order", restart=Restart(1, initial=0.1, jitter=0), fatal=(FatalError,))
async def order(ctx: Context, ends: str) -> Any:
    await ctx.step(do, "reserve", name="reserve")
    match ends:
        case "step":
            await ctx.step(do, "charge", name="charge")
        case "map":
            await ctx.map(pack, [0, 1, 2])
        case "compensated":
            try:
                await ctx.step(do, "charge", name="charge")
            except ValueError:
                await ctx.step(do, "release", name="release")
                raise
        case "final":
            await ctx.step(final, name="final")
        case "itself":
            if "itself" in BROKEN:
                raise KeyError(ends)
        case "fatal":
            try:
                await ctx.step(do, "charge", name="charge")
            except ValueError as error:
                raise FatalError from error
    return await ctx.step(do, "ship", name="ship")


async def pack(ctx: Context, number: int) -> str:
    await ctx.step(do, f"fold {number}", name="fold")
    return await ctx.step(do, f"pack {number}", name="pack")


@pytest.fixture(autouse=True)
def _nothing() -> None:
    BROKEN.clear()
    DONE.clear()


async def failed(stage: Stage, ends: str, *broken: str) -> None:
    """One life in which the activity fails; what was broken is mended then."""
    BROKEN.update(broken)
    assert await stage.status(order, ends) is ActivityStatus.FAILED
    BROKEN.clear()
    DONE.clear()


async def retried(stage: Stage, *definitions: Any, **options: Any) -> Any:
    """One life in which it is retried, and comes to its end."""

    async def body(engine: Engine) -> Any:
        handle = engine.handle("it")
        await handle.retry(by="alice", reason="mended")
        return await handle.result()

    return await stage.life(body, *definitions or (order,), **options)


def verified(stage: Stage) -> None:
    with Ledger.open(stage.journal) as ledger:
        assert ledger.verify().problems == ()


async def test_what_it_failed_of_is_tried_anew_and_nothing_else(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await failed(stage, "step", "charge")
    assert await retried(stage) == "ship"
    assert DONE == ["it/0/charge 3", "it/0/ship 1"]
    verified(stage)


@pytest.mark.parametrize(("ends", "broken"), [("itself", "itself"), ("fatal", "charge")])
async def test_one_that_failed_by_itself_or_for_good_runs_again_too(
    stage: Stage, autojump_clock: trio.testing.MockClock, ends: str, broken: str
) -> None:
    await failed(stage, ends, broken)
    assert await retried(stage) == "ship"


async def test_branches_that_lost_go_on_and_those_that_ended_stay(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await failed(stage, "map", "pack 1")
    assert await retried(stage) == "ship"
    assert not any("fold" in key for key in DONE)
    verified(stage)


@pytest.mark.parametrize(("ends", "at"), [("compensated", "charge"), ("final", "final")])
async def test_where_no_failure_is_open_it_is_refused_and_the_path_to_fork_at_is_named(
    stage: Stage, autojump_clock: trio.testing.MockClock, ends: str, at: str
) -> None:
    await failed(stage, ends, "charge")
    with pytest.raises(CommandDeniedError, match=f"fork it at {at}"):
        await retried(stage)
    assert stage.records()[-1]["kind"] == "command.denied"
    assert DONE == []
    verified(stage)


async def test_the_command_the_retry_and_its_run_are_recorded(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await failed(stage, "step", "charge")
    before = len(stage.records())
    await retried(stage)
    asked, again, *rest = stage.records()[before:]
    assert (asked["facts"]["command"], asked["by"], asked["data"]) == ("retry", "alice", {"reason": "mended"})
    assert again["facts"]["superseded"] == ["charge"]
    assert again["facts"]["command"] == asked["seq"]
    assert [record["kind"] for record in rest] == ["step.completed", "step.completed", "activity.completed"]
    # A restart, then the retry: the third run. All records since the first end count those before them.
    assert {record["run"] for record in (again, *rest)} == {3}
    counts = [record["facts"]["before"]["records"] for record in (asked, again, *rest)]
    assert counts == list(range(before, before + 5))


async def test_the_limit_is_full_again(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await failed(stage, "step", "charge")
    BROKEN.add("charge")
    with pytest.raises(ActivityFailedError):
        await retried(stage)
    assert DONE == ["it/0/charge 3", "it/0/charge 4"]
    BROKEN.clear()
    assert await retried(stage) == "ship"
    verified(stage)


async def test_a_handle_from_before_waits_for_the_new_end(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def body(engine: Engine) -> Any:
        BROKEN.add("charge")
        handle = await engine.start(order, "step", id="it")
        with pytest.raises(ActivityFailedError):
            await handle.result()
        BROKEN.clear()
        await handle.retry()
        assert await handle.status() is ActivityStatus.RUNNING
        return await handle.result()

    assert await stage.life(body, order) == "ship"


async def test_recorded_by_an_idle_engine_it_runs_in_the_next(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await failed(stage, "step", "charge")
    async with Engine.open_idle(str(stage.journal)) as engine:
        await engine.retry("it")
        assert await engine.handle("it").status() is ActivityStatus.RUNNING
        with pytest.raises(CommandDeniedError):
            await engine.retry("it")
    verified(stage)
    assert await stage.played(order, "step") == "ship"
    verified(stage)


async def test_without_its_definition_it_waits_for_an_engine_that_has_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await failed(stage, "step", "charge")

    async def body(engine: Engine) -> None:
        await engine.retry("it")
        await trio.sleep(1)
        assert await engine.handle("it").status() is ActivityStatus.BLOCKED

    await stage.life(body)
    assert await stage.played(order, "step") == "ship"
    verified(stage)


async def test_many_are_retried_by_a_filter_and_those_that_cannot_be_are_passed_over(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> Any:
        BROKEN.add("charge")
        handles = [
            await engine.start(order, ends, id=str(number))
            for number, ends in enumerate(("step", "compensated", "step", "other"))
        ]
        for handle in handles:
            await handle.wait(ActivityStatus.FAILED, ActivityStatus.COMPLETED)
        BROKEN.clear()
        count = await engine.retry(ActivityFilter(status="failed"), by="alice")
        return count, [await handle.wait(ActivityStatus.FAILED, ActivityStatus.COMPLETED) for handle in handles]

    assert await stage.life(body, order) == (2, ["completed", "failed", "completed", "completed"])
    verified(stage)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("ends", ["step", "map"])
async def test_killed_at_each_record_it_goes_on(
    stage: Stage, autojump_clock: trio.testing.MockClock, ends: str, told: bool
) -> None:
    async def once(stage: Stage, death: Death | None = None) -> None:
        await failed(stage, ends, "charge", "pack 1")
        begin = stage.records()[-1]["seq"]
        if death is not None:
            death.after += begin
            await retried(stage, death=death)
            if stage.records()[-1]["kind"] == "activity.failed":
                await retried(stage)
        else:
            await retried(stage)
        assert await stage.played(order, ends) == "ship"
        verified(stage)

    await once(stage)
    last = stage.records()[-1]["seq"]
    first = next(record["seq"] for record in stage.records() if record["facts"].get("command") == "retry")
    for number in range(last - first + 4):
        await once(Stage(stage.journal.with_name(f"{number}.db")), Death(after=number, told=told))


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("it", ActivityEndedError, "is completed"),
        ("running", CommandDeniedError, "is running; `retry` is for one that is failed"),
        ("none", ActivityNotFoundError, "no activity"),
    ],
)
async def test_only_one_that_has_failed_is_retried(
    stage: Stage, autojump_clock: trio.testing.MockClock, given: str, error: type[Exception], said: str
) -> None:
    @activity(name="waits")
    async def waits(ctx: Context) -> None:
        await trio.sleep_forever()

    async def body(engine: Engine) -> None:
        await engine.run(order, "other", id="it")
        await engine.start(waits, id="running")
        with pytest.raises(error, match=said):
            await engine.retry(given)

    await stage.life(body, order, waits)


async def test_a_failure_of_its_cleanup_is_tried_anew_and_it_ends_cancelled(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="cleans", restart=Restart(0))
    async def cleans(ctx: Context) -> None:
        try:
            await ctx.step(do, "reserve", name="reserve")
            await ctx.sleep(1000)
        finally:
            async with ctx.cleanup():
                await ctx.step(do, "release", name="release")

    async def body(engine: Engine) -> Any:
        BROKEN.add("release")
        handle = await engine.start(cleans, id="it")
        await trio.sleep(10)
        await handle.cancel()
        assert await handle.wait(ActivityStatus.FAILED, ActivityStatus.CANCELLED) is ActivityStatus.FAILED
        BROKEN.clear()
        await handle.retry()
        return await handle.wait(ActivityStatus.FAILED, ActivityStatus.CANCELLED)

    assert await stage.life(body, cleans) is ActivityStatus.CANCELLED
    assert DONE[-1].startswith("it/0/cleanup/release")
    verified(stage)


# ---------------------------------------------------------------------------------------------------- deadlines


@activity(name="late", timeout=100, restart=Restart(0))
async def late(ctx: Context) -> str:
    await ctx.map(wait, [1, 500])
    return await ctx.step(do, "ship", name="ship")


async def wait(ctx: Context, seconds: float) -> None:
    await ctx.sleep(seconds)


async def ended(engine: Engine) -> ActivityStatus:
    return await engine.handle("it").wait(ActivityStatus.FAILED, ActivityStatus.COMPLETED)


async def test_after_a_deadline_it_needs_a_new_one(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def body(engine: Engine) -> Any:
        handle = await engine.start(late, id="it")
        assert await ended(engine) is ActivityStatus.FAILED
        with pytest.raises(CommandDeniedError, match="deadline of activity 'it' has passed; give it a new timeout"):
            await handle.retry()
        await handle.retry(timeout=1000)
        assert await handle.result() == "ship"
        return trio.current_time()

    assert await stage.life(body, late) == pytest.approx(500, abs=1)
    verified(stage)


async def test_the_new_deadline_holds_and_the_old_one_does_not(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> Any:
        handle = await engine.start(late, id="it")
        await ended(engine)
        began = trio.current_time()
        await handle.retry(timeout=200)
        assert await ended(engine) is ActivityStatus.FAILED
        assert trio.current_time() - began == pytest.approx(200)
        await handle.retry(timeout=1000)
        return await ended(engine)

    assert await stage.life(body, late) is ActivityStatus.COMPLETED
    verified(stage)


async def test_a_deadline_that_lies_ahead_goes_on(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="late", timeout=1000, restart=Restart(0))
    async def later(ctx: Context) -> None:
        if "late" in BROKEN:
            raise KeyError
        await ctx.sleep(5000)

    async def body(engine: Engine) -> Any:
        BROKEN.add("late")
        handle = await engine.start(later, id="it")
        await ended(engine)
        BROKEN.clear()
        await trio.sleep(300)
        await handle.retry()
        with pytest.raises(ActivityFailedError, match="deadline"):
            await handle.result()
        return trio.current_time()

    assert await stage.life(body, later) == pytest.approx(1000, abs=1)


async def test_one_that_was_cleaned_up_after_its_deadline_is_refused(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="late", timeout=100, restart=Restart(0))
    async def cleans(ctx: Context) -> None:
        try:
            await ctx.sleep(50)
            await ctx.sleep(500)
        finally:
            async with ctx.cleanup():
                await ctx.step(do, "tidy", name="tidy")

    async def body(engine: Engine) -> None:
        handle = await engine.start(cleans, id="it")
        assert await ended(engine) is ActivityStatus.FAILED
        with pytest.raises(CommandDeniedError, match="fork it at cleanup"):
            await handle.retry(timeout=1000)
        fork = await handle.fork(at="cleanup", id="new")
        assert await fork.status() is ActivityStatus.RUNNING
        began = trio.current_time()
        with pytest.raises(ActivityFailedError, match="deadline"):
            await fork.result()
        # It had its time anew.
        assert trio.current_time() - began == pytest.approx(100)

    await stage.life(body, cleans)
    verified(stage)
