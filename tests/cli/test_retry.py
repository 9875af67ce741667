"""`playbill retry`: what failed runs again, at the next run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from engine.audit import Ledger

Playbill = Callable[..., Result]
Write = Callable[[str, str], Path]

SHOP = """
from pathlib import Path

from engine import Context, Restart, activity, step


@step
async def ship(order: str) -> str:
    if not Path("lorry").exists():
        raise OSError("no lorry")
    return "shipped"


@activity(name="orders.fulfil", restart=Restart(0))
async def fulfil(ctx: Context, order: str) -> str:
    return await ctx.step(ship, order)
"""
RUN = ("run", "shop.py:fulfil", "--input", "orders.csv", "--journal", "j.db", "--id-field", "order")
RETRY = ("retry", "o-1", "--journal", "j.db")


@pytest.fixture(autouse=True)
def _failed(write: Write, playbill: Playbill) -> None:
    """Order o-1 could not be shipped."""
    write("shop.py", SHOP)
    write("orders.csv", "order\no-1\n")
    assert playbill(*RUN).exit_code == 1


def test_the_next_run_completes_it(playbill: Playbill, write: Write) -> None:
    retried = playbill(*RETRY, "--by", "alice", "--reason", "a lorry came")
    assert (retried.exit_code, retried.stdout, retried.stderr) == (0, "o-1 runs again at the next run.\n", "")
    write("lorry", "")
    assert playbill(*RUN).exit_code == 0
    with Ledger.open("j.db") as ledger:
        assert ledger.activity("o-1").result == "shipped"
        command = list(ledger.commands("o-1"))[-1]
        assert (command.kind, command.by, command.reason) == ("retry", "alice", "a lorry came")
        assert ledger.verify().problems == ()


def test_json_tells_what_was_recorded(playbill: Playbill) -> None:
    told = json.loads(playbill(*RETRY, "--by", "alice", "--timeout", "60", "--json").stdout)
    assert told == {"id": "o-1", "retried": True, "timeout": 60.0, "by": "alice", "reason": None}


def test_twice_is_refused(playbill: Playbill) -> None:
    assert playbill(*RETRY).exit_code == 0
    again = playbill(*RETRY)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "activity 'o-1' is running; `retry` is for one that is failed" in again.stderr


def test_an_unknown_id_is_told(playbill: Playbill) -> None:
    result = playbill("retry", "o-9", "--journal", "j.db")
    assert (result.exit_code, result.stdout) == (1, "")
