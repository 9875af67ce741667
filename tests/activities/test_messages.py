"""Messages: sent, kept in order, received once, given back by a branch that loses."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import attrs
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
    Handle,
    IdConflictError,
    PayloadError,
    Restart,
    Settings,
    activity,
    current_step,
    step,
)
from engine.testing import crash_everywhere
from tests.activities.stage import Stage


@attrs.frozen
class Approval:
    by: str


@attrs.frozen
class Rejection:
    why: str


@attrs.frozen
class UrgentApproval(Approval):
    pass


@step(name="mark")
async def mark(what: str) -> str:
    return what


@activity(name="one")
async def one(ctx: Context) -> str:
    return (await ctx.receive(Approval)).by


@activity(name="two")
async def two(ctx: Context) -> list[str]:
    return [(await ctx.receive(Approval)).by, (await ctx.receive(Approval)).by]


@activity(name="within")
async def within(ctx: Context, seconds: float) -> str | None:
    answer = await ctx.receive(Approval, timeout=seconds)
    return None if answer is None else answer.by


# ------------------------------------------------------------------------------------------------ sending


async def test_a_message_that_waits_is_received(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def body(engine: Engine) -> str:
        handle = await engine.start(one, id="it")
        await handle.send(Approval("ann"), by="alice", reason="she asked")
        return await handle.result()

    assert await stage.life(body, one) == "ann"
    assert stage.story() == [
        "command.accepted",
        "message.received",
        "message.taken receive",
        "activity.completed",
    ]
    command, received = stage.records("command.accepted")[1], stage.records("message.received")[0]
    assert (command["facts"]["command"], command["by"], command["data"]) == ("send", "alice", {"reason": "she asked"})
    assert command["facts"]["message"] == received["facts"]["id"]
    assert (received["name"], received["data"]) == (f"{__name__}.Approval", {"value": {"by": "ann"}})


async def test_messages_are_received_in_the_order_in_which_they_were_sent(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> list[str]:
        handle = await engine.start(two, id="it")
        await engine.send("it", Approval("ann"))
        await engine.send("it", Approval("bob"))
        return await handle.result()

    assert await stage.life(body, two) == ["ann", "bob"]


async def test_a_message_sent_twice_with_one_id_is_kept_once(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> list[str]:
        handle = await engine.start(two, id="it")
        for _ in range(3):
            await handle.send(Approval("ann"), message_id="m-1")
        await handle.send(Approval("bob"))
        return await handle.result()

    assert await stage.life(body, two) == ["ann", "bob"]


async def test_a_message_sent_twice_at_once_is_kept_once(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def body(engine: Engine) -> None:
        handle = await engine.start(two, id="it")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(lambda: handle.send(Approval("ann"), message_id="m-1"))

    await stage.life(body, two)
    assert len(stage.records("message.received")) == 1


async def test_another_message_of_one_id_is_a_conflict(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def body(engine: Engine) -> None:
        handle = await engine.start(two, id="it")
        await handle.send(Approval("ann"), message_id="m-1")
        with pytest.raises(IdConflictError, match="m-1"):
            await handle.send(Approval("bob"), message_id="m-1")
        with pytest.raises(IdConflictError, match="m-1"):
            await handle.send(Rejection("ann"), message_id="m-1")

    await stage.life(body, two)


async def test_one_id_is_kept_once_over_restarts(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def first(engine: Engine) -> None:
        handle = await engine.start(two, id="it")
        await handle.send(Approval("ann"), message_id="m-1")

    async def second(engine: Engine) -> list[str]:
        handle = engine.handle("it", two)
        await handle.send(Approval("ann"), message_id="m-1")
        await handle.send(Approval("bob"), message_id="m-2")
        return await handle.result()

    await stage.life(first, two)
    assert await stage.life(second, two) == ["ann", "bob"]


async def test_a_message_to_an_unknown_id_is_refused_and_that_recorded(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> None:
        with pytest.raises(ActivityNotFoundError, match="nobody"):
            await engine.send("nobody", Approval("ann"), by="alice", reason="why not")

    await stage.life(body, one)
    (denied,) = stage.records("command.denied", id="/engine")
    assert (denied["facts"]["command"], denied["facts"]["target"], denied["by"]) == ("send", "nobody", "alice")
    assert denied["data"] == {"args": [{"by": "ann"}], "reason": "why not"}


async def test_a_message_to_one_that_has_ended_is_refused_and_that_recorded(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> None:
        handle = await engine.start(one, id="it")
        await handle.send(Approval("ann"))
        await handle.result()
        with pytest.raises(ActivityEndedError) as caught:
            await handle.send(Approval("bob"))
        assert caught.value.status == "completed"

    await stage.life(body, one)
    assert stage.story()[-1] == "command.denied"


async def test_a_message_that_cannot_be_encoded_is_refused_before_anything(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> None:
        handle = await engine.start(one, id="it")
        with pytest.raises(PayloadError, match="message"):
            await handle.send(object())

    await stage.life(body, one)
    assert stage.story() == []


async def test_authorize_is_asked_for_messages_from_outside(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    asked: list[Any] = []

    def authorize(command: Any) -> bool | str:
        asked.append(command)
        return command.kind == "start" or "no messages on Sundays"

    async with Engine.open(str(stage.journal), one, authorize=authorize) as engine:
        handle = await engine.start(one, id="it")
        with pytest.raises(CommandDeniedError, match="Sundays"):
            await handle.send(Approval("ann"))
    assert (asked[-1].kind, asked[-1].id, asked[-1].args) == ("send", "it", (Approval("ann"),))
    assert stage.story() == ["command.denied"]


# ------------------------------------------------------------------------------------------------ receiving


async def test_what_is_not_asked_for_stays_in_its_place(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="choosy")
    async def choosy(ctx: Context) -> list[Any]:
        chosen = await ctx.receive(Approval, where=lambda message: message.by == "bob")
        rejection = await ctx.receive(Rejection)
        either = await ctx.receive(Rejection, Approval)
        return [chosen.by, rejection.why, str(either)]

    async def body(engine: Engine) -> list[Any]:
        handle = await engine.start(choosy, id="it")
        for message in (Approval("ann"), Rejection("late"), Approval("bob"), Rejection("no")):
            await handle.send(message)
        return await handle.result()

    assert await stage.life(body, choosy) == ["bob", "late", "Approval(by='ann')"]


async def test_a_message_of_a_derived_class_is_received_as_what_it_is(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="kind")
    async def kind(ctx: Context) -> str:
        return type(await ctx.receive(Approval)).__name__

    async def body(engine: Engine) -> str:
        handle = await engine.start(kind, id="it")
        await handle.send(UrgentApproval("ann"))
        return await handle.result()

    assert await stage.life(body, kind) == "UrgentApproval"


async def test_a_message_may_be_a_builtin(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="builtin")
    async def builtin(ctx: Context) -> list[Any]:
        return [await ctx.receive(str), await ctx.receive(dict)]

    async def body(engine: Engine) -> list[Any]:
        handle = await engine.start(builtin, id="it")
        await handle.send({"a": [1]})
        await handle.send("text")
        return await handle.result()

    assert await stage.life(body, builtin) == ["text", {"a": [1]}]


async def test_a_message_that_does_not_fit_its_class_stays_unread(
    stage: Stage, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> str:
        handle = await engine.start(one, id="it")
        await engine.send_typed("it", "Approval", {"nobody": 1})
        await engine.send_typed("it", "Approval", {"by": "ann"})
        return await handle.result()

    assert await stage.life(body, one) == "ann"
    assert "cannot be read" in caplog.text
    assert len(stage.records("message.unread")) == 1


async def test_a_predicate_that_raises_fails_the_call_also_at_replay(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="faulty")
    async def faulty(ctx: Context) -> str:
        try:
            await ctx.receive(Approval, where=lambda message: 1 / 0 > 0)
        except ZeroDivisionError:
            return await ctx.step(mark, "caught")
        return "received"

    async def drive(handle: Handle[Any]) -> None:
        await handle.send(Approval("ann"), message_id="m")

    assert (await crash_everywhere(faulty, drive=drive)).result == "caught"


async def test_what_is_no_class_cannot_be_received(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="wrong", restart=Restart(0))
    async def wrong(ctx: Context) -> None:
        await ctx.receive("Approval")  # type: ignore[call-overload]

    with pytest.raises(ActivityFailedError, match="give the class"):
        await stage.played(wrong)


# ------------------------------------------------------------------------------------------------ time


async def test_none_is_given_when_the_time_is_over(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    assert await stage.played(within, 5) is None
    assert stage.story() == ["timer.set receive", "timer.fired receive", "activity.completed"]
    assert stage.records("timer.set")[0]["facts"]["for"] == "receive"


async def test_a_timeout_of_zero_takes_what_is_there(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="now")
    async def now(ctx: Context) -> list[bool]:
        await ctx.sleep(1)
        return [await ctx.receive(Approval, timeout=0) is not None for _ in range(2)]

    async def body(engine: Engine) -> list[bool]:
        handle = await engine.start(now, id="it")
        await handle.send(Approval("ann"))
        return await handle.result()

    assert await stage.life(body, now) == [True, False]


async def test_a_message_that_is_handed_in_before_the_time_is_over_is_received_though_it_is_durable_after(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> str | None:
        handle = await engine.start(within, 5.0, id="it")
        await trio.sleep(4.7)
        await handle.send(Approval("ann"))
        return await handle.result()

    assert await stage.life(body, within, settings=Settings(commit_delay=1.0)) == "ann"


@pytest.mark.parametrize(("handed_in", "received"), [(4.0, "ann"), (6.0, None)])
async def test_the_earlier_instant_wins_also_when_both_came_while_no_engine_ran(
    stage: Stage, handed_in: float, received: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    async def begin(engine: Engine) -> None:
        await engine.start(within, 5.0, id="it")
        await trio.sleep(1)

    async def hand_in(engine: Engine) -> None:
        await engine.send("it", Approval("ann"))

    async def end(engine: Engine) -> Any:
        return await engine.handle("it", within).result()

    began = trio.current_time()
    await stage.life(begin, within)
    await trio.sleep_until(began + handed_in)
    # Nobody has the activity's definition: what is sent is kept.
    await stage.life(hand_in, one)
    await trio.sleep(20)
    assert await stage.life(end, within) == received


async def test_a_restart_waits_the_rest(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.killed(within, 5.0, at=("timer.set", "receive"))
    began = trio.current_time()
    await trio.sleep(3)
    assert await stage.played(within, 5.0) is None
    assert trio.current_time() - began < 5.5


# ------------------------------------------------------------------------------------------------ the end


async def test_what_is_left_unread_is_told_at_the_end(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def body(engine: Engine) -> str:
        handle = await engine.start(one, id="it")
        await handle.send(Rejection("never"), message_id="m-1")
        await handle.send(Approval("ann"))
        await handle.send(Approval("bob"), message_id="m-2")
        return await handle.result()

    await stage.life(body, one)
    assert stage.story()[-1] == "activity.completed"
    with closing(sqlite3.connect(stage.journal)) as connection:
        rows = connection.execute("SELECT id, type, taken IS NULL, unread IS NULL FROM messages ORDER BY received")
        found = {id: (type.rpartition(".")[2], untaken, read) for id, type, untaken, read in rows}
    assert found["m-1"] == ("Rejection", 1, 0)


# ------------------------------------------------------------------------------------------------ side by side


async def racing(ctx: Context) -> list[str]:
    """Both branches wait; one is given its message, and both are had in the end."""
    name, first = await ctx.race(a=lambda ctx: ctx.receive(Approval), r=lambda ctx: ctx.receive(Rejection))
    second = await ctx.receive(Approval, Rejection)
    return [name, str(first), str(second)]


race_of_two = activity(name="race_of_two")(racing)


async def test_a_message_taken_by_a_losing_branch_is_not_lost(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> list[str]:
        handle = await engine.start(race_of_two, id="it")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.send, Approval("ann"))
            nursery.start_soon(handle.send, Rejection("no"))
        return await handle.result()

    _, first, second = await stage.life(body, race_of_two)
    assert {first, second} == {"Approval(by='ann')", "Rejection(why='no')"}
    returned = [end["facts"].get("returned", []) for end in stage.records("branch.ended")]
    assert sum(map(len, returned)) <= 1


async def test_a_message_that_a_loser_worked_with_is_consumed(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def worker(ctx: Context) -> None:
        await ctx.receive(Approval)
        await ctx.step(mark, "work")
        await ctx.sleep(100)

    @activity(name="consuming")
    async def consuming(ctx: Context) -> bool:
        await ctx.race(worker=worker, late=lambda ctx: ctx.sleep(10))
        return await ctx.receive(Approval, timeout=1) is None

    async def body(engine: Engine) -> bool:
        handle = await engine.start(consuming, id="it")
        await handle.send(Approval("ann"))
        return await handle.result()

    assert await stage.life(body, consuming)


async def test_a_loser_that_did_nothing_with_its_message_gives_it_back(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def idler(ctx: Context) -> None:
        await ctx.gather(lambda ctx: ctx.receive(Approval), lambda ctx: ctx.receive(Rejection))

    @activity(name="idle")
    async def idle(ctx: Context) -> list[str]:
        await ctx.race(idler=idler, late=lambda ctx: ctx.sleep(10))
        return [(await ctx.receive(Approval)).by, (await ctx.receive(Approval)).by]

    async def drive(handle: Handle[Any]) -> None:
        await handle.send(Approval("ann"), message_id="1")
        await handle.send(Approval("bob"), message_id="2")

    assert (await crash_everywhere(idle, drive=drive)).result == ["ann", "bob"]


async def test_branches_are_served_in_the_order_in_which_they_began_to_wait(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def waiting(ctx: Context, delay: float) -> str:
        await ctx.sleep(delay)
        return (await ctx.receive(Approval)).by

    @activity(name="queue")
    async def queue(ctx: Context) -> list[str]:
        return await ctx.map(waiting, [3.0, 1.0, 2.0])

    async def body(engine: Engine) -> list[str]:
        handle = await engine.start(queue, id="it")
        await trio.sleep(5)
        for name in ("first", "second", "third"):
            await handle.send(Approval(name))
        return await handle.result()

    assert await stage.life(body, queue) == ["third", "first", "second"]


async def test_after_a_restart_branches_are_served_in_the_order_of_their_paths(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def waiting(ctx: Context, delay: float) -> str:
        await ctx.sleep(delay)
        return (await ctx.receive(Approval)).by

    @activity(name="queue")
    async def queue(ctx: Context) -> list[str]:
        return await ctx.map(waiting, [2.0, 1.0, 3.0])

    async def begin(engine: Engine) -> None:
        await engine.start(queue, id="it")
        await trio.sleep(5)

    async def send(engine: Engine) -> None:
        for name in ("first", "second", "third"):
            await engine.send("it", Approval(name))

    async def end(engine: Engine) -> list[str]:
        return await engine.handle("it", queue).result()

    await stage.life(begin, queue)
    await stage.life(send, one)
    assert await stage.life(end, queue) == ["first", "second", "third"]


async def test_a_wait_that_a_scope_of_ones_own_ends_loses_no_message(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="impatient")
    async def impatient(ctx: Context) -> str:
        with trio.move_on_after(5):
            return (await ctx.receive(Approval)).by
        return (await ctx.receive(Approval)).by

    async def drive(handle: Handle[Any]) -> None:
        await trio.sleep(5)
        await handle.send(Approval("ann"), message_id="m")

    assert (await crash_everywhere(impatient, drive=drive)).result == "ann"


async def test_a_restart_takes_anew_what_a_losing_branch_gave_back(autojump_clock: trio.testing.MockClock) -> None:
    @step(name="fails_first")
    async def fails_first() -> str:
        if current_step().attempt == 1:
            raise ValueError("the first time")
        return "done"

    async def failing(ctx: Context) -> str:
        await ctx.sleep(2)
        return await ctx.step(fails_first)

    async def waiting(ctx: Context) -> list[str]:
        (first,) = await ctx.gather(lambda ctx: ctx.receive(Approval))
        await ctx.receive(Rejection)
        return [first.by]

    @activity(name="again", restart=Restart(1, initial=0.1, jitter=0))
    async def again(ctx: Context) -> list[Any]:
        return list(await ctx.gather(waiting, failing))

    async def drive(handle: Handle[Any]) -> None:
        await handle.send(Approval("ann"), message_id="1")
        await trio.sleep(10)
        await handle.send(Rejection("no"), message_id="2")

    assert (await crash_everywhere(again, drive=drive)).result == [["ann"], "done"]


# ------------------------------------------------------------------------------------------------ between activities


@activity(name="sender")
async def sender(ctx: Context, to: str) -> str:
    try:
        await ctx.send(to, Approval("ann"))
    except ActivityNotFoundError as error:
        return await ctx.step(mark, f"not found: {error.id}")
    except ActivityEndedError as error:
        return await ctx.step(mark, f"{error.id} is {error.status}")
    return await ctx.step(mark, "sent")


async def test_an_activity_sends_another_a_message_once(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @step(name="seen")
    async def seen(by: str) -> None:
        stage.done.append(by)

    @activity(name="receiver")
    async def receiver(ctx: Context) -> str:
        await ctx.step(seen, (await ctx.receive(Approval)).by)
        more = await ctx.receive(Approval, timeout=100)
        return "twice" if more else "once"

    async def body(engine: Engine) -> str:
        handle = await engine.start(receiver, id="receiver")
        assert await engine.run(sender, "receiver", id="it") == "sent"
        return await handle.result()

    assert await stage.life(body, sender, receiver) == "once"
    (received,) = stage.records("message.received", id="receiver")
    (sent,) = stage.records("message.sent")
    assert received["facts"]["sender"] == "it"
    assert (sent["facts"]["to"], sent["facts"]["message"]) == ("receiver", received["facts"]["id"])


async def test_a_refusal_is_the_same_at_replay(autojump_clock: trio.testing.MockClock) -> None:
    assert (await crash_everywhere(sender, "nobody")).result == "not found: nobody"


async def test_an_activity_is_refused_to_send_to_one_that_has_ended(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> str:
        other = await engine.start(one, id="other")
        await other.send(Approval("bob"))
        await other.result()
        return await engine.run(sender, "other", id="it")

    assert await stage.life(body, one, sender) == "other is completed"
    (denied,) = stage.records("command.denied", id="other")
    assert (denied["facts"]["via"], denied["facts"]["origin"]) == ("activity", "it")
    assert "before" in denied["facts"]


# ------------------------------------------------------------------------------------------------ killed everywhere


async def test_receiving_is_right_after_every_kill(autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="everything")
    async def everything(ctx: Context) -> list[Any]:
        first = await ctx.receive(Approval)
        await ctx.step(mark, first.by)
        name, _ = await ctx.race(paid=lambda ctx: ctx.receive(Rejection), late=lambda ctx: ctx.sleep(5))
        second = await ctx.receive(Approval, timeout=10)
        third = await ctx.receive(Approval, timeout=1)
        return [first.by, name, second and second.by, third]

    async def drive(handle: Handle[Any]) -> None:
        await handle.send(Approval("ann"), message_id="1")
        await handle.send(Approval("bob"), message_id="2")

    assert (await crash_everywhere(everything, drive=drive)).result == ["ann", "late", "bob", None]


async def test_no_message_is_lost_to_a_branch_that_ended_when_another_had_decided(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Also where the end that decided was recorded by a life before, and not by this one."""

    async def approved(branch: Context) -> str:
        return (await branch.receive(Approval)).by

    async def rejected(branch: Context) -> str:
        return (await branch.receive(Rejection)).why

    @activity(name="rivals")
    async def rivals(ctx: Context) -> list[str]:
        _, first = await ctx.race(approved=approved, rejected=rejected)
        other = await ctx.receive(Approval, Rejection)
        return sorted([first, other.by if isinstance(other, Approval) else other.why])

    async def drive(handle: Handle[list[str]]) -> None:
        await handle.send(Approval("ann"), message_id="1")
        await handle.send(Rejection("no"), message_id="2")

    assert (await crash_everywhere(rivals, drive=drive)).result == ["ann", "no"]


async def test_what_is_sent_to_one_that_stands_in_line_is_received(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> str:
        first = await engine.start(one, id="first")
        handle = await engine.start(one, id="it")
        assert await handle.status() is ActivityStatus.PENDING
        await handle.send(Approval("ann"))
        await first.send(Approval("bob"))
        return await handle.result()

    assert await stage.life(body, one, settings=Settings(max_running=1)) == "ann"


async def test_a_message_to_many_reaches_those_that_have_not_ended(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> list[str]:
        handles = [await engine.start(one, id=f"one-{number}") for number in range(3)]
        await handles[0].send(Approval("bob"))
        await handles[0].result()
        assert await engine.send(ActivityFilter(name="one"), Approval("ann"), by="alice") == 2
        return [await handle.result() for handle in handles]

    assert await stage.life(body, one) == ["bob", "ann", "ann"]
    command = stage.records("command.accepted", id="/engine")[0]
    assert (command["facts"]["command"], command["by"]) == ("send", "alice")
