"""An activity's records, read for a resume: what was asked in each scope, and what came of it, in journal order.

A record is *live* if no later one of those that supersede names its path; only live outcomes are handed out again. A
superseded failure still tells how often the step was attempted. A note, or a call that was abandoned before it was
begun, is no call of this history where it is superseded: what was asked on a way that is not gone again binds nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from engine.activities.paths import around, is_within, opener_of
from engine.activities.replay import is_cancel
from engine.journal import StoredRecord

_CALL_OF = {
    "step.completed": "step",
    "step.failed": "step",
    "step.heartbeat": "step",
    "step.intended": "step",
    "step.interrupted": "step",
    "step.resolved": "step",
    "event.emitted": "emit",
    "event.copied": "emit",
    "note.added": "note",
    "message.taken": "receive",
    "message.failed": "receive",
    "message.replied": "reply",
    "message.answered": "ask",
    "child.cancelled": "cancel",
}
"""The call that a record belongs to, by the record's kind."""

_NAMED_IN = {
    "timer.set": "for",
    "scope.opened": "of",
    "call.abandoned": "call",
    "message.sent": "call",
    "message.denied": "call",
    "child.started": "call",
    "child.denied": "call",
    "child.ended": "call",
}
"""The fact in which other records name their call. Of a call the first record is one of these, or of those above."""

_BEGINNINGS = ("timer.set", "scope.opened", "step.intended")
"""The records with which a call begins, and which end none."""


@attrs.define(slots=True)
class RecordedCall:
    """A call that the history holds.

    Attributes:
        kind: the call's name on the context, as `step` or `map`.
        path: its path.
        digest: commitment to its arguments.
        outcome: the record that ended it, if it ended.
        begun: for a wait the record of its timer; for a scope that of its opening; for a step that is to be done at
            most once that of its intent.
        late: for a cleanup the record that its allowance was over.
        failures: its live failed attempts.
        attempted: its last failed attempt, superseded or not.
        beat: its last heartbeat, superseded or not.
        copied: where a fork took it over, the `seq` of its first record in the original; 0 where it did not.
    """

    kind: str
    path: str
    digest: str
    outcome: StoredRecord | None = None
    begun: StoredRecord | None = None
    late: StoredRecord | None = None
    failures: list[StoredRecord] = attrs.field(factory=list)
    attempted: StoredRecord | None = None
    beat: StoredRecord | None = None
    copied: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


class History:
    """What an activity was given before, in this generation.

    Attributes:
        started: the record of its start.
        scopes: the calls of each scope, in order.
        branches: the live ends of branches.
        drawn: for each scope what `patched` answered there, by name.
        outcomes: the live outcomes, ends of branches and cancels among them, in journal order. The end of a branch
            that lost is none: nothing waits for it, and it comes about again by the decision before it.
        resumes: where it was resumed in another process. Parking it had interrupted nothing.
        restarts: what a further run followed: its crashes, and the retries after it had failed.
        cancelling: the cancel that was recorded, if one was.
        messages: the messages that it was sent, in every generation, by their ids.
        unread: those that it has not received, or has given back, in order.
        children: the children of whose end nothing is recorded, by id, with what becomes of them when it ends.
        last: its last record.
    """

    def __init__(self, records: Sequence[StoredRecord]) -> None:
        """Read the records of an activity that has started."""
        generation = generation_of(records)
        self.started = generation[0]
        self.scopes: dict[str, list[RecordedCall]] = {}
        self.branches: dict[str, StoredRecord] = {}
        self.drawn: dict[str, dict[str, bool]] = {}
        self.outcomes: list[StoredRecord] = []
        self.resumes: list[int] = []
        self.restarts: list[StoredRecord] = []
        self.cancelling: StoredRecord | None = None
        self.messages = messages_in(records)
        self.unread = unread_of(self.messages, records) if self.messages else []
        self.children: dict[str, str] = dict(self.started.facts.get("children", {}))
        self.last = records[-1]
        self._calls: dict[str, RecordedCall] = {}
        superseded = superseded_at(generation)
        for record in generation:
            if record.kind == "activity.resumed":
                if record.facts["cause"] != "unparked":
                    self.resumes.append(record.seq)
            elif record.kind == "activity.crashed":
                self.restarts.append(record)
            elif record.kind == "activity.retried":
                self.restarts.append(record)
                self._go_on_without_cancel(record)
            elif record.kind == "activity.cancelling" and self.cancelling is None:
                self.cancelling = record
                self.outcomes.append(record)
            elif record.path is not None:
                self._read(record, record.path, live=record.seq >= superseded.get(record.path, 0))

    @property
    def run(self) -> int:
        """The number of the run that follows."""
        return (self.started.run or 1) + len(self.restarts)

    def interruptions_of(self, path: str, seq: int) -> int:
        """How often a call may have been begun after a record, and left none of its own: once for each resume after it,
        and for each restart that tries the call, or a branch around it, anew."""
        resumed = sum(at > seq for at in self.resumes)
        return resumed + sum(
            (restart.seq > seq or self._takes_anew(restart, path)) and _tries_anew(restart, path)
            for restart in self.restarts
        )

    def _takes_anew(self, restart: StoredRecord, path: str) -> bool:
        """Whether a message was received anew around a call that has left no record: it may have been begun after the
        taking that was given back, and ended with its branch."""
        if path in self._calls:
            return False
        branches = [branch for branch in around(path) if branch in restart.facts["superseded"]]
        return any(
            self._calls[taking].kind == "receive" and any(is_within(taking, branch) for branch in branches)
            for taking in restart.facts["superseded"]
            if taking in self._calls
        )

    def _go_on_without_cancel(self, retried: StoredRecord) -> None:
        """A deadline that has passed is forgotten where there is a new one."""
        if self.cancelling is not None and not retried.facts.get("cancelling"):
            self.outcomes.remove(self.cancelling)
            self.cancelling = None

    def _read(self, record: StoredRecord, path: str, *, live: bool) -> None:
        kind = record.kind
        if kind == "branch.ended":
            if live:
                self.branches[path] = record
                if record.facts["outcome"] in ("value", "error"):
                    self.outcomes.append(record)
            return
        if kind == "value.drawn":
            self.drawn.setdefault(record.facts["scope"], {})[record.name or ""] = record.facts["value"]
            return
        call = self._calls.get(path)
        if call is None and not live and (kind == "note.added" or was_never_begun(record)):
            # The failure that led to it is tried anew, so the branch may come to another call of this path.
            return
        for cut_call, cut_path, digest in record.facts.get("cut", ()):
            if cut_path not in self._calls:
                cut = self._calls[cut_path] = RecordedCall(cut_call, cut_path, digest)
                self.scopes.setdefault(record.facts["scope"], []).append(cut)
        if call is None:
            of = _CALL_OF.get(kind) or record.facts[_NAMED_IN[kind]]
            call = self._calls[path] = RecordedCall(of, path, record.facts["digest"])
            call.copied = record.facts.get("copied", 0)
            self.scopes.setdefault(record.facts["scope"], []).append(call)
        if kind == "step.failed":
            call.attempted = record
            if live:
                call.failures.append(record)
        elif kind == "step.heartbeat":
            call.beat = record
        elif kind in _BEGINNINGS or kind == "message.sent":
            call.begun = record
        elif kind == "child.started":
            if "copied" not in record.facts:
                self.children[record.facts["id"]] = record.facts["on_parent_end"]
            if live:
                call.begun = record
        elif kind == "child.ended":
            self.children.pop(record.facts["id"], None)
        if live and is_outcome(record):
            if is_cancel(record):
                call.late = record
            else:
                call.outcome = record
            self.outcomes.append(record)


