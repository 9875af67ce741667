"""`playbill run` is interrupted by SIGINT and SIGTERM over and over, over one journal: it says so, and loses nothing.

The application is `interrupted`. A *campaign* gives the same command again and again, interrupts it at a moment drawn
by chance, and at last lets it come to its end; each test then holds one promise against what the journal, the database
of effects and the command itself say. Some lives are interrupted twice, and may end at once. To see a campaign again,
give its seed: `PLAYBILL_INTERRUPT_SEED=… pytest tests/system/test_interrupt.py`; the same moments are drawn, though the
machine decides where exactly a process stands then.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from engine.audit import Ledger
from tests.system import interrupted

APPLICATION = Path(interrupted.__file__)
COMMAND = [sys.executable, "-c", "from engine.cli import main; main()"]

INTERRUPTIONS = 20
ROWS = 60
CONCURRENCY = 4

RECORDS_OF_A_ROW = 8
"""How many records a row costs, rather too few: so that too much work is left in the end, not too little."""

POLL = 0.002
"""Seconds between two looks at the journal."""

PATIENCE = 60.0
"""Seconds after which a process that neither moves nor ends is stuck."""

SOON = 4.0
"""Seconds within which a second signal must end the process, however slow the machine: less than half of what the steps
in flight would need."""


@attrs.frozen
class Moment:
    """When and how to interrupt a life.

    Attributes:
        number: the signal.
        records: after how many new records; from the first on, the command stands by for signals.
        seconds: how long after those.
        again: seconds after which a second signal follows; `None` for none.
    """

    number: signal.Signals
    records: int
    seconds: float
    again: float | None


@attrs.frozen
class Life:
    """One run of the command that was interrupted.

    Attributes:
        moment: when and how.
        code: its exit code, as a shell gives it.
        out: what it printed as its result.
        err: what it said.
        size: how many records the journal had afterwards.
        root: the root of the log's tree over them.
    """

    moment: Moment
    code: int
    out: str
    err: str
    size: int
    root: bytes


@attrs.define
class Campaign:
    """What a campaign works on, and what has come of it."""

    directory: Path
    seed: int
    random: random.Random
    lives: list[Life] = attrs.field(factory=list)
    last: subprocess.CompletedProcess[str] | None = None
    _connection: sqlite3.Connection | None = None

    @property
    def journal(self) -> Path:
        return self.directory / "journal.db"

    @property
    def effects(self) -> Path:
        return self.directory / "effects.db"

    def prepare(self, rows: int, milliseconds: tuple[int, int] = (10, 80)) -> None:
        """Write the file of rows, and make the database of effects."""
        lines = [f"p-{number},{number % 7 * 100},{self.random.randint(*milliseconds)}\n" for number in range(rows)]
        (self.directory / "parcels.csv").write_text("id,grams,milliseconds\n" + "".join(lines), encoding="utf-8")
        with contextlib.closing(sqlite3.connect(self.effects)) as connection:
            connection.executescript(f"PRAGMA journal_mode = WAL; {interrupted.TABLES}")

    @contextlib.contextmanager
    def command(self, life: int, pace: int = 1) -> Iterator[subprocess.Popen[str]]:
        """The command, as a process of its own; killed if the block is left before it ended."""
        arguments = ["run", f"{APPLICATION}:send", "--input", "parcels.csv", "--journal", "journal.db"]
        with subprocess.Popen(
            [*COMMAND, *arguments, "--id-field", "id", "--concurrency", str(CONCURRENCY), "--json"],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": str(APPLICATION.parents[2]),
                "INTERRUPTED_EFFECTS": str(self.effects),
                "INTERRUPTED_LIFE": str(life),
                "INTERRUPTED_PACE": str(pace),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def draw(self) -> Moment:
        """A moment for the next interruption. No life may do so much that nothing is left for those after it."""
        number = self.random.choice([signal.SIGINT, signal.SIGTERM])
        share = self.remaining() * RECORDS_OF_A_ROW / (INTERRUPTIONS - len(self.lives) + 1)
        most = max(1, int(share * self.random.uniform(0.1, 1.5)))
        records = self.random.choice([1, 2, most, most])
        seconds = self.random.choice([0.0, self.random.uniform(0, 0.1)])
        again = self.random.choice([None, None, None, 0.0, self.random.uniform(0, 0.05)])
        return Moment(number, records, seconds, again)

    def remaining(self) -> int:
        """How many rows have no activity that is completed yet."""
        if not self.lives:
            return ROWS
        ((completed,),) = self.look("SELECT count(*) FROM activities WHERE status = 'completed'")
        return ROWS - int(completed)

    # -------------------------------------------------------------------------------------------- the journal

    def look(self, query: str) -> list[Any]:
        """What the journal answers, read beside whoever writes it; nothing until it is there.

        One connection serves for all lives: each that is opened or closed locks the file for a moment.
        """
        if self._connection is None:
            if not self.journal.with_name("journal.db-wal").exists():
                return []
            self._connection = sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=30)
        try:
            return self._connection.execute(query).fetchall()
        except sqlite3.OperationalError:  # until it has its tables
            return []

    def size(self) -> int:
        """How many records there are."""
        return int((self.look("SELECT max(seq) FROM records") or [(0,)])[0][0] or 0)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    # -------------------------------------------------------------------------------------------- the lives

    def interrupt(self, moment: Moment) -> None:
        """Give the command, and interrupt it; it must not have ended before."""
        before = self.size()
        with self.command(len(self.lives) + 1) as process:
            deadline = time.monotonic() + PATIENCE
            while self.size() - before < moment.records:
                assert lives_on(process, POLL), f"{self}: it ended by itself: {process.communicate()}"
                assert time.monotonic() < deadline, f"{self}: it is stuck"
            assert lives_on(process, moment.seconds), f"{self}: it ended by itself: {process.communicate()}"
            process.send_signal(moment.number)
            if moment.again is not None and lives_on(process, moment.again):
                process.send_signal(moment.number)
            out, err = process.communicate(timeout=PATIENCE)
        (last,) = self.look("SELECT seq, root FROM records ORDER BY seq DESC LIMIT 1")
        self.lives.append(Life(moment, code_of(process), out, err, *last))

    def run(self) -> None:
        self.prepare(ROWS)
        for _ in range(INTERRUPTIONS):
            self.interrupt(self.draw())
        with self.command(len(self.lives) + 1) as process:
            out, err = process.communicate(timeout=PATIENCE)
        self.last = subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def __str__(self) -> str:
        return f"PLAYBILL_INTERRUPT_SEED={self.seed}, after {len(self.lives)} interruptions"


def lives_on(process: subprocess.Popen[str], seconds: float) -> bool:
    """Wait so long, or until the process has ended; gives whether it has not."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def code_of(process: subprocess.Popen[str]) -> int:
    """The exit code as a shell gives it: also of a process that a signal ended."""
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def new_campaign(directory: Path) -> Campaign:
    seed = int(os.environ.get("PLAYBILL_INTERRUPT_SEED") or random.SystemRandom().randrange(10**9))
    # pytest shows it where the campaign, or a test of it, fails.
    print(f"PLAYBILL_INTERRUPT_SEED={seed}")
    return Campaign(directory, seed, random.Random(seed))


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """One campaign, run once for all tests of it."""
    found = new_campaign(tmp_path_factory.mktemp("interrupted"))
    try:
        found.run()
        yield found
    finally:
        found.close()


