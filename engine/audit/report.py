"""The report: one HTML file that says what a journal says, and whether it is what was recorded.

It opens offline: one style sheet and one script stand in it, and its Content-Security-Policy allows those two, by the
hashes of their bytes, and nothing else; nothing is ever fetched. All of it can be read without the script, which only
filters, sorts and pages the table of activities, and opens the section that a link leads to.

It is written as it is rendered: the journal is read in three passes (to count, for the table, for the sections), and of
each activity only what is being written is held. Of the engine's tree it holds a row an actor, activities apart. The
sections of many activities would make a page that browsers take long to open: from `MOST_STATIC` on they are packed in
blocks, and the script unpacks the one that is asked for.

Where a record cannot be read a part ends early, and says so: the verdict at the top stands in any case.
"""

from __future__ import annotations

import base64
import datetime as dt
import os
import shlex
import tempfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

import attrs
from jinja2 import UndefinedError
from markupsafe import Markup

from engine.audit import wording
from engine.audit.folding import (
    STEP_KINDS,
    attempts_by_step,
    began,
    command_of,
    error_of,
    event_of,
    payload,
    step_of,
    text_of,
)
from engine.audit.ledger import Ledger
from engine.audit.rows import ActivityRow, CommandRow, ErrorRow, EventRow, Record, Stats, StepRow, Verification
from engine.audit.templates import environment, templates_folder
from engine.audit.timeline import LANE_HEIGHT, Timeline, timeline_of
from engine.clock import SystemClock
from engine.errors import JournalDamagedError
from engine.journal.kinds import ENDED, ENGINE_STREAM
from engine.messages import ActivityStatus
from engine.version import VERSION

MOST_NAMED = 200
"""Failures, refusals, problems, events… that are named one by one; the rest is counted."""

MOST_STATIC = 1000
"""Activities up to which all sections stand in the page as text."""

_BLOCK = 50
"""Sections of a packed block: few enough that unpacking is not felt, enough to be packed well."""

MOST_RECORDS = 2000
"""Records of one activity that are shown."""

_CHUNK = 64 * 1024
"""Characters that are written at a time."""

_SETBACKS = ("activity.crashed", "activity.blocked")

_OF_THE_ENGINE = (
    "stream = '" + ENGINE_STREAM + "' AND kind IN ('journal.created', 'journal.migrated', 'engine.opened', "
    "'engine.closed', 'definition.registered', 'supervisor.escalated')"
)

# The streams of the engine and of its actors: all that begin with a slash.
_OF_SUPERVISORS = (
    "stream >= '/' AND stream < '0' AND kind IN ('subscriber.attached', 'actor.crashed', 'actor.restarted', "
    "'actor.stalled', 'actor.overdue', 'supervisor.escalated')"
)

_COUNTED_AS = {
    "actor.crashed": "crashes",
    "actor.restarted": "restarts",
    "actor.stalled": "stalls",
    "actor.overdue": "overdue",
    "supervisor.escalated": "escalations",
}

_FILTERS = {
    "duration": wording.duration,
    "instant": wording.instant,
    "day_and_time": wording.day_and_time,
    "payload": wording.payload,
    "shortened": wording.shortened,
    "one_line": wording.one_line,
    "shell": shlex.quote,
    "error_type": wording.error_type,
    "blocked_by": wording.blocked_by,
    "way_out": wording.way_out,
    "fact": text_of,
    "number": "{:,}".format,
}

T = TypeVar("T")


def write_report(
    ledger: Ledger,
    output: str | Path | IO[str],
    *,
    generated_at: dt.datetime | None = None,
    verification: Verification | None = None,
) -> None:
    """Write the report of a journal, as of the ledger's size.

    Args:
        ledger: an open ledger.
        output: the file to write, or an open text file. A file is replaced when all is written, and only its owner
            may read it, since it holds every payload. A symbolic link stays, and what it leads to is replaced; what is
            no regular file, as a pipe or a device, is written into.
        generated_at: the instant that the report says it was made at; now, unless given. The same journal and the same
            instant give the same bytes.
        verification: what `verify` found, where that was done already; else it is done now.

    Raises:
        JournalError: the ledger is closed.
        OSError: the file cannot be written.
    """
    report = _Report(ledger, verification or ledger.verify(), generated_at or SystemClock().now())
    if not isinstance(output, str | Path):
        report.write(output)
        return
    path = Path(output)
    if path.exists() and not path.is_file():
        # By the name that was given: where /dev/stdout leads to a pipe, that has no other one.
        with path.open("w", encoding="utf-8", newline="\n") as file:
            report.write(file)
    else:
        _replace(path.resolve(), report)


