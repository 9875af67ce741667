"""Bank transfers: an activity for each row of a file, over a bank that must neither lose nor make a cent.

    playbill run examples/bank_transfers/app.py:transfer --input examples/bank_transfers/transfers.csv \\
        --journal transfers.db --id-field id --report report.html

The bank's own database (`$BANK_DATABASE`, else out/bank.db beside this file) is not the journal: the journal knows
which steps are done, the bank knows where the money is. Between a step's effect in the one and its record in the other
the process can die, and the step is asked again. So each step that moves money is one transaction, which also keeps the
step's idempotency key: asked again with the same key, it finds what it answered and moves nothing.

    validate -> reserve -> debit -> notify_clearing -> credit -> transfers.CURRENCY.completed
       |           |                                     |
       v           v                                     v
    rejected    rejected                       refund -> transfers.CURRENCY.rejected

Money is always in an account: available, held for a transfer, or, between the accounts, in its currency's clearing
account. The sum is the same at every instant, also at the one where the process is killed.
"""

from __future__ import annotations

import csv
import functools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal
from zlib import crc32

import trio

from engine import Context, Event, Retry, activity, current_step, step, subscriber

HERE = Path(__file__).resolve().parent

# How many digits each currency has after its point: bank.db counts its smallest unit, in integers.
DIGITS = {"EUR": 2, "GBP": 2, "JPY": 0, "KWD": 3, "USD": 2}

# The clearing house answers so many callers at a time, and takes so long over each.
CLEARING_LINES = trio.CapacityLimiter(8)
CLEARING_SECONDS = 0.02


@dataclass(frozen=True)
class Transfer:
    """One row of transfers.csv."""

    id: str
    source: str
    target: str
    currency: str
    amount: Decimal
    reference: str

    @property
    def minor(self) -> int:
        """The amount in the smallest unit of its currency."""
        return int(self.amount.scaleb(DIGITS[self.currency]))


@dataclass(frozen=True)
class Outcome:
    """What became of a transfer; a rejected one is settled too."""

    status: Literal["completed", "rejected"]
    reason: str | None = None


@dataclass(frozen=True)
class Settlement:
    """What the events tell."""

    transfer: Transfer
    outcome: Outcome


