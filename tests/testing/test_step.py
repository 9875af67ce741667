"""A step's surroundings without an engine."""

from __future__ import annotations

import pytest
import trio

from engine import NoStepError, PayloadError, current_step, step
from engine.testing import fake_step


@step
async def charge(cents: int) -> str:
    return f"{cents} by {current_step().idempotency_key}"


async def test_a_step_that_asks_for_its_key_can_be_called() -> None:
    with fake_step(idempotency_key="k"):
        assert await charge(12) == "12 by k"


def test_the_test_says_what_the_step_is() -> None:
    with fake_step(name="charge", attempt=3, details={"at": 7}) as info:
        assert current_step() is info
        assert (info.name, info.path, info.attempt, info.idempotency_key) == ("charge", "charge", 3, "test")
        assert info.details == {"at": 7}


def test_what_the_step_leaves_by_heartbeat_can_be_seen() -> None:
    with fake_step() as info:
        info.heartbeat({"at": 8})
    assert info.details == {"at": 8}


def test_what_no_journal_takes_is_not_left() -> None:
    with fake_step(details=1) as info:
        with pytest.raises(PayloadError):
            info.heartbeat(object())
        info.heartbeat({"pair": [1, 2]})
    assert info.details == {"pair": [1, 2]}


async def test_a_step_in_a_thread_sees_it_too() -> None:
    with fake_step(name="in a thread"):
        assert (await trio.to_thread.run_sync(current_step)).name == "in a thread"


def test_it_is_gone_after_the_block() -> None:
    with fake_step(name="outer"):
        with fake_step(name="inner"):
            pass
        assert current_step().name == "outer"
    with pytest.raises(NoStepError):
        current_step()
