"""The ledger: the read-only, audit view of a journal.

It reads records and nothing else. The tables derived from them serve the engine; whoever altered one of those could
hide an activity from the engine's lists, but not from these. Everything is as of the journal's size when the ledger was
opened (see `reading`), so that two answers of one ledger agree, also while an engine goes on writing.

Each method that gives an iterator checks its arguments when it is called, and reads page by page as it is iterated.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Self, TypeAlias, TypeVar

import orjson

from engine.audit.folding import (
    STEP_KINDS,
    activity_of,
    attempts_by_step,
    command_of,
    error_of,
    event_of,
    seconds_of,
    step_of,
)
from engine.audit.reading import Reader
from engine.audit.rows import (
    ActivityFilter,
    ActivityRow,
    CommandRow,
    DeadLetterRow,
    ErrorRow,
    EventRow,
    Period,
    Record,
    Stats,
    StatusText,
    StepRow,
    Verification,
)
from engine.audit.verification import verify
from engine.clock import parse
from engine.errors import ActivityNotFoundError, JournalDamagedError, PlaybillError
from engine.journal.kinds import EVENT_KINDS, STATUS_AFTER, SUBSCRIBER_STREAMS, SYSTEM_TOPICS, TERMINAL_KINDS
from engine.journal.records import COLUMNS
from engine.messages import ActivityStatus
from engine.topics import TopicPattern


def _kinds(kinds: Iterable[str]) -> str:
    """Kinds as a list in SQL. As literals, since only those let SQLite see that a partial index serves."""
    return ", ".join(f"'{kind}'" for kind in sorted(kinds))


_COMMANDS = "kind IN ('command.accepted', 'command.denied')"
_EVENTS = f"kind IN ({', '.join(repr(kind) for kind in EVENT_KINDS)})"
_SYSTEM_EVENTS = f"kind IN ({_kinds(SYSTEM_TOPICS)})"
_STEPS = f"kind IN ({_kinds(STEP_KINDS)})"
# A cancel that is kept for an activity that is blocked leaves it blocked.
_CHANGES = f"""kind IN ({_kinds(kind for kind in STATUS_AFTER if kind != "command.accepted")})
    AND (kind <> 'activity.cancelling' OR json_extract(facts, '$.kept') IS NULL)"""
_FACTS_ONLY = COLUMNS.replace("data", "NULL")
_ENDS_WITH_DATA = COLUMNS.replace("data", f"CASE WHEN kind IN ({_kinds(TERMINAL_KINDS)}) THEN data END")

_STATUSES = f"""
    SELECT kind, cancelling, count(*) FROM (
        SELECT kind, json_extract(facts, '$.cancelling') AS cancelling, max(seq) FROM records
        WHERE seq <= ? AND ({_CHANGES}
            OR kind = 'command.accepted' AND json_extract(facts, '$.command') = 'start')
        GROUP BY stream)
    GROUP BY kind, cancelling
