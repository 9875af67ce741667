"""The peer: DBOS on SQLite, workflows of five steps.

DBOS runs a workflow in a thread of its pool, or as a coroutine; many are started by `DBOS.start_workflow`, or put into
a queue, which adds polling and writes. On SQLite its writers exclude one another in any case. So as not to compare with
DBOS at its worst, several ways are measured in each round:

- `threads`: 50 threads start workflows, then await their results, as Playbill's starters do; settings as DBOS has them.
- `coroutines`: the same with 50 tasks and `start_workflow_async`.
- `threads, WAL`: as `threads`, on a file that was put into WAL mode before, and with one connection, so that writers
  queue for it instead of polling for the file's lock. DBOS does not do this by itself, and its package does not mention
  it; it was the fastest way found.

There is a ratio over the faster of the first two, which are DBOS as it comes, and one over the third; both are shown,
and held against the same bar.

In each way `synchronous` is SQLite's default, FULL: a step is durable when it returns, as it is with Playbill. Nothing
is logged. DBOS opens its database, and runs one workflow, before the clock starts.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import importlib.util
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import Figures, Options
from tests.benchmarks.workload import STARTERS, STEPS

WAYS = ("threads", "coroutines", "threads, WAL")

INSTALL = "pip install -e '.[benchmark]'"


def is_installed() -> bool:
    """Whether there is a DBOS to compare with."""
    return importlib.util.find_spec("dbos") is not None


def workflows(options: Options) -> Figures:
    """Workflows a second, in one of `WAYS`."""
    dbos = importlib.import_module("dbos").DBOS
    database = Path(options.directory) / "dbos.sqlite"
    config: dict[str, Any] = {
        "name": "benchmark",
        "system_database_url": f"sqlite:///{database}",
        "log_level": "CRITICAL",
    }
    if options.way.endswith("WAL"):
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        config |= {"sys_db_pool_size": 1}
    dbos(config=config)
    try:
        seconds = _in_tasks(dbos, options.count) if options.way == "coroutines" else _in_threads(dbos, options.count)
    finally:
        dbos.destroy()
    return {"workflows a second": options.count / seconds}


def _in_threads(dbos: Any, count: int) -> float:
    def add_one(number: int) -> int:
        return number + 1

    step = dbos.step()(add_one)

    def counting(number: int) -> int:
        for _ in range(STEPS):
            number = step(number)
        return number

    workflow = dbos.workflow()(counting)

    def start_then_await(numbers: Iterator[int]) -> None:
        for number, handle in [(number, dbos.start_workflow(workflow, number)) for number in numbers]:
            _check(handle.get_result(), number)

    dbos.launch()
    start_then_await(iter([-1]))
    numbers = iter(range(count))  # a range's iterator may be shared by threads
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(STARTERS) as threads:
        for starter in [threads.submit(start_then_await, numbers) for _ in range(STARTERS)]:
            starter.result()
    return time.perf_counter() - began


def _in_tasks(dbos: Any, count: int) -> float:
    async def add_one(number: int) -> int:
        return number + 1

    step = dbos.step()(add_one)

    async def counting(number: int) -> int:
        for _ in range(STEPS):
            number = await step(number)
        return number

    workflow = dbos.workflow()(counting)

    async def start_then_await(numbers: Iterator[int]) -> None:
        started = [(number, await dbos.start_workflow_async(workflow, number)) for number in numbers]
        for number, handle in started:
            _check(await handle.get_result(), number)

    async def measured() -> float:
        await start_then_await(iter([-1]))
        numbers = iter(range(count))
        began = time.perf_counter()
        await asyncio.gather(*(start_then_await(numbers) for _ in range(STARTERS)))
        return time.perf_counter() - began

    dbos.launch()
    return asyncio.run(measured())


def _check(result: int, number: int) -> None:
    if result != number + STEPS:
        raise AssertionError(f"a workflow counted to {result}, not {number + STEPS}")
