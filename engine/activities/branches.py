"""Branches side by side: what `ctx.map`, `ctx.gather` and `ctx.race` open, and how their decision is made.

Each branch has a scope of its own. The first error in journal order decides, in a race the first end, by a value or an
error: the other branches are cancelled and waited for, `scope.ended` closes the call, and the call gives the deciding
value, or raises the deciding exception itself. A branch that runs a plain step has no record but the step's; one that
runs a function with a context records its end.

At replay the same code runs. Slots are freed by the ends in the order in which they are handed out, so branches are
entered as they were. The losers are cancelled when the decision is handed out, as they were: what they had been given
before it, they have been given again by then, and what was recorded of them after it is given to them all the same.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import trio

from engine.activities.cancelling import Cancellable, open_within
from engine.activities.children import CURRENT_CONTEXT
from engine.activities.paths import branch_path
from engine.codec import encode_error
from engine.journal.log import quoted

if TYPE_CHECKING:
    from engine.activities.context import Context
    from engine.activities.run import Entry, Run


@attrs.define(slots=True, eq=False)
class Branch:
    """One branch of a fork.

    Attributes:
        index: its place.
        label: what it is called in its path: its place, or its name in a race.
        path: its path.
        context: what its function is given.
        entered: whether its function was begun, or is about to be.
        left: whether its function was left.
        returned: whether its function returned.
        value: what it returned.
        error: what it raised.
        origins: the failures that the error carries.
        seq: the record with which it ended.
    """

    index: int
    label: str
    path: str
    context: Context
    entered: bool = False
    left: bool = False
    returned: bool = False
    value: Any = None
    error: Exception | None = None
    origins: frozenset[str] = frozenset()
    seq: int = 0
    cancel_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def cancel(self) -> None:
        self.cancel_scope.cancel(reason="another branch of this scope decided it")
        run = self.context._run
        run.has_cancels = True
        run.wake_doomed()

    def all(self) -> Iterator[Cancellable]:
        """The branches nested in it, each before the one around it; it comes last."""
        yield from open_within(self.context._fork, self.context._born_in)
        yield self


class Fork:
    """The branches of one call."""

    def __init__(
        self,
        context: Context,
        path: str,
        functions: Sequence[Callable[[Context], Awaitable[Any]]],
        *,
        labels: Sequence[str] | None = None,
        limit: int | None = None,
        plain: bool = False,
        is_race: bool = False,
    ) -> None:
        """Prepare the branches.

        Args:
            context: the context whose call it is.
            path: the call's path.
            functions: one for each branch.
            labels: what each is called in its path; its place, unless given.
            limit: how many run at once; `None` for all.
            plain: whether each is a lone step, whose record is the branch's end.
            is_race: whether the first end decides, and not the first error.
        """
        self._run: Run = context._run
        self._path = path
        self._functions = functions
        self._limit = len(functions) if limit is None else limit
        self.plain = plain
        self.shelter = context._shelter
        self._is_race = is_race
        self._next = 0
        self._active = 0
        # Whether no further branch is entered; whether no further end decides; and whether one is recorded that does.
        self._closed = False
        self._is_settled = False
        self._is_decided = False
        if not plain:
            context._run.is_branched = True
        opened = context._scope.last_seq
        self.branches: list[Branch] = []
        for index in range(len(functions)):
            label = str(index) if labels is None else labels[index]
            inside = branch_path(path, label)
            branch = Branch(index, label, inside, context._branched(inside, opened))
            branch.context._cancel_scope = branch.cancel_scope
            self.branches.append(branch)

    @property
    def is_lost(self) -> bool:
        """Whether branches were cancelled together with one around them, which is about to be."""
        return any(branch.cancel_scope.cancel_called for branch in self.branches) and not any(
            self._may_decide(branch) for branch in self.branches
        )

    def _may_decide(self, branch: Branch) -> bool:
        """Whether the branch ended in a way that decides, if no other did before it."""
        return branch.error is not None or (self._is_race and branch.returned)

    async def join(self) -> Branch | None:
        """Run all branches to their ends; returns the deciding one, `None` where none decided. When it is cancelled,
        all branches are, and have ended when it returns: the cancellation comes at the caller's next checkpoint."""
        # A branch inherits the context variables of the call, not those of the branch whose slot it takes.
        self._variables = contextvars.copy_context()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            replay = self._run.replay
            if replay is not None:
                for branch in self.branches:
                    if self._run.has_records_in(branch.path):
                        replay.enterable[branch.path] = lambda branch=branch: self._enter(branch)  # type: ignore[misc]
            self._fill()
        if replay is not None:
            # A call that was cancelled before they had their turn enters them no more.
            for branch in self.branches:
                replay.enterable.pop(branch.path, None)
        decisive = [branch for branch in self.branches if self._may_decide(branch)]
        return min(decisive, key=lambda branch: branch.seq) if decisive else None

    def _fill(self) -> None:
        """Enter branches while there are slots."""
        while self._active < self._limit and self._next < len(self.branches) and not (self._closed or self._run.held):
            branch = self.branches[self._next]
            self._next += 1
            if not branch.entered:
                self._enter(branch)

    def _enter(self, branch: Branch) -> None:
        """Enter a branch. Those with code of their own begin one after another, so that the code before their first
        calls runs in their order, live as at replay."""
        branch.entered = True
        self._active += 1
        if self._run.replay is not None:
            self._run.replay.enterable.pop(branch.path, None)
        entry = None if self.plain else self._run.enter()
        self._variables.run(self._spawn, branch, entry)

    def _spawn(self, branch: Branch, entry: Entry | None) -> None:
        self._nursery.start_soon(self._branch, branch, entry, name=branch.path)

    async def _branch(self, branch: Branch, entry: Entry | None) -> None:
        """Run one branch to its end. Cancelled ends here: the caller's next checkpoint raises it anew, so that user
        code sees it bare and not in a group."""
        if entry is not None:
            await self._run.come_in(entry)
        outcome = "cancelled"
        with branch.cancel_scope:
            try:
                if not self.plain:
                    CURRENT_CONTEXT.set(branch.context)
                if not self._run.fenced:
                    self._run.begin_branch(branch.path)
                    branch.value = await self._functions[branch.index](branch.context)
                    branch.returned = True
                    outcome = "value"
            except trio.Cancelled:
                pass
            except Exception as error:  # the edge where user code runs: the error belongs to the call that forked
                branch.error = error
                outcome = "error"
            except BaseExceptionGroup as group:
                outcome = self._sort_out(branch, group)
        branch.left = True
        self._run.left()
        await self._end(branch, outcome)
        self._active -= 1
        self._fill()

    def _sort_out(self, branch: Branch, group: BaseExceptionGroup[BaseException]) -> str:
        """A nursery of the user's own raises groups, in which a cancellation may stand beside errors."""
        _, rest = group.split(trio.Cancelled)
        if rest is None:
            return "cancelled"
        if not isinstance(rest, Exception):
            raise rest
        branch.error = rest
        return "error"

    # ------------------------------------------------------------------------------------------------ ends

    async def _end(self, branch: Branch, outcome: str) -> None:
        run = self._run
        if run.fenced:
            return
        if branch.error is not None:
            branch.origins = run.origins_of(branch.error)
        if self.plain:
            branch.seq = branch.context._scope.last_seq
        elif branch.path in run.branches:
            await self._match_end(branch, outcome)
        elif outcome != "cancelled" or branch.context._is_cancelled:
            outcome = await self._record_end(branch, outcome)
        recorded = run.branches.get(branch.path)
        if outcome == "cancelled" or branch.context._is_cancelled:
            # The call as a whole is being cancelled, or was decided.
            self._closed = self._is_settled = True
        elif outcome == "late" or (recorded is not None and recorded.facts["outcome"] in ("cancelled", "late")):
            # It is decided, as far as is recorded: that is given, or handed out, after this.
            self._closed = True
        elif self._may_decide(branch) and not self._is_settled:
            await self._decide()

    async def _match_end(self, branch: Branch, outcome: str) -> None:
        """Compare the end with the recorded one, and wait for its turn."""
        run = self._run
        recorded = run.branches[branch.path]
        was = recorded.facts["outcome"]
        left = branch.context._scope.left
        if left is not None and outcome != "cancelled":
            run.diverge(str(left), f"the end of branch {branch.path}")
        if was != outcome and not (was == "late" and outcome in ("value", "error")):
            run.diverge(f"{was} of branch {branch.path}", f"{outcome} of branch {branch.path}")
        branch.seq = recorded.seq
        if was in ("cancelled", "late"):
            branch.context._scope.consume()
        if was in ("value", "error") and run.replay is not None:
            await run.replay.turn(recorded)
            run.give(branch.context._scope, recorded.seq, recorded.at)

    async def _record_end(self, branch: Branch, outcome: str) -> str:
        """Record the end, as what it is: `late` where another has decided before it. Where it counts, wait until it is
        durable and its turn has come."""
        run = self._run
        if branch.context._is_doomed and run.replay is None:
            await run.wait_for_cancel(branch.context)
        lost = branch.context._is_cancelled
        if not lost and run.replay is not None:
            # What is recorded of others came before it; but where it is cancelled meanwhile, it ends now.
            await run.replay.leave(lambda: branch.context._is_cancelled)
            if run.fenced:
                return outcome
            lost = branch.context._is_cancelled
        # Of two that end in one commit the first decides, though nobody was told yet.
        lost = lost or self._is_decided
        if lost and outcome != "cancelled":
            outcome = "late"
        facts = (
            f'{self.branches[0].context._parent_facts},"outcome":"{outcome}",'
            f'"origins":{orjson.dumps(sorted(branch.origins)).decode()}'
        )
        data = None
        if branch.error is not None:
            tree = encode_error(branch.error)
            facts += f',"error":{quoted(tree["type"])}'
            data = f'{{"error":{orjson.dumps(tree).decode()}}}'
        returned = branch.context._scope.consume() if lost else []
        if returned:
            facts += f',"returned":{orjson.dumps([message.facts["id"] for message in returned]).decode()}'
        at = run.stamp()
        branch.seq = run.journal.append(
            run.id, "branch.ended", path=branch.path, run=run.number, at=at, facts=facts + "}", data=data
        )
        self._is_decided = self._is_decided or (not lost and self._may_decide(branch))
        for message in returned:
            run.inbox.put(message)
        # The end of one that lost decides nothing, and nobody is given it.
        if not lost:
            await run.settle(branch.seq, branch.context)
            run.give(branch.context._scope, branch.seq, at)
        return outcome

    async def _decide(self) -> None:
        """A branch has decided, and that is durable: no further one is entered, and the others are cancelled."""
        self._closed = self._is_settled = self._is_decided = True
        if not self.plain:
            await self._run.land(self.losers())
        for other in self.branches:
            if other.entered and not other.left:
                other.cancel()

    def losers(self) -> Iterator[Cancellable]:
        """The branches with code of their own to be cancelled, in order, those nested in one before it."""
        for branch in self.branches:
            if branch.entered and not branch.left:
                yield from branch.all()