# ------------------------------------------------------------------------------------------------ what a life says

STOPPING = (
    "playbill: stopping: what is under way may end within 10.0 s; "
    "Ctrl-C once more stops at once, and loses nothing either"
)
AT_ONCE = "playbill: stopped at once; give the same command again to go on"
LEFT = re.compile(
    r"playbill: stopped: (\d+) rows? left as they are, nothing is lost; give the same command again to go on"
)


def test_every_life_that_is_interrupted_says_so_and_ends_with_the_signal_s_code(campaign: Campaign) -> None:
    assert len(campaign.lives) == INTERRUPTIONS
    for life in campaign.lives:
        assert life.code == {signal.SIGINT: 130, signal.SIGTERM: 143}[life.moment.number], (str(campaign), life)
        first, *others = life.err.splitlines()
        assert first == STOPPING, (str(campaign), life)
        if life.out:
            ((left,),) = [LEFT.fullmatch(line).groups() for line in others]  # type: ignore[union-attr]
            summary = json.loads(life.out)
            assert (summary["stopped"], summary["failed"], summary["denied"]) == (True, 0, 0), (str(campaign), life)
            assert summary["left"] == int(left) > 0
        else:
            # A second signal that comes after the engine has closed finds nobody who says more.
            assert life.moment.again is not None, (str(campaign), life)
            # Before that one's "stopped" click ends the line on which a terminal shows ^C.
            said = [line for line in others if line]
            assert said in ([AT_ONCE], ["playbill: stopped"], []), (str(campaign), life)


def test_the_last_life_ends_by_itself_and_has_brought_every_row_to_its_end(campaign: Campaign) -> None:
    assert campaign.last is not None
    assert (campaign.last.returncode, campaign.last.stderr) == (0, ""), str(campaign)
    summary = json.loads(campaign.last.stdout)
    assert (summary["rows"], summary["failed"], summary["denied"], summary["left"]) == (ROWS, 0, 0, 0)
    assert summary["completed"] + summary["skipped"] == ROWS
    assert summary["completed"] > 0, f"{campaign}: nothing was left to be done"


