"""What becomes of an activity whose function was left by an exception: run it again, or not.

The rules, as plain functions of the records. An exception *carries* the failures of steps that led to it. Of these the
*open* ones are those that are not final and that nothing was done about: after them nothing was recorded in their
branch, nor in one around it, nor by a cleanup of a branch that was cancelled on their account, nor by a task that a
nursery of the user's own cancelled with them. Only open failures are
tried anew; a failure that was compensated never is, since that would do again what was undone. Where failures are
carried and none is open, a restart could only repeat them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Container, Iterable, Iterator, Sequence

import attrs

from engine.activities.history import SUPERSEDING, is_cleanup, was_never_begun
from engine.activities.paths import around, is_within, opener_of, scope_of
from engine.activities.replay import is_cancel
from engine.clock import parse
from engine.errors import ConcurrentContextError
from engine.journal import StoredRecord
from engine.policies import Restart, matches

_NOTHING_DONE = frozenset(
    {"branch.ended", "scope.ended", "note.added", "value.drawn", "step.resolved", "step.heartbeat"}
)
"""Records of calls that do not count as something done about a failure."""


@attrs.frozen(kw_only=True)
class Judgement:
    """What is to be recorded of an exception that left the function.

    Attributes:
        again: whether the function is run again.
        delay: seconds until then.
        why: if not, why: `fatal`, `interrupted`, `limit` or `acted_upon`.
        origins: the failures that the exception carries.
        open: those that nothing was done about.
        acted_upon: the others.
        interrupted: those among the others that nothing was done about, of steps whose only attempt was interrupted:
            what became of them somebody has to find out, and until then nothing follows.
        superseded: the paths whose outcomes the next run forgets.
    """

    again: bool
    delay: float = 0.0
    why: str = ""
    origins: Sequence[str] = ()
    open: Sequence[str] = ()
    acted_upon: Sequence[str] = ()
    interrupted: Sequence[str] = ()
    superseded: Sequence[str] = ()


def judge(
    error: BaseException,
    origins: Iterable[str],
    records: Sequence[StoredRecord],
    *,
    restart: Restart,
    fatal: Sequence[type[Exception]],
    now: dt.datetime,
) -> Judgement:
    """Decide what follows an exception that left the function.

    Args:
        error: the exception.
        origins: paths of the failures that it carries.
        records: the activity's records.
        restart: the activity's policy.
        fatal: the types after which it is never run again.
        now: the present instant.
    """
    carried = sorted(set(origins))
    unsettled = [path for path in carried if is_open(path, records)]
    acted_upon = [path for path in carried if path not in unsettled]
    unknown = [path for path in carried if stands_interrupted(path, records)]
    delay = restart.delay_after(restarts_that_count(records, within=restart.within, now=now))
    why = ""
    if isinstance(error, ConcurrentContextError) or matches(error, fatal):
        why = "fatal"
    elif unknown:
        why = "interrupted"
    elif carried and not unsettled:
        why = "acted_upon"
    elif delay is None:
        why = "limit"
    if why:
        return Judgement(
            again=False, why=why, origins=carried, open=unsettled, acted_upon=acted_upon, interrupted=unknown
        )
    return Judgement(
        again=True,
        delay=delay or 0.0,
        origins=carried,
        open=unsettled,
        acted_upon=acted_upon,
        superseded=superseded_by(unsettled, records),
    )


def is_open(path: str, records: Sequence[StoredRecord]) -> bool:
    """Whether the failure at this path is not final, and nothing was done about it."""
    failed = _failure(path, records)
    return failed is not None and not failed.facts.get("final") and _nothing_was_done(failed, records)


def stands_interrupted(path: str, records: Sequence[StoredRecord]) -> bool:
    """Whether the step at this path was interrupted, and nothing was done about it."""
    failed = _failure(path, records)
    return failed is not None and failed.kind == "step.interrupted" and _nothing_was_done(failed, records)


def _nothing_was_done(failed: StoredRecord, records: Sequence[StoredRecord]) -> bool:
    beside = _abandoned_beside(failed, records)
    if _acted_after(failed, records, aside={call.seq for call in beside}):
        return False
    # What a task does after its nursery was cancelled undoes something, and must not be undone twice.
    return not any(call.facts["nursery"] for call in _those_that_went_on(beside, records))


_FAILURES = ("step.failed", "child.ended", "step.interrupted", "step.resolved")


def _failure(path: str, records: Sequence[StoredRecord]) -> StoredRecord | None:
    """The last failure of this step, or the end of this cleanup's allowance; a step that was resolved with a value has
    none."""
    last = next(
        (
            record
            for record in reversed(records)
            if record.path == path and (record.kind in _FAILURES or is_cancel(record))
        ),
        None,
    )
    return None if last is None or (last.kind == "step.resolved" and "error" not in last.facts) else last


def _acted_after(last: StoredRecord, records: Sequence[StoredRecord], *, aside: Container[int]) -> bool:
    """Whether something was recorded after a failure by its branch, with the scopes that it opened, or by one around;
    ends, notes, and what is to be left aside, do not count."""
    assert last.path is not None
    branch, *outer = around(last.path)
    if is_cancel(last):
        # The cleanup itself, and its block: what cancels it there does not count.
        branch, outer = last.path, [branch, *outer]
    return any(
        record.seq > last.seq
        and record.path is not None
        and record.kind not in _NOTHING_DONE
        and record.seq not in aside
        and (is_within(record.path, branch) or scope_of(record.path) in outer)
        for record in records
    ) or any(path in _cleaned_up(records, after=last.seq) for path in _given_up_around(last.path, records))


def _given_up_around(path: str, records: Sequence[StoredRecord]) -> set[str]:
    """The branches that were cancelled together with what stands at this path failing."""
    openers = [opener for opener in map(opener_of, around(path)) if opener is not None]
    return set().union(*(_given_up_with(opener, records) for opener in openers))


def _cleaned_up(records: Sequence[StoredRecord], *, after: int) -> set[str]:
    """The branches that began a cleanup after a record."""
    return {
        scope
        for record in records
        if record.seq > after and record.path is not None and is_cleanup(record)
        for scope in around(record.path)
    }


def _abandoned_beside(failed: StoredRecord, records: Sequence[StoredRecord]) -> list[StoredRecord]:
    """The calls that cancel scopes of the user's own ended after a failure, elsewhere than where it happened."""
    assert failed.path is not None
    return [
        record
        for record in records
        if record.kind == "call.abandoned"
        and record.seq > failed.seq
        and record.path is not None
        and scope_of(record.path) != scope_of(failed.path)
    ]


