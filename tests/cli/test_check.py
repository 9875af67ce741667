"""`playbill check`: what would be blocked by today's code, told before it is deployed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from click.testing import Result

from engine.cli.target import load_target
from engine.runtime import Engine, Settings
from engine.testing import MockClock

Playbill = Callable[..., Result]
Write = Callable[[str, str], Path]
Put = Callable[[str], None]

SHOP = """
from pathlib import Path

from engine import Context, activity, step


@step
async def charge(order: str) -> None:
    with open("charged.txt", "a") as file:
        file.write(order)


@step
async def weigh(order: str) -> None:
    pass


@activity(name="orders.fulfil", version="1")
async def fulfil(ctx: Context, order: str) -> str:
    await ctx.step(charge, order)
    if order == "o-2":
        return "gift"
    await ctx.sleep(3_600)
    return f"shipped {order}"


@activity(name="orders.remind")
async def remind(ctx: Context, order: str) -> None:
    await ctx.sleep(3_600)
"""
WEIGH = "    await ctx.step(weigh, order)\n"
WEIGHING_FIRST = SHOP.replace("    await ctx.step(charge", f"{WEIGH}    await ctx.step(charge").replace('"1"', '"2"')
WEIGHING_LATER = SHOP.replace("    return f", f"{WEIGH}    return f")
WITHOUT_REMINDER = SHOP.replace('@activity(name="orders.remind")\n', "")
CHECK = ("check", "shop.py:fulfil", "--journal", "j.db")


@pytest.fixture
def put(write: Write, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Puts code into `shop.py`, for the next command to import."""
    # Two versions made within one second would pass for one where bytecode is kept.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def written(code: str) -> None:
        write("shop.py", code)
        sys.modules.pop("shop", None)

    return written


@pytest.fixture(autouse=True)
def journal(put: Put, folder: Path) -> Path:
    """Order o-1 is charged and o-2 completed, somebody is to be reminded of o-1; the engine was closed."""
    put(SHOP)
    module: Any = load_target("shop.py:fulfil").module

    async def begin() -> None:
        async with Engine.open("j.db", module, settings=Settings(drain_within=0)) as engine:
            await engine.run(module.fulfil, "o-2", id="o-2")
            await engine.start(module.fulfil, "o-1", id="o-1")
            await engine.start(module.remind, "o-1", id="remind o-1")
            await trio.testing.wait_all_tasks_blocked()

    trio.run(begin, clock=MockClock(autojump=False))
    return folder / "j.db"


def test_code_that_was_not_changed_fits(playbill: Playbill) -> None:
    done = playbill(*CHECK)
    assert (done.exit_code, done.output) == (0, "2 activities checked: today's code fits them all.\n")


def test_code_that_goes_another_way_later_fits(playbill: Playbill, put: Put) -> None:
    put(WEIGHING_LATER)
    assert playbill(*CHECK).exit_code == 0


def test_what_would_be_blocked_is_told_with_what_is_recorded_and_what_was_asked(playbill: Playbill, put: Put) -> None:
    put(WEIGHING_FIRST)
    done = playbill(*CHECK)
    assert done.exit_code == 1
    assert done.output == (
        "id   activity       version  status   verdict   recorded     asked\n"
        "o-1  orders.fulfil  1 → 2    running  diverges  step charge  step weigh\n"
        "\n2 activities checked: 1 fit, 1 do not.\n"
    )


def test_a_definition_that_is_missing_is_told(playbill: Playbill, put: Put) -> None:
    put(WITHOUT_REMINDER)
    done = playbill(*CHECK)
    assert done.exit_code == 1
    assert "remind o-1  orders.remind  1        running  definition" in done.output


def test_ended_activities_are_checked_when_that_is_asked_for(playbill: Playbill, put: Put) -> None:
    assert playbill(*CHECK, "--all").output == "3 activities checked: today's code fits them all.\n"
    put(SHOP.replace('"gift"', '"present"'))
    assert playbill(*CHECK).exit_code == 0
    done = playbill(*CHECK, "--all")
    assert done.exit_code == 1
    assert 'activity.completed with "gift"  activity.completed with "present"' in done.output


def test_json_has_all_that_were_checked(playbill: Playbill, put: Put) -> None:
    put(WEIGHING_FIRST)
    done = playbill(*CHECK, "--json")
    assert done.exit_code == 1
    first, second = json.loads(done.output)
    assert first == {
        "id": "o-1",
        "activity": "orders.fulfil",
        "version": "1",
        "now": "2",
        "status": "running",
        "verdict": "diverges",
        "recorded": "step charge",
        "asked": "step weigh",
    }
    assert (second["id"], second["verdict"]) == ("remind o-1", "fits")


def test_no_step_runs_and_nothing_is_written(playbill: Playbill, folder: Path, journal: Path) -> None:
    before = journal.read_bytes()
    files = sorted(path.name for path in folder.iterdir())
    assert playbill(*CHECK, "--all").exit_code == 0
    assert journal.read_bytes() == before
    assert (folder / "charged.txt").read_text() == "o-2o-1"
    assert sorted(path.name for path in folder.iterdir() if path.suffix not in (".db-shm", ".db-wal")) == files


async def test_it_works_beside_the_engine_that_owns_the_journal(playbill: Playbill) -> None:
    module: Any = load_target("shop.py:fulfil").module
    async with Engine.open("j.db", module, settings=Settings(drain_within=0)):
        done = await trio.to_thread.run_sync(lambda: playbill(*CHECK))
    assert done.exit_code == 0, done.output


def test_a_journal_without_activities_fits(playbill: Playbill, folder: Path) -> None:
    async def make() -> None:
        async with Engine.open("empty.db"):
            pass

    trio.run(make)
    done = playbill("check", "shop.py:fulfil", "--journal", "empty.db")
    assert (done.exit_code, done.output) == (0, "0 activities checked: today's code fits them all.\n")


@pytest.mark.parametrize(
    ("target", "journal"),
    [("shop.py:nothing", "j.db"), ("nowhere.py:fulfil", "j.db"), ("shop.py:fulfil", "no.db")],
)
def test_what_cannot_be_checked_is_a_usage_error(playbill: Playbill, target: str, journal: str) -> None:
    assert playbill("check", target, "--journal", journal).exit_code == 2