# ------------------------------------------------------------------------------------------------ what is kept


def test_the_journal_keeps_what_it_held_after_each_life(campaign: Campaign) -> None:
    sizes = [life.size for life in campaign.lives]
    assert sizes == sorted(set(sizes))
    for life in campaign.lives:
        assert campaign.look(f"SELECT root FROM records WHERE seq = {life.size}") == [(life.root,)], str(campaign)
    with Ledger.open(campaign.journal) as ledger:
        assert ledger.verify().problems == (), str(campaign)


def test_every_row_is_done_once_with_the_right_value(campaign: Campaign) -> None:
    rows = [line.split(",") for line in (campaign.directory / "parcels.csv").read_text().splitlines()[1:]]
    with Ledger.open(campaign.journal) as ledger:
        results = {row.id: row.result for row in ledger.activities()}
        assert results == {id: f"{id} delivered, {grams} g" for id, grams, _ in rows}, str(campaign)
    query = "SELECT kind, count(*) FROM records WHERE stream NOT LIKE '/%' GROUP BY kind"
    counts = dict(campaign.look(query))
    once = ("command.accepted", "activity.started", "event.emitted", "activity.completed")
    assert {kind: counts[kind] for kind in once} == dict.fromkeys(once, ROWS), str(campaign)
    assert counts["step.completed"] == 2 * ROWS
    # Each path at most once too, so that no step stands in for another.
    assert (
        campaign.look("SELECT 1 FROM records WHERE kind = 'step.completed' GROUP BY stream, path HAVING count(*) > 1")
        == []
    )


def test_a_step_is_entered_again_only_where_a_life_was_ended_at_once(campaign: Campaign) -> None:
    ended_at_once = {number for number, life in enumerate(campaign.lives, start=1) if AT_ONCE in life.err}
    with contextlib.closing(sqlite3.connect(campaign.effects)) as effects:
        entered: dict[tuple[str, str], list[tuple[int, str, int]]] = {}
        for life, key, parcel, path, ended in effects.execute(
            "SELECT life, key, parcel, path, ended FROM executions ORDER BY number"
        ):
            entered.setdefault((parcel, path), []).append((life, key, ended))
    recorded = set(campaign.look("SELECT stream, path FROM records WHERE kind = 'step.completed'"))
    assert set(entered) == recorded, str(campaign)
    for step, executions in entered.items():
        lives, keys, ends = zip(*executions, strict=True)
        assert len(set(keys)) == 1, (str(campaign), step, executions)
        assert set(lives[:-1]) <= ended_at_once, (str(campaign), step, executions)
        assert len(set(lives)) == len(lives), (str(campaign), step, executions)
        assert ends[-1] == 1, (str(campaign), step, executions)


def test_every_event_reaches_the_subscriber(campaign: Campaign) -> None:
    emitted = campaign.look("SELECT json_extract(facts, '$.id'), stream FROM records WHERE kind = 'event.emitted'")
    with contextlib.closing(sqlite3.connect(campaign.effects)) as effects:
        delivered = Counter(effects.execute("SELECT event, parcel FROM deliveries"))
    assert set(delivered) == set(emitted), str(campaign)


# ------------------------------------------------------------------------------------------------ a second signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_second_signal_ends_at_once_what_would_take_long_and_loses_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    campaign = new_campaign(tmp_path)
    campaign.prepare(CONCURRENCY, milliseconds=(100, 100))
    with contextlib.closing(sqlite3.connect(campaign.effects)) as effects:
        executions = "SELECT count(*), count(DISTINCT key), sum(ended) FROM executions WHERE path = 'weigh'"
        with campaign.command(1, pace=90) as process:  # nine seconds a step
            deadline = time.monotonic() + PATIENCE
            while effects.execute(executions).fetchone()[0] < CONCURRENCY:
                assert lives_on(process, POLL), process.communicate()
                assert time.monotonic() < deadline
            process.send_signal(number)
            assert process.stderr is not None
            assert process.stderr.readline() == f"{STOPPING}\n"
            began = time.monotonic()
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
            assert time.monotonic() - began < SOON
        assert (code_of(process), out, err) == (128 + number, "", f"{AT_ONCE}\n")
        with campaign.command(2) as process:
            out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err, json.loads(out)["completed"]) == (0, "", CONCURRENCY)
        assert effects.execute(executions).fetchone() == (2 * CONCURRENCY, CONCURRENCY, CONCURRENCY)
    with Ledger.open(campaign.journal) as ledger:
        assert ledger.verify().problems == ()
        assert len(list(ledger.steps())) == 2 * CONCURRENCY
