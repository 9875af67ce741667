"""An event as its subscribers see it, from the record that holds it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from engine.clock import parse
from engine.journal.records import StoredRecord
from engine.messages import Event


def event_of(record: StoredRecord, *, data: Any) -> Event[Any]:
    """An event from its record, and from its decoded data.

    Args:
        record: of one of the kinds `EVENT_KINDS`.
        data: what the record's `data` holds as the event's own, decoded by whoever knows its type.
    """
    facts = record.facts
    return Event(
        id=facts["id"],
        topic=record.name or "",
        data=data,
        at=parse(record.at),
        source=record.stream,
        cause=facts.get("cause"),
        key=facts.get("key"),
        headers=MappingProxyType(record.load().get("headers", {})),
        seq=record.seq,
    )
