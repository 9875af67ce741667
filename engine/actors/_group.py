"""Restarts of several children at once: `rest_for_one` and `one_for_all`.

When a child ends and is to be restarted, those that are restarted with it are marked at once (`mark`): those that run
are `grouped`, those that are stopped are `DUE`, as is the child itself. No end of a marked child is a restart of its
own. The supervisor's task does the rest, one child at a time (`serve`): it stops the marked ones in reverse, waits
until the backoffs of all who are due are over, and starts them in order. Where another child ends meanwhile, or one
fails to start, there are new marks, and it begins again with what is left to do.

OTP's supervisor looks at the next end, and at the next call, when it is done with this one. Here calls are served all
the time, and an end is seen at once; but what is being started is waited for before anything is stopped, as there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from ._child import AT_ONCE, Child, Phase
from ._run import ask_to_stop, runs_again, spawn
from .restarts import affected
from .specification import Strategy

if TYPE_CHECKING:
    from ._family import Family


def mark(family: Family, due: Child) -> None:
    """Marks those that are restarted with a child that is due."""
    for id in affected(family.plan.strategy, tuple(family.children), due.spec.id):
        child = family.children[id]
        if child.phase is Phase.STOPPED:
            # While the list is being started those are the ones whose turn in the list has not come.
            if family.listed:
                child.await_turn(due=AT_ONCE)
        elif child.phase is not Phase.DUE:
            child.grouped = True
    family.marked = True
    family.wake()


def mark_due(family: Family) -> None:
    """Marks those that have begun since a child of the list became due: they are restarted with it too."""
    if family.plan.strategy is not Strategy.ONE_FOR_ONE:
        due = next((child for child in family.children.values() if child.phase is Phase.DUE), None)
        if due is not None:
            mark(family, due)


async def serve(family: Family) -> None:
    """Restarts what is to be restarted, until the supervisor is to end."""
    while not family.closed:
        if family.marked:
            family.marked = False
            await _stop_marked(family)
            await _wait_for_backoffs(family)
            await _start_due(family)
        else:
            await family.woken()


async def _stop_marked(family: Family) -> None:
    for child in reversed(list(family.children.values())):
        if family.closed:
            return
        if child.grouped:
            ask_to_stop(family, child)
            await child.ended()


async def _wait_for_backoffs(family: Family) -> None:
    while not family.marked and not family.closed:
        dues = [child.due for child in family.children.values() if child.phase is Phase.DUE]
        until = max(dues, default=-math.inf)
        if until <= trio.current_time():
            return
        with trio.move_on_at(until):
            await family.woken()


async def _start_due(family: Family) -> None:
    for child in list(family.children.values()):
        if family.marked or family.closed:
            return
        if child.phase is Phase.DUE:
            await _start(family, child)


async def _start(family: Family, child: Child) -> None:
    """Starts a child whose turn has come, and waits until it is ready or has ended; `_end` says what follows then."""
    if not child.announces:
        spawn(family, child, Phase.RUNNING)
        runs_again(family, child)
        return
    turn = child.turn = trio.Event()
    spawn(family, child, Phase.RESTARTING if child.start is None else Phase.STARTING)
    family.starting = child
    try:
        await turn.wait()
    finally:
        family.starting = None
