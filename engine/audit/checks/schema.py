"""The tables themselves: a journal has those of its schema version, and SQLite finds them sound.

A trigger can alter what is written, a view can take a table's place, and an index that lacks a row hides it from every
query that uses the index. So whatever the schema does not have is reported, and what it has and the journal lacks too.
Only the statistics that SQLite's own ANALYZE leaves are passed over, and those by their whole statement: a name that
begins like theirs could be anybody's.

So are rows that no journal of this version has: of seals, which it does not write, and of migrations of others.
"""

from __future__ import annotations

import re
import sqlite3
from typing import TypeAlias

from sqlite_utils import Database, Migrations

from engine.audit.checks.findings import Findings
from engine.journal.schema import SCHEMA, migrations

_Objects: TypeAlias = dict[tuple[str, str], list[str]]
"""The statements of each type and name; a schema that was written to may hold one more than once."""

_MOST = 20
"""Lines of SQLite's own check that are passed on."""

_MASTER = "SELECT type, name, sql FROM sqlite_master"

_STATISTICS = {
    ("table", "sqlite_stat1", "CREATE TABLE sqlite_stat1(tbl,idx,stat)"),
    ("table", "sqlite_stat4", "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)"),
}
"""What ANALYZE makes."""


def check_schema(findings: Findings, connection: sqlite3.Connection) -> None:
    """Compare tables, views, indexes and triggers with those of the journal's schema version."""
    (encoding,) = connection.execute("PRAGMA encoding").fetchone()
    if encoding != "UTF-8":
        findings.add("the schema", None, f"the database's texts are in {encoding}, not in UTF-8")
    expected, found = _expected(connection), _objects(connection)
    for kind, name in sorted(expected.keys() | found.keys()):
        mine, theirs = found.get((kind, name)), expected.get((kind, name))
        if mine is None:
            findings.add("the schema", None, f"the {kind} {name!r} is missing")
        elif theirs is None:
            findings.add("the schema", None, f"there is a {kind} {name!r}, which no journal has")
        elif len(mine) > 1:
            findings.add("the schema", None, f"the {kind} {name!r} stands there {len(mine)} times: {'; '.join(mine)}")
        elif mine != theirs:
            findings.add("the schema", None, f"the {kind} {name!r} is not as Playbill makes it: {mine[0]}")
    _check_migrations(findings, connection)
    for size, note in connection.execute(f"SELECT size, note FROM seals ORDER BY size LIMIT {_MOST}"):
        findings.add("seals", None, f"there is a seal of size {size!r}, note {note!r}; this version cannot check it")


def _check_migrations(findings: Findings, connection: sqlite3.Connection) -> None:
    seen: set[object] = set()
    rows = connection.execute(f'SELECT migration_set, name FROM "{Migrations.migrations_table}" ORDER BY name')
    for owner, name in rows:
        if owner != migrations.name or name not in SCHEMA:
            what = f"there is a migration {name!r} of {owner!r}, which no journal of this version has"
            findings.add("migrations", None, what)
        elif name in seen:
            findings.add("migrations", None, f"the migration {name!r} stands there twice")
        seen.add(name)


def _expected(connection: sqlite3.Connection) -> _Objects:
    applied = {migration.name for migration in migrations.applied(Database(connection))}
    fresh = sqlite3.connect(":memory:")
    try:
        migrations.apply(Database(fresh), stop_before=[name for name in SCHEMA if name not in applied])
        return _objects(fresh)
    finally:
        fresh.close()


def _objects(connection: sqlite3.Connection) -> _Objects:
    found: _Objects = {}
    for kind, name, sql in connection.execute(_MASTER):
        if (kind, name, sql) not in _STATISTICS:
            found.setdefault((str(kind), str(name)), []).append(_plain(sql))
    return found


def _plain(sql: str | None) -> str:
    """A statement without what versions of sqlite-utils write differently: white space and the way names are quoted."""
    text = re.sub(r"\[(\w+)\]", r'"\1"', sql or "")
    return re.sub(r"\s+", " ", re.sub(r"\s*([(),])\s*", r"\1", text)).strip()


def check_soundness(findings: Findings, connection: sqlite3.Connection) -> None:
    """Pass on what SQLite's own check finds: damaged pages, indexes that lack rows, values of wrong types."""
    lines = [str(line) for (line,) in connection.execute(f"PRAGMA integrity_check({_MOST})")]
    for text in lines:
        for line in text.splitlines():
            # Of the records, single values are looked at one by one elsewhere.
            if line != "ok" and " value in records." not in line:
                findings.add("SQLite's own check", None, f"SQLite finds: {line}")
