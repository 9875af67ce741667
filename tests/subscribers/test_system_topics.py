"""System topics: the engine's own doings, seen as events by those who ask for them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import trio

from engine import Context, Engine, Event, Restart, activity, subscriber
from engine.audit import Ledger
from engine.clock import parse
from engine.journal.kinds import SYSTEM_TOPICS
from engine.policies import Retry
from engine.subscribers import Subscriber


def listener(handler: Any, *patterns: str, **options: Any) -> Subscriber[Any]:
    made: Subscriber[Any] = subscriber(*patterns, **{"name": "listener", **options})(handler)
    return made


def crash(world: Any, path: str = "/engine", *, data: str | None = '{"error":{"type":"X"}}') -> int:
    """Append that an actor crashed."""
    facts = {"restarts": 0, "error": "X"}
    return int(world.journal.append(path, "actor.crashed", name="/somebody", facts=facts, data=data))


async def test_a_record_of_supervision_is_seen_as_an_event(open_world: Any, seen: Any) -> None:
    async with open_world(listener(seen, "playbill.supervision.crashed")) as world:
        seq = crash(world)
        await seen.times(1)
    (event,) = seen.events
    assert (event.topic, event.seq, event.source, event.id) == (
        "playbill.supervision.crashed",
        seq,
        "/engine",
        f"playbill:{seq}",
    )
    assert event.data == {
        "kind": "actor.crashed",
        "stream": "/engine",
        "name": "/somebody",
        "run": None,
        "facts": {"restarts": 0, "error": "X"},
        "data": {"error": {"type": "X"}},
    }


async def test_a_record_whose_data_was_erased_is_seen_without_it(open_world: Any, seen: Any) -> None:
    async with open_world(listener(seen, "playbill.#")) as world:
        crash(world, data=None)
        await seen.times(1)
    assert seen.data[0]["data"] is None


async def test_an_activity_s_statuses_are_seen_as_events(tmp_path: Any, seen: Any) -> None:
    @activity(name="failing", restart=Restart(1, within=60))
    async def failing(ctx: Context) -> None:
        raise ValueError("as planned")

    async with Engine.open(str(tmp_path / "j.db"), failing, listener(seen, "playbill.activities.*")) as engine:
        handle = await engine.start(failing, id="f-1")
        await handle.wait("failed")
        await seen.times(3)
    assert [event.topic for event in seen.events] == [
        "playbill.activities.running",
        "playbill.activities.running",
        "playbill.activities.failed",
    ]
    assert [event.data["kind"] for event in seen.events] == ["activity.started", "activity.crashed", "activity.failed"]
    assert {event.source for event in seen.events} == {"f-1"}


async def test_a_dead_letter_is_seen_with_the_event_that_died(open_world: Any, seen: Any) -> None:
    @subscriber("orders.#", name="mailer", retry=Retry(1))
    async def mailer(event: Event[Any]) -> None:
        raise ValueError("as planned")

    async with open_world(mailer, listener(seen, "playbill.dead_letters")) as world:
        died = world.append_event("orders.a", 1)
        await seen.times(1)
    (event,) = seen.events
    assert (event.topic, event.source, event.cause) == (
        "playbill.dead_letters",
        "/subscribers/mailer",
        died.facts["id"],
    )
    assert event.data["facts"]["event"] == died.seq


async def test_one_that_cannot_be_handled_is_a_dead_letter_that_shows_it(tmp_path: Any, scripted: Any) -> None:
    @activity(name="failing", restart=Restart(0))
    async def failing(ctx: Context) -> None:
        raise ValueError("as planned")

    seen = scripted(KeyError("the handler's"))
    path = str(tmp_path / "j.db")
    async with Engine.open(path, failing, listener(seen, "playbill.activities.failed", retry=Retry(1))) as engine:
        await (await engine.start(failing, id="f-1")).wait("failed")
        await seen.times(1)
    with Ledger.open(path) as ledger:
        (letter,) = ledger.dead_letters()
        assert list(ledger.events("playbill.activities.failed")) == [letter.event]
    assert (letter.event.id, letter.event.source) == (seen.events[0].id, "f-1")
    assert (letter.event.topic, letter.event.data) == (seen.events[0].topic, seen.events[0].data)


@pytest.mark.parametrize("pattern", ["#", "*.supervision.crashed", "orders.#"])
async def test_only_a_pattern_that_says_playbill_is_given_them(open_world: Any, seen: Any, pattern: str) -> None:
    async with open_world(listener(seen, pattern, "orders.*")) as world:
        crash(world)
        seq = await world.publish("orders.a", 1)
        await seen.times(1)
    assert seen.seqs == [seq]


async def test_what_befalls_a_subscriber_itself_it_is_not_given(open_world: Any, scripted: Any) -> None:
    seen = scripted(ValueError("as planned"))
    async with open_world(listener(seen, "playbill.#", retry=Retry(1))) as world:
        first = crash(world)
        await world.until(lambda: world.dead("listener"))
        crash(world, "/subscribers/listener")
        last = crash(world)
        await seen.times(2)
    assert seen.seqs == [first, last]


async def test_a_system_event_that_fails_is_tried_again_and_becomes_a_dead_letter(
    open_world: Any, scripted: Any, clock: Any
) -> None:
    failing = scripted(*3 * [ValueError("as planned")])
    async with open_world(listener(failing, "playbill.supervision.#", retry=Retry(3, jitter=0))) as world:
        seq = crash(world)
        await world.until(lambda: world.dead("listener") == {seq})
    assert failing.seqs == 3 * [seq]
    assert {event.id for event in failing.events} == {f"playbill:{seq}"}


async def test_they_come_in_order_with_other_events_each_once_over_openings(open_world: Any, scripted: Any) -> None:
    first, second = scripted(), scripted()
    seqs = []
    async with open_world(listener(first, "playbill.#", "orders.*")) as world:
        for number in range(40):
            seqs.append(crash(world) if number % 3 else world.append_event("orders.a", number).seq)
            if number % 7 == 0:
                await world.settle()
        await first.times(40)
    async with open_world(listener(second, "playbill.#", "orders.*")) as world:
        seqs.append(crash(world))
        await second.times(1)
    assert first.seqs + second.seqs == seqs


async def test_one_that_comes_while_the_handler_is_busy_is_not_lost(open_world: Any, scripted: Any) -> None:
    go_on = trio.Event()
    seen = scripted(go_on.wait)
    async with open_world(listener(seen, "playbill.#", "orders.*"), capacity=2) as world:
        seqs = [crash(world)]
        await seen.times(1)
        for _ in range(10):
            seqs += [crash(world), world.append_event("orders.a").seq]
        await world.settle()
        go_on.set()
        await seen.times(21)
    assert seen.seqs == seqs


async def test_from_the_beginning_a_long_stretch_without_any_is_read_over(open_world: Any, seen: Any) -> None:
    async with open_world() as world:
        first = crash(world)
        for _ in range(4_500):
            world.journal.append("/engine", "definition.registered", name="x", facts={"type": "step", "module": "x"})
        last = crash(world)
        await world.settle()
        world.subscriptions.attach(listener(seen, "playbill.supervision.#", start="beginning"))
        await seen.times(2)
    assert seen.seqs == [first, last]


async def test_an_instant_to_begin_at_counts_them_too(open_world: Any, seen: Any) -> None:
    async with open_world() as world:
        crash(world)
        await world.settle()
        wanted = crash(world)
        await world.settle()
        record = world.journal.record(wanted)
        start = parse(record.at)
        assert start > dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        world.subscriptions.attach(listener(seen, "playbill.supervision.#", start=start))
        await seen.times(1)
    assert seen.seqs[-1] == wanted


async def test_at_rest_nothing_is_written_for_it(open_world: Any, seen: Any, clock: Any) -> None:
    async with open_world(listener(seen, "playbill.supervision.#")) as world:
        crash(world)
        await seen.times(1)
        await world.until(lambda: world.cursor("listener") > 0)
        await world.settle()
        size = world.journal.last_seq
        await trio.sleep(3600)
        assert world.journal.last_seq == size


def test_every_kind_with_a_system_topic_has_one_of_the_promised() -> None:
    families = {"playbill.activities", "playbill.supervision", "playbill.dead_letters"}
    for kind, topic in SYSTEM_TOPICS.items():
        assert topic in families or topic.rpartition(".")[0] in families, kind
    assert SYSTEM_TOPICS["supervisor.escalated"] == "playbill.supervision.escalated"
    assert SYSTEM_TOPICS["activity.blocked"] == "playbill.activities.blocked"
    assert "delivery.failed" not in SYSTEM_TOPICS
