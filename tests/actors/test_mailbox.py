"""The mailbox: taking messages, ending, replying."""

from __future__ import annotations

import collections
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from engine.actors import ChildSpec, Mailbox, RestartType, SupervisionEvent, open_supervisor


async def test_messages_are_taken_in_the_order_in_which_they_were_sent() -> None:
    taken: list[int] = []

    async def actor(mailbox: Mailbox[int]) -> None:
        async for message in mailbox:
            taken.append(message)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor))
        for number in range(100):
            ref.tell(number)
        await wait_all_tasks_blocked()
    assert taken == list(range(100))


async def test_taking_a_message_that_waits_is_no_schedule_point() -> None:
    others = 0
    rows: list[int] = []

    async def actor(mailbox: Mailbox[int]) -> None:
        await trio.lowlevel.checkpoint()
        before = others
        for _ in range(3):
            await mailbox.receive()
            rows.append(others - before)

    async def ticker() -> None:
        nonlocal others
        for _ in range(20):
            others += 1
            await trio.lowlevel.checkpoint()

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        ref = await supervisor.start_child(ChildSpec("a", actor, restart=RestartType.TEMPORARY))
        for number in range(3):
            ref.tell(number)
        nursery.start_soon(ticker)
    assert rows == [0, 0, 0]


async def test_taking_a_message_is_a_cancel_point_and_leaves_it_there() -> None:
    outcome: list[object] = []

    async def actor(mailbox: Mailbox[str]) -> None:
        await begin.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            outcome.append(await mailbox.receive())
        outcome.append(scope.cancelled_caught)
        outcome.append(await mailbox.receive())

    begin = trio.Event()
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor, restart=RestartType.TEMPORARY))
        ref.tell("hello")
        begin.set()
        await wait_all_tasks_blocked()
    assert outcome == [True, "hello"]


