"""What the engine asks of a journal, whatever keeps it.

The contract of each promise stands here; a store documents only where it differs. It assumes neither SQLite nor one
machine. All methods are called from the loop's thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import attrs
import trio

from engine.journal.records import StoredRecord
from engine.messages import ActivityStatus


@attrs.frozen
class ActivityState:
    """What the journal's projection says of an activity.

    Attributes:
        id: its id.
        name: its definition's name.
        status: its status.
        accepted: the `seq` of the command that asked for it.
        ended: the `seq` of the record with which it ended, if it has.
        priority: its priority; the higher ones run first.
    """

    id: str
    name: str
    status: ActivityStatus
    accepted: int | None
    ended: int | None
    priority: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """By which those that wait to run stand in line: the higher priority first, then who was asked for first."""
        return -self.priority, self.accepted or 0


@attrs.frozen
class SubscriptionState:
    """What the journal's projection says of a subscriber.

    Attributes:
        name: its name.
        patterns: its topic patterns, as they were attached last.
        cursor: the `seq` up to which every matching event is settled.
        beyond: inclusive ranges of `seq` beyond it that are settled too.
    """

    name: str
    patterns: Sequence[str]
    cursor: int
    beyond: Sequence[tuple[int, int]]


class Store(Protocol):
    """A journal that this engine owns."""

    id: str
    """The journal's UUID."""

    clean: bool
    """Whether the engine before had closed the journal properly."""

    @property
    def durable_seq(self) -> int:
        """The last record that is durable."""

    @property
    def last_seq(self) -> int:
        """The last record that was appended."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is appended, until `close_soon` was called and all is durable."""

    def close_soon(self, within: float = math.inf) -> None:
        """Have `run` end when all that was appended is durable; give up after so many seconds, where that fails.

        `run` raises JournalFullError or JournalBusyError then.
        """

    def give_up_within(self, seconds: float) -> None:
        """From now on give up a commit that fails for so many seconds, as `close_soon` does, also while records are
        still appended: an engine that closes must end, and its activities wait for their records."""

    def close(self) -> None:
        """Give the journal up; after `run` has ended."""

    def append(
        self,
        stream: str,
        kind: str,
        *,
        name: str | None = None,
        path: str | None = None,
        run: int | None = None,
        by: str | None = None,
        facts: Mapping[str, Any] | str = "{}",
        data: str | None = None,
        at: str | None = None,
        begins: str | None = None,
        ended: bool = False,
        landed: Callable[[], None] | None = None,
    ) -> int:
        """Put a record into the journal, in the order of the calls; durable only when `durable` has returned.

        Records appended without a checkpoint between them become durable together or not at all.
        """

    def watch(self, durable: Callable[[int], None]) -> None:
        """Have a function called with the last durable `seq` after each commit."""

    async def durable(self, seq: int) -> None:
        """Wait until a record is durable; not to be cancelled."""

    async def durable_within(self, seq: int, seconds: float) -> None:
        """Wait until a record is durable, at most so long.

        Raises:
            JournalFullError, JournalBusyError: it is not durable yet, and may still become so.
        """

    def activity(self, id: str) -> ActivityState | None:
        """What is durable of an activity's state."""

    def in_line(
        self, statuses: Collection[ActivityStatus], limit: int, *, after: tuple[int, int] | None = None
    ) -> list[ActivityState]:
        """The activities that are in one of these statuses, by rank, at most `limit`, from after a rank on."""

    def due(self, by: str, limit: int) -> list[ActivityState]:
        """The parked activities that are to be woken by an instant, by rank, at most `limit`."""

    def next_due(self, after: str) -> str | None:
        """The first instant after another at which a parked activity is to be woken."""

    def deadlines(self, after: tuple[str, str], limit: int) -> list[tuple[str, str, str]]:
        """The activities that have not ended and have a deadline after an instant and id, the first of them, at most
        `limit`: each one's id, the instant at which it began, its deadline."""

    def deadlines_begun_after(self, instant: str) -> list[tuple[str, str, str]]:
        """The same of those that began after an instant."""

    def count_unfinished(self) -> int:
        """How many activities have not ended."""

    def histories(self, ids: Sequence[str]) -> Mapping[str, list[StoredRecord]]:
        """The durable records of each of these streams, in order. Of an activity that went on as new those of its
        present generation, and before them the messages that it has not received."""

    def record(self, seq: int) -> StoredRecord | None:
        """One durable record."""

    def events(self, after: int, limit: int, *, system: bool = False) -> tuple[list[StoredRecord], int]:
        """The durable events with a `seq` above `after`, at most `limit`, in order, and the `seq` up to which these are
        all there are. With `system`, what the engine's own doings are seen as is among them (see `seen_as_event`)."""

    def message(self, activity: str, id: str) -> StoredRecord | None:
        """The message of this id that the activity was sent."""

    def answer(self, activity: str, id: str) -> StoredRecord | None:
        """The record with which the activity answered the message of this id."""

    def tail(self, stream: str, limit: int) -> Sequence[StoredRecord]:
        """The last durable records of a stream, at most so many, in order."""

    def publication(self, id: str) -> StoredRecord | None:
        """The event that was published from outside with this id."""

    def subscription(self, name: str) -> SubscriptionState | None:
        """A subscriber's durable state."""

    def stream_after(self, stream: str, after: int) -> list[StoredRecord]:
        """The durable records of a stream with a `seq` above `after`, in order."""

    def registered(self) -> Mapping[tuple[str, str], Mapping[str, Any]]:
        """The facts last recorded of each definition, by its type and name."""
