"""`playbill fork`: begin a new activity with another's records up to a call."""

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
  playbill fork order-1001 --at charge --journal orders.db --reason "the card was mended"
  playbill fork order-1001 --at "map[3]/pack" --id order-1001-again --by alice

\b
Exit codes:
  0  the command is recorded; the next run goes on with the new activity
  1  there is no such activity
  2  nothing is recorded under the path, the new id is taken, or the journal cannot be opened
"""


@click.command(short_help="Begin an activity anew from one of its calls.", epilog=EPILOG)
@click.argument("id")
@click.option("--at", required=True, metavar="PATH", help="The call to be done anew, as `playbill show` prints it.")
@click.option("--id", "new_id", metavar="NEW", help="The new activity's id.  [default: a new UUID]")
@journal_option
@by_option
@reason_option
@json_option
@debug_option
def fork(id: str, at: str, new_id: str | None, journal: str, by: str | None, reason: str | None, as_json: bool) -> None:
    """Begin a new activity with what the activity ID recorded up to the call at PATH, which is done anew.

    What was done before it is taken over and not repeated, and so are branches beside it; the activity ID stays as it
    is. The journal must have no owner. Nothing runs here: the next `playbill run`, or engine, that has the activity's
    definition goes on with the new activity.
    """
    asker = by if by is not None else user_at_host()
    check_by(asker)
    # A journal that is not there must not be made by a command to something in it.
    with Ledger.open(journal):
        pass
    forked = trio.run(_fork, journal, id, at, new_id, asker, reason)
    if as_json:
        print_json({"id": forked, "forked_from": id, "at": at, "by": asker, "reason": reason})
    else:
        click.echo(f"{forked} goes on from {at} at the next run.")


async def _fork(journal: str, id: str, at: str, new_id: str | None, by: str, reason: str | None) -> str:
    async with Engine.open_idle(journal) as engine:
        engine.via = "cli"
        return (await engine.fork(id, at=at, new_id=new_id, by=by, reason=reason)).id
