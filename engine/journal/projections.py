"""The tables derived from the records: one function from a record to what it changes.

The live engine stages the changes of a commit and writes them in the same transaction, one row an activity; `rebuild`
and `verify` run the same function over the stored records. A projection holds no copy of `data`, only the `seq` where
it stands, so that erasing a record leaves nothing behind here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import orjson

from engine.journal.kinds import STATUS_AFTER, TERMINAL_KINDS, status_after

Row: TypeAlias = dict[str, Any]

TABLES: Mapping[str, tuple[str, ...]] = {
    "activities": ("id",),
    "subscriptions": ("name",),
    "dead_letters": ("subscriber", "event"),
    "publications": ("id",),
    "messages": ("activity", "id"),
}
"""The projections, each with its primary key."""

_NEW_ACTIVITY: Row = {
    "name": None,
    "version": None,
    "status": None,
    "by": None,
    "key": None,
    "tags": "{}",
    "priority": 0,
    "parent": None,
    "runs": 0,
    "accepted": None,
    "accepted_at": None,
    "started": None,
    "started_at": None,
    "ended": None,
    "ended_at": None,
    "retried": None,
    "continued": None,
}


class Projected(NamedTuple):
    """What a projection sees of a record."""

    seq: int
    stream: str
    kind: str
    name: str | None
    run: int | None
    at: str
    by: str | None
    facts: Mapping[str, Any]


class Projections:
    """The changes that the records of one commit make to the derived tables, staged until they are written.

    Attributes:
        inserted: for each table the new rows, by primary key.
        updated: for each table the changed columns of rows that stand already, by primary key.
    """

    __slots__ = ("inserted", "updated")

    def __init__(self) -> None:
        self.inserted: dict[str, dict[tuple[Any, ...], Row]] = {}
        self.updated: dict[str, dict[tuple[Any, ...], Row]] = {}

    def apply(self, record: Projected) -> None:
        """Stage what a record changes. Call it only for kinds in `PROJECTED`; the others change nothing."""
        PROJECTED[record.kind](self, record)

    def insert(self, table: str, key: tuple[Any, ...], row: Row) -> None:
        if self.updated:
            # What was changed in the row before must not be written into the one that takes its place.
            self.updated.get(table, {}).pop(key, None)
        self.inserted.setdefault(table, {})[key] = row

    def update(self, table: str, key: tuple[Any, ...], **columns: Any) -> None:
        staged = self.inserted.get(table, {}).get(key)
        if staged is None:
            staged = self.updated.setdefault(table, {}).setdefault(key, {})
        staged.update(columns)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write all that is staged, in the transaction that is open on the connection."""
        for statement_of, staged in ((_insert, self.inserted), (_update, self.updated)):
            for table, rows in staged.items():
                # Rows of one shape go in one call: nearly all of a commit's are alike.
                shapes: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
                for key, row in rows.items():
                    shapes.setdefault(tuple(row), []).append((*row.values(), *key))
                for columns, parameters in shapes.items():
                    connection.executemany(statement_of(table, TABLES[table], columns), parameters)


_statements: dict[tuple[str, str, tuple[str, ...]], str] = {}


def _insert(table: str, key: tuple[str, ...], columns: tuple[str, ...]) -> str:
    statement = _statements.get(("insert", table, columns))
    if statement is None:
        names = ", ".join(f'"{column}"' for column in (*columns, *key))
        marks = ", ".join("?" for _ in (*columns, *key))
        # REPLACE, because a dead letter may be recorded anew for an event that was put back.
        statement = f"INSERT OR REPLACE INTO {table}({names}) VALUES ({marks})"
        _statements["insert", table, columns] = statement
    return statement


def _update(table: str, key: tuple[str, ...], columns: tuple[str, ...]) -> str:
    statement = _statements.get(("update", table, columns))
    if statement is None:
        changes = ", ".join(f'"{column}" = ?' for column in columns)
        where = " AND ".join(f'"{column}" = ?' for column in key)
        statement = f"UPDATE {table} SET {changes} WHERE {where}"
        _statements["update", table, columns] = statement
    return statement


_Apply: TypeAlias = Callable[[Projections, Projected], None]


def _command_accepted(to: Projections, record: Projected) -> None:
    if record.facts["command"] != "start":
        return
    row = _NEW_ACTIVITY.copy()
    row["name"] = record.name
    row["status"] = str(STATUS_AFTER[record.kind])
    row["by"] = record.by
    row["accepted"] = record.seq
    row["accepted_at"] = record.at
    if "key" in record.facts:
        row["key"] = record.facts["key"]
    if "tags" in record.facts:
        row["tags"] = orjson.dumps(record.facts["tags"]).decode()
    if "parent" in record.facts:
        row["parent"] = record.facts["parent"]
    if "priority" in record.facts:
        row["priority"] = record.facts["priority"]
    to.insert("activities", (record.stream,), row)


