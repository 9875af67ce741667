"""What every store answers: the promises of `engine.journal.store`, held against each store there is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio

from engine.journal import ActivityState, Store, SubscriptionState
from engine.messages import ActivityStatus
from tests.journal.journals import STARTED, opened

Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=["sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the store, whose writer runs; again and again, the same."""
    stores: dict[str, Open] = {"sqlite": lambda: opened(tmp_path / "journal.db")}
    return stores[request.param]


def accept(store: Store, id: str, name: str = "n", priority: int = 0) -> int:
    facts = {"command": "start", "priority": priority}
    return store.append(id, "command.accepted", name=name, facts=facts, data="{}", begins="activity")


def start(store: Store, id: str) -> int:
    return store.append(id, "activity.started", name="n", run=1, facts=STARTED)


def end(store: Store, id: str, kind: str = "activity.completed") -> int:
    return store.append(id, kind, name="n", run=1, facts={"generation": 0})


def publish(store: Store, id: str, topic: str = "t") -> int:
    return store.append("/engine", "event.published", name=topic, facts={"id": id}, data='{"data":1}')


async def all_durable(store: Store) -> None:
    await store.durable(store.last_seq)


# ------------------------------------------------------------------------------------------------ activities


async def test_the_state_of_an_activity_follows_its_records(open_store: Open) -> None:
    async with open_store() as store:
        assert store.activity("one") is None
        accepted = accept(store, "one", "orders.fulfil")
        await all_durable(store)
        assert store.activity("one") == ActivityState("one", "orders.fulfil", ActivityStatus.PENDING, accepted, None)
        start(store, "one")
        await all_durable(store)
        assert store.activity("one") == ActivityState("one", "orders.fulfil", ActivityStatus.RUNNING, accepted, None)
        ended = end(store, "one", "activity.failed")
        await all_durable(store)
        assert store.activity("one") == ActivityState("one", "orders.fulfil", ActivityStatus.FAILED, accepted, ended)


async def test_what_is_not_durable_is_not_told(open_store: Open) -> None:
    async with open_store() as store:
        await all_durable(store)
        seq = accept(store, "one")
        publish(store, "e")
        assert (store.activity("one"), store.publication("e"), store.record(seq)) == (None, None, None)
        assert store.count_unfinished() == 0
        assert store.events(0, 10) == ([], store.durable_seq)
        assert store.histories(["one"]) == {"one": []}


async def test_those_of_a_status_come_in_the_order_of_their_rank(open_store: Open) -> None:
    async with open_store() as store:
        for id, priority in (("c", 0), ("a", 0), ("d", -1), ("b", 0), ("e", 7)):
            accept(store, id, priority=priority)
        for id in ("a", "d"):
            start(store, id)
        end(store, "a")
        store.append("d", "activity.blocked", name="n", run=1, facts={})
    async with open_store() as store:
        pending = [ActivityStatus.PENDING]
        found = store.in_line(pending, 10)
        assert [state.id for state in found] == ["e", "c", "b"]
        assert store.in_line(pending, 2) == found[:2]
        assert store.in_line(pending, 10, after=found[0].rank) == found[1:]
        assert store.in_line(pending, 10, after=found[2].rank) == []
        assert [state.id for state in store.in_line([*pending, ActivityStatus.BLOCKED], 10)] == ["e", "c", "b", "d"]
        assert store.count_unfinished() == 4


async def test_the_parked_are_found_by_the_instant_at_which_they_are_to_be_woken(open_store: Open) -> None:
    async with open_store() as store:
        for id, due in (("a", "T3"), ("b", "T1"), ("c", None), ("d", "T2"), ("e", "T1")):
            accept(store, id, priority=1 if id == "d" else 0)
            start(store, id)
            waits: dict[str, Any] = {"generation": 0, "waits": [], **({} if due is None else {"due": due})}
            store.append(id, "activity.parked", name="n", run=1, facts=waits)
        store.append("e", "activity.resumed", name="n", run=1, facts={"generation": 0})
    async with open_store() as store:
        assert [state.id for state in store.due("T2", 10)] == ["d", "b"]
        assert [state.id for state in store.due("T9", 2)] == ["d", "a"]
        assert store.due("T0", 10) == []
        assert [store.next_due(after) for after in ("T0", "T1", "T2", "T3")] == ["T1", "T2", "T3", None]


async def test_histories_hold_each_streams_records_in_order(open_store: Open) -> None:
    async with open_store() as store:
        for id in ("b", "a", "c"):
            accept(store, id)
        for id in ("a", "b"):
            start(store, id)
        await all_durable(store)
        found = store.histories(["a", "b", "nobody"])
        assert store.histories([]) == {}
    assert {id: [record.kind for record in records] for id, records in found.items()} == {
        "a": ["command.accepted", "activity.started"],
        "b": ["command.accepted", "activity.started"],
        "nobody": [],
    }
    assert all(record.stream == id for id, records in found.items() for record in records)


