"""Which records a fork takes over: everything but the call at which it forks, and what followed from that.

A scope's calls come one after another, so what follows a call in its own scope is certain, and so is what follows the
call that opened the scope, around it. Branches beside it stay as they are. Only where something was done to them on
account of what is dropped is that dropped too: the end of a branch that lost, with the cleanup that it led to; a call
that a cancel scope of the user's own ended.

The tasks of a nursery of the user's own are not recorded, so what was begun before the dropped outcome was there is
taken to have run beside it, and what was begun after it to have followed from it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from engine.activities.history import is_outcome, superseded_at, was_never_begun
from engine.activities.paths import around, is_within, opener_of, scope_of
from engine.journal import StoredRecord

_LOST = ("cancelled", "late")
"""The outcomes of branches that others decided about."""

_NO_CALLS = ("branch.ended", "value.drawn")
"""Records with a path that have no place in the order of their scope's calls."""

_OPENINGS = ("scope.opened", "timer.set", "step.intended", "step.heartbeat", "child.started")
"""Records with which calls begin."""

_KEPT_WHOLE = ("message.received",)
"""Records without a path that a fork takes over: what was taken by dropped calls is unread again."""


@attrs.define(slots=True)
class _Call:
    """A call, with its records in order; none of them where all were superseded."""

    path: str
    first: StoredRecord
    live: list[StoredRecord] = attrs.field(factory=list)

    @property
    def outcome(self) -> StoredRecord | None:
        """The record that ended it, if it ended."""
        return next((record for record in reversed(self.live) if is_outcome(record)), None)

    @property
    def began(self) -> str:
        """The instant at which it began, as far as the records tell."""
        started: str = self.first.facts.get("started", self.first.at)
        return started


def forkable(records: Sequence[StoredRecord]) -> list[str]:
    """The paths at which an activity can be forked: those of its calls, in order.

    Args:
        records: those of its present generation, in order.
    """
    return list(_Selection(records).of_path)


def near(path: str, paths: Iterable[str]) -> list[str]:
    """The paths that look most like one that is none of them; the last ones, where none does."""
    known = list(paths)
    return difflib.get_close_matches(path, known, n=5, cutoff=0.5) or known[-5:]


@attrs.frozen
class TakenOver:
    """What a fork takes over.

    Attributes:
        records: the records, in order.
        entered: for each branch of a limited map that waited for its slot, the instant that `ctx.now()` gave there.
    """

    records: Sequence[StoredRecord]
    entered: Mapping[str, str]


def taken_over(records: Sequence[StoredRecord], at: str) -> TakenOver | None:
    """What a fork takes over.

    Args:
        records: those of the activity's present generation, in order.
        at: the path of a call, or of a branch, which is to be done anew.

    Returns:
        It; `None` where nothing is recorded under the path.
    """
    selection = _Selection(records)
    return TakenOver(list(selection.kept()), selection.entered()) if selection.cut_at(at) else None


