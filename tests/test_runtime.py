"""The engine as its users have it: opening, commands, handles, publishing, closing."""

from __future__ import annotations

import datetime as dt
import functools
import gc
import sqlite3
import weakref
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from engine import (
    ActivityFailedError,
    ActivityNotFoundError,
    ActivityStatus,
    Command,
    CommandDeniedError,
    Context,
    DefinitionError,
    Engine,
    Event,
    FencedError,
    Handle,
    IdConflictError,
    JournalBusyError,
    JournalError,
    JournalOwnedError,
    NoEngineError,
    PayloadError,
    Restart,
    Settings,
    TopicError,
    WaitTimeoutError,
    activity,
    step,
    subscriber,
)


@attrs.frozen
class Order:
    id: str
    total: int


@step
async def double(number: int) -> int:
    return 2 * number


@activity(name="double")
async def doubled(ctx: Context, number: int = 1) -> int:
    return await ctx.step(double, number)


@activity(name="order")
async def ordered(ctx: Context, order: Order) -> Order:
    return attrs.evolve(order, total=await ctx.step(double, order.total))


@activity(name="failing", restart=Restart(0))
async def failing(ctx: Context) -> None:
    raise ValueError("as planned")


@activity(name="waiting")
async def waiting(ctx: Context) -> str:
    await ctx.sleep(3600)
    return "woken"


ALL = (doubled, ordered, failing, waiting)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal.db")


def kinds(path: str, stream: str) -> list[str]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT kind FROM records WHERE stream = ? ORDER BY seq", (stream,))
        return [kind for (kind,) in rows]


# ------------------------------------------------------------------------------------------------ starting


async def test_an_activity_gives_its_result(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        handle = await engine.start(ordered, Order("a", 3), id="a", by="alice", reason="because")
        assert await handle.result() == Order("a", 6)
        assert await handle.status() is ActivityStatus.COMPLETED


async def test_the_command_is_durable_when_start_returns(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        await engine.start(waiting, id="w", by="alice", reason="why not")
        with sqlite3.connect(path) as reader:
            row = reader.execute("SELECT kind, by, data FROM records WHERE stream = 'w' ORDER BY seq").fetchone()
    assert row == ("command.accepted", "alice", '{"args":[],"reason":"why not"}')


async def test_the_same_id_and_arguments_give_the_same_activity(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        first = await engine.start(doubled, 4, id="x")
        again = await engine.start(doubled, 4, id="x")
        assert await first.result() == await again.result() == 8
        assert await (await engine.start(doubled, 4, id="x")).result() == 8
    assert kinds(path, "x").count("activity.started") == 1


async def test_many_starts_of_one_id_at_once_start_one_activity(path: str) -> None:
    results: list[int] = []

    async def start(engine: Engine) -> None:
        results.append(await (await engine.start(doubled, 4, id="x")).result())

    async with Engine.open(path, *ALL) as engine, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(start, engine)
    assert results == [8] * 20
    assert kinds(path, "x").count("activity.started") == 1


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(lambda engine: engine.start(doubled, 5, id="x"), id="other arguments"),
        pytest.param(lambda engine: engine.start(doubled, id="x"), id="fewer arguments"),
        pytest.param(lambda engine: engine.start(waiting, id="x"), id="another activity"),
        pytest.param(lambda engine: engine.start(doubled, 4, id="x", if_exists="fail"), id="if_exists"),
    ],
)
async def test_an_id_that_is_taken_is_a_conflict_and_recorded(
    path: str, again: Callable[[Engine], Awaitable[object]]
) -> None:
    async with Engine.open(path, *ALL) as engine:
        await (await engine.start(doubled, 4, id="x")).result()
        with pytest.raises(IdConflictError) as caught:
            await again(engine)
        assert caught.value.id == "x"
    assert kinds(path, "x")[-2:] == ["activity.completed", "command.denied"]


async def test_an_activity_is_started_by_its_name_with_plain_json(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        handle = await engine.start("order", {"id": "a", "total": 3})
        assert await handle.result() == Order("a", 6)


async def test_a_name_without_a_definition_is_denied_and_recorded(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        with pytest.raises(CommandDeniedError, match="nobody"):
            await engine.start("nobody", 1)
    assert "command.denied" in kinds(path, "/engine")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"id": "/x"}, "id"),
        ({"id": ""}, "id"),
        ({"id": "é" * 128}, "id"),
        ({"by": "a\nb"}, "by"),
        ({"key": ""}, "key"),
        ({"reason": "\ud800"}, "reason"),
        ({"priority": "high"}, "priority"),
        ({"priority": 2**63}, "priority"),
        ({"tags": {"a": 1}}, "tags"),
    ],
)
async def test_what_no_record_can_hold_is_refused_before_anything(
    path: str, options: dict[str, Any], fault: str
) -> None:
    async with Engine.open(path, *ALL) as engine:
        before = engine._journal.last_seq
        with pytest.raises(PayloadError) as caught:
            await engine.start(doubled, 1, **options)
        assert caught.value.path.startswith(fault)
        assert engine._journal.last_seq == before


