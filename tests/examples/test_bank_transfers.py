"""The main example: its files, its steps asked twice, its activity's ways to end, and the demo as a user runs it."""

from __future__ import annotations

import csv
import importlib.util
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

import engine
from engine.testing import crash_everywhere

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "bank_transfers"


def load(name: str) -> ModuleType:
    """A module of the example, as it is loaded from its file."""
    specification = importlib.util.spec_from_file_location(f"bank_transfers_{name}", EXAMPLE / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def app() -> ModuleType:
    return load("app")


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return load("demo")


def read_rows(name: str) -> list[dict[str, str]]:
    with (EXAMPLE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def expected_balances() -> tuple[dict[str, Decimal], dict[str, str]]:
    """Balances and endings by the files alone: no row of the file depends on another."""
    accounts = {row["id"]: row for row in read_rows("accounts.csv")}
    balances = {id: Decimal(row["balance"]) for id, row in accounts.items()}
    most = {id: balance + 100_000 for id, balance in balances.items()}
    endings = {}
    for row in read_rows("transfers.csv"):
        source, target, amount = accounts[row["source"]], accounts.get(row["target"]), Decimal(row["amount"])
        good = target is not None and target["status"] == "open" and target["currency"] == source["currency"]
        good = good and amount < most[row["source"]]
        endings[row["id"]] = "completed" if good else "rejected"
        if good:
            balances[row["source"]] -= amount
            balances[row["target"]] += amount
    return balances, endings


# ------------------------------------------------------------------------------------------------ the files


def test_the_committed_files_are_those_that_the_script_makes(tmp_path: Path) -> None:
    load("make_transfers").write_files(tmp_path)
    for name in ("accounts.csv", "transfers.csv"):
        assert (tmp_path / name).read_bytes() == (EXAMPLE / name).read_bytes()


def test_there_are_at_least_300_rows_and_every_currency_among_them(app: ModuleType) -> None:
    rows = read_rows("transfers.csv")
    assert len(rows) >= 300
    assert {row["currency"] for row in rows} == set(app.DIGITS)
    assert len({row["id"] for row in rows}) == len(rows)


# ------------------------------------------------------------------------------------------------ the steps


@dataclass
class Running:
    """What `current_step()` gives, by hand."""

    idempotency_key: str
    name: str = "a step"
    path: str = "a-step"
    attempt: int = 1


@pytest.fixture
def bank(app: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """A bank of its own, newly opened, and a connection that looks into it."""
    path = tmp_path / "bank.db"
    monkeypatch.setenv("BANK_DATABASE", str(path))
    bank = app.bank()
    with closing(sqlite3.connect(path)) as connection:
        yield connection
    bank.close()


def ordered(app: ModuleType, *, target: str = "EUR-002", amount: str = "12.34") -> object:
    """A transfer from EUR-001."""
    return app.Transfer("t-1", "EUR-001", target, "EUR", Decimal(amount), "a test")


def read_account(bank: sqlite3.Connection, account: str) -> tuple[int, int]:
    available, held = bank.execute("SELECT available, held FROM accounts WHERE id = ?", (account,)).fetchone()
    return available, held


def test_a_step_asked_again_with_its_key_answers_the_same_and_moves_nothing(
    app: ModuleType, bank: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    available, _ = read_account(bank, "EUR-001")
    monkeypatch.setattr(app, "current_step", lambda: Running("key 1"))
    assert app.reserve(ordered(app)) is None
    assert app.reserve(ordered(app)) is None
    assert read_account(bank, "EUR-001") == (available - 1234, 1234)
    assert bank.execute("SELECT repeats FROM effects").fetchall() == [(1,)]
    assert bank.execute("SELECT count(*) FROM calls").fetchone() == (2,)


def test_a_refusal_is_kept_under_its_key_too(
    app: ModuleType, bank: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "current_step", lambda: Running("key 1"))
    assert app.reserve(ordered(app, amount="9999999.00")) == "insufficient funds in EUR-001"
    bank.execute("UPDATE accounts SET available = 99999999999 WHERE id = 'EUR-001'")
    bank.commit()
    assert app.reserve(ordered(app, amount="9999999.00")) == "insufficient funds in EUR-001"


def test_a_step_that_fails_leaves_neither_money_moved_nor_key(
    app: ModuleType, bank: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_account(bank, "EUR-001")
    monkeypatch.setattr(app, "current_step", lambda: Running("key 1"))
    with pytest.raises(sqlite3.IntegrityError):  # nothing is held
        app.debit(ordered(app))
    assert read_account(bank, "EUR-001") == before
    assert bank.execute("SELECT count(*) FROM effects").fetchone() == (0,)


# ------------------------------------------------------------------------------------------------ the activity


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, None),
        ({"target": "EUR-999"}, "unknown account EUR-999"),
        ({"target": "USD-001"}, "account USD-001 is not in EUR"),
        ({"target": "EUR-001"}, "source and target are one account"),
        ({"amount": "0"}, "0 EUR is not an amount that can be moved"),
        ({"amount": "1.234"}, "1.234 EUR is not an amount that can be moved"),
        ({"amount": "9999999.00"}, "insufficient funds in EUR-001"),
        ({"target": "EUR-010"}, "account EUR-010 is closed"),
    ],
)
async def test_a_transfer_is_done_or_gives_back_what_it_took(
    app: ModuleType, bank: sqlite3.Connection, tmp_path: Path, given: dict[str, str], reason: str | None
) -> None:
    before = read_account(bank, "EUR-001")
    async with engine.Engine.open(str(tmp_path / "journal.db"), app) as running:
        outcome = await running.run(app.transfer, ordered(app, **given), id="t-1")
    assert outcome == app.Outcome("rejected" if reason else "completed", reason)
    assert read_account(bank, "EUR-001") == ((before[0] - 1234, 0) if reason is None else before)
    assert read_account(bank, "clearing:EUR") == (0, 0)


@pytest.mark.parametrize(("target", "reason"), [("EUR-002", None), ("EUR-010", "account EUR-010 is closed")])
async def test_wherever_it_is_killed_a_transfer_moves_its_money_once_or_not_at_all(
    app: ModuleType, bank: sqlite3.Connection, target: str, reason: str | None
) -> None:
    before = {account: read_account(bank, account)[0] for account in ("EUR-001", target)}

    def set_back() -> None:
        with bank:
            bank.execute("DELETE FROM effects")
            bank.execute("DELETE FROM accounts")
            app.open_accounts(bank)

    def check() -> None:
        moved = 1234 if reason is None else 0
        assert read_account(bank, "EUR-001") == (before["EUR-001"] - moved, 0)
        assert read_account(bank, target) == (before[target] + moved, 0)
        assert read_account(bank, "clearing:EUR") == (0, 0)

    crashes = await crash_everywhere(app.transfer, ordered(app, target=target), setup=set_back, check=check)
    assert crashes.result == app.Outcome("rejected" if reason else "completed", reason)


# ------------------------------------------------------------------------------------------------ the proofs


Evidence = tuple[object, sqlite3.Connection, sqlite3.Connection]


@pytest.fixture
def evidence(app: ModuleType, demo: ModuleType, tmp_path: Path) -> Evidence:
    """A journal and a bank in which one step ran and was recorded, as the proofs read them."""
    paths = demo.Paths(tmp_path)
    journal, bank = sqlite3.connect(paths.journal), sqlite3.connect(paths.bank)
    journal.execute("CREATE TABLE records (stream, kind, path, at)")
    journal.execute("INSERT INTO records VALUES ('t-1', 'step.completed', 'debit', '2026-04-01T12:00:00.000002Z')")
    journal.commit()
    bank.executescript(app.SCHEMA)
    bank.execute("INSERT INTO calls VALUES ('key 1', 't-1', 'debit', 1, '2026-04-01T12:00:00.000001Z')")
    bank.execute("INSERT INTO effects VALUES ('key 1', 'debit', 't-1', 1234, NULL, 1, 0)")
    bank.commit()
    return paths, journal, bank


def test_steps_that_ran_and_were_recorded_once_are_fine(demo: ModuleType, evidence: Evidence) -> None:
    paths, journal, bank = evidence
    with closing(journal), closing(bank):
        demo.check_steps(paths)


@pytest.mark.parametrize(
    ("where", "forgery", "what"),
    [
        ("bank", "INSERT INTO calls VALUES ('key 1', 't-1', 'debit', 2, '2026-04-01T12:00:00.000003Z')", "ran again"),
        ("journal", "INSERT INTO records SELECT * FROM records", "was recorded twice"),
        ("bank", "DELETE FROM calls", "but never ran"),
        ("bank", "INSERT INTO effects VALUES ('key 2', 'debit', 't-1', 1234, NULL, 2, 0)", "under two keys"),
        ("journal", "UPDATE records SET path = 'credit'", "but never ran"),
        ("journal", "DELETE FROM records", "no step was recorded"),
    ],
)
def test_evidence_of_a_doubled_or_lost_step_fails_the_demo(
    demo: ModuleType, evidence: Evidence, where: str, forgery: str, what: str
) -> None:
    paths, journal, bank = evidence
    with closing(journal), closing(bank):
        forged = {"journal": journal, "bank": bank}[where]
        forged.execute(forgery)
        forged.commit()
        with pytest.raises(demo.DisprovedError, match=what):
            demo.check_steps(paths)


def test_an_effect_without_its_record_fails_the_demo(demo: ModuleType, evidence: Evidence) -> None:
    paths, journal, bank = evidence
    with closing(journal), closing(bank):
        bank.execute("INSERT INTO calls VALUES ('key 2', 't-2', 'debit', 1, '2026-04-01T12:00:00.000001Z')")
        bank.execute("INSERT INTO effects VALUES ('key 2', 'debit', 't-2', 1234, NULL, 1, 0)")
        bank.commit()
        with pytest.raises(demo.DisprovedError, match="debit of t-2 took effect, but was never recorded"):
            demo.check_steps(paths)


def test_a_cent_too_many_fails_the_demo(demo: ModuleType) -> None:
    with pytest.raises(demo.DisprovedError, match="balances"):
        demo.check_money({"EUR": 100}, demo.Standing(1, 0, 1, {"EUR": 101}), "in the end")


# ------------------------------------------------------------------------------------------------ the demo


def test_the_demo_proves_itself_and_every_balance_is_what_the_file_implies(app: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE / "demo.py"), "--output", str(tmp_path)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert len(ended.stdout.splitlines()) <= 15
    assert "report.html" in ended.stdout
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")

    balances, endings = expected_balances()
    with closing(sqlite3.connect(tmp_path / "bank.db")) as bank:
        rows = bank.execute("SELECT id, currency, available FROM accounts WHERE id NOT LIKE 'clearing:%'").fetchall()
        assert {id: Decimal(available).scaleb(-app.DIGITS[currency]) for id, currency, available in rows} == balances
        assert dict(bank.execute("SELECT transfer, status FROM statement").fetchall()) == endings
