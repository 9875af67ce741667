"""The room's one way in."""

from __future__ import annotations

import pytest

import engine.actors
import engine.messages

PUBLIC = (
    "Asks",
    "AutoShutdown",
    "Backoff",
    "ChildCounts",
    "ChildInfo",
    "ChildKind",
    "ChildSpec",
    "ChildState",
    "DeadLetter",
    "Down",
    "EndReason",
    "Intensity",
    "Mailbox",
    "Overflow",
    "Ref",
    "Request",
    "RestartType",
    "Strategy",
    "Stopping",
    "SupervisionEvent",
    "Supervisor",
    "SupervisorRef",
    "SupervisorSpec",
    "open_supervisor",
    "watch",
)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    assert hasattr(engine.actors, name)


def test_a_request_is_the_same_here_and_there() -> None:
    assert engine.actors.Request is engine.messages.Request


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    assert getattr(engine.actors, name).__doc__
