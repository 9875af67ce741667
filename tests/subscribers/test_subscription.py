"""A subscriber at work: order, cursor, crashes, closing."""

from __future__ import annotations

import itertools
import math
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.actors import SupervisorRef
from engine.errors import RestartIntensityError
from engine.messages import Event
from engine.policies import Retry
from engine.subscribers import Subscriber, subscriber
from engine.subscribers.cursor import MOST_LATE, Cursor


def described(handler: Any, *patterns: str, **options: Any) -> Subscriber[Any]:
    made: Subscriber[Any] = subscriber(*patterns or ("orders.#",), **{"name": "mailer", **options})(handler)
    return made


# ------------------------------------------------------------------------------------------------ order


async def test_matching_events_come_each_once_in_the_journals_order(open_world: Any, seen: Any) -> None:
    async with open_world(described(seen, "orders.*.paid", "*.eu.*")) as world:
        wanted = [await world.publish(topic, n) for n, topic in enumerate(["orders.eu.paid", "orders.us.paid"])]
        await world.publish("orders.us.placed")
        wanted.append(await world.publish("stock.eu.low", 2, headers={"from": "x"}))
        await seen.times(3)
    assert (seen.seqs, seen.data) == (wanted, [0, 1, 2])
    assert (seen.events[2].topic, dict(seen.events[2].headers)) == ("stock.eu.low", {"from": "x"})


async def test_events_come_one_by_one(open_world: Any, scripted: Any) -> None:
    go_on = trio.Event()
    seen = scripted(go_on.wait)
    async with open_world(described(seen)) as world:
        await world.publish("orders.a")
        await world.publish("orders.b")
        await trio.testing.wait_all_tasks_blocked()
        assert len(seen.events) == 1
        go_on.set()
        await seen.times(2)


async def test_a_coroutine_function_runs_in_the_loop_and_a_plain_one_in_a_thread(open_world: Any) -> None:
    threads: dict[str, threading.Thread] = {}

    @subscriber("a", name="loop")
    async def in_loop(event: Event[Any]) -> None:
        threads["loop"] = threading.current_thread()

    @subscriber("a", name="thread")
    def in_thread(event: Event[Any]) -> None:
        threads["thread"] = threading.current_thread()

    async with open_world(in_loop, in_thread) as world:
        await world.publish("a")
        await world.until(lambda: len(threads) == 2)
    assert threads["loop"] is threading.current_thread() is not threads["thread"]


async def test_a_plain_function_that_gives_a_coroutine_has_it_awaited(open_world: Any, seen: Any) -> None:
    async with open_world(described(lambda event: seen(event))) as world:
        await world.publish("orders.a")
        await seen.times(1)


async def test_a_slow_subscriber_holds_up_nobody_and_misses_nothing(open_world: Any, scripted: Any) -> None:
    go_on = trio.Event()
    slow, quick = scripted(go_on.wait), scripted()
    async with open_world(described(slow, name="slow"), described(quick, name="quick"), capacity=8) as world:
        wanted = [await world.publish("orders.a", n) for n in range(100)]
        await quick.times(100)
        statistics = world.subscriptions.statistics()
        assert statistics["slow"].in_hand == wanted[0]
        assert statistics["slow"].channel.behind
        assert statistics["slow"].channel.depth <= 8
        go_on.set()
        await slow.times(100)
    assert slow.seqs == quick.seqs == wanted


async def test_an_event_for_which_where_is_false_is_passed_over(open_world: Any, seen: Any) -> None:
    async with open_world(described(seen, where=lambda event: event.data > 1)) as world:
        last = [await world.publish("orders.a", n) for n in range(4)][-1]
        await seen.times(2)
    assert seen.data == [2, 3]
    async with open_world() as world:
        assert world.cursor("mailer") >= last


# ------------------------------------------------------------------------------------------------ the cursor


async def test_the_cursor_is_never_ahead_of_what_returned(open_world: Any, scripted: Any) -> None:
    go_on = trio.Event()
    seen = scripted(None, None, go_on.wait)
    async with open_world(described(seen)) as world:
        seqs = [await world.publish("orders.a", n) for n in range(4)]
        await seen.times(3)
        await world.settle()
        assert seqs[1] <= world.cursor("mailer") < seqs[2]
        go_on.set()
        await seen.times(4)
        await world.settle()
        assert world.cursor("mailer") >= seqs[3]


