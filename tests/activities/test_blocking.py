"""Code that does not fit its history: the activity is blocked, shows both sides, and goes on after the mend."""

from __future__ import annotations

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
    Engine,
    NonDeterminismError,
    Restart,
    activity,
)
from engine.testing.killing import Death
from tests.activities.stage import ENDED, Stage


def versions(*codes: Any) -> list[Any]:
    """One activity, in several versions of its code."""
    return [activity(name="it", restart=Restart(1, initial=0.0, jitter=0))(code) for code in codes]


def takes(*names: str) -> Any:
    """An activity that takes these steps, one after another."""

    async def it(ctx: Context) -> list[str]:
        return [await ctx.step(_name, name, name=name) for name in names]

    (definition,) = versions(it)
    return definition


async def _name(name: str) -> str:
    return name


# ---------------------------------------------------------------------------------------------------- another call


@pytest.mark.parametrize(
    ("before", "killed_at", "after", "recorded", "asked"),
    [
        ("abc", "b", "axbc", "step b", "step x"),
        ("abc", "b", "acb", "step b", "step c"),
        ("abc", "c", "ac", "step b", "step c"),
        ("abc", "b", "a", "step b", "nothing"),
        ("abc", "a", "", "step a", "nothing"),
        ("aab", "a#2", "aba", "step a#2", "step b"),
    ],
)
async def test_a_call_that_was_inserted_removed_or_moved_blocks(
    stage: Stage, before: str, killed_at: str, after: str, recorded: str, asked: str
) -> None:
    await stage.killed(takes(*before), at=("step.completed", killed_at))
    assert await stage.status(takes(*after)) is ActivityStatus.BLOCKED
    (blocked,) = stage.records("activity.blocked")
    facts = blocked["facts"]
    assert (facts["cause"], facts["recorded"], facts["asked"]) == ("nondeterminism", recorded, asked)


async def test_a_call_that_was_appended_does_not_block(stage: Stage) -> None:
    await stage.killed(takes(*"ab"), at=("step.completed", "b"))
    assert await stage.played(takes(*"abc")) == ["a", "b", "c"]


def _other_arguments() -> tuple[Any, ...]:
    async def before(ctx: Context) -> None:
        await ctx.step(_name, "x")

    async def after(ctx: Context) -> None:
        await ctx.step(_name, "y")

    return before, after, ("step.completed", "_name"), "step _name", "step _name with other arguments"


def _other_kind() -> tuple[Any, ...]:
    async def before(ctx: Context) -> None:
        await ctx.sleep(0)

    async def after(ctx: Context) -> None:
        await ctx.emit("a.b", 1)

    return before, after, ("timer.fired", "sleep"), "sleep sleep", "emit emit"


def _other_length() -> tuple[Any, ...]:
    async def before(ctx: Context) -> None:
        await ctx.sleep(0)

    async def after(ctx: Context) -> None:
        await ctx.sleep(0.5)

    return before, after, ("timer.fired", "sleep"), "sleep sleep", "sleep sleep with other arguments"


def _other_size() -> tuple[Any, ...]:
    async def before(ctx: Context) -> None:
        await ctx.map(_name, ["x", "y"])

    async def after(ctx: Context) -> None:
        await ctx.map(_name, ["x"])

    return before, after, ("scope.ended", "map"), "map map", "map map with other arguments"


async def _takes_one(ctx: Context, name: str) -> str:
    return await ctx.step(_name, name)


async def _takes_none(ctx: Context, name: str) -> str:
    return name


async def _takes_two(ctx: Context, name: str) -> str:
    await ctx.step(_name, name)
    return await ctx.step(_name, name)


def _left_over_in_a_branch() -> tuple[Any, ...]:
    _takes_none.__qualname__ = _takes_one.__qualname__

    async def before(ctx: Context) -> None:
        await ctx.map(_takes_one, ["x"])

    async def after(ctx: Context) -> None:
        await ctx.map(_takes_none, ["x"])

    return before, after, ("branch.ended", "map[0]"), "step map[0]/_name", "the end of branch map[0]"


def _another_end_of_a_branch() -> tuple[Any, ...]:
    async def failing(ctx: Context, name: str) -> str:
        await ctx.step(_name, name)
        raise KeyError(name)

    failing.__qualname__ = _takes_one.__qualname__

    async def before(ctx: Context) -> None:
        await ctx.map(_takes_one, ["x"])

    async def after(ctx: Context) -> None:
        await ctx.map(failing, ["x"])

    return before, after, ("branch.ended", "map[0]"), "value of branch map[0]", "error of branch map[0]"


