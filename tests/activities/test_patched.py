"""Changes of an activity's code, guarded by `ctx.patched` for those that are under way."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from engine import ActivityFailedError, ActivityStatus, Context, Restart, activity, current_step, step
from engine.testing import crash_everywhere
from engine.testing.killing import Death
from tests.activities.stage import Stage
from tests.activities.test_side_by_side import BoomError, at_second, work

OLD, GUARDED, RETIRED = "old", "guarded", "retired"


@step(name="old")
async def old() -> str:
    return "old"


@step(name="new")
async def new() -> str:
    return "new"


async def way(ctx: Context, version: str) -> str:
    """The code before a change, with the change guarded, and after the guard was taken out."""
    if version == RETIRED or (version == GUARDED and ctx.patched("better")):
        return await ctx.step(new)
    return await ctx.step(old)


async def test_what_begins_after_a_change_goes_the_new_way(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> str:
        return await way(ctx, GUARDED)

    assert await stage.played(a) == "new"
    assert stage.story() == ["value.drawn patched", "step.completed new", "activity.completed"]
    (drawn,) = stage.records("value.drawn")
    assert (drawn["name"], drawn["facts"]["of"], drawn["facts"]["value"]) == ("better", "patched", True)


async def test_what_went_past_before_a_change_goes_on_in_the_old_way(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    version = OLD

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        first = await way(ctx, version)
        await ctx.sleep(1)
        return [first, await way(ctx, version)]

    await stage.killed(a, at=("timer.set", "sleep"))
    version = GUARDED
    # One answer in one scope: what is changed in two places stays together.
    assert await stage.played(a) == ["old", "old"]
    assert not stage.records("value.drawn")


async def test_an_answer_holds_for_later_calls_and_later_lives(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        found = []
        for _ in range(3):
            found.append(await way(ctx, GUARDED))
            await ctx.sleep(1)
        return found

    assert (await crash_everywhere(a)).result == ["new"] * 3
    await stage.played(a)
    assert len(stage.records("value.drawn")) == 1


async def test_each_branch_goes_the_way_that_it_began(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    """Program 20: one branch went the old way before the change, and another asks first after it."""
    version = OLD

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        async def branch(ctx: Context, number: int) -> str:
            if number:
                await ctx.sleep(10)
            return await way(ctx, version)

        return await ctx.map(branch, range(2))

    await stage.killed(a, at=("step.completed", "map[0]/old"), told=True)
    version = GUARDED
    assert await stage.played(a) == ["old", "new"]
    assert [record["path"] for record in stage.records("value.drawn")] == ["map[1]/patched"]


async def test_a_branch_that_has_ended_went_past(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    version = OLD

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        async def branch(ctx: Context, number: int) -> str:
            await ctx.step(work, number)
            return "new" if version == GUARDED and ctx.patched("better") else "old"

        return await ctx.map(branch, range(0, 20, 10))

    await stage.killed(a, at=("branch.ended", "map[0]"), told=True)
    version = GUARDED
    assert await stage.played(a) == ["old", "new"]


async def test_a_guard_can_be_taken_out_once_all_went_the_new_way(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    version = GUARDED

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        first = await way(ctx, version)
        await ctx.sleep(1)
        return [first, await way(ctx, version)]

    await stage.killed(a, at=("timer.set", "sleep"))
    version = RETIRED
    assert await stage.played(a) == ["new", "new"]


async def test_a_guard_taken_out_too_early_blocks_what_went_the_old_way(stage: Stage) -> None:
    version = GUARDED

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        return [await way(ctx, version), await ctx.step(work, 0)]

    version = OLD
    await stage.killed(a, at=("step.completed", "old"), told=True)
    version = RETIRED
    assert await stage.status(a) is ActivityStatus.BLOCKED


async def test_a_draw_is_durable_before_what_follows_takes_effect(stage: Stage) -> None:
    @step(name="look")
    async def look() -> list[str]:
        return [record["kind"] for record in stage.records()[2:]]

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        assert ctx.patched("better")
        return await ctx.step(look)

    assert await stage.played(a) == ["value.drawn"]


async def test_nothing_is_drawn_twice_whatever_record_kills_the_activity(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    keys: dict[str, set[str]] = {}

    @step(name="keyed")
    async def keyed(given: str) -> str:
        keys.setdefault(current_step().idempotency_key, set()).add(given)
        return given

    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        async def branch(ctx: Context, number: int) -> str:
            return await ctx.step(keyed, f"{number} {ctx.patched('better')}")

        return [*await ctx.map(branch, range(2)), await ctx.step(keyed, str(ctx.patched("better")))]

    result = (await crash_everywhere(a)).result
    assert result[:2] == ["0 True", "1 True"]
    assert all(len(given) == 1 for given in keys.values())


async def test_what_is_drawn_after_a_failure_does_nothing_about_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> str:
        try:
            return await ctx.step(at_second)
        except BoomError:
            if ctx.patched("better"):
                raise
            return "old"

    assert await stage.played(a) == "second time"


@pytest.mark.parametrize("name", ["", "a/b", 3])
async def test_what_is_no_name_of_a_change_is_refused(stage: Stage, name: str) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        ctx.patched(name)

    with pytest.raises(ActivityFailedError):
        await stage.played(a)
    assert stage.story() == ["activity.failed"]


async def test_a_run_that_was_given_up_draws_nothing(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        try:
            await ctx.step(work, 0)
            await ctx.sleep(1)
        finally:
            ctx.patched("too late")

    assert await stage.status(a, death=Death(at=("timer.set", "sleep"))) is None
    assert not stage.records("value.drawn")
