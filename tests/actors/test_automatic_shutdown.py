"""Significant children, and the supervisors that end with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.actors import (
    AutoShutdown,
    ChildSpec,
    DeadLetter,
    Down,
    EndReason,
    Intensity,
    Mailbox,
    RestartType,
    Strategy,
    SupervisionEvent,
    Supervisor,
    SupervisorSpec,
    open_supervisor,
    watch,
)
from engine.errors import ActorStoppedError, ChildSpecError

ANY, ALL = AutoShutdown.ANY_SIGNIFICANT, AutoShutdown.ALL_SIGNIFICANT
PERMANENT, TRANSIENT, TEMPORARY = RestartType.PERMANENT, RestartType.TRANSIENT, RestartType.TEMPORARY

both = pytest.mark.parametrize("auto_shutdown", [ANY, ALL])


class BrokenError(Exception):
    pass


def states(supervisor: Any) -> dict[str, str]:
    return {child.id: child.state for child in supervisor.which_children()}


async def once(mailbox: Mailbox[Any]) -> None:
    """Returns, or raises, at its first message."""
    async for message in mailbox:
        if isinstance(message, Exception):
            raise message
        return


def significant(name: str, restart: RestartType = TRANSIENT, **options: Any) -> ChildSpec[Any]:
    return ChildSpec(name, once, restart=restart, significant=True, **options)


@asynccontextmanager
async def outlasted(**options: Any) -> AsyncIterator[Supervisor]:
    """A supervisor that does not cut its block short: being cancelled for a shutdown is no error."""
    reached_the_end = False
    async with open_supervisor(**options) as supervisor:
        yield supervisor
        reached_the_end = True
    assert reached_the_end


async def tell(supervisor: Any, path: str, message: object = "return") -> None:
    supervisor.registry[path].tell(message)
    await wait_all_tasks_blocked()


# ------------------------------------------------------------------------------------------------ whether it shuts down


@pytest.mark.parametrize(
    ("restart", "message", "ends"),
    [
        (TRANSIENT, "return", True),
        (TRANSIENT, BrokenError(), False),
        (TEMPORARY, "return", True),
        (TEMPORARY, BrokenError(), True),
    ],
)
@both
async def test_an_end_that_no_restart_follows_shuts_down(
    auto_shutdown: AutoShutdown, restart: RestartType, message: object, ends: bool
) -> None:
    below = SupervisorSpec("s", auto_shutdown=auto_shutdown, children=[significant("a", restart)], restart=TRANSIENT)
    async with outlasted(children=[below]) as supervisor:
        await tell(supervisor, "/s/a", message)
        assert states(supervisor) == {"s": "stopped" if ends else "running"}


@pytest.mark.parametrize(("auto_shutdown", "ends_with"), [(ANY, 1), (ALL, 3)])
async def test_any_is_the_first_and_all_is_the_last(auto_shutdown: AutoShutdown, ends_with: int, puppet: Any) -> None:
    children = [significant("a"), significant("b", TEMPORARY), puppet.spec("c"), significant("d")]
    below = SupervisorSpec("s", auto_shutdown=auto_shutdown, children=children, restart=TRANSIENT)
    async with outlasted(children=[below]) as supervisor:
        for number, name in enumerate("abd", 1):
            if number <= ends_with:
                assert states(supervisor) == {"s": "running"}
                await tell(supervisor, f"/s/{name}")
        assert states(supervisor) == {"s": "stopped"}


@both
async def test_the_end_of_a_child_that_is_not_significant_shuts_nothing_down(auto_shutdown: AutoShutdown) -> None:
    children = [ChildSpec("a", once, restart=TEMPORARY), significant("b")]
    async with outlasted(auto_shutdown=auto_shutdown, children=children) as supervisor:
        await tell(supervisor, "/a")
        assert states(supervisor) == {"b": "running"}


@both
async def test_terminating_a_significant_child_shuts_nothing_down(auto_shutdown: AutoShutdown) -> None:
    children = [significant("a"), significant("b", TEMPORARY)]
    async with outlasted(auto_shutdown=auto_shutdown, children=children) as supervisor:
        await supervisor.terminate_child("a")
        await supervisor.terminate_child("b")
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "stopped"}


@both
@pytest.mark.parametrize("restart", [TRANSIENT, TEMPORARY])
async def test_a_significant_child_stopped_for_a_sibling_shuts_nothing_down(
    auto_shutdown: AutoShutdown, restart: RestartType, puppet: Any
) -> None:
    children = [puppet.spec("a"), significant("b", restart)]
    async with outlasted(strategy=Strategy.ONE_FOR_ALL, auto_shutdown=auto_shutdown, children=children) as supervisor:
        await tell(supervisor, "/a", BrokenError())
        assert states(supervisor) == ({"a": "running", "b": "running"} if restart is TRANSIENT else {"a": "running"})


@both
@pytest.mark.parametrize("restart", [TRANSIENT, TEMPORARY])
async def test_a_significant_child_that_returns_while_it_would_be_stopped_for_a_sibling_shuts_nothing_down(
    auto_shutdown: AutoShutdown, restart: RestartType, puppet: Any, autojump_clock: MockClock
) -> None:
    async def lingering(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(3)

    children = [puppet.spec("a"), significant("b", restart), ChildSpec("c", lingering)]
    async with outlasted(strategy=Strategy.ONE_FOR_ALL, auto_shutdown=auto_shutdown, children=children) as supervisor:
        await wait_all_tasks_blocked()
        await tell(supervisor, "/a", BrokenError())
        await tell(supervisor, "/b")
        await trio.sleep(5)
        assert states(supervisor) == dict.fromkeys("abc" if restart is TRANSIENT else "ac", "running")


async def test_one_that_is_stopped_already_is_not_waited_for() -> None:
    below = SupervisorSpec("s", auto_shutdown=ALL, children=[significant("a"), significant("b")], restart=TRANSIENT)
    async with outlasted(children=[below]) as supervisor:
        await supervisor.registry["/s"].terminate_child("a")  # type: ignore[union-attr]
        await tell(supervisor, "/s/b")
        assert states(supervisor) == {"s": "stopped"}


async def test_one_that_is_being_restarted_is_still_there(puppet: Any, autojump_clock: MockClock) -> None:
    async def prepare() -> None:
        await trio.sleep(1)

    children = [puppet.slow("a", prepare, significant=True, restart=TRANSIENT), significant("b")]
    async with outlasted(auto_shutdown=ALL, children=children) as supervisor:
        await tell(supervisor, "/a", BrokenError())
        await tell(supervisor, "/b")
        await trio.sleep(5)
        assert states(supervisor) == {"a": "running", "b": "stopped"}


async def test_returning_before_it_is_ready_shuts_nothing_down(puppet: Any) -> None:
    async def ignore() -> bool:
        return False

    children = [puppet.slow("a", ignore, significant=True, restart=TRANSIENT)]
    async with outlasted(auto_shutdown=ANY, children=children) as supervisor:
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "stopped"}


async def test_a_significant_child_can_be_added(puppet: Any) -> None:
    async with open_supervisor(auto_shutdown=ANY) as supervisor:
        await supervisor.start_child(significant("a"))
        with pytest.raises(ChildSpecError):
            await supervisor.start_child(significant("b", PERMANENT))
        await tell(supervisor, "/a")
        await trio.sleep_forever()


@pytest.mark.parametrize(("auto_shutdown", "ends"), [(ANY, True), (ALL, False)])
async def test_an_end_while_the_list_is_started_is_followed_when_it_has_been(
    auto_shutdown: AutoShutdown, ends: bool, puppet: Any, autojump_clock: MockClock
) -> None:
    async def prepare() -> None:
        await trio.sleep(1)

    async def at_once(mailbox: Mailbox[Any]) -> None: ...

    children = [
        ChildSpec("a", at_once, restart=TEMPORARY, significant=True),
        puppet.slow("b", prepare),
        significant("c"),
    ]
    below = SupervisorSpec("s", auto_shutdown=auto_shutdown, children=children, restart=TRANSIENT)
    async with outlasted(children=[below]) as supervisor:
        assert trio.current_time() == pytest.approx(1)
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"s": "stopped" if ends else "running"}


# ------------------------------------------------------------------------------------------------ what it is


@both
async def test_at_the_top_the_block_is_cancelled_and_left_without_an_error(
    auto_shutdown: AutoShutdown, puppet: Any
) -> None:
    async with open_supervisor(auto_shutdown=auto_shutdown, children=[significant("a")]) as supervisor:
        supervisor.registry["/a"].tell("return")  # type: ignore[union-attr]
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            puppet.log.append("the block is cancelled")
            raise
    assert puppet.log == ["the block is cancelled"]


async def test_what_the_block_raises_when_it_is_cancelled_for_it_comes_out(puppet: Any) -> None:
    async def block() -> None:
        async with open_supervisor(auto_shutdown=ANY, children=[significant("a")]) as supervisor:
            supervisor.registry["/a"].tell("return")  # type: ignore[union-attr]
            try:
                await trio.sleep_forever()
            finally:
                raise BrokenError

    with pytest.raises(BrokenError):
        await block()


async def test_a_cancellation_from_outside_still_passes(puppet: Any) -> None:
    with trio.CancelScope() as scope:
        async with open_supervisor(auto_shutdown=ANY, children=[significant("a")]) as supervisor:
            supervisor.registry["/a"].tell("return")  # type: ignore[union-attr]
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_other_children_are_stopped_in_reverse_with_their_allowances(autojump_clock: MockClock) -> None:
    log: list[str] = []

    async def lingering(mailbox: Mailbox[Any], name: str) -> None:
        await mailbox.stopping.wait()
        log.append(f"{name} is asked")
        await trio.sleep(1)
        log.append(f"{name} is gone")

    children = [ChildSpec("a", lingering, "a"), significant("b"), ChildSpec("c", lingering, "c")]
    async with open_supervisor(auto_shutdown=ANY, children=children) as supervisor:
        await tell(supervisor, "/b")
        await trio.sleep_forever()
    assert log == ["c is asked", "c is gone", "a is asked", "a is gone"]


@pytest.mark.parametrize(
    ("restart", "after"), [(PERMANENT, {"s": "running"}), (TRANSIENT, {"s": "stopped"}), (TEMPORARY, {})]
)
async def test_below_it_is_a_shutdown_after_which_only_a_permanent_supervisor_is_restarted(
    restart: RestartType, after: dict[str, str]
) -> None:
    below = SupervisorSpec("s", auto_shutdown=ANY, children=[significant("a")], restart=restart)
    async with outlasted(children=[below]) as supervisor:
        ref: Any = supervisor.registry["/s"]
        with watch(ref) as downs:
            await tell(supervisor, "/s/a")
            assert downs.receive_nowait() == Down(ref, EndReason.SHUTDOWN, None)
        assert states(supervisor) == after
        if restart is PERMANENT:
            assert states(ref) == {"a": "running"}
        else:
            with pytest.raises(ActorStoppedError):
                await ref.terminate_child("a")


async def test_a_significant_supervisor_that_shuts_down_shuts_its_own_supervisor_down() -> None:
    inner = SupervisorSpec("inner", auto_shutdown=ANY, children=[significant("a")], restart=TRANSIENT, significant=True)
    outer = SupervisorSpec("outer", auto_shutdown=ALL, children=[inner], restart=TEMPORARY, significant=True)
    async with open_supervisor(auto_shutdown=ANY, children=[outer]) as supervisor:
        await tell(supervisor, "/outer/inner/a")
        await trio.sleep_forever()


async def test_a_significant_supervisor_that_gives_up_shuts_its_own_supervisor_down(puppet: Any) -> None:
    below = SupervisorSpec(
        "s", intensity=Intensity(0), children=[puppet.spec("a")], restart=TRANSIENT, significant=True
    )
    async with open_supervisor(auto_shutdown=ANY, children=[below]) as supervisor:
        await tell(supervisor, "/s/a", BrokenError())
        await trio.sleep_forever()


@both
async def test_it_is_neither_a_restart_nor_an_escalation(auto_shutdown: AutoShutdown) -> None:
    events: list[SupervisionEvent] = []
    below = SupervisorSpec("s", auto_shutdown=auto_shutdown, children=[significant("a")], restart=TRANSIENT)
    async with outlasted(intensity=Intensity(0), children=[below], on_event=events.append) as supervisor:
        await tell(supervisor, "/s/a")
        assert states(supervisor) == {"s": "stopped"}
    assert events == []


async def test_messages_left_by_the_significant_child_are_dead_letters() -> None:
    letters: list[DeadLetter] = []
    below = SupervisorSpec("s", auto_shutdown=ANY, children=[significant("a")], restart=TRANSIENT)
    async with outlasted(children=[below], on_dead_letter=letters.append) as supervisor:
        a: Any = supervisor.registry["/s/a"]
        a.tell("return")
        a.tell("left behind")
        await wait_all_tasks_blocked()
        assert letters == [DeadLetter("/s/a", "left behind", "stopped")]


async def test_messages_of_the_others_survive_if_the_supervisor_is_restarted(puppet: Any) -> None:
    letters: list[DeadLetter] = []
    below = SupervisorSpec("s", auto_shutdown=ANY, children=[significant("a"), puppet.spec("b")])
    async with outlasted(children=[below], on_dead_letter=letters.append) as supervisor:
        await wait_all_tasks_blocked()
        b: Any = supervisor.registry["/s/b"]
        gate = trio.Event()
        b.tell(gate.wait)
        await wait_all_tasks_blocked()
        b.tell("waits")
        await tell(supervisor, "/s/a")
        gate.set()
        assert await b.ask(puppet.Ask()) == "b"
        assert puppet.log == ["b begins", "b returns", "b begins", "b got waits"]
        assert letters == []
