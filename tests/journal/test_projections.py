"""The derived tables: what is written live is what follows from the records, however they fell into commits."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.journal.kinds import ENDED, EVENT_KINDS, KINDS, STATUS_AFTER, TERMINAL_KINDS
from engine.journal.log import Tree
from engine.journal.projections import PROJECTED, TABLES, Projected, Projections
from engine.journal.writer import Writer
from engine.messages import ActivityStatus
from tests.journal.journals import connected, rows, stamp, writing

Appended: TypeAlias = tuple[str, str, Mapping[str, Any]]
"""A record to append: stream, kind, and the other columns."""

TABLE_NAMES = sorted(TABLES)


# ------------------------------------------------------------------------------------------------ the tables


@pytest.mark.parametrize(
    "kinds", [PROJECTED, STATUS_AFTER, TERMINAL_KINDS, EVENT_KINDS], ids=["projected", "status", "terminal", "events"]
)
def test_every_kind_that_the_code_names_is_in_the_table_of_kinds(kinds: Sequence[str]) -> None:
    assert set(kinds) <= KINDS.keys()


def test_every_kind_stands_in_the_table_under_its_own_name() -> None:
    assert {key: kind.kind for key, kind in KINDS.items()} == {key: key for key in KINDS}


def test_every_kind_with_a_status_is_projected() -> None:
    assert STATUS_AFTER.keys() <= PROJECTED.keys()


def test_the_terminal_kinds_are_those_after_which_an_activity_has_ended() -> None:
    assert {STATUS_AFTER[kind] for kind in TERMINAL_KINDS} <= ENDED
    assert {"activity.completed", "activity.failed"} <= TERMINAL_KINDS


class Noting(dict[str, Any]):
    """Facts that note what was asked of them."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__(facts)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("kind", sorted(PROJECTED))
def test_a_projection_reads_only_facts_that_the_table_of_kinds_lists(kind: str) -> None:
    facts = Noting({name.removesuffix("?"): "x" for name in KINDS[kind].facts} | {"command": "start"})
    Projections().apply(Projected(1, "one", kind, "n", 1, stamp(), None, facts))
    listed = {name.removesuffix("?") for name in KINDS[kind].facts}
    assert facts.asked <= listed


@pytest.mark.parametrize(("kind", "status"), sorted(STATUS_AFTER.items()))
async def test_the_status_after_a_record_is_the_one_of_the_table(
    kind: str, status: ActivityStatus, tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    accepted = {"command": "start"}
    async with writing(path) as desk:
        desk.append("one", "command.accepted", name="n", facts=accepted, begins="activity")
        if kind != "command.accepted":
            desk.append("one", kind, name="n", run=4, facts={"version": "1"})
    found = rows(path, "SELECT status, runs, ended FROM activities")
    runs = 0 if kind == "command.accepted" else 4
    assert found == [(str(status), runs, 2 if status in ENDED else None)]


@pytest.mark.parametrize(
    ("optional", "columns"),
    [
        ({}, (None, "{}", 0)),
        ({"key": "k", "tags": {"a": "ä"}, "priority": -3}, ("k", '{"a":"ä"}', -3)),
        ({"key": None}, (None, "{}", 0)),
    ],
)
async def test_an_accepted_start_makes_a_row(
    optional: dict[str, Any], columns: tuple[Any, ...], tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    async with writing(path) as desk:
        facts = {"command": "start", **optional}
        at = "2026-11-23T18:55:19.123456Z"
        desk.append("one", "command.accepted", name="n", by="b", at=at, facts=facts, begins="activity")
    names = "id, name, status, by, accepted, accepted_at, runs, key, tags, priority"
    assert rows(path, f"SELECT {names} FROM activities") == [("one", "n", "pending", "b", 1, at, 0, *columns)]


async def test_an_accepted_resume_makes_no_row_and_changes_none(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with writing(path) as desk:
        desk.append("one", "command.accepted", name="n", facts={"command": "start"}, begins="activity")
        desk.append("one", "activity.blocked", name="n", run=1, facts={})
        desk.append("one", "command.accepted", name="n", facts={"command": "resume"})
        desk.append("two", "command.accepted", name="n", facts={"command": "resume"})
    assert rows(path, "SELECT id, status FROM activities") == [("one", "blocked")]


async def test_a_subscriber_that_is_attached_anew_keeps_nothing_of_its_row_before(tmp_path: Path) -> None:
    """Also where the row before was changed in the same commit."""
    path = tmp_path / "journal.db"
    stream = "/subscribers/mailer"
    async with writing(path) as desk:
        facts: dict[str, Any] = {"patterns": ["a.#"], "after": 0}
        await desk.writer.durable(desk.append(stream, "subscriber.attached", name="mailer", facts=facts))
        moved = {"from": 0, "to": 7, "beyond": [[9, 9]]}
        desk.append(stream, "delivery.handled", name="mailer", facts=moved)
        desk.append(stream, "subscriber.attached", name="mailer", facts={"patterns": ["b"], "after": 3})
    names = "stream, patterns, attached, cursor, beyond"
    assert rows(path, f"SELECT {names} FROM subscriptions") == [(stream, '["b"]', 3, 3, "[]")]


# ------------------------------------------------------------------------------------------------ any sequence

ACTIVITIES = st.sampled_from(["one", "two", "drei ä"])
SUBSCRIBERS = st.sampled_from(["mailer", "books"])
EVENTS = st.integers(1, 4)
RANGES = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=2)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=5)


@st.composite
def commands(draw: st.DrawFn) -> Appended:
    facts: dict[str, Any] = {"command": draw(st.sampled_from(["start", "start", "resume"]))}
    facts |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "key": TEXTS,
                "tags": st.dictionaries(TEXTS, TEXTS, max_size=2),
                "priority": st.integers(-(2**53), 2**53),
            },
        )
    )
    columns = {"name": draw(TEXTS), "by": draw(st.none() | TEXTS), "facts": facts, "begins": "activity"}
    return draw(ACTIVITIES), "command.accepted", columns


