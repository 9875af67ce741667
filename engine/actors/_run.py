"""A run of a child: how it begins, gets ready and is asked to end. What follows its end stands in `_end`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from ..errors import ActorStoppedError, ChildStartError, RestartIntensityError
from ._child import Child, Phase, Start
from .mailbox import Mailbox
from .specification import ChildSpec
from .watching import EndReason

if TYPE_CHECKING:
    from ._family import Family


class Readiness:
    """What an actor with a `task_status` keyword is given: a `trio.TaskStatus`."""

    __slots__ = ("_called", "_child", "_family")

    def __init__(self, family: Family, child: Child) -> None:
        self._family = family
        self._child = child
        self._called = False

    def started(self, value: object = None) -> None:
        """Says that the actor is ready. The value goes nowhere: callers get a ref.

        Raises:
            RuntimeError: it has said so before.
        """
        if self._called:
            raise RuntimeError("called 'started' twice in one run of an actor")
        self._called = True
        _is_ready(self._family, self._child)


@trio.lowlevel.disable_ki_protection  # what is around it is the supervisor's; the actor's own code ends at a Ctrl-C
async def _perform(child: Child, spec: ChildSpec[Any], readiness: Readiness | None) -> None:
    if readiness is None:
        await spec.actor(child.mailbox, *spec.args)
    else:
        await spec.actor(child.mailbox, *spec.args, task_status=readiness)


# ------------------------------------------------------------------------------------------------ beginning


async def start(family: Family, child: Child, *, forget: bool) -> None:
    """Starts a child that is stopped, and waits until it is ready. No checkpoint if it need not say so.

    Args:
        family: the children of its supervisor.
        child: the child.
        forget: whether its specification goes if it fails to start.

    Raises:
        ChildStartError: it raised before.
        ActorStoppedError: it was stopped before.
    """
    child.attempts = 0
    if not child.announces:
        spawn(family, child, Phase.RUNNING)
        return
    start = child.start = Start(forget=forget)
    spawn(family, child, Phase.STARTING)
    try:
        await start.settled.wait()
    except trio.Cancelled:
        await _abandon(family, child, start)
        raise
    if start.error is not None:
        error, start.error = start.error, None
        try:
            raise ChildStartError(child.spec.id) from error
        finally:
            del error
    if start.stopped:
        raise ActorStoppedError(f"{child.path} was stopped before it was ready")


async def _abandon(family: Family, child: Child, start: Start) -> None:
    """Whoever waited for a child to be ready was cancelled: so is the child, and gone when this returns."""
    if child.phase is Phase.STOPPED:  # it ended at the same moment
        return
    if start.forget:
        child.keep = False
    if child.phase is Phase.DUE:
        family.lay_down(child)
        return
    child.phase = Phase.STOPPING
    child.final = True
    family.tree.begin_stopping(child, 0)
    child.scope.cancel()
    with trio.CancelScope(shield=True):
        await child.ended()


@trio.lowlevel.enable_ki_protection
def spawn(family: Family, child: Child, phase: Phase, delay: float = 0.0) -> None:
    """Begins a run, in a task of its own, after that many seconds."""
    child.phase = phase
    child.stopped = child.final = False
    child.gone = None
    child.waiting = delay > 0
    child.scope = trio.CancelScope()
    if child.inbox is not None:
        child.inbox.open = True
        child.mailbox = Mailbox(child.inbox)
    if child.family is not None:
        child.family.prepare()
    if child.spec.backoff is not None:
        child.since = trio.current_time() if phase is Phase.RUNNING else math.inf
    start_soon: Callable[..., None] = family.nursery.start_soon  # mypy cannot see through two variadic calls
    family.tree.context.run(start_soon, _run, family, child, delay, name=child.path)


# Each variable of this function is there twice for each actor that runs, since Trio looks at its frame.
@trio.lowlevel.enable_ki_protection
async def _run(family: Family, child: Child, delay: float) -> None:
    error: Exception | None = None
    failure: RestartIntensityError | None = None
    try:
        with child.scope:
            if delay:
                await trio.sleep(delay)
                _backoff_is_over(family, child)
            if child.family is not None:
                failure = await child.family.live(Readiness(family, child).started)
            elif isinstance(child.spec, ChildSpec):
                await _perform(child, child.spec, Readiness(family, child) if child.announces else None)
    except Exception as raised:  # the user's code ran in there: whatever leaves it is a crash
        error = raised
    except BaseException:  # the whole supervisor is being cancelled, or the process interrupted
        family.ended(child, EndReason.KILLED, None)
        raise
    try:
        _ended(family, child, error, failure)
    finally:
        del error, failure  # their tracebacks hold this frame


def _ended(family: Family, child: Child, error: Exception | None, failure: RestartIntensityError | None) -> None:
    if child.phase is Phase.STOPPING:
        reason = EndReason.KILLED if child.scope.cancel_called else EndReason.SHUTDOWN
        family.ended(child, reason, None)
    elif error is not None:
        family.ended(child, EndReason.CRASHED, error)
    elif child.family is not None:
        family.ended(child, EndReason.SHUTDOWN, failure)
    else:
        family.ended(child, EndReason.NORMAL, None)


# ------------------------------------------------------------------------------------------------ being ready


def _backoff_is_over(family: Family, child: Child) -> None:
    child.waiting = False
    if not child.announces:
        runs_again(family, child)


@trio.lowlevel.enable_ki_protection  # the actor that says so is not protected
def _is_ready(family: Family, child: Child) -> None:
    """A child that says itself when it is ready has said so."""
    start = child.start
    if start is not None and child.phase is Phase.STARTING:
        child.start = None
        start.settled.set()
        child.phase = Phase.RUNNING
        if child.spec.backoff is not None:
            child.since = trio.current_time()
    elif child.phase is Phase.RESTARTING:
        runs_again(family, child)
    if child.turn is not None:
        child.turn.set()


def runs_again(family: Family, child: Child) -> None:
    """A child that was restarted is ready."""
    child.phase = Phase.RUNNING
    if child.spec.backoff is not None:
        child.since = trio.current_time()
    family.tree.report("restarted", child.path, child.spec.id, None, child.restarts)


# ------------------------------------------------------------------------------------------------ ending


@trio.lowlevel.enable_ki_protection
def ask_to_stop(family: Family, child: Child) -> None:
    """Asks a run to end; from now on it has its allowance. Asking twice is asking once."""
    if child.phase is Phase.STOPPING:
        return
    child.phase = Phase.STOPPING
    if child.mailbox is not None:
        child.mailbox._stop()
    if child.family is not None:
        child.family.close(final=child.final or family.final)
    allowance = child.spec.shutdown
    family.tree.begin_stopping(child, allowance)
    if child.waiting or allowance == 0:
        child.scope.cancel()
    else:
        child.scope.deadline = trio.current_time() + allowance
