"""Make accounts.csv and transfers.csv: the example's input, the same at every run.

The files are committed; this script says where they come from. What becomes of a row must not depend on the order in
which the rows are run, so every account opens with enough for all that it is asked to pay, and the transfers that must
lack funds ask for more than its currency has in all.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

SEED = 20_260_401
HERE = Path(__file__).resolve().parent

# How many digits each currency has after its point.
CURRENCIES = {"EUR": 2, "GBP": 2, "JPY": 0, "KWD": 3, "USD": 2}
OPEN_ACCOUNTS = 9  # in each currency; one more is closed
GOOD, TO_CLOSED, UNKNOWN, WRONG_CURRENCY, TOO_MUCH = 304, 16, 14, 12, 14

FIRST_NAMES = ("Adele", "Bruno", "Chiara", "Dmitri", "Esra", "Femke", "Goran", "Hana", "Ines", "Jonas")
LAST_NAMES = ("Okafor", "Lindqvist", "Novak", "Haas", "Yildiz")
REFERENCES = ("invoice", "rent", "salary", "refund of costs", "deposit", "subscription", "loan", "gift")


@dataclass
class Account:
    """One line of accounts.csv. `payable` is all that the file's good rows may ever ask of it."""

    id: str
    owner: str
    currency: str
    status: str
    payable: Decimal = field(default=Decimal(0))

    @property
    def balance(self) -> Decimal:
        """A third more than it may have to pay, and a hundred."""
        return rounded(self.payable * 4 / 3 + 100, self.currency)


def rounded(amount: Decimal, currency: str) -> Decimal:
    """The amount with as many digits as its currency has."""
    return amount.quantize(Decimal(1).scaleb(-CURRENCIES[currency]))


def make_accounts() -> list[Account]:
    """Ten accounts in each currency, the last of them closed."""
    owners = (f"{first} {last}" for last in LAST_NAMES for first in FIRST_NAMES)
    return [
        Account(f"{currency}-{number:03}", next(owners), currency, "closed" if number == OPEN_ACCOUNTS + 1 else "open")
        for currency in CURRENCIES
        for number in range(1, OPEN_ACCOUNTS + 2)
    ]


def make_transfers(accounts: Sequence[Account], chance: random.Random) -> list[list[str]]:
    """Rows of every kind, shuffled, with ids in the order of the file; counts up what each account may have to pay."""
    kinds = ["good"] * GOOD + ["closed"] * TO_CLOSED + ["unknown"] * UNKNOWN
    kinds += ["currency"] * WRONG_CURRENCY + ["funds"] * TOO_MUCH
    chance.shuffle(kinds)
    rows = []
    for number, kind in enumerate(kinds, 1):
        currency = chance.choice(list(CURRENCIES))
        siblings = [account for account in accounts if account.currency == currency and account.status == "open"]
        source, target = chance.sample(siblings, 2)
        amount = rounded(Decimal(chance.randint(500, 250_000)) / 100, currency)
        target_id = target.id
        match kind:
            case "closed":
                target_id = next(a.id for a in accounts if a.currency == currency and a.status == "closed")
            case "unknown":
                target_id = f"{currency}-{chance.randint(500, 999)}"
            case "currency":
                target_id = chance.choice([a.id for a in accounts if a.currency != currency and a.status == "open"])
            case "funds":
                amount = rounded(Decimal(chance.randint(5_000_000, 9_000_000)), currency)
        if kind in ("good", "closed"):
            source.payable += amount
        reference = f"{chance.choice(REFERENCES)} {chance.randint(1000, 9999)}"
        rows.append([f"transfer-{number:04}", source.id, target_id, currency, f"{amount}", reference])
    return rows


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write the rows with bare newlines, so that the file is the same on every system."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_files(folder: Path) -> None:
    """Make both files in the folder."""
    accounts = make_accounts()
    transfers = make_transfers(accounts, random.Random(SEED))
    write_csv(
        folder / "accounts.csv",
        ["id", "owner", "currency", "status", "balance"],
        [[account.id, account.owner, account.currency, account.status, f"{account.balance}"] for account in accounts],
    )
    write_csv(folder / "transfers.csv", ["id", "source", "target", "currency", "amount", "reference"], transfers)


if __name__ == "__main__":
    write_files(HERE)
