"""One event that its handler fails: attempts, waits, dead letters."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.clock import parse
from engine.errors import RetryAfter
from engine.messages import Event
from engine.policies import Retry
from engine.subscribers import Subscriber, subscriber
from engine.subscribers.delivery import Attempts

STEADY = Retry(3, initial=10.0, factor=1.0, jitter=0.0)


def described(handler: Any, **options: Any) -> Subscriber[Any]:
    made: Subscriber[Any] = subscriber("orders.#", **{"name": "mailer", "retry": STEADY, **options})(handler)
    return made


@dataclass
class Paid:
    order: str


async def test_an_event_is_tried_again_after_its_wait_and_the_others_wait_for_it(
    open_world: Any, scripted: Any, clock: trio.testing.MockClock, trio_clock: Any
) -> None:
    seen = scripted(OSError("first"), OSError("second"))
    async with open_world(described(seen), stamp=trio_clock) as world:
        first = await world.publish("orders.a")
        second = await world.publish("orders.b")
        began = trio.current_time()
        await seen.times(4)
        assert trio.current_time() - began == pytest.approx(20.0, abs=1.0)
        await world.settle()
        failed = world.records("mailer", "delivery.failed")
    assert seen.seqs == [first, first, first, second]
    assert [record.facts["attempt"] for record in failed] == [1, 2]
    assert all(record.facts["event"] == first and record.facts["id"] == seen.events[0].id for record in failed)
    assert [record.facts["error"] for record in failed] == ["builtins.OSError"] * 2
    assert [record.load()["error"]["message"] for record in failed] == ["first", "second"]
    waits = [(parse(record.facts["retry_at"]) - parse(record.at)).total_seconds() for record in failed]
    assert waits == [10.0, 10.0]


async def test_a_failure_is_durable_before_the_event_is_tried_again(open_world: Any, scripted: Any) -> None:
    durable: list[int] = []
    worlds: list[Any] = []
    seen = scripted(OSError(), lambda: durable.append(worlds[0].kinds("mailer")["delivery.failed"]))
    async with open_world(described(seen, retry=Retry(2, initial=0.0))) as world:
        worlds.append(world)
        await world.publish("orders.a")
        await seen.times(2)
    assert durable == [1]


async def test_an_event_whose_attempts_are_spent_is_a_dead_letter_and_the_others_go_on(
    open_world: Any, scripted: Any, clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seen = scripted(None, *[OSError()] * 3)
    async with open_world(described(seen)) as world:
        seqs = [await world.publish("orders.a", n) for n in range(3)]
        await seen.times(5)
        await world.settle()
        failed, dead = world.records("mailer", "delivery.failed"), world.records("mailer", "delivery.dead")
        statistics = world.subscriptions.statistics()["mailer"]
    assert seen.data == [0, 1, 1, 1, 2]
    assert "retry_at" not in failed[-1].facts
    assert [record.facts for record in dead] == [{"event": seqs[1], "id": seen.events[1].id, "attempts": 3}]
    assert (statistics.handled, statistics.failed, statistics.dead) == (2, 3, 1)
    assert "3 attempts" in caplog.text


async def test_the_last_failure_the_dead_letter_and_the_cursor_are_in_one_commit(
    open_world: Any, scripted: Any
) -> None:
    seen = scripted(OSError())
    async with open_world(described(seen, retry=Retry(1))) as world:
        event = await world.publish("orders.a")
        await seen.times(1)
        await world.settle()
        with closing(sqlite3.connect(world.journal.path)) as connection:
            rows = connection.execute(
                "SELECT kind, root IS NOT NULL, facts ->> 'to' FROM records WHERE seq > ? ORDER BY seq", (event,)
            ).fetchall()
    # Only the last record of a commit has the tree's root.
    assert [(kind, ends) for kind, ends, _ in rows[:3]] == [
        ("delivery.failed", 0),
        ("delivery.dead", 0),
        ("delivery.handled", 1),
    ]
    assert int(rows[2][2]) >= event


@pytest.mark.parametrize(
    ("retry", "error", "attempts"),
    [
        (Retry(4, initial=0.0), OSError(), 4),
        (Retry(4, initial=0.0, give_up_on=(OSError,)), OSError(), 1),
        (Retry(4, initial=0.0, on=(KeyError,)), OSError(), 1),
        (Retry(4, initial=0.0, on=(OSError,)), ExceptionGroup("both", [OSError(), KeyError()]), 4),
    ],
)
async def test_the_retry_says_which_failures_are_tried_again(
    open_world: Any, scripted: Any, retry: Retry, error: Exception, attempts: int
) -> None:
    seen = scripted(*[error] * 9)
    async with open_world(described(seen, retry=retry)) as world:
        await world.publish("orders.a")
        await world.until(lambda: world.records("mailer", "delivery.dead"))
    assert len(seen.events) == attempts


async def test_a_handler_can_say_when_it_is_to_be_tried_again(
    open_world: Any, scripted: Any, clock: trio.testing.MockClock
) -> None:
    seen = scripted(RetryAfter(77.0))
    async with open_world(described(seen)) as world:
        await world.publish("orders.a")
        began = trio.current_time()
        await seen.times(2, within=100)
        assert trio.current_time() - began == pytest.approx(77.0, abs=1.0)


async def test_a_handler_that_takes_too_long_has_failed(
    open_world: Any, scripted: Any, clock: trio.testing.MockClock
) -> None:
    seen = scripted(trio.sleep_forever)
    async with open_world(described(seen, timeout=2.0)) as world:
        await world.publish("orders.a")
        await seen.times(2)
        await world.settle()
        (failed,) = world.records("mailer", "delivery.failed")
    assert failed.facts["error"] == "engine.errors.StepTimeoutError"
    assert "/subscribers/mailer" in failed.load()["error"]["message"]


async def test_a_thread_that_takes_too_long_is_waited_for_and_its_outcome_counts(open_world: Any) -> None:
    handled = []

    def handle(event: Event[Any]) -> None:
        time.sleep(0.05)  # a thread cannot be waited for by Trio's clock
        handled.append(event.seq)

    async with open_world(described(handle, timeout=0.001)) as world:
        seqs = [await world.publish("orders.a"), await world.publish("orders.a")]
        await world.until(lambda: len(handled) == 2)
    assert handled == seqs
    async with open_world() as world:
        assert world.kinds("mailer")["delivery.failed"] == 0


async def test_data_that_does_not_decode_fails_like_any_other_and_the_next_event_is_handled(open_world: Any) -> None:
    handled = []

    @subscriber("orders.#", name="mailer", retry=Retry(2, initial=0.0))
    async def handle(event: Event[Paid]) -> None:
        handled.append(event.data)

    async with open_world(handle) as world:
        bad = await world.publish("orders.a", {"order": 5})
        await world.publish("orders.a", {"order": "o"})
        await world.until(lambda: handled)
        failed, dead = world.records("mailer", "delivery.failed"), world.records("mailer", "delivery.dead")
    assert handled == [Paid("o")]
    assert [record.facts["error"] for record in failed] == ["engine.errors.PayloadError"] * 2
    assert "data.order" in failed[0].load()["error"]["message"]
    assert [record.facts["event"] for record in dead] == [bad]


async def test_a_predicate_that_raises_fails_like_a_handler(open_world: Any, seen: Any) -> None:
    async with open_world(
        described(seen, where=lambda event: event.data["wanted"], retry=Retry(2, initial=0.0))
    ) as world:
        await world.publish("orders.a", {})
        await world.publish("orders.a", {"wanted": True})
        await seen.times(1)
        assert [record.facts["error"] for record in world.records("mailer", "delivery.failed")] == [
            "builtins.KeyError"
        ] * 2
        assert world.crashes == []


async def test_each_attempt_is_given_the_data_anew(open_world: Any) -> None:
    given = []

    @subscriber("orders.#", name="mailer", retry=Retry(2, initial=0.0))
    async def handle(event: Event[Any]) -> None:
        given.append(list(event.data))
        event.data.append("changed")
        if len(given) == 1:
            raise OSError

    async with open_world(handle) as world:
        await world.publish("orders.a", [1])
        await world.until(lambda: len(given) == 2)
    assert given == [[1], [1]]


# ------------------------------------------------------------------------------------------------ over a restart


@pytest.mark.parametrize(("away", "rest"), [(4.0, 6.0), (60.0, 0.0), (-1000.0, 10.0)])
async def test_after_a_kill_the_rest_of_the_wait_is_waited_for_and_the_attempts_count(
    open_world: Any,
    scripted: Any,
    clock: trio.testing.MockClock,
    trio_clock: Any,
    tmp_path: Path,
    away: float,
    rest: float,
) -> None:
    before, after = scripted(None, OSError()), scripted(*[OSError()] * 9)
    async with open_world(described(before), stamp=trio_clock) as world:
        seqs = [await world.publish("orders.a"), await world.publish("orders.b")]
        await before.times(2)
        await world.settle()
        copy = world.copy_to(tmp_path / "copy.db")
    trio_clock.ahead += away
    async with open_world(described(after), path=copy, stamp=trio_clock) as world:
        began = trio.current_time()
        await after.times(1)
        assert trio.current_time() - began == pytest.approx(rest, abs=1.0)
        await after.times(2)
        await trio.sleep(100)
        attempts = [record.facts["attempt"] for record in world.records("mailer", "delivery.failed")]
        (dead,) = world.records("mailer", "delivery.dead")
    assert after.seqs == [seqs[1]] * 2
    assert attempts == [1, 2, 3]
    assert dead.facts["attempts"] == 3


async def test_a_wait_that_a_close_ended_goes_on_at_the_next_opening(
    open_world: Any, scripted: Any, clock: trio.testing.MockClock, trio_clock: Any
) -> None:
    before, after = scripted(OSError()), scripted()
    async with open_world(described(before), stamp=trio_clock) as world:
        await world.publish("orders.a")
        await before.times(1)
        await trio.sleep(3)
    async with open_world(described(after), stamp=trio_clock) as world:
        began = trio.current_time()
        await after.times(1)
        assert trio.current_time() - began == pytest.approx(7.0, abs=1.0)


def test_the_rest_of_a_wait_is_never_longer_than_it_was() -> None:
    waits = Attempts(1, "2026-01-01T00:00:10.000000Z", "2026-01-01T00:00:15.000000Z")
    assert waits.rest("2026-01-01T00:00:12.000000Z") == 3.0
    assert waits.rest("2026-01-01T00:01:00.000000Z") == 0.0
    assert waits.rest("2020-01-01T00:00:00.000000Z") == 5.0
    assert Attempts(1, "2026-01-01T00:00:10.000000Z").rest("2020-01-01T00:00:00.000000Z") == 0.0
