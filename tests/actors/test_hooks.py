"""What the hooks of a tree are told."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.actors import Backoff, ChildSpec, Intensity, Mailbox, SupervisionEvent, SupervisorSpec, open_supervisor
from engine.errors import ChildStartError, RestartIntensityError


class BrokenError(Exception):
    pass


async def test_a_crash_and_its_restart_are_told_in_order(puppet: Any) -> None:
    events: list[SupervisionEvent] = []
    error = BrokenError()
    async with open_supervisor(on_event=events.append, children=[puppet.spec("a")]) as supervisor:
        supervisor.registry["/a"].tell(error)  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
    assert events == [
        SupervisionEvent("crashed", "/a", "a", error, 0),
        SupervisionEvent("restarted", "/a", "a", None, 1),
    ]


async def test_a_restart_is_told_when_the_child_is_ready_again(puppet: Any, autojump_clock: MockClock) -> None:
    events: list[tuple[str, float]] = []

    async def prepare() -> None:
        await trio.sleep(1)

    def note(event: SupervisionEvent) -> None:
        events.append((event.what, trio.current_time()))

    async with open_supervisor(on_event=note) as supervisor:
        ref = await supervisor.start_child(puppet.slow("a", prepare, backoff=Backoff(10, jitter=0)))
        ref.tell(BrokenError())
        await trio.sleep(20)
    assert [what for what, _ in events] == ["crashed", "restarted"]
    assert [instant for _, instant in events] == pytest.approx([1, 12])


async def test_supervisors_below_tell_the_same_hook(puppet: Any) -> None:
    events: list[SupervisionEvent] = []
    children = [SupervisorSpec("s", intensity=Intensity(0), children=[puppet.spec("a")])]
    with pytest.raises(RestartIntensityError):
        await puppet.supervise(
            ("/s/a", BrokenError()), intensity=Intensity(0), children=children, on_event=events.append
        )
    assert [(event.what, event.path, event.child) for event in events] == [
        ("crashed", "/s/a", "a"),
        ("escalated", "/s", "a"),
        ("escalated", "/", "s"),
    ]


async def test_an_escalation_carries_the_error(puppet: Any) -> None:
    events: list[SupervisionEvent] = []
    error = BrokenError()
    with pytest.raises(RestartIntensityError):
        await puppet.supervise(
            ("/a", error), intensity=Intensity(0), children=[puppet.spec("a")], on_event=events.append
        )
    assert events[-1] == SupervisionEvent("escalated", "/", "a", error, 0)


async def test_what_happens_on_request_is_not_told(puppet: Any) -> None:
    async def fail() -> None:
        raise BrokenError

    events: list[SupervisionEvent] = []
    async with open_supervisor(on_event=events.append, children=[puppet.spec("a")]) as supervisor:
        await supervisor.terminate_child("a")
        await supervisor.restart_child("a")
        with pytest.raises(ChildStartError):
            await supervisor.start_child(puppet.slow("b", fail))
    assert events == []


async def test_a_hook_that_fails_is_logged_and_harms_nobody(puppet: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken_hook(_: object) -> None:
        raise BrokenError("in the hook")

    async with open_supervisor(
        on_event=broken_hook, on_dead_letter=broken_hook, children=[puppet.spec("a")]
    ) as supervisor:
        ref: Any = supervisor.registry["/a"]
        ref.tell(BrokenError())
        assert await ref.ask(puppet.Ask()) == "a"
        await supervisor.terminate_child("a")
        ref.tell("nobody is there")
        assert ref.dead_letters == 1
    assert [(record.name, record.levelno) for record in caplog.records] == [("playbill.actors", logging.ERROR)] * 3


async def test_dead_letters_of_supervisors_below_come_to_the_same_hook() -> None:
    async def once(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()

    letters: list[Any] = []
    children = [SupervisorSpec("s", children=[ChildSpec("a", once)])]
    async with open_supervisor(children=children, on_dead_letter=letters.append) as supervisor:
        supervisor.registry["/s/a"].tell("left")  # type: ignore[union-attr]
    assert [(letter.path, letter.message, letter.reason) for letter in letters] == [("/s/a", "left", "stopped")]
