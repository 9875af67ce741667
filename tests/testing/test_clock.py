"""The clock that is Trio's and the engine's in one."""

from __future__ import annotations

import datetime as dt
import time

import pytest
import trio
import trio.testing

from engine import DefinitionError
from engine.testing import MockClock
from engine.testing.clock import EPOCH, going_by

DAY = 86_400.0


def test_a_day_takes_no_time_and_is_seen_by_both_clocks() -> None:
    clock = MockClock()

    async def main() -> float:
        await trio.sleep(DAY)
        return trio.current_time()

    began = time.perf_counter()
    assert trio.run(main, clock=clock) == DAY
    assert time.perf_counter() - began < 60
    assert clock.now() == EPOCH + dt.timedelta(days=1)


def test_it_begins_where_it_is_told_to_and_speaks_of_utc() -> None:
    start = dt.datetime(2026, 3, 29, 1, 30, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    assert MockClock(start).now() == start
    assert MockClock(start).now().tzinfo is dt.UTC


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(DefinitionError, match="aware"):
        MockClock(dt.datetime(2026, 1, 1))


def test_without_autojump_it_stands_until_it_is_told_to_jump() -> None:
    clock = MockClock(autojump=False)
    done: list[str] = []

    async def wait() -> None:
        await trio.sleep(10)
        done.append("waited")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(9)
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
            clock.jump(1)

    trio.run(main, clock=clock)
    assert done == ["waited"]
    assert clock.now() == EPOCH + dt.timedelta(seconds=10)


def test_it_goes_forward_only() -> None:
    with pytest.raises(ValueError, match="backwards"):
        MockClock().jump(-1)


def test_it_does_not_jump_while_a_worker_thread_is_at_work() -> None:
    async def main() -> None:
        with trio.fail_after(DAY):
            await trio.to_thread.run_sync(time.sleep, 0.05)
        assert trio.current_time() == 0

    trio.run(main, clock=MockClock())


def test_whoever_waits_for_rest_goes_first() -> None:
    async def main() -> None:
        with trio.move_on_after(DAY):
            await trio.testing.wait_all_tasks_blocked()
            assert trio.current_time() == 0

    trio.run(main, clock=MockClock())


async def test_a_run_that_goes_by_another_clock_goes_by_it_for_a_block() -> None:
    clock, before = MockClock(), trio.current_time()
    with going_by(clock):
        assert before <= trio.current_time() < before + 60
        assert EPOCH <= clock.now() < EPOCH + dt.timedelta(seconds=60)
        await trio.sleep(DAY)
        assert clock.now() >= EPOCH + dt.timedelta(days=1)
    assert trio.lowlevel.current_clock() is not clock
    assert trio.current_time() < before + DAY
    with trio.move_on_after(0.01) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_run_that_goes_by_it_already_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    clock = MockClock()
    with going_by(clock):
        await trio.sleep(DAY)
        with going_by(clock):
            await trio.sleep(DAY)
        await trio.sleep(DAY)
        assert clock.now() == EPOCH + dt.timedelta(days=3)
    await trio.sleep(DAY)
    assert autojump_clock.current_time() == DAY


async def test_a_trio_that_does_not_let_its_clock_be_changed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.testing.clock.trio._core._run", object())
    with pytest.raises(DefinitionError, match="begin the run with it"), going_by(MockClock()):
        pass
