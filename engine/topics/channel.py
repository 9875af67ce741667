"""The ordered, reliable path from topic patterns to one subscriber.

Events come from two sides. The router *offers* each one as soon as it is durable, and the channel keeps it in a buffer
of bounded size. The *source*, which the channel is given and knows nothing more about, can be read from any seq on and
holds every durable event. The subscriber *receives* from the channel and sees one sequence: each matching event once,
in the order of seq, without a gap, whichever side it came from.

The channel falls back to the source in two cases: at its start, since what happened before nobody offers any more, and
after its buffer was full when an event was offered. That event is let go, and so is each one after it, until the
subscriber has emptied the buffer and asks for more: then the channel reads on, half a buffer at a time. So a slow
subscriber holds up nobody, and holds no more events in memory than its capacity, those of a read under way included.

| state | what is known | an offer | receiving, the buffer empty | leads to |
|---|---|---|---|---|
| `STARTING` | not how far the source goes | is let go | reads | `BEHIND`: an offer; `LIVE`: a read at the end |
| `BEHIND` | it goes as far as the last offer | is let go | reads | `LIVE`: a read that got that far |
| `LIVE` | what matches is in the buffer, or was | is kept if there is room | waits | `BEHIND`: an offer without room |
| `CLOSED` | no more is wanted | is ignored | raises `trio.EndOfChannel` | |

*Why nothing is lost and nothing comes twice on the way to `LIVE`.* Let R be how far a read got. As offers follow
durability, an event above R was offered before that read began, or during it, or will be.

- *Before.* None was, if R is not below the last offer made by then. In `STARTING` there was none to compare with, and
  what was routed before the channel was attached nobody will offer. So this state ends only with a read that got
  nowhere, which shows the end of the source; or with an offer, since all that was routed earlier stands below it.
- *During.* What is offered while a read is under way is set aside, in the half of the memory that the read does not
  use, and follows the events read. What finds no room there leaves the channel `BEHIND`.
- *After.* It will be offered to a channel that is `LIVE`.

An event at R or below that is offered late is not above what was reached, and is ignored.

*A channel to which nothing is offered.* Whoever cannot route a channel's events tells it instead, by `fall_behind`, how
far there may be some. That is an offer which is always let go: the channel reads on.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from .pattern import TopicPattern, patterns_of

# How many events are looked at between two points where other tasks get their turn: well below a millisecond's worth.
_LOOKED_AT_WITHOUT_YIELDING = 128


class Published(Protocol):
    """What a channel needs to know of an event."""

    @property
    def seq(self) -> int: ...
    @property
    def topic(self) -> str: ...


E = TypeVar("E", bound=Published)
E_co = TypeVar("E_co", bound=Published, covariant=True)


class Source(Protocol[E_co]):
    """Where a channel reads the events that it let go: in the engine, the journal."""

    async def read(self, after: int, limit: int) -> tuple[Sequence[E_co], int]:
        """Reads on from a seq. What was durable when the call began is seen by it.

        Args:
            after: the seq of the last event that is not wanted.
            limit: how many events to give at most, at least 1.

        Returns:
            Durable events with `seq > after`, in the order of seq, of any topic or of the matching ones only; and the
            seq up to which the source was looked through, which is not below the last of these events, and is above
            `after` unless nothing durable is.
        """
        ...


class _State(enum.Enum):
    STARTING = "starting"
    BEHIND = "behind"
    LIVE = "live"
    CLOSED = "closed"


@attrs.frozen(kw_only=True)
class ChannelStatistics:
    """How a channel stands.

    Attributes:
        depth: how many events it holds in memory.
        capacity: how many it holds at most.
        behind: whether it has to read from its source before it is caught up.
        passed: the seq up to which everything was handed out or does not match.
    """

    depth: int
    capacity: int
    behind: bool
    passed: int


class Channel(Generic[E]):
    """One subscriber's events, in order and each once; the module's docstring tells how.

    Attach a channel to the router before the first `receive`: from then on every matching event is to be offered, in
    the order of seq. One that was detached is closed, and another made with its `passed` as `after`.

    Args:
        patterns: the topics that are wanted; texts or patterns.
        source: where to read what is not in memory.
        after: the seq from which on events are wanted, itself not included.
        capacity: how many events are held in memory at most.
        where: a predicate; an event of which it is false is passed over. It is called in `receive`, by the task that
            receives, so that it costs the publisher nothing. What it raises comes out of `receive`, and the event stays
            the next one.

    Raises:
        TopicError: one of the patterns is not one.
        ValueError: there are no patterns, `after` is below 0, or `capacity` below 1.
    """

    def __init__(
        self,
        patterns: Iterable[TopicPattern | str],
        source: Source[E],
        *,
        after: int,
        capacity: int = 1024,
        where: Callable[[E], bool] | None = None,
    ) -> None:
        if after < 0:
            raise ValueError(f"after is a seq, or 0 for the beginning, not {after!r}")
        if capacity < 1:
            raise ValueError(f"capacity is a number of events, at least 1, not {capacity!r}")
        self._patterns = patterns_of(patterns)
        self._source = source
        self._capacity = capacity
        self._where = where
        self._state = _State.STARTING
        # All that match up to `reached` are in the buffer or were; so the buffer holds nothing above it.
        self._reached = after
        self._buffer: deque[E] = deque()
        # The last offer that was let go. It stands above `reached` in BEHIND, and means nothing in the other states.
        self._offered = 0
        # What is set aside while a read is under way, without a gap from its first on.
        self._aside: list[E] = []
        self._reading: trio.CancelScope | None = None
        self._receiving = False
        self._waiting: trio.lowlevel.Task | None = None
        self._looked_at = 0

    @property
    def patterns(self) -> tuple[TopicPattern, ...]:
        """The topics that are wanted."""
        return self._patterns

    @property
    def passed(self) -> int:
        """The seq up to which every event was handed out by `receive`, or does not match. It never goes back."""
        return self._buffer[0].seq - 1 if self._buffer else self._reached

    def statistics(self) -> ChannelStatistics:
        """How the channel stands at this moment."""
        return ChannelStatistics(
            depth=len(self._buffer) + len(self._aside),
            capacity=self._capacity,
            behind=self._state in (_State.STARTING, _State.BEHIND),
            passed=self.passed,
        )

    def offer(self, event: E) -> None:
        """Tells of an event that is durable and matches the patterns. Never waits; keeps nothing beyond the capacity.

        To be called for each such event, in the order of seq, and not before the source shows it. One that was read
        from the source already is ignored; so is every one after `close`.
        """
        if event.seq <= self._reached or self._state is _State.CLOSED:
            return
        if self._state is _State.LIVE and len(self._buffer) < self._capacity:
            self._buffer.append(event)
            self._reached = event.seq
            self._wake()
            return
        self._state = _State.BEHIND
        self._offered = event.seq
        if self._reading is not None and len(self._aside) < self._capacity // 2:
            self._aside.append(event)

    def advance(self, seq: int) -> None:
        """Tells that every matching event up to a seq has been offered, so that `passed` of an idle channel may follow.

        Nobody has to call it: without it, `passed` moves with the events, and with each read.
        """
        if self._state is _State.LIVE and seq > self._reached:
            self._reached = seq

    def fall_behind(self, seq: int) -> None:
        """Tells that up to a seq there may be matching events that nobody offers: they are read from the source.

        Never waits. For a channel that is not attached to a router: an event that was offered before, of a higher seq
        than one that is still to be read, would hide it.
        """
        if seq <= self._reached or self._state is _State.CLOSED:
            return
        self._state = _State.BEHIND
        self._offered = seq
        self._wake()

    async def receive(self) -> E:
        """Waits for the next event.

        A checkpoint; it lets other tasks run whenever it waits, and at the latest after every 128 events. Cancelling it
        loses nothing: the event it would have given is given by the next call. The same holds for what the source
        raises, which comes out here.

        Returns:
            The event after the one given last.

        Raises:
            trio.EndOfChannel: the channel is closed, or is being closed meanwhile.
            trio.BusyResourceError: another task is receiving from this channel.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this channel; give each task its own")
        self._receiving = True
        try:
            while True:
                await self._checkpoint()
                if self._state is _State.CLOSED:
                    raise trio.EndOfChannel
                if self._buffer:
                    event = self._buffer[0]
                    wanted = self._where is None or self._where(event)
                    self._buffer.popleft()
                    if wanted:
                        return event
                elif self._state is _State.LIVE:
                    await self._wait()
                else:
                    await self._read_on()
        finally:
            self._receiving = False

    def close(self) -> None:
        """Ends the channel: a `receive` that waits, and every later one, raises `trio.EndOfChannel`.

        What was not handed out is let go; `passed` stays where it is, and another channel can go on from there. Closing
        twice is no error.
        """
        if self._state is _State.CLOSED:
            return
        self._reached = self.passed
        self._buffer.clear()
        self._state = _State.CLOSED
        if self._reading is not None:
            self._reading.cancel()
        self._wake()

    async def _checkpoint(self) -> None:
        self._looked_at += 1
        if self._looked_at < _LOOKED_AT_WITHOUT_YIELDING:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._looked_at = 0
            await trio.lowlevel.checkpoint()

    @trio.lowlevel.enable_ki_protection
    async def _wait(self) -> None:
        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._waiting = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting = trio.lowlevel.current_task()
        self._looked_at = 0
        await trio.lowlevel.wait_task_rescheduled(abort)

    @trio.lowlevel.enable_ki_protection
    def _wake(self) -> None:
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None

    async def _read_on(self) -> None:
        """Fills the empty buffer from the source. Whatever ends it early leaves the channel as far behind as it was."""
        after = self._reached
        offered = self._offered if self._state is _State.BEHIND else None
        self._reading = trio.CancelScope()
        try:
            with self._reading:
                events, read_to = await self._source.read(after, self._capacity - self._capacity // 2)
            if self._state is not _State.CLOSED:
                self._take(events, read_to, self._is_caught_up(after, read_to, offered))
        finally:
            self._reading = None
            self._aside.clear()

    def _is_caught_up(self, after: int, read_to: int, offered: int | None) -> bool:
        """Whether a read leaves nothing out that was routed before it began; `offered` is the last offer before it."""
        if offered is None:
            return read_to <= after
        if read_to <= after:
            # Reading again would turn in a circle, and going live would lose events.
            raise RuntimeError(
                f"{self._source!r} has nothing after seq {after}, but seq {offered} was offered as durable; "
                f"a source shows every event before it is offered"
            )
        return read_to >= offered

    def _take(self, events: Sequence[E], read_to: int, caught_up: bool) -> None:
        self._buffer.extend(event for event in events if self._matches(event.topic))
        self._reached = max(self._reached, read_to)
        if caught_up:
            for event in self._aside:
                if event.seq > self._reached:
                    self._buffer.append(event)
                    self._reached = event.seq
        if self._state is _State.BEHIND:
            # By now more may be known than when the read began: nothing above the last offer was routed yet.
            caught_up = self._offered <= self._reached
        if caught_up:
            self._state = _State.LIVE

    def _matches(self, topic: str) -> bool:
        words = topic.split(".")
        return any(pattern.matches_words(words) for pattern in self._patterns)