def _those_that_went_on(abandoned: Sequence[StoredRecord], records: Sequence[StoredRecord]) -> list[StoredRecord]:
    """Of these abandoned calls those whose branch, or one around it, did more after that than to ask in vain."""
    if not abandoned:
        return []
    last: dict[str, int] = {}
    last_not_abandoned: dict[str, int] = {}
    for record in records:
        if record.path is not None and record.kind not in _NOTHING_DONE:
            if not was_never_begun(record):
                last[scope_of(record.path)] = record.seq
            if record.kind != "call.abandoned":
                last_not_abandoned[scope_of(record.path)] = record.seq

    def went_on(call: StoredRecord) -> bool:
        assert call.path is not None
        branch, *outer = around(call.path)
        return last.get(branch, 0) > call.seq or any(last_not_abandoned.get(scope, 0) > call.seq for scope in outer)

    return [call for call in abandoned if went_on(call)]


def superseded_by(paths: Iterable[str], records: Sequence[StoredRecord]) -> list[str]:
    """The paths whose outcomes must be forgotten, so that these failures are tried anew: their own, the ends of the
    branches and scopes around them, and notes that were made of them; together with what was cancelled beside them on
    their account, by the engine or by a scope of the user's own. A task that went on after that is left as it is: it
    will be cancelled again."""
    forgotten = set(paths)
    for failed in [_failure(path, records) for path in forgotten]:
        if failed is not None:
            beside = _abandoned_beside(failed, records)
            kept = {call.seq for call in _those_that_went_on(beside, records)}
            given_up = [call for call in beside if call.seq not in kept]
            forgotten |= {call.path for call in given_up if call.path is not None}
            forgotten |= {path for call in (failed, *given_up) for path in _notes_after(call, records)}
    cleanups = {record.path for record in records if is_cleanup(record)}
    anew = set(forgotten)
    while anew:
        for path in anew:
            forgotten |= {branch for branch in around(path) if branch in cleanups} | _ends_around(path, records)
        # What a branch took and gave back it has not taken, and whatever ended with that has not ended.
        anew = _takings_given_back_by(forgotten, records) - forgotten
        forgotten |= anew
    recorded = {record.path for record in records if record.path is not None}
    return sorted(forgotten & recorded)


