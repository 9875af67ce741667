"""`playbill resolve`: settle a step of which nobody knew whether it took effect."""

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
  playbill resolve order-1001 charge --value '{"id": "p-77"}' --journal orders.db --reason "found at the bank"
  playbill resolve order-1001 "map[3]/pack" --error "it was not packed" --journal orders.db

\b
Exit codes:
  0  the command is recorded; the next run goes on with the activity
  1  there is no such activity
  2  the step does not stand interrupted, or the journal cannot be opened
"""


@click.command(short_help="Settle a step that was interrupted.", epilog=EPILOG)
@click.argument("id")
@click.argument("path")
@click.option("--value", metavar="JSON", help="What the step is to have returned; null, unless given.")
@click.option("--error", metavar="TEXT", help="What it is to have failed with, instead of a value.")
@journal_option
@by_option
@reason_option
@json_option
@debug_option
def resolve(
    id: str,
    path: str,
    value: str | None,
    error: str | None,
    journal: str,
    by: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Record what became of the step at PATH in the activity ID, which is blocked because the process ended in the
    middle of it: it is to be done at most once, so only somebody who looks can tell whether it took effect.

    The journal must have no owner. Nothing runs here: the next `playbill run`, or engine, that has the activity's
    definition goes on as if the step had given this.
    """
    if value is not None and error is not None:
        raise click.UsageError("a step has either a value or an error; give --value or --error")
    given = _value_of(value)
    asker = by if by is not None else user_at_host()
    check_by(asker)
    # A journal that is not there must not be made by a command to something in it.
    with Ledger.open(journal):
        pass
    trio.run(_resolve, journal, id, path, given, error, asker, reason)
    if as_json:
        print_json({"id": id, "path": path, "resolved": True, "by": asker, "reason": reason})
    else:
        click.echo(f"{path} is settled; {id} goes on at the next run.")


def _value_of(text: str | None) -> Any:
    try:
        return None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(
            f"{text!r} is no JSON ({error}); a text needs quotes of its own", param_hint="--value"
        ) from None


async def _resolve(
    journal: str, id: str, path: str, value: Any, error: str | None, by: str, reason: str | None
) -> None:
    async with Engine.open_idle(journal) as engine:
        engine.via = "cli"
        await engine.resolve(id, path, value, error=error, by=by, reason=reason)
