"""How a cancel comes to an activity's code: in each branch at its frontier, one branch after another.

A cancel that was recorded comes in its turn among the outcomes, live as at replay: what was recorded before it is given
before it. From its record on, nothing begins outside `ctx.cleanup`; a call that would begin something waits until the
cancel has come to its branch, and raises it, again and again however often it is swallowed. Branches are cancelled
before the function that waits for them, the innermost first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

if TYPE_CHECKING:
    from engine.activities.branches import Fork
    from engine.activities.cleaning import Cleanup
    from engine.activities.context import Context
    from engine.activities.run import Run


class Cancellable(Protocol):
    """What the engine can cancel: a branch, a cleanup, the activity's function."""

    @property
    def left(self) -> bool:
        """Whether its code was left."""

    def cancel(self) -> None:
        """Have its code cancelled."""

    def all(self) -> Iterator[Cancellable]:
        """What is cancelled with it, in order; it comes last."""


@attrs.define(eq=False)
class Trunk:
    """The activity's own function, from which its branches grow.

    Attributes:
        run: its run.
        context: what it was given.
        left: whether it was left.
    """

    run: Run
    context: Context
    left: bool = False

    def cancel(self) -> None:
        self.run.cancel_scope.cancel(reason="the activity is cancelled")
        self.run.wake_doomed()
        self.run.send(limit_cancel, self.run)

    def all(self) -> Iterator[Cancellable]:
        yield from open_within(self.context._fork, None)
        yield self


def open_within(fork: Fork | None, shelter: Cleanup | None) -> Iterator[Cancellable]:
    """The branches with code of their own that a call has under way, those nested in one before it; none of a call that
    stands in a cleanup, which the cancel of what is around it does not reach.

    Args:
        fork: the branches of the call; `None` where none is under way.
        shelter: the cleanup that what is cancelled stands in itself.
    """
    if fork is not None and not fork.plain and fork.shelter is shelter:
        yield from fork.losers()


async def limit_cancel(run: Run) -> None:
    """Give a run up that does not come to its end after its cancel has come; the time that it spends in cleanups, which
    have allowances of their own, does not count."""
    left = run.around.cancel_within
    while left > 0:
        if run.cleanups:
            await run.cleanups_change()
        else:
            began = trio.current_time()
            with trio.move_on_after(left):
                await run.cleanups_change()
            left -= trio.current_time() - began
    if not run.fenced:
        await run.overdue()


async def raise_cancelled() -> None:
    """Raise a cancellation that has come, also where a scope of the user's own shields from it. A checkpoint.

    Raises:
        Cancelled: always.
    """
    await trio.lowlevel.checkpoint()
    cancelled: trio.Cancelled | None = None
    with trio.CancelScope() as scope:
        scope.cancel(reason="the activity is cancelled")
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as raised:
            cancelled = raised
    assert cancelled is not None
    raise cancelled
