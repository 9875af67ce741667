"""All subscribers of one engine: whom an event concerns, and who is told that the journal goes on.

Everything here happens in the loop, and nothing waits. Routing an event that nobody wants is one look-up in a cache,
and a commit costs each subscriber a few comparisons.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from engine.actors import Backoff, ChildSpec, Ref, RestartType
from engine.clock import stamp_of
from engine.errors import DefinitionError
from engine.journal import SUBSCRIBER_STREAMS, Store, StoredRecord
from engine.subscribers.arrivals import Arrival
from engine.subscribers.definition import BatchSubscriber, Subscriber
from engine.subscribers.subscription import SubscriberStatistics, Subscription
from engine.topics import Channel, Router

RESTARTS = Backoff(0.1, maximum=5.0)
"""An actor crashes only by a fault of ours or of the journal's, which a moment may mend; one that stays is for the
supervisor's intensity to find."""

_SCANNED_AT_ONCE = 1000


class Subscriptions:
    """The subscribers that are attached to an engine."""

    def __init__(
        self,
        journal: Store,
        *,
        stamp: Callable[[], str],
        spawn: Callable[[ChildSpec[Any]], Ref[Any]],
        capacity: int,
        drain_within: float,
    ) -> None:
        """
        Args:
            journal: where they read and record.
            stamp: gives the present instant, as `at` holds it.
            spawn: starts a child of the supervisor `/subscribers`, without waiting.
            capacity: how many events each holds in memory.
            drain_within: seconds that a handler in hand has to end when its actor is stopped.
        """
        self._journal = journal
        self._stamp = stamp
        self._spawn = spawn
        self._capacity = capacity
        self._drain_within = drain_within
        self._router: Router[Channel[Arrival]] = Router()
        self._attached: dict[str, Subscription] = {}
        self._published = False
        self._published_until = 0

    def attach(self, subscriber: Subscriber[Any] | BatchSubscriber[Any], /, *, by: str | None = None) -> None:
        """Attach a subscriber: record it where it is new, or its patterns are, and start its actor. Never waits.

        Args:
            subscriber: its definition.
            by: who asks.

        Raises:
            DefinitionError: another of its name is attached, or its handler's annotation cannot be used. Nothing was
                recorded.
        """
        if not isinstance(subscriber, Subscriber):
            raise DefinitionError(f"{subscriber!r}: batches are not there yet in this version of Playbill")
        name = subscriber.name
        if name in self._attached:
            other = self._attached[name].subscriber
            raise DefinitionError(f"two subscribers are named {name!r}: {other!r} and {subscriber!r}; rename one")
        _ = subscriber.codec  # so that a wrong annotation shows here, and not with the first event
        subscription = Subscription(
            subscriber,
            self._journal,
            self._router,
            stamp=self._stamp,
            capacity=self._capacity,
            attached=self._record(subscriber, by),
        )
        self._attached[name] = subscription
        self._spawn(
            ChildSpec(
                name,
                subscription.run,
                restart=RestartType.PERMANENT,
                shutdown=self._drain_within,
                backoff=RESTARTS,
            )
        )

    def _record(self, subscriber: Subscriber[Any], by: str | None) -> int:
        """Record that a subscriber is attached, unless that is known; returns the record's `seq`, or 0."""
        state = self._journal.subscription(subscriber.name)
        if state is not None and set(state.patterns) == set(subscriber.patterns):
            return 0
        after = self._first_after(subscriber) if state is None else state.cursor
        return self._journal.append(
            SUBSCRIBER_STREAMS + subscriber.name,
            "subscriber.attached",
            name=subscriber.name,
            by=by,
            facts={"patterns": subscriber.patterns, "after": after},
            begins="subscriber" if state is None else None,
        )

    def _first_after(self, subscriber: Subscriber[Any]) -> int:
        """The `seq` up to which a new subscriber passes over everything."""
        start = subscriber.start
        if isinstance(start, dt.datetime):
            return self._last_before(stamp_of(start), system=subscriber.is_of_the_system)
        if isinstance(start, int):
            return max(0, start - 1)
        return 0 if start == "beginning" else self._journal.durable_seq

    def _last_before(self, instant: str, *, system: bool) -> int:
        after = 0
        while True:
            records, read_to = self._journal.events(after, _SCANNED_AT_ONCE, system=system)
            for record in records:
                if record.at >= instant:
                    return record.seq - 1
            if read_to == after:
                return read_to
            after = read_to

    # ------------------------------------------------------------------------------------------ the journal goes on

    def publish(self, topic: str, record: Callable[[], StoredRecord]) -> None:
        """Offer an event to those who want it. To be called for each when it is durable, in the order of `seq`.

        Args:
            topic: its topic.
            record: gives its record; called only if somebody wants it.
        """
        self._published = True
        channels = self._router.route(topic)
        if channels:
            arrival = Arrival.of(record())
            for channel in channels:
                channel.offer(arrival)

    def advance(self, seq: int) -> None:
        """Hear that the journal is durable up to a `seq`. To be called after each commit, and after its events."""
        if self._published:
            self._published = False
            self._published_until = seq
        published = self._published_until
        for subscription in self._attached.values():
            subscription.advance(seq, published)

    def closing(self) -> None:
        """Begin no new delivery. The handlers in hand may end; then each actor records how far it got, and waits to be
        stopped."""
        for subscription in self._attached.values():
            subscription.close()

    def statistics(self) -> dict[str, SubscriberStatistics]:
        """How the subscribers stand, by name, in the order in which they were attached."""
        return {name: subscription.statistics() for name, subscription in self._attached.items()}
