"""The time of a plain call: no wait takes any, and side by side the one that is due first ends first."""

from __future__ import annotations

import contextlib
import datetime as dt
import heapq
import itertools
from collections.abc import AsyncIterator, Iterator

import attrs
import trio
import trio.testing

from engine.errors import FakeContextError
from engine.testing.clock import EPOCH

_NEVER = dt.datetime.max.replace(tzinfo=dt.UTC)
_GLANCE = 0.001
"""Seconds between two looks at whether a step that waits for something real has ended."""


@attrs.define(order=True)
class _Wait:
    due: dt.datetime
    number: int
    over: trio.Event = attrs.field(factory=trio.Event, order=False)
    error: FakeContextError | None = attrs.field(default=None, order=False)


class Waits:
    """What the branches of one plain call wait for.

    A lone function's wait is over at once. Where branches run side by side, they wait until none of them can go on;
    then the earliest ends.

    Attributes:
        now: the instant that is now.
        entering: how many forks still have branches to begin; until then no wait ends.
    """

    def __init__(self) -> None:
        self.now = EPOCH
        self.entering = 0
        self._waits: list[_Wait] = []
        self._numbers = itertools.count()
        self._forks = 0
        self._steps = 0

    async def until(self, due: dt.datetime | None, path: str, never: str) -> None:
        """Wait.

        Args:
            due: until when; `None` for ever.
            path: the call that waits.
            never: what is wrong if nothing else can end the wait.

        Raises:
            FakeContextError: nothing can.
        """
        if self._forks:
            await self._wait(_Wait(due or _NEVER, next(self._numbers)), FakeContextError(path, never))
            return
        await trio.lowlevel.checkpoint()
        if due is None:
            raise FakeContextError(path, never)
        self.now = max(self.now, due)

    async def _wait(self, wait: _Wait, stuck: FakeContextError) -> None:
        wait.error = stuck if wait.due == _NEVER else None
        heapq.heappush(self._waits, wait)
        try:
            await wait.over.wait()
        except trio.Cancelled:
            self._waits = [other for other in self._waits if other is not wait]
            heapq.heapify(self._waits)
            raise
        if wait.error is not None:
            raise wait.error

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """A step's function runs: what it waits for is real."""
        self._steps += 1
        try:
            yield
        finally:
            self._steps -= 1

    @contextlib.asynccontextmanager
    async def side_by_side(self) -> AsyncIterator[None]:
        """Branches run within the block."""
        self._forks += 1
        try:
            if self._forks > 1:
                yield
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_the_earliest)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self._forks -= 1

    async def _end_the_earliest(self) -> None:
        while True:
            await trio.testing.wait_all_tasks_blocked()
            if self.entering:
                await trio.lowlevel.checkpoint()
                continue
            if self._steps or not self._waits:
                await trio.sleep(_GLANCE)
                continue
            wait = heapq.heappop(self._waits)
            if wait.error is None:
                self.now = max(self.now, wait.due)
            wait.over.set()
