"""`playbill send`: a message for an activity, which receives it at the next run."""

from __future__ import annotations

from typing import Any

import click
import orjson
import trio

from engine.audit import Ledger
from engine.cli.options import by_option, debug_option, journal_option, json_option, reason_option
from engine.cli.output import print_json
from engine.journal.origin import user_at_host
from engine.messages import check_by
from engine.runtime import Engine

EPILOG = """\b
Examples:
  playbill send order-1001 --type Approval --data '{"by": "ann"}' --journal orders.db --reason "she phoned"
  playbill send order-1001 --type shop.orders.Approval --data '{"by": "ann"}' --message-id call-17 --journal orders.db

\b
Exit codes:
  0  the message is recorded; the activity receives it at the next run
  1  there is no such activity
  2  it has ended, or the journal cannot be opened
"""


@click.command(short_help="Send an activity a message.", epilog=EPILOG)
@click.argument("id")
@click.option("--type", "cls", required=True, metavar="CLASS", help="The message's class, by its name alone or whole.")
@click.option("--data", required=True, metavar="JSON", help="What the message holds.")
@click.option("--message-id", metavar="ID", help="The message's id: one that was sent before is not sent twice.")
@journal_option
@by_option
@reason_option
@json_option
@debug_option
def send(
    id: str,
    cls: str,
    data: str,
    message_id: str | None,
    journal: str,
    by: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Record a message for the activity ID, which is kept until `ctx.receive` takes it.

    The journal must have no owner. Nothing runs here: the next `playbill run`, or engine, that has the activity's
    definition receives it. What does not fit its class stays unread.
    """
    value = _value_of(data)
    asker = by if by is not None else user_at_host()
    check_by(asker)
    # A journal that is not there must not be made by a command to something in it.
    with Ledger.open(journal):
        pass
    trio.run(_send, journal, id, cls, value, message_id, asker, reason)
    if as_json:
        print_json({"id": id, "sent": True, "type": cls, "by": asker, "reason": reason})
    else:
        click.echo(f"{id} has the message; it is received at the next run.")


def _value_of(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(
            f"{text!r} is no JSON ({error}); a text needs quotes of its own", param_hint="--data"
        ) from None


async def _send(
    journal: str, id: str, cls: str, value: Any, message_id: str | None, by: str, reason: str | None
) -> None:
    async with Engine.open_idle(journal) as engine:
        engine.via = "cli"
        await engine.send_typed(id, cls, value, message_id=message_id, by=by, reason=reason)