class _Selection:
    """The records of one generation, and what of them is dropped.

    Attributes:
        of_path: every call by its path, in the order of their first records.
    """

    def __init__(self, records: Sequence[StoredRecord]) -> None:
        superseded = superseded_at(records)
        self.of_path: dict[str, _Call] = {}
        # The calls of each scope, in order, and where each stands there.
        self._scopes: dict[str, list[_Call]] = {}
        self._place: dict[str, int] = {}
        self._ends: dict[str, StoredRecord] = {}
        # The ends by which others may have lost, by the call that opened their scope; and all cleanups.
        self._deciding: dict[str, list[StoredRecord]] = {}
        self._cleanups: list[_Call] = []
        self._cancelling: StoredRecord | None = None
        # For each branch of a user's own nursery the first call in it; and those branches, by the scope they stand in.
        self._first_in: dict[str, _Call] = {}
        self._own_branches: dict[str, list[str]] = {}
        self._live: list[StoredRecord] = []
        for record in records:
            if record.kind == "activity.cancelling":
                self._cancelling = self._cancelling or record
            # A restart forgets how a call ended, not that it was begun.
            live = record.path is None or record.kind in _OPENINGS or record.seq >= superseded.get(record.path, 0)
            if record.path is not None:
                self._read(record, record.path, live=live)
            if live:
                self._live.append(record)
        for branch, end in sorted(self._ends.items(), key=lambda entry: entry[1].seq):
            opener = opener_of(branch)
            if opener is not None and end.facts["outcome"] in self._outcomes_that_decide(opener):
                self._deciding.setdefault(opener, []).append(end)
        self._calls_dropped: set[str] = set()
        self._branches_dropped: set[str] = set()
        self._records_dropped: set[int] = set()
        self._first_dropped: dict[str, int] = {}

    def _outcomes_that_decide(self, opener: str) -> tuple[str, ...]:
        opened = self.of_path.get(opener)
        return ("value", "error") if opened and opened.first.facts.get("of") == "race" else ("error",)

    def _read(self, record: StoredRecord, path: str, *, live: bool) -> None:
        if record.kind in _NO_CALLS:
            if live and record.kind == "branch.ended":
                self._ends[path] = record
            return
        call = self.of_path.get(path)
        if call is None:
            if not live and was_never_begun(record):
                return
            call = self.of_path[path] = _Call(path, record)
            calls = self._scopes.setdefault(scope_of(path), [])
            self._place[path] = len(calls)
            calls.append(call)
            if record.facts.get("of") == "cleanup":
                self._cleanups.append(call)
            for branch in around(path):
                is_own = branch and opener_of(branch) is None and branch not in self.of_path
                if is_own and branch not in self._first_in:
                    self._first_in[branch] = call
                    self._own_branches.setdefault(scope_of(branch), []).append(branch)
        if live:
            call.live.append(record)

    # ------------------------------------------------------------------------------------------------ cutting

    def cut_at(self, at: str) -> bool:
        """Drop what stands under the path, and what followed from it; whether anything stands there."""
        call = self.of_path.get(at)
        if call is not None:
            first, outcome = call.first.seq, call.outcome
            self._cut(call, outcome)
        elif at and (inside := [call for call in self.of_path.values() if is_within(call.path, at)]):
            # A whole branch.
            first, outcome = inside[0].first.seq, self._ends.get(at)
            self._branches_dropped.add(at)
            self._drop_end(at)
            self._drop_around(at, outcome)
        else:
            return False
        if outcome is not None:
            self._drop_abandoned_after(outcome, scope_of(at))
        cancelling = self._cancelling
        if cancelling is not None and (cancelling.seq > first or call is self._first_cleanup_after(cancelling)):
            self._drop_cancel(cancelling)
        self._drop_losers()
        self._drop_after_the_superseded()
        self._drop_intents()
        return True

    def _cut(self, call: _Call, outcome: StoredRecord | None) -> None:
        """Drop a call, what follows it in its scope, and what follows that scope in those around it."""
        scope = scope_of(call.path)
        self._drop_from(scope, self._place[call.path], outcome)
        self._drop_around(scope, outcome)

    def _drop_around(self, scope: str, outcome: StoredRecord | None) -> None:
        while scope:
            outer = scope_of(scope)
            opener = opener_of(scope) or (scope if scope in self.of_path else None)
            self._drop_end(scope)
            if opener is None:
                # A nursery of the user's own: the task that opened it may have gone on beside.
                calls = self._scopes.get(outer, [])
                place = next((at for at, call in enumerate(calls) if _follows(call, outcome)), len(calls))
            else:
                self._drop_outcome(opener)
                place = self._place.get(opener, -1) + 1
            self._drop_from(outer, place, outcome)
            scope = outer

    def _drop_from(self, scope: str, place: int, outcome: StoredRecord | None) -> None:
        """Drop a scope's calls from one on, and the branches that were begun in it after the outcome."""
        for call in self._scopes.get(scope, [])[place:]:
            self._calls_dropped.add(call.path)
            self._first_dropped[scope] = min(self._first_dropped.get(scope, call.first.seq), call.first.seq)
        for branch in self._own_branches.get(scope, ()):
            if _follows(self._first_in[branch], outcome):
                self._branches_dropped.add(branch)

    def _drop_end(self, branch: str) -> None:
        end = self._ends.get(branch)
        if end is not None:
            self._records_dropped.add(end.seq)

    def _drop_outcome(self, opener: str) -> None:
        """Have the call that opened a scope go on: its opening stays."""
        call = self.of_path.get(opener)
        if call is not None:
            self._records_dropped.update(record.seq for record in call.live if record.kind not in _OPENINGS)

    # ------------------------------------------------------------------------------------------------ what it led to

    def _drop_abandoned_after(self, outcome: StoredRecord, scope: str) -> None:
        """Drop the calls elsewhere that a cancel scope of the user's own ended after the dropped outcome: it may have
        been on its account, and then the same cancel would never come."""
        for call in self.of_path.values():
            ended = call.outcome
            if ended is None or ended.kind != "call.abandoned" or ended.seq <= outcome.seq:
                continue
            if not self._is_dropped(ended) and not _beside(scope, scope_of(call.path)):
                self._cut(call, outcome)

    def _first_cleanup_after(self, cancelling: StoredRecord) -> _Call | None:
        """The first thing that a cancel led to: a fork at it goes on as if there had been no cancel."""
        return next((call for call in self._cleanups if call.first.seq > cancelling.seq), None)

    def _drop_cancel(self, cancelling: StoredRecord) -> None:
        """Drop a cancel that came after the fork's place, and the cleanups that it led to."""
        self._records_dropped.add(cancelling.seq)
        self._drop_cleanups("", cancelling.seq)

    def _drop_losers(self) -> None:
        """Have branches go on that lost on account of what is dropped."""
        for branch, end in self._ends.items():
            if end.facts["outcome"] in _LOST and end.seq not in self._records_dropped:
                cause = self._why_lost(branch, kept=False)
                if cause is not None and self._why_lost(branch, kept=True) is None:
                    self._drop_end(branch)
                    self._drop_cleanups(branch, cause)
                    if end.facts.get("returned"):
                        # The message that it gave back stands in its place again, and it waits for one.
                        self._cut(self._scopes[branch][-1], None)

    def _why_lost(self, branch: str, *, kept: bool) -> int | None:
        """The record that decided about a branch, its own scope's or one around it; of those that are kept alone, or of
        all."""
        causes = [] if self._cancelling is None else [self._cancelling]
        for scope in [branch, *around(branch)]:
            causes += self._deciding.get(opener_of(scope) or "", ())
        end = self._ends[branch].seq
        seqs = [cause.seq for cause in causes if cause.seq < end and not (kept and self._is_dropped(cause))]
        return min(seqs, default=None)

    def _drop_cleanups(self, scope: str, after: int) -> None:
        """Drop the cleanups that were entered within a scope after a record, and what followed them."""
        for call in self._cleanups:
            first = call.first
            if first.seq > after and is_within(call.path, scope) and not self._is_dropped(first):
                self._cut(call, call.outcome)

    def _drop_after_the_superseded(self) -> None:
        """What stands after a call of which nothing is left was done on its account."""
        for scope, calls in self._scopes.items():
            place = next((at for at, call in enumerate(calls) if not call.live), len(calls))
            self._drop_from(scope, place, None)

    def _drop_intents(self) -> None:
        """What the original was about to do, or waits for, the fork does by itself: a step at most once, a child."""
        for calls in self._scopes.values():
            last = next((call for call in reversed(calls) if call.path not in self._calls_dropped), None)
            if last is not None and last.outcome is None:
                self._records_dropped.update(
                    record.seq for record in last.live if record.kind in ("step.intended", "child.started")
                )

    # ------------------------------------------------------------------------------------------------ what is kept

    def _is_dropped(self, record: StoredRecord) -> bool:
        path = record.path
        if record.seq in self._records_dropped:
            return True
        if path is None:
            return False
        if path in self._calls_dropped or path in self._branches_dropped:
            return True
        if record.kind == "value.drawn" and record.seq > self._first_dropped.get(scope_of(path), record.seq):
            return True
        inside = [path, *around(path)] if record.kind == "branch.ended" else around(path)
        return any(
            scope in self._branches_dropped or scope in self._calls_dropped or opener_of(scope) in self._calls_dropped
            for scope in inside
        )

    def kept(self) -> Iterator[StoredRecord]:
        """What a fork takes over, in order."""
        for record in self._live:
            wanted = record.path is not None or record.kind in _KEPT_WHOLE or record is self._cancelling
            if wanted and not self._is_dropped(record):
                yield record

    def entered(self) -> dict[str, str]:
        """For each kept branch of a limited map that had to wait for its slot, the instant at which it had it."""
        ends: dict[str, list[StoredRecord]] = {}
        for branch, end in sorted(self._ends.items(), key=lambda entry: entry[1].seq):
            ends.setdefault(opener_of(branch) or "", []).append(end)
        found: dict[str, str] = {}
        for branch, calls in self._scopes.items():
            opened = self.of_path.get(opener_of(branch) or "")
            limit = None if opened is None else opened.first.facts.get("limit")
            if opened is None or limit is None or self._is_dropped(calls[0].first):
                continue
            # Branches are entered in their order, each past the limit when one has ended.
            place = int(branch[len(opened.path) + 1 : -1]) - limit
            if 0 <= place < len(ends.get(opened.path, ())):
                found[branch] = ends[opened.path][place].at
        return found


def _follows(call: _Call, outcome: StoredRecord | None) -> bool:
    """Whether a call was begun after an outcome, and so may have followed from it."""
    return outcome is not None and call.first.seq > outcome.seq and call.began >= outcome.at


def _beside(scope: str, other: str) -> bool:
    """Whether two scopes stand in different branches of one call, so that no cancel scope reaches from one into the
    other."""
    inner = [scope, *around(scope)]
    outer = [other, *around(other)]
    while inner and outer and inner[-1] == outer[-1]:
        inner.pop()
        outer.pop()
    if not inner or not outer:
        return False
    opener = opener_of(inner[-1])
    return opener is not None and opener == opener_of(outer[-1])
