"""Functions side by side with branches of their own: `ctx.gather` and `ctx.race`, live and after every kill."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from engine import ActivityFailedError, Branch, Context, DefinitionError, Restart, activity, current_step, step
from engine.testing import Crashes, crash_everywhere
from engine.testing.killing import Death
from tests.activities.stage import Stage
from tests.activities.test_side_by_side import BoomError, at_second, everywhere, work


def works(seconds: float, what: str = "") -> Branch[str]:
    """A branch that takes one step."""
    return lambda branch: branch.step(work, seconds, what)


# ---------------------------------------------------------------------------------------------------- gather


async def test_a_gather_gives_the_results_in_the_order_of_the_functions(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        return list(await ctx.gather(works(3, "slow"), works(1, "fast")))

    assert set(map(str, await everywhere(stage, a))) == {"['slow', 'fast']"}
    assert stage.story() == [
        "scope.opened gather",
        "step.completed gather[1]/work",
        "branch.ended gather[1]",
        "step.completed gather[0]/work",
        "branch.ended gather[0]",
        "scope.ended gather",
        "activity.completed",
    ]


async def test_gathers_are_counted_in_their_scope(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def twice(ctx: Context) -> tuple[Any, ...]:
        await ctx.gather(works(0))
        return await ctx.gather(works(0), works(0))

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.gather(twice, works(0))

    await stage.played(a)
    assert {record["path"] for record in stage.records("step.completed")} == {
        "gather[0]/gather[0]/work",
        "gather[0]/gather#2[0]/work",
        "gather[0]/gather#2[1]/work",
        "gather[1]/work",
    }


async def test_a_gather_of_nothing_gives_nothing(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> int:
        functions: list[Branch[str]] = []
        return len(await ctx.gather(*functions))  # type: ignore[call-overload]

    assert await stage.played(a) == 0


async def test_the_first_failure_of_a_gather_in_journal_order_comes_bare(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 13: both fail at one instant; in every life the handler of the one alone has run."""

    @step(name="handle")
    async def handle(what: str) -> str:
        stage.done.append(what)
        return what

    @activity(name="a")
    async def a(ctx: Context) -> str:
        try:
            await ctx.gather(works(1, "fail 0"), works(1, "fail 1"), works(50, "never"))
        except BoomError as error:
            return await ctx.step(handle, str(error))
        return ""

    assert set(await everywhere(stage, a)) <= {"fail 0", "fail 1"}
    for place in stage.journal.parent.glob("*-killed-*.db"):
        first = next(record for record in Stage(place).records("branch.ended") if record["facts"]["outcome"] == "error")
        (handled,) = Stage(place).records("step.completed")
        assert handled["data"]["args"] == [f"fail {first['path'][-2]}"]