def _replace(path: Path, report: _Report) -> None:
    """Put the report in a file's place. Whoever opens that meanwhile sees the one before."""
    # Made with mode 0600, under a name that nobody else has.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".report-", suffix=".part")
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            report.write(file)
        os.replace(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _csp_hash(text: str) -> str:
    """A hash as a Content-Security-Policy has it."""
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


# --------------------------------------------------------------------------------------------------- what it is made of


@attrs.frozen(kw_only=True)
class Numbered:
    """An activity with its number in the report, by which links lead to it."""

    number: int
    row: ActivityRow

    @property
    def took(self) -> float | None:
        if self.row.started is None or self.row.ended is None:
            return None
        return (self.row.ended - self.row.started).total_seconds()

    @property
    def error_line(self) -> str:
        error = self.row.error
        return "" if error is None else wording.one_line(f"{wording.error_type(error.type)}: {error.message}")


@attrs.frozen(kw_only=True)
class Blocked:
    """An activity that waits for its code to be mended, and why."""

    activity: Numbered
    recorded: str
    asked: str
    cause: str


@attrs.define
class Definition:
    """The activities of one definition, counted."""

    name: str
    statuses: Counter[ActivityStatus] = attrs.field(factory=Counter)
    durations: array[float] = attrs.field(factory=lambda: array("d"))

    @property
    def count(self) -> int:
        return self.statuses.total()

    @property
    def others(self) -> int:
        ended = (ActivityStatus.COMPLETED, ActivityStatus.FAILED)
        return sum(count for status, count in self.statuses.items() if status not in ended)

    def took(self, share: float) -> float | None:
        """How long at most the given share of those that have ended took."""
        if not self.durations:
            return None
        return self.durations[min(len(self.durations) - 1, int(share * len(self.durations)))]


@attrs.define
class Person:
    """Who asked for something, counted."""

    name: str | None
    accepted: int = 0
    denied: int = 0


@attrs.define
class Counted:
    """What the first pass over the journal finds.

    Attributes:
        total: how many activities there are.
        statuses: how many of each status.
        definitions: by definition, in the order in which they were first asked for.
        failed: the first that failed.
        blocked: the first that are blocked.
        people: by who asked.
        denied: the first commands that were refused.
        denials: how many there are.
    """

    total: int = 0
    statuses: Counter[ActivityStatus] = attrs.field(factory=Counter)
    definitions: dict[str, Definition] = attrs.field(factory=dict)
    failed: list[Numbered] = attrs.field(factory=list)
    blocked: list[Blocked] = attrs.field(factory=list)
    people: dict[str | None, Person] = attrs.field(factory=dict)
    denied: list[CommandRow] = attrs.field(factory=list)
    denials: int = 0


@attrs.define
class Supervised:
    """What befell one supervisor or actor of the engine's tree, counted; all activities stand under `/activities`.

    Attributes:
        path: where it stands in the tree.
        crashes: how often it crashed.
        restarts: how often it was restarted.
        escalations: how often a supervisor gave up.
        stalls: how often it blocked the loop.
        overdue: how often it ignored being cancelled.
    """

    path: str
    crashes: int = 0
    restarts: int = 0
    escalations: int = 0
    stalls: int = 0
    overdue: int = 0


@attrs.frozen(kw_only=True)
class Incident:
    """A record of supervision, with what it holds of why."""

    record: Record
    error: ErrorRow | None
    stack: str


@attrs.define
class Supervision:
    """The engine's tree over the whole journal: who failed how often, and the first incidents one by one."""

    paths: list[Supervised]
    incidents: list[Incident]

    @property
    def is_calm(self) -> bool:
        """Whether nothing was counted anywhere, activities included."""
        counts = {name for node in self.paths for name in _COUNTED_AS.values() if getattr(node, name)}
        return not counts


@attrs.frozen(kw_only=True)
class Attempt:
    """One attempt at a step."""

    number: object
    started: dt.datetime
    seconds: float
    error: ErrorRow | None


@attrs.frozen(kw_only=True)
class Step:
    """A step with its attempts."""

    row: StepRow
    attempts: Sequence[Attempt]

    @property
    def outcome(self) -> str:
        if self.row.error is None:
            return "completed"
        return "failed" if self.row.ended is not None else "retrying"


@attrs.frozen(kw_only=True)
class Section:
    """All that the report says of one activity."""

    activity: Numbered
    asked: Record
    records: Sequence[Record]
    left_out: bool
    commands: Sequence[CommandRow]
    steps: Sequence[Step]
    events: Sequence[EventRow]
    setbacks: Sequence[tuple[Record, ErrorRow | None]]
    timeline: Timeline | None


@attrs.frozen(kw_only=True)
class Block:
    """Sections, packed: deflated, in base64. `first` and `last` are the numbers of their activities."""

    first: int
    last: int
    text: str


class _Report:
    """Gathers what the templates are given, and has them write it."""

    def __init__(self, ledger: Ledger, verification: Verification, generated_at: dt.datetime) -> None:
        self._ledger = ledger
        self._verification = verification
        self._generated_at = generated_at
        self._damage: list[str] = []
        self._folder = templates_folder()
        self._templates = environment(self._folder)
        self._templates.filters.update(_FILTERS)

    def write(self, file: IO[str]) -> None:
        """Write the whole report."""
        style, script = self._inlined("report.css"), self._inlined("report.js")
        inlined = {
            "style": Markup(style),
            "script": Markup(script),
            "style_hash": _csp_hash(style),
            "script_hash": _csp_hash(script),
        }
        parts: list[str] = []
        length = 0
        for part in self._templates.get_template("report.html.j2").generate({**self._context(), **inlined}):
            parts.append(part)
            length += len(part)
            if length >= _CHUNK:
                file.write("".join(parts))
                parts.clear()
                length = 0
        file.write("".join(parts))

    def _inlined(self, name: str) -> str:
        return (self._folder / "report" / name).read_text(encoding="utf-8")

    def _context(self) -> dict[str, Any]:
        counted = self._counted()
        packed = counted.total > MOST_STATIC
        sections = self._readable(self._sections())
        return {
            "journal": self._ledger.path.name,
            "journal_id": self._journal_id(),
            "verification": self._verification,
            "root": self._verification.root.hex() if self._verification.root else None,
            "stats": self._stats(),
            "counted": counted,
            "unfinished": sum(n for status, n in counted.statuses.items() if status not in ENDED),
            "statuses": [(status, counted.statuses[status]) for status in _ORDER if counted.statuses[status]],
            "named": MOST_NAMED,
            "dead_letters": self._first(self._ledger.dead_letters()),
            "engine": self._first(self._ledger.reader.records(_OF_THE_ENGINE)),
            "supervision": self._supervision(),
            "unclean": self._unclean(),
            "activities": self._readable(self._numbered()),
            "packed": packed,
            "sections": _packed(sections) if packed else (markup for _, markup in sections),
            "events": self._first(self._ledger.events()),
            "damage": self._damage,
            "generated_at": self._generated_at,
            "version": VERSION,
        }

    # ------------------------------------------------------------------------------------------------ the passes

    def _readable(self, rows: Iterable[T]) -> Iterator[T]:
        """The rows, up to the first one that cannot be read."""
        try:
            yield from rows
        except JournalDamagedError as error:
            self._damaged(str(error))
        except RecursionError:
            self._damaged("a record's values are nested too deeply to be shown")
        except (TypeError, ValueError, LookupError, AttributeError, UndefinedError) as error:
            # Facts of any shape may stand in a journal that was altered, also where all hashes were made anew.
            what = f"a record holds what no record holds ({type(error).__name__}: {error})"
            if self._verification.ok:
                # Verification would have named it; whatever it is, no report may pass over it.
                raise JournalDamagedError(f"{self._ledger.path} cannot be reported: {what}") from error
            self._damaged(what)

    def _damaged(self, what: str) -> None:
        if what not in self._damage:
            self._damage.append(what)

    def _first(self, rows: Iterable[T]) -> list[T]:
        """As many as are named one by one, and one more, if there is one."""
        return list(islice(self._readable(rows), MOST_NAMED + 1))

    def _numbered(self) -> Iterator[Numbered]:
        for number, row in enumerate(self._ledger.activities(), 1):
            yield Numbered(number=number, row=row)

    def _counted(self) -> Counted:
        counted = Counted()
        for activity in self._readable(self._numbered()):
            row = activity.row
            counted.total += 1
            counted.statuses[row.status] += 1
            definition = counted.definitions.setdefault(row.name, Definition(row.name))
            definition.statuses[row.status] += 1
            if activity.took is not None:
                definition.durations.append(activity.took)
            if row.status is ActivityStatus.FAILED and len(counted.failed) < MOST_NAMED:
                counted.failed.append(activity)
            elif row.status is ActivityStatus.BLOCKED and len(counted.blocked) < MOST_NAMED:
                counted.blocked.append(self._blocked(activity))
        for definition in counted.definitions.values():
            definition.durations = array("d", sorted(definition.durations))
        for command in self._readable(self._ledger.commands()):
            person = counted.people.setdefault(command.by, Person(command.by))
            person.accepted += command.accepted
            person.denied += not command.accepted
            counted.denials += not command.accepted
            if not command.accepted and len(counted.denied) < MOST_NAMED:
                counted.denied.append(command)
        return counted

    def _blocked(self, activity: Numbered) -> Blocked:
        facts: Mapping[str, Any] = {}
        for record in self._ledger.reader.records("stream = ? AND kind = 'activity.blocked'", (activity.row.id,)):
            facts = record.facts
        return Blocked(
            activity=activity,
            recorded=str(facts.get("recorded", "")),
            asked=str(facts.get("asked", "")),
            cause=str(facts.get("cause", "")),
        )

    def _stats(self) -> Stats | None:
        try:
            return self._ledger.stats()
        except JournalDamagedError as error:
            self._damaged(str(error))
            return None

    def _journal_id(self) -> str:
        for record in self._readable(self._ledger.reader.records("seq = 1")):
            return str(record.facts.get("id", "unknown"))
        return "unknown"

    def _unclean(self) -> int:
        """How many times the engine was opened without having been closed before."""
        opened = self._readable(self._ledger.reader.records("stream = ? AND kind = 'engine.opened'", (ENGINE_STREAM,)))
        return sum(record.facts.get("clean") is False for record in opened)

    def _supervision(self) -> Supervision:
        found = {path: Supervised(path) for path in ("/", "/activities", "/subscribers")}
        incidents: list[Incident] = []
        for record in self._readable(self._ledger.reader.records(_OF_SUPERVISORS)):
            path = _place_of(record)
            supervised = found.setdefault(path, Supervised(path))
            counted = _COUNTED_AS.get(record.kind)
            if counted is None:  # it tells only that there is such an actor
                continue
            setattr(supervised, counted, getattr(supervised, counted) + 1)
            # A restart is told by its crash, and by the count.
            if record.kind != "actor.restarted" and len(incidents) <= MOST_NAMED:
                stack = text_of(payload(record, "stack") or "")
                incidents.append(Incident(record=record, error=error_of(record), stack=stack))
        activities = found["/activities"]
        # Each run of an activity that crashed was followed by another: where none is, it failed.
        activities.crashes = activities.restarts = self._count("activity.crashed")
        return Supervision([found[path] for path in sorted(found)], incidents)

    def _count(self, kind: str) -> int:
        statement = "SELECT count(*) FROM records WHERE kind = ? AND seq <= ?"
        try:
            ((count,),) = self._ledger.reader.query(statement, (kind, self._ledger.size))
        except JournalDamagedError as error:
            self._damaged(str(error))
            return 0
        return int(count)

    # ------------------------------------------------------------------------------------------------ sections

    def _sections(self) -> Iterator[tuple[int, Markup]]:
        """The numbers of all activities, each with its section."""
        template = self._templates.get_template("report/activity.html.j2")
        for activity in self._numbered():
            records = list(islice(self._ledger.history(activity.row.id), MOST_RECORDS + 1))
            left_out = len(records) > MOST_RECORDS
            section = _section(activity, records[:MOST_RECORDS], left_out=left_out)
            yield activity.number, Markup(template.render(section=section, lane_height=LANE_HEIGHT))


def _place_of(record: Record) -> str:
    """The path under which what a record of supervision tells is counted."""
    if record.kind == "subscriber.attached":
        return record.stream
    path = record.name or record.stream
    return "/activities" if path.startswith("/activities/") else path


def _packed(sections: Iterator[tuple[int, Markup]]) -> Iterator[Block]:
    while some := list(islice(sections, _BLOCK)):
        deflating = zlib.compressobj(level=9, wbits=-15)
        content = "\n".join(markup for _, markup in some).encode()
        deflated = deflating.compress(content) + deflating.flush()
        yield Block(first=some[0][0], last=some[-1][0], text=base64.b64encode(deflated).decode())


def _section(activity: Numbered, records: Sequence[Record], *, left_out: bool) -> Section:
    attempts = attempts_by_step(record for record in records if record.kind in STEP_KINDS)
    return Section(
        activity=activity,
        asked=next(record for record in records if record.kind == "command.accepted"),
        records=records,
        left_out=left_out,
        commands=[command_of(record) for record in records if record.kind.startswith("command.")],
        steps=[Step(row=step_of(step), attempts=[_attempt(record) for record in step]) for step in attempts],
        events=[event_of(record) for record in records if record.kind == "event.emitted"],
        setbacks=[(record, error_of(record)) for record in records if record.kind in _SETBACKS],
        timeline=timeline_of(records),
    )


def _attempt(record: Record) -> Attempt:
    started = began(record)
    return Attempt(
        number=record.facts.get("attempt", ""),
        started=started,
        seconds=max(0.0, (record.at - started).total_seconds()),
        error=error_of(record),
    )


# What needs attention first.
_ORDER = (
    ActivityStatus.FAILED,
    ActivityStatus.BLOCKED,
    ActivityStatus.CANCELLED,
    ActivityStatus.CANCELLING,
    ActivityStatus.PAUSED,
    ActivityStatus.PENDING,
    ActivityStatus.WAITING,
    ActivityStatus.RUNNING,
    ActivityStatus.COMPLETED,
)
