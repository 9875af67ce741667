"""The journal's tables in SQLite, and the migrations that make them.

`records` is the journal; the tables beside it are derived from it in the same transaction (see `projections`), but for
`tiles` and `seals`, which belong to the transparency log. Foreign keys are declared for readers (Datasette makes links
of them) and not enforced on the hot path. Each migration is one transaction: a process killed half-way leaves the
schema as it was, and the next opening applies it again.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, cast

from sqlite_utils import Database, Migrations

from engine.errors import JournalDamagedError, JournalVersionError
from engine.journal.kinds import EVENT_KINDS

if TYPE_CHECKING:
    from sqlite_utils.db import Table

APPLICATION_ID = 0x506C6279
"""`Plby` in the file's header (SQLite's `application_id`): by it a journal is told from any other database."""

migrations = Migrations("playbill")


@migrations()
def m001_journal(db: Database) -> None:
    """Records, streams, the log's tiles and seals; activities, subscriptions, dead letters, publications."""
    _create_log(db)
    _create_activities(db)
    _create_deliveries(db)


def _table(db: Database, name: str) -> Table:
    return cast("Table", db[name])


def _create_log(db: Database) -> None:
    _table(db, "streams").create({"id": str, "type": str}, pk="id", not_null={"type"}, strict=True)
    records = _table(db, "records")
    records.create(
        {
            "seq": int,
            "stream": str,
            "kind": str,
            "name": str,
            "path": str,
            "run": int,
            "at": str,
            "by": str,
            "facts": str,
            "data": str,
            "salt": bytes,
            "digest": bytes,
            "leaf": bytes,
            "root": bytes,
        },
        pk="seq",
        not_null={"stream", "kind", "at", "facts", "leaf"},
        foreign_keys=[("stream", "streams", "id")],
        strict=True,
    )
    # The only index that every record pays for (1 us a record): its rowid, the seq, is its tail.
    records.create_index(["stream"], "records_by_stream")
    kinds = ", ".join(f"'{kind}'" for kind in EVENT_KINDS)
    db.execute(f"CREATE INDEX records_events ON records(seq, name) WHERE kind IN ({kinds})")
    db.execute("CREATE INDEX records_commands ON records(seq) WHERE kind IN ('command.accepted', 'command.denied')")
    _table(db, "tiles").create(
        {"level": int, "n": int, "hashes": bytes}, pk=("level", "n"), not_null={"hashes"}, strict=True
    )
    _table(db, "seals").create({"size": int, "note": str, "at": str}, pk="size", not_null={"note", "at"}, strict=True)


def _create_activities(db: Database) -> None:
    activities = _table(db, "activities")
    activities.create(
        {
            "id": str,
            "name": str,
            "version": str,
            "status": str,
            "by": str,
            "key": str,
            "tags": str,
            "priority": int,
            "parent": str,
            "runs": int,
            "accepted": int,
            "accepted_at": str,
            "started": int,
            "started_at": str,
            "ended": int,
            "ended_at": str,
        },
        pk="id",
        not_null={"name", "status", "tags", "priority", "runs"},
        foreign_keys=[
            ("id", "streams", "id"),
            ("accepted", "records", "seq"),
            ("started", "records", "seq"),
            ("ended", "records", "seq"),
        ],
        strict=True,
    )
    activities.create_index(["status", "accepted"], "activities_by_status")
    activities.create_index(["name", "accepted"], "activities_by_name")


def _create_deliveries(db: Database) -> None:
    _table(db, "subscriptions").create(
        {"name": str, "stream": str, "patterns": str, "attached": int, "cursor": int, "beyond": str},
        pk="name",
        not_null={"stream", "patterns", "attached", "cursor", "beyond"},
        foreign_keys=[("stream", "streams", "id"), ("attached", "records", "seq")],
        strict=True,
    )
    _table(db, "dead_letters").create(
        {"subscriber": str, "event": int, "record": int, "attempts": int},
        pk=("subscriber", "event"),
        not_null={"record", "attempts"},
        foreign_keys=[
            ("subscriber", "subscriptions", "name"),
            ("event", "records", "seq"),
            ("record", "records", "seq"),
        ],
        strict=True,
    )
    _table(db, "publications").create(
        {"id": str, "record": int},
        pk="id",
        not_null={"record"},
        foreign_keys=[("record", "records", "seq")],
        strict=True,
    )