async def test_the_handler_does_not_wait_for_the_commit_of_its_cursor(
    open_world: Any, seen: Any, clock: trio.testing.MockClock
) -> None:
    async with open_world(described(seen), commit_delay=1.0) as world:
        clock.autojump_threshold = math.inf
        for n in range(10):
            world.append_event("orders.a", n)
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(1.0)
        await seen.times(10)
        before = world.kinds("mailer")["delivery.handled"]
        clock.autojump_threshold = 0.02
        await world.settle()
        after = world.kinds("mailer")["delivery.handled"]
        assert world.cursor("mailer") >= seen.seqs[-1]
    # One for the first, and one for all that returned while that was on its way.
    assert (before, after) == (0, 2)


async def test_not_more_than_so_many_events_are_handled_without_a_durable_record(
    open_world: Any, seen: Any, clock: trio.testing.MockClock
) -> None:
    async with open_world(described(seen), commit_delay=1.0) as world:
        clock.autojump_threshold = math.inf
        for n in range(3 * MOST_LATE):
            world.append_event("orders.a", n)
        late = []
        while len(seen.events) < 3 * MOST_LATE:
            await trio.testing.wait_all_tasks_blocked()
            late.append(sum(event.seq > world.cursor("mailer") for event in seen.events))
            clock.jump(1.0)
        clock.autojump_threshold = 0.02
    assert max(late) == MOST_LATE
    assert [event.data for event in seen.events] == list(range(3 * MOST_LATE))


async def test_each_record_begins_where_the_one_before_ended(open_world: Any, seen: Any) -> None:
    for _ in range(2):
        async with open_world(described(seen)) as world:
            for n in range(20):
                await world.publish("orders.a" if n % 3 else "other", n)
            await world.settle()
            records = world.records("mailer")
    facts = [record.facts for record in records if record.kind == "delivery.handled"]
    assert facts[0]["from"] == records[0].facts["after"]
    assert all(one["to"] == other["from"] for one, other in itertools.pairwise(facts))
    assert all(one["from"] < one["to"] and one["beyond"] == [] for one in facts)


async def test_the_cursor_passes_over_events_that_do_not_match_once_in_a_while(
    open_world: Any, seen: Any, clock: trio.testing.MockClock
) -> None:
    async with open_world(described(seen)) as world:
        began = trio.current_time()
        for _ in range(50):
            last = await world.publish("other")
            await trio.sleep(0.2)
        await trio.sleep(60)
        # After 1, 2, 4 and 8 seconds, for events that came in ten.
        assert world.kinds("mailer")["delivery.handled"] == 4
        assert world.cursor("mailer") >= last
        assert trio.current_time() - began < 75
    assert seen.events == []


async def test_an_engine_at_rest_writes_nothing(open_world: Any, seen: Any, clock: trio.testing.MockClock) -> None:
    others = [described(seen, name=f"other {n}") for n in range(3)]
    async with open_world(described(seen), *others) as world:
        await world.publish("orders.a")
        await world.publish("other")
        await trio.sleep(10)
        before = world.journal.last_seq
        await trio.sleep(10_000)
        assert world.journal.last_seq == before


async def test_records_that_are_no_events_move_no_cursor(
    open_world: Any, seen: Any, clock: trio.testing.MockClock
) -> None:
    async with open_world(described(seen)) as world:
        for _ in range(20):
            await world.record_something()
            await trio.sleep(1)
    async with open_world() as world:
        assert world.kinds("mailer") == {"subscriber.attached": 1}


async def test_a_clean_close_records_how_far_everything_is_settled(open_world: Any, seen: Any) -> None:
    async with open_world(described(seen)) as world:
        await world.publish("orders.a")
        last = [await world.publish("other") for _ in range(5)][-1]
    async with open_world() as world:
        assert world.cursor("mailer") >= last


# ------------------------------------------------------------------------------------------------ crashes


