"""What follows when a child has ended: plain functions from values to a decision, and the window of restarts.

Nothing here waits, starts or stops anything; the supervisor asks, and then does what it is told. The rules are OTP's
(`supervisor`, "Restart strategy, maximum restart intensity, automatic shutdown"):

| restart type | ended as `normal` | `crashed` | `shutdown` (a supervisor that gave up, or shut down) |
|---|---|---|---|
| permanent | restart | restart | restart |
| transient | keep, stopped | restart | keep, stopped |
| temporary | forget | forget | forget |

| strategy | a restart of | is one of |
|---|---|---|
| `one_for_one` | a child | that child |
| `rest_for_one` | a child | that child and those after it |
| `one_for_all` | a child | all children |

| automatic shutdown | the end of a significant child that is not restarted |
|---|---|
| `never` | changes nothing |
| `any_significant` | ends the supervisor |
| `all_significant` | ends the supervisor, if no other significant child is left |

A restart that would be one too many for the window is not made: the supervisor gives up instead.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from enum import Enum

from .specification import AutoShutdown, Backoff, Intensity, RestartType, Strategy
from .watching import EndReason


class Decision(Enum):
    """What a supervisor does about a child that has ended by itself."""

    RESTART = "restart"
    """Start it again."""
    RESTART_GROUP = "restart_group"
    """Stop those that are `affected` with it, and start all of them again."""
    KEEP = "keep"
    """Keep its specification, stopped."""
    FORGET = "forget"
    """Take its specification away."""
    SHUT_DOWN = "shut_down"
    """Keep or forget it, as its restart type says; then stop all children and end: it was significant."""
    GIVE_UP = "give_up"
    """Stop all children and end: this restart would be one too many."""


def decide(
    restart: RestartType,
    reason: EndReason,
    window: RestartWindow,
    now: float,
    *,
    strategy: Strategy = Strategy.ONE_FOR_ONE,
    significant: bool = False,
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
    others_left: bool = False,
) -> Decision:
    """What to do about a child that ended by itself; a restart is counted in the window.

    Args:
        restart: the child's restart type.
        reason: how it ended: `normal`, `crashed`, or `shutdown` for a supervisor that gave up or shut down.
        window: the restarts of its supervisor so far.
        now: the instant, in seconds of Trio's clock.
        strategy: its supervisor's.
        significant: whether its end can end its supervisor.
        auto_shutdown: its supervisor's.
        others_left: whether another significant child is there, or is to come back.
    """
    if restart is RestartType.PERMANENT or (restart is RestartType.TRANSIENT and reason is EndReason.CRASHED):
        if not window.admits(now):
            return Decision.GIVE_UP
        return Decision.RESTART if strategy is Strategy.ONE_FOR_ONE else Decision.RESTART_GROUP
    if significant and shuts_down(auto_shutdown, others_left):
        return Decision.SHUT_DOWN
    return Decision.FORGET if restart is RestartType.TEMPORARY else Decision.KEEP


def shuts_down(auto_shutdown: AutoShutdown, others_left: bool) -> bool:
    """Whether a supervisor ends with a significant child.

    Args:
        auto_shutdown: the supervisor's.
        others_left: whether another significant child is there, or is to come back.
    """
    if auto_shutdown is AutoShutdown.ALL_SIGNIFICANT:
        return not others_left
    return auto_shutdown is AutoShutdown.ANY_SIGNIFICANT


def affected(strategy: Strategy, order: Sequence[str], ended: str) -> Sequence[str]:
    """Who is restarted when a child is, itself among them, in the order in which they are started.

    Args:
        strategy: the supervisor's.
        order: the ids of all its children, in the order in which they were started.
        ended: the id of the child that is restarted.
    """
    if strategy is Strategy.ONE_FOR_ALL:
        return order
    if strategy is Strategy.REST_FOR_ONE:
        return order[order.index(ended) :]
    return (ended,)


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