async def test_a_failed_gather_is_tried_anew_with_what_was_given_up_beside_the_failure(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def flaky(ctx: Context) -> str:
        await ctx.sleep(1)
        return await ctx.step(at_second)

    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> list[str]:
        return list(await ctx.gather(flaky, works(0, "kept"), works(9, "given up")))

    assert await stage.played(a) == ["second time", "kept", "given up"]
    (crashed,) = stage.records("activity.crashed")
    assert crashed["facts"]["superseded"] == ["gather", "gather[0]", "gather[0]/at-second", "gather[2]"]


# ---------------------------------------------------------------------------------------------------- race


async def test_a_race_gives_the_name_and_the_value_of_the_first_to_end(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        name, value = await ctx.race(slow=works(30, "slow"), fast=works(1, "fast"))
        await ctx.step(work, 0, "after")
        return [name, value]

    assert await stage.played(a) == ["fast", "fast"]
    assert trio.current_time() == 1
    assert stage.story() == [
        "scope.opened race",
        "step.completed race[fast]/work",
        "branch.ended race[fast]",
        "branch.ended race[slow]",
        "scope.ended race",
        "step.completed work",
        "activity.completed",
    ]
    (opened,) = stage.records("scope.opened")
    assert opened["facts"]["names"] == ["slow", "fast"]
    (ended,) = stage.records("scope.ended")
    assert ended["facts"]["decided"] == "race[fast]"


async def test_the_first_to_end_in_journal_order_wins_live_and_at_replay(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 13: all end at one instant; whoever wins, only what follows from that has been done in any life."""

    @step(name="follow")
    async def follow(name: str) -> str:
        stage.done.append(name)
        return name

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        name, value = await ctx.race(x=works(1, "x"), y=works(1, "y"), z=works(1, "z"))
        assert name == value
        return [name, await ctx.step(follow, name)]

    stage.done.clear()
    for given in await everywhere(stage, a):
        assert given[0] == given[1]
    for place in stage.journal.parent.glob("*-killed-*.db"):
        decided = {record["facts"]["decided"] for record in Stage(place).records("scope.ended")}
        (followed,) = Stage(place).records("step.completed")[-1:]
        assert decided == {f"race[{followed['data']['value']}]"}


async def test_a_race_is_decided_by_an_error_too_which_comes_bare(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> str:
        try:
            await ctx.race(bad=works(1, "fail"), good=works(2, "good"))
        except BoomError as error:
            return str(error)
        return ""

    assert set(await everywhere(stage, a)) == {"fail"}


async def test_an_error_of_a_loser_is_none_of_the_race(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def stubborn(ctx: Context) -> str:
        try:
            await ctx.sleep(60)
        except trio.Cancelled:
            raise BoomError("too late") from None
        return ""

    async def deaf(ctx: Context) -> str:
        with contextlib.suppress(trio.Cancelled):
            await ctx.sleep(60)
        return "too late"

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        return list(await ctx.race(good=works(1, "good"), stubborn=stubborn, deaf=deaf))

    assert set(map(str, await everywhere(stage, a))) == {"['good', 'good']"}
    outcomes = {record["path"]: record["facts"]["outcome"] for record in stage.records("branch.ended")}
    assert outcomes == {"race[good]": "value", "race[stubborn]": "late", "race[deaf]": "late"}


async def test_losers_are_cancelled_at_their_frontier_and_have_ended_when_the_race_is_over(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 2: a loser has taken a step before the decision; in every life it comes to it before it is cancelled."""

    async def loser(ctx: Context) -> None:
        seen: list[str] = []
        try:
            seen.append(await ctx.step(work, 0, "reserved"))
            await ctx.sleep(60)
        finally:
            stage.done.append(seen)

    @activity(name="a")
    async def a(ctx: Context) -> int:
        await ctx.race(loser=loser, winner=works(1))
        stage.done.append("over")
        await ctx.step(work, 0, "after")
        return 0

    await everywhere(stage, a)
    assert ["reserved"] in stage.done
    # A life that dies before the reservation is recorded leaves without it; none goes past the race without it.
    for before, after in zip(stage.done, stage.done[1:], strict=False):
        assert after != "over" or before == ["reserved"]


async def test_a_loser_that_ends_before_the_decision_is_handed_out_does_not_keep_it_back(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Live it was still under way when it lost; a replay hands nothing out before it has come to rest."""

    async def busy(ctx: Context) -> str:
        await ctx.step(work, 1)
        with contextlib.suppress(trio.Cancelled):
            for _ in range(3000):
                await trio.lowlevel.checkpoint()
        return "late"

    @activity(name="a")
    async def a(ctx: Context) -> str:
        name, _ = await ctx.race(winner=works(1), busy=busy, idle=lambda branch: branch.sleep(60))
        return name

    await stage.status(a, death=Death(terminal=True))
    (late,) = [record for record in stage.records("branch.ended") if record["facts"]["outcome"] == "late"]
    assert late["path"] == "race[busy]"
    assert await stage.played(a) == "winner"


async def test_a_loser_opens_nothing_at_replay_that_it_had_not_come_to(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def busy(ctx: Context) -> None:
        await ctx.step(work, 1)
        for _ in range(3000):
            await trio.lowlevel.checkpoint()
        assert not ctx.patched("change")
        await ctx.gather(works(5), works(6))

    @activity(name="a")
    async def a(ctx: Context) -> str:
        name, _ = await ctx.race(winner=works(1), busy=busy)
        return name

    await stage.status(a, death=Death(terminal=True))
    before = stage.story()
    assert await stage.played(a) == "winner"
    assert stage.story() == [*before, "activity.resumed", "activity.completed"]


async def test_a_nested_race_is_lost_with_the_branch_around_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def inner(ctx: Context) -> Any:
        try:
            return await ctx.race(x=works(40), y=works(50))
        except trio.Cancelled:
            stage.done.append("cancelled")
            raise

    @activity(name="a")
    async def a(ctx: Context) -> Any:
        return list(await ctx.race(inner=inner, short=works(1, "short")))

    assert await stage.played(a) == ["short", "short"]
    assert stage.done == ["cancelled"]
    outcomes = {record["path"]: record["facts"]["outcome"] for record in stage.records("branch.ended")}
    assert outcomes == {
        "race[short]": "value",
        "race[inner]": "cancelled",
        "race[inner]/race[x]": "cancelled",
        "race[inner]/race[y]": "cancelled",
    }


async def test_what_racing_branches_share_comes_out_the_same_after_every_kill(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 14."""

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        shared: list[str] = []

        async def runner(ctx: Context, name: str) -> str:
            try:
                for number in range(3):
                    await ctx.step(work, (len(name) + number) % 2 / 2)
                    shared.append(f"{name}{number}")
            except trio.Cancelled:
                shared.append(f"{name} lost")
                raise
            return name

        for names in (("a", "bb", "c"), ("dd", "ee")):
            name, _ = await ctx.race(**{name: functools.partial(runner, name=name) for name in names})
            shared.append(f"{name} won")
        stage.done.append(list(shared))
        return shared

    def check(given: list[str]) -> None:
        assert stage.done[-2:] == [given, given]
        stage.done.clear()

    await everywhere(stage, a, check=check)


async def test_a_restart_tries_a_race_anew_that_an_open_failure_decided(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> list[str]:
        return list(await ctx.race(flaky=lambda branch: branch.step(at_second), slow=works(60, "slow")))

    assert await stage.played(a) == ["flaky", "second time"]


async def test_a_race_that_the_activitys_own_scope_ends_is_not_run_again(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Program 17."""

    @activity(name="a")
    async def a(ctx: Context) -> bool:
        with trio.move_on_after(5) as scope:
            await ctx.race(x=works(60), y=works(70))
        await ctx.step(work, 0, "after")
        return scope.cancelled_caught

    assert set(await everywhere(stage, a)) == {True}
    assert stage.records("call.abandoned")[-1]["path"] == "race"


async def test_a_race_of_other_branches_does_not_fit_its_history(stage: Stage) -> None:
    names = ["x", "y"]

    @activity(name="a")
    async def a(ctx: Context) -> str:
        name, _ = await ctx.race(**{name: works(0) for name in names})
        await ctx.step(work, 0)
        return name

    await stage.killed(a, at=("scope.ended", "race"), told=True)
    names[0] = "z"
    with pytest.raises(AssertionError, match="race with other arguments"):
        await stage.played(a)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda ctx: ctx.race(), "nothing to run"),
        (lambda ctx: ctx.race(x=3), "no function"),
        (lambda ctx: ctx.race(x=ctx.sleep(3)), "no function"),
        (lambda ctx: ctx.race(**{"a/b": works(0)}), "a/b"),
        (lambda ctx: ctx.gather(3), "no function"),
        (lambda ctx: ctx.gather(ctx.sleep(3)), "no function"),
    ],
)
async def test_what_is_no_branch_is_refused(stage: Stage, call: Callable[[Context], Any], says: str) -> None:
    @activity(name="a", fatal=(DefinitionError,))
    async def a(ctx: Context) -> None:
        await call(ctx)

    with pytest.raises(ActivityFailedError, match=says) as failed:
        await stage.played(a)
    assert isinstance(failed.value.__cause__, Exception)
    assert stage.story() == ["activity.failed"]


# ---------------------------------------------------------------------------------------------------- every kill


@activity(name="both", restart=Restart(2, initial=0.1, jitter=0))
async def both(ctx: Context) -> list[Any]:
    shared: list[str] = []

    async def inner(ctx: Context) -> str:
        name, _ = await ctx.race(one=works(1, "one"), two=works(2, "two"))
        shared.append(name)
        return name

    found = await ctx.gather(inner, lambda branch: branch.sleep(3), works(1.5, "three"))
    won, _ = await ctx.race(late=works(9), nap=lambda branch: branch.sleep(4))
    key = await ctx.step(key_of)
    return [list(found), won, shared, key]


@step(name="key-of")
async def key_of() -> str:
    return current_step().idempotency_key


async def test_gathers_and_races_end_alike_whatever_record_kills_them(autojump_clock: trio.testing.MockClock) -> None:
    crashes: Crashes[list[Any]] = await crash_everywhere(both)
    assert crashes.result[:3] == [["one", None, "three"], "nap", ["one"]]
    assert crashes.effects["key-of"] <= 3
