"""Whatever is altered in a journal is found, and named once."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import rfc8785
import trio

from engine.audit import Ledger, Verification
from engine.audit.checks import findings, scan, schema
from engine.audit.checks.erasures import ErasureCheck
from engine.audit.checks.findings import Findings
from engine.audit.verification import verify
from engine.errors import JournalDamagedError
from engine.journal import SQLiteJournal
from engine.journal.log import Tree, commitment, entry, leaf_hash

COLUMNS = ["stream", "kind", "name", "path", "run", "at", "by", "facts", "data", "salt", "digest", "leaf", "root"]


def verified(journal: Path) -> Verification:
    with Ledger.open(journal) as ledger:
        return ledger.verify()


def problems(journal: Path) -> list[str]:
    return [str(problem) for problem in verified(journal).problems]


def seq_of(database: sqlite3.Connection, where: str) -> int:
    (seq,) = database.execute(f"SELECT seq FROM records WHERE {where} ORDER BY seq LIMIT 1").fetchone()
    return int(seq)


def leaf_again(database: sqlite3.Connection, seq: int) -> bytes:
    """What the leaf of a record would be, as it stands now."""
    (*columns, data, salt, digest) = database.execute(
        "SELECT seq, stream, kind, name, path, run, at, by, facts, data, salt, digest FROM records WHERE seq = ?",
        (seq,),
    ).fetchone()
    return leaf_hash(entry(*columns, digest if data is None else commitment(salt, data)))


def roots_again(database: sqlite3.Connection) -> None:
    """Make all roots anew, as whoever wrote the whole log again would."""
    tree = Tree()
    for seq, leaf, root in database.execute("SELECT seq, leaf, root FROM records ORDER BY seq").fetchall():
        tree.append(leaf)
        if root is not None:
            database.execute("UPDATE records SET root = ? WHERE seq = ?", (tree.root(), seq))


# ----------------------------------------------------------------------------------------------------- what is in order


def test_a_journal_as_it_was_written_is_in_order(journal: Path) -> None:
    verification = verified(journal)
    assert verification.problems == ()
    assert verification.ok
    assert verification.root is not None
    connection = sqlite3.connect(journal)
    last = connection.execute("SELECT root, seq FROM records ORDER BY seq DESC LIMIT 1").fetchone()
    connection.close()
    assert last == (verification.root, verification.size)


async def test_a_journal_is_in_order_while_it_is_written(tmp_path: Path) -> None:
    """Records that come after the ledger's opening are in the derived tables, and yet nothing differs."""
    path = tmp_path / "live.db"
    journal = SQLiteJournal(path, version="0.1.0", stamp=lambda: "2026-11-23T08:00:00.000000Z")
    facts = {"command": "start", "via": "engine", "origin": "here"}

    async def write(first: int, last: int) -> None:
        for number in range(first, last):
            id = f"activity-{number}"
            journal.append(id, "command.accepted", name="x", facts=facts, begins="activity")
            begun = {"generation": 0, "version": "1", "seed": ""}
            await journal.durable(journal.append(id, "activity.started", name="x", run=1, facts=begun))

    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        await write(0, 20)
        with Ledger.open(path) as ledger:
            await write(20, 40)
            during = await trio.to_thread.run_sync(ledger.verify)
            async with trio.open_nursery() as writing:
                writing.start_soon(write, 40, 300)
                beside = await trio.to_thread.run_sync(ledger.verify)
            assert (during.problems, beside.problems) == ((), ())
            assert during.size == ledger.size == 42
        journal.close_soon()
    journal.close()
    assert problems(path) == []


def test_progress_is_told(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "PAGE", 10)
    told: list[tuple[int, int]] = []
    with Ledger.open(journal) as ledger:
        verify(ledger, progress=lambda done, size: told.append((done, size)))
        assert told[-1] == (ledger.size, ledger.size)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


# ------------------------------------------------------------------------------------------------------ altered records

