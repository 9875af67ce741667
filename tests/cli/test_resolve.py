"""`playbill resolve`: a payment that may or may not have been made is settled by whoever looked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import Result

from engine import ActivityStatus, Context, Engine, activity, step
from engine.audit import Ledger
from engine.testing.killing import Death, live

Playbill = Callable[..., Result]
RESOLVE = ("resolve", "o-1", "pay", "--journal", "j.db")


@step(name="pay", at_most_once=True)
async def pay(cents: int) -> dict[str, int]:
    raise AssertionError("the bank was asked again")


@activity(name="orders.fulfil")
async def fulfil(ctx: Context, cents: int) -> list[Any]:
    try:
        return [await ctx.step(pay, cents)]
    except AssertionError:
        raise
    except Exception as error:
        if type(error).__name__ != "StepFailedError":
            raise
        return [str(error)]


async def run(engine: Engine) -> Any:
    handle = await engine.start(fulfil, 12, id="o-1")
    status = await handle.wait(ActivityStatus.BLOCKED, ActivityStatus.COMPLETED)
    return await handle.result() if status is ActivityStatus.COMPLETED else status


def lived(*, death: Death | None = None) -> Any:
    async def life() -> Any:
        return await live(run, "j.db", fulfil, death=death or Death())

    return trio.run(life)


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ended when order o-1 was about to be paid."""
    monkeypatch.chdir(tmp_path)
    lived(death=Death(at=("step.intended", "pay")))
    assert lived() is ActivityStatus.BLOCKED


def test_a_value_is_recorded_and_the_next_run_goes_on_with_it(interrupted: None, playbill: Playbill) -> None:
    result = playbill(*RESOLVE, "--value", '{"payment": 77}', "--by", "ada", "--reason", "found at the bank")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "pay is settled; o-1 goes on at the next run.\n", "")
    assert lived() == [{"payment": 77}]
    with Ledger.open("j.db") as ledger:
        (command,) = [command for command in ledger.commands() if command.kind == "resolve"]
        assert (command.target, command.by, command.reason, command.accepted) == (
            "o-1",
            "ada",
            "found at the bank",
            True,
        )
        assert ledger.verify().problems == ()
        (paid,) = ledger.steps("o-1")
        assert (paid.path, paid.result) == ("pay", {"payment": 77})


def test_an_error_is_recorded_in_place_of_a_value(interrupted: None, playbill: Playbill) -> None:
    assert playbill(*RESOLVE, "--error", "it was not paid").exit_code == 0
    assert lived() == ["resolved: it was not paid"]


def test_json_tells_what_was_recorded(interrupted: None, playbill: Playbill) -> None:
    result = playbill(*RESOLVE, "--by", "ada", "--json")
    assert json.loads(result.stdout) == {"id": "o-1", "path": "pay", "resolved": True, "by": "ada", "reason": None}


def test_show_says_what_is_to_be_settled(interrupted: None, playbill: Playbill) -> None:
    result = playbill("show", "o-1", "--journal", "j.db")
    assert "step.interrupted pay" in result.stdout
    assert "settle the step with resolve" in result.stdout


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (("resolve", "o-1", "other", "--journal", "j.db"), 2, "step 'other' does not stand interrupted; pay does"),
        (("resolve", "o-9", "pay", "--journal", "j.db"), 1, "there is no activity 'o-9'"),
        (("resolve", "o-1", "pay", "--journal", "none.db"), 2, "there is no journal none.db"),
        ((*RESOLVE, "--value", "seven"), 2, "no JSON"),
        ((*RESOLVE, "--value", "7", "--error", "no"), 2, "either a value or an error"),
    ],
)
def test_what_settles_nothing_is_told(
    interrupted: None, playbill: Playbill, given: tuple[str, ...], code: int, says: str
) -> None:
    result = playbill(*given)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr
    assert lived() is ActivityStatus.BLOCKED
