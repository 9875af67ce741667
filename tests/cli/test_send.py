"""`playbill send`: a message is recorded, and received by the next engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from click.testing import Result

from engine import Context, Engine, activity
from engine.audit import Ledger
from engine.testing.killing import Death, live

Playbill = Callable[..., Result]
SEND = ("send", "o-1", "--type", "Approval", "--data", '{"by": "ann"}', "--journal", "j.db")


@attrs.frozen
class Approval:
    by: str


@activity(name="orders.fulfil")
async def fulfil(ctx: Context) -> str:
    return (await ctx.receive(Approval)).by


@activity(name="child")
async def child(ctx: Context) -> int:
    return 1


@activity(name="parent")
async def parent(ctx: Context) -> int:
    return await ctx.run(child)


def lived(body: Callable[[Engine], Any]) -> Any:
    async def life() -> Any:
        return await live(body, "j.db", fulfil, death=Death())

    return trio.run(life)


async def start(engine: Engine) -> None:
    await engine.start(fulfil, id="o-1")


async def end(engine: Engine) -> Any:
    return await engine.handle("o-1", fulfil).result()


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order o-1 waits for its approval, and its engine was closed."""
    monkeypatch.chdir(tmp_path)
    lived(start)


def test_a_message_is_received_at_the_next_run(waiting: None, playbill: Playbill) -> None:
    sent = playbill(*SEND, "--by", "ada", "--reason", "she phoned")
    assert (sent.exit_code, sent.stdout, sent.stderr) == (
        0,
        "o-1 has the message; it is received at the next run.\n",
        "",
    )
    assert lived(end) == "ann"
    with Ledger.open("j.db") as ledger:
        command = next(command for command in ledger.commands() if command.kind == "send")
        assert ledger.verify().problems == ()
    assert (command.target, command.by, command.reason) == ("o-1", "ada", "she phoned")


def test_what_became_of_a_message_is_shown(waiting: None, playbill: Playbill) -> None:
    assert playbill(*SEND, "--by", "ada").exit_code == 0
    before = playbill("show", "o-1", "--journal", "j.db").stdout
    lived(end)
    after = playbill("show", "o-1", "--journal", "j.db").stdout
    for shown, state in ((before, "not received yet"), (after, "received")):
        (line,) = [line for line in shown.splitlines() if "Approval" in line]
        assert "ada" in line
        assert state in line


def test_the_same_id_is_sent_once(waiting: None, playbill: Playbill) -> None:
    for _ in range(2):
        assert playbill(*SEND, "--message-id", "m-1").exit_code == 0
    with Ledger.open("j.db") as ledger:
        assert [record.kind for record in ledger.history("o-1")].count("message.received") == 1


def test_json_tells_what_was_sent(waiting: None, playbill: Playbill) -> None:
    result = playbill(*SEND, "--by", "ada", "--json")
    assert json.loads(result.stdout) == {"id": "o-1", "sent": True, "type": "Approval", "by": "ada", "reason": None}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("send", "o-9", *SEND[2:]), 1, "there is no activity 'o-9'"),
        ((*SEND[:-1], "none.db"), 2, "there is no journal none.db"),
        ((*SEND[:5], "{by", *SEND[6:]), 2, "is no JSON"),
        ((*SEND[:3], "a/b", *SEND[4:]), 2, "cannot be used"),
    ],
)
def test_what_cannot_be_sent_is_told(
    waiting: None, playbill: Playbill, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = playbill(*arguments)
    assert result.exit_code == code
    assert said in result.stderr


def test_children_are_shown_with_their_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, playbill: Playbill
) -> None:
    monkeypatch.chdir(tmp_path)

    async def life() -> Any:
        async def body(engine: Engine) -> Any:
            return await engine.run(parent, id="p-1")

        return await live(body, "j.db", parent, child, death=Death())

    trio.run(life)
    (line,) = [line for line in playbill("show", "p-1", "--journal", "j.db").stdout.splitlines() if "p-1/child" in line]
    assert "completed" in line
    assert "p-1" in playbill("show", "p-1/child", "--journal", "j.db").stdout
