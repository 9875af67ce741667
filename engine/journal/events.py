"""An event as its subscribers see it, from the record that holds it, or from one that tells of the engine's doings."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import attrs
import orjson

from engine.clock import parse
from engine.journal.kinds import SYSTEM_TOPICS
from engine.journal.records import StoredRecord
from engine.messages import Event


def event_of(record: StoredRecord, *, data: Any) -> Event[Any]:
    """An event from its record, and from its decoded data.

    Args:
        record: of one of the kinds `EVENT_KINDS`, or `event.copied`, which holds the event of the original.
        data: what the record's `data` holds as the event's own, decoded by whoever knows its type.
    """
    facts = record.facts
    return Event(
        id=facts["id"],
        topic=record.name or "",
        data=data,
        at=parse(record.at),
        source=facts.get("source", record.stream),
        cause=facts.get("cause"),
        key=facts.get("key"),
        headers=MappingProxyType(record.load().get("headers", {})),
        seq=facts.get("copied", record.seq),
    )


def system_event_id(seq: int) -> str:
    """The id of the event as which the record of this `seq` is seen."""
    return f"playbill:{seq}"


def seen_as_event(record: StoredRecord) -> StoredRecord:
    """A record of the engine's doings, of one of the kinds in `SYSTEM_TOPICS`, in the form of one that holds an event.

    There is no such record in the journal. The event's id is made of the record's `seq`; its data is the record: its
    kind, its name, the activity's run, and its facts and data. What of a dead letter caused it is the event that died.
    """
    facts: dict[str, Any] = {"id": system_event_id(record.seq)}
    if record.kind == "delivery.dead":
        facts["cause"] = record.facts["id"]
    data = {
        "kind": record.kind,
        "stream": record.stream,
        "name": record.name,
        "run": record.run,
        "facts": record.facts,
        "data": None if record.data is None else orjson.Fragment(record.data),
    }
    text = orjson.dumps({"data": data}).decode()
    return attrs.evolve(record, name=SYSTEM_TOPICS[record.kind], path=None, run=None, facts=facts, data=text)
