"""`playbill resume`: take an activity on that is paused, or that is blocked and had its code mended."""

from __future__ import annotations

import click

from engine.cli.control import command
from engine.cli.options import by_option, debug_option, journal_option, json_option, reason_option
from engine.cli.output import print_json

EPILOG = """\b
Examples:
  playbill resume order-1001 --journal orders.db --reason "mended in 1.2"

\b
Exit codes:
  0  the command is recorded; the next run goes on with the activity
  1  there is no such activity
  2  it is neither paused nor blocked, or the journal cannot be opened
"""


@click.command(short_help="Take a paused or blocked activity on.", epilog=EPILOG)
@click.argument("id")
@journal_option
@by_option
@reason_option
@json_option
@debug_option
def resume(id: str, journal: str, by: str | None, reason: str | None, as_json: bool) -> None:
    """Record that the activity ID goes on, which is paused, or is blocked and had its code mended.

    The journal must have no owner. Nothing runs here: the next `playbill run`, or engine, that has the activity's
    definition goes on from the last recorded step.
    """
    asker, _ = command("resume", id, journal, by, reason)
    if as_json:
        print_json({"id": id, "resumed": True, "by": asker, "reason": reason})
    else:
        click.echo(f"{id} goes on at the next run.")