def generation_of(records: Sequence[StoredRecord]) -> Sequence[StoredRecord]:
    """The records of an activity's present generation, from that with which it began."""
    first = next(at for at in reversed(range(len(records))) if records[at].kind in GENERATIONS)
    return records[first:]


def messages_in(records: Iterable[StoredRecord]) -> dict[str, StoredRecord]:
    """The messages that an activity was sent, by their ids."""
    return {record.facts["id"]: record for record in records if record.kind == "message.received"}


def unread_of(messages: Mapping[str, StoredRecord], records: Iterable[StoredRecord]) -> list[StoredRecord]:
    """Which of these messages were not received, or were given back by the branch that had; in order."""
    unread = dict(messages)
    for record in records:
        if record.kind == "message.taken":
            unread.pop(record.facts["message"], None)
        elif record.kind == "branch.ended":
            unread.update((id, messages[id]) for id in record.facts.get("returned", ()))
    return sorted(unread.values(), key=lambda message: message.seq)


def _tries_anew(restart: StoredRecord, path: str) -> bool:
    superseded = restart.facts["superseded"]
    if not superseded:
        return False
    branches = [branch for branch in around(path) if branch]
    return any(name in superseded for name in (path, *branches, *(opener_of(branch) for branch in branches)))


def was_never_begun(record: StoredRecord) -> bool:
    """Whether a cancel that had come before ended the call: it was asked, and nothing was done."""
    return record.kind == "call.abandoned" and "attempt" not in record.facts


def is_cleanup(record: StoredRecord) -> bool:
    """Whether a cleanup was entered."""
    return record.kind == "scope.opened" and record.facts["of"] == "cleanup"


def is_outcome(record: StoredRecord) -> bool:
    """Whether the record ends its call."""
    if record.kind == "step.failed":
        return "retry_at" not in record.facts
    if record.kind == "child.started":
        return bool(record.facts["call"] == "start")
    if record.kind == "message.sent":
        return bool(record.facts["call"] == "send")
    return record.kind != "step.heartbeat" and record.kind not in _BEGINNINGS


def superseded_at(records: Sequence[StoredRecord]) -> dict[str, int]:
    """For each superseded path the `seq` of the last record that names it: outcomes before that are forgotten."""
    return {path: record.seq for record in records if record.kind in SUPERSEDING for path in record.facts["superseded"]}


GENERATIONS = ("activity.started", "activity.continued")
"""The kinds with which a generation begins."""

SUPERSEDING = ("activity.crashed", "activity.retried", "step.resolved")
"""The kinds whose records name the paths whose outcomes are forgotten."""
