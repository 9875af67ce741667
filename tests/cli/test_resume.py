"""`playbill resume`: what a change of its code has blocked goes on, once the code was mended and somebody said so."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from click.testing import Result

from engine.audit import CommandRow, Ledger
from engine.cli.target import load_target
from engine.journal.origin import user_at_host
from engine.runtime import Engine, Settings

Playbill = Callable[..., Result]
Write = Callable[[str, str], Path]
Put = Callable[[str], None]

SHOP = """
from pathlib import Path

import trio

from engine import Context, activity, step


@step
async def check(order: str) -> None:
    pass


@step
async def charge(order: str) -> None:
    with open("charged.txt", "a") as file:
        file.write(order)


@step
async def ship(order: str) -> str:
    if not Path("lorry").exists():
        await trio.sleep_forever()
    return f"shipped {order}"


@activity(name="orders.fulfil")
async def fulfil(ctx: Context, order: str) -> str:
    await ctx.step(charge, order)
    return await ctx.step(ship, order)
"""
CHECKING_FIRST = SHOP.replace("await ctx.step(charge", "await ctx.step(check, order)\n    await ctx.step(charge")
CHECKING_LATER = SHOP.replace("return await ctx.step(", "await ctx.step(check, order)\n    return await ctx.step(")
RUN = ("run", "shop.py:fulfil", "--input", "orders.csv", "--journal", "j.db", "--id-field", "order")
RESUME = ("resume", "o-1", "--journal", "j.db")


@pytest.fixture
def put(write: Write, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Puts code into `shop.py`, for the next command to import."""
    # Two versions made within one second would pass for one where bytecode is kept.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def written(code: str) -> None:
        write("shop.py", code)
        sys.modules.pop("shop", None)

    return written


@pytest.fixture
def unfinished(write: Write, put: Put) -> None:
    """Order o-1 is charged and not shipped; its engine was closed."""
    write("orders.csv", "order\no-1\n")
    put(SHOP)
    target = load_target("shop.py:fulfil")

    async def begin() -> None:
        async with Engine.open("j.db", target.module, settings=Settings(drain_within=0)) as engine:
            await engine.start(target.activity, "o-1", id="o-1")
            while "step.completed" not in kinds():  # noqa: ASYNC110  (the journal wakes nobody outside the engine)
                await trio.sleep(0.01)

    trio.run(begin)


@pytest.fixture
def blocked(unfinished: None, put: Put, playbill: Playbill, write: Write) -> None:
    """A change of the code has blocked order o-1, which could be shipped now."""
    write("lorry", "")
    put(CHECKING_FIRST)
    result = playbill(*RUN)
    assert result.exit_code == 1
    assert "o-1 is blocked" in result.stderr


def kinds() -> list[str]:
    """The kinds of the activity's records."""
    with Ledger.open("j.db") as ledger:
        return [record.kind for record in ledger.history("o-1")]


def last_command() -> CommandRow:
    with Ledger.open("j.db") as ledger:
        return list(ledger.commands())[-1]


def test_what_was_blocked_is_resumed_and_the_next_run_completes_it(blocked: None, playbill: Playbill, put: Put) -> None:
    put(CHECKING_LATER)
    resumed = playbill(*RESUME, "--by", "alice", "--reason", "the check comes later")
    assert (resumed.exit_code, resumed.stdout, resumed.stderr) == (0, "o-1 goes on at the next run.\n", "")
    completed = playbill(*RUN)
    assert completed.exit_code == 0, completed.stderr
    assert "1 completed" in completed.stdout
    assert Path("charged.txt").read_text(encoding="utf-8") == "o-1"
    with Ledger.open("j.db") as ledger:
        assert [step.name for step in ledger.steps("o-1")] == ["charge", "check", "ship"]
        assert ledger.verify().problems == ()


def test_the_command_is_recorded_with_who_asked_and_why(blocked: None, playbill: Playbill) -> None:
    assert playbill(*RESUME, "--by", "alice", "--reason", "mended").exit_code == 0
    command = last_command()
    assert (command.kind, command.target, command.accepted) == ("resume", "o-1", True)
    assert (command.by, command.reason) == ("alice", "mended")


def test_the_asker_is_the_system_s_user_unless_given(blocked: None, playbill: Playbill) -> None:
    assert playbill(*RESUME).exit_code == 0
    assert last_command().by == user_at_host()


def test_nothing_runs_before_the_next_run(blocked: None, playbill: Playbill) -> None:
    before = kinds()
    assert playbill(*RESUME).exit_code == 0
    assert kinds() == [*before, "command.accepted", "activity.resumed"]


def test_code_that_was_not_mended_blocks_it_anew(blocked: None, playbill: Playbill) -> None:
    assert playbill(*RESUME).exit_code == 0
    again = playbill(*RUN)
    assert (again.exit_code, kinds().count("activity.blocked")) == (1, 2)
    assert Path("charged.txt").read_text(encoding="utf-8") == "o-1"


def test_json_tells_what_was_recorded(blocked: None, playbill: Playbill) -> None:
    result = playbill(*RESUME, "--by", "alice", "--json")
    assert json.loads(result.stdout) == {"id": "o-1", "resumed": True, "by": "alice", "reason": None}


def test_one_that_is_not_blocked_is_refused_and_the_refusal_recorded(unfinished: None, playbill: Playbill) -> None:
    result = playbill(*RESUME, "--by", "alice")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("playbill: activity 'o-1' is running; `resume` is for")
    command = last_command()
    assert (command.kind, command.by, command.accepted) == ("resume", "alice", False)


def test_an_unknown_id_is_told(unfinished: None, playbill: Playbill) -> None:
    result = playbill("resume", "o-9", "--journal", "j.db")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no activity 'o-9'" in result.stderr


def test_a_missing_journal_is_told_and_not_made(playbill: Playbill) -> None:
    result = playbill("resume", "o-1", "--journal", "none.db")
    assert result.exit_code == 2
    assert "there is no journal none.db" in result.stderr
    assert not Path("none.db").exists()


def test_a_journal_that_an_engine_owns_is_left_alone(blocked: None, playbill: Playbill) -> None:
    before = kinds()

    async def ask_beside_an_engine() -> Result:
        async with Engine.open_idle("j.db"):
            return await trio.to_thread.run_sync(playbill, *RESUME)

    result = trio.run(ask_beside_an_engine)
    assert result.exit_code == 2
    assert "j.db is owned by process" in result.stderr
    assert kinds() == before
