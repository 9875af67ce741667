"""The timeouts of asks: each ends at its own instant, whatever the others do and whatever is being cancelled."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.actors import ChildSpec, Mailbox, Ref, Supervisor, open_supervisor
from engine.errors import ActorCrashedError, ActorStoppedError, AskTimeoutError


async def silent(mailbox: Mailbox[Any]) -> None:
    """Takes messages and answers none; an exception is raised."""
    async for message in mailbox:
        if isinstance(message, Exception):
            raise message


async def answering(mailbox: Mailbox[Any]) -> None:
    """Answers each message with itself, after so many seconds."""
    async for message in mailbox:
        await trio.sleep(message)
        mailbox.reply(message)


async def ends(ref: Ref[Any], timeouts: list[float], *, begun: Callable[[int], float] = lambda number: 0.0) -> Any:
    """When asks of these timeouts ended, each begun at its instant, one more instant for each that was answered."""
    ended: dict[int, float] = {}

    async def ask(number: int, timeout: float) -> None:
        await trio.sleep(begun(number))
        with pytest.raises(AskTimeoutError):
            await ref.ask("anybody?", timeout=timeout)
        ended[number] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for number, timeout in enumerate(timeouts):
            nursery.start_soon(ask, number, timeout)
    return [pytest.approx(ended[number]) for number in range(len(timeouts))]


async def test_asks_of_different_timeouts_end_each_at_its_instant(autojump_clock: MockClock) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("silent", silent))
        assert await ends(ref, [7.0, 1.0, 3.0, 3.0, 0.5]) == [7.0, 1.0, 3.0, 3.0, 0.5]


async def test_asks_of_one_timeout_that_began_at_different_instants_end_so(autojump_clock: MockClock) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("silent", silent))
        assert await ends(ref, [5.0] * 4, begun=float) == [5.0, 6.0, 7.0, 8.0]


async def test_one_of_a_shorter_timeout_that_began_later_ends_before_the_one_that_waits(
    autojump_clock: MockClock,
) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("silent", silent))
        assert await ends(ref, [9.0, 3.0, 1.0], begun=float) == [9.0, 4.0, 3.0]


async def test_one_that_was_answered_does_not_end_the_next_too_early(autojump_clock: MockClock) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("answering", answering))
        assert await ref.ask(2, timeout=3) == 2
        assert await ref.ask(2, timeout=3) == 2  # from 2 to 4: the first would have ended at 3
        with pytest.raises(AskTimeoutError, match="/answering did not answer within 3 s"):
            await ref.ask(10, timeout=3)
        assert trio.current_time() == pytest.approx(7)


async def test_an_ask_without_a_timeout_and_one_without_end_wait_for_ever(autojump_clock: MockClock) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("answering", answering))
        assert await ref.ask(1e6, timeout=None) == 1e6
        assert await ref.ask(1e6, timeout=math.inf) == 1e6


async def test_a_timeout_of_nothing_is_over_before_the_actor_can_answer_and_the_message_is_handled() -> None:
    got: list[Any] = []

    async def note(mailbox: Mailbox[Any]) -> None:
        async for message in mailbox:
            got.append(message)
            mailbox.reply(message)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("note", note))
        for number in range(20):  # not by chance
            with trio.testing.assert_checkpoints(), pytest.raises(AskTimeoutError):
                await ref.ask(number, timeout=0)
        await wait_all_tasks_blocked()
    assert got == list(range(20))


async def test_a_timeout_of_nothing_does_not_wait_in_line() -> None:
    got: list[Any] = []

    async def note(mailbox: Mailbox[Any]) -> None:
        async for message in mailbox:
            got.append(message)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("note", note, capacity=1))
        ref.tell("fills the mailbox, since the actor has not had its turn")
        with pytest.raises(AskTimeoutError):
            await ref.ask("not sent", timeout=0)
        await wait_all_tasks_blocked()
    assert len(got) == 1


async def test_they_hold_while_everything_around_is_cancelled_and_the_tree_is_being_stopped(
    autojump_clock: MockClock,
) -> None:
    late: list[float] = []

    async def ask_on_its_way_out(mailbox: Mailbox[Any], supervisor: Supervisor) -> None:
        await mailbox.stopping.wait()
        silent: Any = supervisor.registry["/silent"]
        with pytest.raises(AskTimeoutError):
            await silent.ask("anybody?", timeout=2)
        late.append(trio.current_time())

    with trio.CancelScope() as scope:
        async with open_supervisor(children=[ChildSpec("silent", silent)]) as supervisor:
            await supervisor.start_child(ChildSpec("leaving", ask_on_its_way_out, supervisor))
            await wait_all_tasks_blocked()
            scope.cancel()
    assert late == [pytest.approx(2)]


@pytest.mark.parametrize(
    ("end", "error"), [(ZeroDivisionError("broken"), ActorCrashedError), (None, ActorStoppedError)]
)
async def test_an_ask_that_was_let_go_without_an_answer_fails_when_the_run_ends(end: Any, error: Any) -> None:
    caught: list[BaseException] = []

    async def ask(ref: Ref[Any]) -> None:
        with pytest.raises(error) as info:
            await ref.ask("anybody?", timeout=None)
        caught.append(info.value)

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        ref = await supervisor.start_child(ChildSpec("silent", silent))
        nursery.start_soon(ask, ref)
        await wait_all_tasks_blocked()
        ref.tell("the next")
        await wait_all_tasks_blocked()
        assert not caught
        if end is None:
            await supervisor.terminate_child("silent")
        else:
            ref.tell(end)
    assert caught[0].__cause__ is end


async def test_an_ask_that_was_let_go_and_given_up_is_not_kept(autojump_clock: MockClock) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("silent", silent))
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(ref.ask, "anybody?")
                await trio.sleep_forever()
        ref.tell("the next")
        await wait_all_tasks_blocked()
        assert not ref._inbox.unanswered


async def test_who_has_asked_is_not_kept_with_its_context(autojump_clock: MockClock) -> None:
    class Witness:
        pass

    variable: contextvars.ContextVar[Witness] = contextvars.ContextVar("variable")

    async def ask(ref: Ref[Any], seconds: float, timeout: float | None) -> None:
        variable.set(witness := Witness())
        gone.append(weakref.ref(witness))
        with trio.move_on_after(5), contextlib.suppress(AskTimeoutError):
            await ref.ask(seconds, timeout=timeout)

    gone: list[weakref.ref[Witness]] = []
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("answering", answering))
        for seconds, timeout in ((0, 7), (0, None), (1000, 7), (1000, 3)):  # answered twice, cancelled, too late
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, ref, seconds, timeout)
            gc.collect()
            assert gone[-1]() is None
            await trio.sleep(1000)  # until the actor has the next in hand
