"""The program that `test_crash` kills: it posts parcels, an activity for each, until all have arrived.

    python crashing.py JOURNAL EFFECTS PARCELS LIFE

Each start of it is one *life*; all lives share one journal and one database of effects. Whatever a step does is a row
there, in a transaction of its own, written before the step returns or fails: so the test can compare what was done with
what the journal says. A parcel's number alone decides what belongs to it; `expected_*` tell what that is.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import trio

from engine import (
    ActivityStatus,
    Context,
    Engine,
    Event,
    Restart,
    Retry,
    activity,
    current_step,
    step,
    subscriber,
)

STARTERS = 25
"""How many parcels are under way at a time."""

ITEMS = 3
"""How many items a parcel has; each is loaded by a step, and routed by a branch."""

WAYS = 4
REFUSED, HURRIED, DEAF = 1, 2, 3
"""What happens to a parcel besides, by its number modulo `WAYS`: branches fail, a step is cancelled, a failure is
caught; nothing to those of number 0."""

TABLES = """
CREATE TABLE IF NOT EXISTS executions(
    life INTEGER, key TEXT, activity TEXT, path TEXT, operation TEXT, name TEXT, args TEXT, attempt INTEGER, at TEXT);
CREATE INDEX IF NOT EXISTS executions_by_key ON executions(key);
CREATE TABLE IF NOT EXISTS deliveries(
    life INTEGER, seq INTEGER, event TEXT, topic TEXT, parcel INTEGER, stage TEXT, at TEXT);
CREATE INDEX IF NOT EXISTS deliveries_by_event ON deliveries(event);
"""


class Effects:
    """The outside world: what steps and the subscriber have done, each in a transaction of its own."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._life = 0

    def open(self, path: Path, life: int) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # Processes are killed here, not machines: what was handed to the system is safe.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.executescript(TABLES)
        self._life = life

    def execute(self, parcel: int, operation: str, *args: object) -> int:
        """Note that a step takes effect; gives how often the same key took effect before."""
        info = current_step()
        row = (self._life, info.idempotency_key, activity_id(parcel), info.path, operation, info.name)
        with self._lock:
            assert self._connection is not None
            (before,) = self._connection.execute(
                "SELECT count(*) FROM executions WHERE key = ?", (info.idempotency_key,)
            ).fetchone()
            self._connection.execute(
                "INSERT INTO executions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, json.dumps(args), info.attempt, now()),
            )
        return int(before)

    def deliver(self, event: Event[Notice]) -> int:
        """Note that an event was handed to the subscriber; gives how often it was before."""
        with self._lock:
            assert self._connection is not None
            (before,) = self._connection.execute(
                "SELECT count(*) FROM deliveries WHERE event = ?", (event.id,)
            ).fetchone()
            self._connection.execute(
                "INSERT INTO deliveries VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self._life, event.seq, event.id, event.topic, event.data.parcel, event.data.stage, now()),
            )
        return int(before)

    def delivered(self) -> int:
        """How many events the subscriber has been given."""
        with self._lock:
            assert self._connection is not None
            return int(self._connection.execute("SELECT count(DISTINCT event) FROM deliveries").fetchone()[0])


effects = Effects()


def now() -> str:
    """The present instant in the form in which the journal has it, so that the two can be compared."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# ------------------------------------------------------------------------------------------------ what is expected


def activity_id(parcel: int) -> str:
    return f"parcel-{parcel:05d}"


def items_of(parcel: int) -> list[int]:
    return [parcel * 10 + index for index in range(ITEMS)]


def weight(parcel: int, operation: str) -> int:
    """What a step returns: a number that belongs to this operation of this parcel alone."""
    return parcel * 1_000 + sum(operation.encode())


def _counted_operations(parcel: int) -> list[str]:
    """The operations whose returned numbers add up to the parcel's value."""
    whole = ["weigh", "label", "stamp", "sort", "seal", "deliver"]
    return whole + [f"{operation} {item}" for operation in ("load", "call", "pass") for item in items_of(parcel)]


def expected_operations(parcel: int) -> set[str]:
    """The logical operations of a parcel that must be recorded in the end."""
    by_way = {REFUSED: ["apologize"], HURRIED: ["give up"], DEAF: ["remember"]}
    return {*_counted_operations(parcel), *by_way.get(parcel % WAYS, [])}