@st.composite
def lifecycle(draw: st.DrawFn) -> Appended:
    kind = draw(st.sampled_from([kind for kind in sorted(STATUS_AFTER) if kind != "command.accepted"]))
    facts = {"version": draw(TEXTS)} if kind in ("activity.started", "activity.continued") else {}
    return draw(ACTIVITIES), kind, {"name": "n", "run": draw(st.integers(1, 9)), "facts": facts}


@st.composite
def deliveries(draw: st.DrawFn) -> Appended:
    name = draw(SUBSCRIBERS)
    kind, facts = draw(
        st.one_of(
            st.tuples(
                st.just("subscriber.attached"),
                st.fixed_dictionaries({"patterns": st.lists(TEXTS, max_size=2), "after": st.integers(0, 50)}),
            ),
            st.tuples(
                st.just("delivery.handled"),
                st.fixed_dictionaries({"from": st.just(0), "to": st.integers(0, 50), "beyond": RANGES}),
            ),
            st.tuples(
                st.just("delivery.dead"), st.fixed_dictionaries({"event": EVENTS, "attempts": st.integers(1, 9)})
            ),
        )
    )
    return f"/subscribers/{name}", kind, {"name": name, "facts": facts, "begins": "subscriber"}


PUBLICATIONS = st.builds(lambda id: ("/engine", "event.published", {"name": "t", "facts": {"id": id}}), TEXTS)
UNPROJECTED = st.builds(lambda stream: (stream, "step.completed", {"facts": "{}"}), ACTIVITIES)
COMMITS = st.lists(
    st.lists(st.one_of(commands(), lifecycle(), deliveries(), PUBLICATIONS, UNPROJECTED), min_size=1, max_size=6),
    min_size=1,
    max_size=5,
)


@cache
def empty_journal() -> Path:
    """A journal's file without a record, to be copied."""
    path = Path(tempfile.mkdtemp(prefix="playbill-")) / "journal.db"
    connected(path).close()
    return path


@pytest.fixture(scope="module", autouse=True)
def _without_remains() -> Iterator[None]:
    yield
    shutil.rmtree(empty_journal().parent)


async def write_live(connection: sqlite3.Connection, commits: Sequence[Sequence[Appended]]) -> None:
    writer = Writer(connection, tree=Tree(), stamp=stamp)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        for commit in commits:
            for stream, kind, columns in commit:
                last = writer.append(stream, kind, **columns)
            await writer.durable(last)
        writer.close()


def contents(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    return {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in TABLE_NAMES}


def project(journal: sqlite3.Connection, path: Path, *, together: bool) -> dict[str, list[tuple[Any, ...]]]:
    """The derived tables made anew from the stored records: all staged together, or each record by itself."""
    with closing(connected(path)) as connection:
        staged = Projections()
        statement = "SELECT seq, stream, kind, name, run, at, by, facts FROM records ORDER BY seq"
        for seq, stream, kind, name, run, at, by, facts in journal.execute(statement):
            if kind in PROJECTED:
                staged.apply(Projected(seq, stream, kind, name, run, at, by, orjson.loads(facts)))
                if not together:
                    staged.write(connection)
                    staged = Projections()
        staged.write(connection)
        return contents(connection)


MAILER = "/subscribers/mailer"


@given(commits=COMMITS)
@example(
    commits=[
        [(MAILER, "subscriber.attached", {"name": "mailer", "facts": {"patterns": [], "after": 0}})],
        [
            (MAILER, "delivery.handled", {"name": "mailer", "facts": {"from": 0, "to": 5, "beyond": []}}),
            (MAILER, "subscriber.attached", {"name": "mailer", "facts": {"patterns": ["b"], "after": 1}}),
        ],
    ]
)
@settings(max_examples=100)
def test_what_is_written_live_is_what_the_records_say(commits: list[list[Appended]]) -> None:
    with tempfile.TemporaryDirectory(prefix="playbill-") as folder:
        live, one_by_one, together = (Path(folder) / name for name in ("live.db", "one.db", "together.db"))
        for path in (live, one_by_one, together):
            shutil.copy(empty_journal(), path)
        with closing(connected(live)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            trio.run(write_live, connection, commits)
            written = contents(connection)
            assert written == project(connection, one_by_one, together=False)
            assert written == project(connection, together, together=True)