# ------------------------------------------------------------------------------------------------ the bank

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, currency TEXT NOT NULL, status TEXT NOT NULL,
    available INTEGER NOT NULL CHECK (available >= 0), held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0)
) STRICT;
CREATE TABLE IF NOT EXISTS effects (
    idempotency_key TEXT PRIMARY KEY, step TEXT NOT NULL, transfer TEXT NOT NULL, amount INTEGER NOT NULL,
    result TEXT, attempt INTEGER NOT NULL, repeats INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS calls (
    idempotency_key TEXT NOT NULL, transfer TEXT NOT NULL, path TEXT NOT NULL, attempt INTEGER NOT NULL,
    at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS statement (
    event TEXT PRIMARY KEY, at TEXT NOT NULL, transfer TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL,
    currency TEXT NOT NULL, amount TEXT NOT NULL, status TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS notices (event TEXT PRIMARY KEY, account TEXT NOT NULL, text TEXT NOT NULL) STRICT;
"""


class Bank:
    """The bank's database, used by one thread at a time.

    One connection behind a lock, since SQLite has one writer anyway: whoever waits here is next, whoever waits for
    SQLite's own lock sleeps and asks again.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.executescript(SCHEMA)
        with self.transaction() as connection:
            open_accounts(connection)

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing. What is not `durable` outlives the process, as everything does, but maybe not a power cut."""
        with self._lock, self._connection as connection:
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    def close(self) -> None:
        """Close the database, once whoever is using it is done."""
        with self._lock:
            self._connection.close()


def open_accounts(connection: sqlite3.Connection) -> None:
    """Open the accounts of accounts.csv, and a clearing account for each currency, where they are not open yet."""
    with (HERE / "accounts.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            (row["id"], row["owner"], row["currency"], row["status"], int(Decimal(row["balance"]).scaleb(digits)))
            for row in csv.DictReader(file)
            for digits in [DIGITS[row["currency"]]]
        ]
    rows += [(clearing(currency), "the bank", currency, "open", 0) for currency in DIGITS]
    connection.executemany(
        "INSERT OR IGNORE INTO accounts (id, owner, currency, status, available) VALUES (?, ?, ?, ?, ?)", rows
    )


def clearing(currency: str) -> str:
    """The account in which money of this currency stands while it is on its way."""
    return f"clearing:{currency}"


@functools.cache
def opened(path: Path) -> Bank:
    """The bank in this file, opened once."""
    return Bank(path)


opening = threading.Lock()  # the cache alone would let two threads open it twice


def bank() -> Bank:
    """The bank that the environment names."""
    with opening:
        return opened(Path(os.environ.get("BANK_DATABASE") or HERE / "out" / "bank.db"))


def note_call(connection: sqlite3.Connection, transfer_id: str) -> None:
    """Note that the running step's body was entered: what the demo holds against the journal."""
    running = current_step()
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    connection.execute(
        "INSERT INTO calls VALUES (?, ?, ?, ?, ?)",
        (running.idempotency_key, transfer_id, running.path, running.attempt, now),
    )


def once(request: Transfer, change: Callable[[sqlite3.Connection], str | None]) -> str | None:
    """Make the running step's change and keep its answer, in one transaction; if its key is there, only answer."""
    running = current_step()
    with bank().transaction() as connection:
        note_call(connection, request.id)
        query = "UPDATE effects SET repeats = repeats + 1 WHERE idempotency_key = ? RETURNING result"
        known: list[tuple[str | None]] = connection.execute(query, (running.idempotency_key,)).fetchall()
        if known:
            return known[0][0]
        result = change(connection)
        connection.execute(
            "INSERT INTO effects (idempotency_key, step, transfer, amount, result, attempt) VALUES (?, ?, ?, ?, ?, ?)",
            (running.idempotency_key, running.name, request.id, request.minor, result, running.attempt),
        )
        return result


# ------------------------------------------------------------------------------------------------ the steps
#
# A step that may refuse gives its reason, or None. Those that wait for bank.db are plain functions: Playbill runs them
# in worker threads.


@step
def validate(request: Transfer) -> str | None:
    """Refuse what the bank cannot do, whatever the balances are. Changes nothing."""
    with bank().transaction(durable=False) as connection:
        note_call(connection, request.id)
        currencies = dict(connection.execute("SELECT id, currency FROM accounts WHERE id NOT LIKE 'clearing:%'"))
    for account in (request.source, request.target):
        if account not in currencies:
            return f"unknown account {account}"
        if currencies[account] != request.currency:
            return f"account {account} is not in {request.currency}"
    if request.source == request.target:
        return "source and target are one account"
    in_smallest_unit = request.amount.scaleb(DIGITS[request.currency])
    if request.amount <= 0 or in_smallest_unit != in_smallest_unit.to_integral_value():
        return f"{request.amount} {request.currency} is not an amount that can be moved"
    return None


@step
def reserve(request: Transfer) -> str | None:
    """Hold the amount in the source, so that no other transfer can count on it."""

    def change(connection: sqlite3.Connection) -> str | None:
        held = connection.execute(
            "UPDATE accounts SET available = available - :minor, held = held + :minor"
            " WHERE id = :source AND available >= :minor",
            {"minor": request.minor, "source": request.source},
        )
        return None if held.rowcount else f"insufficient funds in {request.source}"

    return once(request, change)


@step
def debit(request: Transfer) -> None:
    """Move the amount that is held in the source to the clearing account."""

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE accounts SET held = held - ? WHERE id = ?", (request.minor, request.source))
        receive(connection, clearing(request.currency), request.minor)

    once(request, change)


@step(retry=Retry(attempts=4, initial=0.02))
async def notify_clearing(request: Transfer) -> str:
    """Announce the transfer to the clearing house, which is flaky.

    Its first 0, 1 or 2 calls for a transfer fail, by the transfer's id.
    """
    await trio.to_thread.run_sync(announce, request)
    async with CLEARING_LINES:
        await trio.sleep(CLEARING_SECONDS)
    checksum = crc32(request.id.encode())
    if current_step().attempt <= checksum % 3:
        raise ConnectionError(f"the clearing house did not answer for {request.id}")
    return f"CLR-{checksum:08X}"


def announce(request: Transfer) -> None:
    """Note the call; there is no money in it."""
    with bank().transaction(durable=False) as connection:
        note_call(connection, request.id)


@step
def credit(request: Transfer) -> str | None:
    """Move the amount from the clearing account to the target, unless that is closed."""

    def change(connection: sqlite3.Connection) -> str | None:
        query = "SELECT status FROM accounts WHERE id = ?"
        if connection.execute(query, (request.target,)).fetchone()[0] == "closed":
            return f"account {request.target} is closed"
        receive(connection, clearing(request.currency), -request.minor)
        receive(connection, request.target, request.minor)
        return None

    return once(request, change)


@step
def refund(request: Transfer) -> None:
    """Give the source back what is in the clearing account."""

    def change(connection: sqlite3.Connection) -> None:
        receive(connection, clearing(request.currency), -request.minor)
        receive(connection, request.source, request.minor)

    once(request, change)


def receive(connection: sqlite3.Connection, account: str, minor: int) -> None:
    """Add to what the account has available. Less than nothing is refused by the table, and with it the transaction."""
    connection.execute("UPDATE accounts SET available = available + ? WHERE id = ?", (minor, account))


# ------------------------------------------------------------------------------------------------ the activity


@activity(name="bank.transfer")
async def transfer(ctx: Context, request: Transfer) -> Outcome:
    """Take one transfer to its end: done, or rejected with nothing taken."""
    refusal = await ctx.step(validate, request)
    if refusal is None:
        refusal = await ctx.step(reserve, request)
    if refusal is None:
        await ctx.step(debit, request)
        await ctx.step(notify_clearing, request)
        refusal = await ctx.step(credit, request)
        if refusal is not None:
            await ctx.step(refund, request)
    outcome = Outcome("completed") if refusal is None else Outcome("rejected", refusal)
    topic = f"transfers.{request.currency}.{outcome.status}"
    await ctx.emit(topic, Settlement(request, outcome), key=request.source)
    return outcome


# ------------------------------------------------------------------------------------------------ the subscribers
#
# An event comes at least once, so both keep its id: the second time nothing is written.


@subscriber("transfers.#", name="statement", start="beginning")
def keep_statement(event: Event[Settlement]) -> None:
    """Enter what became of a transfer in the bank's statement."""
    request, outcome = event.data.transfer, event.data.outcome
    amount = f"{request.amount}"
    row = (event.id, event.at.isoformat(), request.id, request.source, request.target, request.currency, amount)
    with bank().transaction() as connection:
        connection.execute("INSERT OR IGNORE INTO statement VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, outcome.status))


@subscriber("transfers.*.rejected", name="notices", start="beginning")
def write_notice(event: Event[Settlement]) -> None:
    """Write to whoever ordered a transfer that was rejected."""
    request, outcome = event.data.transfer, event.data.outcome
    text = f"Your transfer of {request.amount} {request.currency} ({request.reference}) was rejected: {outcome.reason}."
    with bank().transaction() as connection:
        connection.execute("INSERT OR IGNORE INTO notices VALUES (?, ?, ?)", (event.id, request.source, text))