async def test_after_a_kill_it_goes_on_from_its_durable_cursor(open_world: Any, scripted: Any, tmp_path: Path) -> None:
    never = trio.Event()
    before, after = scripted(None, None, never.wait), scripted()
    async with open_world(described(before), drain_within=0.01) as world:
        seqs = [await world.publish("orders.a", n) for n in range(5)]
        await before.times(3)
        await world.settle()
        copy = world.copy_to(tmp_path / "copy.db")
    async with open_world(described(after), path=copy) as world:
        await after.times(3)
        seqs.append(await world.publish("orders.a"))
        await after.times(4)
    assert after.seqs == seqs[2:], "the one in hand comes again, and none before it"


async def test_events_of_the_time_without_a_subscriber_are_delivered_when_it_is_back(
    open_world: Any, scripted: Any
) -> None:
    before, after = scripted(), scripted()
    async with open_world(described(before)) as world:
        await world.publish("orders.a", 1)
        await before.times(1)
    async with open_world() as world:
        for n in range(300):
            await world.publish("orders.a" if n % 2 else "other", n)
    async with open_world(described(after), capacity=16) as world:
        await world.publish("orders.a", 300)
        await after.times(151)
    assert (before.data, after.data) == ([1], [*range(1, 300, 2), 300])


async def test_an_actor_that_crashes_is_restarted_and_goes_on_from_its_cursor(
    open_world: Any, seen: Any, monkeypatch: pytest.MonkeyPatch, clock: trio.testing.MockClock
) -> None:
    settle, calls = Cursor.settle, []

    def fails_at_the_third(self: Cursor) -> None:
        calls.append(self)
        if len(calls) == 3:
            raise RuntimeError("a fault of ours")
        settle(self)

    monkeypatch.setattr(Cursor, "settle", fails_at_the_third)
    async with open_world(described(seen), capacity=2) as world:
        seqs = [await world.publish("orders.a", n) for n in range(6)]
        await seen.times(6)
        # Offered to the channel that was made anew.
        seqs.append(await world.publish("orders.a", 6))
        await world.until(lambda: seqs[-1] in seen.seqs)
        assert [str(error) for error in world.crashes] == ["a fault of ours"]
    assert seen.seqs == seqs


async def test_a_run_begins_only_when_what_the_one_before_recorded_is_durable(
    open_world: Any, seen: Any, monkeypatch: pytest.MonkeyPatch, clock: trio.testing.MockClock
) -> None:
    settle, calls = Cursor.settle, []

    def fails_at_the_third(self: Cursor) -> None:
        calls.append(self)
        if len(calls) == 3:
            raise RuntimeError("a fault of ours")
        settle(self)

    monkeypatch.setattr(Cursor, "settle", fails_at_the_third)
    # The restart comes after a tenth of a second, the commit after five.
    async with open_world(described(seen), commit_delay=5.0) as world:
        seqs = [world.append_event("orders.a", n).seq for n in range(6)]
        await seen.times(6)
        await trio.sleep(20)
        assert len(world.crashes) == 1
    assert seen.seqs == seqs


async def test_an_actor_that_crashes_over_and_over_ends_the_engine(
    open_world: Any, seen: Any, monkeypatch: pytest.MonkeyPatch, clock: trio.testing.MockClock
) -> None:
    async def fails(self: Cursor) -> None:
        raise RuntimeError("a fault that stays")

    monkeypatch.setattr(Cursor, "begin", fails)
    began = trio.current_time()
    with pytest.raises(ExceptionGroup) as caught:
        async with open_world(described(seen), intensity=10) as world:
            await trio.sleep(600)
    assert caught.group_contains(RestartIntensityError)
    assert len(world.crashes) == 11
    # Not at once either: what is wrong for some seconds is got over.
    assert 10 < trio.current_time() - began < 60


