"""From records to rows: plain functions, no queries.

An activity's row follows from its command and from the records that change its status; a step's from its attempts; an
error's from the `error` that a record's `data` holds. Where `data` was erased, what `facts` hold still stands.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from engine.audit.rows import ActivityRow, CommandRow, ErrorRow, EventRow, Record, StepRow
from engine.clock import parse
from engine.errors import PayloadError
from engine.journal.events import system_event_id
from engine.journal.kinds import ENDED, SYSTEM_TOPICS, status_after
from engine.messages import ActivityStatus

STEP_KINDS = ("step.completed", "step.failed", "step.interrupted", "step.resolved")
"""The kinds that tell of an attempt at a step."""


def payload(record: Record, field: str) -> Any:
    """One field of a record's `data`; `None` where it is not there."""
    return record.data.get(field) if isinstance(record.data, Mapping) else None


def text_of(value: object) -> str:
    """A fact as text: what is no text yet, as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def error_of(record: Record) -> ErrorRow | None:
    """The error that a record tells of; `None` where it tells of none."""
    tree = payload(record, "error")
    if not isinstance(tree, Mapping):
        kind = record.facts.get("error")
        return None if kind is None else ErrorRow(type=text_of(kind), message="", notes=(), traceback="")
    return ErrorRow(
        type=text_of(tree.get("type", record.facts.get("error", ""))),
        message=text_of(tree.get("message", "")),
        notes=tuple(text_of(note) for note in tree.get("notes") or ()),
        traceback=text_of(tree.get("traceback") or ""),
    )


def activity_of(asked: Record, changes: Iterable[Record]) -> ActivityRow:
    """An activity's row.

    Args:
        asked: the command that started it.
        changes: the records of its stream that change its status, in order.
    """
    status = ActivityStatus.PENDING
    began: Record | None = None
    last = asked
    for change in changes:
        status = status_after(change.kind, change.facts) or status
        last = change
        if began is None:
            began = change
    ended = status in ENDED
    tags = asked.facts.get("tags")
    return ActivityRow(
        id=asked.stream,
        name=asked.name or "",
        version="" if began is None else text_of(began.facts.get("version", "")),
        status=status,
        by=asked.by,
        reason=payload(asked, "reason"),
        key=asked.facts.get("key"),
        tags=tags if isinstance(tags, Mapping) else {},
        parent=asked.facts.get("parent"),
        started=None if began is None else began.at,
        ended=last.at if ended else None,
        runs=last.run or 0,
        result=payload(last, "value") if ended else None,
        error=error_of(last) if status is ActivityStatus.FAILED else None,
    )


def command_of(record: Record) -> CommandRow:
    """A command's row."""
    accepted = record.kind == "command.accepted"
    return CommandRow(
        seq=record.seq,
        at=record.at,
        kind=text_of(record.facts.get("command", "")),
        target=text_of(record.facts.get("target", record.stream)),
        by=record.by,
        reason=payload(record, "reason"),
        origin=text_of(record.facts.get("origin", "")),
        accepted=accepted,
        refusal=None if accepted else text_of(record.facts.get("rule", "")),
    )


def event_of(record: Record) -> EventRow:
    """An event's row; a record of the engine's own doings is shown as subscribers are given it."""
    if record.kind in SYSTEM_TOPICS:
        return _system_event_of(record)
    source = record.stream if record.kind == "event.emitted" else record.by or record.stream
    return EventRow(
        seq=record.seq,
        id=text_of(record.facts.get("id", "")),
        topic=record.name or "",
        data=payload(record, "data"),
        at=record.at,
        source=source,
        cause=record.facts.get("cause"),
        key=record.facts.get("key"),
    )


def _system_event_of(record: Record) -> EventRow:
    seen = {field: getattr(record, field) for field in ("kind", "stream", "name", "run", "facts", "data")}
    return EventRow(
        seq=record.seq,
        id=system_event_id(record.seq),
        topic=SYSTEM_TOPICS[record.kind],
        data=seen,
        at=record.at,
        source=record.stream,
        cause=record.facts.get("id") if record.kind == "delivery.dead" else None,
        key=None,
    )


def attempts_by_step(records: Iterable[Record]) -> Iterable[list[Record]]:
    """The attempts of each step, from an activity's records of `STEP_KINDS` in order; steps by their first record."""
    steps: dict[tuple[Any, str | None], list[Record]] = {}
    for record in records:
        steps.setdefault((record.facts.get("generation"), record.path), []).append(record)
    return steps.values()


def began(attempt: Record) -> dt.datetime:
    """When an attempt began."""
    try:
        return parse(attempt.facts["started"])
    except (KeyError, PayloadError):
        return attempt.at


def seconds_of(attempts: Iterable[Record]) -> float:
    """How long attempts took together."""
    return sum(max(0.0, (attempt.at - began(attempt)).total_seconds()) for attempt in attempts)


def step_of(attempts: Sequence[Record]) -> StepRow:
    """A step's row from its attempts, which are one or more."""
    first, last = attempts[0], attempts[-1]
    settled = last.kind == "step.completed" or last.facts.get("retry_at") is None
    return StepRow(
        activity=last.stream,
        path=last.path or "",
        name=last.name or "",
        args=payload(last, "args"),
        attempts=sum(attempt.kind != "step.resolved" for attempt in attempts),
        started=began(first),
        ended=last.at if settled else None,
        seconds=seconds_of(attempts),
        result=payload(last, "value"),
        error=error_of(last),
    )