@migrations()
def m002_messages(db: Database) -> None:
    """The messages that activities were sent."""
    _table(db, "messages").create(
        {"activity": str, "id": str, "type": str, "sender": str, "received": int, "taken": int, "unread": int},
        pk=("activity", "id"),
        not_null={"type", "received"},
        foreign_keys=[
            ("activity", "streams", "id"),
            ("received", "records", "seq"),
            ("taken", "records", "seq"),
            ("unread", "records", "seq"),
        ],
        strict=True,
    )


@migrations()
def m003_waiting(db: Database) -> None:
    """Who waits, to be found by an index: for a free place, or until an instant."""
    _table(db, "activities").add_column("due", str)
    db.execute("CREATE INDEX activities_pending ON activities(priority DESC, accepted) WHERE status = 'pending'")
    db.execute("CREATE INDEX activities_due ON activities(due) WHERE status = 'waiting' AND due IS NOT NULL")


@migrations()
def m004_deadlines(db: Database) -> None:
    """Whose time is over when, to be found by an index."""
    _table(db, "activities").add_column("deadline", str)
    db.execute(
        "CREATE INDEX activities_deadline ON activities(deadline, id) WHERE deadline IS NOT NULL AND ended IS NULL"
    )


@migrations()
def m005_retries(db: Database) -> None:
    """Who was retried and has not ended since: the records of these go on counting those before them."""
    _table(db, "activities").add_column("retried", int)
    db.execute("CREATE INDEX activities_retried ON activities(id) WHERE retried IS NOT NULL AND ended IS NULL")


@migrations()
def m006_answers(db: Database) -> None:
    """Which messages were answered."""
    _table(db, "messages").add_column("replied", int)


@migrations()
def m007_generations(db: Database) -> None:
    """Where the present generation of an activity begins that went on as new: nothing before that is read again."""
    _table(db, "activities").add_column("continued", int)


SCHEMA = tuple(migration.name for migration in migrations.pending(Database(memory=True)))
"""Names of all migrations that this version knows, in order."""


def migrate(connection: sqlite3.Connection, path: str) -> tuple[str, ...]:
    """Bring the schema up to date.

    Returns:
        The names of the migrations that were applied; all of them for a new journal, none for one that is up to date.

    Raises:
        JournalDamagedError: the file is a database, but no journal. Nothing was written.
        JournalVersionError: the journal was written by a newer Playbill. Nothing was written.
    """
    check_schema(connection, path)
    database = Database(connection)
    applied = tuple(migration.name for migration in migrations.pending(database))
    if applied:
        with database.atomic():
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            # Left to `apply`, a process killed between the table and its index would leave it without the index.
            migrations.ensure_migrations_table(database)
        migrations.apply(database)
    return applied


def check_schema(connection: sqlite3.Connection, path: str) -> None:
    """Refuse a file that is no journal, or one of a newer schema; reads only.

    Raises:
        JournalDamagedError: the file is a database, but no journal.
        JournalVersionError: the journal was written by a newer Playbill.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID and (tables or application_id):
        raise JournalDamagedError(f"{path} is an SQLite database, but no Playbill journal; name another file")
    if Migrations.migrations_table not in tables:
        return
    applied = [migration.name for migration in migrations.applied(Database(connection))]
    unknown = [name for name in applied if name not in SCHEMA]
    if unknown:
        raise JournalVersionError(
            f"{path} was written by a newer Playbill (its schema has {', '.join(unknown)}); upgrade Playbill to open it"
        )