ALTERED: list[tuple[str, Any]] = [
    ("kind", "timer.fired"),
    ("kind", "no.such.kind"),
    ("name", "refund"),
    ("name", None),
    ("path", "charge#2"),
    ("run", 2),
    ("run", None),
    ("at", "2026-11-23T08:00:07.000000Z"),
    ("at", "yesterday"),
    ("by", "mallory"),
    ("facts", '{"generation": 0}'),
    ("facts", "no JSON"),
    ("data", '{"args": [], "value": 1}'),
    ("data", None),
    ("salt", b"0" * 16),
    ("salt", None),
    ("digest", b"0" * 32),
    ("leaf", b"0" * 32),
    ("leaf", b""),
]


@pytest.mark.parametrize(("column", "value"), ALTERED)
@pytest.mark.parametrize("kind", ["step.completed", "command.accepted", "activity.completed", "event.published"])
def test_an_altered_column_of_a_record_is_one_problem_that_names_it(
    journal: Path, database: sqlite3.Connection, kind: str, column: str, value: Any
) -> None:
    seq = seq_of(database, f"kind = '{kind}'")
    altered = database.execute(
        f'UPDATE records SET "{column}" = ?1 WHERE seq = ?2 AND "{column}" IS NOT ?1', (value, seq)
    ).rowcount
    verification = verified(journal)
    assert [problem.seq for problem in verification.problems] == [seq] * altered, verification.problems
    assert verification.ok is (altered == 0)


def test_a_record_moved_to_another_stream_is_named_first(journal: Path, database: sqlite3.Connection) -> None:
    seq = seq_of(database, "kind = 'step.failed'")
    database.execute("UPDATE records SET stream = 'order-3' WHERE seq = ?", (seq,))
    found = verified(journal).problems
    assert found[0].seq == seq
    assert "does not fit its leaf" in found[0].what
    # The stream that it was taken from misses it, by what its last records say.
    assert all("before" in problem.what for problem in found[1:])


def test_thousands_of_altered_records_do_not_make_thousands_of_lines(
    journal: Path, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "KEPT", 5)
    database.execute("UPDATE records SET \"by\" = 'x'")
    found = problems(journal)
    assert len(found) == 6
    assert found[-1].endswith("more problems of this sort: records that do not fit their leaves")


def alter_facts(database: sqlite3.Connection, seq: int, facts: str) -> None:
    """Alter a record's facts, with its leaf and all roots made anew."""
    database.execute("UPDATE records SET facts = ? WHERE seq = ?", (facts, seq))
    database.execute("UPDATE records SET leaf = ? WHERE seq = ?", (leaf_again(database, seq), seq))
    roots_again(database)


@pytest.mark.parametrize(
    ("kind", "facts", "lacking"),
    [
        ("delivery.dead", '{"id": "event-2"}', "attempts, event"),
        ("engine.closed", "{}", "running"),
        ("subscriber.attached", '{"after": 0}', "patterns"),
    ],
)
def test_facts_that_are_not_there_are_named(
    journal: Path, database: sqlite3.Connection, kind: str, facts: str, lacking: str
) -> None:
    seq = seq_of(database, f"kind = '{kind}'")
    alter_facts(database, seq, facts)
    assert problems(journal) == [f"record {seq}: its facts lack {lacking}"]


def test_records_nobody_can_derive_from_do_not_end_the_comparing_of_roots(
    journal: Path, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "PAGE", 5)
    seq = seq_of(database, "kind = 'command.accepted' AND stream = 'order-3'")
    (facts,) = database.execute("SELECT facts FROM records WHERE seq = ?", (seq,)).fetchone()
    database.execute("UPDATE records SET name = NULL WHERE seq = ?", (seq,))
    alter_facts(database, seq, facts)
    last = seq_of(database, "seq = (SELECT max(seq) FROM records)")
    database.execute("UPDATE records SET root = zeroblob(32) WHERE seq = ?", (last,))
    found = problems(journal)
    assert any("the derived tables cannot be made" in line for line in found), found
    assert any(line.startswith(f"record {last}: the root of the commit") for line in found), found


def test_many_altered_records_do_not_end_the_comparing_of_roots(
    journal: Path, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "KEPT", 2)
    database.execute("UPDATE records SET \"by\" = 'x' WHERE seq BETWEEN 3 AND 8")
    last = seq_of(database, "seq = (SELECT max(seq) FROM records)")
    database.execute("UPDATE records SET root = zeroblob(32) WHERE seq = ?", (last,))
    assert any(line.startswith(f"record {last}: the root") for line in problems(journal))