def _activity_started(to: Projections, record: Projected) -> None:
    to.update(
        "activities",
        (record.stream,),
        version=record.facts["version"],
        status=str(STATUS_AFTER[record.kind]),
        runs=record.run,
        started=record.seq,
        started_at=record.at,
    )
    if "deadline" in record.facts:
        to.update("activities", (record.stream,), deadline=record.facts["deadline"])


def _activity_status(to: Projections, record: Projected) -> None:
    status = status_after(record.kind, record.facts)
    if status is not None:
        to.update("activities", (record.stream,), status=str(status), runs=record.run, due=None)


def _activity_retried(to: Projections, record: Projected) -> None:
    _activity_status(to, record)
    to.update("activities", (record.stream,), ended=None, ended_at=None, retried=record.seq)
    if "deadline" in record.facts:
        to.update("activities", (record.stream,), deadline=record.facts["deadline"])


def _activity_continued(to: Projections, record: Projected) -> None:
    _activity_status(to, record)
    to.update(
        "activities",
        (record.stream,),
        name=record.name,
        version=record.facts["version"],
        continued=record.seq,
    )


def _activity_parked(to: Projections, record: Projected) -> None:
    due = record.facts.get("due")
    to.update("activities", (record.stream,), status=str(STATUS_AFTER[record.kind]), runs=record.run, due=due)


def _activity_ended(to: Projections, record: Projected) -> None:
    to.update(
        "activities",
        (record.stream,),
        status=str(STATUS_AFTER[record.kind]),
        runs=record.run,
        due=None,
        ended=record.seq,
        ended_at=record.at,
    )


def _subscriber_attached(to: Projections, record: Projected) -> None:
    patterns = orjson.dumps(record.facts["patterns"]).decode()
    row = {
        "stream": record.stream,
        "patterns": patterns,
        "attached": record.seq,
        "cursor": record.facts["after"],
        "beyond": "[]",
    }
    to.insert("subscriptions", (record.name,), row)


def _delivery_handled(to: Projections, record: Projected) -> None:
    beyond = orjson.dumps(record.facts["beyond"]).decode()
    to.update("subscriptions", (record.name,), cursor=record.facts["to"], beyond=beyond)


def _delivery_dead(to: Projections, record: Projected) -> None:
    row = {"record": record.seq, "attempts": record.facts["attempts"]}
    to.insert("dead_letters", (record.name, record.facts["event"]), row)


def _event_published(to: Projections, record: Projected) -> None:
    to.insert("publications", (record.facts["id"],), {"record": record.seq})


def _message_received(to: Projections, record: Projected) -> None:
    row = {
        "type": record.name,
        "sender": record.facts.get("sender"),
        "received": record.seq,
        "taken": None,
        "replied": None,
        "unread": None,
    }
    to.insert("messages", (record.stream, record.facts["id"]), row)


def _message_taken(to: Projections, record: Projected) -> None:
    to.update("messages", (record.stream, record.facts["message"]), taken=record.seq)


def _message_replied(to: Projections, record: Projected) -> None:
    to.update("messages", (record.stream, record.facts["message"]), replied=record.seq)


def _message_unread(to: Projections, record: Projected) -> None:
    to.update("messages", (record.stream, record.facts["message"]), unread=record.seq)


def _branch_ended(to: Projections, record: Projected) -> None:
    for message in record.facts.get("returned", ()):
        to.update("messages", (record.stream, message), taken=None)


PROJECTED: Mapping[str, _Apply] = {
    "command.accepted": _command_accepted,
    "activity.started": _activity_started,
    **{
        kind: _activity_ended if kind in TERMINAL_KINDS else _activity_status
        for kind in STATUS_AFTER
        if kind
        not in ("command.accepted", "activity.started", "activity.parked", "activity.retried", "activity.continued")
    },
    "activity.retried": _activity_retried,
    "activity.continued": _activity_continued,
    "activity.parked": _activity_parked,
    "subscriber.attached": _subscriber_attached,
    "delivery.handled": _delivery_handled,
    "delivery.dead": _delivery_dead,
    "event.published": _event_published,
    "message.received": _message_received,
    "message.taken": _message_taken,
    "message.replied": _message_replied,
    "message.unread": _message_unread,
    "branch.ended": _branch_ended,
}
"""The kinds that change a derived table, and how."""
