"""Work side by side: maps, branches, their limits and decisions, and what they share in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from engine import (
    ActivityFailedError,
    ActivityStatus,
    Context,
    Restart,
    Retry,
    activity,
    current_step,
    step,
)
from engine.testing.killing import Death
from tests.activities.stage import Stage


class BoomError(Exception):
    pass


@step(name="work")
async def work(seconds: float, what: str = "") -> str:
    await trio.sleep(seconds)
    if what.startswith("fail"):
        raise BoomError(what)
    return what


@step(name="at-second")
async def at_second() -> str:
    if current_step().attempt == 1:
        raise BoomError
    return "second time"


async def everywhere(
    stage: Stage, definition: Any, *args: Any, check: Callable[[Any], object] = lambda given: None
) -> list[Any]:
    """What each run gave that was killed at one of the activity's records, and replayed as a whole at the end."""
    await stage.status(definition, *args)
    whole = [record["seq"] for record in stage.records()]
    given = []
    for seq in range(whole[0] + 1, whole[-1] + 1):
        for told in (False, True):
            place = Stage(stage.journal.with_name(f"{stage.journal.stem}-killed-{seq}-{told}.db"))
            await place.status(definition, *args, death=Death(after=seq, told=told, terminal=True))
            await place.status(definition, *args, death=Death(terminal=True))
            given.append(await place.played(definition, *args))
            check(given[-1])
    return given


# ---------------------------------------------------------------------------------------------------- map