def test_a_check_that_runs_out_of_stack_is_a_problem(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deep(*_: object) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr("engine.audit.verification.check_schema", deep)
    assert problems(journal) == ["the schema cannot be checked: RecursionError: maximum recursion depth exceeded"]


# ----------------------------------------------------------------------------------- removed, inserted, swapped records


def test_a_removed_record_is_named(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM records WHERE seq = 7")
    assert problems(journal)[0].startswith("record 7: it is missing: removed from the journal; so the roots after it")


def test_a_cut_middle_is_named(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM records WHERE seq BETWEEN 10 AND 20")
    (found,) = problems(journal)
    assert found.startswith("record 10: it and the records up to 20 are missing: removed from the journal")


def renumber(database: sqlite3.Connection, after: int, by: int) -> None:
    # In two steps, since numbers in between are taken while SQLite goes through them.
    database.execute("UPDATE records SET seq = -seq WHERE seq > ?", (after,))
    database.execute("UPDATE records SET seq = -seq + ? WHERE seq < 0", (by,))


def test_a_cut_middle_with_the_rest_renumbered_is_found(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM records WHERE seq BETWEEN 10 AND 12")
    renumber(database, 12, -3)
    (found,) = problems(journal)
    assert found.startswith("record 10: it and the records up to ")
    assert "stand 3 places earlier than recorded: 3 records were removed before them" in found


def test_an_inserted_record_is_found(journal: Path, database: sqlite3.Connection) -> None:
    renumber(database, 9, 1)
    database.execute("INSERT INTO records SELECT 10, stream, kind, name, path, run, at, by, facts, data, salt, digest, "
                     "leaf, NULL FROM records WHERE seq = 2")  # fmt: skip
    database.execute("UPDATE records SET leaf = ? WHERE seq = 10", (leaf_again(database, 10),))
    (found,) = problems(journal)
    assert found.startswith("record 11: it and the records up to ")
    assert "stand 1 place later than recorded: 1 record was inserted before them" in found


def test_a_record_added_at_the_end_is_found(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("INSERT INTO records SELECT (SELECT max(seq) + 1 FROM records), stream, kind, name, path, run, "
                     "at, by, facts, data, salt, digest, leaf, NULL FROM records WHERE seq = 1")  # fmt: skip
    last = seq_of(database, "seq = (SELECT max(seq) FROM records)")
    database.execute("UPDATE records SET leaf = ? WHERE seq = ?", (leaf_again(database, last), last))
    assert any("no root" in found and f"record {last}:" in found for found in problems(journal))


def test_a_record_before_the_first_is_found(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("INSERT INTO records SELECT -5, stream, kind, name, path, run, at, by, facts, data, salt, digest, "
                     "leaf, root FROM records WHERE seq = 1")  # fmt: skip
    assert problems(journal) == ["record -5: it stands before record 1: inserted"]


@pytest.mark.parametrize(
    "columns", [COLUMNS, COLUMNS[:10], [*COLUMNS[:11], "leaf"]], ids=["all", "content", "no roots"]
)
@pytest.mark.parametrize(("first", "second"), [(5, 6), (5, 20)])
def test_swapped_records_are_named(
    journal: Path, database: sqlite3.Connection, first: int, second: int, columns: list[str]
) -> None:
    names = ", ".join(f'"{column}"' for column in columns)
    rows = [
        database.execute(f"SELECT {names} FROM records WHERE seq = ?", (seq,)).fetchone() for seq in (first, second)
    ]
    for seq, row in zip((second, first), rows, strict=True):
        database.execute(f"UPDATE records SET ({names}) = ({', '.join('?' * len(columns))}) WHERE seq = ?", (*row, seq))
    found = problems(journal)
    assert found[0].startswith(f"record {first}: it and record {second} were swapped")
    # Where they are of two streams, the count of the one that has ended does not fit either.
    assert all("`before`" in line for line in found[1:])


def test_a_tail_cut_off_within_a_commit_is_found(journal: Path, database: sqlite3.Connection) -> None:
    # Make the last two commits one, then cut its last record off.
    last = seq_of(database, "seq = (SELECT max(seq) FROM records)")
    database.execute("UPDATE records SET root = NULL WHERE seq = ?", (last - 1,))
    assert problems(journal) == []
    database.execute("DELETE FROM records WHERE seq = ?", (last,))
    assert any("the tail was cut off within a commit" in found for found in problems(journal))


def test_a_tail_cut_off_differs_from_the_derived_tables(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM records WHERE seq > ?", (seq_of(database, "kind = 'subscriber.attached'") - 1,))
    found = problems(journal)
    assert any("table subscriptions" in line for line in found)
    assert any("table streams" in line for line in found)


# ------------------------------------------------------------------------------------------------ the log's own columns


def test_a_leaf_made_anew_shows_in_the_first_root_that_does_not_fit(
    journal: Path, database: sqlite3.Connection
) -> None:
    seq = seq_of(database, "stream = 'order-3' AND kind = 'activity.started'")
    database.execute("UPDATE records SET data = '{}' WHERE seq = ?", (seq,))
    database.execute("UPDATE records SET leaf = ? WHERE seq = ?", (leaf_again(database, seq), seq))
    (found,) = problems(journal)
    assert found.startswith(f"record {seq}: the root of the commit that ends here does not fit the leaves up to it")
    assert "roots after it)" in found


def test_a_leaf_made_anew_with_all_roots_shows_in_what_the_ended_activity_says(
    journal: Path, database: sqlite3.Connection
) -> None:
    seq = seq_of(database, "stream = 'order-1' AND kind = 'step.completed'")
    end = seq_of(database, "stream = 'order-1' AND kind = 'activity.completed'")
    database.execute("UPDATE records SET data = '{}' WHERE seq = ?", (seq,))
    database.execute("UPDATE records SET leaf = ? WHERE seq = ?", (leaf_again(database, seq), seq))
    roots_again(database)
    assert problems(journal) == [
        f"record {end}: its `before` does not fit the leaves of the 6 records of the stream before it"
    ]


def test_an_altered_root_is_named(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("UPDATE records SET root = ? WHERE seq IN (8, 12)", (os.urandom(32),))
    assert problems(journal) == [
        "record 8: the root that stands on it was altered: later ones fit",
        "record 12: the root that stands on it was altered: later ones fit",
    ]


def test_a_root_taken_away_hides_nothing_and_is_no_problem(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("UPDATE records SET root = NULL WHERE seq = 8")
    assert problems(journal) == []


@pytest.mark.parametrize("before", ['"records":1', '"leaves":"00"', None])
def test_a_wrong_count_of_the_records_before_is_named(
    journal: Path, database: sqlite3.Connection, before: str | None
) -> None:
    seq = seq_of(database, "kind = 'activity.failed'")
    change = (
        "json_remove(facts, '$.before')" if before is None else f"json_set(facts, '$.before', json('{{{before}}}'))"
    )
    database.execute(f"UPDATE records SET facts = {change} WHERE seq = ?", (seq,))
    database.execute("UPDATE records SET leaf = ? WHERE seq = ?", (leaf_again(database, seq), seq))
    roots_again(database)
    (found,) = problems(journal)
    assert found.startswith(f"record {seq}: ")
    assert "before" in found


def test_a_record_after_the_end_says_what_stands_before_it_too(journal: Path, database: sqlite3.Connection) -> None:
    seq = seq_of(database, "kind = 'command.denied' AND stream = 'order-1'")
    database.execute("UPDATE records SET facts = json_remove(facts, '$.before') WHERE seq = ?", (seq,))
    database.execute("UPDATE records SET leaf = ? WHERE seq = ?", (leaf_again(database, seq), seq))
    roots_again(database)
    assert problems(journal) == [
        f"record {seq}: it holds no `before`, though the activity has ended with it or earlier"
    ]


# ---------------------------------------------------------------------------------------------------------------- tiles


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory, write_journal: Callable[..., None]) -> Path:
    """A journal with a full tile of level 1: 65,536 records, and some."""
    path = tmp_path_factory.mktemp("journals") / "large.db"

    async def many(script: Any) -> None:
        facts = '{"type":"step","module":"orders.charge"}'
        for _ in range(66):
            for _ in range(1000):
                seq = script.journal.append("/engine", "definition.registered", facts=facts)
            await script.journal.durable(seq)

    write_journal(path, many)
    return path


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        ("UPDATE tiles SET hashes = zeroblob(8192)", "tile 0 of level 1 is missing or was altered"),
        ("DELETE FROM tiles", "tile 0 of level 1 is missing or was altered"),
        ("INSERT INTO tiles VALUES (1, 1, zeroblob(8192))", "tile 1 of level 1 is none that a tree of"),
        ("INSERT INTO tiles VALUES (0, 0, zeroblob(8192))", "tile 0 of level 0 is none that a tree of"),
    ],
)
def test_tiles_are_compared_with_the_leaves(
    large: Path, monkeypatch: pytest.MonkeyPatch, tampering: str, found: str
) -> None:
    connection = sqlite3.connect(large, isolation_level=None)
    (tile,) = connection.execute("SELECT hashes FROM tiles").fetchone()
    connection.execute(tampering)
    try:
        (problem,) = problems(large)
        assert problem.startswith(found)
    finally:
        connection.execute("DELETE FROM tiles")
        connection.execute("INSERT INTO tiles VALUES (1, 0, ?)", (tile,))
        connection.close()


# -------------------------------------------------------------------------------------------------------------- erasure


def erase(database: sqlite3.Connection, seq: int) -> None:
    salt, data = database.execute("SELECT salt, data FROM records WHERE seq = ?", (seq,)).fetchone()
    database.execute(
        "UPDATE records SET data = NULL, salt = NULL, digest = ? WHERE seq = ?", (commitment(salt, data), seq)
    )


def test_an_erasure_that_nothing_names_is_a_problem(journal: Path, database: sqlite3.Connection) -> None:
    erase(database, 4)
    assert problems(journal) == ["record 4: its data was erased, and no later `payload.erased` names it"]


def test_only_later_records_name_what_was_erased() -> None:
    found = Findings()
    check = ErasureCheck(found)
    for seq in (3, 4, 5, 9):
        check.erased(seq)
    check.named(8, {"records": [[4, 4], [9, 9], ["x"], [1]]})
    check.erased(12)
    check.named(14, {"records": [[12, 12]]})
    check.finish()
    assert [problem.seq for problem in found.problems] == [8, 3, 5, 9]


# ------------------------------------------------------------------------------------------- derived tables, the schema

DERIVED = [
    ("UPDATE activities SET status = 'completed' WHERE id = 'order-2'", "table activities, row id 'order-2': status"),
    ("UPDATE activities SET \"by\" = NULL WHERE id = 'order-2'", "table activities, row id 'order-2': by is None"),
    ("UPDATE activities SET runs = 7 WHERE id = 'order-2'", "table activities, row id 'order-2': runs is 7"),
    ("DELETE FROM activities WHERE id = 'order-2'", "table activities, row id 'order-2': the row is missing"),
    ("UPDATE subscriptions SET cursor = 0", "table subscriptions, row name 'mailer': cursor is 0"),
    ("DELETE FROM dead_letters", "table dead_letters, row subscriber 'mailer', event"),
    ("DELETE FROM publications", "table publications, row id 'event-2': the row is missing"),
    ("INSERT INTO publications VALUES ('event-0', 3)", "table publications, row id 'event-0': no record says"),
    ("UPDATE streams SET type = 'engine' WHERE id = 'order-1'", "table streams, row id 'order-1': type is 'engine'"),
    ("DELETE FROM streams WHERE id = '/engine'", "table streams, row id '/engine': the row is missing"),
]


@pytest.mark.parametrize(("tampering", "found"), DERIVED)
def test_an_altered_derived_row_is_named(
    journal: Path, database: sqlite3.Connection, tampering: str, found: str
) -> None:
    database.execute(tampering)
    (problem,) = problems(journal)
    assert problem.startswith(found)


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        (
            "CREATE TRIGGER x AFTER INSERT ON records BEGIN SELECT 1; END",
            "there is a trigger 'x', which no journal has",
        ),
        ("CREATE VIEW v AS SELECT 1", "there is a view 'v', which no journal has"),
        ("CREATE TABLE t(a)", "there is a table 't', which no journal has"),
        ("CREATE INDEX i ON records(at)", "there is a index 'i', which no journal has"),
        ("DROP INDEX activities_by_name", "the index 'activities_by_name' is missing"),
        ("ALTER TABLE seals ADD COLUMN x TEXT", "the table 'seals' is not as Playbill makes it"),
        ("INSERT INTO seals VALUES (3, 'n', 'x')", "there is a seal of size 3, note 'n'; this version cannot check it"),
        (
            "INSERT INTO _sqlite_migrations(migration_set, name, applied_at) VALUES ('others', 'm', 'x')",
            "there is a migration 'm' of 'others', which no journal of this version has",
        ),
    ],
)
def test_what_is_not_of_the_schema_is_named(
    journal: Path, database: sqlite3.Connection, tampering: str, found: str
) -> None:
    database.execute(tampering)
    assert [line for line in problems(journal) if line.startswith(found)]


def test_a_trigger_under_a_name_like_those_of_the_statistics_is_named(
    journal: Path, database: sqlite3.Connection
) -> None:
    database.execute("CREATE TRIGGER x AFTER INSERT ON records BEGIN SELECT 1; END")
    database.execute("PRAGMA writable_schema = ON")
    sql = "replace(sql, 'TRIGGER x', 'TRIGGER sqlite_stat_evil')"
    database.execute(f"UPDATE sqlite_master SET name = 'sqlite_stat_evil', sql = {sql} WHERE name = 'x'")
    assert any("there is a trigger 'sqlite_stat_evil'" in line for line in problems(journal))


def test_of_two_objects_of_one_name_none_hides_the_other(database: sqlite3.Connection) -> None:
    """Looked at with the connection that wrote it, which has not read the schema anew."""
    database.execute("PRAGMA writable_schema = ON")
    master = "sqlite_master(rowid, type, name, tbl_name, rootpage, sql)"
    database.execute(
        f"INSERT INTO {master} VALUES (-1, 'index', 'activities_by_name', 'activities', 0, 'CREATE TRIGGER x')"
    )
    found = Findings()
    schema.check_schema(found, database)
    (problem,) = found.problems
    assert problem.what.startswith(
        "the index 'activities_by_name' stands there 2 times: CREATE TRIGGER x; CREATE INDEX"
    )


def test_the_statistics_of_analyze_are_no_problem(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("ANALYZE")
    assert problems(journal) == []


def loosen(journal: Path, *statements: str) -> None:
    """Alter the file as if its tables were not STRICT."""
    for change in ("replace(sql, ') STRICT', ')')", None, "sql || ' STRICT'"):
        connection = sqlite3.connect(journal, isolation_level=None)
        if change is None:
            for statement in statements:
                connection.execute(statement)
        else:
            connection.execute("PRAGMA writable_schema = ON")
            where = "type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '\\_%' ESCAPE '\\'"
            connection.execute(f"UPDATE sqlite_master SET sql = {change} WHERE {where}")
            (version,) = connection.execute("PRAGMA schema_version").fetchone()
            connection.execute(f"PRAGMA schema_version = {version + 1}")
        connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET salt = 'sixteen letters.' WHERE seq = 6",
        "UPDATE records SET leaf = hex(leaf) WHERE seq = 6",
        "UPDATE records SET root = 'x' WHERE seq = 6",
        "UPDATE records SET data = CAST(data AS BLOB) WHERE seq = 6",
        "UPDATE records SET name = CAST(name AS BLOB) WHERE seq = 6",
        "UPDATE records SET stream = CAST(stream AS BLOB) WHERE seq = 1",
        "UPDATE records SET facts = CAST(facts AS BLOB) WHERE seq = 6",
        "UPDATE records SET run = 'x' WHERE seq = 6",
        "UPDATE records SET name = CAST(x'ff00fe' AS TEXT) WHERE seq = 6",
        "UPDATE activities SET runs = 'x' WHERE id = 'order-1'",
        "UPDATE activities SET id = CAST(id AS BLOB) WHERE id = 'order-1'",
        "UPDATE activities SET name = CAST(x'ff00fe' AS TEXT) WHERE id = 'order-1'",
    ],
)
def test_values_of_wrong_types_are_found(journal: Path, statement: str) -> None:
    loosen(journal)
    assert problems(journal) == []
    loosen(journal, statement)
    found = problems(journal)
    assert found
    assert all(line.startswith(("record 1:", "record 6:")) for line in found) or "activities" in statement


def test_a_salt_and_data_shifted_against_each_other_are_found(journal: Path, database: sqlite3.Connection) -> None:
    """The commitment is of both in a row, and so the same where a byte goes from the one to the other."""
    seq = seq_of(database, "data IS NOT NULL")
    salt, data = database.execute("SELECT salt, data FROM records WHERE seq = ?", (seq,)).fetchone()
    database.execute("UPDATE records SET salt = ?, data = ? WHERE seq = ?", (salt + data[:1].encode(), data[1:], seq))
    (found,) = problems(journal)
    assert found == f"record {seq}: it has data, and not just 16 bytes of salt beside it"


# -------------------------------------------------------------------------------------------------------- damaged files


def content_of(journal: Path) -> list[str]:
    connection = sqlite3.connect(journal)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def test_a_damaged_page_costs_the_records_on_it(large: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.db"
    content = bytearray(large.read_bytes())
    page = 4096 * (len(content) // 8192)
    content[page : page + 4096] = b"\xa5" * 4096
    damaged.write_bytes(content)
    found = problems(damaged)
    assert 1 <= len(found) <= 30
    assert any("cannot be read" in line for line in found) or any("SQLite finds" in line for line in found)


@pytest.mark.parametrize("start", [0, 1])
def test_no_damage_makes_verification_raise(journal: Path, start: int) -> None:
    """Every page of the file damaged in turn: a problem, or a journal that cannot be opened at all."""
    content, intact = journal.read_bytes(), content_of(journal)
    for page in range(4096, len(content), 4096):
        altered = bytearray(content)
        altered[page + 64 * start : page + 64 * start + 512] = os.urandom(512)
        journal.write_bytes(altered)
        try:
            in_order = verified(journal).ok
        except JournalDamagedError:
            continue
        # Part of a page may be unused: then nothing is lost.
        assert not in_order or content_of(journal) == intact


def test_a_journal_without_records_is_not_in_order(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM records")
    assert problems(journal)[0] == "the journal has no records, not even its first"


# ------------------------------------------------------------------------------------------------ another's verifier


def root_of(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\x01" + root_of(leaves[:half]) + root_of(leaves[half:])).digest()


def test_a_verifier_written_from_the_reference_page_agrees(database: sqlite3.Connection) -> None:
    """By rfc8785 and hashlib alone, with nothing of ours."""
    database.row_factory = sqlite3.Row
    leaves: list[bytes] = []
    chains: dict[str, tuple[int, bytes]] = {}
    roots = befores = 0
    for record in database.execute("SELECT * FROM records ORDER BY seq"):
        what = {name: record[name] for name in ("at", "by", "facts", "kind", "name", "path", "run", "seq", "stream")}
        what["data"] = None
        if record["data"] is not None:
            what["data"] = sha256(record["salt"] + record["data"].encode()).hexdigest()
        leaf = sha256(b"\x00" + rfc8785.dumps(what)).digest()
        assert leaf == record["leaf"]
        leaves.append(leaf)
        if record["root"] is not None:
            assert root_of(leaves) == record["root"]
            roots += 1
        count, chain = chains.get(record["stream"], (0, bytes(32)))
        before = json.loads(record["facts"]).get("before")
        if before is not None:
            assert before == {"records": count, "leaves": chain.hex()}
            befores += 1
        chains[record["stream"]] = (count + 1, sha256(chain + leaf).digest())
    assert befores == 3
    assert roots > 20