def possible_operations(parcel: int) -> set[str]:
    """Those that may have taken effect without being recorded as completed: they fail, or were cancelled."""
    by_way = {REFUSED: [f"inspect {item}" for item in items_of(parcel)], HURRIED: ["hurry"], DEAF: ["ring"]}
    return set(by_way.get(parcel % WAYS, []))


def expected_value(parcel: int) -> int:
    return sum(weight(parcel, operation) for operation in _counted_operations(parcel))


def expected_events(parcel: int) -> Counter[tuple[str, str, str]]:
    """Kind of record, topic and stage of the events about a parcel."""
    region = f"parcels.{parcel % 3}"
    passed = [("event.emitted", f"{region}.passed", f"passed {item}") for item in items_of(parcel)]
    accepted = ("event.emitted", f"{region}.accepted", "accepted")
    delivered = ("event.emitted", f"{region}.delivered", "delivered")
    return Counter([("event.published", f"{region}.posted", "posted"), accepted, *passed, delivered])


def failures_of_sort(parcel: int) -> int:
    return parcel % 3


def crashes_at_delivery(parcel: int) -> bool:
    return parcel % 5 == 0


# ------------------------------------------------------------------------------------------------ the definitions


@dataclasses.dataclass(frozen=True)
class Notice:
    parcel: int
    stage: str


class ClosedError(Exception):
    """What a flaky step raises."""


class RefusedError(Exception):
    """What a step raises that is not to be tried again."""


async def weigh(parcel: int) -> int:
    effects.execute(parcel, "weigh", parcel)
    await trio.sleep(0.002)
    return weight(parcel, "weigh")


async def label(parcel: int, number: float, unique: str, instant: dt.datetime) -> int:
    """Takes what the activity has drawn: the same at each repetition."""
    effects.execute(parcel, "label", parcel, number, unique, instant.isoformat())
    return weight(parcel, "label")


def stamp(parcel: int) -> int:
    effects.execute(parcel, "stamp", parcel)
    return weight(parcel, "stamp")


@step(retry=Retry(attempts=4, initial=0.01, jitter=0.5, on=(ClosedError,)))
def sort(parcel: int) -> int:
    """Fails the first times that its effect takes place."""
    if effects.execute(parcel, "sort", parcel) < failures_of_sort(parcel):
        raise ClosedError(f"the sorting hall is closed to parcel {parcel}")
    return weight(parcel, "sort")


