"""A process is killed with SIGKILL over and over, over one journal, until its work is done: nothing is lost or doubled.

The work is the program `crashing`. A *campaign* starts it, watches its journal read-only, kills it at a moment drawn by
chance, starts it again, and at last lets it come to its end; each test then holds one promise against what the journal
and the database of effects say. To see a campaign again, give its seed: `PLAYBILL_CRASH_SEED=… pytest tests/system`;
the same moments are drawn, though the machine decides where exactly a process stands then.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from engine.audit import Ledger
from tests.system import crashing

PROGRAM = Path(crashing.__file__)

EVENTS = ("event.emitted", "event.published")

RECORDS_OF_A_PARCEL = 42
"""About how many records a parcel costs, rather too few: so that too much work is left at the last kill, not too
little."""

POLL = 0.001
"""Seconds between two looks at the journal."""

PATIENCE = 60.0
"""Seconds after which a process that neither ends nor comes to its kill is stuck."""


@attrs.frozen
class Plan:
    """How much work, and how many kills."""

    kills: int
    parcels: int


QUICK = Plan(kills=20, parcels=200)
LONG = Plan(kills=100, parcels=1_000)


@attrs.frozen
class Moment:
    """When to kill: at the first of the two, counted from the process's start.

    Attributes:
        aim: the phase that is aimed at.
        records: new records in the journal.
        seconds: time.
    """

    aim: str
    records: int
    seconds: float


@attrs.define
class Campaign:
    """What a campaign works on, and what has come of it so far."""

    plan: Plan
    directory: Path
    seed: int
    random: random.Random
    kills: list[str] = attrs.field(factory=list)
    lives: int = 0
    boot: float = 0.5

    @property
    def journal(self) -> Path:
        return self.directory / "journal.db"

    @property
    def effects(self) -> Path:
        return self.directory / "effects.db"

    # -------------------------------------------------------------------------------------------- one life

    def spawn(self) -> subprocess.Popen[bytes]:
        self.lives += 1
        arguments = [str(self.journal), str(self.effects), str(self.plan.parcels), str(self.lives)]
        with (self.directory / f"life-{self.lives}.txt").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, str(PROGRAM), *arguments],
                cwd=PROGRAM.parents[2],
                env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def words(self) -> str:
        """What the last life has said."""
        return (self.directory / f"life-{self.lives}.txt").read_text(errors="replace")

    def kill_at(self, moment: Moment) -> None:
        """Let the program live until the moment has come; it must not have ended before."""
        before = size(self.journal)
        began = time.monotonic()
        first_record: float | None = None
        with self.spawn() as process, watching(self.journal) as look:
            try:
                while lives_on(process, POLL):
                    age = time.monotonic() - began
                    new = look() - before
                    if new and first_record is None:
                        first_record = self.boot = age
                    if new >= moment.records or age >= moment.seconds:
                        break
                    self.check_that_it_moves(age)
            finally:
                process.kill()
        if process.returncode != -signal.SIGKILL:
            raise AssertionError(f"{self}: the program ended by itself, with {process.returncode}: {self.words()}")
        self.kills.append(f"{moment.aim:8} {size(self.journal) - before:5} new records, {last_kind(self.journal)}")

    def check_that_it_moves(self, age: float) -> None:
        if age > PATIENCE:
            raise AssertionError(f"{self}: the program is stuck: {self.words()}")

    def kill_while_closing(self) -> None:
        """Let the program live until its work is done, and kill it within the next moments, if it still lives then."""
        began = time.monotonic()
        with self.spawn() as process, watching(self.journal) as look:
            try:
                while lives_on(process, POLL):
                    self.check_that_it_moves(time.monotonic() - began)
                    if look("activities WHERE status = 'completed'") == self.plan.parcels:
                        lives_on(process, self.random.uniform(0.001, 0.05))
                        break
            finally:
                process.kill()

    def finish(self) -> None:
        """Let the program come to its end."""
        with self.spawn() as process:
            try:
                lives_on(process, PATIENCE)
            finally:
                process.kill()
        if process.returncode != 0:
            raise AssertionError(f"{self}: the last life ended with {process.returncode}: {self.words()}")

    # -------------------------------------------------------------------------------------------- all of them

    def draw(self) -> Moment:
        """A moment for the next kill. No life may do so much that nothing is left for those after it."""
        share = self.remaining() / (self.plan.kills - len(self.kills) + 1)
        most = max(1, int(share * self.random.uniform(0.1, 1.9)))
        aim = self.random.choices(["opening", "resuming", "working", "later"], [2, 3, 8, 3])[0]
        match aim:
            case "opening":
                return Moment(aim, most, self.boot * self.random.uniform(0.6, 1.4))
            case "resuming":
                return Moment(aim, min(most, self.random.randint(1, 60)), math.inf)
            case "working":
                return Moment(aim, most, math.inf)
            case _:
                return Moment(aim, most, self.boot + self.random.uniform(0, 0.5))

    def remaining(self) -> int:
        """About how many records are still to come."""
        with reading(self.journal) as connection:
            done = connection.execute("SELECT count(*) FROM records WHERE kind != 'activity.resumed'").fetchone()[0]
        return max(1, self.plan.parcels * RECORDS_OF_A_PARCEL - int(done))

    def run(self) -> None:
        self.kill_at(Moment("creating", 1, math.inf))
        while len(self.kills) < self.plan.kills:
            self.kill_at(self.draw())
        self.kill_while_closing()
        self.finish()

    def __str__(self) -> str:
        return f"PLAYBILL_CRASH_SEED={self.seed}, after {len(self.kills)} kills in {self.lives} lives"


def lives_on(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait so long, or until the process has ended; gives whether it has not."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


# ------------------------------------------------------------------------------------------------ reading the journal


@contextlib.contextmanager
def reading(journal: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads the journal; an empty one stands in for a journal that is not there yet."""
    if not size(journal):
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("CREATE TABLE records(seq, kind)")
            yield connection
        return
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        yield connection


