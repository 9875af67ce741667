"""The ledger says what was recorded, as of its opening, and never writes."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.audit import Ledger
from engine.errors import (
    ActivityNotFoundError,
    JournalDamagedError,
    JournalError,
    JournalVersionError,
    PlaybillError,
    TopicError,
)
from engine.journal import SQLiteJournal
from engine.messages import ActivityStatus


@pytest.fixture
def ledger(journal: Path) -> Iterator[Ledger]:
    with Ledger.open(journal) as ledger:
        yield ledger


def at(seconds: float) -> dt.datetime:
    return dt.datetime(2026, 11, 23, 8, 0, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)


# ----------------------------------------------------------------------------------------------------------- activities


def test_an_activity_has_what_its_records_say(ledger: Ledger) -> None:
    row = ledger.activity("order-1")
    assert (row.id, row.name, row.version, row.status) == ("order-1", "orders.fulfil", "2", ActivityStatus.COMPLETED)
    assert (row.by, row.reason, row.key, row.tags) == ("alice", "web checkout", "customer-7", {"region": "eu"})
    assert (row.parent, row.runs, row.result, row.error) == (None, 1, {"receipt": "r-1"}, None)
    assert row.started is not None
    assert row.ended is not None
    assert at(0) < row.started < row.ended


def test_a_failed_activity_has_its_error(ledger: Ledger) -> None:
    error = ledger.activity("order-2").error
    assert error is not None
    assert (error.type, error.message) == ("orders.CardDeclined", "card declined")
    assert error.notes == ("the card ends with 1111",)
    assert error.traceback.startswith("Traceback")


def test_an_activity_that_has_not_ended_has_no_end(ledger: Ledger) -> None:
    row = ledger.activity("report-1")
    assert (row.status, row.ended, row.result) == (ActivityStatus.RUNNING, None, None)


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({}, ["order-1", "order-2", "order-3", "report-1"]),
        ({"status": "completed"}, ["order-1"]),
        ({"status": ActivityStatus.FAILED}, ["order-2"]),
        ({"status": ["failed", ActivityStatus.BLOCKED]}, ["order-2", "order-3"]),
        ({"status": []}, []),
        ({"name": "reports.nightly"}, ["report-1"]),
        ({"by": "bob"}, ["order-2"]),
        ({"tag": "region"}, ["order-1", "order-2"]),
        ({"tag": ("region", "us")}, ["order-2"]),
        ({"key": "customer-7"}, ["order-1"]),
        ({"since": at(7.5)}, ["order-2", "order-3", "report-1"]),
        ({"until": at(7.5)}, ["order-1"]),
        ({"text": "REPORT"}, ["report-1"]),
        ({"text": "Card Declined"}, ["order-2"]),
        ({"text": '{"receipt"'}, []),
        ({"text": "%"}, []),
        ({"text": "_"}, []),
        ({"limit": 2}, ["order-1", "order-2"]),
        ({"limit": 0}, []),
        ({"after": "order-2"}, ["order-3", "report-1"]),
        ({"after": "order-1", "limit": 1}, ["order-2"]),
    ],
)
def test_activities_are_selected_in_the_order_of_asking(ledger: Ledger, wanted: dict[str, Any], ids: list[str]) -> None:
    assert [row.id for row in ledger.activities(**wanted)] == ids


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"status": "done"}, "there is no status 'done'"),
        ({"since": dt.datetime(2026, 1, 1)}, "naive"),
        ({"limit": -1}, "negative"),
    ],
)
def test_a_wrong_filter_is_refused_when_it_is_given(ledger: Ledger, wrong: dict[str, Any], what: str) -> None:
    with pytest.raises(PlaybillError, match=what):
        ledger.activities(**wrong)


def test_an_unknown_id_is_told_at_once(ledger: Ledger) -> None:
    for ask in (ledger.activity, ledger.history, ledger.steps):
        with pytest.raises(ActivityNotFoundError):
            ask("order-99")
    with pytest.raises(ActivityNotFoundError):
        ledger.activities(after="order-99")


def test_the_rows_do_not_come_from_the_derived_tables(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("UPDATE activities SET status = 'completed', ended_at = started_at WHERE id = 'order-2'")
    database.execute("DELETE FROM activities WHERE id = 'order-3'")
    with Ledger.open(journal) as ledger:
        assert ledger.activity("order-2").status is ActivityStatus.FAILED
        assert [row.id for row in ledger.activities(status="blocked")] == ["order-3"]


# ------------------------------------------------------------------------------------- history, commands, steps, events


def test_a_history_has_the_records_of_its_stream_in_order(ledger: Ledger) -> None:
    kinds = [record.kind for record in ledger.history("order-2")]
    assert kinds == ["command.accepted", "activity.started", "step.failed", "activity.failed"]
    first = next(iter(ledger.history("/engine")))
    assert (first.seq, first.kind, first.data) == (1, "journal.created", None)
    assert first.at.utcoffset() == dt.timedelta(0)


@pytest.mark.parametrize(
    ("target", "wanted", "told"),
    [
        (None, {"accepted": False}, [("order-1", "bob", "resume"), ("order-9", "mallory", "start")]),
        ("order-1", {}, [("order-1", "alice", "start"), ("order-1", "bob", "resume")]),
        ("order-9", {}, [("order-9", "mallory", "start")]),
        (None, {"by": "bob"}, [("order-1", "bob", "resume"), ("order-2", "bob", "start")]),
        (None, {"kind": "resume"}, [("order-1", "bob", "resume")]),
        (None, {"accepted": True, "limit": 1}, [("order-1", "alice", "start")]),
    ],
)
def test_commands_are_told_with_who_asked(
    ledger: Ledger, target: str | None, wanted: dict[str, Any], told: list[tuple[str, str, str]]
) -> None:
    assert [(row.target, row.by, row.kind) for row in ledger.commands(target, **wanted)] == told


def test_a_refused_command_has_its_rule_and_its_reason(ledger: Ledger) -> None:
    (row,) = ledger.commands("order-9")
    assert (row.accepted, row.refusal, row.reason) == (False, "only the shop may start orders", "please")
    assert row.origin == "deploy@orders-1, process 4711"


def test_a_step_is_one_row_with_all_its_attempts(ledger: Ledger) -> None:
    charge, pack = ledger.steps("order-1")
    assert (charge.path, charge.name, charge.attempts, charge.args) == ("charge#1", "charge", 2, ["4111", 12])
    assert (charge.result, charge.error) == ({"payment": "p-1"}, None)
    assert charge.seconds == pytest.approx(1.75)
    assert charge.ended is not None
    assert (charge.ended - charge.started).total_seconds() > charge.seconds
    assert (pack.attempts, pack.result) == (1, None)


def test_a_step_that_failed_for_good_has_its_error_and_its_end(ledger: Ledger) -> None:
    (row,) = ledger.steps("order-2")
    assert row.error is not None
    assert (row.error.message, row.ended is not None) == ("card declined", True)


def test_the_slowest_steps_come_first_with_their_results(ledger: Ledger) -> None:
    assert [(row.path, row.result) for row in ledger.steps(slowest=1)] == [("charge#1", {"payment": "p-1"})]
    assert next(row.name for row in ledger.steps(slowest=99)) == "charge"
    assert list(ledger.steps(slowest=0)) == []


def test_steps_of_all_activities_are_selected_by_name_and_time(ledger: Ledger) -> None:
    assert [row.activity for row in ledger.steps(name="charge")] == ["order-1", "order-2"]
    assert [row.name for row in ledger.steps(since=at(10))] == ["collect"]
    assert [row.name for row in ledger.steps(until=at(1))] == []


@pytest.mark.parametrize(
    ("topic", "ids"),
    [("#", ["event-1", "event-2"]), ("orders.*.paid", ["event-1"]), ("orders.us.#", ["event-2"]), ("*", [])],
)
def test_events_are_selected_by_topic(ledger: Ledger, topic: str, ids: list[str]) -> None:
    assert [row.id for row in ledger.events(topic)] == ids


def test_an_event_has_its_source(ledger: Ledger) -> None:
    emitted, published = ledger.events()
    assert (emitted.source, emitted.data, emitted.key) == ("order-1", {"order": "order-1"}, "customer-7")
    assert (published.source, published.topic) == ("carol", "orders.us.late")


def test_a_pattern_that_says_playbill_selects_the_engine_s_own_doings_as_subscribers_are_given_them(
    ledger: Ledger,
) -> None:
    (failed,) = ledger.events("playbill.activities.failed")
    record = next(record for record in ledger.history("order-2") if record.kind == "activity.failed")
    assert (failed.seq, failed.id, failed.source, failed.at) == (
        record.seq,
        f"playbill:{record.seq}",
        "order-2",
        record.at,
    )
    assert failed.data == {
        "kind": "activity.failed",
        "stream": "order-2",
        "name": record.name,
        "run": record.run,
        "facts": record.facts,
        "data": record.data,
    }


def test_a_dead_letter_among_the_engine_s_doings_has_the_event_that_died_as_its_cause(ledger: Ledger) -> None:
    (letter,) = ledger.events("playbill.dead_letters")
    assert (letter.source, letter.cause) == ("/subscribers/mailer", "event-2")


def test_no_other_pattern_selects_the_engine_s_own_doings(ledger: Ledger) -> None:
    assert {row.topic.partition(".")[0] for row in ledger.events("playbill.#")} == {"playbill"}
    assert {row.topic.partition(".")[0] for row in ledger.events("#")} == {"orders"}


def test_a_wrong_topic_pattern_is_refused(ledger: Ledger) -> None:
    with pytest.raises(TopicError):
        ledger.events("orders.#x")


def test_a_dead_letter_has_its_event_and_all_errors(ledger: Ledger) -> None:
    (letter,) = ledger.dead_letters()
    assert (letter.subscriber, letter.event.id, len(letter.errors)) == ("mailer", "event-2", 2)
    assert letter.errors[0].message == "connection closed"
    assert list(ledger.dead_letters(subscriber="mailer")) == [letter]
    assert list(ledger.dead_letters(subscriber="other")) == []


def test_the_numbers_are_those_of_the_records(ledger: Ledger) -> None:
    stats = ledger.stats()
    assert stats.records == ledger.size
    assert stats.activities == {"completed": 1, "failed": 1, "blocked": 1, "running": 1}
    assert (stats.steps, stats.events, stats.dead_letters) == (3, 2, 1)
    assert stats.first is not None
    assert stats.last is not None
    assert stats.first < stats.last


def test_what_was_erased_is_none(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("UPDATE records SET data = NULL, salt = NULL WHERE stream = 'order-2'")
    with Ledger.open(journal) as ledger:
        row = ledger.activity("order-2")
    assert (row.reason, row.result) == (None, None)
    assert row.error is not None
    assert (row.error.type, row.error.message) == ("orders.CardDeclined", "")


def test_numbers_of_any_size_keep_their_digits(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("""UPDATE records SET data = '{"value": 123456789012345678901234567890}'
                        WHERE stream = 'order-1' AND kind = 'activity.completed'""")
    with Ledger.open(journal) as ledger:
        assert ledger.activity("order-1").result == 123456789012345678901234567890


# ----------------------------------------------------------------------------------------------------- opening, closing


async def test_a_ledger_sees_the_journal_as_of_its_opening(
    tmp_path: Path, write_journal: Callable[..., None], autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "live.db"
    journal = SQLiteJournal(path, version="0.1.0", stamp=lambda: "2026-11-23T08:00:00.000000Z")
    facts = {"command": "start", "via": "engine", "origin": "here"}
    begun = {"generation": 0, "version": "1", "seed": ""}
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        seq = journal.append("a", "command.accepted", name="x", facts=facts, begins="activity")
        await journal.durable(seq)
        with Ledger.open(path) as ledger:
            await journal.durable(journal.append("a", "activity.started", name="x", run=1, facts=begun))
            await journal.durable(journal.append("b", "command.accepted", name="x", facts=facts, begins="activity"))
            assert ledger.size == seq
            assert [(row.id, row.status) for row in ledger.activities()] == [("a", "pending")]
            assert ledger.stats().activities == {"pending": 1}
            assert ledger.verify().problems == ()
        with Ledger.open(path) as later:
            assert [(row.id, row.status) for row in later.activities()] == [("a", "running"), ("b", "pending")]
        journal.close_soon()
    journal.close()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"no journal .*missing\.db"):
        Ledger.open(tmp_path / "missing.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"not a database at all, but a text of some length" * 99], ids=["empty", "text"]
)
def test_what_is_no_database_is_no_journal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(JournalDamagedError, match=r"x\.db"):
        Ledger.open(path)


def test_another_database_is_no_journal(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE records(a)")
    connection.close()
    with pytest.raises(JournalDamagedError, match=r"other\.db"):
        Ledger.open(tmp_path / "other.db")


def test_a_journal_of_a_newer_version_is_told_apart(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("UPDATE _sqlite_migrations SET name = 'm999_later' WHERE id = 1")
    with pytest.raises(JournalVersionError, match="m999_later"):
        Ledger.open(journal)


def test_reading_writes_nothing(journal: Path) -> None:
    before = journal.read_bytes()
    with Ledger.open(f"sqlite:///{journal}") as ledger:
        ledger.verify()
        list(ledger.activities())
    assert journal.read_bytes() == before
    # SQLite makes the shared memory and an empty WAL beside a journal of the WAL mode, and nothing else.
    assert {path.name: path.stat().st_size for path in journal.parent.glob("*-wal")} in ({}, {"orders.db-wal": 0})


def test_a_closed_ledger_says_so(ledger: Ledger) -> None:
    ledger.close()
    ledger.close()
    with pytest.raises(JournalError, match="closed"):
        ledger.stats()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_journal_on_read_only_media_is_read(written: Path) -> None:
    # Not in pytest's own folder, which is closed to others.
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copyfile(written, folder / "orders.db")
        (folder / "orders.db").chmod(0o444)
        folder.chmod(0o555)
        os.seteuid(65534)
        try:
            with Ledger.open(folder / "orders.db") as ledger:
                assert ledger.verify().ok
        finally:
            os.seteuid(0)
        assert [path.name for path in folder.iterdir()] == ["orders.db"]
    finally:
        shutil.rmtree(folder)


def test_a_record_that_cannot_be_read_is_named(journal: Path, database: sqlite3.Connection) -> None:
    database.execute("UPDATE records SET facts = 'no JSON' WHERE kind = 'activity.failed'")
    with Ledger.open(journal) as ledger, pytest.raises(JournalDamagedError, match=r"record \d+ cannot be read"):
        ledger.activity("order-2")


def test_a_seal_is_for_a_later_version(ledger: Ledger) -> None:
    with pytest.raises(PlaybillError, match="cannot verify against a seal"):
        ledger.verify("some.seal")


@pytest.mark.parametrize("facts", ["{}", '{"event": [], "to": {}}', '{"event": "x", "to": "y"}'])
def test_deliveries_that_do_not_say_of_what_are_damage(journal: Path, database: sqlite3.Connection, facts: str) -> None:
    database.execute("UPDATE records SET facts = ? WHERE kind LIKE 'delivery.%'", (facts,))
    with Ledger.open(journal) as altered, pytest.raises(JournalDamagedError, match="hold no seq"):
        list(altered.dead_letters())


def test_data_nested_too_deeply_is_damage(journal: Path, database: sqlite3.Connection) -> None:
    # With a number so long that no other parser reads it.
    deep = "[" * 200_000 + "1" * 20 + "]" * 200_000
    database.execute("UPDATE records SET data = ? WHERE stream = 'order-1'", (deep,))
    with Ledger.open(journal) as altered, pytest.raises(JournalDamagedError, match="recursion"):
        list(altered.history("order-1"))
