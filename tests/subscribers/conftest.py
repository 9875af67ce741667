"""A journal in a file, its supervisor and its subscribers: what an engine is made of, without the engine."""

from __future__ import annotations

import datetime as dt
import inspect
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import pytest
import trio
import trio.testing

from engine.actors import Intensity, SupervisionEvent, SupervisorRef, SupervisorSpec, open_supervisor
from engine.clock import SystemClock, stamp_of
from engine.journal import ENGINE_STREAM, SQLiteJournal, StoredRecord
from engine.messages import Event, new_id
from engine.subscribers import Subscriber, Subscriptions

START = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


class TrioClock:
    """The time of day as Trio's clock has it: a wait takes as long on record as it is waited for."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> str:
        return stamp_of(START + dt.timedelta(seconds=trio.current_time() + self.ahead))


class World:
    """A journal with its subscribers at work.

    Attributes:
        journal: the journal.
        supervisor: the supervisor of their actors.
        subscriptions: the subscribers.
        crashes: what crashed actors raised.
    """

    def __init__(self, journal: SQLiteJournal, subscribers: SupervisorRef, **options: Any) -> None:
        self.journal = journal
        self.supervisor = subscribers
        self.subscriptions = Subscriptions(journal, spawn=subscribers.start_child_soon, **options)
        self.crashes: list[Exception | None] = []
        self.routed: list[str] = []
        self.journal_stamp: Callable[[], str] = options["stamp"]

    def append_event(
        self, topic: str, data: object = None, *, key: str | None = None, headers: dict[str, str] | None = None
    ) -> StoredRecord:
        """Append an event that is published when it is durable, without waiting for that."""
        facts: dict[str, Any] = {"id": new_id(), **({} if key is None else {"key": key})}
        payload = {"data": data, **({} if headers is None else {"headers": headers})}
        at = self.journal_stamp()
        text = orjson.dumps(payload).decode()

        def record() -> StoredRecord:
            self.routed.append(topic)
            return made

        seq = self.journal.append(
            ENGINE_STREAM,
            "event.published",
            name=topic,
            at=at,
            facts=facts,
            data=text,
            landed=lambda: self.subscriptions.publish(topic, record),
        )
        made = StoredRecord(seq, ENGINE_STREAM, "event.published", topic, None, None, at, None, facts, text)
        return made

    async def publish(self, topic: str, data: object = None, **more: Any) -> int:
        """Publish an event; its `seq`, durable by then."""
        seq = self.append_event(topic, data, **more).seq
        await self.journal.durable(seq)
        return seq

    async def record_something(self) -> int:
        """Append a record that is no event; its `seq`, durable by then."""
        seq = self.journal.append(
            ENGINE_STREAM, "definition.registered", name="x", facts={"type": "step", "module": "x"}
        )
        await self.journal.durable(seq)
        return seq

    async def settle(self) -> None:
        """Wait until the journal has nothing left to write."""
        while self.journal.durable_seq < self.journal.last_seq:
            await self.journal.durable(self.journal.last_seq)

    def copy_to(self, path: Path) -> Path:
        """Copy what is durable, as a process that is killed now would leave it."""
        with closing(sqlite3.connect(self.journal.path)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
        return path

    def records(self, name: str, *kinds: str) -> list[StoredRecord]:
        """A subscriber's records, of these kinds or of all."""
        found = self.journal.stream_after(f"/subscribers/{name}", 0)
        return [record for record in found if not kinds or record.kind in kinds]

    def kinds(self, name: str) -> Counter[str]:
        """How many records of each kind a subscriber has."""
        return Counter(record.kind for record in self.records(name))

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something has come about."""
        with trio.fail_after(30):
            while not condition():  # noqa: ASYNC110  (nobody is told of it)
                await trio.sleep(0.001)

    def dead(self, name: str) -> set[int]:
        """The events that are a subscriber's dead letters, by `seq`."""
        return {record.facts["event"] for record in self.records(name, "delivery.dead")}

    def cursor(self, name: str) -> int:
        """A subscriber's durable cursor."""
        state = self.journal.subscription(name)
        assert state is not None
        return state.cursor


@asynccontextmanager
async def opened(
    path: Path,
    *subscribers: Subscriber[Any],
    stamp: Callable[[], str] | None = None,
    capacity: int = 1024,
    drain_within: float = 10.0,
    intensity: float = 100,
    commit_delay: float = 0.0,
) -> AsyncIterator[World]:
    """A world around a block; leaving it closes it properly."""
    stamp = stamp or SystemClock().stamp
    journal = SQLiteJournal(path, version="0", stamp=stamp, commit_delay=commit_delay)
    crashes: list[Exception | None] = []

    def note(event: SupervisionEvent) -> None:
        if event.what == "crashed":
            crashes.append(event.error)

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            try:
                tree = [SupervisorSpec("subscribers", intensity=Intensity(intensity, within=60.0))]
                async with open_supervisor(children=tree, intensity=Intensity(0), on_event=note) as root:
                    supervisor = root.registry["/subscribers"]
                    assert isinstance(supervisor, SupervisorRef)
                    world = World(journal, supervisor, stamp=stamp, capacity=capacity, drain_within=drain_within)
                    world.crashes = crashes
                    for one in subscribers:
                        world.subscriptions.attach(one)
                    journal.watch(world.subscriptions.advance)
                    await journal.durable(journal.last_seq)
                    try:
                        yield world
                    finally:
                        world.subscriptions.closing()
            finally:
                journal.close_soon()
    finally:
        journal.close()


Open: TypeAlias = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def open_world(tmp_path: Path) -> Open:
    """Opens the test's one journal with subscribers; again and again, as processes would."""

    def open_it(*subscribers: Subscriber[Any], path: Path | None = None, **options: Any) -> Any:
        return opened(path or tmp_path / "journal.db", *subscribers, **options)

    return open_it


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Trio's clock, which jumps over waits; not so soon that it would jump past a commit in its thread."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture
def trio_clock() -> TrioClock:
    return TrioClock()


class Seen:
    """A handler that writes down what it is given, and does what a script says.

    The script has one entry an attempt: an exception is raised, a function called and awaited, `None` is nothing. After
    its end nothing happens.
    """

    def __init__(self, *script: object) -> None:
        self.events: list[Event[Any]] = []
        self._script: Iterator[object] = iter(script)
        self._changed = trio.Event()

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.events]

    @property
    def data(self) -> list[Any]:
        return [event.data for event in self.events]

    async def __call__(self, event: Event[Any]) -> None:
        self.events.append(event)
        self._changed.set()
        self._changed = trio.Event()
        what = next(self._script, None)
        if isinstance(what, BaseException):
            raise what
        if callable(what):
            result = what()
            if inspect.isawaitable(result):
                awaited: Awaitable[Any] = result
                await awaited

    async def times(self, count: int, *, within: float = 30) -> None:
        """Wait until it was called so often."""
        with trio.fail_after(within):
            while len(self.events) < count:
                await self._changed.wait()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def scripted() -> type[Seen]:
    return Seen
