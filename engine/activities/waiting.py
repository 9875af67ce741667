"""The durable wait: until an instant that is recorded, or until what is waited for comes.

`ctx.sleep`, the backoff between two attempts, and whatever else lets an activity wait, wait here. A wait stands in
`Run.waits` while it lasts, so that others can see what the activity waits for, and wake it. It ends in one of these
ways: what is waited for came; its time is over; a cancel scope of the user's own ended the call (`call.abandoned`); the
engine cancelled it; the run was given up, which nothing that the call would do survives.

What a wait records, before and after, is for its caller to do: the instant that it is *due* is recorded before it
begins, so that another life waits the rest. Within one life it runs on the monotonic clock.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING, Any

import attrs
import trio

from engine.clock import parse, stamp_of

if TYPE_CHECKING:
    from engine.activities.context import Context
    from engine.activities.run import Run


@attrs.define(eq=False)
class Wait:
    """A wait, as it is seen while it lasts.

    Attributes:
        call: which call waits, as `sleep`, or `step` for a backoff.
        path: the call's path.
        due: the instant at which its time is over; `None` where it has no end of its own.
        came: the instant of what it waited for, once that came.
        task: whose wait it is, while it lasts.
        since: when it began, by Trio's clock.
        seconds: how long it lasts at most.
        is_bounded: whether a cancel scope of the user's own may end it, by a deadline that nobody else sees.
    """

    call: str
    path: str
    due: str | None
    came: str | None = None
    task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)
    since: float = attrs.field(default=-math.inf, init=False)
    seconds: float = attrs.field(default=math.inf, init=False)
    is_bounded: bool = attrs.field(default=False, init=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def begin(self, run: Run, seconds: float) -> None:
        """The running task waits, at most so long."""
        self.task = trio.lowlevel.current_task()
        self.since = trio.current_time()
        self.seconds = seconds
        self.is_bounded = trio.current_effective_deadline() < run.bound
        self._scope.deadline = self.since + seconds

    @property
    def is_coming(self) -> bool:
        """Whether it is over, and its task is about to see that."""
        return self._scope.cancel_called

    def described(self) -> dict[str, Any]:
        """What is recorded of it when its activity is parked."""
        found = {"call": self.call, "path": self.path}
        return found if self.due is None else {**found, "due": self.due}

    def wake(self, at: str) -> None:
        """What is waited for came. It may come before the wait begins, or more than once: the first one counts.

        Args:
            at: the instant at which it came; if that is after the wait's end, the wait's end comes first, however late
                the engine looks.
        """
        if self.came is None or at < self.came:
            self.came = at
        self._scope.cancel()

    @property
    def is_over(self) -> bool:
        """Whether its time was over before what it waits for came."""
        return self.came is None or (self.due is not None and self.due < self.came)


async def wait(
    wait: Wait, context: Context, digest: str, *, seconds: float = math.inf, attempt: int | None = None
) -> bool:
    """Wait until what is waited for comes, or the wait's time is over, whichever was earlier.

    Args:
        wait: the wait; whoever is to wake it may have it already.
        context: whose call it is.
        digest: commitment to the call's arguments.
        seconds: how long until its time is over; see `rest_of`.
        attempt: for a step, the number of its last attempt.

    Returns:
        Whether it came; `False` if the time was over.

    Raises:
        FencedError: the run was given up, and the caller is shielded from the cancellation that says so.

    A checkpoint. Cancelling ends it, and records `call.abandoned` unless the engine cancels.
    """
    run = context._run
    wait.begin(run, seconds)
    run.waits[wait.path] = wait
    run.around.parking.begun(run, wait)
    try:
        with wait._scope:
            await run.hold()
    except trio.Cancelled:
        await context._abandoned(wait.call, wait.path, digest, attempt=attempt)
        raise
    finally:
        del run.waits[wait.path]
    if run.held:
        await run.hold()
    if run.has_cancels:
        await context._refuse_if_cancelled(wait.call, wait.path, digest)
    return not wait.is_over


LOOKS_AGAIN = 60.0
"""Seconds after which a wait until an instant looks at the wall clock again; for a long one, a tenth of its rest. So a
clock that is set is followed, and a wait of a year under a test's clock is a few hundred looks."""


async def wait_until(due: str, context: Context, call: str, path: str, digest: str) -> None:
    """Wait until an instant of the wall clock, whatever becomes of that clock meanwhile.

    Args:
        due: the instant.
        context: whose call it is.
        call: which call waits.
        path: the call's path.
        digest: commitment to the call's arguments.

    A checkpoint. Cancelling ends it, and records `call.abandoned` unless the engine cancels.
    """
    stamp = context._run.stamp
    rest = seconds_until(due, stamp())
    while True:
        await wait(Wait(call, path, due), context, digest, seconds=min(rest, max(LOOKS_AGAIN, rest / 10)))
        rest = seconds_until(due, stamp())
        if not rest:
            return


def seconds_until(due: str, now: str) -> float:
    """Seconds from now until an instant; 0 where it has passed."""
    return max(0.0, (parse(due) - parse(now)).total_seconds())


LATEST = "9999-12-31T23:59:59.999999Z"
"""The last instant that a record can hold; a wait that would end later ends then."""


def after(at: str, seconds: float) -> str:
    """The instant so many seconds after another."""
    try:
        return stamp_of(parse(at) + dt.timedelta(seconds=seconds))
    except OverflowError:
        return LATEST


def length_of(begun: str, due: str) -> float:
    """Seconds that a wait had at first."""
    return (parse(due) - parse(begun)).total_seconds()


def rest_of(begun: str, due: str, now: str) -> float:
    """Seconds that are left of a wait; never more than it had at first, though the clock went back."""
    return max(0.0, min(length_of(now, due), length_of(begun, due)))
