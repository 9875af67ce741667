"""An engine for a test, on a journal of its own."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path

import trio
import trio.testing

from engine import Context, activity, step
from engine.testing import MockClock, open_engine
from engine.testing.opening import open_engine_on

DAY = 86_400.0


@step
def work_in_a_thread(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@activity
async def patient(ctx: Context, number: int) -> tuple[int, dt.datetime]:
    await ctx.sleep(DAY)
    return number, ctx.now()


@activity
async def busy(ctx: Context) -> str:
    return await ctx.step(work_in_a_thread, 0.05, timeout=DAY)


async def test_a_day_takes_no_time_by_a_clock_that_is_given_to_the_engine_alone() -> None:
    async with open_engine(patient, clock=MockClock(dt.datetime(2026, 5, 1, tzinfo=dt.UTC))) as engine:
        number, at = await engine.run(patient, 3)
    assert number == 3
    assert at.date() == dt.date(2026, 5, 2)


def test_it_goes_by_the_clock_that_trio_runs_by() -> None:
    async def main() -> tuple[int, dt.datetime]:
        async with open_engine(patient) as engine:
            return await engine.run(patient, 1)

    number, at = trio.run(main, clock=MockClock(dt.datetime(2026, 5, 1, tzinfo=dt.UTC)))
    assert (number, at.date()) == (1, dt.date(2026, 5, 2))


async def test_it_goes_by_trios_own_mock_clock_too(autojump_clock: trio.testing.MockClock) -> None:
    async with open_engine(patient) as engine:
        before = autojump_clock.current_time()
        await engine.run(patient, 1)
    assert DAY <= autojump_clock.current_time() - before < DAY + 60


async def test_without_a_clock_that_jumps_it_is_now() -> None:
    @activity
    async def today(ctx: Context) -> dt.datetime:
        return ctx.now()

    before = dt.datetime.now(dt.UTC)
    async with open_engine(today) as engine:
        assert before <= await engine.run(today) <= dt.datetime.now(dt.UTC)


async def test_a_step_in_a_thread_may_take_its_time() -> None:
    async with open_engine(busy, clock=MockClock()) as engine:
        assert await engine.run(busy) == "done"


async def test_a_step_in_a_process_may_take_its_time() -> None:
    @activity
    async def parallel(ctx: Context) -> str:
        return await ctx.step(step(process=True)(os.path.basename), "a/b", timeout=DAY)

    # The process alone takes longer to start than a clock that jumped would allow.
    async with open_engine(parallel, clock=MockClock()) as engine:
        assert await engine.run(parallel) == "b"


async def test_each_has_a_journal_of_its_own_that_is_gone_with_it() -> None:
    async with open_engine(patient, clock=MockClock()) as first, open_engine(patient, clock=MockClock()) as second:
        paths = {first._journal.path, second._journal.path}
        assert all(path.exists() for path in paths)
        assert len(paths) == 2
    assert not any(path.exists() for path in paths)


async def test_one_on_a_journal_that_stays_goes_on_with_it(tmp_path: Path) -> None:
    clock = MockClock()
    async with open_engine_on(tmp_path / "it.db", patient, clock=clock) as engine:
        await engine.start(patient, 4, id="it")
    async with open_engine_on(tmp_path / "it.db", patient, clock=clock) as engine:
        assert (await engine.handle("it", patient).result())[0] == 4
