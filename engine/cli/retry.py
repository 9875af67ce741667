"""`playbill retry`: run a failed activity again."""

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
  playbill retry order-1001 --journal orders.db --reason "the bank is up again"

\b
Exit codes:
  0  the command is recorded; the next run goes on with the activity
  1  there is no such activity
  2  it has not failed, something was done about its failures, or the journal cannot be opened
"""


@click.command(short_help="Run a failed activity again.", epilog=EPILOG)
@click.argument("id")
@click.option("--timeout", type=float, metavar="SECONDS", help="Seconds until a new deadline.")
@journal_option
@by_option
@reason_option
@json_option
@debug_option
def retry(id: str, timeout: float | None, journal: str, by: str | None, reason: str | None, as_json: bool) -> None:
    """Record that the activity ID, which has failed, is to run again.

    What it failed of is tried anew, as far as nothing was done about it; every other step keeps its outcome. Where
    something was done about all of it, the refusal names the call at which to `fork` it. The journal must have no
    owner. Nothing runs here: the next `playbill run`, or engine, that has the activity's definition goes on with it.
    """
    asker = by if by is not None else user_at_host()
    check_by(asker)
    # A journal that is not there must not be made by a command to something in it.
    with Ledger.open(journal):
        pass
    trio.run(_retry, journal, id, timeout, asker, reason)
    if as_json:
        print_json({"id": id, "retried": True, "timeout": timeout, "by": asker, "reason": reason})
    else:
        click.echo(f"{id} runs again at the next run.")


async def _retry(journal: str, id: str, timeout: float | None, by: str, reason: str | None) -> None:
    async with Engine.open_idle(journal) as engine:
        engine.via = "cli"
        await engine.retry(id, timeout=timeout, by=by, reason=reason)
