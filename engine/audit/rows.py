"""What a ledger gives: frozen rows, and the filter that selects activities.

A row is made from records alone, never from the derived tables. Instants are aware, in UTC. Payloads (`data`, `args`,
`result`) are plain JSON values; where a record was erased they are `None`, and so are texts that stood in them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from engine.clock import stamp_of
from engine.errors import PlaybillError
from engine.messages import ActivityStatus

StatusText: TypeAlias = Literal[
    "pending", "running", "waiting", "paused", "blocked", "cancelling", "completed", "failed", "cancelled"
]


@attrs.frozen(kw_only=True)
class Record:
    """One line of the journal.

    Attributes:
        seq: its number, from 1 without a gap.
        stream: whose history it belongs to: an activity's id, or one of the engine's streams, which begin with `/`.
        kind: what happened; `docs/reference/records.md` has the table.
        name: the definition, step, topic or subscriber that it is about.
        path: the call in the activity that it belongs to.
        run: the number of the activity's run, from 1.
        at: when it was recorded.
        by: who asked for it, where somebody did.
        facts: what the engine recorded.
        data: what the user recorded; `None` where there never was any, or where it was erased.
    """

    seq: int
    stream: str
    kind: str
    name: str | None
    path: str | None
    run: int | None
    at: dt.datetime
    by: str | None
    facts: Mapping[str, Any]
    data: Any


@attrs.frozen(kw_only=True)
class ErrorRow:
    """An exception as it was recorded.

    Attributes:
        type: its class, as `package.module.Class`.
        message: its text; empty where it was erased.
        notes: its notes (PEP 678).
        traceback: its traceback; empty where there is none, or where it was erased.
    """

    type: str
    message: str
    notes: Sequence[str]
    traceback: str


@attrs.frozen(kw_only=True)
class ActivityRow:
    """One activity, as of the ledger's size.

    Attributes:
        id: its id.
        name: its definition's name.
        version: the version of the definition that it began with; empty while it is pending.
        status: where it stands.
        by: who asked for it.
        reason: why.
        key: its business key.
        tags: what it can be found by.
        parent: the id of the activity that started it, where one did.
        started: when its first run began; `None` while it is pending.
        ended: when it ended; `None` while it has not.
        runs: how many runs it has had.
        result: what it returned; `None` too while it has not.
        error: why it failed; `None` unless it did.
    """

    id: str
    name: str
    version: str
    status: ActivityStatus
    by: str | None
    reason: str | None
    key: str | None
    tags: Mapping[str, str]
    parent: str | None
    started: dt.datetime | None
    ended: dt.datetime | None
    runs: int
    result: Any
    error: ErrorRow | None


@attrs.frozen(kw_only=True)
class CommandRow:
    """One command, obeyed or refused.

    Attributes:
        seq: its record.
        at: when it was recorded.
        kind: what was asked, as `start`.
        target: the id of the activity that was meant.
        by: who asked.
        reason: why.
        origin: where it came from: user, host and process.
        accepted: whether it was obeyed.
        refusal: the rule that refused it; `None` if it was obeyed.
    """

    seq: int
    at: dt.datetime
    kind: str
    target: str
    by: str | None
    reason: str | None
    origin: str
    accepted: bool
    refusal: str | None


@attrs.frozen(kw_only=True)
class StepRow:
    """One step of an activity, with all its attempts.

    Attributes:
        activity: the activity's id.
        path: the step's path in it.
        name: its name.
        args: its arguments.
        attempts: how many attempts were recorded.
        started: when the first one began.
        ended: when it completed, or failed with no further attempt due; `None` while another one is due.
        seconds: how long its attempts took together, waits between them left out.
        result: what it returned.
        error: the last attempt's error, where that failed.
    """

    activity: str
    path: str
    name: str
    args: Any
    attempts: int
    started: dt.datetime
    ended: dt.datetime | None
    seconds: float
    result: Any
    error: ErrorRow | None


@attrs.frozen(kw_only=True)
class EventRow:
    """One event.

    Attributes:
        seq: its record.
        id: its id.
        topic: the topic it was published on.
        data: what it says.
        at: when it was recorded.
        source: the id of the activity that emitted it; of one from outside, who published it, else `/engine`.
        cause: the id of what it follows from, where something did.
        key: its business key.
    """

    seq: int
    id: str
    topic: str
    data: Any
    at: dt.datetime
    source: str
    cause: str | None
    key: str | None


@attrs.frozen(kw_only=True)
class DeadLetterRow:
    """An event that a subscriber could not handle.

    Attributes:
        event: the event.
        subscriber: the subscriber's name.
        errors: the errors of its attempts, in order.
    """

    event: EventRow
    subscriber: str
    errors: Sequence[ErrorRow]


@attrs.frozen(kw_only=True)
class Stats:
    """How much there is, as of the ledger's size.

    Attributes:
        records: how many records.
        activities: how many activities of each status; statuses that none has are left out.
        steps: how many steps have completed.
        events: how many events.
        dead_letters: how many events became dead letters.
        first: when the first record was made.
        last: when the last one was.
    """

    records: int
    activities: Mapping[ActivityStatus, int]
    steps: int
    events: int
    dead_letters: int
    first: dt.datetime | None
    last: dt.datetime | None


@attrs.frozen
class Problem:
    """One thing that verification found wrong.

    Attributes:
        seq: the record that it is about, where it is about one.
        what: what is wrong.
    """

    seq: int | None
    what: str

    def __str__(self) -> str:
        return self.what if self.seq is None else f"record {self.seq}: {self.what}"


@attrs.frozen(kw_only=True)
class Verification:
    """What verification found.

    Attributes:
        ok: whether nothing is wrong.
        size: how many records the journal had when the ledger was opened; they are what was verified.
        problems: what is wrong: with records first, by `seq`, then with the rest of the file.
        root: the root of the log's tree over these records, where it could be built; write it down elsewhere, and a
            later verification can be held against it.
    """

    ok: bool
    size: int
    problems: Sequence[Problem]
    root: bytes | None = None


# ---------------------------------------------------------------------------------------------------------- the filter


def _statuses(
    given: ActivityStatus | StatusText | Sequence[ActivityStatus | StatusText] | None,
) -> frozenset[ActivityStatus] | None:
    if given is None:
        return None
    texts: Iterable[str] = [given] if isinstance(given, str) else given
    found = []
    for text in texts:
        try:
            found.append(ActivityStatus(text))
        except ValueError:
            known = ", ".join(ActivityStatus)
            raise PlaybillError(f"there is no status {text!r}; the statuses are {known}") from None
    return frozenset(found)


def _aware(_: object, attribute: attrs.Attribute[dt.datetime | None], value: dt.datetime | None) -> None:
    if value is not None and value.utcoffset() is None:
        raise PlaybillError(f"{attribute.name}={value.isoformat()} is naive; give an aware datetime")


@attrs.frozen(kw_only=True)
class ActivityFilter:
    """What `Ledger.activities` selects and what a command to many reaches; what is not given selects all.

    Args:
        status: one status or several, as `ActivityStatus` or its text.
        name: the definition's name.
        by: who asked for the activity.
        tag: a tag that it has, or a pair of a tag and its value.
        key: its business key.
        since: it was asked for at this instant or later.
        until: it was asked for before this instant.
        text: a text in its id, or in what users recorded in its history (arguments, results, errors); ASCII letters
            match in either case.

    Raises:
        PlaybillError: there is no such status, or an instant is naive.
    """

    status: frozenset[ActivityStatus] | None = attrs.field(default=None, converter=_statuses)
    name: str | None = None
    by: str | None = None
    tag: str | tuple[str, str] | None = None
    key: str | None = None
    since: dt.datetime | None = attrs.field(default=None, validator=_aware)
    until: dt.datetime | None = attrs.field(default=None, validator=_aware)
    text: str | None = None

    def as_facts(self) -> dict[str, Any]:
        """What was given, in plain values, as a command to many is recorded."""
        given = attrs.asdict(self, filter=lambda _, value: value is not None)
        if self.status is not None:
            given["status"] = sorted(self.status)
        return {name: stamp_of(value) if isinstance(value, dt.datetime) else value for name, value in given.items()}


@attrs.frozen(kw_only=True)
class Period:
    """Between two instants: from `since` on, before `until`; `None` leaves that side open.

    Raises:
        PlaybillError: an instant is naive.
    """

    since: dt.datetime | None = attrs.field(default=None, validator=_aware)
    until: dt.datetime | None = attrs.field(default=None, validator=_aware)

    def bounds(self) -> tuple[str, str]:
        """The two instants as texts between which `at` sorts."""
        return "" if self.since is None else stamp_of(self.since), "~" if self.until is None else stamp_of(self.until)
