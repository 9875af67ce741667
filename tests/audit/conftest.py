"""A journal with something of everything, written by the journal's own writer; each test gets a copy."""

from __future__ import annotations

import datetime as dt
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from engine.journal import ENGINE_STREAM, SQLiteJournal

FIRST = dt.datetime(2026, 11, 23, 8, 0, tzinfo=dt.UTC)
ASKED = {"command": "start", "via": "engine", "origin": "deploy@orders-1, process 4711"}


class Script:
    """Writes a journal, with instants that are the same at each run."""

    def __init__(self, path: Path) -> None:
        self._seconds = 0.0
        self.journal = SQLiteJournal(path, version="0.1.0", stamp=self.stamp)

    def stamp(self) -> str:
        """An instant half a second after the one before."""
        self._seconds += 0.5
        return self.instant(self._seconds)

    def instant(self, seconds: float) -> str:
        return (FIRST + dt.timedelta(seconds=seconds)).isoformat(timespec="microseconds")[:26] + "Z"

    def ago(self, seconds: float) -> str:
        return self.instant(self._seconds - seconds)

    def wait(self, seconds: float) -> None:
        self._seconds += seconds

    async def record(self, stream: str, kind: str, *, data: Any = None, **columns: Any) -> int:
        """Record something, in a commit of its own."""
        text = None if data is None else orjson.dumps(data).decode()
        seq = self.journal.append(stream, kind, data=text, **columns)
        await self.journal.durable(seq)
        return seq

    async def start(self, id: str, name: str = "orders.fulfil", *, by: str = "alice", **facts: Any) -> None:
        asked = {"args": [id, 3], "reason": "web checkout"}
        await self.record(
            id, "command.accepted", name=name, by=by, facts={**ASKED, **facts}, data=asked, begins="activity"
        )
        begun = {"generation": 0, "version": "2", "seed": "00ff"}
        await self.record(id, "activity.started", name=name, run=1, facts=begun, data={"args": [id, 3], "key": "aa"})

    async def step(self, id: str, path: str, *, attempt: int = 1, took: float = 0.25, **columns: Any) -> None:
        facts = {"generation": 0, "scope": "", "digest": "ab", "attempt": attempt, "started": self.ago(took - 0.5)}
        facts.update(columns.pop("facts", {}))
        kind = columns.pop("kind", "step.completed")
        await self.record(id, kind, name=path.partition("#")[0], path=path, run=1, facts=facts, **columns)

    async def complete(self, id: str, value: Any = None, name: str = "orders.fulfil") -> None:
        await self.record(id, "activity.completed", name=name, run=1, facts={"generation": 0}, data={"value": value})


def error(kind: str, message: str, *notes: str) -> dict[str, Any]:
    """An error as the engine records it."""
    traceback = f'Traceback (most recent call last):\n  File "orders.py", line 7, in charge\n{kind}: {message}\n'
    return {"type": kind, "message": message, "args": [message], "attributes": {}, "notes": list(notes),
            "traceback": traceback, "cause": None, "members": None}  # fmt: skip


