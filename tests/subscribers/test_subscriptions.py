"""Attaching: what is recorded, and where a subscriber begins."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from engine.clock import parse
from engine.errors import DefinitionError
from engine.subscribers import BatchSubscriber, Subscriber, subscriber


def described(handler: Any, *patterns: str, **options: Any) -> Subscriber[Any]:
    made: Subscriber[Any] = subscriber(*patterns or ("orders.#",), **{"name": "mailer", **options})(handler)
    return made


async def test_a_subscriber_is_a_supervised_child_of_its_name(open_world: Any, seen: Any) -> None:
    async with open_world(described(seen)) as world:
        (child,) = world.supervisor.which_children()
        assert child.ref.path == "/subscribers/mailer"


async def test_the_first_attach_is_recorded_and_others_are_not(open_world: Any, seen: Any) -> None:
    async with open_world(described(seen, "orders.#", "stock.*")) as world:
        first = world.records("mailer")
    async with open_world(described(seen, "stock.*", "orders.#")) as world:
        assert world.records("mailer") == first
    (record,) = first
    assert (record.kind, record.name, record.stream) == ("subscriber.attached", "mailer", "/subscribers/mailer")
    assert record.facts["patterns"] == ["orders.#", "stock.*"]
    assert 0 <= record.facts["after"] < record.seq


async def test_another_pattern_is_recorded_and_goes_on_from_the_cursor(open_world: Any, scripted: Any) -> None:
    before, after = scripted(), scripted()
    async with open_world(described(before, "orders.#")) as world:
        await world.publish("orders.a", 1)
        await before.times(1)
    async with open_world() as world:
        cursor = world.cursor("mailer")
        await world.publish("stock.a", 2)
    async with open_world(described(after, "stock.#", start="beginning")) as world:
        await after.times(1)
        *_, attached = world.records("mailer", "subscriber.attached")
        assert attached.facts == {"patterns": ["stock.#"], "after": cursor}
    assert after.data == [2]


async def test_who_attached_it_is_recorded(open_world: Any, seen: Any) -> None:
    async with open_world() as world:
        world.subscriptions.attach(described(seen), by="alice")
        await world.publish("orders.a")
        await seen.times(1)
        assert world.records("mailer")[0].by == "alice"


STARTS: dict[str, tuple[Callable[[Any], Any], list[int]]] = {
    "now": (lambda events: "now", [4]),
    "the beginning": (lambda events: "beginning", [0, 1, 2, 3, 4]),
    "seq 0": (lambda events: 0, [0, 1, 2, 3, 4]),
    "an event's seq": (lambda events: events[2].seq, [2, 3, 4]),
    "a seq between events": (lambda events: events[1].seq + 1, [2, 3, 4]),
    "an event's instant": (lambda events: parse(events[1].at), [1, 2, 3, 4]),
    "an instant elsewhere": (
        lambda events: parse(events[1].at).astimezone(dt.timezone(dt.timedelta(hours=5))),
        [1, 2, 3, 4],
    ),
    "just after an instant": (lambda events: parse(events[1].at) + dt.timedelta(microseconds=1), [2, 3, 4]),
    "an instant long ago": (lambda events: dt.datetime(1999, 1, 1, tzinfo=dt.UTC), [0, 1, 2, 3, 4]),
    "an instant to come": (lambda events: dt.datetime(2999, 1, 1, tzinfo=dt.UTC), [4]),
}


@pytest.mark.parametrize(("start", "wanted"), STARTS.values(), ids=STARTS.keys())
async def test_a_new_subscriber_begins_where_it_says(open_world: Any, seen: Any, start: Any, wanted: list[int]) -> None:
    async with open_world() as world:
        events = []
        for n in range(4):
            events.append(world.append_event("orders.a", n))
            await world.settle()
            await world.record_something()
    async with open_world(described(seen, start=start(events))) as world:
        await world.publish("orders.a", 4)
        await seen.times(len(wanted))
        await trio.testing.wait_all_tasks_blocked()
    assert seen.data == wanted


async def test_start_counts_only_once(open_world: Any, scripted: Any) -> None:
    before, after = scripted(), scripted()
    async with open_world(described(before, start="beginning")) as world:
        await world.publish("orders.a", 1)
        await before.times(1)
    async with open_world(described(after, start="beginning")) as world:
        await world.publish("orders.a", 2)
        await after.times(1)
    assert after.data == [2]


async def test_what_cannot_be_attached_is_refused_and_nothing_recorded(open_world: Any, seen: Any) -> None:
    def wrong(event: int) -> None: ...

    async with open_world(described(seen)) as world:
        before = world.journal.last_seq
        with pytest.raises(DefinitionError, match="annotate"):
            world.subscriptions.attach(described(wrong, name="wrong"))
        with pytest.raises(DefinitionError, match="two subscribers are named"):
            world.subscriptions.attach(described(seen))
        with pytest.raises(DefinitionError, match="batches"):
            world.subscriptions.attach(BatchSubscriber(seen, "orders.#", name="batches"))
        assert world.journal.last_seq == before


async def test_an_event_that_nobody_wants_is_not_even_made(open_world: Any, seen: Any) -> None:
    async with open_world(described(seen)) as world:
        await world.publish("other")
        await world.publish("orders.a")
        await seen.times(1)
        assert world.routed == ["orders.a"]


async def test_statistics_tell_how_each_stands(open_world: Any, scripted: Any) -> None:
    go_on = trio.Event()
    seen = scripted(None, OSError(), go_on.wait)
    async with open_world(described(seen), described(scripted(), "other", name="idle")) as world:
        assert list(world.subscriptions.statistics()) == ["mailer", "idle"]
        seqs = [await world.publish("orders.a") for _ in range(3)]
        await seen.times(3)
        await world.settle()
        mailer = world.subscriptions.statistics()["mailer"]
        assert (mailer.in_hand, mailer.attempt, mailer.handled, mailer.failed) == (seqs[1], 2, 1, 1)
        assert seqs[0] <= mailer.cursor < seqs[1]
        assert (mailer.late, mailer.dead) == (0, 0)
        assert mailer.channel is not None
        assert mailer.channel.depth == 1
        go_on.set()
