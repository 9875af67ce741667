"""The application that `test_interrupt` runs with `playbill run`, and interrupts.

A row is a parcel, which is weighed, waits for its van, and is delivered. Whatever a step does is a row of the database
that `$INTERRUPTED_EFFECTS` names, in a transaction of its own, entered as the step begins and ended before it returns;
so the test can compare what was done with what the journal says. A life is one run of the command: `$INTERRUPTED_LIFE`.
Steps take `$INTERRUPTED_PACE` times as long as the row says.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import trio

from engine import Context, Event, activity, current_step, step, subscriber

TABLES = """
CREATE TABLE IF NOT EXISTS executions(
    number INTEGER PRIMARY KEY, life INTEGER, key TEXT, parcel TEXT, path TEXT, ended INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS deliveries(event TEXT, parcel TEXT);
"""


@dataclass(frozen=True)
class Parcel:
    """One row of the file."""

    id: str
    grams: int
    milliseconds: int

    @property
    def seconds(self) -> float:
        """How long each of its steps takes."""
        return self.milliseconds / 1_000 * float(os.environ["INTERRUPTED_PACE"])


@contextlib.contextmanager
def world() -> Iterator[sqlite3.Connection]:
    """The database of effects; all that is written in the block is one transaction."""
    connection = sqlite3.connect(os.environ["INTERRUPTED_EFFECTS"], timeout=30, isolation_level=None)
    try:
        # Processes are ended here, not machines: what was handed to the system is safe.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()


def enter(parcel: Parcel) -> int:
    """Note that a step's body is entered."""
    info = current_step()
    with world() as connection:
        row = (os.environ["INTERRUPTED_LIFE"], info.idempotency_key, parcel.id, info.path)
        statement = "INSERT INTO executions(life, key, parcel, path) VALUES (?, ?, ?, ?)"
        return connection.execute(statement, row).lastrowid or 0


def leave(number: int) -> None:
    """Note that it took effect, and returns."""
    with world() as connection:
        connection.execute("UPDATE executions SET ended = 1 WHERE number = ?", (number,))


@step
def weigh(parcel: Parcel) -> int:
    """In a worker thread."""
    number = enter(parcel)
    threading.Event().wait(parcel.seconds)
    leave(number)
    return parcel.grams


@step
async def deliver(parcel: Parcel) -> str:
    """In the loop."""
    number = enter(parcel)
    await trio.sleep(parcel.seconds)
    leave(number)
    return f"{parcel.id} delivered"


@activity(name="parcels.send")
async def send(ctx: Context, parcel: Parcel) -> str:
    """Weigh, wait, deliver, tell."""
    grams = await ctx.step(weigh, parcel)
    await ctx.sleep(0.01)
    delivered = await ctx.step(deliver, parcel)
    await ctx.emit("parcels.delivered", parcel.id)
    return f"{delivered}, {grams} g"


@subscriber("parcels.delivered", name="receipts", start="beginning")
def keep_receipt(event: Event[str]) -> None:
    """An event comes at least once."""
    with world() as connection:
        connection.execute("INSERT INTO deliveries VALUES (?, ?)", (event.id, event.data))