def _raises_early() -> tuple[Any, ...]:
    async def before(ctx: Context) -> None:
        await ctx.step(_name, "x")

    async def after(ctx: Context) -> None:
        raise ZeroDivisionError

    return before, after, ("step.completed", "_name"), "step _name", "ZeroDivisionError, which left the function"


@pytest.mark.parametrize(
    "case",
    [
        _other_arguments,
        _other_kind,
        _other_length,
        _other_size,
        _left_over_in_a_branch,
        _another_end_of_a_branch,
        _raises_early,
    ],
)
async def test_code_that_asks_for_something_else_blocks(stage: Stage, case: Any) -> None:
    before, after, at, recorded, asked = case()
    old, new = versions(before, after)
    await stage.killed(old, at=at)
    assert await stage.status(new) is ActivityStatus.BLOCKED
    (blocked,) = stage.records("activity.blocked")
    assert (blocked["facts"]["recorded"], blocked["facts"]["asked"]) == (recorded, asked)


async def test_an_outcome_that_nothing_can_ask_for_any_more_blocks_and_does_not_hang(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """Every task waits, none of them for what is recorded next."""

    async def one(ctx: Context, name: str) -> None:
        await ctx.step(_name, name, name=name)

    async def before(ctx: Context) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, ctx.branch("left"), "a")
            nursery.start_soon(one, ctx.branch("right"), "b")

    async def after(ctx: Context) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, ctx.branch("left"), "a")

    old, new = versions(before, after)
    await stage.killed(old, at=("step.completed", "right/b"))
    with trio.fail_after(60):
        assert await stage.status(new) is ActivityStatus.BLOCKED


async def test_a_task_that_waits_for_something_else_is_waited_for(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    """A nursery's own block waits for a timer, and asks for what is recorded next only then."""

    async def one(ctx: Context) -> None:
        await ctx.step(_name, "a", name="a")
        await ctx.sleep(100)

    async def it(ctx: Context) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, ctx.branch("left"))
            await trio.sleep(5)
            found = await ctx.step(_name, "b", name="b")
        return found

    (definition,) = versions(it)
    await stage.killed(definition, at=("step.completed", "b"))
    assert await stage.played(definition) == "b"


# ---------------------------------------------------------------------------------------------------- whatever it does


async def test_an_error_that_user_code_swallows_blocks_all_the_same(stage: Stage) -> None:
    async def careless(ctx: Context) -> str:
        for name in "axb":
            try:
                await ctx.step(_name, name, name=name)
            except BaseException as error:
                stage.done.append(type(error).__name__)
        return "done"

    (new,) = versions(careless)
    await stage.killed(takes(*"abc"), at=("step.completed", "b"))
    assert await stage.status(new) is ActivityStatus.BLOCKED
    assert stage.done[0] == NonDeterminismError.__name__
    # Nothing that it did after that had an effect.
    assert stage.records("step.completed")[-1]["path"] == "b"


async def test_an_error_in_a_branch_that_is_swallowed_blocks_all_the_same(stage: Stage) -> None:
    async def branch(ctx: Context, name: str) -> None:
        await ctx.step(_name, name, name=name)

    def mapping(names: str) -> Any:
        async def it(ctx: Context) -> str:
            try:
                await ctx.map(branch, list(names))
            except Exception:
                return "swallowed"
            return "done"

        return versions(it)[0]

    await stage.killed(mapping("ab"), at=("branch.ended", "map[1]"))
    assert await stage.status(mapping("ax")) is ActivityStatus.BLOCKED


@pytest.mark.parametrize("swallows", [True, False])
async def test_a_context_used_by_another_task_fails_the_activity_at_once(stage: Stage, swallows: bool) -> None:
    @activity(name="a", restart=Restart(3))
    async def a(ctx: Context) -> None:
        async def other() -> None:
            try:
                ctx.now()
            except Exception:
                if not swallows:
                    raise

        await ctx.step(_name, "mine")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)

    with pytest.raises(ActivityFailedError) as failure:
        await stage.played(a)
    assert failure.value.type == "engine.errors.ConcurrentContextError"
    assert not stage.records("activity.crashed")


