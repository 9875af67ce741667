"""`playbill cancel`, `terminate`, `pause`, `resume`: recorded in a journal without an owner, done by the next run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from click.testing import Result

from engine import ActivityStatus
from engine.audit import Ledger
from engine.cli.target import load_target
from engine.journal.origin import user_at_host
from engine.runtime import Engine, Settings

Playbill = Callable[..., Result]
Write = Callable[[str, str], Path]

SHOP = """
import trio

from engine import Context, activity, step


@step
async def reserve(order: str) -> None:
    pass


@step
async def release(order: str) -> None:
    with open("released.txt", "a") as file:
        file.write(order)


@activity(name="orders.hold")
async def hold(ctx: Context, order: str) -> None:
    await ctx.step(reserve, order)
    try:
        await ctx.sleep(1000)
    finally:
        async with ctx.cleanup():
            await ctx.step(release, order)
"""
RUN = ("run", "holding.py:hold", "--input", "orders.csv", "--journal", "j.db", "--id-field", "order")


@pytest.fixture(autouse=True)
def held(write: Write) -> None:
    """Order o-1 is held; its engine was closed."""
    write("orders.csv", "order\no-1\n")
    write("holding.py", SHOP)
    target = load_target("holding.py:hold")

    async def begin() -> None:
        async with Engine.open("j.db", target.module, settings=Settings(drain_within=0)) as engine:
            await engine.start(target.activity, "o-1", id="o-1")
            while "timer.set" not in kinds():  # noqa: ASYNC110  (the journal wakes nobody outside the engine)
                await trio.sleep(0.01)

    trio.run(begin)


def kinds() -> list[str]:
    """The kinds of the activity's records."""
    with Ledger.open("j.db") as ledger:
        return [record.kind for record in ledger.history("o-1")]


def status() -> ActivityStatus:
    with Ledger.open("j.db") as ledger:
        return ledger.activity("o-1").status


def test_the_next_run_cleans_up_after_one_that_was_cancelled(playbill: Playbill) -> None:
    result = playbill("cancel", "o-1", "--journal", "j.db", "--by", "alice", "--reason", "withdrawn")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "o-1 is cancelling: the next run cleans up after it, and ends it.\n"
    assert not Path("released.txt").exists()
    run = playbill(*RUN)
    assert (run.exit_code, "o-1 is cancelled" in run.stderr) == (1, True)
    assert Path("released.txt").read_text(encoding="utf-8") == "o-1"
    with Ledger.open("j.db") as ledger:
        *_, command = (command for command in ledger.commands("o-1") if command.kind == "cancel")
        assert (command.by, command.reason, command.accepted) == ("alice", "withdrawn", True)
        assert ledger.verify().problems == ()


def test_one_that_is_terminated_has_ended_and_releases_nothing(playbill: Playbill) -> None:
    result = playbill("terminate", "o-1", "--journal", "j.db")
    assert (result.exit_code, result.stdout) == (0, "o-1 is cancelled.\n")
    assert status() is ActivityStatus.CANCELLED
    assert playbill(*RUN).exit_code == 1
    assert not Path("released.txt").exists()


def test_a_run_says_of_one_that_is_paused_that_it_is_and_resuming_has_it_go_on(playbill: Playbill) -> None:
    result = playbill("pause", "o-1", "--journal", "j.db", "--json")
    assert json.loads(result.stdout) == {
        "id": "o-1",
        "command": "pause",
        "status": "paused",
        "by": user_at_host(),
        "reason": None,
    }
    run = playbill(*RUN)
    assert run.exit_code == 1
    assert "o-1 is paused; `playbill resume o-1` has it go on" in " ".join(run.stderr.split())
    before = kinds()
    assert playbill("resume", "o-1", "--journal", "j.db").exit_code == 0
    assert kinds() == [*before, "command.accepted", "activity.resumed"]
    assert status() is ActivityStatus.RUNNING


@pytest.mark.parametrize("verb", ["cancel", "terminate", "pause"])
def test_one_that_there_is_not_ends_with_1_and_one_that_has_ended_with_2(playbill: Playbill, verb: str) -> None:
    assert playbill(verb, "o-9", "--journal", "j.db").exit_code == 1
    assert playbill("terminate", "o-1", "--journal", "j.db").exit_code == 0
    again = playbill(verb, "o-1", "--journal", "j.db")
    # What is cancelled already stays so.
    assert again.exit_code == (2 if verb == "pause" else 0)
    assert playbill(verb, "o-1", "--journal", "missing.db").exit_code == 2
    assert not Path("missing.db").exists()
