"""The programs that break a simpler engine, each by its number and its name.

Each is run once without a fault, then killed right before and right after each of its records, and resumed; what must
hold stands in its test. Where a program is about code that changes, or a process that dies in a certain way, the lives
are played one by one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from engine import (
    ActivityCancelledError,
    ActivityFailedError,
    ActivityStatus,
    CommandDeniedError,
    ConcurrentContextError,
    Context,
    DefinitionError,
    Engine,
    Handle,
    NonDeterminismError,
    PayloadError,
    Restart,
    Retry,
    Settings,
    activity,
    current_step,
    step,
)
from engine.testing import crash_everywhere
from engine.testing.clock import TrioTime
from engine.testing.killing import Death, live
from tests.activities.stage import ENDED, Stage

MISTAKES: dict[int, str] = {
    1: "cancels a task to give it up, so that its `finally` undoes work that is only to be parked, drained or paused",
    2: "cancels the scope before it is replayed, so that a compensation is never entered again",
    3: "lets a begun branch wait for its slot at a replay, and cancels it before its compensation is there",
    4: "tries a step anew that was to be done at most once",
    5: "tries anew what was compensated, or compensates it again, or repeats a failure that was handled",
    6: "raises a cancel in place of an outcome that is recorded, so that live and replayed code go two ways",
    7: "gives a new generation the idempotency keys of the one before",
    8: "draws another random value after a kill, so that one key has two amounts",
    9: "loses the message that a branch took before it lost its race",
    10: "lets an activity take the process down for ever, or fails it for what the process did",
    11: "tries a step again beside its thread that is still at work",
    12: "ends a compensation by the limit of the cancel, or by the hour in which no process ran",
    13: "lets the scheduler say which of two was first, another time each time",
    14: "gives outcomes back in another order, so that what branches share in memory comes out otherwise",
    15: "knows a call by its path alone, and does not see one that was put in or taken out",
    16: "tells the activity that its code does not fit, and lets it swallow that",
    17: "runs a call again that the activity's own cancel scope had ended",
    18: "lets whoever looks first win, and not what came first",
    19: "leaves children behind, or ends them for a crash of their parent",
    20: "asks once for the whole activity whether a change is in force",
    21: "hands out one value live and another after a replay",
    22: "takes equal arguments for others, by the order of a set or the kind of a number",
    23: "waits an hour longer since the clock was set back",
    24: "lets two tasks use one context, in an order that nobody knows",
    25: "does nothing, and says nothing, where an `await` is missing",
    26: "lets an activity swallow its cancel and go on",
    27: "forgets a deadline while paused, or lets it break into a compensation",
    28: "restarts for ever what gets no further, since each crash comes late enough",
    29: "counts attempts from one again after a crash",
    30: "repeats what was compensated, or what finished beside it",
    31: "loses messages, or children, from one generation to the next",
    32: "takes a name for a path",
    33: "lets a promise be settled twice, or waits for one that nobody waits for",
    34: "tries a step again whose effect has happened, since its result cannot be written",
}
"""What a simpler engine does wrong. The reference has a page of this and of the tests."""

NOT_YET: dict[int, str] = {
    7: "continue_as_new",
    31: "continue_as_new",
    33: "promises",
}
"""Programs that this version cannot run, by what is missing."""


def test_every_program_has_its_test_or_waits_for_what_is_missing() -> None:
    names = [name for name in vars(sys.modules[__name__]) if re.match(r"test_program_\d\d_", name)]
    numbers = {int(name.split("_")[2]) for name in names}
    assert numbers | NOT_YET.keys() == MISTAKES.keys() == set(range(1, 35))
    assert numbers.isdisjoint(NOT_YET)


# ---------------------------------------------------------------------------------------------------- the world


class BoomError(Exception):
    """What a step fails with."""


class OtherError(Exception):
    """What is raised in its place."""


@attrs.define
class World:
    """What is outside, over all lives of one run.

    Attributes:
        done: what was done, in order.
        keys: what was done under each idempotency key.
        run: the number of the activity's run under way, where the activity says it.
    """

    done: list[Any] = attrs.field(factory=list)
    keys: dict[str, set[Any]] = attrs.field(factory=lambda: defaultdict(set))
    run: int = 0

    def forget(self) -> None:
        self.done.clear()
        self.keys.clear()

    async def do(self, what: Any) -> Any:
        """What a step does: it leaves a mark, under its key."""
        self.done.append(what)
        self.keys[current_step().idempotency_key].add(what)
        return what

    async def fail(self, what: Any) -> Any:
        """What a step does that fails each time."""
        await self.do(what)
        raise BoomError(what)

    async def fail_once(self, what: Any) -> Any:
        """What a step does that fails in the activity's first run."""
        await self.do(what)
        if self.run == 1:
            raise BoomError(what)
        return what

    def is_before(self, what: Any, other: Any) -> bool:
        """Whether something was done for the last time before something else was done at all."""
        return max(index for index, done in enumerate(self.done) if done == what) < self.done.index(other)


