"""Restarts, and children that come and go, leave nothing behind, and many cost no more each than a few."""

from __future__ import annotations

import gc
import math
import weakref
from collections import Counter
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from engine.actors import (
    ChildSpec,
    Intensity,
    Mailbox,
    Ref,
    RestartType,
    Strategy,
    SupervisorSpec,
    open_supervisor,
    watch,
)
from engine.actors._child import Child, Start
from engine.actors._inbox import Ask, Inbox


class BrokenError(Exception):
    pass


class Witness:
    """Something that can be looked for after it should have gone."""


def living() -> Counter[str]:
    """How many there are of what a restart makes."""
    gc.collect()
    kinds = (trio.CancelScope, trio.Event, trio.Nursery, trio.lowlevel.Task, Mailbox, Ref, Inbox, Ask, Child, Start)
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))


@pytest.mark.parametrize("restarts", [300, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("announces", [False, True])
async def test_restarts_leave_nothing_behind_however_many_there_are(
    restarts: int, strategy: Strategy, announces: bool, puppet: Any
) -> None:
    errors: weakref.WeakSet[BrokenError] = weakref.WeakSet()
    first = puppet.slow("a", trio.lowlevel.checkpoint) if announces else puppet.spec("a")
    children = [first, puppet.spec("b")]
    async with open_supervisor(strategy=strategy, intensity=Intensity(math.inf), children=children) as supervisor:
        ref: Any = supervisor.registry["/a"]

        async def crash(times: int) -> None:
            for _ in range(times):
                error = BrokenError()
                errors.add(error)
                ref.tell(error)
                del error
                await ref.ask(puppet.Ask(), timeout=None)
            await wait_all_tasks_blocked()
            puppet.log.clear()

        await crash(10)
        tasks = trio.lowlevel.current_statistics().tasks_living
        before = living()
        await crash(restarts)
        assert supervisor.which_children()[0].restarts == restarts + 10
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert living() == before
        assert len(ref._inbox.queue) == len(ref._inbox.unanswered or ()) == 0
        assert len(errors) == 0


async def test_a_crash_that_nobody_looks_at_needs_no_garbage_collector(puppet: Any) -> None:
    errors: weakref.WeakSet[BrokenError] = weakref.WeakSet()

    async def actor(mailbox: Mailbox[Any]) -> None:
        async for _ in mailbox:
            witness = BrokenError()
            errors.add(witness)
            try:
                raise witness
            finally:
                del witness

    gc.disable()
    try:
        async with open_supervisor(intensity=Intensity(math.inf)) as supervisor:
            ref = await supervisor.start_child(ChildSpec("a", actor))
            for _ in range(20):
                ref.tell("crash")
                await wait_all_tasks_blocked()
            assert len(errors) == 0
    finally:
        gc.enable()


async def test_a_thousand_children_that_came_and_went_leave_nothing_behind() -> None:
    async def once(mailbox: Mailbox[Any]) -> None:
        await mailbox.receive()

    async with open_supervisor() as supervisor:
        witnesses: weakref.WeakSet[Any] = weakref.WeakSet()
        for number in range(1000):
            ref = supervisor.start_child_soon(ChildSpec(f"{number}", once, restart=RestartType.TRANSIENT), keep=False)
            ref.tell(number)
            witnesses.add(ref)
            del ref
            if number % 100 == 99:
                await wait_all_tasks_blocked()
        assert supervisor.count_children().specs == 0
        assert dict(supervisor.registry) == {}
        gc.collect()
        assert len(witnesses) == 0


async def test_a_supervisor_that_is_restarted_leaves_nothing_of_what_was_added(puppet: Any) -> None:
    children = [SupervisorSpec("s", intensity=Intensity(0), children=[puppet.spec("a")])]
    async with open_supervisor(intensity=Intensity(math.inf), children=children) as supervisor:
        below: Any = supervisor.registry["/s"]
        a: Any = supervisor.registry["/s/a"]
        for number in range(100):
            await below.start_child(puppet.spec(f"{number}"))
            a.tell(BrokenError())
            await a.ask(puppet.Ask())
        await wait_all_tasks_blocked()
        assert list(supervisor.registry) == ["/s", "/s/a"]


async def test_the_last_message_goes_when_the_run_ends() -> None:
    async def once(mailbox: Mailbox[Witness]) -> None:
        await mailbox.receive()

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", once, restart=RestartType.TRANSIENT))
        witness = Witness()
        gone = weakref.ref(witness)
        ref.tell(witness)
        del witness
        await wait_all_tasks_blocked()
        gc.collect()
        assert gone() is None


async def test_an_idle_actor_has_neither_queue_nor_event(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        ref: Any = await supervisor.start_child(puppet.spec("a"))
        await wait_all_tasks_blocked()
        assert ref._inbox.queue is None
        assert ref._life.mailbox._event is None
        assert ref._life.gone is None


async def test_what_a_child_costs_does_not_depend_on_how_many_there_are() -> None:
    # Counts steps of Trio's scheduler, which a busy machine does not change.
    async def idle(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()

    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += 1

    async def steps_each(number: int) -> float:
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        async with open_supervisor() as supervisor:
            for child in range(number):
                supervisor.start_child_soon(ChildSpec(f"{child}", idle), keep=False)
            for child in range(0, number, 2):
                await supervisor.terminate_child(f"{child}")
        trio.lowlevel.remove_instrument(steps)
        return steps.count / number

    assert await steps_each(2000) < 1.5 * await steps_each(20)


async def test_a_watch_that_was_closed_leaves_nothing_behind(puppet: Any) -> None:
    async with open_supervisor(intensity=Intensity(math.inf)) as supervisor:
        ref: Any = await supervisor.start_child(puppet.spec("a"))
        for _ in range(100):
            with watch(ref) as downs:
                ref.tell(BrokenError())
                await downs.receive()
        assert len(ref._life.watchers) == 1  # the last is forgotten at the next end
