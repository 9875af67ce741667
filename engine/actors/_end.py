"""What follows the end of a child's run. It follows at once, in the task of that run, and nothing here waits.

`restarts` decides; here it is done: the child is spawned again, or waits for its turn among its siblings (`_group`), or
stays stopped, or goes; or the supervisor ends.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from ..errors import RestartIntensityError
from . import _group
from ._child import AT_ONCE, Child, Phase
from ._run import runs_again, spawn
from .restarts import Decision, backoff_delay, decide, shuts_down
from .specification import RestartType
from .watching import EndReason

if TYPE_CHECKING:
    from ._family import Family


def ended(family: Family, child: Child, reason: EndReason, error: Exception | None) -> None:
    """A run has ended."""
    was, child.phase = child.phase, Phase.STOPPED
    if was is Phase.STOPPING:
        family.tree.end_stopping(child)
    child.stopped = True
    if child.mailbox is not None:
        child.mailbox._end_run(error)
        child.mailbox = None  # and with it the message that was in hand
    if not child.waiting:
        child.announce(reason, error)
    if reason is EndReason.CRASHED and child.start is None:
        family.tree.report("crashed", child.path, child.spec.id, error, child.restarts)
    gone, turn, child.turn = child.gone, child.turn, None
    if _comes_back_with_its_group(family, child, was):
        child.await_turn(due=AT_ONCE)
    else:
        _act(family, child, _decision(family, child, was, reason, error), error)
    child.grouped = False
    for waited_for in (gone, turn):
        if waited_for is not None:
            waited_for.set()


@trio.lowlevel.enable_ki_protection
def lay_down(family: Family, child: Child) -> None:
    """A child whose turn would have come is not started any more."""
    child.phase = Phase.STOPPED
    child.stopped = True
    kept = _kept(child)
    if child.start is not None:
        kept = _settle_start(child, stopped=True, error=None)
    _settle(family, child, kept, None)
    family.wake()  # perhaps the others had been waiting for its backoff


def look_back(family: Family) -> None:
    """All children of the list have started: what follows for those that have ended since is no longer put off."""
    if family.ended_significant and shuts_down(family.plan.auto_shutdown, _significant_left(family)):
        _shut_down(family)
    else:
        _group.mark_due(family)


# ------------------------------------------------------------------------------------------------ deciding


def _comes_back_with_its_group(family: Family, child: Child, was: Phase) -> bool:
    """Whether it ended for a sibling's restart, or just before it would have been asked to."""
    if not child.comes_back or not family.serving:
        return False
    return child.start is None or was is Phase.STOPPING  # else it failed to start by itself, which somebody waits for


def _kept(child: Child) -> Decision:
    return Decision.KEEP if child.keep and child.spec.restart is not RestartType.TEMPORARY else Decision.FORGET


def _decision(family: Family, child: Child, was: Phase, reason: EndReason, error: Exception | None) -> Decision:
    stopped = was is Phase.STOPPING or reason is EndReason.KILLED
    if child.start is not None:
        return _settle_start(child, stopped=stopped, error=error)
    if stopped or not family.serving or child.grouped:
        return _kept(child)
    if was is Phase.RESTARTING and reason is EndReason.NORMAL:  # OTP's `ignore`, in a restart
        return _kept(child)
    plan = family.plan
    decision = decide(
        child.spec.restart,
        reason,
        family.window,
        trio.current_time(),
        strategy=plan.strategy,
        significant=child.spec.significant,
        auto_shutdown=plan.auto_shutdown,
        others_left=child.spec.significant and _significant_left(family),
    )
    restarts = decision is Decision.RESTART or decision is Decision.RESTART_GROUP
    if restarts and trio.current_effective_deadline() == -math.inf:
        return _kept(child)  # all of this supervisor is cancelled, and so would the next run be, and the one after that
    return _kept(child) if decision is Decision.KEEP else decision


def _settle_start(child: Child, *, stopped: bool, error: Exception | None) -> Decision:
    """Tells whoever waited for it to be ready that it has ended."""
    start, child.start = child.start, None
    assert start is not None
    start.settled.set()
    start.stopped = stopped
    start.error = None if stopped else error
    if start.forget and (stopped or error is not None):
        return Decision.FORGET
    return _kept(child)


def _significant_left(family: Family) -> bool:
    """Whether a significant child is there, or is to come back."""
    return any(
        child.spec.significant
        and child.phase is not Phase.STOPPED
        and not (child.phase is Phase.STOPPING and child.final)
        for child in family.children.values()
    )


# ------------------------------------------------------------------------------------------------ acting


def _act(family: Family, child: Child, decision: Decision, error: Exception | None) -> None:
    if decision is Decision.RESTART:
        _restart(family, child)
    elif decision is Decision.RESTART_GROUP:
        child.await_turn(due=trio.current_time() + _delay(child))
        _group.mark(family, child)
    elif decision is Decision.GIVE_UP:
        _give_up(family, child, error)
        _settle(family, child, decision, error)
    elif decision is Decision.SHUT_DOWN:
        _settle(family, child, _kept(child), error)
        if family.listed:
            _shut_down(family)
        else:
            family.ended_significant = True  # `look_back` shuts down
    else:
        _settle(family, child, decision, error)


def _settle(family: Family, child: Child, decision: Decision, error: Exception | None) -> None:
    """Gives up what waits for a child that has ended for good."""
    # A supervisor that is ending, or failing to start, may be restarted; then its children's messages still wait.
    ending = not family.serving or (child is family.opening and error is not None)
    if not ending or family.final or child.final:
        if decision is Decision.FORGET and (child.final or not ending):
            family.forget(child)
        else:  # a temporary one, too, that its supervisor stops with itself: it is of the list that may come back
            child.retire()


def _delay(child: Child) -> float:
    """How long it waits for this restart."""
    backoff = child.spec.backoff
    if backoff is None:
        return 0.0
    if trio.current_time() - child.since >= backoff.maximum:
        child.attempts = 0
    child.attempts += 1
    return backoff_delay(backoff, child.attempts)


def _restart(family: Family, child: Child) -> None:
    child.restarts += 1
    delay = _delay(child)
    if delay > 0 or child.announces:
        spawn(family, child, Phase.RESTARTING, delay)
    else:
        spawn(family, child, Phase.RUNNING)
        runs_again(family, child)


def _give_up(family: Family, child: Child, error: Exception | None) -> None:
    failure = family.failure = RestartIntensityError(child.spec.id)
    failure.__cause__ = error
    family.tree.report("escalated", family.path, child.spec.id, error, child.restarts)
    family.close(final=family.itself is None)
    family.block.cancel()


def _shut_down(family: Family) -> None:
    family.close(final=family.itself is None)
    family.block.cancel()
