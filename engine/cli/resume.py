"""`playbill resume`: take a blocked activity on, after its code was mended."""

from __future__ import annotations

import click
import trio

from engine.audit import Ledger
from engine.cli.options import by_option, debug_option, journal_option, json_option, reason_option
from engine.cli.output import print_json
from engine.journal.origin import user_at_host
from engine.messages import check_by
from engine.runtime import Engine

EPILOG = """\b
Examples:
  playbill resume order-1001 --journal orders.db --reason "mended in 1.2"

\b
Exit codes:
  0  the command is recorded; the next run goes on with the activity
  1  there is no such activity
  2  it is not blocked, or the journal cannot be opened
"""


@click.command(short_help="Take a blocked activity on.", epilog=EPILOG)
@click.argument("id")
@journal_option
@by_option
@reason_option
@json_option
@debug_option
def resume(id: str, journal: str, by: str | None, reason: str | None, as_json: bool) -> None:
    """Record that the activity ID, which is blocked, is to be tried again: its code was mended.

    The journal must have no owner. Nothing runs here: the next `playbill run`, or engine, that has the activity's
    definition goes on from the last recorded step.
    """
    asker = by if by is not None else user_at_host()
    check_by(asker)
    # A journal that is not there must not be made by a command to something in it.
    with Ledger.open(journal):
        pass
    trio.run(_resume, journal, id, asker, reason)
    if as_json:
        print_json({"id": id, "resumed": True, "by": asker, "reason": reason})
    else:
        click.echo(f"{id} goes on at the next run.")


async def _resume(journal: str, id: str, by: str, reason: str | None) -> None:
    async with Engine.open_idle(journal) as engine:
        engine.via = "cli"
        await engine.resume(id, by=by, reason=reason)