async def _orders(script: Script) -> None:
    await script.start("order-1", key="customer-7", tags={"region": "eu"})
    lost = error("builtins.ConnectionError", "connection reset by peer")
    failed = {"error": lost["type"], "final": False, "origins": [], "retry_at": script.ago(-2)}
    await script.step(
        "order-1", "charge#1", kind="step.failed", facts=failed, data={"args": ["4111", 12], "error": lost}
    )
    script.wait(2)
    await script.step(
        "order-1", "charge#1", attempt=2, took=1.5, data={"args": ["4111", 12], "value": {"payment": "p-1"}}
    )
    emitted = {"generation": 0, "scope": "", "digest": "cd", "id": "event-1", "key": "customer-7"}
    await script.record("order-1", "event.emitted", name="orders.eu.paid", path="emit#1", run=1, facts=emitted,
                        data={"data": {"order": "order-1"}, "headers": {}})  # fmt: skip
    await script.step("order-1", "pack#1", data={"args": ["order-1"], "value": None})
    await script.complete("order-1", {"receipt": "r-1"})
    # A command to an activity that has ended: its record holds `before` too.
    denied = {"command": "resume", "via": "cli", "origin": "bob@desk", "target": "order-1", "rule": "it has completed"}
    await script.record("order-1", "command.denied", name="orders.fulfil", by="bob", facts=denied,
                        data={"reason": "try again"}, ended=True)  # fmt: skip
    await script.start("order-2", by="bob", tags={"region": "us"})
    declined = error("orders.CardDeclined", "card declined", "the card ends with 1111")
    failed = {"error": declined["type"], "final": True, "origins": []}
    await script.step(
        "order-2", "charge#1", kind="step.failed", facts=failed, data={"args": ["1111", 9], "error": declined}
    )
    ended = {"generation": 0, "error": declined["type"], "origins": [], "open": [], "acted_upon": [], "why": "fatal"}
    await script.record(
        "order-2", "activity.failed", name="orders.fulfil", run=1, facts=ended, data={"error": declined}
    )


async def _others(script: Script) -> None:
    await script.start("order-3")
    blocked = {"generation": 0, "cause": "nondeterminism", "recorded": "step charge", "asked": "step refund"}
    await script.record("order-3", "activity.blocked", name="orders.fulfil", run=1, facts=blocked)
    await script.start("report-1", "reports.nightly", by="schedule:nightly")
    await script.step("report-1", "collect#1", took=0.1, data={"args": [], "value": 3})
    target = {**ASKED, "target": "order-9", "rule": "only the shop may start orders"}
    await script.record(ENGINE_STREAM, "command.denied", name="orders.fulfil", by="mallory", facts=target,
                        data={"args": [], "reason": "please"})  # fmt: skip
    published = {"id": "event-2", "key": "customer-8"}
    event = await script.record(ENGINE_STREAM, "event.published", name="orders.us.late", by="carol", facts=published,
                                data={"data": {"order": "order-8"}, "headers": {}})  # fmt: skip
    mailer = "/subscribers/mailer"
    await script.record(mailer, "subscriber.attached", name="mailer", facts={"patterns": ["orders.#"], "after": 0},
                        begins="subscriber")  # fmt: skip
    lost = error("smtplib.SMTPServerDisconnected", "connection closed")
    for attempt in (1, 2):
        facts = {"event": event, "id": "event-2", "attempt": attempt, "error": lost["type"]}
        await script.record(mailer, "delivery.failed", name="mailer", facts=facts, data={"error": lost})
    dead = {"event": event, "id": "event-2", "attempts": 2}
    await script.record(mailer, "delivery.dead", name="mailer", facts=dead)
    handled = {"from": 0, "to": event, "beyond": []}
    await script.record(mailer, "delivery.handled", name="mailer", facts=handled)


def write(path: Path, *tellings: Callable[[Script], Any]) -> None:
    """Write a journal, and close it as an engine does."""

    async def main() -> None:
        script = Script(path)
        async with trio.open_nursery() as nursery:
            await nursery.start(script.journal.run)
            for telling in tellings:
                await telling(script)
            await script.record(ENGINE_STREAM, "engine.closed", facts={"running": 1})
            script.journal.close_soon()
        script.journal.close()

    trio.run(main)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journals") / "orders.db"
    write(path, _orders, _others)
    return path


@pytest.fixture
def journal(written: Path, tmp_path: Path) -> Path:
    """A journal of orders, to be read or altered."""
    return Path(shutil.copyfile(written, tmp_path / "orders.db"))


@pytest.fixture(scope="session")
def write_journal() -> Callable[..., None]:
    """Writes a journal from functions that are given a `Script`."""
    return write


@pytest.fixture
def database(journal: Path) -> Iterator[sqlite3.Connection]:
    """The journal's file, as whoever tampers with it has it."""
    connection = sqlite3.connect(journal, isolation_level=None)
    yield connection
    connection.close()
