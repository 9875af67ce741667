"""Watching ends."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.actors import Backoff, ChildSpec, Down, EndReason, Mailbox, RestartType, open_supervisor, watch


class BrokenError(Exception):
    pass


async def test_each_end_is_told_once_with_its_reason(puppet: Any, autojump_clock: MockClock) -> None:
    error = BrokenError()

    async def stubborn() -> None:
        await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(puppet.spec("a"))
        downs = watch(ref)
        ref.tell(error)
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("a")
        await supervisor.restart_child("a")
        ref.tell(stubborn)
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("a")
    with downs:
        assert [down async for down in downs] == [
            Down(ref, EndReason.CRASHED, error),
            Down(ref, EndReason.SHUTDOWN, None),
            Down(ref, EndReason.KILLED, None),
        ]


async def test_returning_is_normal() -> None:
    async def once(mailbox: Mailbox[Any]) -> None:
        await mailbox.receive()

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", once, restart=RestartType.TEMPORARY))
        with watch(ref) as downs:
            ref.tell("go")
            assert await downs.receive() == Down(ref, EndReason.NORMAL, None)
            with pytest.raises(trio.EndOfChannel):  # a temporary child can end no more
                await downs.receive()


async def test_an_actor_that_is_stopped_already_is_gone(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(puppet.spec("a"))
        await supervisor.terminate_child("a")
        with watch(ref) as downs:
            assert await downs.receive() == Down(ref, EndReason.GONE, None)
            await supervisor.restart_child("a")
            await supervisor.terminate_child("a")
            assert (await downs.receive()).reason is EndReason.SHUTDOWN


async def test_an_actor_whose_supervisor_has_ended_is_gone(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(puppet.spec("a"))
    with watch(ref) as downs:
        assert [down async for down in downs] == [Down(ref, EndReason.GONE, None)]


async def test_it_can_be_read_after_the_supervisor_has_ended(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        downs = watch(await supervisor.start_child(puppet.spec("a")))
        await wait_all_tasks_blocked()
    with downs:
        assert [down.reason async for down in downs] == ["shutdown"]


async def test_ending_a_backoff_is_no_end_of_the_actor(puppet: Any, autojump_clock: MockClock) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(puppet.spec("a", backoff=Backoff(10)))
        downs = watch(ref)
        ref.tell(BrokenError())
        await wait_all_tasks_blocked()
    with downs:
        assert [down.reason async for down in downs] == ["crashed"]


async def test_several_watch_one_actor(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(puppet.spec("a"))
        first, second = watch(ref), watch(ref)
        ref.tell(BrokenError())
        await wait_all_tasks_blocked()
        with first, second:
            assert (await first.receive()).reason == (await second.receive()).reason == "crashed"


async def test_who_has_closed_the_channel_is_forgotten(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(puppet.spec("a"))
        watch(ref).close()
        with watch(ref) as downs:
            ref.tell(BrokenError())
            await wait_all_tasks_blocked()
            assert ref._life.watchers is not None
            assert len(ref._life.watchers) == 1
            assert (await downs.receive()).reason == "crashed"