@pytest.fixture
def world() -> World:
    return World()


SOON = Restart(3, 60, initial=0.1, jitter=0)


# ---------------------------------------------------------------------------------------------------- lost or doubled


async def _saga(world: World, name: str, seconds: float, ctx: Context) -> None:
    """Reserve, work for a while, and release whatever comes."""
    reserved = False
    try:
        await ctx.step(world.do, f"reserve {name}", name="reserve")
        reserved = True
        await ctx.sleep(seconds)
    finally:
        if reserved:
            async with ctx.cleanup():
                await ctx.step(world.do, f"release {name}", name="release")


@attrs.frozen
class Go:
    """What an activity waits for."""

    number: int = 0


@attrs.frozen
class Stop:
    """What it may get instead."""


async def test_program_01_parking_draining_and_pausing_run_no_compensation(
    stage: Stage, world: World, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(world.do, "reserve", name="reserve")
        try:
            await ctx.receive(Go)
        finally:
            async with ctx.cleanup():
                await ctx.step(world.do, "release", name="release")

    async def drain(engine: Engine) -> None:
        await engine.start(a, id="it")
        await trio.sleep(1_000)

    async def pause(engine: Engine) -> None:
        handle = await engine.start(a, id="it")
        await trio.sleep(5)
        await handle.pause()
        await handle.wait(ActivityStatus.PAUSED)
        await trio.sleep(5)
        await handle.resume()
        await trio.sleep(5)

    async def go(engine: Engine) -> None:
        handle = engine.handle("it", a)
        await handle.send(Go())
        await handle.result()

    for number in range(12):
        death = Death(at=("activity.resumed", None), told=number % 2 == 0) if number % 3 == 2 else Death()
        await stage.life((drain, pause, drain)[number % 3], a, death=death)
        assert world.done == ["reserve"]
    await stage.life(go, a)
    assert world.done == ["reserve", "release"]


async def test_program_02_a_cancel_that_is_seen_again_at_a_replay_skips_no_compensation(world: World) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.gather(*(functools.partial(_saga, world, name, 1_000) for name in ("left", "right")))

    async def cancel(handle: Handle[Any]) -> None:
        await trio.sleep(10)
        await handle.cancel()

    def check() -> None:
        for name in ("left", "right"):
            assert world.is_before(f"reserve {name}", f"release {name}")

    with pytest.raises(ActivityCancelledError):
        await crash_everywhere(a, setup=world.forget, drive=cancel, check=check)


async def test_program_02_losers_compensate_what_they_did_however_often_they_are_killed(world: World) -> None:
    async def win(ctx: Context) -> str:
        await ctx.sleep(5)
        return "won"

    @activity(name="a")
    async def a(ctx: Context) -> Any:
        return list(await ctx.race(loser=functools.partial(_saga, world, "a", 1_000), winner=win))

    def check() -> None:
        assert world.is_before("reserve a", "release a")

    assert (await crash_everywhere(a, setup=world.forget, check=check)).result == ["winner", "won"]


async def test_program_03_a_begun_branch_that_has_no_slot_yet_compensates_when_it_is_cancelled(world: World) -> None:
    async def branch(ctx: Context, number: int) -> None:
        match number:
            case 0:
                await ctx.sleep(1)
            case 1:
                await _saga(world, "a", 1_000, ctx)
            case _:
                await ctx.sleep(1)
                await ctx.step(world.fail, "fail", name="fail")

    @activity(name="a", fatal=(BoomError,))
    async def a(ctx: Context) -> None:
        await ctx.map(branch, [0, 1, 2], limit=2)

    def check() -> None:
        assert world.is_before("reserve a", "release a")

    with pytest.raises(ActivityFailedError, match="BoomError"):
        await crash_everywhere(a, setup=world.forget, check=check)


@pytest.mark.parametrize("told", [False, True])
async def test_program_04_what_is_to_be_done_at_most_once_is_not_done_again_by_anybody(
    stage: Stage, world: World, told: bool
) -> None:
    @step(name="pay", at_most_once=True)
    async def pay() -> None:
        await world.fail("pay")

    @activity(name="a", restart=SOON)
    async def a(ctx: Context) -> None:
        await ctx.step(pay)

    assert await stage.status(a, id="unharmed") is ActivityStatus.FAILED
    assert world.done == ["pay"]
    await stage.killed(a, at=("step.intended", "pay"), told=told)
    assert await stage.status(a) is ActivityStatus.BLOCKED
    assert world.done == ["pay", "pay"][: 1 + told]
    with pytest.raises(DefinitionError):
        step(at_most_once=True, retry=Retry(2))(_nothing)


async def test_program_05_what_failed_under_a_lock_is_not_done_again_without_it(world: World) -> None:
    @activity(name="a", restart=SOON)
    async def a(ctx: Context) -> None:
        await ctx.step(world.do, "lock", name="lock")
        try:
            await ctx.step(world.fail, "work", name="work")
        finally:
            await ctx.step(world.do, "unlock", name="unlock")

    def check() -> None:
        assert world.is_before("work", "unlock")

    with pytest.raises(ActivityFailedError, match="BoomError: work"):
        await crash_everywhere(a, setup=world.forget, check=check)


async def test_program_05_a_compensated_failure_is_neither_compensated_nor_tried_again(world: World) -> None:
    @activity(name="a", restart=SOON)
    async def a(ctx: Context) -> None:
        try:
            await ctx.step(world.fail, "card", name="card")
        except BoomError:
            await ctx.step(world.do, "refund", name="refund")
            raise OtherError("no money")  # noqa: B904  (that its context holds the failure is the point)

    def check() -> None:
        assert world.is_before("card", "refund")

    with pytest.raises(ActivityFailedError, match="OtherError: no money"):
        await crash_everywhere(a, setup=world.forget, check=check)


async def test_program_05_of_two_failures_in_a_chain_only_the_open_one_is_tried_again(world: World) -> None:
    @activity(name="a", restart=SOON)
    async def a(ctx: Context) -> Any:
        world.run = ctx.run_number
        try:
            await ctx.step(world.fail, "card", name="card")
        except BoomError:
            return await ctx.step(world.fail_once, "cash", name="cash")

    def check() -> None:
        assert world.is_before("card", "cash")

    assert (await crash_everywhere(a, setup=world.forget, check=check)).result == "cash"


async def test_program_05_both_failures_of_two_branches_are_tried_again(world: World) -> None:
    @activity(name="a", restart=SOON)
    async def a(ctx: Context) -> list[Any]:
        world.run = ctx.run_number
        return await ctx.map(world.fail_once, ["one", "other"])

    assert (await crash_everywhere(a, setup=world.forget)).result == ["one", "other"]


async def test_program_05_a_handled_failure_is_kept_when_a_bug_follows(world: World) -> None:
    @activity(name="a", restart=SOON)
    async def a(ctx: Context) -> str:
        world.run = ctx.run_number
        with contextlib.suppress(BoomError):
            await ctx.step(fail, name="card")
        if ctx.run_number == 1:
            raise OtherError("a bug")
        return "mended"

    async def fail() -> None:
        await world.fail(f"card in run {world.run}")

    def check() -> None:
        assert set(world.done) == {"card in run 1"}

    assert (await crash_everywhere(a, setup=world.forget, check=check)).result == "mended"


@pytest.mark.parametrize("ticks", range(6))
async def test_program_06_what_was_recorded_is_given_though_a_cancel_comes_meanwhile(
    tmp_path: Path, world: World, ticks: int, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await _saga(world, "a", 1_000, ctx)

    async def cancel(engine: Engine) -> None:
        handle = await engine.start(a, id="it")
        while not world.done and await handle.status() not in ENDED:
            await trio.lowlevel.checkpoint()
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        await handle.cancel()
        await handle.wait(*ENDED)

    for seq in range(4, 12):
        for told in (False, True):
            stage = Stage(tmp_path / f"{seq}-{told}.db")
            world.forget()
            await stage.life(cancel, a, death=Death(after=seq, told=told))
            await stage.life(cancel, a)
            paths = [record["path"] for record in stage.records("step.completed")]
            assert paths in ([], ["reserve", "cleanup/release"])


async def test_program_08_what_is_drawn_before_a_kill_is_drawn_after_it(world: World) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        for _ in range(2):
            drawn = f"{ctx.random().random()} {ctx.uuid()} {ctx.now()}"
            await ctx.step(world.do, drawn, name="charge")
            await ctx.sleep(1)

    def check() -> None:
        assert [len(amounts) for amounts in world.keys.values()] == [1, 1]

    await crash_everywhere(a, setup=world.forget, check=check)


async def test_program_09_a_message_that_a_losing_branch_took_is_not_lost(world: World) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        winner, first = await ctx.race(go=lambda ctx: ctx.receive(Go), stop=lambda ctx: ctx.receive(Stop))
        other = await ctx.receive(Stop if winner == "go" else Go)
        return sorted(type(message).__name__ for message in (first, other))

    async def send(handle: Handle[Any]) -> None:
        async with trio.open_nursery() as nursery:
            for message in (Go(), Stop()):
                nursery.start_soon(
                    functools.partial(handle.send, message, message_id=type(message).__name__)  # kept once
                )

    assert (await crash_everywhere(a, setup=world.forget, drive=send)).result == ["Go", "Stop"]


async def test_program_10_what_takes_the_process_down_each_time_is_blocked_as_poison(stage: Stage) -> None:
    @activity(name="poison")
    async def poison(ctx: Context) -> None:
        await ctx.step(_nothing, name="kill")

    settings = Settings(poison_after=3)
    for _ in range(3):
        # The process is gone before anything is recorded of the step.
        await stage.killed(
            poison, at=("activity.resumed", None) if stage.journal.exists() else STARTED, settings=settings
        )
    assert await stage.status(poison, settings=settings) is ActivityStatus.BLOCKED
    assert stage.records("activity.blocked")[-1]["facts"]["cause"] == "poison"


STARTED = ("activity.started", None)


async def _nothing() -> None:
    pass


async def test_program_11_a_thread_that_is_late_has_ended_when_its_next_attempt_begins(stage: Stage) -> None:
    running: list[int] = []
    beside: list[int] = []

    def work() -> str:
        beside.append(len(running))
        running.append(1)
        # Late at its first attempt, and by real time: a thread knows no other.
        time.sleep(0.2 if current_step().attempt == 1 else 0)
        running.pop()
        return threading.current_thread().name

    @activity(name="a")
    async def a(ctx: Context) -> str:
        return await ctx.step(work, name="work", timeout=0.1, retry=Retry(2, 0.01))

    await stage.played(a)
    assert beside == [0, 0]
    assert stage.story() == ["step.failed work", "step.completed work", "activity.completed"]


async def test_program_12_a_compensation_has_its_time_again_after_an_hour_without_a_process(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def undo(what: str) -> None:
        await trio.sleep(20)
        stage.done.append(what)

    @activity(name="a")
    async def a(ctx: Context) -> None:
        try:
            await ctx.sleep(1_000)
        finally:
            # Both together would take longer than it has, and each alone longer than a cancel.
            async with ctx.cleanup(within=30):
                await ctx.step(undo, "one", name="one")
                await ctx.step(undo, "other", name="other")

    async def cancel(engine: Engine) -> None:
        handle = await engine.start(a, id="it")
        await trio.sleep(5)
        await handle.cancel()
        await handle.wait(*ENDED)

    settings = Settings(cancel_within=10)
    await stage.life(cancel, a, death=Death(at=("step.completed", "cleanup/one")), settings=settings)
    await trio.sleep(3_600)
    assert await stage.status(a, settings=settings) is ActivityStatus.CANCELLED
    assert stage.done == ["one", "other"]
    assert stage.records("activity.cancelled")[0]["facts"]["cause"] == "command"


# ---------------------------------------------------------------------------------------------------- wrong results


async def test_program_13_of_two_failures_the_first_in_the_journal_decides_for_ever(world: World) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        failing = [functools.partial(_in_branch, world.fail, name) for name in ("left", "right")]
        try:
            await ctx.gather(*failing)
        except BoomError as error:
            await ctx.step(world.do, f"handled {error}", name="handle")

    def check() -> None:
        assert len({done for done in world.done if done.startswith("handled")}) == 1

    await crash_everywhere(a, setup=world.forget, check=check)


async def test_program_13_of_two_that_win_the_first_in_the_journal_has_won_for_ever(world: World) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        winner, _ = await ctx.race(
            left=functools.partial(_in_branch, world.do, "left"), right=functools.partial(_in_branch, world.do, "right")
        )
        await ctx.step(world.do, f"won by {winner}", name="tell")

    def check() -> None:
        assert len({done for done in world.done if done.startswith("won")}) == 1

    await crash_everywhere(a, setup=world.forget, check=check)


async def _in_branch(function: Callable[[str], Any], name: str, ctx: Context) -> Any:
    return await ctx.step(function, name, name=name)


async def test_program_14_what_branches_share_in_memory_comes_out_the_same(world: World) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> bool:
        got: list[int] = []

        async def branch(ctx: Context, number: int) -> None:
            for round in range(2):
                await ctx.sleep(number * 2 % 3 + round)
                got.append(number)

        await ctx.map(branch, [1, 2])
        # What was there when it was recorded, against what is there after a replay.
        return await ctx.step(_same, list(got), name="recorded") == got

    assert (await crash_everywhere(a, setup=world.forget)).result is True


async def _same(value: list[int]) -> list[int]:
    return value


@pytest.mark.parametrize(
    ("before", "after"), [("ab", "axb"), ("abc", "ac"), ("ab", "ba"), ("abb", "ab"), ("ab", "b"), ("ab", "a")]
)
async def test_program_15_steps_that_were_put_in_taken_out_or_moved_are_seen(
    stage: Stage, before: str, after: str
) -> None:
    steps = before

    @activity(name="a")
    async def a(ctx: Context) -> None:
        for name in steps:
            await ctx.step(_nothing, name=name)
        await ctx.sleep(1)

    await stage.killed(a, at=("timer.set", "sleep"))
    steps = after
    assert await stage.status(a) is ActivityStatus.BLOCKED
    facts = stage.records("activity.blocked")[-1]["facts"]
    assert facts["cause"] == "nondeterminism"
    assert facts["recorded"] != facts["asked"]


async def test_program_16_code_that_swallows_the_error_is_blocked_all_the_same(stage: Stage) -> None:
    names = ["a", "b"]

    @activity(name="a")
    async def a(ctx: Context) -> str:
        for name in names:
            try:
                await ctx.step(_nothing, name=name)
            except Exception as error:
                stage.done.append(type(error))
        await ctx.sleep(1)
        return "nonsense"

    await stage.killed(a, at=("timer.set", "sleep"))
    names = ["a", "c"]
    assert await stage.status(a) is ActivityStatus.BLOCKED
    assert stage.done == [NonDeterminismError]


async def test_program_17_a_call_that_the_activitys_own_scope_ends_is_not_run_again(world: World) -> None:
    async def slow(what: str) -> None:
        await world.do(what)
        await trio.sleep(10)

    @activity(name="a")
    async def a(ctx: Context) -> bool:
        with trio.move_on_after(1) as scope:
            await ctx.step(slow, "slow", name="slow")
        await ctx.step(world.do, "after", name="after")
        return scope.cancelled_caught

    def check() -> None:
        assert world.is_before("slow", "after")

    assert (await crash_everywhere(a, setup=world.forget, check=check)).result is True


async def test_program_17_a_nursery_with_two_failing_branches_is_never_blocked(world: World) -> None:
    @activity(name="a", fatal=(BoomError,))
    async def a(ctx: Context) -> str:
        try:
            async with trio.open_nursery() as nursery:
                for name in ("left", "right"):
                    nursery.start_soon(_in_branch, world.fail, "work", ctx.branch(name))
        except* BoomError:
            pass
        return await ctx.step(world.do, "after", name="after")  # type: ignore[no-any-return]

    assert (await crash_everywhere(a, setup=world.forget)).result == "after"


@pytest.mark.parametrize(("sent_after", "received"), [(5, "Go(number=5)"), (20, "None")])
async def test_program_18_of_a_message_and_a_timer_the_earlier_wins_however_late_the_engine_looks(
    stage: Stage, sent_after: int, received: str, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> str:
        return repr(await ctx.receive(Go, timeout=10))

    @activity(name="nothing")
    async def nothing(ctx: Context) -> None: ...

    async def send(engine: Engine) -> None:
        await engine.handle("it").send(Go(sent_after))

    await stage.killed(a, at=("timer.set", "receive"))
    await trio.sleep(sent_after)
    # An engine without its definition: it takes the message and cannot look.
    await stage.life(send, nothing)
    await trio.sleep(100)
    assert await stage.played(a) == received


def a_child(world: World) -> Any:
    """An activity that reserves, and releases whatever comes."""

    @activity(name="child")
    async def child(ctx: Context, name: str, seconds: float) -> str:
        await _saga(world, name, seconds, ctx)
        return name

    return child


async def test_program_19_a_crash_of_a_parent_leaves_its_children_alone(world: World) -> None:
    child = a_child(world)

    @activity(name="parent", restart=SOON)
    async def parent(ctx: Context) -> str:
        world.run = ctx.run_number
        started = await ctx.start(child, "a", 50.0)
        await ctx.step(world.fail_once, "work", name="work")
        return await started.result()

    def check() -> None:
        assert world.is_before("work", "release a")
        assert world.is_before("reserve a", "release a")

    crashes = await crash_everywhere(parent, definitions=[child], setup=world.forget, check=check)
    assert crashes.result == "a"
    assert {"crash-everywhere/child/0/reserve", "crash-everywhere/child/0/cleanup/release"} <= crashes.effects.keys()


@pytest.mark.parametrize("ends", ["failed", "cancelled"])
async def test_program_19_children_end_before_their_parent_does(
    stage: Stage, world: World, ends: str, autojump_clock: trio.testing.MockClock
) -> None:
    child = a_child(world)

    @activity(name="parent", fatal=(OtherError,))
    async def parent(ctx: Context) -> None:
        await ctx.start(child, "a", 1_000.0)
        await ctx.sleep(1)
        if ends == "failed":
            raise OtherError
        await ctx.sleep(1_000)

    async def body(engine: Engine) -> None:
        handle = await engine.start(parent, id="it")
        await trio.sleep(2)
        if ends == "cancelled" and await handle.status() not in ENDED:
            await handle.cancel()
        await handle.wait(*ENDED)

    for seq in range(10, 20):
        for told in (False, True):
            world.forget()
            one = Stage(stage.journal.with_name(f"{seq}-{told}.db"))
            await one.life(body, parent, child, death=Death(after=seq, told=told))
            await one.life(body, parent, child)
            assert world.is_before("reserve a", "release a")
            of_child, of_parent = one.records(id="it/child")[-1], one.records()[-1]
            assert (of_child["kind"], of_parent["kind"]) == ("activity.cancelled", f"activity.{ends}")
            assert of_child["seq"] < of_parent["seq"]


async def test_program_19_a_child_that_a_cancelled_branch_waits_for_is_cancelled_with_it(world: World) -> None:
    child = a_child(world)

    @activity(name="parent")
    async def parent(ctx: Context) -> str:
        winner, _ = await ctx.race(
            child=lambda ctx: ctx.run(child, "a", 1_000.0), timer=lambda ctx: _wait_and_say(ctx, 5)
        )
        await ctx.sleep(10)
        return winner

    def check() -> None:
        assert world.is_before("reserve a", "release a")

    crashes = await crash_everywhere(parent, definitions=[child], setup=world.forget, check=check)
    assert crashes.result == "timer"


async def _wait_and_say(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return "over"


async def test_program_20_each_branch_goes_the_way_that_it_began(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    is_patched = False

    async def branch(ctx: Context, number: int) -> str:
        await ctx.sleep(number)
        way = "new" if is_patched and ctx.patched("better") else "old"
        await ctx.step(_nothing, name=way)
        return way

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        return await ctx.map(branch, [2, 1])

    # The branch that went past the change in the old way is not the first that asks.
    await stage.killed(a, at=("step.completed", "map[1]/old"))
    is_patched = True
    assert await stage.played(a) == ["new", "old"]


@attrs.frozen
class Money:
    amount: float
    currencies: tuple[str, ...]


class TwoError(Exception):
    """One that neither its `args` nor pickle can make again."""

    def __init__(self, code: int, *, why: str) -> None:
        self.code = code
        self.why = why
        super().__init__(f"{code}: {why}")


async def _pay() -> Money:
    return Money(1, ("EUR",))


async def _alias() -> dict[str, list[int]]:
    one = [1]
    return {"one": one, "other": one}


async def _fail_with_two() -> None:
    error = TwoError(7, why="no")
    error.add_note("noted")
    raise error


async def test_program_21_values_are_the_same_live_and_after_a_replay() -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        money = await ctx.step(_pay)
        alias = await ctx.step(_alias)
        alias["one"].append(2)
        try:
            await ctx.step(_fail_with_two)
        except TwoError as error:
            told = f"{error.code} {error.why} {error} {error.__notes__}"
        return [repr(money), repr(alias), told]

    crashes = await crash_everywhere(a)
    assert crashes.result == [
        "Money(amount=1.0, currencies=('EUR',))",
        "{'one': [1, 2], 'other': [1]}",
        "7 no 7: no ['noted']",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # A set of these is read in the order in which they were put in.
        ({8, 0}, {0, 8}),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}),
        ([1.0, -0.0], [1, 0]),
    ],
    ids=["set", "mapping", "float"],
)
async def test_program_22_what_is_equal_has_one_digest(stage: Stage, one: Any, other: Any) -> None:
    given = one

    async def take_set(values: set[int]) -> None: ...
    async def take_mapping(values: dict[str, int]) -> None: ...
    async def take_floats(values: list[float]) -> None: ...

    takes = {set: take_set, dict: take_mapping, list: take_floats}[type(one)]

    @activity(name="a")
    async def a(ctx: Context) -> str:
        await ctx.step(takes, given, name="take")
        return "done"

    await stage.killed(a, at=("step.completed", "take"))
    given = other
    assert await stage.played(a) == "done"


@attrs.define
class SetBack(TrioTime):
    """A clock that somebody sets."""

    by: dt.timedelta = dt.timedelta(0)

    def now(self) -> dt.datetime:
        return super().now() + self.by


@pytest.mark.parametrize("hours", [-1, 1])
async def test_program_23_a_clock_that_is_set_while_nobody_runs_makes_no_wait_longer(
    stage: Stage, hours: int, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.sleep(10)

    clock = SetBack()
    await stage.killed(a, at=("timer.set", "sleep"), clock=clock)
    clock.by = dt.timedelta(hours=hours)
    began = trio.current_time()
    await stage.played(a, clock=clock)
    assert trio.current_time() - began <= (10 if hours < 0 else 0)


async def test_program_24_a_context_that_two_tasks_use_fails_the_activity_at_once(stage: Stage) -> None:
    @activity(name="a", restart=SOON)
    async def a(ctx: Context) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.sleep, 1)
            await trio.testing.wait_all_tasks_blocked()
            try:
                ctx.branch("mine")
            except ConcurrentContextError as error:
                stage.done.append(error)
        return "nonsense"

    assert await stage.status(a) is ActivityStatus.FAILED
    assert len(stage.done) == 1
    assert stage.records("activity.failed")[0]["facts"]["error"].endswith("ConcurrentContextError")
    assert stage.records("activity.crashed") == []


@pytest.mark.filterwarnings("error")
async def test_program_25_a_call_that_is_not_awaited_is_an_error_and_not_nothing(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        ctx.emit("it.happened", 1)
        await ctx.step(_nothing, name="after")

    assert await stage.status(a) is ActivityStatus.FAILED
    assert "ctx.emit" in stage.records("activity.failed")[0]["data"]["error"]["message"]


async def test_program_26_a_cancel_that_is_swallowed_is_raised_at_every_call_again(world: World) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> str:
        for number in range(1_000):
            try:
                await ctx.sleep(1)
                await ctx.step(world.do, number, name="work")
            except BaseException:
                pass
        return "nonsense"

    async def cancel(handle: Handle[Any]) -> None:
        await trio.sleep(2.5)
        await handle.cancel()

    def check() -> None:
        # At most three lives, and two and a half seconds of each.
        assert max(world.done) < 9

    with pytest.raises(ActivityCancelledError):
        await crash_everywhere(a, setup=world.forget, drive=cancel, check=check)


async def test_program_27_a_deadline_ends_the_activity_and_no_restart_follows(world: World) -> None:
    @activity(name="a", timeout=100, restart=SOON)
    async def a(ctx: Context) -> None:
        await _saga(world, "a", 1_000, ctx)

    def check() -> None:
        assert world.is_before("reserve a", "release a")

    with pytest.raises(ActivityFailedError, match="ActivityTimeoutError"):
        await crash_everywhere(a, setup=world.forget, check=check)


async def test_program_27_a_deadline_takes_on_what_is_paused_and_does_nothing_in_a_cleanup(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", timeout=100)
    async def a(ctx: Context) -> None:
        try:
            await ctx.sleep(1_000)
        finally:
            async with ctx.cleanup(within=None):
                await ctx.sleep(200)
                await ctx.step(_nothing, name="release")

    async def pause(engine: Engine) -> ActivityStatus:
        handle = await engine.start(a, id="it")
        await trio.sleep(1)
        await handle.pause()
        return await handle.wait(*ENDED)

    async def cancel(engine: Engine) -> ActivityStatus:
        handle = await engine.start(a, id="other")
        await trio.sleep(1)
        await handle.cancel()
        return await handle.wait(*ENDED)

    assert await stage.life(pause, a) is ActivityStatus.FAILED
    assert await stage.life(cancel, a) is ActivityStatus.CANCELLED


async def test_program_28_crashes_that_get_no_further_are_counted_however_slow_they_are(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(2, 60, initial=100, maximum=100, jitter=0))
    async def a(ctx: Context) -> None:
        await ctx.sleep(120)
        raise OtherError("each time")

    assert await stage.status(a) is ActivityStatus.FAILED
    assert len(stage.records("activity.crashed")) == 2


async def test_program_29_an_attempt_that_left_no_record_is_counted(stage: Stage) -> None:
    async def tell() -> int:
        return current_step().attempt

    @activity(name="a")
    async def a(ctx: Context) -> int:
        return await ctx.step(tell)

    await stage.killed(a, at=STARTED, told=True)
    assert await stage.played(a) == 2


async def test_program_30_a_retry_does_what_is_open_and_no_more(
    stage: Stage, world: World, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context, is_compensated: bool) -> str:
        await ctx.step(world.do, "before", name="before")
        world.run = ctx.run_number
        try:
            await ctx.step(world.fail_once, "card", name="card")
        except BoomError:
            if is_compensated:
                await ctx.step(world.do, "refund", name="refund")
            raise
        return "done"

    async def retry(engine: Engine) -> None:
        handle = await engine.start(a, False, id="open")
        await handle.wait(*ENDED)
        await handle.retry()
        assert await handle.result() == "done"
        assert world.done == ["before", "card", "card"]
        handle = await engine.start(a, True, id="compensated")
        await handle.wait(*ENDED)
        with pytest.raises(CommandDeniedError, match="fork it at card"):
            await handle.retry()

    await stage.life(retry, a)


async def test_program_30_a_fork_repeats_nothing_that_was_done_beside(
    stage: Stage, world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def branch(ctx: Context, name: str) -> str:
        await ctx.step(world.do, f"first {name}", name="first")
        await ctx.sleep(1)
        await ctx.step(world.do, f"second {name}", name="second")
        return name

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        return await ctx.map(branch, ["left", "right"])

    async def fork(engine: Engine) -> None:
        handle = await engine.start(a, id="it")
        await handle.result()
        world.forget()
        other = await handle.fork(at="map[1]/second")
        assert await other.result() == ["left", "right"]

    await stage.life(fork, a)
    assert world.done == ["second right"]


@pytest.mark.parametrize("name", ["charge#2", "a/b", "map[0]", "", "a\nb", "x" * 256])
async def test_program_32_what_could_be_taken_for_a_path_is_no_name(stage: Stage, name: str) -> None:
    with pytest.raises(DefinitionError):
        step(name=name)(_nothing)

    @activity(name="a", fatal=(DefinitionError,))
    async def a(ctx: Context) -> None:
        await ctx.step(_nothing, name=name)

    assert await stage.status(a) is ActivityStatus.FAILED
    assert stage.story() == ["activity.failed"]


async def test_program_32_every_call_has_one_path(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.map(_double, [1])
        await ctx.map(_double, [1])
        await ctx.step(functools.partial(_double, 3))
        await ctx.step(lambda: None)
        await ctx.race(yes=_branch, no=_branch)

    await stage.played(a)
    paths = {record["path"] for record in stage.records()} - {None}
    assert paths >= {"map[0]/_double", "map#2[0]/_double", "_double", "<lambda>", "race[yes]/_nothing"}


async def _double(number: int) -> int:
    return 2 * number


async def _branch(ctx: Context) -> None:
    await ctx.step(_nothing)


async def test_program_32_a_callable_without_a_name_needs_one(stage: Stage) -> None:
    class Nameless:
        async def __call__(self) -> int:
            return 3

    @activity(name="a", fatal=(DefinitionError,))
    async def a(ctx: Context, name: str | None) -> int:
        return await ctx.step(Nameless(), name=name)

    assert await stage.played(a, "named") == 3
    assert await stage.status(a, None, id="nameless") is ActivityStatus.FAILED


async def test_program_34_what_cannot_be_encoded_is_an_error_and_no_effect_is_repeated(world: World) -> None:
    async def unencodable() -> Any:
        await world.do("effect")
        return (value for value in (1, 2))

    async def give_what_cannot_be_encoded(ctx: Context) -> Any:
        await ctx.step(world.do, "branch", name="branch")
        return lambda: None

    @activity(name="a", restart=SOON)
    async def a(ctx: Context) -> str:
        with pytest.raises(PayloadError):
            await ctx.step(world.do, object(), name="argument")
        await ctx.gather(give_what_cannot_be_encoded)
        await ctx.step(world.do, "before", name="before")
        await ctx.step(unencodable, name="result", retry=Retry(5))
        return "nonsense"

    def check() -> None:
        # Twice or three times, where it was killed before that was recorded.
        assert world.done.count("effect") <= 3

    with pytest.raises(ActivityFailedError, match="PayloadError"):
        await crash_everywhere(a, setup=world.forget, check=check)


# ---------------------------------------------------------------------------------------------------- stopped often


async def test_a_step_in_finally_runs_once_and_after_the_body_however_often_it_is_stopped(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def work(what: str) -> None:
        stage.done.append(what)

    @activity(name="a")
    async def a(ctx: Context) -> None:
        try:
            await ctx.sleep(3_600)
            await ctx.step(work, "body", name="body")
        finally:
            await ctx.step(work, "finally", name="finally")

    async def body(engine: Any) -> None:
        await engine.start(a, id="it")
        await trio.sleep(10)

    for number in range(100):
        death = Death(at=("activity.resumed", None), told=bool(number % 4)) if number % 2 else Death()
        await live(body, str(stage.journal), a, death=death)
        assert stage.done == []
    await stage.played(a)
    assert stage.done == ["body", "finally"]
