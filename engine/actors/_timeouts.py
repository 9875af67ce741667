"""The timeouts of all asks of one tree, and the task that ends those asks whose time is up.

A cancel scope for each ask would take longer than the ask itself. Here an ask is put down when it begins to wait, and
struck out when that ends; only where its instant comes before the one that the task waits for already is the task told.
So it wakes once in a timeout's length, perhaps in vain, and not for each ask. To a clock that jumps when all tasks wait
that is an instant to jump to, as any task's that sleeps.

Asks of one timeout are kept together. They began one after another, and so their instants come one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._inbox import Ask


class Timeouts:
    """Which asks end when. The rules stand in the module's docstring."""

    __slots__ = ("_asks", "_closed", "_scope", "_start_soon", "_started", "_wakes")

    def __init__(self, start_soon: Callable[..., object]) -> None:
        """
        Args:
            start_soon: starts a task in the tree's nursery; called with the first ask.
        """
        self._start_soon = start_soon
        self._asks: dict[float, dict[Ask, float]] = {}
        """By timeout, and each with its instant, in the order of these."""
        self._started = self._closed = False
        self._wakes = math.inf
        """When the task looks next."""
        self._scope: trio.CancelScope | None = None
        """What the task waits in."""

    def add(self, ask: Ask, timeout: float) -> None:
        """An ask has begun to wait."""
        instant = trio.current_time() + timeout
        asks = self._asks.get(timeout)
        if asks is None:
            self._asks[timeout] = {ask: instant}
        else:
            asks[ask] = instant
        if instant < self._wakes:
            self._wakes = instant
            self._tell()

    def discard(self, ask: Ask, timeout: float) -> None:
        """An ask waits no more, whether its time was up or not."""
        asks = self._asks[timeout]
        del asks[ask]
        if not asks:
            del self._asks[timeout]

    def close(self) -> None:
        """The tree has ended, and with it every ask."""
        self._closed = True
        if self._scope is not None:
            self._scope.cancel()

    def _tell(self) -> None:
        if self._scope is not None:
            self._scope.deadline = self._wakes
        elif not self._started:
            self._started = True
            self._start_soon(self._run, name="the timeouts of asks")

    @trio.lowlevel.enable_ki_protection
    async def _run(self) -> None:
        while not self._closed:
            with trio.CancelScope(deadline=self._wakes, shield=True) as self._scope:
                await trio.sleep_forever()
            self._look()

    def _look(self) -> None:
        now = trio.current_time()
        self._wakes = math.inf
        for timeout, asks in self._asks.items():
            for ask, instant in asks.items():
                if instant > now:
                    self._wakes = min(self._wakes, instant)
                    break
                ask.time_out(timeout)  # whoever asked strikes it out, when its task comes to run