async def test_the_records_of_a_stream_after_a_seq_come_in_order(open_store: Open) -> None:
    async with open_store() as store:
        first = accept(store, "one")
        accept(store, "two")
        second, third = start(store, "one"), end(store, "one")
        await all_durable(store)
        assert [record.seq for record in store.stream_after("one", 0)] == [first, second, third]
        assert [record.seq for record in store.stream_after("one", first)] == [second, third]
        assert store.stream_after("one", third) == []
        assert store.stream_after("nobody", 0) == []


async def test_a_record_that_there_is_not_is_none(open_store: Open) -> None:
    async with open_store() as store:
        await all_durable(store)
        assert store.record(0) is None
        assert store.record(store.last_seq + 1) is None
        record = store.record(1)
        assert record is not None
        assert record.kind == "journal.created"


# ------------------------------------------------------------------------------------------------ events


async def test_events_come_page_by_page_and_each_page_tells_up_to_where_it_is_whole(open_store: Open) -> None:
    async with open_store() as store:
        await all_durable(store)
        begin = store.last_seq
        accept(store, "one")
        events = []
        for number in range(5):
            events.append(publish(store, str(number)))
            start(store, "one")
            events.append(store.append("one", "event.emitted", name="t", facts={"id": f"e{number}"}, data='{"data":1}'))
        accept(store, "two")
        await all_durable(store)
        seen, after = [], begin
        while True:
            page, upto = store.events(after, 3)
            seen += [record.seq for record in page]
            assert page == [] or page[-1].seq <= upto
            if len(page) < 3:
                break
            assert upto == page[-1].seq
            after = upto
        assert seen == events
        assert upto == store.durable_seq
        assert store.events(upto, 3) == ([], upto)


async def test_a_publication_is_found_by_its_id(open_store: Open) -> None:
    async with open_store() as store:
        seq = publish(store, "e1", "orders.paid")
        store.append("one", "event.emitted", name="t", facts={"id": "e2"}, data="{}", begins="activity")
        await all_durable(store)
        found = store.publication("e1")
        assert found is not None
        assert (found.seq, found.name, found.load()) == (seq, "orders.paid", {"data": 1})
        assert store.publication("e2") is None


# ------------------------------------------------------------------------------------------------ the others


async def test_the_state_of_a_subscriber_follows_its_records(open_store: Open) -> None:
    async with open_store() as store:
        assert store.subscription("mailer") is None
        stream = "/subscribers/mailer"
        facts: dict[str, Any] = {"patterns": ["a.*", "b"], "after": 2}
        store.append(stream, "subscriber.attached", name="mailer", facts=facts, begins="subscriber")
        await all_durable(store)
        assert store.subscription("mailer") == SubscriptionState("mailer", ["a.*", "b"], 2, [])
        handled = {"from": 2, "to": 9, "beyond": [[11, 12], [14, 14]]}
        store.append(stream, "delivery.handled", name="mailer", facts=handled)
        await all_durable(store)
    async with open_store() as store:
        assert store.subscription("mailer") == SubscriptionState("mailer", ["a.*", "b"], 9, [(11, 12), (14, 14)])


async def test_of_each_definition_the_facts_recorded_last_are_told(open_store: Open) -> None:
    async with open_store() as store:
        before = dict(store.registered())
        for kind, name, version in [("activity", "n", "1"), ("step", "n", "x"), ("activity", "n", "2")]:
            facts = {"type": kind, "version": version}
            store.append("/engine", "definition.registered", name=name, facts=facts)
        await all_durable(store)
        found = store.registered()
    assert before == {}
    assert found == {
        ("activity", "n"): {"type": "activity", "version": "2"},
        ("step", "n"): {"type": "step", "version": "x"},
    }


# ------------------------------------------------------------------------------------------------ writing


async def test_the_journal_is_the_same_over_openings(open_store: Open) -> None:
    async with open_store() as store:
        id = store.id
        last = publish(store, "e")
    async with open_store() as store:
        assert store.id == id
        assert store.last_seq == last + 1
        assert store.publication("e") is not None


async def test_a_watcher_is_told_of_each_commit_after_the_records_own_callbacks(open_store: Open) -> None:
    told: list[tuple[str, int]] = []
    async with open_store() as store:
        await all_durable(store)
        store.watch(lambda seq: told.append(("watcher", seq)))
        expected = []
        for _ in range(2):
            seq = store.append(
                "/engine", "definition.registered", landed=lambda: told.append(("record", store.last_seq))
            )
            await store.durable(seq)
            expected += [("record", seq), ("watcher", seq)]
    assert told == expected


@pytest.mark.parametrize(
    "wait", [lambda store, seq: store.durable(seq), lambda store, seq: store.durable_within(seq, 9)]
)
async def test_what_was_waited_for_is_there_to_be_read(
    open_store: Open, wait: Callable[[Store, int], Awaitable[None]]
) -> None:
    async with open_store() as store:
        for number in range(5):
            seq = publish(store, str(number))
            await wait(store, seq)
            assert store.durable_seq >= seq
            assert store.publication(str(number)) is not None


async def test_closing_soon_writes_what_was_appended(open_store: Open) -> None:
    async with open_store() as store:
        store.close_soon()
        publish(store, "late")
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
    async with open_store() as store:
        assert store.publication("late") is not None