async def test_a_map_of_steps_gives_their_results_in_the_order_of_the_items(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="square")
    async def square(number: int) -> int:
        await trio.sleep(5 - number)
        return number * number

    @activity(name="a")
    async def a(ctx: Context) -> list[int]:
        return await ctx.map(square, range(5))

    assert await stage.played(a) == [0, 1, 4, 9, 16]
    # n + 2 records: a lone step's record is its branch's end.
    assert len(stage.story()) == 5 + 2 + 1


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("limit", [1, 2, None])
async def test_no_more_run_at_once_than_the_limit_says(
    stage: Stage, autojump_clock: trio.testing.MockClock, limit: int | None, plain: bool
) -> None:
    running = 0
    most = 0

    @step(name="count")
    async def count(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return number

    async def branch(ctx: Context, number: int) -> int:
        return await ctx.step(count, number)

    @activity(name="a")
    async def a(ctx: Context) -> list[int]:
        return await ctx.map(count if plain else branch, range(6), limit=limit)

    assert await stage.played(a) == list(range(6))
    assert most == (limit or 6)


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_below_one_is_refused(stage: Stage, limit: int) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        await ctx.map(work, [1.0], limit=limit)

    with pytest.raises(ActivityFailedError, match="limit"):
        await stage.played(a)


async def test_a_map_of_nothing_gives_nothing(stage: Stage) -> None:
    async def branch(ctx: Context, number: int) -> int:
        return number

    @activity(name="a")
    async def a(ctx: Context) -> list[Any]:
        return [await ctx.map(work, []), await ctx.map(branch, [])]

    assert await stage.played(a) == [[], []]


async def test_nested_maps_have_paths_of_their_own(stage: Stage) -> None:
    async def inner(ctx: Context, number: int) -> str:
        return await ctx.step(work, 0, str(number))

    async def outer(ctx: Context, number: int) -> list[str]:
        return await ctx.map(inner, range(number))

    @activity(name="a")
    async def a(ctx: Context) -> list[list[str]]:
        return await ctx.map(outer, [1, 2])

    assert await stage.played(a) == [["0"], ["0", "1"]]
    assert {record["path"] for record in stage.records("step.completed")} == {
        "map[0]/map[0]/work",
        "map[1]/map[0]/work",
        "map[1]/map[1]/work",
    }


async def test_what_a_branch_gives_need_not_be_encodable(stage: Stage) -> None:
    async def branch(ctx: Context, number: int) -> Any:
        await ctx.step(work, 0)
        return object

    @activity(name="a")
    async def a(ctx: Context) -> int:
        return len({found is object for found in await ctx.map(branch, range(3))})

    await stage.killed(a, at=("scope.ended", "map"))
    assert await stage.played(a) == 1


# ---------------------------------------------------------------------------------------------------- the decision


async def test_the_first_failure_in_journal_order_decides_live_and_at_replay(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Both branches fail at one instant; whichever is recorded first, its handler alone has run in every life."""

    async def branch(ctx: Context, number: int) -> None:
        await ctx.step(work, 1, f"fail {number}")

    @step(name="handle")
    async def handle(what: str) -> str:
        stage.done.append(what)
        return what

    @activity(name="a")
    async def a(ctx: Context) -> str:
        try:
            await ctx.map(branch, range(3))
        except BoomError as error:
            return await ctx.step(handle, str(error))
        return ""

    for given in await everywhere(stage, a):
        assert given.startswith("fail")
    for place in stage.journal.parent.glob("*-killed-*.db"):
        first = next(record for record in Stage(place).records("branch.ended") if record["facts"]["outcome"] == "error")
        (handled,) = Stage(place).records("step.completed")
        assert handled["data"]["args"] == [f"fail {first['path'][4]}"]


async def test_a_failure_comes_bare_and_the_others_are_cancelled(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def branch(ctx: Context, number: int) -> None:
        try:
            await ctx.step(work, number, "fail" if number == 1 else "")
            await ctx.sleep(100)
        except trio.Cancelled:
            stage.done.append(number)
            raise

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        try:
            await ctx.map(branch, range(4))
        except BoomError as error:
            return [type(error).__name__, str(error)]
        return []

    assert await stage.played(a) == ["BoomError", "fail"]
    assert stage.done == [0, 2, 3]
    outcomes = {record["path"]: record["facts"]["outcome"] for record in stage.records("branch.ended")}
    assert outcomes == {"map[0]": "cancelled", "map[1]": "error", "map[2]": "cancelled", "map[3]": "cancelled"}
    assert trio.current_time() == 1


async def test_no_branch_begins_after_the_decision(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def branch(ctx: Context, number: int) -> None:
        stage.done.append(number)
        await ctx.step(work, 1, "fail" if number == 1 else "")

    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        await ctx.map(branch, range(9), limit=2)

    with pytest.raises(ActivityFailedError):
        await stage.played(a)
    assert stage.done in ([0, 1], [0, 1, 2])


async def test_no_branch_begins_after_two_that_failed_in_one_commit(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """The second of them comes too late, and its slot is free before anybody is told of the first."""

    async def branch(ctx: Context, number: int) -> None:
        stage.done.append(number)
        await ctx.step(work, 1, "fail")

    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        await ctx.map(branch, range(9), limit=2)

    for number in range(20):
        assert await stage.status(a, id=str(number)) is ActivityStatus.FAILED
    assert set(stage.done) == {0, 1}


async def test_no_branch_begins_in_a_map_that_is_cancelled_as_a_whole(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def inner(ctx: Context, number: int) -> None:
        stage.done.append(number)
        await ctx.sleep(100)

    async def outer(ctx: Context, number: int) -> None:
        if number:
            await ctx.map(inner, range(50), limit=1)
        await ctx.step(work, 1, "fail")

    @activity(name="a")
    async def a(ctx: Context) -> str:
        try:
            await ctx.map(outer, range(2))
        except BoomError:
            return "failed"
        return ""

    assert set(await everywhere(stage, a)) == {"failed"}
    assert set(stage.done) == {0}


async def test_a_loser_that_swallows_its_cancellation_comes_too_late(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def branch(ctx: Context, number: int) -> str:
        if number == 0:
            await ctx.step(work, 1, "fail")
        try:
            await ctx.sleep(100)
        except trio.Cancelled:
            if number == 2:
                raise KeyError("late too") from None
        return "late"

    @activity(name="a")
    async def a(ctx: Context) -> str:
        try:
            await ctx.map(branch, range(3))
        except BoomError as error:
            return str(error)
        return ""

    assert set(await everywhere(stage, a)) == {"fail"}
    outcomes = {record["path"]: record["facts"]["outcome"] for record in stage.records("branch.ended")}
    assert outcomes == {"map[0]": "error", "map[1]": "late", "map[2]": "late"}


async def test_a_step_that_a_loser_had_handed_to_the_journal_is_given_to_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 6: whatever instant the decision falls on, a recorded step is one that the branch knows of."""

    async def branch(ctx: Context, number: int) -> None:
        if number == 0:
            await ctx.step(work, 1, "fail")
        try:
            await ctx.step(work, 1, "reserve")
            stage.done.append("knows")
            await ctx.sleep(50)
        finally:
            stage.done.append("left")

    @activity(name="a")
    async def a(ctx: Context) -> str:
        try:
            await ctx.map(branch, range(2))
        except BoomError:
            return "failed"
        return ""

    for _ in range(20):
        stage.done.clear()
        place = Stage(stage.journal.with_name(f"{_}.db"))
        assert await place.status(a, death=Death(terminal=True)) is None
        assert await place.played(a) == "failed"
        recorded = bool(place.records("step.completed"))
        assert stage.done == (["knows", "left"] if recorded else ["left"]) * 2


async def test_a_branch_with_records_is_entered_before_its_slot_is_given_to_another(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 3: killed while a nested branch is under way, which the next life must come to before it is cancelled."""

    async def inner(ctx: Context, number: int) -> str:
        await ctx.step(work, 0, f"reserve {number}")
        stage.done.append(f"reserved {number}")
        await ctx.step(work, 1, "fail" if number == 2 else "")
        return f"{number}"

    async def outer(ctx: Context, number: int) -> list[str]:
        return await ctx.map(inner, range(4), limit=1)

    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> list[list[str]]:
        try:
            return await ctx.map(outer, range(2), limit=1)
        except BoomError as error:
            return [[str(error)]]

    assert {str(given) for given in await everywhere(stage, a)} == {"[['fail']]"}


# ---------------------------------------------------------------------------------------------------- shared memory


async def test_what_branches_share_comes_out_the_same_after_every_kill(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 14. Steps end in another order than they began; nested branches and losers write to the list too."""

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        shared: list[str] = []

        async def inner(ctx: Context, item: tuple[int, int]) -> None:
            shared.append(f"{item} begins")
            try:
                await ctx.step(work, (7 * item[0] + 3 * item[1]) % 4 / 2, "fail" if item == (1, 1) else "x")
                shared.append(f"{item} worked")
                await ctx.sleep(1)
                shared.append(f"{item} slept")
            except trio.Cancelled:
                shared.append(f"{item} cancelled")
                raise

        async def outer(ctx: Context, number: int) -> None:
            shared.append(f"{number} begins")
            try:
                await ctx.map(inner, [(number, index) for index in range(3)], limit=2)
            except BoomError:
                shared.append(f"{number} failed")
            await ctx.step(work, 0.5)
            shared.append(f"{number} ends")

        await ctx.map(outer, range(3))
        stage.done.append(list(shared))
        return shared

    def check(given: list[str]) -> None:
        # The list was made at least twice: by the life that ended just before, and by one that replayed everything.
        assert stage.done[-2:] == [given, given]
        stage.done.clear()

    await everywhere(stage, a, check=check)


async def test_a_branch_whose_end_was_lost_ends_after_what_is_recorded_of_others(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """All steps end at one instant, so that a kill takes away the end of one branch and leaves outcomes of others."""

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        shared: list[str] = []

        async def branch(ctx: Context, number: int) -> None:
            shared.append(f"{number} begins")
            await ctx.step(work, 1)
            shared.append(f"{number} worked")

        await ctx.map(branch, range(9), limit=4)
        stage.done.append(list(shared))
        return shared

    def check(given: list[str]) -> None:
        assert stage.done[-2:] == [given, given]

    for number in range(3):
        await everywhere(Stage(stage.journal.with_name(f"{number}.db"), stage.done), a, check=check)


async def test_what_follows_a_cancel_of_its_own_stands_where_it_stood(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        shared: list[str] = []

        async def branch(ctx: Context, number: int) -> None:
            if number:
                for _ in range(4):
                    await ctx.sleep(0.5)
                    shared.append(f"slept {_}")
            else:
                with trio.move_on_after(1.2):
                    await ctx.sleep(60)
                shared.append("left")
                await ctx.sleep(5)

        await ctx.map(branch, range(2))
        stage.done.append(list(shared))
        return shared

    def check(given: list[str]) -> None:
        assert stage.done[-2:] == [given, given]

    await everywhere(stage, a, check=check)


async def test_what_losers_share_with_others_comes_out_the_same(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Losers that are still to be given an outcome, beside branches that go on: steps enough for both to meet."""

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        shared: list[str] = []

        async def busy(ctx: Context, name: str) -> None:
            try:
                await ctx.step(work, 1)
                for number in range(8):
                    await ctx.step(work, 0)
                    shared.append(f"{name}{number}")
            except trio.Cancelled:
                shared.append(f"{name} cancelled")
                raise

        async def inner(ctx: Context, number: int) -> None:
            if number == 0:
                await ctx.step(work, 1)
                await ctx.step(work, 0)
                await ctx.step(work, 0, "fail")
            await busy(ctx, f"i{number}-")

        async def outer(ctx: Context, number: int) -> None:
            if number:
                await busy(ctx, f"o{number}-")
                return
            try:
                await ctx.map(inner, range(3))
            except BoomError:
                shared.append("failed")

        await ctx.map(outer, range(3))
        stage.done.append(list(shared))
        return shared

    for number in range(25):
        place = Stage(stage.journal.with_name(f"{number}.db"))
        await place.status(a, death=Death(terminal=True))
        await place.played(a)
        live, replayed = stage.done[-2:]
        assert replayed == live


async def test_branches_begin_in_the_order_of_the_items(stage: Stage) -> None:
    async def inner(ctx: Context, number: str) -> None:
        stage.done.append(number)
        await ctx.step(work, 0)

    async def outer(ctx: Context, number: int) -> None:
        stage.done.append(str(number))
        await ctx.map(inner, [f"{number}{letter}" for letter in "abc"])

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.map(outer, range(4))

    orders = set()
    for _ in range(10):
        stage.done.clear()
        await stage.played(a, id=str(_))
        orders.add(" ".join(stage.done))
    assert orders == {"0 1 2 3 0a 0b 0c 1a 1b 1c 2a 2b 2c 3a 3b 3c"}


# ---------------------------------------------------------------------------------------------------- nurseries


async def test_tasks_of_the_activitys_own_nursery_have_branches(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        found: dict[str, str] = {}

        async def task(ctx: Context, what: str) -> None:
            found[what] = await ctx.step(work, len(what), what)

        async with trio.open_nursery() as nursery:
            for what in ("bb", "a", "ccc"):
                nursery.start_soon(task, ctx.branch("task"), what)
        return list(found)

    assert set(map(str, await everywhere(stage, a))) == {"['a', 'bb', 'ccc']"}
    assert [record["path"] for record in stage.records("step.completed")] == ["task#2/work", "task/work", "task#3/work"]


async def test_a_nursery_with_two_failing_branches_is_never_blocked(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 17: what the nursery cancels leaves a record, and a replay waits there for the same cancel."""

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        async def task(ctx: Context, what: str) -> None:
            await ctx.step(work, 1, what)
            await ctx.sleep(1)

        try:
            async with trio.open_nursery() as nursery:
                for what in ("fail 1", "fail 2", "x", "y"):
                    nursery.start_soon(task, ctx.branch(what.replace(" ", "-")), what)
        except ExceptionGroup as group:
            return sorted(str(error) for error in group.exceptions)
        return []

    for given in await everywhere(stage, a):
        assert set(given) <= {"fail 1", "fail 2"}
        assert given


async def test_what_a_nursery_cancelled_is_tried_anew_with_the_failure(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        found: list[str] = []

        async def good(ctx: Context) -> None:
            found.append(await ctx.step(work, 5, "good"))

        async def bad(ctx: Context) -> None:
            found.append(await ctx.step(at_second))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(good, ctx.branch("good"))
            nursery.start_soon(bad, ctx.branch("bad"))
        return found

    assert await stage.played(a) == ["second time", "good"]
    (crashed,) = stage.records("activity.crashed")
    assert crashed["facts"]["superseded"] == ["bad/at-second", "good/work"]


async def beside_a_failure(ctx: Context, other: Callable[[Context], Awaitable[None]]) -> None:
    """A task beside one that fails once: the nursery cancels it."""

    async def failing(ctx: Context) -> None:
        try:
            await ctx.step(at_second)
        finally:
            await trio.sleep(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other, ctx.branch("other"))
        nursery.start_soon(failing, ctx.branch("failing"))


async def test_what_a_cancelled_task_asked_in_vain_does_not_bind_the_next_run(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """The failure that led to it is tried anew, so the task is not cancelled, and goes another way."""

    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> None:
        async def other(ctx: Context) -> None:
            found = "nothing"
            try:
                found = await ctx.step(work, 5, "something")
            finally:
                stage.done.append(await ctx.step(work, 0, found))

        await beside_a_failure(ctx, other)

    await everywhere(stage, a)
    assert set(stage.done) == {"something"}
    assert stage.story()[:4] == [
        "step.failed failing/at-second",
        "call.abandoned other/work",
        "call.abandoned other/work#2",
        "activity.crashed",
    ]


async def test_a_failure_after_which_a_cancelled_task_undid_its_work_is_not_tried_anew(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> None:
        async def other(ctx: Context) -> None:
            try:
                await ctx.step(work, 5, "do")
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await ctx.step(work, 0, "undo")
                raise

        await beside_a_failure(ctx, other)

    assert await stage.status(a) is ActivityStatus.FAILED
    (failed,) = stage.records("activity.failed")
    assert failed["facts"]["why"] == "acted_upon"


async def test_a_task_that_its_own_scope_cancelled_beside_a_failure_goes_on_from_there(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> None:
        async def other(ctx: Context) -> None:
            with trio.move_on_after(1):
                await ctx.step(work, 5)
            await ctx.step(work, 0, "after")

        await beside_a_failure(ctx, other)

    await everywhere(stage, a)
    (crashed,) = stage.records("activity.crashed")
    assert crashed["facts"]["superseded"] == ["failing/at-second"]


async def test_a_call_is_given_up_with_the_nurseries_around_it_and_no_others(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        async def late(ctx: Context) -> None:
            with trio.move_on_after(1):
                await ctx.sleep(60)

        async def cancelled(ctx: Context) -> None:
            await ctx.sleep(60)

        async with trio.open_nursery() as outer:
            outer.start_soon(late, ctx.branch("outer"))
            async with trio.open_nursery() as inner:
                inner.start_soon(cancelled, ctx.branch("inner"))
                inner.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.sleep(2)

    await stage.played(a)
    given_up = {record["path"]: record["facts"]["nursery"] for record in stage.records("call.abandoned")}
    assert given_up == {"inner/sleep": True, "outer/sleep": False}


@pytest.mark.parametrize("fails", ["the block", "a task"])
async def test_a_block_and_the_tasks_of_its_nursery_are_tried_anew_together(
    stage: Stage, autojump_clock: trio.testing.MockClock, fails: str
) -> None:
    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> None:
        async def task(ctx: Context) -> None:
            await (ctx.step(at_second) if fails == "a task" else ctx.step(work, 5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, ctx.branch("task"))
            await (ctx.step(at_second) if fails == "the block" else ctx.step(work, 5))

    await everywhere(stage, a)


# ---------------------------------------------------------------------------------------------------- own cancel scopes


@pytest.mark.parametrize("call", ["step", "retry", "sleep", "map", "branches", "nothing"])
async def test_a_call_that_the_activitys_own_scope_ends_is_not_made_again(
    stage: Stage, autojump_clock: trio.testing.MockClock, call: str
) -> None:
    @step(name="long")
    async def long(number: int = 0) -> None:
        stage.done.append("long")
        await trio.sleep(60)

    async def branch(ctx: Context, number: int) -> None:
        await ctx.step(long)

    @activity(name="a")
    async def a(ctx: Context) -> bool:
        with trio.move_on_after(5) as scope:
            match call:
                case "step":
                    await ctx.step(long)
                case "retry":
                    await ctx.step(work, 0, "fail", retry=Retry(2, 60))
                case "sleep":
                    await ctx.sleep(60)
                case "map":
                    await ctx.map(long, range(2))
                case "branches":
                    await ctx.map(branch, range(2))
                case "nothing":
                    await trio.sleep(60)
        await ctx.step(work, 0, "after")
        return scope.cancelled_caught

    assert set(await everywhere(stage, a)) == {True}
    abandoned = [record["path"] for record in stage.records("call.abandoned")]
    # The calls within a call before it.
    assert abandoned[-1:] == {"map": ["map"], "branches": ["map"], "nothing": []}.get(call, abandoned)
    assert set(abandoned[:-1]) == ({"map[0]/long", "map[1]/long"} if call in ("map", "branches") else set())


async def test_a_call_is_abandoned_before_anything_follows_from_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Killed when what follows was begun: by then it is recorded that the call was given up, so it is not repeated."""

    @step(name="card")
    async def card() -> None:
        stage.done.append("card")
        if len(stage.done) == 1:
            await trio.sleep(60)

    @step(name="cash")
    async def cash() -> None:
        stage.done.append("cash")

    @activity(name="a")
    async def a(ctx: Context) -> None:
        with trio.move_on_after(5) as scope:
            await ctx.step(card)
        if scope.cancelled_caught:
            await ctx.step(cash)

    await stage.killed(a, at=("call.abandoned", "card"), told=True)
    await stage.played(a)
    assert stage.done == ["card", "cash", "cash"]


async def test_a_step_whose_own_nursery_raises_while_it_is_cancelled_is_abandoned(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def stubborn() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    @step(name="both")
    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stubborn)
            await trio.sleep_forever()

    @activity(name="a")
    async def a(ctx: Context) -> bool:
        with trio.move_on_after(5) as scope:
            await ctx.step(both)
        await ctx.step(work, 0)
        return scope.cancelled_caught

    assert set(await everywhere(stage, a)) == {True}


async def test_an_activity_that_swallows_every_cancellation_still_ends(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> int:
        swallowed = 0
        with trio.CancelScope() as scope:
            scope.cancel()
            for _ in range(3):
                try:
                    await ctx.step(work, 0)
                except BaseException:
                    swallowed += 1
        return swallowed

    assert set(await everywhere(stage, a)) == {3}
    assert stage.story() == [
        "call.abandoned work",
        "call.abandoned work#2",
        "call.abandoned work#3",
        "activity.completed",
    ]


async def test_every_kill_of_a_failing_map_ends_as_it_would_have(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @step(name="second")
    async def second(number: int) -> int:
        if number == 1 and not any(record["path"] == "map[1]/second" for record in failures()):
            raise BoomError
        return number

    def failures() -> list[dict[str, Any]]:
        return current[0].records("step.failed")

    current = [stage]

    @activity(name="a", restart=Restart(3, initial=0.1, jitter=0))
    async def a(ctx: Context) -> list[int]:
        async def branch(ctx: Context, number: int) -> int:
            found = await ctx.step(second, number)
            await ctx.sleep(1)
            return found

        return await ctx.map(branch, range(3))

    assert await stage.status(a) is ActivityStatus.COMPLETED
    for seq in range(5, 5 + len(stage.records())):
        current[0] = Stage(stage.journal.with_name(f"{seq}.db"))
        await current[0].status(a, death=Death(after=seq))
        assert await current[0].played(a) == [0, 1, 2]
