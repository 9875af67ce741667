"""`docs/reference/schema.md`, from the schema of a journal made for it, and a sentence for each table and column.

A table or column without a sentence, or a sentence without its column, is an error: the page cannot fall behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import attrs

from docs.making.markdown import anchor, cell, code, table
from engine.journal.schema import migrate

_INTRODUCTION = """# The journal's schema

<!-- Made by docs/make_reference.py from a fresh journal; the sentences are in docs/making/schema.py. -->

A journal is one SQLite database. All its tables are STRICT but the last, which belongs to the migrations. `records` is
the journal; the tables that are called derived are made from it, and could be made again. Foreign keys are declared for
readers, which make links of them, and not enforced. Whoever reads with SQL finds examples in [Read a journal with
SQL](../how-to/read-a-journal-with-sql.md).

Instants are texts in UTC with microseconds, `2026-11-23T18:55:19.123456Z`, which sort as the instants do. JSON is text.
Numbers that refer to a record are its `seq`.
"""


@attrs.frozen
class Words:
    """What the page says of a table.

    Attributes:
        about: what it holds.
        columns: what each column holds.
        indexes: what each index, by its name, is for.
    """

    about: str
    columns: Mapping[str, str]
    indexes: Mapping[str, str] = {}


WORDS: Mapping[str, Words] = {
    "records": Words(
        "The journal: one row for everything that happened, never changed and never removed. What the kinds of "
        "records hold is told in [records.md](records.md), what is hashed in [log.md](log.md).",
        {
            "seq": "The record's number, from 1 without a gap.",
            "stream": "Whose history it belongs to: an activity's id, or one of the engine's, which begin with `/`.",
            "kind": "What happened.",
            "name": "The definition, step, topic or subscriber that it is about.",
            "path": "The call in the activity's code that it belongs to.",
            "run": "The number of the activity's run, from 1.",
            "at": "When it was recorded, as the clock said.",
            "by": "Who asked, on commands.",
            "facts": "JSON that the engine made; never erased.",
            "data": "JSON that came from users; NULL where there never was any, or where it was erased.",
            "salt": "16 random bytes that are hashed with `data`.",
            "digest": "The hash of salt and data, once they were erased.",
            "leaf": "The record's leaf in the Merkle tree.",
            "root": "The tree's root, on the last record of each commit.",
        },
        {
            "records_by_stream": "Finds the history of an activity, in order.",
            "records_events": "Finds the events, in order, with their topics.",
            "records_commands": "Finds the commands, in order.",
        },
    ),
    "streams": Words(
        "What kind of thing each stream is the history of.",
        {"id": "The stream.", "type": "`activity`, `engine` or `subscriber`."},
    ),
    "activities": Words(
        "Derived: where each activity stands.",
        {
            "id": "The activity's id.",
            "name": "The name of its definition.",
            "version": "The version of its definition, once it has started.",
            "status": "`pending`, `running`, `waiting`, `blocked`, `completed`, `failed` or `cancelled`.",
            "by": "Who asked for it.",
            "key": "Its business key.",
            "tags": "Its tags, a JSON object.",
            "priority": "Its priority.",
            "parent": "The activity that started it; no activity starts another in this version.",
            "runs": "How many runs it has had.",
            "accepted": "The record of the command that asked for it.",
            "accepted_at": "When that was.",
            "started": "The record with which its first run began.",
            "started_at": "When that was.",
            "ended": "The record with which it ended; its `data` holds the result, or the error.",
            "ended_at": "When that was.",
            "due": "The instant at which it is woken, while it is `waiting`.",
            "deadline": "The instant at which its time is over.",
            "continued": "The last record with which it went on as new; nothing before that is read for a resume.",
            "retried": "The last record with which it was run again, after it had failed.",
        },
        {
            "activities_by_status": "Finds those of a status, in the order in which they were asked for.",
            "activities_by_name": "Finds those of a definition, in the order in which they were asked for.",
            "activities_pending": "Finds who begins next.",
            "activities_deadline": "Finds the deadline that comes next.",
            "activities_due": "Finds who is woken next.",
            "activities_retried": "Finds those that were retried and have not ended since.",
        },
    ),
    "subscriptions": Words(
        "Derived: how far each subscriber is.",
        {
            "name": "The subscriber's name.",
            "stream": "Its stream.",
            "patterns": "Its topic patterns, a JSON array.",
            "attached": "The record with which it was attached with these patterns.",
            "cursor": "The record up to which all matching events are handled.",
            "beyond": "What is handled beyond that: a JSON array of ranges, both ends included.",
        },
    ),
    "dead_letters": Words(
        "Derived: the events that a subscriber could not handle in all its attempts.",
        {
            "subscriber": "The subscriber's name.",
            "event": "The event's record.",
            "record": "The record that says so; its `data` holds the errors.",
            "attempts": "How many attempts there were.",
        },
    ),
    "publications": Words(
        "Derived: the events from outside, by their ids, so that none is published twice.",
        {"id": "The event's id.", "record": "The event's record."},
    ),
    "messages": Words(
        "Derived: the messages that activities were sent, by their ids, so that none is kept twice.",
        {
            "activity": "The id of the activity that was sent it.",
            "id": "The message's id.",
            "type": "Its class, as `package.module.Class`.",
            "sender": "The id of the activity that sent it, where one did.",
            "received": "The message's record; its `data` holds the message.",
            "taken": "The record with which the activity received it, unless it was given back since.",
            "replied": "The record with which the activity answered it, where it was asked.",
            "unread": "The record that says that the activity has ended without receiving it.",
        },
    ),
    "tiles": Words(
        "Hashes of the Merkle tree, 256 in a tile, so that it can be taken up again without reading all records.",
        {
            "level": "The tile's level, from 1; level 0 is the column `leaf` of `records`.",
            "n": "The tile's number in its level, from 0.",
            "hashes": "Its 256 hashes, 8,192 bytes.",
        },
    ),
    "seals": Words(
        "Signed heads of the tree that were given out. This version makes none.",
        {
            "size": "How many records it covers.",
            "note": "The signed note.",
            "at": "When it was made.",
        },
    ),
    "_sqlite_migrations": Words(
        "Which migrations of the schema were applied, as sqlite-utils keeps it.",
        {
            "id": "Their order.",
            "migration_set": "`playbill`.",
            "name": "The migration's name.",
            "applied_at": "When it was applied.",
        },
        {"idx__sqlite_migrations_migration_set_name": "Keeps a migration from being applied twice."},
    ),
}


def page() -> str:
    """The page's text."""
    journal = sqlite3.connect(":memory:")
    try:
        migrate(journal, ":memory:")
        names = {name for (name,) in journal.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert names == set(WORDS), f"tables and sentences differ: {sorted(names ^ set(WORDS))}"
        others = journal.execute("SELECT name FROM sqlite_master WHERE type NOT IN ('table', 'index')").fetchall()
        assert not others, f"the page knows of tables and indexes only, not of {others}"
        overview = [(f"[`{name}`](#{anchor(name)})", cell(words.about)) for name, words in WORDS.items()]
        sections = [_section(journal, name, words) for name, words in WORDS.items()]
    finally:
        journal.close()
    return "\n".join([_INTRODUCTION, "## All tables\n", table(("table", "what it holds"), overview), *sections])


def _section(journal: sqlite3.Connection, name: str, words: Words) -> str:
    parts = [f"## {name}\n", f"{words.about}\n", _columns(journal, name, words)]
    indexes = _indexes(journal, name, words)
    if indexes:
        parts.append(indexes)
    return "\n".join(parts)


def _columns(journal: sqlite3.Connection, name: str, words: Words) -> str:
    targets = {row[3]: (row[2], row[4]) for row in journal.execute(f'PRAGMA foreign_key_list("{name}")')}
    rows = []
    known = set()
    for _, column, kind, not_null, _, key in journal.execute(f'PRAGMA table_info("{name}")'):
        known.add(column)
        notes = []
        if key:
            notes.append("primary key")
        if column in targets:
            other, other_column = targets[column]
            notes.append(f"refers to [`{other}.{other_column}`](#{anchor(other)})")
        null = "" if not_null or key else "yes"
        rows.append((f"`{column}`", kind, null, "; ".join(notes), cell(words.columns[column])))
    assert known == set(words.columns), f"columns and sentences of {name} differ: {sorted(known ^ set(words.columns))}"
    return table(("column", "type", "NULL", "key", "what it holds"), rows)


def _indexes(journal: sqlite3.Connection, name: str, words: Words) -> str:
    rows = []
    # Indexes without SQL are those that primary keys make by themselves.
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql <> '' ORDER BY name"
    for index, sql in journal.execute(query, (name,)).fetchall():
        _, _, on = " ".join(sql.replace('"', "").split()).partition(f" ON {name}")
        rows.append((f"`{index}`", code(on.strip()), cell(words.indexes[index])))
    known = {row[0].strip("`") for row in rows}
    assert known == set(words.indexes), f"indexes and sentences of {name} differ: {sorted(known ^ set(words.indexes))}"
    return table(("index", "on", "what it is for"), rows) if rows else ""
