"""Who is being stopped, and until when it may take."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.actors import ChildSpec, Mailbox, Stopping, SupervisorSpec, open_supervisor
from engine.errors import ActorStoppedError


async def take_ten_seconds(mailbox: Mailbox[Any]) -> None:
    await mailbox.stopping.wait()
    with trio.CancelScope(shield=True):
        await trio.sleep(10)


async def never_ready(mailbox: Mailbox[Any], *, task_status: trio.TaskStatus[None]) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(10)


def slow(id: str, shutdown: float = 3.0) -> ChildSpec[Any]:
    return ChildSpec(id, take_ten_seconds, shutdown=shutdown)


async def test_a_run_that_was_asked_to_end_is_shown_until_it_has(autojump_clock: MockClock) -> None:
    async with open_supervisor(children=[slow("a")]) as supervisor, trio.open_nursery() as nursery:
        assert supervisor.stopping() == ()
        asked = trio.current_time()
        nursery.start_soon(supervisor.terminate_child, "a")
        await trio.sleep(9)
        assert supervisor.stopping() == (Stopping(supervisor.registry["/a"], asked, asked + 3),)
        await trio.sleep(2)
        assert supervisor.stopping() == ()


@pytest.mark.parametrize("shutdown", [0, 3, math.inf])
async def test_its_allowance_is_over_when_it_is_due(shutdown: float, autojump_clock: MockClock) -> None:
    async with open_supervisor(children=[slow("a", shutdown)]) as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.terminate_child, "a")
        await wait_all_tasks_blocked()
        (run,) = supervisor.stopping()
        assert run.due == run.asked + shutdown


async def test_those_of_supervisors_below_are_shown_with_them_in_the_order_in_which_they_were_asked(
    autojump_clock: MockClock,
) -> None:
    below = SupervisorSpec("s", children=[slow("a"), slow("b")])
    async with open_supervisor(children=[below]) as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.terminate_child, "s")
        await wait_all_tasks_blocked()
        assert [run.ref.path for run in supervisor.stopping()] == ["/s", "/s/b"]


async def test_a_start_that_is_given_up_is_shown_while_it_goes_on(autojump_clock: MockClock) -> None:
    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start_child, ChildSpec("a", never_ready))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
        (run,) = supervisor.stopping()
        assert (run.ref.path, run.due) == ("/a", run.asked)


async def test_waiting_ends_when_something_is_stopped(autojump_clock: MockClock) -> None:
    async with open_supervisor(children=[slow("a")]) as supervisor, trio.open_nursery() as nursery:
        for _ in range(2):
            with trio.move_on_after(60) as patience:
                await supervisor.wait_stopping()
            assert patience.cancelled_caught  # nothing is stopped
            nursery.start_soon(supervisor.terminate_child, "a")
            await supervisor.wait_stopping()
            with trio.testing.assert_checkpoints():
                await supervisor.wait_stopping()  # it still is
            await trio.sleep(20)
            await supervisor.restart_child("a")


async def test_waiting_ends_with_the_tree() -> None:
    async def wait() -> None:
        with pytest.raises(ActorStoppedError):
            await supervisor.wait_stopping()
        ended.append("while it waited")

    ended: list[str] = []
    async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert ended == []
    assert ended == ["while it waited"]
    with pytest.raises(ActorStoppedError):
        await supervisor.wait_stopping()
