"""A clock that jumps: the time of day and Trio's time as one, so that a day's wait takes a test no time.

Trio takes only its own mock clock for one that jumps by itself, so `MockClock` is one. A test that is run by it needs
nothing else; where a run goes by another clock already, `going_by` changes that for a while.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import trio
import trio.testing

from engine.clock import Clock, SystemClock
from engine.errors import DefinitionError

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
"""When a clock begins that is not told otherwise: each run of a test sees the same instants."""

_GLANCE = 0.001
"""Seconds between two looks at whether those at work have ended."""


class _Derivable:
    """Lets a class derive from one of Trio's that are final, which for this one there is no other way to extend."""

    def __init_subclass__(cls) -> None:
        pass


class MockClock(_Derivable, trio.testing.MockClock):  # type: ignore[misc]  # it is final; see above
    """Wall time and Trio time as one, jumping to the next deadline when all tasks are blocked.

    It is given to Trio (`trio.run(main, clock=clock)`; pytest-trio does that with the fixture `playbill_clock`) and to
    the engine (`open_engine(..., clock=clock)`). Unlike Trio's own mock clock it does not jump while a worker thread or
    a worker process is at work: a step that is a plain function may take its time.
    """

    def __init__(self, start: dt.datetime = EPOCH, *, autojump: bool = True) -> None:
        """Make a clock that stands at an instant.

        Args:
            start: the instant; aware.
            autojump: whether it jumps by itself. One that does not stands still until `jump` is called.

        Raises:
            DefinitionError: the instant is naive.
        """
        if start.utcoffset() is None:
            raise DefinitionError(f"MockClock({start!r}): give an aware instant, as datetime.now(timezone.utc)")
        super().__init__(autojump_threshold=0.0 if autojump else math.inf)
        self._start = start.astimezone(dt.UTC)
        # What Trio's time was when the clock began.
        self._began = 0.0

    def now(self) -> dt.datetime:
        """The instant that is now: aware, in UTC."""
        return self._start + dt.timedelta(seconds=self.current_time() - self._began)

    def jump(self, seconds: float, /) -> None:
        """Go forward. Deadlines that are passed by it are seen at the next checkpoint.

        Args:
            seconds: how far.

        Raises:
            ValueError: it is less than 0.
        """
        super().jump(seconds)

    def _autojump(self) -> None:
        # Called by Trio's loop when all tasks are blocked. Without that it jumps as Trio's does.
        if _others_work():
            time.sleep(_GLANCE)
        else:
            super()._autojump()

    def _take_over(self, current_time: float) -> None:
        """Go on from what Trio's time is in a run that went by another clock."""
        ahead = current_time - self.current_time()
        self._virtual_base += ahead
        self._began += ahead


def _others_work() -> bool:
    """Whether a thread or a worker process is at work for the run: time goes on for them."""
    limiters = [trio.to_thread.current_default_thread_limiter()]
    parallel = sys.modules.get("trio_parallel")
    if parallel is not None:
        limiters.append(parallel.current_default_worker_limiter())
    return any(limiter.borrowed_tokens for limiter in limiters)


class TrioTime:
    """A wall clock that goes with Trio's, so that a mock clock's jumps are seen in the journal too."""

    def now(self) -> dt.datetime:
        return EPOCH + dt.timedelta(seconds=trio.current_time())


def wall_clock() -> Clock:
    """The wall clock that goes with the one that Trio runs by."""
    clock: Any = trio.lowlevel.current_clock()
    if isinstance(clock, MockClock):
        return clock
    return TrioTime() if isinstance(clock, trio.testing.MockClock) else SystemClock()


@contextlib.contextmanager
def going_by(clock: MockClock) -> Iterator[None]:
    """Have the running Trio go by this clock for the length of a block; nothing changes where it does already.

    Raises:
        DefinitionError: this Trio does not let its clock be changed.
    """
    before = trio.lowlevel.current_clock()
    if before is clock:
        yield
        return
    runner = _runner()
    threshold = runner.clock_autojump_threshold
    clock._take_over(before.current_time())
    runner.clock, runner.clock_autojump_threshold = clock, clock.autojump_threshold
    try:
        yield
    finally:
        runner.clock, runner.clock_autojump_threshold = before, threshold


def _runner() -> Any:
    """What Trio keeps of the run under way. It says so nowhere publicly, and so may change."""
    runner: Any = getattr(getattr(trio._core._run, "GLOBAL_RUN_CONTEXT", None), "runner", None)
    if not (hasattr(runner, "clock") and hasattr(runner, "clock_autojump_threshold")):
        raise DefinitionError(
            f"Trio {trio.__version__} does not let the clock of a run be changed; "
            "begin the run with it, by the fixture playbill_clock or trio.run(main, clock=clock)"
        )
    return runner
