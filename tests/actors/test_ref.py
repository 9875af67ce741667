"""Refs: sending, telling, asking, by what the mailbox and the actor are just doing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from engine.actors import (
    Backoff,
    ChildSpec,
    DeadLetter,
    Intensity,
    Mailbox,
    Overflow,
    Ref,
    RestartType,
    Supervisor,
    open_supervisor,
)
from engine.errors import ActorCrashedError, ActorStoppedError, AskTimeoutError, MailboxFullError


class Gate:
    """An actor that takes nothing until it is opened, then writes down what it takes, and answers with it doubled."""

    def __init__(self) -> None:
        self.opened = trio.Event()
        self.taken: list[Any] = []

    async def act(self, mailbox: Mailbox[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_up_when_stopping, mailbox, nursery)
            await self.opened.wait()
            nursery.cancel_scope.cancel()
        async for message in mailbox:
            self.taken.append(message)
            mailbox.reply(message * 2)

    @staticmethod
    async def _give_up_when_stopping(mailbox: Mailbox[Any], nursery: trio.Nursery) -> None:
        await mailbox.stopping.wait()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def gated(**options: Any) -> AsyncIterator[tuple[Gate, Ref[Any], Supervisor, list[DeadLetter]]]:
    gate, letters = Gate(), list[DeadLetter]()
    async with open_supervisor(on_dead_letter=letters.append) as supervisor:
        ref = await supervisor.start_child(ChildSpec("gate", gate.act, **options))
        yield gate, ref, supervisor, letters


# ------------------------------------------------------------------------------------------------ full mailboxes


async def test_send_waits_for_room_and_tell_raises() -> None:
    async with gated(capacity=2) as (gate, ref, _, letters):
        await ref.send(1)
        await ref.send(2)
        with pytest.raises(MailboxFullError) as caught:
            ref.tell(3)
        assert (caught.value.path, caught.value.capacity) == ("/gate", 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.send, 3)
            await wait_all_tasks_blocked()
            gate.opened.set()
        await wait_all_tasks_blocked()
        assert gate.taken == [1, 2, 3]
        assert letters == []


async def test_those_who_wait_for_room_come_in_in_order() -> None:
    async with gated(capacity=1) as (gate, ref, _, _letters):
        await ref.send(0)
        async with trio.open_nursery() as nursery:
            for number in range(1, 6):
                nursery.start_soon(ref.send, number)
                await wait_all_tasks_blocked()
            gate.opened.set()
        await wait_all_tasks_blocked()
        assert gate.taken == [0, 1, 2, 3, 4, 5]


async def test_a_send_that_is_cancelled_while_it_waits_has_sent_nothing() -> None:
    async with gated(capacity=1) as (gate, ref, _, letters):
        await ref.send(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.send, 1)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        gate.opened.set()
        await ref.send(2)
        await wait_all_tasks_blocked()
        assert gate.taken == [0, 2]
        assert letters == []


async def test_a_send_that_waits_while_the_actor_is_stopped_returns_and_is_a_dead_letter() -> None:
    async with gated(capacity=1) as (_, ref, supervisor, letters):
        await ref.send(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.send, 1)
            await wait_all_tasks_blocked()
            await supervisor.terminate_child("gate")
        assert letters == [DeadLetter("/gate", 0, "stopped"), DeadLetter("/gate", 1, "stopped")]
        assert ref.dead_letters == 2


async def test_a_send_that_waits_while_the_actor_crashes_goes_to_its_next_run() -> None:
    taken: list[int] = []
    crash = trio.Event()

    async def actor(mailbox: Mailbox[int]) -> None:
        if not crash.is_set():
            await crash.wait()
            raise ValueError
        async for message in mailbox:
            taken.append(message)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor, capacity=1))
        await ref.send(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ref.send, 1)
            await wait_all_tasks_blocked()
            crash.set()
        await wait_all_tasks_blocked()
        assert taken == [0, 1]


async def test_drop_oldest_makes_room_by_a_dead_letter() -> None:
    async with gated(capacity=2, overflow=Overflow.DROP_OLDEST) as (gate, ref, _, letters):
        ref.tell(1)
        await ref.send(2)
        ref.tell(3)
        await ref.send(4)
        assert letters == [DeadLetter("/gate", 1, "overflow"), DeadLetter("/gate", 2, "overflow")]
        assert ref.dead_letters == 2
        gate.opened.set()
        await wait_all_tasks_blocked()
        assert gate.taken == [3, 4]


async def test_drop_newest_keeps_what_is_there() -> None:
    async with gated(capacity=2, overflow=Overflow.DROP_NEWEST) as (gate, ref, _, letters):
        ref.tell(1)
        await ref.send(2)
        ref.tell(3)
        await ref.send(4)
        assert letters == [DeadLetter("/gate", 3, "overflow"), DeadLetter("/gate", 4, "overflow")]
        gate.opened.set()
        await wait_all_tasks_blocked()
        assert gate.taken == [1, 2]


async def test_fail_raises_for_both_and_takes_nothing() -> None:
    async with gated(capacity=1, overflow=Overflow.FAIL) as (gate, ref, _, letters):
        ref.tell(1)
        with pytest.raises(MailboxFullError):
            ref.tell(2)
        with pytest.raises(MailboxFullError):
            await ref.send(2)
        with pytest.raises(MailboxFullError):
            await ref.ask(2)
        gate.opened.set()
        await wait_all_tasks_blocked()
        assert gate.taken == [1]
        assert letters == []


@pytest.mark.parametrize(
    ("overflow", "kept"), [(Overflow.DROP_NEWEST, [1]), (Overflow.DROP_OLDEST, [2])], ids=lambda value: str(value)
)
async def test_an_ask_that_the_mailbox_drops_fails_at_once(overflow: Overflow, kept: list[int]) -> None:
    async with gated(capacity=1, overflow=overflow) as (gate, ref, _, letters):
        failed: list[int] = []

        async def ask(number: int) -> None:
            try:
                await ref.ask(number)
            except MailboxFullError:
                failed.append(number)

        async with trio.open_nursery() as nursery:
            for number in (1, 2):
                nursery.start_soon(ask, number)
                await wait_all_tasks_blocked()
            assert [letter.message for letter in letters] == failed
            gate.opened.set()
        assert gate.taken == kept
        assert sorted(failed + kept) == [1, 2]


# ------------------------------------------------------------------------------------------------ checkpoints


async def test_send_is_a_checkpoint() -> None:
    async with gated() as (_, ref, _supervisor, _letters):
        with assert_checkpoints():
            await ref.send(1)


async def test_a_cancelled_send_sends_nothing() -> None:
    async with gated() as (gate, ref, _, _letters):
        with trio.CancelScope() as scope:
            scope.cancel()
            await ref.send(1)
        gate.opened.set()
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert gate.taken == []


# ------------------------------------------------------------------------------------------------ stopped actors


async def test_what_is_sent_to_a_stopped_actor_is_a_dead_letter_and_no_error() -> None:
    async with gated() as (_, ref, supervisor, letters):
        await supervisor.terminate_child("gate")
        ref.tell(1)
        await ref.send(2)
        assert letters == [DeadLetter("/gate", 1, "stopped"), DeadLetter("/gate", 2, "stopped")]
        assert ref.dead_letters == 2


async def test_what_is_sent_after_the_supervisor_has_ended_is_a_dead_letter() -> None:
    async with gated() as (_, ref, _supervisor, letters):
        pass
    ref.tell(1)
    assert letters == [DeadLetter("/gate", 1, "stopped")]


async def test_messages_left_when_an_actor_ends_without_a_restart_are_dead_letters() -> None:
    async def once(mailbox: Mailbox[int]) -> None:
        await mailbox.receive()

    letters: list[DeadLetter] = []
    async with open_supervisor(on_dead_letter=letters.append) as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", once, restart=RestartType.TRANSIENT))
        for number in range(3):
            ref.tell(number)
        await wait_all_tasks_blocked()
        assert [letter.message for letter in letters] == [1, 2]
        assert {letter.reason for letter in letters} == {"stopped"}


async def test_the_message_in_hand_does_not_survive_a_crash_and_those_that_wait_do() -> None:
    taken: list[int] = []

    async def actor(mailbox: Mailbox[int]) -> None:
        async for message in mailbox:
            taken.append(message)
            if message == 0:
                raise ValueError

    letters: list[DeadLetter] = []
    async with open_supervisor(on_dead_letter=letters.append) as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor))
        for number in range(4):
            ref.tell(number)
        await wait_all_tasks_blocked()
    assert taken == [0, 1, 2, 3]
    assert letters == []


async def test_messages_sent_while_an_actor_restarts_wait_for_it(autojump_clock: trio.testing.MockClock) -> None:
    taken: list[object] = []

    async def actor(mailbox: Mailbox[Any]) -> None:
        async for message in mailbox:
            if isinstance(message, Exception):
                raise message
            taken.append(message)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor, backoff=Backoff(10, jitter=0)))
        ref.tell(ValueError())
        await trio.sleep(1)
        ref.tell("sent meanwhile")
        await trio.sleep(8)
        assert taken == []
        await trio.sleep(2)
        assert taken == ["sent meanwhile"]


# ------------------------------------------------------------------------------------------------ asking


async def test_ask_gives_what_the_actor_replies() -> None:
    async with gated() as (gate, ref, _, _letters):
        gate.opened.set()
        with assert_checkpoints():
            assert await ref.ask(21) == 42
        assert await ref.ask(4, timeout=None) == 8


async def test_an_ask_without_an_answer_times_out(autojump_clock: trio.testing.MockClock) -> None:
    async with gated() as (_, ref, _supervisor, _letters):
        began = trio.current_time()
        with pytest.raises(AskTimeoutError) as caught:
            await ref.ask(1)
        assert trio.current_time() - began == pytest.approx(5.0)
        assert isinstance(caught.value, TimeoutError)


async def test_the_time_an_ask_waits_for_room_counts(autojump_clock: trio.testing.MockClock) -> None:
    async with gated(capacity=1) as (gate, ref, _, _letters):
        await ref.send(0)
        with pytest.raises(AskTimeoutError):
            await ref.ask(1, timeout=3)
        gate.opened.set()
        await wait_all_tasks_blocked()
        assert gate.taken == [0]  # it was taken out of the line


async def test_an_ask_that_waited_for_room_is_answered() -> None:
    async with gated(capacity=1) as (gate, ref, _, _letters):
        answers: list[int] = []

        async def ask(number: int) -> None:
            answers.append(await ref.ask(number))

        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(ask, number)
                await wait_all_tasks_blocked()
            gate.opened.set()
        assert answers == [2, 4, 6]


async def test_a_late_reply_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with gated() as (gate, ref, _, letters):
        with pytest.raises(AskTimeoutError):
            await ref.ask(1, timeout=1)
        gate.opened.set()
        assert await ref.ask(2) == 4
        assert gate.taken == [1, 2]
        assert letters == []


async def test_a_cancelled_ask_may_still_be_handled() -> None:
    async with gated() as (gate, ref, _, _letters):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ref.ask, 1)
                await wait_all_tasks_blocked()
                scope.cancel()
        gate.opened.set()
        assert await ref.ask(2) == 4
        assert gate.taken == [1, 2]


async def test_a_second_reply_is_dropped() -> None:
    async def twice(mailbox: Mailbox[int]) -> None:
        async for message in mailbox:
            mailbox.reply(message)
            mailbox.reply("second")

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", twice))
        assert [await ref.ask(number) for number in range(3)] == [0, 1, 2]


async def test_an_ask_fails_at_once_when_the_actor_crashes_with_it_in_hand() -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        async for message in mailbox:
            raise message

    error = ValueError("broken")
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor))
        with pytest.raises(ActorCrashedError) as caught:
            await ref.ask(error, timeout=None)
        assert caught.value.__cause__ is error


async def test_an_ask_that_was_passed_over_fails_when_the_run_crashes() -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        async for message in mailbox:
            if isinstance(message, Exception):
                raise message

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        ref = await supervisor.start_child(ChildSpec("a", actor))

        async def ask() -> None:
            with pytest.raises(ActorCrashedError):
                await ref.ask("never answered", timeout=None)

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        ref.tell(ValueError())


async def test_an_ask_that_waits_in_the_mailbox_survives_a_crash() -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        async for message in mailbox:
            if isinstance(message, Exception):
                raise message
            mailbox.reply(message)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor))
        ref.tell(ValueError())
        assert await ref.ask("after the crash") == "after the crash"


async def test_an_ask_that_is_in_hand_when_the_actor_returns_fails_at_once() -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        await mailbox.receive()

    async with open_supervisor(intensity=Intensity(5)) as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor))
        with pytest.raises(ActorStoppedError):
            await ref.ask(1, timeout=None)


async def test_an_ask_of_a_stopped_actor_fails_at_once() -> None:
    async with gated() as (_, ref, supervisor, letters):
        await supervisor.terminate_child("gate")
        with pytest.raises(ActorStoppedError):
            await ref.ask(1, timeout=None)
        assert letters == [DeadLetter("/gate", 1, "stopped")]


@pytest.mark.parametrize("taken", [False, True])
async def test_an_ask_fails_when_the_actor_is_stopped_meanwhile(taken: bool) -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        if taken:
            await mailbox.receive()
        await mailbox.stopping.wait()

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        ref = await supervisor.start_child(ChildSpec("a", actor))

        async def ask() -> None:
            with pytest.raises(ActorStoppedError):
                await ref.ask(1, timeout=None)

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("a")


async def test_an_ask_in_line_fails_when_the_actor_is_stopped() -> None:
    async with gated(capacity=1) as (_, ref, supervisor, _letters), trio.open_nursery() as nursery:
        await ref.send(0)

        async def ask() -> None:
            with pytest.raises(ActorStoppedError):
                await ref.ask(1, timeout=None)

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("gate")


async def test_stopping_in_order_does_not_wait_for_asks_of_what_is_stopped_already(
    autojump_clock: trio.testing.MockClock,
) -> None:
    errors: list[Exception] = []

    async def silent(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()

    async def asking(mailbox: Mailbox[Ref[Any]]) -> None:
        ref = await mailbox.receive()
        try:
            await ref.ask(1, timeout=None)
        except ActorStoppedError as error:
            errors.append(error)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("asking", asking, restart=RestartType.TEMPORARY))
        ref.tell(await supervisor.start_child(ChildSpec("silent", silent)))
        await wait_all_tasks_blocked()
    assert trio.current_time() == pytest.approx(0, abs=0.01)
    assert len(errors) == 1


@pytest.mark.parametrize("timeout", [-1, float("nan")])
async def test_a_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    async with gated() as (_, ref, _supervisor, _letters):
        with pytest.raises(ValueError, match="timeout"):
            await ref.ask(1, timeout=timeout)


async def test_an_answered_ask_leaves_nothing_behind() -> None:
    async with gated() as (gate, ref, _, _letters):
        gate.opened.set()
        for _ in range(10):
            await ref.ask(1)
        assert not ref._inbox.unanswered
        assert not ref._inbox.tree.timeouts._asks