class Steps(trio.abc.Instrument):
    """Counts the steps of the actor `/a`; there are schedule points between two of them."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name == "/a"


@pytest.fixture
async def steps() -> AsyncIterator[Steps]:
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    yield steps
    trio.lowlevel.remove_instrument(steps)


@pytest.mark.parametrize("capacity", [1, 2, 5])
async def test_at_most_capacity_messages_are_taken_without_a_schedule_point(capacity: int, steps: Steps) -> None:
    taken_in_step: collections.Counter[int] = collections.Counter()

    async def actor(mailbox: Mailbox[int]) -> None:
        await begin.wait()
        async for _ in mailbox:
            taken_in_step[steps.count] += 1

    begin = trio.Event()
    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        ref = await supervisor.start_child(ChildSpec("a", actor, capacity=capacity))
        for number in range(50):
            nursery.start_soon(ref.send, number)
        await wait_all_tasks_blocked()
        begin.set()
        await wait_all_tasks_blocked()
    assert sum(taken_in_step.values()) == 50
    assert set(taken_in_step.values()) == {capacity}  # and no fewer either


async def test_an_actor_that_has_waited_takes_as_many_as_before_without_a_schedule_point(steps: Steps) -> None:
    taken_in_step: list[int] = []

    async def actor(mailbox: Mailbox[int]) -> None:
        async for _ in mailbox:
            taken_in_step.append(steps.count)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor, capacity=2))
        ref.tell(1)
        await wait_all_tasks_blocked()
        ref.tell(2)
        ref.tell(3)
        await wait_all_tasks_blocked()
    first, second, third = taken_in_step
    assert first < second == third


async def test_a_busy_actor_lets_others_run_while_senders_wait_for_it() -> None:
    turns = 0

    async def actor(mailbox: Mailbox[int]) -> None:
        async for _ in mailbox:
            pass

    async def forever() -> None:
        while True:
            await ref.send(0)

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        ref = await supervisor.start_child(ChildSpec("a", actor, capacity=1))
        nursery.start_soon(forever)
        nursery.start_soon(forever)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
            turns += 1
        nursery.cancel_scope.cancel()
    assert turns == 20


async def test_a_receive_that_is_cancelled_while_it_waits_loses_nothing() -> None:
    taken: list[str] = []

    async def actor(mailbox: Mailbox[str]) -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            taken.append(await mailbox.receive())
        taken.append(await mailbox.receive())

    scopes: list[trio.CancelScope] = []
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor, restart=RestartType.TEMPORARY))
        await wait_all_tasks_blocked()
        scopes[0].cancel()
        await wait_all_tasks_blocked()
        ref.tell("hello")
        await wait_all_tasks_blocked()
    assert taken == ["hello"]


async def test_stopping_ends_the_mailbox_after_the_message_in_hand() -> None:
    log: list[str] = []

    async def actor(mailbox: Mailbox[str]) -> None:
        async for message in mailbox:
            log.append(message)
            await mailbox.stopping.wait()
            log.append("stopping")
        try:
            await mailbox.receive()
        except trio.EndOfChannel:
            log.append("end")

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor))
        ref.tell("first")
        ref.tell("second")
        await wait_all_tasks_blocked()
    assert log == ["first", "stopping", "end"]
    assert ref.dead_letters == 1


async def test_stopping_ends_a_receive_that_waits() -> None:
    ended = False

    async def actor(mailbox: Mailbox[str]) -> None:
        nonlocal ended
        try:
            await mailbox.receive()
        except trio.EndOfChannel:
            ended = True

    async with open_supervisor() as supervisor:
        await supervisor.start_child(ChildSpec("a", actor))
        await wait_all_tasks_blocked()
    assert ended


async def test_a_message_that_arrives_just_before_stopping_is_not_taken() -> None:
    taken: list[str] = []

    async def actor(mailbox: Mailbox[str]) -> None:
        async for message in mailbox:
            taken.append(message)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor))
        await wait_all_tasks_blocked()
        ref.tell("too late")
        await supervisor.terminate_child("a")
    assert taken == []
    assert ref.dead_letters == 1


async def test_stopping_is_an_event_also_when_it_is_first_looked_at_afterwards() -> None:
    seen: list[bool] = []

    async def actor(mailbox: Mailbox[str]) -> None:
        async for _ in mailbox:
            pass
        seen.append(mailbox.stopping.is_set())

    async with open_supervisor() as supervisor:
        await supervisor.start_child(ChildSpec("a", actor))
        await wait_all_tasks_blocked()
    assert seen == [True]


async def test_the_mailbox_of_a_run_that_is_over_gives_nothing_more() -> None:
    kept: list[Mailbox[Any]] = []

    async def actor(mailbox: Mailbox[Any]) -> None:
        kept.append(mailbox)
        if len(kept) == 1:
            raise ValueError
        await mailbox.receive()

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor, restart=RestartType.TRANSIENT))
        await wait_all_tasks_blocked()
        with pytest.raises(trio.EndOfChannel):
            await kept[0].receive()
        ref.tell("for the second run")
        await wait_all_tasks_blocked()
    assert ref.dead_letters == 0


async def test_only_one_task_waits_in_a_mailbox() -> None:
    errors: list[Exception] = []

    async def actor(mailbox: Mailbox[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mailbox.receive)
            await wait_all_tasks_blocked()
            try:
                await mailbox.receive()
            except trio.BusyResourceError as error:
                errors.append(error)
            nursery.cancel_scope.cancel()

    async with open_supervisor() as supervisor:
        await supervisor.start_child(ChildSpec("a", actor, restart=RestartType.TEMPORARY))
        await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
    assert len(errors) == 1


async def test_replying_before_the_first_message_is_an_error() -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        mailbox.reply(1)

    events: list[SupervisionEvent] = []
    async with open_supervisor(on_event=events.append) as supervisor:
        await supervisor.start_child(ChildSpec("a", actor, restart=RestartType.TEMPORARY))
        await wait_all_tasks_blocked()
    assert isinstance(events[0].error, RuntimeError)
    assert "no message in hand" in str(events[0].error)


async def test_replying_to_what_was_told_is_no_error() -> None:
    taken: list[str] = []

    async def actor(mailbox: Mailbox[Any]) -> None:
        async for message in mailbox:
            mailbox.reply(1)
            taken.append(message)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor))
        ref.tell("x")
        await wait_all_tasks_blocked()
    assert taken == ["x"]
