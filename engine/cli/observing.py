"""What a run reads of the journal beside its engine, read-only, as any other reader would.

The engine answers for one activity at a time. Two things take a look at all: which activities the opening took up, so
that one that ends before its row is reached is counted as this run's work; and whether the subscribers have handled
what was published, since the end of the last activity is not yet the end of the work.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from types import ModuleType
from typing import Any, Self

import attrs
import trio

from engine.cli.progress import Display
from engine.journal import ENGINE_STREAM
from engine.journal.kinds import EVENT_KINDS
from engine.journal.sqlite import connect, journal_path
from engine.subscribers import BatchSubscriber, Subscriber
from engine.topics import TopicPattern

LOOK_EVERY = 0.05
"""Seconds between two looks at the cursors."""

SAY_AFTER = 3.0
"""Seconds after which it is said what is being waited for."""

_EVENTS = f"kind IN ({', '.join(repr(kind) for kind in EVENT_KINDS)})"


def subscribers_of(module: ModuleType) -> set[str]:
    """The names of the subscribers that a module holds."""
    return {value.name for value in vars(module).values() if isinstance(value, Subscriber | BatchSubscriber)}


@attrs.frozen
class _Look:
    """What the last look at a subscriber's events found.

    Attributes:
        seen: the last record of the journal, and the subscription, as they were; while they are, the look holds.
        settled: the seq up to which no event waits, nor ever will: what is handled stays so.
        waiting: whether one waits beyond it.
    """

    seen: tuple[object, ...]
    settled: int
    waiting: bool


class Observer:
    """A reader of the journal that an engine of this process has opened."""

    def __init__(self, journal: str) -> None:
        self._connection = connect(journal_path(journal), read_only=True)
        self._looks: dict[str, _Look] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def taken_up(self) -> set[str]:
        """The ids of the activities that had not ended when the engine opened the journal."""
        (opened,) = self._connection.execute(
            "SELECT max(seq) FROM records WHERE stream = ? AND kind = 'engine.opened'", (ENGINE_STREAM,)
        ).fetchone()
        rows = self._connection.execute(
            "SELECT id FROM activities WHERE accepted < :opened AND (ended IS NULL OR ended > :opened)",
            {"opened": opened},
        )
        return {id for (id,) in rows}

    async def until_settled(self, names: Collection[str], display: Display) -> None:
        """Wait until these subscribers have handled, or given up, every event that is recorded.

        A subscription is settled when no event beyond its cursor, but for the ranges that are settled already, matches
        one of its patterns. A cursor is recorded at most a second late, so this costs no more than that where the
        subscribers keep up. Cancelling ends the wait; what is not handled is handed out at the next opening.
        """
        began = trio.current_time()
        said = False
        while names and (behind := self._behind(names)):
            if not said and trio.current_time() - began > SAY_AFTER:
                display.say(f"all activities have ended; waiting for subscribers: {', '.join(behind)}")
                said = True
            await trio.sleep(LOOK_EVERY)

    def _behind(self, names: Collection[str]) -> list[str]:
        """The subscribers that have events before them."""
        query = "SELECT name, patterns, cursor, beyond FROM subscriptions ORDER BY name"
        (last,) = self._connection.execute("SELECT max(seq) FROM records").fetchone()
        for name, *subscription in self._connection.execute(query).fetchall():
            seen, before = (last, *subscription), self._looks.get(name)
            if name in names and (before is None or before.seen != seen):
                self._looks[name] = self._look(seen, 0 if before is None else before.settled)
        return sorted(name for name, look in self._looks.items() if look.waiting and name in names)

    def _look(self, seen: tuple[Any, ...], settled: int) -> _Look:
        """Look for the first event that one of the patterns matches and nobody has handled, beyond those settled."""
        last, patterns, cursor, beyond = seen
        compiled = [TopicPattern(pattern) for pattern in json.loads(patterns)]
        ranges = json.loads(beyond)
        settled = max(settled, cursor)
        for seq, topic in self._events(settled, last):
            if not any(low <= seq <= high for low, high in ranges) and any(one.matches(topic) for one in compiled):
                return _Look(seen, seq - 1, True)
        return _Look(seen, max(settled, last), False)

    def _events(self, after: int, last: int) -> Iterator[tuple[int, str]]:
        rows: Iterator[tuple[int, str]] = self._connection.execute(
            f"SELECT seq, name FROM records WHERE seq > ? AND seq <= ? AND {_EVENTS} ORDER BY seq", (after, last)
        )
        return rows