@step
async def load(item: int) -> int:
    effects.execute(item // 10, f"load {item}", item)
    await trio.sleep(0.001 * (item % 4))
    return weight(item // 10, f"load {item}")


def call(item: int) -> int:
    effects.execute(item // 10, f"call {item}", item)
    return weight(item // 10, f"call {item}")


@step(name="pass")
async def pass_on(item: int, called: int) -> int:
    effects.execute(item // 10, f"pass {item}", item, called)
    return weight(item // 10, f"pass {item}")


@step
async def seal(parcel: int, order: list[int]) -> int:
    """Takes what the branches have written into one list: in the same order at each repetition."""
    effects.execute(parcel, "seal", parcel, order)
    return weight(parcel, "seal")


async def inspect(item: int) -> None:
    """Refuses two items of a parcel; which of the failures the activity is told is for the journal to decide."""
    effects.execute(item // 10, f"inspect {item}", item)
    await trio.sleep(0.002)
    if item % 10 < 2:
        raise RefusedError(f"item {item} is refused")


def apologize(parcel: int, refusal: str) -> None:
    effects.execute(parcel, "apologize", parcel, refusal)


async def hurry(parcel: int) -> None:
    effects.execute(parcel, "hurry", parcel)
    await trio.sleep_forever()


async def give_up(parcel: int, gave_up: bool) -> None:
    effects.execute(parcel, "give up", parcel, gave_up)


def ring(parcel: int) -> None:
    """Fails the first time that its effect takes place; succeeds where that failure was not recorded."""
    if effects.execute(parcel, "ring", parcel) == 0:
        raise RefusedError("nobody hears")


def remember(parcel: int, heard: bool) -> None:
    effects.execute(parcel, "remember", parcel, heard)


@step
async def deliver(parcel: int) -> int:
    """Ends the run the first time that its effect takes place, for some parcels: there is no retry here."""
    if effects.execute(parcel, "deliver", parcel) == 0 and crashes_at_delivery(parcel):
        raise ClosedError(f"nobody opens to parcel {parcel}")
    return weight(parcel, "deliver")


@activity(name="post.parcel", restart=Restart(attempts=3, within=60.0, initial=0.01))
async def post(ctx: Context, parcel: int) -> int:
    region = f"parcels.{parcel % 3}"
    total = await ctx.step(weigh, parcel)
    total += await ctx.step(label, parcel, ctx.random().random(), str(ctx.uuid()), ctx.now())
    total += await ctx.step(stamp, parcel)
    await ctx.emit(f"{region}.accepted", Notice(parcel, "accepted"), key=str(parcel))
    total += await ctx.step(sort, parcel)
    total += sum(await ctx.map(load, items_of(parcel), limit=2))
    total += await route_all(ctx, parcel)
    await besides(ctx, parcel)
    await ctx.sleep(0.02)
    total += await ctx.step(deliver, parcel)
    await ctx.emit(f"{region}.delivered", Notice(parcel, "delivered"), key=str(parcel))
    return total


async def route_all(ctx: Context, parcel: int) -> int:
    order: list[int] = []

    async def route(ctx: Context, item: int) -> int:
        """A branch of its own for each item."""
        called = await ctx.step(call, item)
        order.append(item)
        await ctx.sleep(0.01 + 0.005 * (item % 2))
        order.append(-item)
        await ctx.emit(f"parcels.{parcel % 3}.passed", Notice(parcel, f"passed {item}"), key=str(parcel))
        passed = await ctx.step(pass_on, item, called)
        order.append(item)
        return called + passed

    return sum(await ctx.map(route, items_of(parcel))) + await ctx.step(seal, parcel, order)


async def besides(ctx: Context, parcel: int) -> None:
    """What happens to some parcels only; each leads to a step whose arguments tell how it came out."""
    way = parcel % WAYS
    if way == REFUSED:
        try:
            await ctx.map(inspect_in_branch, items_of(parcel))
        except RefusedError as refusal:
            await ctx.step(apologize, parcel, str(refusal))
    elif way == HURRIED:
        with trio.move_on_after(0.005) as scope:
            await ctx.step(hurry, parcel)
        await ctx.step(give_up, parcel, scope.cancelled_caught, name="give up")
    elif way == DEAF:
        heard = True
        try:
            await ctx.step(ring, parcel)
        except RefusedError:
            heard = False
        await ctx.step(remember, parcel, heard)


async def inspect_in_branch(ctx: Context, item: int) -> None:
    await ctx.step(inspect, item)


@subscriber("parcels.#", name="tracking", retry=Retry(attempts=5, initial=0.01))
async def track(event: Event[Notice]) -> None:
    """Fails the first time that it sees every tenth event."""
    if effects.deliver(event) == 0 and event.seq % 10 == 0:
        raise ClosedError(f"the tracking page is down for event {event.seq}")


# ------------------------------------------------------------------------------------------------ the program


async def post_all(engine: Engine, parcels: Iterator[int]) -> None:
    """Start one parcel after another, those of earlier lives too, and await each."""
    for parcel in parcels:
        await engine.publish(f"parcels.{parcel % 3}.posted", Notice(parcel, "posted"), id=f"posted-{parcel}")
        handle = await engine.start(post, parcel, id=activity_id(parcel), by="post", reason="to be killed")
        status = await handle.wait(
            ActivityStatus.COMPLETED, ActivityStatus.FAILED, ActivityStatus.CANCELLED, ActivityStatus.BLOCKED
        )
        if status is not ActivityStatus.COMPLETED:
            raise AssertionError(f"{handle.id} is {status}")
        value = await handle.result()
        if value != expected_value(parcel):
            raise AssertionError(f"{handle.id} gave {value}, not {expected_value(parcel)}")


async def tracked(events: int) -> None:
    """Wait until the subscriber has been given so many events."""
    while True:
        if effects.delivered() >= events:
            return
        await trio.sleep(0.01)


async def main(journal: str, parcels: int) -> None:
    async with Engine.open(journal, post, track) as engine:
        async with trio.open_nursery() as nursery:
            numbers = iter(range(parcels))
            for _ in range(STARTERS):
                nursery.start_soon(post_all, engine, numbers)
        with trio.fail_after(30):
            await tracked(sum(expected_events(parcel).total() for parcel in range(parcels)))


if __name__ == "__main__":
    effects.open(Path(sys.argv[2]), int(sys.argv[4]))
    trio.run(main, sys.argv[1], int(sys.argv[3]))
