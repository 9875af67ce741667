"""What follows when a child has ended: plain functions from values to a decision, and the window of restarts.

Nothing here waits, starts or stops anything; the supervisor asks, and then does what it is told. The rules are OTP's
(`supervisor`, "Restart strategy, maximum restart intensity"):

| restart type | ended as `normal` | `crashed` | `shutdown` (a supervisor that gave up) |
|---|---|---|---|
| permanent | restart | restart | restart |
| transient | keep, stopped | restart | keep, stopped |
| temporary | forget | forget | forget |

A restart that would be one too many for the window is not made: the supervisor gives up instead.
"""

from __future__ import annotations

import math
import random
from collections import deque
from enum import Enum

from .specification import Backoff, Intensity, RestartType
from .watching import EndReason


class Decision(Enum):
    """What a supervisor does about a child that has ended by itself."""

    RESTART = "restart"
    """Start it again."""
    KEEP = "keep"
    """Keep its specification, stopped."""
    FORGET = "forget"
    """Take its specification away."""
    GIVE_UP = "give_up"
    """Stop all children and end: this restart would be one too many."""


def decide(restart: RestartType, reason: EndReason, window: RestartWindow, now: float) -> Decision:
    """What to do about a child that ended by itself; a restart is counted in the window.

    Args:
        restart: the child's restart type.
        reason: how it ended: `normal`, `crashed`, or `shutdown` for a supervisor that gave up.
        window: the restarts of its supervisor so far.
        now: the instant, in seconds of Trio's clock.
    """
    if restart is RestartType.TEMPORARY:
        return Decision.FORGET
    if restart is RestartType.TRANSIENT and reason is not EndReason.CRASHED:
        return Decision.KEEP
    return Decision.RESTART if window.admits(now) else Decision.GIVE_UP


class RestartWindow:
    """The restarts of one supervisor that still count against its intensity.

    It holds at most as many instants as the intensity allows, and none where that is without limit.
    """

    __slots__ = ("_instants", "_intensity")

    def __init__(self, intensity: Intensity) -> None:
        self._intensity = intensity
        self._instants: deque[float] = deque()

    def admits(self, now: float) -> bool:
        """Counts a restart at this instant, and tells whether the intensity bears it."""
        allowed, within = self._intensity.restarts, self._intensity.within
        if allowed == math.inf:
            return True
        instants = self._instants
        # As in OTP, a restart of exactly `within` seconds ago still counts.
        while instants and now - instants[0] > within:
            instants.popleft()
        if len(instants) + 1 > allowed:
            return False
        instants.append(now)
        return True


def backoff_delay(backoff: Backoff, restart: int) -> float:
    """How many seconds the restart of this number, counted from 1, is to wait."""
    try:
        delay = backoff.initial * backoff.factor ** (restart - 1)
    except OverflowError:  # so many restarts that the power is beyond any float, and so beyond the maximum
        delay = backoff.maximum
    if backoff.jitter:
        delay *= random.uniform(1 - backoff.jitter, 1 + backoff.jitter)
    return min(delay, backoff.maximum)