async def test_an_argument_that_cannot_be_encoded_names_its_path(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        before = engine._journal.last_seq
        with pytest.raises(PayloadError, match=r"order\.total"):
            await engine.start(ordered, Order("a", "three"))  # type: ignore[arg-type]
        assert engine._journal.last_seq == before


async def test_an_undecorated_function_is_no_activity(path: str) -> None:
    async def plain(ctx: Context) -> None: ...

    async with Engine.open(path) as engine:
        with pytest.raises(DefinitionError, match="@activity"):
            await engine.start(plain)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ authorize


async def test_authorize_refuses_with_its_rule_and_the_refusal_is_recorded(path: str) -> None:
    seen: list[Command] = []

    async def authorize(command: Command) -> bool | str:
        seen.append(command)
        return True if command.by == "alice" else "only alice may"

    async with Engine.open(path, *ALL, authorize=authorize) as engine:
        assert await engine.run(doubled, 1, id="a", by="alice") == 2
        with pytest.raises(CommandDeniedError) as caught:
            await engine.start(doubled, 1, id="b", by="mallory")
        assert caught.value.reason == "only alice may"
    assert [(command.kind, command.activity, command.args) for command in seen] == [("start", "double", (1,))] * 2
    assert kinds(path, "b") == []


async def test_authorize_that_gives_false_refuses(path: str) -> None:
    async with Engine.open(path, *ALL, authorize=lambda command: False) as engine:
        with pytest.raises(CommandDeniedError):
            await engine.start(doubled, 1)


# ------------------------------------------------------------------------------------------------ handles


async def test_a_failure_comes_with_the_recorded_error(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        handle = await engine.start(failing, id="f")
        with pytest.raises(ActivityFailedError) as caught:
            await handle.result()
    error = caught.value
    assert (error.id, error.type, error.message) == ("f", "builtins.ValueError", "as planned")
    assert "as planned" in error.traceback
    assert isinstance(error.__cause__, ValueError)


async def test_a_result_is_there_for_another_engine_too(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        await engine.run(ordered, Order("a", 3), id="a")
    async with Engine.open(path, *ALL) as engine:
        assert await engine.handle("a", ordered).result() == Order("a", 6)
        assert await engine.handle("a", Order).result() == Order("a", 6)
        assert await engine.handle("a").result() == {"id": "a", "total": 6}


async def test_a_wait_that_is_over_leaves_the_activity_alone(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        handle = await engine.start(waiting, id="w")
        with pytest.raises(WaitTimeoutError):
            await handle.result(timeout=0.01)
        assert await handle.status() is ActivityStatus.RUNNING


async def test_a_handle_of_nothing_says_so(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        with pytest.raises(ActivityNotFoundError) as caught:
            await engine.handle("nobody").result()
    assert caught.value.id == "nobody"


async def test_waiting_for_a_status_gives_it(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        handle = await engine.start(failing)
        assert await handle.wait(ActivityStatus.COMPLETED, ActivityStatus.FAILED) is ActivityStatus.FAILED


async def test_only_a_blocked_activity_can_be_resumed_and_the_refusal_is_recorded(path: str) -> None:
    async with Engine.open(path, *ALL) as engine:
        handle = await engine.start(waiting, id="w")
        with pytest.raises(CommandDeniedError, match="running"):
            await handle.resume(by="bob")
        with pytest.raises(ActivityNotFoundError):
            await engine.resume("nobody")
    assert "command.denied" in kinds(path, "w")


# ------------------------------------------------------------------------------------------------ events


async def test_what_is_published_is_durable_and_reaches_subscribers(path: str) -> None:
    send, receive = trio.open_memory_channel[Event[Order]](1)

    @subscriber("orders.*", name="tail", start="beginning")
    async def tail(event: Event[Order]) -> None:
        await send.send(event)

    async with Engine.open(path, tail) as engine:
        event = await engine.publish("orders.new", Order("a", 1), key="a", headers={"from": "web"})
        assert event.seq == engine._journal.durable_seq
        assert await receive.receive() == event
    assert (event.data, event.key, event.headers) == (Order("a", 1), "a", {"from": "web"})
    assert event.at.tzinfo is dt.UTC


async def test_nothing_is_published_as_one_of_the_engine_s_own_doings(path: str) -> None:
    async with Engine.open(path) as engine:
        with pytest.raises(TopicError, match="begin with another word"):
            await engine.publish("playbill.supervision.crashed", {})
    assert kinds(path, "/engine").count("event.published") == 0


async def test_no_activity_emits_one_of_the_engine_s_own_doings(path: str) -> None:
    @activity(name="pretending")
    async def pretending(ctx: Context) -> str:
        try:
            await ctx.emit("playbill.activities.failed", {})
        except TopicError as error:
            return error.topic
        return "emitted"

    async with Engine.open(path, pretending) as engine:
        assert await engine.run(pretending, id="p-1") == "playbill.activities.failed"
    assert "event.emitted" not in kinds(path, "p-1")


async def test_the_same_id_publishes_once(path: str) -> None:
    async with Engine.open(path) as engine:
        events = [await engine.publish("a", {"n": 1}, id="e1") for _ in range(2)]
    async with Engine.open(path) as engine:
        events.append(await engine.publish("a", {"n": 1}, id="e1"))
        with pytest.raises(IdConflictError):
            await engine.publish("a", {"n": 2}, id="e1")
    assert len({event.seq for event in events}) == 1
    assert kinds(path, "/engine").count("event.published") == 1


# ------------------------------------------------------------------------------------------------ definitions, opening


async def test_a_module_gives_all_its_definitions(path: str) -> None:
    module = ModuleType("shop")
    vars(module).update(doubled=doubled, alias=doubled, ordered=ordered, unrelated=3)
    async with Engine.open(path, module) as engine:
        assert await engine.run(doubled, 2) == 4


def test_two_activities_of_one_name_are_refused_at_once(path: str) -> None:
    @activity(name="double")
    async def other(ctx: Context) -> None: ...

    with pytest.raises(DefinitionError, match="double"):
        Engine.open(path, doubled, other)


def test_what_is_no_definition_is_refused_at_once(path: str) -> None:
    with pytest.raises(DefinitionError, match="no definition"):
        Engine.open(path, double.function)  # type: ignore[arg-type]


async def test_a_second_engine_is_told_who_owns_the_journal(path: str) -> None:
    async with Engine.open(path, *ALL):
        with pytest.raises(JournalOwnedError):
            async with Engine.open(path, *ALL):
                pass


async def test_which_code_ran_is_recorded_once(path: str) -> None:
    for _ in range(2):
        async with Engine.open(path, doubled):
            pass
    assert kinds(path, "/engine").count("definition.registered") == 1


@pytest.mark.parametrize("option", ["drain_within", "commit_within", "commit_delay"])
def test_a_setting_out_of_its_range_is_refused_where_it_is_made(option: str) -> None:
    with pytest.raises(DefinitionError, match=option):
        Settings(**{option: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), True])
def test_the_loop_cannot_be_watched_for_no_time_at_all(seconds: float) -> None:
    with pytest.raises(DefinitionError, match="stall_after"):
        Settings(stall_after=seconds)


# ------------------------------------------------------------------------------------------------ closing


async def test_an_exception_of_the_block_comes_out_as_itself(path: str) -> None:
    async def leave() -> None:
        async with Engine.open(path, *ALL) as engine:
            await engine.start(waiting, id="w")
            raise KeyError("mine")

    with pytest.raises(KeyError):
        await leave()
    assert kinds(path, "/engine")[-1] == "engine.closed"


async def test_cancelling_around_the_block_closes_the_journal_properly(path: str) -> None:
    with trio.move_on_after(0.05) as scope:
        async with Engine.open(path, *ALL) as engine:
            await engine.start(waiting, id="w")
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert kinds(path, "/engine")[-1] == "engine.closed"
    assert "call.abandoned" not in kinds(path, "w")


async def test_an_idle_engine_records_a_resume_and_runs_nothing(path: str) -> None:
    async with Engine.open(path, waiting) as engine:
        await engine.start(waiting, id="w")
        await trio.sleep(0.01)

    @activity(name="waiting")
    async def changed(ctx: Context) -> str:
        return f"{await ctx.step(double, 1)}"

    async with Engine.open(path, changed) as engine:
        assert await engine.handle("w").wait(ActivityStatus.BLOCKED) is ActivityStatus.BLOCKED
    async with Engine.open_idle(path) as engine:
        assert await engine.resume("w", by="alice", reason="mended") == 1
    assert kinds(path, "w")[-2:] == ["command.accepted", "activity.resumed"]
    async with Engine.open(path, waiting) as engine:
        assert await engine.handle("w").status() is ActivityStatus.RUNNING


async def test_opening_in_a_scope_that_is_cancelled_already_ends(path: str) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with Engine.open(path, *ALL):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    async with Engine.open(path, *ALL) as engine:
        assert await engine.run(doubled, 2) == 4


async def test_whoever_waits_beyond_the_engine_is_told_that_it_closed(path: str) -> None:
    told: list[type[Exception]] = []

    async def wait(handle: Handle[str]) -> None:
        try:
            await handle.result()
        except NoEngineError as error:
            told.append(type(error))

    async with trio.open_nursery() as nursery, Engine.open(path, *ALL) as engine:
        handle = await engine.start(waiting, id="w")
        nursery.start_soon(wait, handle)
        await trio.testing.wait_all_tasks_blocked()
    assert told == [NoEngineError]


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda engine: engine.start(doubled, 1), id="start"),
        pytest.param(lambda engine: engine.start(doubled, 1, id="x"), id="start with an id"),
        pytest.param(lambda engine: engine.publish("a", 1), id="publish"),
        pytest.param(lambda engine: engine.resume("x"), id="resume"),
        pytest.param(lambda engine: engine.handle("x").result(), id="result"),
    ],
)
async def test_an_engine_that_has_closed_says_so(path: str, ask: Callable[[Engine], Awaitable[object]]) -> None:
    async with Engine.open(path, *ALL) as engine:
        pass
    with trio.fail_after(5), pytest.raises((JournalError, NoEngineError), match="closed"):
        await ask(engine)


async def test_nothing_is_recorded_of_an_activity_after_its_end(path: str) -> None:
    leaked: list[Context] = []

    @activity(name="leaking")
    async def leaking(ctx: Context) -> int:
        leaked.append(ctx.branch("left"))
        return 1

    async with Engine.open(path, leaking) as engine:
        await engine.run(leaking, id="x")
        with pytest.raises(FencedError):
            await leaked[0].step(double, 1)
    assert kinds(path, "x") == ["command.accepted", "activity.started", "activity.completed"]


async def test_a_step_that_uses_the_context_fails_the_activity_at_once(path: str) -> None:
    @activity(name="nested")
    async def nested(ctx: Context) -> int:
        async def inner() -> int:
            return await ctx.step(double, 1)

        return await ctx.step(inner)

    async with Engine.open(path, nested) as engine:
        with pytest.raises(ActivityFailedError, match="a step cannot use the context"):
            await engine.run(nested, id="x")
    assert "activity.crashed" not in kinds(path, "x")


async def test_a_command_that_no_engine_has_begun_is_begun_at_the_next_opening(path: str) -> None:
    async with Engine.open(path, doubled) as engine:
        engine._journal.append(
            "x", "command.accepted", name="double", facts={"command": "start"}, data='{"args":[3]}', begins="activity"
        )
    async with Engine.open(path, doubled) as engine:
        assert await engine.handle("x", doubled).result() == 6


async def test_a_wait_beyond_the_last_instant_is_a_wait(path: str) -> None:
    @activity(name="forever")
    async def forever(ctx: Context) -> None:
        await ctx.sleep(1e12)

    async with Engine.open(path, forever) as engine:
        handle = await engine.start(forever, id="x")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await handle.status() is ActivityStatus.RUNNING
    assert kinds(path, "x")[-1] == "timer.set"


async def test_a_function_made_in_passing_is_not_kept(path: str) -> None:
    kept: list[weakref.ref[object]] = []

    @activity(name="passing")
    async def passing(ctx: Context) -> int:
        async def made() -> int:
            return 1

        kept.append(weakref.ref(made))
        return await ctx.step(made)

    async with Engine.open(path, passing) as engine:
        assert await engine.run(passing) == 1
    gc.collect()
    assert kept[0]() is None


@pytest.mark.parametrize("under_way", [0, 3])
async def test_an_engine_whose_commits_fail_closes_within_its_allowances(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, under_way: int
) -> None:
    # Its activities wait for their records, which nothing may cancel; Ctrl-C must end the engine all the same.
    path = tmp_path / "j.db"
    settings = Settings(drain_within=10, commit_within=30)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        with pytest.raises(JournalBusyError, match="another program writes to the journal's file"):  # noqa: PT012
            async with Engine.open(str(path), doubled, settings=settings) as engine:
                await engine.run(doubled, 1)
                other.execute("BEGIN IMMEDIATE")
                async with trio.open_nursery() as nursery:
                    for number in range(under_way):
                        nursery.start_soon(functools.partial(engine.start, doubled, number, id=f"a-{number}"))
                    await trio.sleep(5)
                    nursery.cancel_scope.cancel()
        assert trio.current_time() <= 5 + 10 + 30 + 1
        other.execute("ROLLBACK")
    async with Engine.open(str(path), doubled) as engine:
        assert await engine.run(doubled, 7) == 14