async def test_whatever_is_no_exception_passes_through(open_world: Any, scripted: Any) -> None:
    class Interrupted(BaseException):
        pass

    async def publish_once() -> None:
        async with open_world(described(scripted(Interrupted()))) as world:
            await world.publish("orders.a")
            await trio.sleep(10)

    with pytest.raises(BaseExceptionGroup) as caught:
        await publish_once()
    assert caught.group_contains(Interrupted)
    async with open_world() as world:
        assert world.kinds("mailer")["delivery.failed"] == 0


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_every_event_is_handled_in_order_and_none_behind_the_cursor(
    open_world: Any, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    path, wanted, handled = tmp_path / "0.db", [], list[int]()

    @subscriber("orders.#", name="mailer", retry=Retry(2, initial=0.001), start="beginning")
    async def handle(event: Event[int]) -> None:
        if chance.random() < 0.3:
            await trio.sleep(chance.choice([0, 0.001]))
        if chance.random() < 0.1:
            raise OSError
        handled.append(event.seq)

    for life in range(4):
        begins_at = len(handled)
        async with open_world(handle, path=path, capacity=chance.choice([1, 3, 50]), drain_within=0.01) as world:
            cursor = world.cursor("mailer")
            for n in range(40):
                record = world.append_event(chance.choice(["orders.a", "orders.b", "other"]), n)
                if record.name != "other":
                    wanted.append(record.seq)
                if chance.random() < 0.3:
                    await world.settle()
            await world.settle()
            if life == 3:
                last = wanted[-1]
                await world.until(lambda: max([0, *handled, *world.dead("mailer")]) >= last)  # noqa: B023
            wanted = [seq for seq in wanted if seq <= world.journal.durable_seq]
            path = world.copy_to(tmp_path / f"{life + 1}.db")
        this_life = handled[begins_at:]
        assert this_life == sorted(set(this_life)), "in order, each once in one life"
        assert all(seq > cursor for seq in this_life), "none that the cursor had passed"
    async with open_world(path=path) as world:
        assert set(wanted) == set(wanted) & (set(handled) | world.dead("mailer"))


# ------------------------------------------------------------------------------------------------ closing


async def test_closing_begins_no_delivery_and_lets_the_one_in_hand_end(open_world: Any, scripted: Any) -> None:
    go_on = trio.Event()
    before, after = scripted(go_on.wait), scripted()
    async with open_world(described(before)) as world:
        seqs = [await world.publish("orders.a", n) for n in range(3)]
        await before.times(1)
        world.subscriptions.closing()
        go_on.set()
        seqs.append(await world.publish("orders.a", 3))
        await trio.testing.wait_all_tasks_blocked()
        assert before.seqs == seqs[:1]
        (child,) = world.supervisor.which_children()
        assert (child.state, child.restarts) == ("running", 0), "it waits to be stopped"
    async with open_world(described(after)) as world:
        assert world.cursor("mailer") == seqs[1] - 1
        await after.times(3)
    assert after.seqs == seqs[1:]


async def test_a_handler_that_outlasts_its_allowance_is_cancelled_and_its_event_comes_again(
    open_world: Any, scripted: Any, clock: trio.testing.MockClock
) -> None:
    before, after = scripted(None, trio.sleep_forever), scripted()
    async with open_world(described(before), drain_within=3.0) as world:
        seqs = [await world.publish("orders.a", n) for n in range(2)]
        await before.times(2)
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(3.0, abs=0.5)
    async with open_world(described(after)):
        await after.times(1)
    assert after.seqs == seqs[1:]


async def test_closing_does_not_wait_for_another_attempt(
    open_world: Any, scripted: Any, clock: trio.testing.MockClock
) -> None:
    seen = scripted(OSError())
    async with open_world(described(seen, retry=Retry(2, initial=1000, maximum=1000)), drain_within=500) as world:
        await world.publish("orders.a")
        await seen.times(1)
        await world.settle()
        began = trio.current_time()
    assert trio.current_time() - began < 1


async def test_a_subscriber_that_is_stopped_alone_ends_at_once_and_records_how_far_it_got(
    open_world: Any, seen: Any, clock: trio.testing.MockClock
) -> None:
    async with open_world(described(seen), drain_within=1000) as world:
        await world.publish("orders.a")
        last = await world.publish("other")
        await seen.times(1)
        supervisor: SupervisorRef = world.supervisor
        began = trio.current_time()
        await supervisor.terminate_child("mailer")
        assert trio.current_time() - began < 1
        await world.settle()
        assert world.cursor("mailer") >= last
        await world.publish("orders.b")
        assert world.routed == ["orders.a"], "nobody is left to offer it to"


async def test_closing_before_anything_ran_or_twice_is_no_error(open_world: Any, seen: Any) -> None:
    async with open_world(described(seen)) as world:
        world.subscriptions.closing()
        await world.publish("orders.a")
        world.subscriptions.closing()
    assert seen.events == []
