"""Kill the bank transfers part of the way, run them to the end, and prove that no cent and no step was lost or doubled.

`make demo` runs this. Nothing is taken on trust from the process that was killed: the proofs read the two databases
that it left, the journal and the bank, both read-only, and the files that went in.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TRANSFERS = HERE / "transfers.csv"
ACCOUNTS = HERE / "accounts.csv"

KILL_AFTER = 0.4  # of the transfers completed
POLL_EVERY = 0.01  # seconds
PATIENCE = 180.0  # seconds for one run, of which a slow machine should need a tenth


class DisprovedError(Exception):
    """One of the demo's claims is not true."""


@dataclass(frozen=True)
class Paths:
    """Where the demo writes."""

    folder: Path

    @property
    def journal(self) -> Path:
        return self.folder / "journal.db"

    @property
    def bank(self) -> Path:
        return self.folder / "bank.db"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def clear(self) -> None:
        """Remove what an earlier demo left, and nothing else."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for pattern in ("journal.db*", "bank.db*", "report.html", "*.log"):
            for file in self.folder.glob(pattern):
                file.unlink()


@dataclass(frozen=True)
class Standing:
    """What the two databases say at one moment while nobody writes them."""

    completed: int
    under_way: int
    recorded_steps: int
    money: Mapping[str, int]


# ------------------------------------------------------------------------------------------------ running


def playbill(paths: Paths, *arguments: str | Path) -> tuple[list[str], dict[str, str]]:
    """The command line of the `playbill` beside this Python, and its environment."""
    program = Path(sys.executable).with_name("playbill")
    if not program.exists():
        raise DisprovedError(f"there is no command {program}; `make demo` installs it")
    return [str(program), *map(str, arguments)], {**os.environ, "BANK_DATABASE": str(paths.bank)}


@contextmanager
def transfers_running(paths: Paths, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """`playbill run` over the file, in a process group of its own, of which nothing is left in the end."""
    target = f"{HERE / 'app.py'}:transfer"
    files = ("--input", TRANSFERS, "--journal", paths.journal, "--report", paths.report)
    command, environment = playbill(paths, "run", target, *files, "--id-field", "id")
    with (paths.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def run_and_kill(paths: Paths, rows: int) -> None:
    """Run until enough transfers are completed, then end it as a power cut would: without a word."""
    with transfers_running(paths, "first-run") as process:
        deadline = time.monotonic() + PATIENCE
        while count_completed(paths.journal) < KILL_AFTER * rows:
            if process.poll() is not None:
                raise DisprovedError(
                    f"the first run ended by itself, {process.returncode}: see {paths.folder}/first-run.log"
                )
            if time.monotonic() > deadline:
                raise DisprovedError(f"the first run is stuck: see {paths.folder}/first-run.log")
            time.sleep(POLL_EVERY)
        os.killpg(process.pid, signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise DisprovedError(f"the first run had ended, {process.returncode}, before it was killed")


def run_to_the_end(paths: Paths) -> None:
    """The same command once more."""
    with transfers_running(paths, "second-run") as process:
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise DisprovedError(f"the second run is stuck: see {paths.folder}/second-run.log") from None
    if status != 0:
        raise DisprovedError(f"the second run ended with {status}: see {paths.folder}/second-run.log")


def verify(paths: Paths) -> None:
    """Let `playbill verify` read the whole journal."""
    command, environment = playbill(paths, "verify", "--journal", paths.journal)
    with (paths.folder / "verify.log").open("wb") as log:
        ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
    if ended.returncode != 0:
        raise DisprovedError(f"`playbill verify` ended with {ended.returncode}: see {paths.folder}/verify.log")


# ------------------------------------------------------------------------------------------------ reading


@contextmanager
def reading(path: Path, bank: Path | None = None) -> Iterator[sqlite3.Connection]:
    """A database, with the bank beside it as `bank` where that is given; neither can be written here."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
        if bank is not None:
            connection.execute("ATTACH ? AS bank", (f"{bank.as_uri()}?mode=ro",))
        yield connection


def one(connection: sqlite3.Connection, query: str) -> int:
    """The number that the query gives."""
    return int(connection.execute(query).fetchone()[0] or 0)


def count_completed(journal: Path) -> int:
    """How many activities are recorded as completed; none while the journal is still being made."""
    try:
        with reading(journal) as connection:
            return one(connection, "SELECT count(*) FROM records WHERE kind = 'activity.completed'")
    except sqlite3.OperationalError:
        return 0


def read_standing(paths: Paths) -> Standing:
    """Read where journal and bank stand."""
    with reading(paths.journal, paths.bank) as connection:
        completed = one(connection, "SELECT count(*) FROM records WHERE kind = 'activity.completed'")
        started = one(connection, "SELECT count(DISTINCT stream) FROM records WHERE kind = 'activity.started'")
        steps = one(connection, "SELECT count(*) FROM records WHERE kind = 'step.completed'")
        money = dict(
            connection.execute("SELECT currency, sum(available + held) FROM bank.accounts GROUP BY currency").fetchall()
        )
    return Standing(completed, started - completed, steps, money)


def read_opening_money() -> dict[str, int]:
    """What each currency's accounts hold before anything, by accounts.csv, in the currency's smallest unit."""
    money: Counter[str] = Counter()
    with ACCOUNTS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            money[row["currency"]] += int(row["balance"].replace(".", ""))  # the file writes every digit
    return dict(money)


# ------------------------------------------------------------------------------------------------ proving


