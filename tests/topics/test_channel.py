"""The channel: each case by name, then any interleaving of publishing, routing, reading, receiving and cancelling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import TopicError
from engine.topics import Channel, ChannelStatistics, TopicPattern

ORDERS = TopicPattern("orders.#")


@attrs.frozen
class Fact:
    seq: int
    topic: str


class Shelf:
    """A source backed by a list, which can be stopped before it looks and before it answers.

    Attributes:
        facts: everything durable; the seq is the position, from 1.
        reads: the `after` of each read.
        held: how many events the read under way has in its hands.
        span: how many facts one read looks through at most.
    """

    def __init__(self, topics: Sequence[str] = (), *, span: int = 1_000_000) -> None:
        self.facts: list[Fact] = []
        self.reads: list[int] = []
        self.held = 0
        self.span = span
        self.closed_gates = False
        self.gates = trio.lowlevel.ParkingLot()
        for topic in topics:
            self.append(topic)

    def append(self, topic: str = "orders.eu") -> Fact:
        self.facts.append(Fact(len(self.facts) + 1, topic))
        return self.facts[-1]

    def open_gates(self) -> None:
        self.closed_gates = False
        self.gates.unpark_all()

    async def gate(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed_gates:
            await self.gates.park()

    async def read(self, after: int, limit: int) -> tuple[Sequence[Fact], int]:
        self.reads.append(after)
        await self.gate()
        found = self.facts[after : after + min(limit, self.span)]
        read_to = found[-1].seq if found else len(self.facts)
        self.held = len(found)
        try:
            await self.gate()
        finally:
            self.held = 0
        return found, read_to


def channel_on(
    shelf: Shelf, *, after: int = 0, capacity: int = 8, where: Callable[[Fact], bool] | None = None
) -> Channel[Fact]:
    return Channel([ORDERS], shelf, after=after, capacity=capacity, where=where)


async def receive(channel: Channel[Fact], count: int) -> list[int]:
    """The seqs of the next events; a channel that has none to give fails the test instead of hanging it."""
    with trio.fail_after(5):
        return [(await channel.receive()).seq for _ in range(count)]


async def drain(channel: Channel[Fact]) -> list[int]:
    """The seqs of the events there are, up to where the channel waits for more."""
    seqs: list[int] = []

    async def receive_on() -> None:
        while True:
            seqs.append((await channel.receive()).seq)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_on)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return seqs


async def live_channel(shelf: Shelf, *, capacity: int = 8) -> Channel[Fact]:
    """A channel that has read its source to the end, and gets its events from offers now."""
    channel = channel_on(shelf, after=len(shelf.facts), capacity=capacity)
    assert await drain(channel) == []
    shelf.reads.clear()
    return channel


# ------------------------------------------------------------------------------------------------ the two sides


async def test_events_from_before_are_read_from_the_source_and_later_ones_are_not() -> None:
    shelf = Shelf(["orders.eu"] * 3)
    channel = channel_on(shelf)
    assert await receive(channel, 3) == [1, 2, 3]
    assert await drain(channel) == []
    assert not channel.statistics().behind
    shelf.reads.clear()
    for _ in range(3):
        channel.offer(shelf.append())
    assert await receive(channel, 3) == [4, 5, 6]
    assert shelf.reads == []


async def test_only_events_after_the_given_seq_are_received() -> None:
    channel = channel_on(Shelf(["orders.eu"] * 5), after=3)
    assert await receive(channel, 2) == [4, 5]


async def test_what_the_source_holds_is_filtered_by_the_patterns() -> None:
    shelf = Shelf(["orders.eu", "invoices.eu", "playbill.activities.failed", "orders"])
    assert await receive(channel_on(shelf), 2) == [1, 4]
    everything = Channel(["#", "orders.*"], shelf, after=0)
    assert await receive(everything, 3) == [1, 2, 4]


async def test_an_offer_of_what_was_read_already_is_ignored() -> None:
    shelf = Shelf(["orders.eu"] * 3)
    channel = channel_on(shelf)
    assert await receive(channel, 1) == [1]
    for fact in shelf.facts:
        channel.offer(fact)
    channel.offer(shelf.append())
    assert await receive(channel, 3) == [2, 3, 4]


async def test_a_seq_beyond_the_end_of_the_source_is_waited_for() -> None:
    shelf = Shelf(["orders.eu"] * 2)
    channel = channel_on(shelf, after=4)
    assert await drain(channel) == []
    for _ in range(3):
        channel.offer(shelf.append())
    assert await receive(channel, 1) == [5]


# ------------------------------------------------------------------------------------------------ offers and reads


@pytest.mark.parametrize("seen", [True, False], ids=["seen by the read", "not seen by the read"])
@pytest.mark.parametrize("told", [True, False], ids=["behind", "starting"])
@pytest.mark.parametrize("before", [1, 3])
async def test_an_event_offered_while_a_read_is_under_way_comes_once(seen: bool, told: bool, before: int) -> None:
    shelf = Shelf(["orders.eu"] * before)
    channel = channel_on(shelf)
    if told:
        channel.offer(shelf.facts[-1])
    shelf.closed_gates = True
    seqs: list[int] = []

    async def receive_all() -> None:
        seqs.extend(await receive(channel, before + 2))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_all)
        await trio.testing.wait_all_tasks_blocked()
        if not seen:
            shelf.gates.unpark()
            await trio.testing.wait_all_tasks_blocked()
        channel.offer(shelf.append())
        channel.offer(shelf.append())
        shelf.open_gates()
    assert seqs == list(range(1, before + 3))
    assert await drain(channel) == []
    assert not channel.statistics().behind


async def test_a_read_that_gets_further_than_the_offers_made_meanwhile_is_caught_up() -> None:
    shelf = Shelf(["orders.eu"] * 4)
    channel = channel_on(shelf, capacity=20)
    shelf.closed_gates = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, channel, 1)
        await trio.testing.wait_all_tasks_blocked()
        shelf.append("invoices.eu")
        for fact in shelf.facts[2:4]:
            channel.offer(fact)
        shelf.open_gates()
    assert channel.passed == 1
    assert not channel.statistics().behind
    assert await receive(channel, 3) == [2, 3, 4]
    channel.offer(shelf.append())
    assert await receive(channel, 1) == [6]


@pytest.mark.parametrize("capacity", [1, 2, 3, 8])
async def test_more_offers_than_there_is_room_for_during_a_read_are_read_later(capacity: int) -> None:
    shelf = Shelf()
    channel = channel_on(shelf, capacity=capacity)
    shelf.closed_gates = True
    seqs: list[int] = []

    async def receive_all() -> None:
        seqs.extend(await receive(channel, 20))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_all)
        await trio.testing.wait_all_tasks_blocked()
        shelf.gates.unpark()
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(20):
            channel.offer(shelf.append())
        assert channel.statistics().depth == capacity // 2
        shelf.open_gates()
    assert seqs == list(range(1, 21))


async def test_a_channel_goes_live_though_events_arrive_during_every_read() -> None:
    shelf = Shelf(["orders.eu"] * 2)

    class Busy:
        async def read(self, after: int, limit: int) -> tuple[Sequence[Fact], int]:
            answer = await shelf.read(after, limit)
            channel.offer(shelf.append())
            return answer

    channel = Channel([ORDERS], Busy(), after=0, capacity=100)
    assert await receive(channel, 3) == [1, 2, 3]
    assert not channel.statistics().behind
    assert len(shelf.reads) <= 3


# ------------------------------------------------------------------------------------------------ the bound on memory


async def test_a_slow_subscriber_holds_no_more_than_its_capacity_and_misses_nothing() -> None:
    shelf = Shelf()
    channel = await live_channel(shelf, capacity=4)
    for _ in range(100):
        channel.offer(shelf.append())
        assert channel.statistics().depth <= 4
    assert channel.statistics() == ChannelStatistics(depth=4, capacity=4, behind=True, passed=0)
    assert await receive(channel, 100) == list(range(1, 101))
    assert shelf.reads == list(range(4, 100, 2))
    assert not channel.statistics().behind


async def test_an_offer_that_fits_after_one_that_did_not_still_comes_after_it() -> None:
    shelf = Shelf()
    channel = await live_channel(shelf, capacity=2)
    for _ in range(3):
        channel.offer(shelf.append())
    assert await receive(channel, 1) == [1]
    channel.offer(shelf.append())
    assert await receive(channel, 3) == [2, 3, 4]


# ------------------------------------------------------------------------------------------------ what was passed


async def test_passed_follows_what_is_handed_out() -> None:
    shelf = Shelf()
    channel = await live_channel(shelf)
    for topic in ["orders.eu", "invoices", "orders.us", "invoices"]:
        fact = shelf.append(topic)
        if ORDERS.matches(topic):
            channel.offer(fact)
    assert channel.passed == 0
    await channel.receive()
    assert channel.passed == 2
    await channel.receive()
    assert channel.passed == 3
    channel.advance(4)
    assert channel.passed == 4


async def test_passed_moves_over_what_the_source_holds_for_others() -> None:
    channel = channel_on(Shelf(["invoices"] * 50), capacity=4)
    assert await drain(channel) == []
    assert channel.passed == 50


async def test_advance_does_not_move_past_an_event_that_waits() -> None:
    shelf = Shelf()
    channel = await live_channel(shelf)
    channel.offer(shelf.append())
    channel.advance(7)
    assert channel.passed == 0
    await channel.receive()
    assert channel.passed == 7


async def test_advance_does_not_move_a_channel_that_is_behind() -> None:
    shelf = Shelf()
    channel = await live_channel(shelf, capacity=1)
    for _ in range(3):
        channel.offer(shelf.append())
    channel.advance(3)
    assert channel.passed == 0
    assert await receive(channel, 3) == [1, 2, 3]
    starting = channel_on(shelf)
    starting.advance(3)
    assert starting.passed == 0


async def test_advance_never_goes_back() -> None:
    channel = await live_channel(Shelf(["invoices"] * 5))
    channel.advance(3)
    assert channel.passed == 5


# ------------------------------------------------------------------------------------------------ cancelling


async def test_cancelled_while_waiting_nothing_is_lost() -> None:
    shelf = Shelf()
    channel = await live_channel(shelf)
    assert await drain(channel) == []
    channel.offer(shelf.append())
    assert await receive(channel, 1) == [1]


@pytest.mark.parametrize("offered_first", [True, False])
async def test_an_offer_and_a_cancellation_at_the_same_moment_lose_nothing(offered_first: bool) -> None:
    shelf = Shelf()
    channel = await live_channel(shelf)
    seqs: list[int] = []
    scope = trio.CancelScope()

    async def receive_one() -> None:
        with scope:
            seqs.append((await channel.receive()).seq)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_one)
        await trio.testing.wait_all_tasks_blocked()
        if offered_first:
            channel.offer(shelf.append())
        scope.cancel()
        if not offered_first:
            channel.offer(shelf.append())
    channel.offer(shelf.append())
    assert seqs + await receive(channel, 2 - len(seqs)) == [1, 2]


async def test_cancelled_while_reading_nothing_is_lost() -> None:
    shelf = Shelf(["orders.eu"] * 3)
    channel = channel_on(shelf)
    shelf.closed_gates = True
    scope = trio.CancelScope()

    async def receive_one() -> None:
        with scope:
            await channel.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_one)
        await trio.testing.wait_all_tasks_blocked()
        shelf.gates.unpark()
        await trio.testing.wait_all_tasks_blocked()
        channel.offer(shelf.append())
        scope.cancel()
    shelf.open_gates()
    assert channel.statistics().depth == 0
    assert await receive(channel, 4) == [1, 2, 3, 4]


async def test_what_the_source_raises_comes_out_and_nothing_is_lost() -> None:
    shelf = Shelf(["orders.eu"] * 2)
    failures = [OSError("the disk")]

    class Failing:
        async def read(self, after: int, limit: int) -> tuple[Sequence[Fact], int]:
            if failures:
                raise failures.pop()
            return await shelf.read(after, limit)

    channel = Channel([ORDERS], Failing(), after=0)
    with pytest.raises(OSError, match="the disk"):
        await channel.receive()
    assert await receive(channel, 2) == [1, 2]


async def test_receiving_is_a_checkpoint_whether_or_not_an_event_is_there() -> None:
    shelf = Shelf()
    channel = await live_channel(shelf)
    channel.offer(shelf.append())
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.receive()
    assert scope.cancelled_caught
    assert await receive(channel, 1) == [1]


async def test_a_subscriber_with_much_to_take_lets_others_run() -> None:
    shelf = Shelf()
    channel = await live_channel(shelf, capacity=10_000)
    for _ in range(1_000):
        channel.offer(shelf.append())
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        assert len(await receive(channel, 1_000)) == 1_000
        nursery.cancel_scope.cancel()
    assert turns >= 4  # once for each 128 events, less what starting and Trio's shuffled order take


# ------------------------------------------------------------------------------------------------ closing


async def test_closing_ends_a_receive_that_waits() -> None:
    channel = await live_channel(Shelf())
    async with trio.open_nursery() as nursery:

        async def wait_for_the_end() -> None:
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()

        nursery.start_soon(wait_for_the_end)
        await trio.testing.wait_all_tasks_blocked()
        channel.close()


async def test_closing_ends_a_receive_that_reads_without_waiting_for_the_source() -> None:
    shelf = Shelf(["orders.eu"])
    channel = channel_on(shelf)
    shelf.closed_gates = True
    async with trio.open_nursery() as nursery:

        async def wait_for_the_end() -> None:
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()

        nursery.start_soon(wait_for_the_end)
        await trio.testing.wait_all_tasks_blocked()
        channel.close()
    assert len(shelf.gates) == 0
    assert channel.passed == 0


async def test_what_was_not_handed_out_before_closing_is_left_to_the_next_channel() -> None:
    shelf = Shelf()
    channel = await live_channel(shelf)
    for _ in range(3):
        channel.offer(shelf.append())
    assert await receive(channel, 1) == [1]
    channel.close()
    channel.close()
    channel.offer(shelf.append())
    channel.advance(4)
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()
    assert channel.statistics() == ChannelStatistics(depth=0, capacity=8, behind=False, passed=1)
    assert await receive(channel_on(shelf, after=channel.passed), 3) == [2, 3, 4]


# ------------------------------------------------------------------------------------------------ predicates, mistakes


async def test_events_that_the_predicate_refuses_are_passed_over_from_both_sides() -> None:
    shelf = Shelf(["orders.eu"] * 4)
    channel = channel_on(shelf, where=lambda fact: fact.seq % 2 == 0)
    assert await receive(channel, 2) == [2, 4]
    assert await drain(channel) == []
    for _ in range(3):
        channel.offer(shelf.append())
    assert await receive(channel, 1) == [6]
    assert await drain(channel) == []
    assert channel.passed == 7


async def test_the_predicate_is_never_run_by_whoever_offers() -> None:
    def explode(fact: Fact) -> bool:
        raise ZeroDivisionError(f"event {fact.seq}")

    shelf = Shelf()
    channel = channel_on(shelf, where=explode)
    assert await drain(channel) == []
    channel.offer(shelf.append())
    assert channel.statistics().depth == 1


async def test_an_event_whose_predicate_fails_stays_the_next_one() -> None:
    failures = [ZeroDivisionError()]

    def fail_once(fact: Fact) -> bool:
        if failures:
            raise failures.pop()
        return True

    channel = channel_on(Shelf(["orders.eu"] * 2), where=fail_once)
    with pytest.raises(ZeroDivisionError):
        await channel.receive()
    assert channel.passed == 0
    assert await receive(channel, 2) == [1, 2]


async def test_two_tasks_cannot_receive_at_once() -> None:
    shelf = Shelf()
    channel = await live_channel(shelf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, channel, 1)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await channel.receive()
        channel.offer(shelf.append())


async def test_a_source_that_does_not_show_what_was_offered_is_an_error_and_no_endless_loop() -> None:
    channel = channel_on(Shelf())
    channel.offer(Fact(3, "orders.eu"))
    with pytest.raises(RuntimeError, match="seq 3 was offered"):
        await receive(channel, 1)


@pytest.mark.parametrize(
    ("patterns", "after", "capacity", "error"),
    [
        (["orders.*x"], 0, 8, TopicError),
        ([], 0, 8, ValueError),
        ("orders", 0, 8, TypeError),
        (["orders"], -1, 8, ValueError),
        (["orders"], 0, 0, ValueError),
    ],
)
def test_wrong_options_are_refused_where_the_channel_is_made(
    patterns: list[str], after: int, capacity: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Channel(patterns, Shelf(), after=after, capacity=capacity)


# ------------------------------------------------------------------------------------------------ any interleaving


def wanted(fact: Fact) -> bool:
    return fact.topic != "orders.no"


class Play:
    """A channel, its source and its router, moved one step at a time, and what must hold between any two steps.

    Publishing makes an event durable; routing offers it, later and in order; a read looks at the source and answers,
    each when it is let through; one task receives, and may be cancelled. Tasks run in `settle` only, so that steps
    without it in between happen at one moment.
    """

    def __init__(self, nursery: trio.Nursery, *, early: int, routed: int, after: int, capacity: int, span: int) -> None:
        self.nursery = nursery
        self.shelf = Shelf(["orders.eu", "invoices.eu", "orders.us"] * early, span=span)
        self.shelf.closed_gates = True
        self.routed = min(routed, len(self.shelf.facts))
        self.after = after
        self.capacity = capacity
        self.channel = channel_on(self.shelf, after=after, capacity=capacity, where=wanted)
        self.passed = after
        self.received: list[int] = []
        self.scope: trio.CancelScope | None = None

    def expected(self, to: int) -> list[int]:
        return [fact.seq for fact in self.shelf.facts[self.after : to] if fact.topic in ("orders.eu", "orders.us")]

    def publish(self) -> None:
        self.shelf.append("orders.eu")

    def publish_for_others(self) -> None:
        self.shelf.append("invoices.eu")

    def publish_what_the_predicate_refuses(self) -> None:
        self.shelf.append("orders.no")

    def route(self) -> None:
        if self.routed < len(self.shelf.facts):
            fact = self.shelf.facts[self.routed]
            self.routed += 1
            if ORDERS.matches(fact.topic):
                self.channel.offer(fact)

    def publish_and_route_many(self) -> None:
        for _ in range(5):
            self.publish_and_route()

    def advance(self) -> None:
        self.channel.advance(self.routed)

    def let_read(self) -> None:
        self.shelf.gates.unpark()

    def publish_and_route(self) -> None:
        self.publish()
        while self.routed < len(self.shelf.facts):
            self.route()

    def receive(self) -> None:
        if self.scope is None:
            self.scope = trio.CancelScope()
            self.nursery.start_soon(self.receive_one, self.scope)

    async def receive_one(self, scope: trio.CancelScope) -> None:
        with scope:
            self.received.append((await self.channel.receive()).seq)
        self.scope = None

    def cancel(self) -> None:
        if self.scope is not None:
            self.scope.cancel()

    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()
        if self.scope is not None and not len(self.shelf.gates):
            assert self.channel.statistics().depth == 0, "an event lies there, and whoever waits was not woken"

    def check(self) -> None:
        statistics = self.channel.statistics()
        assert statistics.depth + self.shelf.held <= self.capacity
        assert statistics.passed >= self.passed
        self.passed = statistics.passed
        assert self.received == self.expected(len(self.shelf.facts))[: len(self.received)]
        assert len(self.expected(self.passed)) <= len(self.received)

    async def catch_up(self) -> None:
        self.shelf.open_gates()
        self.received += await drain(self.channel)
        self.shelf.closed_gates = True

    async def finish(self) -> None:
        """Lets everything through, and receives what there is."""
        self.cancel()
        self.shelf.open_gates()
        await self.settle()
        while self.routed < len(self.shelf.facts):
            self.route()
            self.check()
        missing = len(self.expected(len(self.shelf.facts))) - len(self.received)
        self.received += await receive(self.channel, missing)
        await self.catch_up()
        self.check()
        self.advance()
        assert self.channel.passed == max(self.after, self.routed)
        assert not self.channel.statistics().behind


STEPS = [
    Play.publish,
    Play.publish_for_others,
    Play.publish_what_the_predicate_refuses,
    Play.route,
    Play.publish_and_route,
    Play.publish_and_route_many,
    Play.advance,
    Play.let_read,
    Play.let_read,
    Play.let_read,
    Play.receive,
    Play.receive,
    Play.receive,
    Play.cancel,
]


@settings(max_examples=300)
@given(
    early=st.integers(0, 3),
    routed=st.integers(0, 9),
    after=st.integers(0, 12),
    capacity=st.integers(1, 6),
    span=st.sampled_from([1, 2, 1000]),
    live=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.booleans()), min_size=40, max_size=100),
)
def test_in_any_interleaving_each_matching_event_comes_once_and_in_order(
    early: int,
    routed: int,
    after: int,
    capacity: int,
    span: int,
    live: bool,
    steps: list[tuple[Callable[[Play], None], bool]],
) -> None:
    async def play_it() -> None:
        async with trio.open_nursery() as nursery:
            play = Play(nursery, early=early, routed=routed, after=after, capacity=capacity, span=span)
            if live:
                await play.catch_up()
            for step, settles in steps:
                step(play)
                if settles:
                    await play.settle()
                play.check()
            await play.finish()

    trio.run(play_it, clock=trio.testing.MockClock(autojump_threshold=0))


# ------------------------------------------------------------------------------------------------ nothing is offered


async def test_a_channel_that_is_told_that_it_is_behind_reads_on() -> None:
    shelf = Shelf()
    channel = channel_on(shelf)
    async with trio.open_nursery() as nursery:
        received: list[int] = []

        async def take() -> None:
            received.extend(await receive(channel, 3))

        nursery.start_soon(take)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            channel.fall_behind(shelf.append().seq)
    assert received == [1, 2, 3]


async def test_a_channel_that_is_told_during_a_read_reads_again() -> None:
    shelf = Shelf(["orders.a"])
    channel = channel_on(shelf)
    shelf.closed_gates = True
    async with trio.open_nursery() as nursery:
        received: list[int] = []

        async def take() -> None:
            received.extend(await receive(channel, 2))

        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        channel.fall_behind(shelf.append().seq)
        shelf.open_gates()
    assert received == [1, 2]


async def test_being_told_of_what_was_reached_costs_no_read() -> None:
    shelf = Shelf(["orders.a"])
    channel = channel_on(shelf)
    assert await receive(channel, 1) == [1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.receive)
        await trio.testing.wait_all_tasks_blocked()
        channel.fall_behind(1)
        assert not channel.statistics().behind
        nursery.cancel_scope.cancel()


async def test_a_closed_channel_is_told_in_vain() -> None:
    shelf = Shelf(["orders.a"])
    channel = channel_on(shelf)
    channel.close()
    channel.fall_behind(1)
    with pytest.raises(trio.EndOfChannel):
        await channel.receive()
