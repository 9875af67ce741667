"""Whether subscribers are settled is looked up in what is new alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from engine.cli.observing import Observer
from engine.journal.schema import migrate

_RECORD = "INSERT INTO records(seq, stream, kind, name, at, facts, leaf) VALUES (?, 's', ?, ?, 'x', '{}', x'00')"
_SUBSCRIPTION = "INSERT INTO subscriptions VALUES ('mailer', 's', '[\"orders.#\"]', 1, 0, '[]')"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "j.db", isolation_level=None)) as connection:
        migrate(connection, "j.db")
        connection.execute(_SUBSCRIPTION)
        yield connection


@pytest.fixture
def looked(database: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """After which seq each look at the events began."""
    begun: list[int] = []
    events = Observer._events

    def noted(self: Observer, after: int, last: int) -> Iterator[tuple[int, str]]:
        begun.append(after)
        return events(self, after, last)

    monkeypatch.setattr(Observer, "_events", noted)
    return begun


def publish(database: sqlite3.Connection, seq: int, topic: str) -> None:
    database.execute(_RECORD, (seq, "event.published", topic))


def test_a_look_goes_on_where_the_one_before_ended(
    database: sqlite3.Connection, looked: list[int], tmp_path: Path
) -> None:
    for seq in range(1, 6):
        publish(database, seq, "stock.low")
    with Observer(str(tmp_path / "j.db")) as observer:
        assert observer._behind(["mailer"]) == []
        assert observer._behind(["mailer"]) == []
        assert looked == [0]
        publish(database, 6, "stock.low")
        publish(database, 7, "orders.paid")
        publish(database, 8, "orders.paid")
        assert observer._behind(["mailer"]) == ["mailer"]
        assert observer._behind(["mailer"]) == ["mailer"]
        assert looked == [0, 5]
        database.execute("UPDATE subscriptions SET beyond = '[[7, 7]]'")
        assert observer._behind(["mailer"]) == ["mailer"]
        database.execute("UPDATE subscriptions SET beyond = '[]', cursor = 8")
        assert observer._behind(["mailer"]) == []
        assert looked == [0, 5, 6, 8]


def test_only_the_subscribers_that_were_asked_for_are_named(database: sqlite3.Connection, tmp_path: Path) -> None:
    publish(database, 1, "orders.paid")
    with Observer(str(tmp_path / "j.db")) as observer:
        assert observer._behind(["other"]) == []
        assert observer._behind(["mailer", "other"]) == ["mailer"]
