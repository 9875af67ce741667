"""Where the next COMMIT takes place: in the loop, or in its thread.

On a fast disk a COMMIT costs less than the hop to a thread, so it stays in the loop. On a slow one the loop would
stand still, so it leaves. But beside a task that keeps the loop busy the thread's answer comes late: when SQLite
returns, the thread must wait for the interpreter lock. That wait cannot be told apart from the COMMIT within the
thread, so the round trip is compared with what a COMMIT takes in the loop. A round trip that is late by more than
that brings the COMMIT back for a while, twice as long each time in a row; and now and then one is done in the loop to
know what it takes there.
"""

from __future__ import annotations

SLOW = 0.001
"""Seconds: a COMMIT that takes longer on average leaves the loop. Below, the hop costs more than it saves."""

WEIGHT = 0.1
"""What the newest measurement counts in an average."""

PROBED_EVERY = 64
"""COMMITs in the thread after which one is done in the loop."""

BACK_FIRST = 64
BACK_LONGEST = 8192
"""COMMITs that stay in the loop after the thread was late, from the first time to the longest."""


class CommitPlace:
    """Decides from what was measured; knows neither loop nor thread."""

    __slots__ = ("_back", "_back_next", "_in_loop", "_in_thread", "_since_probe")

    def __init__(self) -> None:
        self._in_loop = 0.0
        self._in_thread: float | None = None
        self._back = 0
        self._back_next = BACK_FIRST
        self._since_probe = 0

    def is_loop(self) -> bool:
        """Whether the next COMMIT takes place in the loop."""
        return self._in_loop < SLOW or self._back > 0 or self._since_probe >= PROBED_EVERY

    def took_in_loop(self, seconds: float) -> None:
        """A COMMIT in the loop took so long."""
        self._in_loop += (seconds - self._in_loop) * WEIGHT
        self._since_probe = 0
        if self._back:
            self._back -= 1

    def took_in_thread(self, seconds: float) -> None:
        """A COMMIT in the thread took so long, there and back."""
        self._since_probe += 1
        average = self._in_thread
        self._in_thread = average = seconds if average is None else average + (seconds - average) * 4 * WEIGHT
        if average > 2 * self._in_loop:
            self._back, self._back_next = self._back_next, min(2 * self._back_next, BACK_LONGEST)
            self._in_thread = None
        elif self._since_probe >= PROBED_EVERY:
            self._back_next = BACK_FIRST
