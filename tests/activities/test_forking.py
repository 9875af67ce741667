"""Forking: a new activity goes on from another's records, and does one call anew."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine import (
    ActivityNotFoundError,
    ActivityStatus,
    CommandDeniedError,
    Context,
    Engine,
    Event,
    IdConflictError,
    Restart,
    activity,
    current_step,
    step,
    subscriber,
)
from engine.audit import Ledger
from engine.testing.killing import Death
from tests.activities.stage import Stage

BROKEN = {"card"}
KEYS: list[str] = []


@step(name="do")
async def do(what: str) -> str:
    KEYS.append(current_step().idempotency_key)
    if what in BROKEN:
        raise ValueError(what)
    return what


@activity(name="order", restart=Restart(0))
async def order(ctx: Context, amount: int) -> list[str]:
    drawn = [str(ctx.uuid()), str(ctx.now()), await ctx.step(do, f"reserve {ctx.uuid()}", name="reserve")]
    await ctx.emit("order.reserved", amount)
    await ctx.sleep(3600)
    try:
        drawn += [str(ctx.uuid()), await ctx.step(do, "card", name="charge")]
    except ValueError:
        await ctx.step(do, "release", name="release")
        raise
    packed = await ctx.map(pack, range(amount))
    return [*drawn, *packed, await ctx.step(do, "ship", name="ship")]


async def pack(ctx: Context, number: int) -> str:
    await ctx.sleep(number)
    return await ctx.step(do, f"pack {number}", name="pack")


@pytest.fixture(autouse=True)
def _broken() -> None:
    BROKEN.clear()
    KEYS.clear()


async def forked(stage: Stage, at: str, *definitions: Any, id: str = "it", new_id: str = "new", **options: Any) -> Any:
    """One life in which the activity is forked; gives the fork's result."""

    async def body(engine: Engine) -> Any:
        handle = await engine.handle(id).fork(at=at, id=new_id, by="alice", reason="again")
        return await handle.result()

    return await stage.life(body, *definitions, **options)


def verified(stage: Stage) -> None:
    with Ledger.open(stage.journal) as ledger:
        assert ledger.verify().problems == ()


