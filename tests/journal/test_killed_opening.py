"""A process is killed while it makes or migrates a journal, at each of its writes; the next opening heals it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from engine.journal.schema import SCHEMA
from tests.journal.journals import opened, rows

OPENING = Path(__file__).with_name("opening.py")


@attrs.frozen
class Left:
    """What a process that was killed left behind, after it was opened once more."""

    killed: bool
    sound: bool
    records: list[tuple[int, str, dict[str, Any]]]
    tables: list[str]
    files: list[str]


def openings(*arguments: Path) -> list[Left]:
    """An opening for each of its writes, killed there; and one that was not killed."""
    ended = subprocess.run(
        [sys.executable, str(OPENING), "kill", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(OPENING.parents[2])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    found = []
    for line in ended.stdout.splitlines():
        one = json.loads(line)
        assert "error" not in one, one
        records = [(seq, kind, json.loads(facts)) for seq, kind, facts in one.pop("records")]
        found.append(Left(records=records, **one))
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> list[Left]:
    return openings(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> list[Left]:
    journal = tmp_path_factory.mktemp("old") / "journal.db"

    async def make() -> None:
        async with opened(journal) as made:
            made.append("/engine", "engine.closed", facts={"running": 0})

    trio.run(make)
    assert rows(journal, "SELECT count(*) FROM records") == [(3,)]
    return openings(tmp_path_factory.mktemp("migrated"), journal)


def test_every_write_of_a_first_opening_is_one_to_be_killed_at(first: list[Left]) -> None:
    assert [left.killed for left in first] == [True] * (len(first) - 1) + [False]
    assert len(first) > 40


def test_a_first_opening_that_was_killed_is_healed_by_the_next(first: list[Left]) -> None:
    for left in first:
        assert left.sound
        assert left.tables == first[-1].tables
        assert left.files == ["journal.db", "journal.db-shm", "journal.db-wal", "journal.db.lock"]


def test_a_journal_is_made_once_however_often_its_making_was_killed(first: list[Left]) -> None:
    for left in first:
        kinds = [kind for _, kind, _ in left.records]
        assert kinds in (
            ["journal.created", "engine.opened"],
            ["journal.created", "engine.opened", "engine.opened"],
        )
        assert [seq for seq, _, _ in left.records] == list(range(1, len(kinds) + 1))
        facts = left.records[0][2]
        assert str(uuid.UUID(facts["id"])) == facts["id"]
        assert facts["schema"] == list(SCHEMA)


def test_an_opening_after_one_that_was_not_closed_is_not_clean(first: list[Left]) -> None:
    for left in first:
        assert [facts["clean"] for _, kind, facts in left.records if kind == "engine.opened"] in ([True], [True, False])
    assert len(first[-1].records) == 3


def test_every_write_of_a_migration_is_one_to_be_killed_at(migrated: list[Left]) -> None:
    assert [left.killed for left in migrated] == [True] * (len(migrated) - 1) + [False]
    assert len(migrated) > 20


def test_a_migration_that_was_killed_is_healed_by_the_next_opening(migrated: list[Left]) -> None:
    for left in migrated:
        assert left.sound
        assert "later" in left.tables
        assert left.tables == migrated[-1].tables


def test_a_migration_is_recorded_once_wherever_it_was_killed(migrated: list[Left]) -> None:
    for left in migrated:
        records = [facts["schema"] for _, kind, facts in left.records if kind == "journal.migrated"]
        assert records == [["m002_later"]]
        assert [kind for _, kind, _ in left.records][:3] == ["journal.created", "engine.opened", "engine.closed"]
