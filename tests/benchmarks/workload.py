"""Playbill's side: activities of five steps, many in flight, one at a time, or beside a task that keeps the loop busy.

The steps are coroutines that add one, so that what is measured is the engine and not the work. Time runs from the first
start to the last result; opening and closing the journal are outside. Records are counted in the journal, so that no
figure rests on how many an activity is believed to take.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import trio

from engine import Context, Engine, activity
from tests.benchmarks.measuring import Figures, Options

STEPS = 5
"""Steps of an activity."""

STARTERS = 50
"""Tasks that start activities, one after another; `start` returns when the command is durable. They await the results
when all are started, so that several hundred activities are in flight."""

BURN = 0.001
"""Seconds of processor time that the busy task takes in each tick of the loop."""


async def add_one(number: int) -> int:
    return number + 1


@activity(name="benchmark.count")
async def count(ctx: Context, number: int) -> int:
    for _ in range(STEPS):
        number = await ctx.step(add_one, number)
    return number


def many(options: Options) -> Figures:
    """Many activities in flight; with `way="busy"` beside a task that burns `BURN` in every tick; with `way="few"` each
    starter awaits an activity before it starts the next, so that only as many are in flight as there are starters."""
    return trio.run(_many, options)


def lone(options: Options) -> Figures:
    """One activity after another."""
    return trio.run(_lone, options)


async def _many(options: Options) -> Figures:
    async with _opened(options) as (engine, journal):
        busy = _busy() if options.way == "busy" else contextlib.nullcontext()
        async with busy:
            watch = _Stopwatch()
            starter = _start_and_await_each if options.way == "few" else _start_then_await
            numbers = iter(range(options.count))
            async with trio.open_nursery() as nursery:
                for _ in range(STARTERS):
                    nursery.start_soon(starter, engine, numbers)
            watch.stop()
        return _figures(journal, options.count, watch)


async def _lone(options: Options) -> Figures:
    async with _opened(options) as (engine, journal):
        watch = _Stopwatch()
        await _start_and_await_each(engine, iter(range(options.count)))
        watch.stop()
        return _figures(journal, options.count, watch)


async def _start_then_await(engine: Engine, numbers: Iterator[int]) -> None:
    started = [(number, await engine.start(count, number)) for number in numbers]
    for number, handle in started:
        if await handle.result() != number + STEPS:
            raise AssertionError(f"activity {handle.id} counted wrongly")


async def _start_and_await_each(engine: Engine, numbers: Iterator[int]) -> None:
    for number in numbers:
        await _start_then_await(engine, iter([number]))


@contextlib.asynccontextmanager
async def _opened(options: Options) -> AsyncIterator[tuple[Engine, Path]]:
    journal = Path(options.directory) / "journal.db"
    async with Engine.open(str(journal), count) as engine:
        # The first activity resolves annotations and prepares statements.
        await _start_then_await(engine, iter([-1]))
        yield engine, journal


@contextlib.asynccontextmanager
async def _busy() -> AsyncIterator[None]:
    async def burn() -> None:
        while True:
            until = time.perf_counter() + BURN
            while time.perf_counter() < until:
                pass
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(burn)
        yield
        nursery.cancel_scope.cancel()


class _Stopwatch:
    """Seconds that pass, and seconds of processor time that this process takes; begins when it is made."""

    def __init__(self) -> None:
        self.passed, self.worked = -time.perf_counter(), -time.process_time()

    def stop(self) -> None:
        self.passed += time.perf_counter()
        self.worked += time.process_time()


def _figures(journal: Path, activities: int, watch: _Stopwatch) -> Figures:
    """The figures of so many activities, by what the journal holds of them and by the stopwatch."""
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        first = connection.execute("SELECT min(accepted) FROM activities").fetchone()[0]
        (warm,) = connection.execute("SELECT ended FROM activities WHERE accepted = ?", (first,)).fetchone()
        records, commits, size = connection.execute(
            """
            SELECT count(*), count(root), avg(
                length(stream) + length(kind) + coalesce(length(name), 0) + coalesce(length(path), 0) + length(at)
                + length(facts) + coalesce(length(data), 0) + coalesce(length(salt), 0) + length(leaf))
            FROM records WHERE seq > ? AND stream NOT LIKE '/%'""",
            (warm,),
        ).fetchone()
    return {
        "activities a second": activities / watch.passed,
        "records a second": records / watch.passed,
        "microseconds of processor a record": watch.worked / records * 1e6,
        "records an activity": records / activities,
        "records a commit": records / commits,
        "bytes a record": size,
    }
