"""Parking: an activity that waits, and for long, is given up in memory; its row in the journal remains.

An activity is *at rest* when each of its tasks is in a durable wait (see `waiting`) or waits for its own branches. Then
nothing but the journal's clock, or what it waits for, can make it go on, and both are looked after without it. It is
parked when it is at rest and each of its waits has lasted for `park_after`, or will not end before that. One step in
flight, or a task that waits for anything else, keeps it. So does a cancel scope of the user's own with a deadline
around a wait: nobody would look at its time.

Whether it is parked is decided and recorded without a checkpoint between. Whatever comes afterwards finds a record that
says so, and makes the row due; whatever came before has ended a wait, and it is not at rest.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from engine.activities.replay import waits_for_children

if TYPE_CHECKING:
    from engine.activities.run import Run
    from engine.activities.waiting import Wait

LOOK_AGAIN = 1.0
"""Seconds after which one that may not be parked yet is looked at again, where `park_after` is less."""


class Parking:
    """Parks the activities of one engine. Those that wait for long, and are not to be parked yet, are looked at again.

    Attributes:
        look: called when there is one to look at, and before there was none.
    """

    def __init__(self) -> None:
        self.look: Callable[[], None] = _nobody_looks
        # By when to look at each; the longest registered first.
        self._resting: OrderedDict[Run, float] = OrderedDict()

    def begun(self, run: Run, wait: Wait) -> None:
        """A wait begins; its task does nothing but wait for its end."""
        park_after = run.around.park_after
        if wait.seconds <= park_after:
            return
        if _may_be_parked(run):
            run.execution.park(run, _waits_of(run), _first_due(run))
        elif run not in self._resting:
            self._resting[run] = trio.current_time() + max(park_after, LOOK_AGAIN if park_after else 0.0)
            if len(self._resting) == 1:
                self.look()

    def ended(self, run: Run) -> None:
        """A run has ended, or was given up."""
        self._resting.pop(run, None)

    @property
    def looks_at(self) -> float:
        """When to call `park`, by Trio's clock."""
        return next(iter(self._resting.values()), math.inf)

    def park(self) -> None:
        """Park those that have waited for long enough."""
        now = trio.current_time()
        while self._resting:
            run, at = next(iter(self._resting.items()))
            if at > now:
                break
            del self._resting[run]
            if _may_be_parked(run):
                run.execution.park(run, _waits_of(run), _first_due(run))
            elif any(wait.seconds > run.around.park_after for wait in run.waits.values()):
                self._resting[run] = now + max(run.around.park_after, LOOK_AGAIN)


def _nobody_looks() -> None:
    """In an engine that runs nothing."""


_KNOWN_TO_END = ("sleep", "sleep_until", "step")
"""The calls whose waits end at an instant that is known; those for others (a message, a child, an answer) stay in
memory, as does an activity that has children, is being cancelled or cleans up."""


def _may_be_parked(run: Run) -> bool:
    if run.cancelling is not None or run.cleanups or run.children:
        return False
    park_after = run.around.park_after
    now = trio.current_time()
    for wait in run.waits.values():
        # Waits whose end is known have an end that is known to lie beyond it.
        if not (now - wait.since >= park_after or park_after < wait.seconds < math.inf):
            return False
        if wait.is_bounded or wait.is_coming or wait.call not in _KNOWN_TO_END:
            return False
    return run.is_quiet and _is_at_rest(run)


def _is_at_rest(run: Run) -> bool:
    """Whether each task of the run waits, durably or for its own branches."""
    waiting = {wait.task for wait in run.waits.values()}
    tasks = [run.task]
    while tasks:
        task = tasks.pop()
        assert task is not None
        if task in waiting:
            waiting.discard(task)
        elif not waits_for_children(task):
            return False
        for nursery in task.child_nurseries:
            tasks.extend(nursery.child_tasks)
    # Else a task waits that is none of the function's own: it was started in a nursery around it.
    return not waiting


def _waits_of(run: Run) -> list[dict[str, Any]]:
    return [wait.described() for wait in run.waits.values()]


def _first_due(run: Run) -> str | None:
    return min((wait.due for wait in run.waits.values() if wait.due is not None), default=None)