class Look:
    """Counts rows of a journal that is being written, and that may not be there yet."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._connection: sqlite3.Connection | None = None

    def __call__(self, rows: str = "") -> int:
        """The number of records, or of the rows that are named; 0 where there is no table yet."""
        query = f"SELECT count(*) FROM {rows}" if rows else "SELECT coalesce(max(seq), 0) FROM records"
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(f"file:{self._journal}?mode=ro", uri=True)
            return int(self._connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            self.close()
            return 0

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextlib.contextmanager
def watching(journal: Path) -> Iterator[Look]:
    look = Look(journal)
    try:
        yield look
    finally:
        look.close()


def size(journal: Path) -> int:
    with watching(journal) as look:
        return look()


def last_kind(journal: Path) -> str:
    with reading(journal) as connection:
        row = connection.execute("SELECT kind FROM records ORDER BY seq DESC LIMIT 1").fetchone()
    return f"the last one {row[0]}" if row else "none at all"


# ------------------------------------------------------------------------------------------------ the campaign


@pytest.fixture(
    scope="module",
    params=[pytest.param(QUICK, id="20-kills"), pytest.param(LONG, id="100-kills", marks=pytest.mark.long)],
)
def campaign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """One campaign, fought once for all tests of this module."""
    seed = int(os.environ.get("PLAYBILL_CRASH_SEED") or random.SystemRandom().randrange(10**9))
    plan: Plan = request.param
    fought = Campaign(plan, tmp_path_factory.mktemp("crash"), seed, random.Random(seed))
    began = time.monotonic()
    fought.run()
    print(f"{fought}, {time.monotonic() - began:.0f} s, in {fought.directory}", *fought.kills, sep="\n  ")
    return fought


@pytest.fixture
def journal(campaign: Campaign) -> Iterator[sqlite3.Connection]:
    """The journal at the end, with the effects attached as `world`."""
    with reading(campaign.journal) as connection:
        connection.execute("ATTACH ? AS world", (f"file:{campaign.effects}?mode=ro",))
        yield connection


@pytest.fixture
def parcels(campaign: Campaign) -> dict[str, int]:
    """The parcels' numbers by their activities' ids."""
    return {crashing.activity_id(parcel): parcel for parcel in range(campaign.plan.parcels)}


def test_the_process_is_killed_as_often_as_planned(campaign: Campaign) -> None:
    assert len(campaign.kills) == campaign.plan.kills >= 20
    assert campaign.lives == campaign.plan.kills + 2


def test_every_activity_completes_once_with_the_right_value(
    journal: sqlite3.Connection, parcels: dict[str, int]
) -> None:
    ends = journal.execute("""
        SELECT stream, kind, json_extract(data, '$.value') FROM records
        WHERE kind IN ('activity.completed', 'activity.failed', 'activity.cancelled')""").fetchall()
    expected = [(id, "activity.completed", crashing.expected_value(parcel)) for id, parcel in parcels.items()]
    assert sorted(ends) == sorted(expected)


def test_one_id_starts_one_activity(journal: sqlite3.Connection, parcels: dict[str, int]) -> None:
    for kind in ("command.accepted", "activity.started"):
        streams = journal.execute("SELECT stream FROM records WHERE kind = ?", (kind,)).fetchall()
        assert sorted(stream for (stream,) in streams) == sorted(parcels)


def test_nothing_is_blocked_or_denied(journal: sqlite3.Connection) -> None:
    kinds = ("activity.blocked", "command.denied", "delivery.dead", "supervisor.escalated")
    query = f"SELECT seq, stream, kind, facts FROM records WHERE kind IN {kinds}"
    assert journal.execute(query).fetchall() == []


def test_every_effect_takes_place(journal: sqlite3.Connection, parcels: dict[str, int]) -> None:
    took_place: dict[str, set[str]] = defaultdict(set)
    for id, operation in journal.execute("SELECT DISTINCT activity, operation FROM world.executions"):
        took_place[id].add(operation)
    assert took_place.keys() == parcels.keys()
    for id, parcel in parcels.items():
        assert took_place[id] - crashing.possible_operations(parcel) == crashing.expected_operations(parcel)


def test_no_effect_takes_place_under_two_keys(journal: sqlite3.Connection) -> None:
    assert not journal.execute("""
        SELECT activity, operation FROM world.executions GROUP BY activity, operation HAVING count(DISTINCT key) != 1
        """).fetchall()


def test_one_key_stands_for_one_call_with_one_set_of_arguments(journal: sqlite3.Connection) -> None:
    assert not journal.execute("""
        SELECT key FROM world.executions GROUP BY key
        HAVING count(DISTINCT activity || ' ' || operation || ' ' || path || ' ' || name || ' ' || args) != 1
        """).fetchall()


def test_every_step_is_recorded_once(journal: sqlite3.Connection, parcels: dict[str, int]) -> None:
    recorded = journal.execute("SELECT stream, path, name FROM records WHERE kind = 'step.completed'").fetchall()
    assert len(recorded) == len(set(recorded))
    took_place: set[tuple[str, str, str]] = set()
    expected: set[tuple[str, str, str]] = set()
    query = "SELECT DISTINCT activity, path, name, operation FROM world.executions"
    for id, path, name, operation in journal.execute(query):
        took_place.add((id, path, name))
        if operation in crashing.expected_operations(parcels[id]):
            expected.add((id, path, name))
    assert expected <= set(recorded) <= took_place


def test_no_step_runs_again_after_it_was_recorded(journal: sqlite3.Connection) -> None:
    assert not journal.execute("""
        SELECT execution.* FROM world.executions AS execution
        JOIN records ON records.stream = execution.activity AND records.path = execution.path
        WHERE records.kind = 'step.completed' AND execution.at > records.at""").fetchall()


def test_an_attempt_is_above_one_wherever_the_step_may_have_run_before(journal: sqlite3.Connection) -> None:
    attempts: dict[str, list[int]] = defaultdict(list)
    for key, attempt in journal.execute("SELECT key, attempt FROM world.executions ORDER BY rowid"):
        attempts[key].append(attempt)
    assert not {key: numbers for key, numbers in attempts.items() if min(numbers[1:], default=2) < 2}


def test_some_steps_were_killed_between_effect_and_record(journal: sqlite3.Connection) -> None:
    """Without this the kills would have proved little."""
    (repeated,) = journal.execute("""
        SELECT count(*) FROM (SELECT key FROM world.executions WHERE operation NOT IN ('sort', 'deliver')
        GROUP BY key HAVING count(*) > 1)""").fetchone()
    assert repeated > 0


def test_every_event_is_recorded_once(journal: sqlite3.Connection, parcels: dict[str, int]) -> None:
    recorded: dict[int, Counter[tuple[str, str, str]]] = defaultdict(Counter)
    for kind, topic, text in journal.execute(f"SELECT kind, name, data FROM records WHERE kind IN {EVENTS}"):
        data = json.loads(text)["data"]
        recorded[data["parcel"]][kind, topic, data["stage"]] += 1
    assert recorded == {parcel: crashing.expected_events(parcel) for parcel in parcels.values()}
    assert not journal.execute("""
        SELECT stream, path FROM records WHERE kind = 'event.emitted' GROUP BY stream, path HAVING count(*) > 1
        """).fetchall()


def test_the_subscriber_is_given_every_event_in_journal_order(journal: sqlite3.Connection) -> None:
    emitted = journal.execute(f"""
        SELECT seq, json_extract(facts, '$.id'), name, json_extract(data, '$.data.stage') FROM records
        WHERE kind IN {EVENTS} ORDER BY seq""").fetchall()
    first_seen = journal.execute("""
        SELECT seq, event, topic, stage FROM world.deliveries GROUP BY seq, event, topic, stage ORDER BY min(rowid)
        """).fetchall()
    assert first_seen == emitted


def test_no_event_is_given_again_after_its_handling_was_recorded(journal: sqlite3.Connection) -> None:
    handled = journal.execute("""
        SELECT json_extract(facts, '$.to'), at FROM records
        WHERE kind = 'delivery.handled' AND stream = '/subscribers/tracking' ORDER BY seq""").fetchall()
    cursors = [cursor for cursor, _ in handled]
    assert cursors == sorted(cursors)
    for seq, at in journal.execute("SELECT seq, at FROM world.deliveries"):
        settled = bisect.bisect_left(cursors, seq)
        assert settled == len(handled) or at <= handled[settled][1], f"event {seq} was given again at {at}"


def test_the_journal_verifies(campaign: Campaign) -> None:
    with Ledger.open(campaign.journal) as ledger:
        verification = ledger.verify()
    assert list(verification.problems) == []
    assert verification.ok
    assert verification.size == size(campaign.journal)
