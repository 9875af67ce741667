"""`playbill fork`: a new activity goes on from another's records, at the next run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from engine.audit import Ledger
from engine.journal.origin import user_at_host

Playbill = Callable[..., Result]
Write = Callable[[str, str], Path]

SHOP = """
from pathlib import Path

from engine import Context, Restart, activity, step


@step
async def charge(order: str) -> str:
    with open("charged.txt", "a") as file:
        file.write(order)
    return "paid"


@step
async def ship(order: str) -> str:
    if not Path("lorry").exists():
        raise OSError("no lorry")
    return "shipped"


@activity(name="orders.fulfil", restart=Restart(0))
async def fulfil(ctx: Context, order: str) -> str:
    await ctx.step(charge, order)
    return await ctx.step(ship, order)
"""
RUN = ("run", "shop.py:fulfil", "--input", "orders.csv", "--journal", "j.db", "--id-field", "order")
FORK = ("fork", "o-1", "--journal", "j.db")


@pytest.fixture(autouse=True)
def _failed(write: Write, playbill: Playbill) -> None:
    """Order o-1 is charged, and could not be shipped."""
    write("shop.py", SHOP)
    write("orders.csv", "order\no-1\n")
    assert playbill(*RUN).exit_code == 1


def test_the_next_run_goes_on_with_the_fork(playbill: Playbill, write: Write) -> None:
    forked = playbill(*FORK, "--at", "ship", "--id", "o-2", "--by", "alice", "--reason", "a lorry came")
    assert (forked.exit_code, forked.stdout, forked.stderr) == (0, "o-2 goes on from ship at the next run.\n", "")
    write("lorry", "")
    playbill(*RUN)
    with Ledger.open("j.db") as ledger:
        row = ledger.activity("o-2")
        assert (row.status, row.result, row.by, row.reason) == ("completed", "shipped", "alice", "a lorry came")
        command = list(ledger.commands("o-1"))[-1]
        assert (command.kind, command.by, command.accepted) == ("fork", "alice", True)
        assert ledger.verify().problems == ()
    assert Path("charged.txt").read_text(encoding="utf-8") == "o-1"


def test_show_and_the_report_tell_of_what_it_is_a_fork(playbill: Playbill, write: Write) -> None:
    playbill(*FORK, "--at", "ship", "--id", "o-2")
    write("lorry", "")
    playbill(*RUN)
    shown = playbill("show", "o-2", "--journal", "j.db").stdout
    assert "fork of" in shown
    assert "o-1, at ship" in shown
    assert playbill("report", "--journal", "j.db", "--output", "report.html").exit_code == 0


def test_json_tells_the_new_id(playbill: Playbill) -> None:
    told = json.loads(playbill(*FORK, "--at", "ship", "--json").stdout)
    assert (told["forked_from"], told["at"], told["by"]) == ("o-1", "ship", user_at_host())
    with Ledger.open("j.db") as ledger:
        assert ledger.activity(told["id"]).status == "running"


def test_a_path_that_is_not_there_is_refused_and_those_near_it_named(playbill: Playbill) -> None:
    result = playbill(*FORK, "--at", "shp")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no record of a call 'shp'; there are, among others, ship" in result.stderr


def test_an_unknown_id_is_told(playbill: Playbill) -> None:
    result = playbill("fork", "o-9", "--at", "ship", "--journal", "j.db")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no activity 'o-9'" in result.stderr
