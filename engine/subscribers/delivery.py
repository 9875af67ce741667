"""One event's way through its subscriber's handler: the attempts, and what is recorded of those that fail.

| an attempt | what is recorded | then the event |
|---|---|---|
| returns | (the cursor moves) | is settled |
| is not wanted, by `where` | (the cursor passes over it) | is settled |
| fails, and is not the last | `delivery.failed`, with the instant of the next | waits, and is tried again |
| fails, and is the last | `delivery.failed`, `.dead`, `.handled`, in one commit | is settled, as a dead letter |
| is cancelled, or raises no `Exception` | nothing | is given again by the next run |

An attempt fails when the event's data does not decode, when `where` or the handler raises, and when it takes too long.
The attempts and the waits are durable: `attempts_so_far` reads them back, and an event goes on with the next attempt
when its wait is over, in whatever process that is.
"""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Iterable
from enum import Enum
from typing import Any

import attrs
import orjson
import trio

from engine.clock import parse, stamp_of
from engine.codec import encode_error
from engine.errors import StepTimeoutError
from engine.journal import Store, StoredRecord
from engine.subscribers.definition import Subscriber


class Settled(Enum):
    """How an event was settled."""

    HANDLED = "handled"
    """The handler returned."""
    PASSED_OVER = "passed_over"
    """The event is not wanted."""
    DEAD = "dead"
    """The attempts are spent."""


@attrs.frozen
class Attempts:
    """What is recorded of the attempts at an event.

    Attributes:
        count: how many failed.
        at: when the last one did.
        retry_at: when the next one is due.
    """

    count: int = 0
    at: str = ""
    retry_at: str | None = None

    def rest(self, now: str) -> float:
        """Seconds until the next attempt; never more than the wait had at first, though the clock went back."""
        if self.retry_at is None:
            return 0.0
        due = parse(self.retry_at)
        length = (due - parse(self.at)).total_seconds()
        return max(0.0, min((due - parse(now)).total_seconds(), length))


def attempts_so_far(records: Iterable[StoredRecord]) -> dict[int, Attempts]:
    """The recorded attempts of each event, by its `seq`, from the subscriber's records behind its cursor."""
    found: dict[int, Attempts] = {}
    for record in records:
        if record.kind == "delivery.failed":
            facts = record.facts
            found[facts["event"]] = Attempts(facts["attempt"], record.at, facts.get("retry_at"))
    return found


async def attempt(subscriber: Subscriber[Any], record: StoredRecord, stream: str) -> Settled | Exception:
    """Give an event to a handler once. Cancelled, and whatever is no `Exception`, passes.

    Returns:
        How the event was settled, or with what the attempt failed.
    """
    try:
        event = subscriber.event_of(record)
        if subscriber.where is not None and not subscriber.where(event):
            return Settled.PASSED_OVER
        if subscriber.timeout is None:
            await _call(subscriber, event)
            return Settled.HANDLED
        with trio.CancelScope(deadline=trio.current_time() + subscriber.timeout) as scope:
            await _call(subscriber, event)
        return StepTimeoutError(stream, subscriber.timeout) if scope.cancelled_caught else Settled.HANDLED
    except Exception as error:  # the edge where user code runs: whatever it raises is recorded
        return error


async def _call(subscriber: Subscriber[Any], event: Any) -> None:
    if subscriber.is_async:
        await subscriber.function(event)
        return
    # A thread is never left running: a cancellation and a timeout wait for it, and its outcome is what counts.
    (value,) = await trio.to_thread.run_sync(lambda: (subscriber.function(event),))
    # In a tuple, since Trio refuses a function that gives an awaitable, as a wrapper of a coroutine function does.
    if inspect.isawaitable(value):
        await value


class DeliveryRecords:
    """Writes what one subscriber's attempts came to. Nothing here waits."""

    def __init__(self, journal: Store, stream: str, name: str) -> None:
        self._journal = journal
        self._stream = stream
        self._name = name

    def failed(self, event: StoredRecord, attempt: int, error: Exception, *, at: str, delay: float | None) -> int:
        """Append a failed attempt.

        Args:
            event: the event's record.
            attempt: the attempt's number, from 1.
            error: what it failed with.
            at: the present instant.
            delay: seconds until the next attempt, `None` where there is none.

        Returns:
            The record's `seq`.
        """
        tree = encode_error(error)
        facts = {"event": event.seq, "id": event.facts["id"], "attempt": attempt, "error": tree["type"]}
        if delay is not None:
            facts["retry_at"] = stamp_of(parse(at) + dt.timedelta(seconds=delay))
        data = f'{{"error":{orjson.dumps(tree).decode()}}}'
        return self._journal.append(self._stream, "delivery.failed", name=self._name, at=at, facts=facts, data=data)

    def dead(self, event: StoredRecord, attempts: int) -> None:
        """Append that an event is a dead letter, after so many attempts."""
        facts = {"event": event.seq, "id": event.facts["id"], "attempts": attempts}
        self._journal.append(self._stream, "delivery.dead", name=self._name, facts=facts)