"""

Status: TypeAlias = "ActivityStatus | StatusText | Sequence[ActivityStatus | StatusText] | None"

_R = TypeVar("_R")


class Ledger:
    """A journal as an auditor reads it. Use it as a context manager, or `close` it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    @classmethod
    def open(cls, url: str | Path, /) -> Self:
        """Open a journal for reading, as of its size now; nothing is ever written.

        Args:
            url: a path, or `sqlite:///PATH`.

        Raises:
            JournalError: there is no such file, or it cannot be opened.
            JournalDamagedError: it is no journal, or too damaged to be read at all.
            JournalVersionError: a newer Playbill wrote it.
        """
        return cls(Reader(url))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file up. Closing twice is no error."""
        self._reader.close()

    @property
    def reader(self) -> Reader:
        """What reads the file, for the rest of this room."""
        return self._reader

    @property
    def path(self) -> Path:
        """The journal's file."""
        return self._reader.path

    @property
    def size(self) -> int:
        """How many records the journal had when the ledger was opened."""
        return self._reader.size

    # ---------------------------------------------------------------------------------------------------- activities

    def activities(
        self,
        *,
        status: Status = None,
        name: str | None = None,
        by: str | None = None,
        tag: str | tuple[str, str] | None = None,
        key: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        text: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Iterator[ActivityRow]:
        """Activities, in the order in which they were asked for.

        Args:
            status, name, by, tag, key, since, until, text: see `ActivityFilter`.
            limit: how many at most.
            after: the id of an activity; those come that were asked for after it.

        Raises:
            PlaybillError: there is no such status, an instant is naive, or `limit` is negative.
            ActivityNotFoundError: there is no activity `after`.
        """
        wanted = ActivityFilter(status=status, name=name, by=by, tag=tag, key=key, since=since, until=until, text=text)
        first = 0 if after is None else self._asked(after).seq
        return _limited(self._activities(wanted, first), limit)

    def selected(self, wanted: ActivityFilter) -> Iterator[ActivityRow]:
        """The activities that a filter selects, in the order in which they were asked for."""
        return self._activities(wanted, 0)

    def _activities(self, wanted: ActivityFilter, after: int) -> Iterator[ActivityRow]:
        low, high = Period(since=wanted.since, until=wanted.until).bounds()
        where = f"{_COMMANDS} AND kind = 'command.accepted' AND at >= ? AND at < ?"
        parameters: list[object] = [low, high]
        for column, value in (("name", wanted.name), ("by", wanted.by)):
            if value is not None:
                where += f" AND {column} = ?"
                parameters.append(value)
        for rows in self._reader.rows(where, parameters, after=after):
            asked = [record for record in map(self._reader.record, rows) if _selects(wanted, record)]
            changes = self._changes([record.stream for record in asked])
            for record in asked:
                row = activity_of(record, changes.get(record.stream, ()))
                if (wanted.status is None or row.status in wanted.status) and self._holds(row.id, wanted.text):
                    yield row

    def _changes(self, ids: Sequence[str]) -> dict[str, list[Record]]:
        """The records that change the status of these activities, with `data` of their ends only."""
        marks = ", ".join("?" for _ in ids)
        rows = self._reader.query(
            f"SELECT {_ENDS_WITH_DATA} FROM records WHERE stream IN ({marks}) AND {_CHANGES} AND seq <= ? ORDER BY seq",
            (*ids, self.size),
        )
        found: dict[str, list[Record]] = {}
        for record in map(self._reader.record, rows):
            found.setdefault(record.stream, []).append(record)
        return found

    def _holds(self, id: str, text: str | None) -> bool:
        if text is None or text.lower() in id.lower():
            return True
        # As it stands in JSON text, without the quotes around it.
        sought = orjson.dumps(text).decode()[1:-1]
        for special in "\\%_":
            sought = sought.replace(special, f"\\{special}")
        statement = "SELECT 1 FROM records WHERE stream = ? AND seq <= ? AND data LIKE ? ESCAPE '\\' LIMIT 1"
        return bool(self._reader.query(statement, (id, self.size, f"%{sought}%")))

    def activity(self, id: str, /) -> ActivityRow:
        """One activity.

        Raises:
            ActivityNotFoundError: there is none of this id.
        """
        return activity_of(self._asked(id), self._changes([id]).get(id, ()))

    def _asked(self, id: str) -> Record:
        for record in self._reader.records("stream = ? AND kind = 'command.accepted'", (id,)):
            if record.facts.get("command") == "start":
                return record
        raise ActivityNotFoundError(id)

    def history(self, id: str, /) -> Iterator[Record]:
        """The records of one stream, in order: an activity's, or one of the engine's own, as `/engine`.

        Raises:
            ActivityNotFoundError: there is no such stream.
        """
        if not self._reader.query("SELECT 1 FROM records WHERE stream = ? AND seq <= ? LIMIT 1", (id, self.size)):
            raise ActivityNotFoundError(id)
        return self._reader.records("stream = ?", (id,))

    # ---------------------------------------------------------------------------------- commands, steps, events

    def commands(
        self,
        target: str | None = None,
        /,
        *,
        kind: str | None = None,
        by: str | None = None,
        accepted: bool | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[CommandRow]:
        """Commands, obeyed and refused, in order.

        Args:
            target: the id of the activity that was meant.
            kind: what was asked, as `start`.
            by: who asked.
            accepted: only those that were obeyed, or only those that were refused.
            since: recorded at this instant or later.
            until: recorded before this instant.
            limit: how many at most.

        Raises:
            PlaybillError: an instant is naive, or `limit` is negative.
        """
        low, high = Period(since=since, until=until).bounds()
        where, parameters = f"{_COMMANDS} AND at >= ? AND at < ?", [low, high]
        if by is not None:
            where += " AND by = ?"
            parameters.append(by)
        if accepted is not None:
            where += " AND kind = ?"
            parameters.append("command.accepted" if accepted else "command.denied")
        rows = map(command_of, self._reader.records(where, parameters))
        return _limited((row for row in rows if target in (None, row.target) and kind in (None, row.kind)), limit)

    def steps(
        self,
        id: str | None = None,
        /,
        *,
        name: str | None = None,
        slowest: int | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
    ) -> Iterator[StepRow]:
        """Steps: of one activity in the order of their first records, or of all, activity by activity.

        Args:
            id: the activity's id.
            name: the step's name.
            slowest: only so many, those whose attempts took longest together, the slowest first.
            since: begun at this instant or later.
            until: begun before this instant.

        Raises:
            ActivityNotFoundError: there is no activity of this id.
            PlaybillError: an instant is naive, or `slowest` is negative.
        """
        if slowest is not None and slowest < 0:
            raise PlaybillError(f"slowest={slowest} is negative; give how many steps you want")
        period = Period(since=since, until=until)
        asked = None if id is None else self._asked(id).stream
        if slowest is None:
            return self._steps(asked, name, period)
        chosen = heapq.nlargest(slowest, self._attempts(asked, name, period), key=lambda attempts: seconds_of(attempts))
        return (step_of([*attempts[:-1], self._whole(attempts[-1])]) for attempts in chosen)

    def _steps(self, id: str | None, name: str | None, period: Period) -> Iterator[StepRow]:
        return (step_of(attempts) for attempts in self._attempts(id, name, period, columns=COLUMNS))

    def _attempts(
        self, id: str | None, name: str | None, period: Period, *, columns: str = _FACTS_ONLY
    ) -> Iterator[list[Record]]:
        """The attempts of each step."""
        low, high = period.bounds()
        for stream in self._streams_of_activities() if id is None else [id]:
            pages = self._reader.rows(f"stream = ? AND {_STEPS}", (stream,), columns=columns)
            records = (self._reader.record(row) for rows in pages for row in rows)
            for attempts in attempts_by_step(records):
                first = attempts[0]
                if name in (None, first.name) and low <= str(first.facts.get("started", "")) < high:
                    yield attempts

    def _streams_of_activities(self) -> Iterator[str]:
        where = f"{_COMMANDS} AND kind = 'command.accepted'"
        for record in self._reader.records(where):
            if record.facts.get("command") == "start":
                yield record.stream

    def _whole(self, record: Record) -> Record:
        """A record that was read without its data, with it."""
        return self._reader.record(self._reader.query(f"SELECT {COLUMNS} FROM records WHERE seq = ?", (record.seq,))[0])

    def events(
        self,
        topic: str = "#",
        *,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[EventRow]:
        """Events, of activities and from outside, in order; or the engine's own doings, as subscribers are given them.

        Args:
            topic: a topic pattern, as `orders.*.paid` or `#`. One whose first word is `playbill` selects the records
                that are seen as events on system topics, and no others; no other pattern selects them.
            since: recorded at this instant or later.
            until: recorded before this instant.
            limit: how many at most.

        Raises:
            TopicError: `topic` is no pattern.
            PlaybillError: an instant is naive, or `limit` is negative.
        """
        pattern = TopicPattern(topic)
        bounds = Period(since=since, until=until).bounds()
        kinds = _SYSTEM_EVENTS if pattern.is_of_the_system else _EVENTS
        events = map(event_of, self._reader.records(f"{kinds} AND at >= ? AND at < ?", bounds))
        return _limited((event for event in events if pattern.matches_words(event.topic.split("."))), limit)

    def dead_letters(self, *, subscriber: str | None = None) -> Iterator[DeadLetterRow]:
        """Events that a subscriber could not handle, subscriber by subscriber, in order.

        Args:
            subscriber: only those of this one.

        Raises:
            JournalDamagedError: a record does not tell which event it is about.
        """
        if subscriber is not None:
            yield from self._dead_letters(SUBSCRIBER_STREAMS + subscriber)
            return
        # Every stream that begins with the prefix sorts from it up to the prefix with its last character raised by one.
        low, high = SUBSCRIBER_STREAMS, SUBSCRIBER_STREAMS[:-1] + chr(ord(SUBSCRIBER_STREAMS[-1]) + 1)
        streams = self._reader.query(
            "SELECT DISTINCT stream FROM records WHERE stream >= ? AND stream < ? ORDER BY stream", (low, high)
        )
        for (stream,) in streams:
            yield from self._dead_letters(stream)

    def _dead_letters(self, stream: str) -> Iterator[DeadLetterRow]:
        failures: dict[int, list[ErrorRow]] = {}
        for record in self._reader.records("stream = ? AND kind LIKE 'delivery.%'", (stream,)):
            if record.kind == "delivery.failed":
                error = error_of(record)
                if error is not None:
                    failures.setdefault(self._seq_in(record, "event"), []).append(error)
            elif record.kind == "delivery.dead":
                seq = self._seq_in(record, "event")
                errors = failures.pop(seq, [])
                for event in self._reader.records("seq = ?", (seq,)):
                    yield DeadLetterRow(event=event_of(event), subscriber=record.name or "", errors=tuple(errors))
            elif record.kind == "delivery.handled":
                # What the cursor has passed is settled: only what is still tried is kept in mind.
                settled = self._seq_in(record, "to")
                failures = {event: errors for event, errors in failures.items() if event > settled}

    def _seq_in(self, record: Record, fact: str) -> int:
        value = record.facts.get(fact)
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise JournalDamagedError(
                f"{self.path}: record {record.seq} cannot be read: its facts hold no seq {fact!r}; `playbill verify` "
                "says what is wrong"
            )
        return value

    # ------------------------------------------------------------------------------------------------ the whole

    def stats(self) -> Stats:
        """How much there is."""
        # A step that a fork took over was completed once.
        rows = self._reader.query(
            "SELECT kind, count(*), sum(kind = 'step.completed' AND instr(facts, '\"copied\":') > 0) FROM records "
            "WHERE seq <= ? GROUP BY kind",
            (self.size,),
        )
        counts = {kind: count for kind, count, _ in rows}
        copies = sum(copied or 0 for _, _, copied in rows)
        activities: dict[ActivityStatus, int] = {}
        for kind, cancelling, count in self._reader.query(_STATUSES, (self.size,)):
            status = ActivityStatus.CANCELLING if cancelling else STATUS_AFTER[kind]
            activities[status] = activities.get(status, 0) + count
        return Stats(
            records=sum(counts.values()),
            activities=activities,
            steps=counts.get("step.completed", 0) - copies,
            events=sum(counts.get(kind, 0) for kind in EVENT_KINDS),
            dead_letters=counts.get("delivery.dead", 0),
            first=self._instant("min"),
            last=self._instant("max"),
        )

    def _instant(self, end: str) -> dt.datetime | None:
        rows = self._reader.query(
            f"SELECT at FROM records WHERE seq = (SELECT {end}(seq) FROM records WHERE seq <= ?)", (self.size,)
        )
        return parse(rows[0][0]) if rows else None

    def verify(self, seal: str | Path | None = None) -> Verification:
        """See whether the journal is what was recorded; never raises for what stands in the file.

        Without a seal that is kept elsewhere, nobody can find out that the journal's tail was cut off, that an old copy
        was put in its place, or that it was rewritten whole with all hashes made anew.

        Args:
            seal: seals come in a later version.

        Raises:
            PlaybillError: a seal was given.
        """
        if seal is not None:
            raise PlaybillError("this version cannot verify against a seal; call verify() without one")
        return verify(self)


def _selects(wanted: ActivityFilter, asked: Record) -> bool:
    """Whether the command that started an activity is what the filter asks for, as far as `facts` tell."""
    facts = asked.facts
    if facts.get("command") != "start" or (wanted.key is not None and facts.get("key") != wanted.key):
        return False
    if wanted.tag is None:
        return True
    tags = facts.get("tags")
    if not isinstance(tags, Mapping):
        return False
    if isinstance(wanted.tag, str):
        return wanted.tag in tags
    name, value = wanted.tag
    return name in tags and bool(tags[name] == value)


def _limited(rows: Iterator[_R], limit: int | None) -> Iterator[_R]:
    if limit is not None and limit < 0:
        raise PlaybillError(f"limit={limit} is negative; give how many rows you want at most")
    return islice(rows, limit)
