"""The actor of one subscriber: it takes its channel's events one by one, and moves the cursor behind them.

A run begins at the durable cursor, with a channel of its own: the first, one after a crash, and one in another process
are the same thing. The next event is taken when the one in hand is settled, so that a handler that fails, and waits to
try again, has its channel wait. What piles up meanwhile is read from the journal later.

A run ends when the actor is asked to stop, or the engine closes: nothing more is taken then, a wait for another attempt
ends at once, the handler in hand has its allowance, and the last thing written is how far it got. An actor that returns
is restarted, so that one that ends before its supervisor asks for it waits for that.

*Passing over.* Where few of many events match, the cursor moves also over those that do not, lest the next process read
them all again; but no more often than every second, and ever more rarely (up to a minute) while nothing that matches
comes. Records that are no events, the subscribers' own among them, are no reason to move it: an engine at rest writes
nothing.

*System topics.* Records of the engine's doings are events only to those who ask for them, and nobody routes them. A
subscriber with such a pattern has its channel read all of its events from the journal, after each commit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import attrs
import outcome
import trio

from engine.actors import Mailbox
from engine.journal import SUBSCRIBER_STREAMS, Store
from engine.subscribers.arrivals import Arrival, JournalEvents
from engine.subscribers.cursor import Cursor
from engine.subscribers.definition import Subscriber
from engine.subscribers.delivery import Attempts, DeliveryRecords, Settled, attempt, attempts_so_far
from engine.topics import Channel, ChannelStatistics, Router

logger = logging.getLogger("playbill.subscribers")

PASS_OVER_FIRST = 1.0
PASS_OVER_LONGEST = 60.0
"""Seconds between two records that only pass over events; doubled from the first to the longest."""


@attrs.frozen(kw_only=True)
class SubscriberStatistics:
    """How a subscriber stands in this process.

    Attributes:
        name: its name.
        cursor: the `seq` up to which everything is settled, as it was recorded last; perhaps not durable yet.
        late: how many settled events have no durable record yet.
        in_hand: the `seq` of the event that is being handled, or waits for its next attempt.
        attempt: the number of its attempt, 0 where none is in hand.
        handled: for how many events the handler returned.
        failed: how many attempts failed.
        dead: how many events became dead letters.
        channel: how its channel stands; `None` before it runs.
    """

    name: str
    cursor: int
    late: int
    in_hand: int | None
    attempt: int
    handled: int
    failed: int
    dead: int
    channel: ChannelStatistics | None


class Subscription:
    """One subscriber, as it is attached to an engine: what of it outlives a run of its actor.

    Attributes:
        subscriber: its definition.
        stream: its stream, and its actor's path.
    """

    def __init__(
        self,
        subscriber: Subscriber[Any],
        journal: Store,
        router: Router[Channel[Arrival]],
        *,
        stamp: Callable[[], str],
        capacity: int,
        attached: int,
    ) -> None:
        """
        Args:
            subscriber: the definition.
            journal: where it reads and records.
            router: which offers events to its channel.
            stamp: gives the present instant, as `at` holds it.
            capacity: how many events its channel holds in memory.
            attached: the `seq` of the record by which it was attached; 0 if that was in another process.
        """
        self.subscriber = subscriber
        self.stream = SUBSCRIBER_STREAMS + subscriber.name
        self._journal = journal
        self._router = router
        self._stamp = stamp
        self._capacity = capacity
        self._attached = attached
        self._cursor = Cursor(journal, self.stream, subscriber.name, settled=self._settled)
        self._records = DeliveryRecords(journal, self.stream, subscriber.name)
        self._is_of_the_system = subscriber.is_of_the_system
        self._source = JournalEvents(journal, system=self._is_of_the_system, but_of=self.stream)
        self._channel: Channel[Arrival] | None = None
        self._closed = trio.Event()
        self._closes_for_good = False
        self._attempts: dict[int, Attempts] = {}
        self._in_hand: int | None = None
        self._attempt = 0
        self._handled = self._failed = self._dead = 0
        # No event was published above it; between the cursor and it there may be some.
        self._published = 0
        self._pause = PASS_OVER_FIRST
        self._moved_at = -math.inf
        self._receiving: trio.CancelScope | None = None

    # ------------------------------------------------------------------------------------------------ from outside

    def advance(self, seq: int, published: int) -> None:
        """Hear that the journal is durable up to a `seq`, and that no event stands above another. Never waits."""
        self._published = published
        if self._channel is not None:
            if self._is_of_the_system:
                self._channel.fall_behind(seq)
            else:
                self._channel.advance(seq)
        if published > self._cursor.recorded and self._receiving is not None:
            self._receiving.deadline = min(self._receiving.deadline, self._moved_at + self._pause)

    def close(self) -> None:
        """Begin no new delivery, now or after a restart. Never waits; the actor goes on to wait for its end."""
        self._closes_for_good = True
        self._end_run()

    def statistics(self) -> SubscriberStatistics:
        """How it stands at this moment."""
        return SubscriberStatistics(
            name=self.subscriber.name,
            cursor=self._cursor.recorded,
            late=self._cursor.late,
            in_hand=self._in_hand,
            attempt=self._attempt,
            handled=self._handled,
            failed=self._failed,
            dead=self._dead,
            channel=None if self._channel is None else self._channel.statistics(),
        )

    # ------------------------------------------------------------------------------------------------ a run

    async def run(self, mailbox: Mailbox[Any]) -> None:
        """The actor."""
        self._closed = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_asked, mailbox)
            # As a value, so that what leaves it is not put into the nursery's group.
            ended = await outcome.acapture(self._run)
            nursery.cancel_scope.cancel()
        ended.unwrap()
        # Returning before it is asked to, it would be restarted.
        await mailbox.stopping.wait()

    async def _run(self) -> None:
        if self._closes_for_good:
            return
        channel = await self._begin()
        try:
            while await self._handle_next(channel):
                await self._cursor.room()
        finally:
            channel.close()
            self._router.detach(channel)
            # Also where the handler was cancelled: what returned before it is settled.
            if self._is_behind():
                self._cursor.write()

    async def _begin(self) -> Channel[Arrival]:
        """Go on from the durable cursor."""
        await self._journal.durable(self._attached)
        await self._cursor.begin()
        self._in_hand, self._attempt = None, 0
        self._moved()
        cursor = self._cursor.recorded
        self._attempts = attempts_so_far(self._journal.stream_after(self.stream, cursor))
        patterns = self.subscriber.topic_patterns
        channel = self._channel = Channel(patterns, self._source, after=cursor, capacity=self._capacity)
        if not self._is_of_the_system:
            self._router.attach(patterns, channel)
        if self._closed.is_set():
            channel.close()
        return channel

    async def _end_when_asked(self, mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        self._end_run()

    def _end_run(self) -> None:
        self._closed.set()
        if self._channel is not None:
            self._channel.close()

    async def _handle_next(self, channel: Channel[Arrival]) -> bool:
        """Take an event and settle it. False if the run is to end."""
        try:
            arrival = await self._next(channel)
        except trio.EndOfChannel:
            return False
        if arrival is None:
            self._pass_over()
            return True
        self._in_hand = arrival.seq
        settled = await self._deliver(arrival)
        if settled is None:
            return False
        self._in_hand, self._attempt = None, 0
        if settled is Settled.HANDLED:
            self._handled += 1
            self._moved()
            self._cursor.settle()
        return True

    async def _next(self, channel: Channel[Arrival]) -> Arrival | None:
        """The next event; `None` when it is time to pass over those that do not match."""
        due = self._moved_at + self._pause if self._is_behind() else math.inf
        with trio.CancelScope(deadline=due) as self._receiving:
            try:
                return await channel.receive()
            finally:
                self._receiving = None
        return None

    # ------------------------------------------------------------------------------------------------ the cursor

    def _settled(self) -> int:
        """The `seq` up to which every event is settled."""
        assert self._channel is not None
        passed = self._channel.passed
        return passed if self._in_hand is None else min(passed, self._in_hand - 1)

    def _is_behind(self) -> bool:
        """Whether there may be events above the cursor."""
        return max(self._published, self._source.last_read) > self._cursor.recorded

    def _pass_over(self) -> None:
        self._cursor.pass_over()
        self._moved_at = trio.current_time()
        self._pause = min(2 * self._pause, PASS_OVER_LONGEST)

    def _moved(self) -> None:
        """The cursor is where it should be, without passing over anything."""
        self._moved_at = trio.current_time()
        self._pause = PASS_OVER_FIRST

    # ------------------------------------------------------------------------------------------------ one event

    async def _deliver(self, arrival: Arrival) -> Settled | None:
        """Attempt an event until it is settled; `None` if the run ends before."""
        before = self._attempts.pop(arrival.seq, None)
        self._attempt = 0
        if before is not None:
            self._attempt = before.count
            if not await self._wait(before.rest(self._stamp())):
                return None
        while True:
            self._attempt += 1
            result = await attempt(self.subscriber, arrival.record, self.stream)
            if isinstance(result, Settled):
                return result
            delay = await self._fail(arrival, result)
            if delay is None:
                return Settled.DEAD
            if not await self._wait(delay):
                return None

    async def _fail(self, arrival: Arrival, error: Exception) -> float | None:
        """Record a failed attempt; returns the seconds until the next, `None` if the event is a dead letter now."""
        self._failed += 1
        number = self._attempt
        delay = self.subscriber.retry.delay_after(number, error)
        seq = self._records.failed(arrival.record, number, error, at=self._stamp(), delay=delay)
        if delay is None:
            # Without a checkpoint in between, so that all of it is in one commit.
            logger.warning("%s gave event %d up after %d attempts: %r", self.stream, arrival.seq, number, error)
            self._dead += 1
            self._records.dead(arrival.record, number)
            self._in_hand = None
            self._moved()
            self._cursor.write()
        await self._journal.durable(seq)
        return delay

    async def _wait(self, seconds: float) -> bool:
        """Wait for the next attempt. False if the run ends before."""
        with trio.move_on_after(seconds):
            await self._closed.wait()
        return not self._closed.is_set()
