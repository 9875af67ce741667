"""What stands in the columns of a record, by the log's format; and `before`, which closes a stream's history."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from engine.journal import SQLiteJournal, StoredRecord
from engine.journal.records import COLUMNS
from tests.journal.journals import STARTED, Desk, opened, rows, writing

AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def columns(path: Path, seq: int) -> dict[str, Any]:
    names = f"{COLUMNS}, salt, digest, leaf, root"
    (row,) = rows(path, f"SELECT {names} FROM records WHERE seq = ?", seq)
    return dict(zip(names.split(", "), row, strict=True))


# ------------------------------------------------------------------------------------------------ columns


async def test_the_columns_hold_what_was_appended(path: Path) -> None:
    given = {
        "name": 'a "name"',
        "path": "1/2",
        "run": 3,
        "by": "ä\n€\U0001f600",
        "at": "2026-11-23T18:55:19.123456Z",
        "data": '{"value":1}',
    }
    async with writing(path) as desk:
        desk.append("one", "step.completed", facts={"attempt": 1}, **given)
    found = columns(path, 1)
    assert {key: found[key] for key in given} == given
    assert (found["stream"], found["kind"], found["facts"]) == ("one", "step.completed", '{"attempt":1}')


async def test_what_was_not_given_is_null_and_facts_are_an_empty_object(path: Path) -> None:
    async with writing(path) as desk:
        desk.append()
    found = columns(path, 1)
    nothing = ("name", "path", "run", "by", "data", "salt", "digest")
    assert [found[name] for name in nothing] == [None] * len(nothing)
    assert found["facts"] == "{}"
    assert AT.fullmatch(found["at"])
    assert (len(found["leaf"]), len(found["root"])) == (32, 32)


async def test_data_has_a_salt_of_its_own_and_never_a_digest(path: Path) -> None:
    async with writing(path) as desk:
        for data in ("null", '{"a":1}', '""', None, '{"a":1}'):
            desk.append(data=data)
    found = [columns(path, seq) for seq in range(1, 6)]
    assert [row["data"] for row in found] == ["null", '{"a":1}', '""', None, '{"a":1}']
    salts = [row["salt"] for row in found]
    assert [salt is None for salt in salts] == [False, False, False, True, False]
    assert len({salt for salt in salts if salt is not None}) == 4
    assert all(len(salt) == 16 for salt in salts if salt is not None)
    assert all(row["digest"] is None for row in found)


async def test_only_the_last_record_of_a_commit_has_a_root(path: Path) -> None:
    async with writing(path) as desk:
        for count in (3, 1, 2):
            for _ in range(count):
                last = desk.append()
            await desk.writer.durable(last)
    assert [root is None for (root,) in rows(path, "SELECT root FROM records ORDER BY seq")] == [
        *(True, True, False),
        False,
        *(True, False),
    ]


async def test_facts_may_be_given_as_text_and_are_stored_as_they_are(path: Path) -> None:
    text = '{"z":1,"a":"\\u00e4"}'
    async with writing(path) as desk:
        desk.append("one", "step.completed", facts=text)
    assert columns(path, 1)["facts"] == text


async def test_a_stream_is_typed_where_it_begins(path: Path) -> None:
    async with opened(path) as journal:
        accept(journal, "one")
        journal.append("/subscribers/mailer", "actor.restarted", begins="subscriber")
        journal.append("/subscribers/mailer", "actor.restarted")
    assert rows(path, "SELECT id, type FROM streams ORDER BY id") == [
        ("/engine", "engine"),
        ("/subscribers/mailer", "subscriber"),
        ("one", "activity"),
    ]


async def test_a_record_reads_back_as_it_was_appended(path: Path) -> None:
    async with opened(path) as journal:
        seq = journal.append("one", "step.completed", name="s", path="1", run=2, by="b", facts={"a": 1}, data="[1]")
        await journal.durable(seq)
        record = journal.record(seq)
    assert record is not None
    assert (record.seq, record.stream, record.kind, record.name) == (seq, "one", "step.completed", "s")
    assert (record.path, record.run, record.by, record.facts, record.data) == ("1", 2, "b", {"a": 1}, "[1]")
    assert record.load() == [1]


def test_a_record_without_data_loads_an_empty_mapping() -> None:
    row = (1, "one", "timer.fired", None, "1", 1, "2026-11-23T18:55:19.123456Z", None, "{}", None)
    assert len(row) == len(COLUMNS.split(", "))
    assert StoredRecord.of(row).load() == {}


# ------------------------------------------------------------------------------------------------ before


def accept(journal: SQLiteJournal | Desk, stream: str) -> int:
    facts = {"command": "start"}
    return journal.append(stream, "command.accepted", name="n", facts=facts, data="{}", begins="activity")


def start(journal: SQLiteJournal | Desk, stream: str) -> int:
    return journal.append(stream, "activity.started", name="n", run=1, facts=STARTED)


def end(
    journal: SQLiteJournal | Desk, stream: str, kind: str = "activity.completed", facts: Mapping[str, Any] = STARTED
) -> int:
    return journal.append(stream, kind, name="n", run=1, facts=facts, data="{}")


def deny(journal: SQLiteJournal | Desk, stream: str, *, ended: bool) -> int:
    return journal.append(stream, "command.denied", name="n", facts={"command": "start"}, ended=ended)


def chains(path: Path, stream: str) -> list[tuple[str, Any, Any]]:
    """Of each record of a stream: its kind, the `before` that it holds, and the one that its format asks for."""
    count, chain, over = 0, bytes(32), False
    found = []
    for kind, facts, leaf in rows(path, "SELECT kind, facts, leaf FROM records WHERE stream = ? ORDER BY seq", stream):
        over = over or kind in ("activity.completed", "activity.failed", "activity.cancelled")
        asked = {"records": count, "leaves": chain.hex()} if over else None
        found.append((kind, orjson.loads(facts).get("before"), asked))
        count, chain = count + 1, sha256(chain + leaf).digest()
    return found


def assert_chained(path: Path, stream: str, kinds: list[str]) -> None:
    found = chains(path, stream)
    assert [kind for kind, _, _ in found] == kinds
    for kind, held, asked in found:
        assert held == asked, kind
    assert any(asked for _, _, asked in found)


LIFE = ["command.accepted", "activity.started", "activity.completed"]


@pytest.mark.parametrize("kind", ["activity.completed", "activity.failed"])
@pytest.mark.parametrize("facts", [{}, {"generation": 0}], ids=["no facts", "facts"])
async def test_a_terminal_record_says_what_stands_before_it(path: Path, kind: str, facts: dict[str, Any]) -> None:
    async with writing(path) as desk:
        for step in (accept, start):
            await desk.writer.durable(step(desk, "one"))
        desk.append("other", "step.completed")
        end(desk, "one", kind, facts)
    assert_chained(path, "one", [*LIFE[:2], kind])


async def test_a_life_within_one_commit_is_chained_too(path: Path) -> None:
    async with writing(path) as desk:
        for stream in ("one", "two"):
            for step in (accept, start, end):
                step(desk, stream)
    for stream in ("one", "two"):
        assert_chained(path, stream, LIFE)


async def test_records_of_a_stream_that_has_not_ended_hold_no_before(path: Path) -> None:
    async with writing(path) as desk:
        for step in (accept, start):
            await desk.writer.durable(step(desk, "one"))
        deny(desk, "one", ended=False)
    assert [held for _, held, _ in chains(path, "one")] == [None, None, None]


async def test_a_refused_command_in_the_commit_of_the_end_is_chained(path: Path) -> None:
    async with writing(path) as desk:
        for step in (accept, start, end):
            step(desk, "one")
        deny(desk, "one", ended=False)
        deny(desk, "one", ended=False)
    assert_chained(path, "one", [*LIFE, "command.denied", "command.denied"])


async def test_refused_commands_after_the_end_are_chained(path: Path) -> None:
    async with writing(path) as desk:
        for step in (accept, start, end):
            await desk.writer.durable(step(desk, "one"))
        for _ in range(3):
            await desk.writer.durable(deny(desk, "one", ended=True))
    assert_chained(path, "one", [*LIFE, *["command.denied"] * 3])


async def test_a_command_refused_while_the_end_is_being_committed_is_chained(path: Path) -> None:
    """Whoever refuses it cannot know of the end yet, since that is not durable."""
    async with writing(path) as desk:
        for step in (accept, start):
            await desk.writer.durable(step(desk, "one"))

        def commit() -> None:
            desk.connection.commit = desk.connection.really_commit
            deny(desk, "one", ended=False)
            desk.connection.really_commit()

        desk.connection.commit = commit
        await desk.writer.durable(end(desk, "one"))
        await desk.writer.durable(desk.writer.last_seq)
        await desk.writer.durable(deny(desk, "one", ended=True))
    assert_chained(path, "one", [*LIFE, "command.denied", "command.denied"])


async def test_a_command_refused_while_the_end_cannot_be_committed_is_chained(path: Path) -> None:
    async with writing(path) as desk:
        for step in (accept, start):
            await desk.writer.durable(step(desk, "one"))

        def commit() -> None:
            desk.connection.commit = desk.connection.really_commit
            raise sqlite3.OperationalError("disk I/O error")

        desk.connection.commit = commit
        last = end(desk, "one")
        while desk.connection.commit == commit:
            await trio.lowlevel.checkpoint()
        assert desk.writer.durable_seq < last
        await desk.writer.durable(deny(desk, "one", ended=False))
    assert_chained(path, "one", [*LIFE, "command.denied"])


async def test_a_life_that_began_in_another_process_is_chained_from_its_beginning(path: Path) -> None:
    async with opened(path) as journal:
        accept(journal, "one")
        accept(journal, "two")
        start(journal, "one")
    async with opened(path) as journal:
        journal.append("one", "activity.resumed", name="n", run=1, facts={})
        await journal.durable(journal.last_seq)
        journal.append("one", "step.completed", run=1)
        end(journal, "one")
    assert_chained(path, "one", ["command.accepted", "activity.started", "activity.resumed", "step.completed", LIFE[2]])


async def test_a_command_refused_after_the_end_in_another_process_is_chained(path: Path) -> None:
    async with opened(path) as journal:
        for step in (accept, start, end):
            step(journal, "one")
    for _ in range(2):
        async with opened(path) as journal:
            deny(journal, "one", ended=True)
    assert_chained(path, "one", [*LIFE, "command.denied", "command.denied"])


async def test_many_lives_that_overlap_over_commits_are_each_chained(path: Path) -> None:
    async def live(desk: Desk, stream: str, steps: int) -> None:
        accept(desk, stream)
        await desk.writer.durable(start(desk, stream))
        for number in range(steps):
            await desk.writer.durable(desk.append(stream, "step.completed", path=str(number), run=1))
        await desk.writer.durable(end(desk, stream))
        if steps % 2:
            await desk.writer.durable(deny(desk, stream, ended=True))

    async with writing(path) as desk, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(live, desk, f"a{number:02}", number % 5)
    for number in range(20):
        steps = number % 5
        kinds = [*LIFE[:2], *["step.completed"] * steps, LIFE[2], *["command.denied"] * (steps % 2)]
        assert_chained(path, f"a{number:02}", kinds)


async def test_ends_within_a_process_need_no_reading_back(path: Path) -> None:
    asked: list[str] = []
    async with writing(path) as desk:
        desk.connection.before = asked.append
        accept(desk, "one")
        for step in (start, end):
            await desk.writer.durable(step(desk, "one"))
    assert "BEGIN IMMEDIATE" in asked
    assert not [statement for statement in asked if statement.startswith("SELECT")]


async def test_those_that_wait_to_begin_or_are_parked_are_chained_without_being_kept(path: Path) -> None:
    async with writing(path) as desk:
        await desk.writer.durable(accept(desk, "one"))
        assert not desk.writer._chains
        await desk.writer.durable(start(desk, "one"))
        accept(desk, "two")
        await desk.writer.durable(start(desk, "two"))
        await desk.writer.durable(desk.append("two", "activity.parked", run=1, facts={"generation": 0, "waits": []}))
        assert not desk.writer._chains
        await desk.writer.durable(end(desk, "one"))
        # Also where one commit holds both.
        desk.append("two", "activity.parked", run=1, facts={"generation": 0, "waits": []})
        end(desk, "two")
    assert_chained(path, "one", LIFE)
    assert_chained(path, "two", [*LIFE[:2], "activity.parked", "activity.parked", LIFE[2]])