def check_money(opening: Mapping[str, int], standing: Standing, when: str) -> None:
    """The sum of all balances is what it was, in each currency."""
    if dict(standing.money) != dict(opening):
        raise DisprovedError(
            f"{when} the balances sum up to {dict(standing.money)}, not {dict(opening)} as they did at first"
        )


def check_nothing_is_under_way(paths: Paths) -> None:
    """Nothing is held for a transfer, and nothing is left between the accounts."""
    with reading(paths.bank) as connection:
        loose = one(connection, "SELECT sum(held) FROM accounts")
        loose += one(connection, "SELECT sum(available) FROM accounts WHERE id LIKE 'clearing:%'")
    if loose:
        raise DisprovedError(f"{loose} (in smallest units) are still held, or between the accounts, in {paths.bank}")


# The rows that must not be there, each with what it would mean.
COUNTEREXAMPLES = {
    "ran again after it was recorded": """
        SELECT DISTINCT records.stream, records.path FROM bank.calls AS call
        JOIN records ON records.stream = call.transfer AND records.path = call.path
        WHERE records.kind = 'step.completed' AND call.at > records.at""",
    "was recorded twice": """
        SELECT stream, path FROM records WHERE kind = 'step.completed' GROUP BY stream, path HAVING count(*) > 1""",
    "was recorded, but never ran": """
        SELECT stream, path FROM records WHERE kind = 'step.completed'
        EXCEPT SELECT transfer, path FROM bank.calls""",
    "took effect under two keys": """
        SELECT transfer, step FROM bank.effects GROUP BY transfer, step HAVING count(*) > 1""",
    "took effect, but was never recorded": """
        SELECT DISTINCT call.transfer, call.path FROM bank.effects AS effect
        JOIN bank.calls AS call ON call.idempotency_key = effect.idempotency_key
        EXCEPT SELECT stream, path FROM records WHERE kind = 'step.completed'""",
}


def check_steps(paths: Paths) -> None:
    """Every step ran until it was recorded, was recorded once, and never ran again; every effect was had once."""
    with reading(paths.journal, paths.bank) as connection:
        if not one(connection, "SELECT count(*) FROM records WHERE kind = 'step.completed'"):
            raise DisprovedError("no step was recorded")
        for what, query in COUNTEREXAMPLES.items():
            rows = connection.execute(query).fetchall()
            if rows:
                transfer, step = rows[0]
                raise DisprovedError(f"step {step} of {transfer} {what} (and {len(rows) - 1} more)")


def check_statement(paths: Paths, ids: Sequence[str]) -> Counter[str]:
    """The subscribers missed nothing and kept nothing twice. Gives how many transfers ended in which way."""
    with reading(paths.bank) as connection:
        lines = connection.execute("SELECT transfer, status FROM statement").fetchall()
        notices = one(connection, "SELECT count(*) FROM notices")
    if sorted(transfer for transfer, _ in lines) != sorted(ids):
        raise DisprovedError(f"the statement has {len(lines)} lines, not one for each of {len(ids)} transfers")
    ways = Counter(status for _, status in lines)
    if notices != ways["rejected"]:
        raise DisprovedError(f"{notices} notices were written about {ways['rejected']} rejected transfers")
    return ways


# ------------------------------------------------------------------------------------------------ the demo


def show(paths: Paths) -> None:
    """Run, kill, run again, prove; say what happened in a few lines."""
    with TRANSFERS.open(encoding="utf-8", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    opening = read_opening_money()
    paths.clear()
    print(f"Playbill runs {len(ids)} bank transfers, an activity for each row of {TRANSFERS.name}.")

    run_and_kill(paths, len(ids))
    killed = read_standing(paths)
    if not killed.under_way or killed.completed >= len(ids):
        raise DisprovedError("the first run was not killed part of the way")
    check_money(opening, killed, "after the kill")
    print(f"  first run   killed with SIGKILL: {killed.completed} completed, {killed.under_way} under way")

    run_to_the_end(paths)
    ended = read_standing(paths)
    if ended.completed != len(ids) or ended.under_way:
        raise DisprovedError(f"{ended.completed} transfers are completed in the end, not {len(ids)}")
    ways = check_statement(paths, ids)
    print(f"  second run  to the end: {ways['completed']} done, {ways['rejected']} rejected by the bank's rules")

    check_money(opening, ended, "in the end")
    check_nothing_is_under_way(paths)
    print(f"  money       the same sum before, after the kill and now, in each of {len(opening)} currencies")

    check_steps(paths)
    with reading(paths.journal, paths.bank) as connection:
        retries = one(connection, "SELECT count(*) FROM records WHERE kind = 'step.failed'")
        repeats = one(connection, "SELECT sum(repeats) FROM bank.effects")
        size = one(connection, "SELECT max(seq) FROM records")
    print(
        f"  steps       {killed.recorded_steps} recorded at the kill, {ended.recorded_steps} now; none ran again after"
    )
    if repeats:
        print(f"              {repeats} cut off between effect and record: asked again, nothing was moved twice")
    print(f"  retries     {retries} calls failed in the flaky clearing house, and were tried again")

    verify(paths)
    print(f"  verify      {size} records, none altered, added or removed")
    if not paths.report.is_file() or not paths.report.stat().st_size:
        raise DisprovedError(f"there is no report at {paths.report}")
    print(f"Open {shown(paths.report)} in a browser; the bank's own database is {shown(paths.bank)}.")


def shown(path: Path) -> str:
    """The path as seen from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--output", type=Path, default=HERE / "out", metavar="DIR", help="where to write (default: out/)"
    )
    try:
        show(Paths(parser.parse_args().output.resolve()))
    except DisprovedError as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
