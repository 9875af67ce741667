"""Each thing that can wait: cancelled while it waits, closed while it waits, and with a crash in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.actors import (
    ChildSpec,
    DeadLetter,
    Down,
    EndReason,
    Intensity,
    Mailbox,
    Ref,
    RestartType,
    Strategy,
    open_supervisor,
    watch,
)
from engine.errors import RestartIntensityError

CANCELLED, CLOSED, CRASHED = "cancelled", "closed", "crashed"


class BrokenError(Exception):
    pass


class Scene:
    """A supervisor with one child, `/a`, which holds on wherever it is told to until the test lets it go, or break."""

    ref: Ref[Any]
    downs: trio.MemoryReceiveChannel[Down]

    def __init__(self) -> None:
        self.taken: list[object] = []
        self.letters: list[DeadLetter] = []
        self.supervisor: Any = None
        self._go = trio.Event()
        self._breaks = False
        self._holds_while: set[str] = set()

    def hold(self, *whiles: str) -> None:
        """From now on actors hold on while they do these: `start`, `handle`, `stop`."""
        self._holds_while = set(whiles)

    async def let_go(self, *, breaks: bool = False) -> None:
        """Those that hold on go on from now on, the first of them by raising an error, if that is asked for."""
        self._breaks = breaks
        self._holds_while = set()
        self._go.set()
        await wait_all_tasks_blocked()

    async def _point(self, what: str, mailbox: Mailbox[Any]) -> None:
        if what in self._holds_while:
            async with trio.open_nursery() as nursery:
                if what != "stop":
                    nursery.start_soon(self._leave_when_stopping, mailbox, nursery)
                await self._go.wait()
                nursery.cancel_scope.cancel()
            if self._breaks:
                self._breaks = False
                raise BrokenError

    @staticmethod
    async def _leave_when_stopping(mailbox: Mailbox[Any], nursery: trio.Nursery) -> None:
        await mailbox.stopping.wait()
        nursery.cancel_scope.cancel()

    async def act(
        self, mailbox: Mailbox[Any], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await self._point("start", mailbox)
        if mailbox.stopping.is_set():
            return
        task_status.started()
        async for message in mailbox:
            self.taken.append(message)
            await self._point("handle", mailbox)
            if not mailbox.stopping.is_set():
                mailbox.reply(f"{message}, answered")
        await self._point("stop", mailbox)

    def spec(self, id: str = "a") -> ChildSpec[Any]:
        return ChildSpec(id, self.act, capacity=1, shutdown=100)


# ------------------------------------------------------------------------------------------------ what waits


async def send(scene: Scene) -> object:
    scene.hold("handle")
    await scene.ref.send(1)
    await wait_all_tasks_blocked()
    await scene.ref.send(2)
    await scene.ref.send(3)
    return "sent"


async def ask(scene: Scene) -> object:
    scene.hold("handle")
    return await scene.ref.ask(1, timeout=None)


async def ask_in_time(scene: Scene) -> object:
    scene.hold("handle")
    return await scene.ref.ask(1, timeout=60)


async def ask_in_line(scene: Scene) -> object:
    scene.hold("handle")
    await scene.ref.send(1)
    await wait_all_tasks_blocked()
    await scene.ref.send(2)
    return await scene.ref.ask(3, timeout=None)


async def start_child(scene: Scene) -> object:
    scene.hold("start")
    await scene.supervisor.start_child(scene.spec("b"))
    return "started"


async def restart_child(scene: Scene) -> object:
    await scene.supervisor.terminate_child("a")
    scene.hold("start")
    await scene.supervisor.restart_child("a")
    return "started"


async def terminate_child(scene: Scene) -> object:
    scene.hold("stop")
    await scene.supervisor.terminate_child("a")
    return "terminated"


async def delete_child(scene: Scene) -> object:
    """Of a child that is being stopped."""
    scene.hold("stop")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.supervisor.terminate_child, "a")
            await wait_all_tasks_blocked()
            scope.cancel()
    await scene.supervisor.delete_child("a")
    return "deleted"


async def watching(scene: Scene) -> object:
    scene.hold("handle")
    scene.ref.tell(1)
    down = await scene.downs.receive()
    return down.reason


Primitive = Callable[[Scene], Awaitable[object]]

OUTCOMES: list[tuple[Primitive, str, str]] = [
    (send, CANCELLED, "Cancelled"),
    (send, CLOSED, "sent"),
    (send, CRASHED, "sent"),
    (ask, CANCELLED, "Cancelled"),
    (ask, CLOSED, "ActorStoppedError"),
    (ask, CRASHED, "ActorCrashedError"),
    (ask_in_time, CANCELLED, "Cancelled"),
    (ask_in_time, CLOSED, "ActorStoppedError"),
    (ask_in_time, CRASHED, "ActorCrashedError"),
    (ask_in_line, CANCELLED, "Cancelled"),
    (ask_in_line, CLOSED, "ActorStoppedError"),
    (ask_in_line, CRASHED, "3, answered"),
    (start_child, CANCELLED, "Cancelled"),
    (start_child, CLOSED, "ActorStoppedError"),
    (start_child, CRASHED, "ChildStartError"),
    (restart_child, CANCELLED, "Cancelled"),
    (restart_child, CLOSED, "ActorStoppedError"),
    (restart_child, CRASHED, "ChildStartError"),
    (terminate_child, CANCELLED, "Cancelled"),
    (terminate_child, CLOSED, "terminated"),
    (terminate_child, CRASHED, "terminated"),
    (delete_child, CANCELLED, "Cancelled"),
    (delete_child, CLOSED, "ActorStoppedError"),
    (delete_child, CRASHED, "deleted"),
    (watching, CANCELLED, "Cancelled"),
    (watching, CLOSED, "shutdown"),
    (watching, CRASHED, "crashed"),
]


LEFT: dict[tuple[Primitive, str], tuple[dict[str, str], list[int], list[int]]] = {
    (send, CANCELLED): ({"a": "running"}, [1, 2], []),
    (send, CLOSED): ({}, [1], [2, 3]),
    (send, CRASHED): ({"a": "running"}, [1, 2, 3], []),
    (ask, CANCELLED): ({"a": "running"}, [1], []),
    (ask, CLOSED): ({}, [1], []),
    (ask, CRASHED): ({"a": "running"}, [1], []),
    (ask_in_time, CANCELLED): ({"a": "running"}, [1], []),
    (ask_in_time, CLOSED): ({}, [1], []),
    (ask_in_time, CRASHED): ({"a": "running"}, [1], []),
    (ask_in_line, CANCELLED): ({"a": "running"}, [1, 2], []),
    (ask_in_line, CLOSED): ({}, [1], [2, 3]),
    (ask_in_line, CRASHED): ({"a": "running"}, [1, 2, 3], []),
    (start_child, CANCELLED): ({"a": "running"}, [], []),
    (start_child, CLOSED): ({}, [], []),
    (start_child, CRASHED): ({"a": "running"}, [], []),
    (restart_child, CANCELLED): ({"a": "stopped"}, [], []),
    (restart_child, CLOSED): ({}, [], []),
    (restart_child, CRASHED): ({"a": "stopped"}, [], []),
    (terminate_child, CANCELLED): ({"a": "stopped"}, [], []),  # the stopping went on
    (terminate_child, CLOSED): ({}, [], []),
    (terminate_child, CRASHED): ({"a": "stopped"}, [], []),  # what it raises while it is stopped changes nothing
    (delete_child, CANCELLED): ({"a": "stopped"}, [], []),
    (delete_child, CLOSED): ({}, [], []),
    (delete_child, CRASHED): ({}, [], []),
    (watching, CANCELLED): ({"a": "running"}, [1], []),
    (watching, CLOSED): ({}, [1], []),
    (watching, CRASHED): ({"a": "running"}, [1], []),
}
"""The children and their states, the messages that were taken, and the dead letters."""


@pytest.mark.parametrize(
    ("primitive", "interruption", "outcome"), OUTCOMES, ids=[f"{row[0].__name__}-{row[1]}" for row in OUTCOMES]
)
async def test_what_waits_is_interrupted(
    primitive: Primitive, interruption: str, outcome: str, autojump_clock: MockClock
) -> None:
    scene = Scene()
    seen: list[str] = []

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            try:
                seen.append(str(await primitive(scene)))
            except Exception as error:
                seen.append(type(error).__name__)
            except trio.Cancelled:
                seen.append("Cancelled")
                raise

    tasks = trio.lowlevel.current_statistics().tasks_living
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        async with open_supervisor(on_dead_letter=scene.letters.append) as scene.supervisor:
            scene.ref = await scene.supervisor.start_child(scene.spec())
            scene.downs = watch(scene.ref)
            nursery.start_soon(wait, scope)
            for _ in range(5):  # some of them wait for that too before they come to what is interrupted
                await wait_all_tasks_blocked()
            assert seen == []
            if interruption == CLOSED:
                nursery.start_soon(release_later, scene)
            else:
                if interruption == CANCELLED:
                    scope.cancel()
                    await wait_all_tasks_blocked()
                await scene.let_go(breaks=interruption == CRASHED)
            left = {child.id: child.state.value for child in scene.supervisor.which_children()}
            letters = list(scene.letters)
        if interruption == CLOSED:
            left = {child.id: child.state.value for child in scene.supervisor.which_children()}
            letters = scene.letters
    scene.downs.close()
    assert seen == [outcome]
    assert (left, scene.taken, [letter.message for letter in letters]) == LEFT[primitive, interruption]
    assert not scene.ref._inbox.unanswered
    assert not scene.ref._inbox.line
    assert not scene.ref._inbox.tree.timeouts._asks
    assert scene.ref._inbox.reader is None
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def release_later(scene: Scene) -> None:
    """While the supervisor ends it waits for whoever holds on."""
    await trio.sleep(1)
    await scene.let_go()


# ------------------------------------------------------------------------------------------------ receive


async def test_a_receive_is_cancelled_by_a_crash_beside_it_and_loses_nothing() -> None:
    taken: list[object] = []
    crash = trio.Event()

    async def break_down() -> None:
        await crash.wait()
        raise BrokenError

    async def actor(mailbox: Mailbox[Any]) -> None:
        async with trio.open_nursery() as nursery:
            if not crash.is_set():
                nursery.start_soon(break_down)
            taken.append(await mailbox.receive())
            nursery.cancel_scope.cancel()
        await mailbox.stopping.wait()

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor))
        await wait_all_tasks_blocked()
        crash.set()
        await wait_all_tasks_blocked()
        assert supervisor.which_children()[0].restarts == 1
        ref.tell("a message")
        await wait_all_tasks_blocked()
    assert taken == ["a message"]


async def test_a_receive_ends_when_its_supervisor_is_closed() -> None:
    ends: list[str] = []

    async def actor(mailbox: Mailbox[Any]) -> None:
        try:
            await mailbox.receive()
        except trio.EndOfChannel:
            ends.append("EndOfChannel")

    async with open_supervisor(children=[ChildSpec("a", actor)]):
        await wait_all_tasks_blocked()
    assert ends == ["EndOfChannel"]


# ------------------------------------------------------------------------------------------------ watch


async def test_a_watch_that_is_closed_by_its_reader_while_another_task_waits_in_it(puppet: Any) -> None:
    async with open_supervisor(children=[puppet.spec("a")]) as supervisor, trio.open_nursery() as nursery:
        downs = watch(supervisor.registry["/a"])

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await downs.receive()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        downs.close()


async def test_a_watch_ends_when_the_specification_goes_while_somebody_waits_in_it(puppet: Any) -> None:
    reasons: list[EndReason] = []

    async def listen(downs: trio.MemoryReceiveChannel[Down]) -> None:
        with downs:
            reasons.extend([down.reason async for down in downs])

    async with open_supervisor(children=[puppet.spec("a")]) as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(listen, watch(supervisor.registry["/a"]))
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("a")
        await supervisor.delete_child("a")
    assert reasons == [EndReason.SHUTDOWN]


# ------------------------------------------------------------------------------------------------ the block


@pytest.mark.parametrize("strategy", Strategy)
async def test_a_block_cancelled_in_the_middle_of_a_restart_leaves_nothing(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    starts = 0

    async def prepare() -> None:
        nonlocal starts
        starts += 1
        if starts > 1:
            await trio.sleep_forever()

    tasks = trio.lowlevel.current_statistics().tasks_living
    with trio.move_on_after(1) as scope:
        children = [puppet.slow("a", prepare, shutdown=3), puppet.spec("b")]
        await puppet.supervise(("/a", BrokenError()), strategy=strategy, children=children)
    assert scope.cancelled_caught
    assert starts == 2
    assert trio.current_time() == pytest.approx(4)
    assert trio.lowlevel.current_statistics().tasks_living == tasks


@pytest.mark.parametrize("strategy", Strategy)
async def test_a_block_that_ends_while_a_child_crashes_ends(strategy: Strategy, puppet: Any) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with open_supervisor(strategy=strategy, children=[puppet.spec("a"), puppet.spec("b")]) as supervisor:
        await wait_all_tasks_blocked()
        supervisor.registry["/a"].tell(BrokenError())  # type: ignore[union-attr]
    assert trio.lowlevel.current_statistics().tasks_living == tasks


@pytest.mark.parametrize("strategy", Strategy)
async def test_a_crash_while_the_block_is_being_left_is_not_followed(
    strategy: Strategy, autojump_clock: MockClock
) -> None:
    runs: list[str] = []

    async def actor(mailbox: Mailbox[Any], name: str) -> None:
        runs.append(name)
        await mailbox.stopping.wait()
        await trio.sleep(1)

    async def crashing(mailbox: Mailbox[Any], name: str) -> None:
        runs.append(name)
        await trio.sleep(0.5)
        raise BrokenError

    children = [ChildSpec("a", crashing, "a"), ChildSpec("b", actor, "b")]
    async with open_supervisor(strategy=strategy, intensity=Intensity(0), children=children):
        await wait_all_tasks_blocked()
    assert sorted(runs) == ["a", "b"]


@pytest.mark.parametrize("strategy", [Strategy.REST_FOR_ONE, Strategy.ONE_FOR_ALL])
async def test_a_block_whose_supervisor_gives_up_in_the_middle_of_a_restart_is_cancelled_at_once(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a"), puppet.spec("b", restart=RestartType.TRANSIENT), puppet.spec("c")]
    cancelled_at: list[float] = []

    async def block() -> None:
        async with open_supervisor(strategy=strategy, intensity=Intensity(1), children=children) as supervisor:
            await wait_all_tasks_blocked()
            supervisor.registry["/c"].tell(trio.sleep_forever)  # type: ignore[union-attr]
            await wait_all_tasks_blocked()
            supervisor.registry["/b"].tell(BrokenError())  # type: ignore[union-attr]  # c takes its five seconds
            await trio.sleep(1)
            supervisor.start_child_soon(puppet.spec("d")).tell(BrokenError())
            try:
                await trio.sleep(1)
            finally:
                cancelled_at.append(trio.current_time())

    with pytest.raises(RestartIntensityError):
        await block()
    assert cancelled_at == [pytest.approx(1)]
