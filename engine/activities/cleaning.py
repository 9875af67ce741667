"""`ctx.cleanup`: where an activity that is cancelled still takes steps.

A cleanup is a scope, whose calls have paths of their own (`cleanup/release`). It is shielded from every cancel around
it, recorded or not, but not from the fence: a run that is given up cleans nothing up, since it will go on. What was
begun in one life goes on in the next, with its whole allowance.

The allowance is the engine's own cancel of the block. It is recorded when it is over (`timer.fired`), comes in its turn
like any other cancel, and the block raises an error then, so that a restart of the activity tries the rest anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import orjson
import trio

from engine.activities.cancelling import Cancellable, open_within
from engine.activities.definition import check_timeout
from engine.errors import WaitTimeoutError

if TYPE_CHECKING:
    from engine.activities.context import Context
    from engine.activities.history import RecordedCall
    from engine.activities.run import Run
    from engine.activities.scopes import Scope


@attrs.define(eq=False)
class Cleanup:
    """An open cleanup.

    Attributes:
        run: its run.
        context: whose block it is.
        scope: the scope that it stands in.
        path: its path.
        digest: commitment to its arguments, of which it has none.
        outer: the cleanup around it, if there is one.
        left: whether its block was left.
        is_late: whether it is recorded that its allowance was over before its block was left.
        cancel_scope: shields the block, and cancels it when the allowance is over.
    """

    run: Run
    context: Context
    scope: Scope
    path: str
    digest: str
    outer: Cleanup | None
    left: bool = False
    is_late: bool = False
    cancel_scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))

    def cancel(self) -> None:
        self.is_late = self.run.has_cancels = True
        self.cancel_scope.cancel(reason="the allowance of this cleanup is over")
        self.run.wake_doomed()

    def all(self) -> Iterator[Cancellable]:
        yield from open_within(self.context._fork, self)
        yield self

    async def watch(self, within: float) -> None:
        """Cancel the block when its allowance is over, and that is recorded."""
        run = self.run
        await trio.sleep(within)
        while run.replay is not None:
            await run.replay.frontier()
        if run.fenced or self.left:
            return
        self.is_late = True
        facts = f'{self.scope.facts},"digest":"{self.digest}","for":"cleanup"}}'
        seq = run.journal.append(run.id, "timer.fired", path=self.path, run=run.number, at=run.stamp(), facts=facts)
        await run.deliver(seq, self)


@asynccontextmanager
async def cleaning(context: Context, within: float | None) -> AsyncIterator[None]:
    """The block of `ctx.cleanup`; see there."""
    if within is not None:
        check_timeout("ctx.cleanup", within)
    run = context._run
    context._use()
    if run.held:
        with trio.CancelScope(shield=True):
            await run.hold()
    path = context._scope.next_path("cleanup")
    digest = run.digest("[]")
    recorded = run.match(context._scope, "cleanup", path, digest)
    if recorded is None:
        ended = run.branches.get(context._scope.path)
        if ended is not None:
            run.diverge(f"the end of branch {ended.path}", f"cleanup {path}")
        # The cancel that led here may have ended calls before they left a record; they are asked for again at replay.
        cut = f',"cut":{orjson.dumps(context._cut).decode()}' if context._cut else ""
        context._record("scope.opened", path, f'"digest":"{digest}","of":"cleanup"{cut}')
    cleanup = Cleanup(run, context, context._scope, path, digest, context._shelter)
    run.cleanup_began(cleanup)
    if within is not None and (recorded is None or recorded.late is None):
        run.send(cleanup.watch, within)
    error: BaseException | None = None
    context._cut = []
    with cleanup.cancel_scope:
        fork = context._fork
        context._scope, context._shelter, context._fork = run.scope(path, cleanup.scope.last_seq), cleanup, None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            left_over, context._cut = context._scope.left, []
            context._scope, context._shelter, context._fork = cleanup.scope, cleanup.outer, fork
            cleanup.left = True
            run.left()
            with trio.CancelScope(shield=True):
                await _end(cleanup, recorded, error, left_over)
    if run.fenced:
        await run.hold()
    if cleanup.is_late:
        late = WaitTimeoutError(f"{path} took longer than its allowance; a restart tries anew what it has not done")
        run.remember(late, frozenset((path,)))
        raise late


async def _end(
    cleanup: Cleanup, recorded: RecordedCall | None, error: BaseException | None, left_over: RecordedCall | None
) -> None:
    """Record that the block was left, when all that was recorded in it was given to it."""
    run, context, path = cleanup.run, cleanup.context, cleanup.path
    if not run.fenced:
        if left_over is not None:
            run.diverge(str(left_over), f"the end of {path}")
        if recorded is not None and recorded.outcome is not None:
            await context._turn(recorded.outcome)
        else:
            if run.replay is not None:
                await run.replay.frontier()
            if run.held:
                await run.hold()
            origins = run.origins_of(error) if error is not None else frozenset()
            seq, at = context._record(
                "scope.ended", path, f'"decided":null,"origins":{orjson.dumps(sorted(origins)).decode()}'
            )
            await run.settle(seq, context)
            run.give(context._scope, seq, at)
    run.cleanup_ended(cleanup)