@pytest.mark.parametrize("use", ["step", "emit", "sleep", "map", "branch", "random", "uuid"])
async def test_no_call_of_a_context_is_another_tasks(
    stage: Stage, autojump_clock: trio.testing.MockClock, use: str
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        async def branch(_: Context, number: int) -> None:
            match use:
                case "step":
                    await ctx.step(_name, "x")
                case "emit":
                    await ctx.emit("a.b", 1)
                case "sleep":
                    await ctx.sleep(1)
                case "map":
                    await ctx.map(_name, ["x"])
                case "branch":
                    ctx.branch("x")
                case "random":
                    ctx.random()
                case "uuid":
                    ctx.uuid()

        await ctx.map(branch, [1])

    with pytest.raises(ActivityFailedError, match=r"belongs|used by"):
        await stage.played(a)


# ---------------------------------------------------------------------------------------------------- going on


async def test_a_blocked_activity_stays_so_over_openings_and_goes_on_when_it_is_told(stage: Stage) -> None:
    await stage.killed(takes(*"abc"), at=("step.completed", "b"))
    assert await stage.status(takes(*"ax")) is ActivityStatus.BLOCKED
    mended = takes(*"abc")

    async def look(engine: Engine) -> ActivityStatus:
        await trio.testing.wait_all_tasks_blocked()
        return await engine.handle("it").status()

    assert await stage.life(look, mended) is ActivityStatus.BLOCKED

    async def tell(engine: Engine) -> Any:
        await engine.resume("it", by="me", reason="mended")
        return await engine.handle("it").result()

    assert await stage.life(tell, mended) == ["a", "b", "c"]
    accepted = stage.records("command.accepted")[-1]
    assert (accepted["by"], accepted["facts"]["command"], accepted["data"]) == ("me", "resume", {"reason": "mended"})


async def test_one_that_was_not_mended_is_blocked_again(stage: Stage) -> None:
    await stage.killed(takes(*"abc"), at=("step.completed", "b"))
    wrong = takes(*"ax")
    assert await stage.status(wrong) is ActivityStatus.BLOCKED

    async def tell(engine: Engine) -> ActivityStatus:
        await engine.handle("it").resume()
        return await engine.handle("it").wait(*ENDED)

    assert await stage.life(tell, wrong) is ActivityStatus.BLOCKED
    assert len(stage.records("activity.blocked")) == 2


@pytest.mark.parametrize(
    ("situation", "error"),
    [("unknown", ActivityNotFoundError), ("running", CommandDeniedError), ("ended", ActivityEndedError)],
)
async def test_only_a_blocked_activity_can_be_resumed_and_a_refusal_is_recorded(
    stage: Stage, autojump_clock: trio.testing.MockClock, situation: str, error: type[CommandDeniedError]
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.sleep(10)

    async def body(engine: Engine) -> None:
        if situation != "unknown":
            handle = await engine.start(a, id="it")
            if situation == "ended":
                await handle.result()
        with pytest.raises(error):
            await engine.resume("it", by="me")

    await stage.life(body, a)
    (denied,) = stage.records("command.denied", id="/engine" if situation == "unknown" else "it")
    assert (denied["by"], denied["facts"]["command"], denied["facts"]["target"]) == ("me", "resume", "it")


async def test_one_without_its_definition_is_blocked_and_goes_on_by_itself_under_an_engine_that_has_it(
    stage: Stage,
) -> None:
    await stage.killed(takes(*"abc"), at=("step.completed", "b"))

    async def look(engine: Engine) -> ActivityStatus:
        with pytest.raises(CommandDeniedError, match="definition"):
            await engine.resume("it")
        return await engine.handle("it").status()

    for _ in range(2):
        assert await stage.life(look) is ActivityStatus.BLOCKED
    assert [record["facts"]["cause"] for record in stage.records("activity.blocked")] == ["definition"]
    assert await stage.played(takes(*"abc")) == ["a", "b", "c"]


@pytest.mark.parametrize("names", ["abc", "ax"])
async def test_a_kill_of_a_blocked_activity_changes_nothing(stage: Stage, names: str) -> None:
    await stage.killed(takes(*"abc"), at=("step.completed", "b"))
    await stage.status(takes(*names), death=Death(at=("activity.blocked", None), terminal=True))
    blocked = bool(stage.records("activity.blocked"))
    assert blocked is (names == "ax")
    if not blocked:
        assert await stage.played(takes(*names)) == ["a", "b", "c"]