async def test_what_failed_and_was_compensated_is_done_anew_with_a_new_key(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    BROKEN.add("card")
    assert await stage.status(order, 1) is ActivityStatus.FAILED
    BROKEN.clear()
    KEYS.clear()
    result = await forked(stage, "charge", order)
    assert result[-2:] == ["pack 0", "ship"]
    assert KEYS == ["new/0/charge", "new/0/map[0]/pack", "new/0/ship"]
    verified(stage)


async def test_what_was_drawn_before_the_fork_comes_again_and_after_it_is_new(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    before = await stage.played(order, 0)
    after = await forked(stage, "charge", order)
    assert after[:3] == before[:3]
    assert after[3] != before[3]
    # Once more, from the fork: the first values are the original's, the next the fork's.
    last = await forked(stage, "ship", order, id="new", new_id="newer")
    assert last[:4] == after[:4]


async def test_a_timer_that_had_not_fired_keeps_its_instant(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        async def wait(ctx: Context, number: int) -> str:
            await ctx.sleep(100 * number)
            return str(ctx.now())

        return await ctx.map(wait, [1, 5])

    async def body(engine: Engine) -> Any:
        await engine.start(a, id="it")
        await trio.sleep(200)
        return await (await engine.fork("it", at="map[0]", new_id="new")).result()

    first, second = await stage.life(body, a)
    assert (first[11:19], second[11:19]) == ("00:05:00", "00:08:20")


async def test_branches_beside_are_not_repeated(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.played(order, 3)
    KEYS.clear()
    assert (await forked(stage, "map[1]/pack", order))[-4:] == ["pack 0", "pack 1", "pack 2", "ship"]
    assert KEYS == ["new/0/map[1]/pack", "new/0/ship"]
    verified(stage)


async def test_copied_events_are_given_to_no_subscriber(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    given: list[Event[int]] = []

    @subscriber("order.*", start="beginning")
    async def take(event: Event[int]) -> None:
        given.append(event)

    await stage.played(order, 1)
    await forked(stage, "charge", order)

    async def body(engine: Engine) -> None:
        await trio.sleep(10)

    await stage.life(body, take)
    assert [(event.source, event.data) for event in given] == [("it", 1)]
    with Ledger.open(stage.journal) as ledger:
        assert len(list(ledger.events("order.*"))) == 1
        assert ledger.stats().events == 1
        # 4 steps of the first, 3 of the fork: what was taken over was done once.
        assert ledger.stats().steps == 7


async def test_an_event_that_was_emitted_before_is_given_again_as_it_was(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[Any]:
        event = await ctx.emit("a.b", 1)
        await ctx.step(do, "x", name="x")
        return [event.id, event.source, event.seq, str(event.at)]

    assert await stage.played(a) == await forked(stage, "x", a)


async def test_the_original_stays_as_it_is_but_for_the_command(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.played(order, 1)
    before = stage.story()
    await forked(stage, "charge", order)
    assert stage.story() == [*before, "command.accepted"]
    asked = stage.records()[-1]
    assert (asked["by"], asked["data"]) == ("alice", {"reason": "again"})
    assert (asked["facts"]["command"], asked["facts"]["at"], asked["facts"]["new"]) == ("fork", "charge", "new")
    assert asked["facts"]["before"]["records"] == len(before) + 2


async def test_the_fork_says_where_it_comes_from_and_each_copy_of_what_it_is_one(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> None:
        handle = await engine.start(order, 1, id="it", key="k", tags={"a": "b"}, priority=3)
        await handle.result()
        await (await handle.fork(at="charge", id="new", by="alice")).result()

    await stage.life(body, order)
    asked, started, *rest = stage.records(id="new")
    assert asked["facts"]["command"] == "start"
    assert (asked["facts"]["forked_from"], asked["by"]) == ("it", "alice")
    assert (started["facts"]["forked_from"], started["facts"]["cut"]["at"]) == ("it", "charge")
    originals = {record["seq"]: record for record in stage.records()}
    copies = [record for record in rest if "copied" in record["facts"]]
    assert [record["kind"] for record in copies] == ["step.completed", "event.copied", "timer.set", "timer.fired"]
    for copy in copies:
        original = originals[copy["facts"]["copied"]]
        assert (copy["path"], copy["at"], copy["data"]) == (original["path"], original["at"], original["data"])
    with Ledger.open(stage.journal) as ledger:
        (row,) = (row for row in ledger.activities(key="k", tag=("a", "b")) if row.id == "new")
        assert (row.status, row.by, row.result) == (ActivityStatus.COMPLETED, "alice", ledger.activity("new").result)


async def test_the_same_fork_twice_is_one(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.played(order, 1)
    assert await forked(stage, "charge", order) == await forked(stage, "charge", order)
    assert len(stage.records("command.accepted")) == 2


async def test_an_activity_that_runs_can_be_forked(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def body(engine: Engine) -> Any:
        handle = await engine.start(order, 1, id="it")
        await trio.sleep(10)
        fork = await handle.fork(at="sleep", id="new")
        assert await fork.status() is ActivityStatus.RUNNING
        return [(await one.result())[-1] for one in (fork, handle)]

    assert await stage.life(body, order) == ["ship", "ship"]
    assert [key for key in KEYS if key.endswith("reserve")] == ["it/0/reserve"]
    verified(stage)


async def test_a_blocked_activity_can_be_forked_before_what_does_not_fit(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="order")
    async def changed(ctx: Context, amount: int) -> str:
        await ctx.step(do, f"reserve {ctx.uuid()}", name="reserve")
        return await ctx.step(do, "other", name="other")

    await stage.killed(order, 1, at=("step.completed", "charge"))
    assert await stage.status(changed, 1) is ActivityStatus.BLOCKED
    with pytest.raises(CommandDeniedError):
        await forked(stage, "reserv", changed)
    assert await forked(stage, "reserve", changed) == "other"


async def test_forked_by_an_idle_engine_it_goes_on_in_the_next(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.played(order, 1)
    async with Engine.open_idle(str(stage.journal)) as engine:
        handle = await engine.fork("it", at="charge", new_id="new")
        assert await handle.status() is ActivityStatus.RUNNING
    assert (await stage.played(order, 1, id="new"))[-1] == "ship"
    verified(stage)


async def test_a_fork_without_its_definition_waits_for_an_engine_that_has_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.played(order, 1)

    async def body(engine: Engine) -> ActivityStatus:
        return await (await engine.fork("it", at="charge", new_id="new")).status()

    await stage.life(body)
    assert (await stage.played(order, 1, id="new"))[-1] == "ship"


@pytest.mark.parametrize("told", [False, True])
async def test_killed_anywhere_a_fork_is_whole_or_not_there(
    stage: Stage, autojump_clock: trio.testing.MockClock, told: bool
) -> None:
    await stage.played(order, 2)
    expected = [*(await forked(stage, "map[1]/pack", order))[:5], "pack 0", "pack 1", "ship"]
    first = stage.records(id="new")[0]["seq"] - 1
    last = stage.records(id="new")[-1]["seq"]
    for number, after in enumerate(range(first, last)):
        another = Stage(stage.journal.with_name(f"killed-{told}-{number}.db"))
        await another.played(order, 2)
        KEYS.clear()
        await forked(another, "map[1]/pack", order, death=Death(after=after + 3, told=told))
        again = await forked(another, "map[1]/pack", order)
        assert again[5:] == expected[5:]
        assert set(KEYS) == {"new/0/map[1]/pack", "new/0/ship"}
        verified(another)


async def test_a_child_that_had_not_ended_is_run_anew_and_one_that_had_is_not(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="child")
    async def child(ctx: Context, seconds: float) -> str:
        await ctx.step(do, f"child {seconds}", name="do")
        await ctx.sleep(seconds)
        return ctx.id

    @activity(name="parent")
    async def parent(ctx: Context) -> list[str]:
        async def one(ctx: Context, seconds: float) -> str:
            return await ctx.run(child, seconds, id=f"child-{seconds}")

        return await ctx.map(one, [1, 100, 200])

    async def body(engine: Engine) -> Any:
        handle = await engine.start(parent, id="it")
        await trio.sleep(150)
        fork = await handle.fork(at="map[1]", id="new")
        return await handle.result(), await fork.result()

    first, second = await stage.life(body, parent, child)
    assert first == ["child-1", "child-100", "child-200"]
    assert second == ["child-1", "child-100~2", "child-200~2"]
    verified(stage)


async def test_messages_that_were_taken_by_what_is_dropped_are_unread_again(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[Any]:
        first = await ctx.receive(int)
        await ctx.step(do, "x", name="x")
        return [first, await ctx.receive(int), await ctx.receive(int)]

    async def body(engine: Engine) -> Any:
        handle = await engine.start(a, id="it")
        for number in range(3):
            await handle.send(number)
        assert await handle.result() == [0, 1, 2]
        return await (await handle.fork(at="x", id="new")).result()

    assert await stage.life(body, a) == [0, 1, 2]
    verified(stage)


async def test_one_that_is_paused_or_was_cancelled_can_be_forked(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> Any:
        found = []
        for number, command in enumerate(("pause", "cancel", "terminate")):
            handle = await engine.start(order, 1, id=str(number))
            await trio.sleep(30)
            await getattr(handle, command)()
            await trio.sleep(1)
            status = await handle.status()
            fork = await handle.fork(at="sleep", id=f"new {number}")
            found.append((status, (await fork.result())[-1], await handle.status()))
        return found

    found = await stage.life(body, order)
    assert [end for _, end, _ in found] == ["ship"] * 3
    assert [status for status, _, _ in found] == ["paused", "cancelled", "cancelled"]
    assert [after for _, _, after in found] == ["paused", "cancelled", "cancelled"]
    verified(stage)


# ---------------------------------------------------------------------------------------------------- refusals


async def refused(stage: Stage, id: str = "it", **given: Any) -> Any:
    """One life in which a fork is refused; gives the error."""

    async def body(engine: Engine) -> BaseException:
        with pytest.raises((CommandDeniedError, IdConflictError)) as caught:
            await engine.fork(id, **given)
        return caught.value

    return await stage.life(body, order)


async def test_a_path_without_a_record_is_refused_and_those_near_it_named(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.played(order, 1)
    error = await refused(stage, at="chrage")
    assert "has no record of a call 'chrage'; there are, among others, charge" in str(error)
    (denied,) = stage.records("command.denied")
    assert denied["facts"]["rule"] == error.reason
    verified(stage)


async def test_an_unknown_id_is_refused(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    assert isinstance(await refused(stage, "other", at="charge"), ActivityNotFoundError)


async def test_an_id_that_is_taken_is_refused(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.played(order, 1)
    await stage.played(order, 1, id="other")
    assert isinstance(await refused(stage, at="charge", new_id="other"), IdConflictError)
    assert isinstance(await refused(stage, at="charge", new_id="it"), IdConflictError)
    assert len(stage.records("command.denied")) == 2


async def test_one_that_has_not_begun_is_refused(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    # A start whose command alone is durable is what an engine without the definition leaves.
    await stage.played(order, 1)
    async with Engine.open_idle(str(stage.journal)) as engine:
        engine._journal.append(
            "young",
            "command.accepted",
            name="order",
            facts={"command": "start"},
            data='{"args":[1]}',
            begins="activity",
        )
        await engine._journal.durable(engine._journal.last_seq)
        with pytest.raises(CommandDeniedError, match="'young' is pending"):
            await engine.fork("young", at="charge")


async def test_authorize_is_asked(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    asked: list[Any] = []

    async def body(engine: Engine) -> None:
        await engine.start(order, 1, id="it")
        with pytest.raises(CommandDeniedError, match="not you"):
            await engine.fork("it", at="charge", by="mallory")

    async with Engine.open(
        str(stage.journal),
        order,
        authorize=lambda command: asked.append(command) or ("not you" if command.kind == "fork" else True),
    ) as engine:
        await body(engine)
    assert [(command.kind, command.id, command.by) for command in asked][-1] == ("fork", "it", "mallory")