def _ends_around(path: str, records: Sequence[StoredRecord]) -> set[str]:
    """The branches and scopes around a call, with the branches that were given up with them."""
    found: set[str] = set()
    for branch in around(path):
        opener = opener_of(branch)
        if opener is not None:
            found |= {branch, opener}
            found |= _given_up_with(opener, records)
    return found


def _notes_after(last: StoredRecord, records: Sequence[StoredRecord]) -> Iterator[str]:
    """The notes that were made of a failure, in its branch or one around it: on a way that is not gone again."""
    assert last.path is not None
    branch, *outer = around(last.path)
    for record in records:
        if (
            record.kind == "note.added"
            and record.seq > last.seq
            and record.path is not None
            and (is_within(record.path, branch) or scope_of(record.path) in outer)
        ):
            yield record.path


def _given_up_with(opener: str, records: Sequence[StoredRecord]) -> set[str]:
    """The branches of this scope, with those nested in them, that were cancelled or came too late; not those that lost
    in a nested scope which has ended by itself."""
    ends = _live_ends(records)
    lost = [
        path
        for path, end in ends.items()
        if end.kind == "branch.ended" and end.facts["outcome"] in ("cancelled", "late")
    ]
    siblings = {path for path in lost if opener_of(path) == opener}
    nested = {
        path for path in lost if opener_of(path) not in ends and any(is_within(path, sibling) for sibling in siblings)
    }
    return siblings | nested


def _takings_given_back_by(branches: Container[str], records: Sequence[StoredRecord]) -> set[str]:
    """The calls that took messages which these branches gave back when they lost: they have not taken them."""
    ends = {end.seq for path, end in _live_ends(records).items() if path in branches}
    taken: dict[str, str] = {}
    found: set[str] = set()
    for record in records:
        if record.kind == "message.taken" and record.path is not None:
            taken[record.facts["message"]] = record.path
        elif record.kind == "branch.ended" and record.seq in ends:
            found |= {taken[id] for id in record.facts.get("returned", ())}
    return found


def _live_ends(records: Sequence[StoredRecord]) -> dict[str, StoredRecord]:
    """The ends of branches and scopes that no restart has forgotten, by path."""
    ends: dict[str, StoredRecord] = {}
    for record in records:
        if record.kind in ("branch.ended", "scope.ended") and record.path is not None:
            ends[record.path] = record
        elif record.kind in SUPERSEDING:
            for path in record.facts["superseded"]:
                ends.pop(path, None)
    return ends


def restarts_that_count(records: Sequence[StoredRecord], *, within: float, now: dt.datetime) -> int:
    """How many of the restarts so far count against the limit: those in the last `within` seconds, and those whose run
    got no further than the one before, however long ago. By recorded instants; a clock that went back takes none."""
    # A retry makes the limit full again.
    retried = max((record.seq for record in records if record.kind == "activity.retried"), default=0)
    crashes = [record for record in records if record.kind == "activity.crashed" and record.seq > retried]
    instants = [parse(crash.at) for crash in crashes]
    latest = max([now, *instants])
    progress = [record.seq for record in records if record.path is not None]
    count = 0
    for index, crash in enumerate(crashes):
        until = crashes[index + 1].seq if index + 1 < len(crashes) else records[-1].seq + 1
        got_further = any(crash.seq < seq < until for seq in progress)
        if not got_further or (latest - instants[index]).total_seconds() <= within:
            count += 1
    return count


def carried_by(error: BaseException, known: dict[int, tuple[BaseException, frozenset[str]]]) -> frozenset[str]:
    """The failures that an exception carries: its own, those of a group's members, of its causes and contexts.

    Args:
        error: the exception.
        known: the failures of each exception that was given to user code, by its identity.
    """
    paths: set[str] = set()
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if id(current) in known:
            paths |= known[id(current)][1]
        waiting += [linked for linked in (current.__cause__, current.__context__) if linked is not None]
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
    return frozenset(paths)
