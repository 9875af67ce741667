"""`playbill cancel`, `terminate`, `pause`: commands to one activity, recorded in a journal that no engine owns."""

from __future__ import annotations

from typing import Any

import click
import trio

from engine.audit import Ledger
from engine.cli.options import by_option, debug_option, journal_option, json_option, reason_option
from engine.cli.output import print_json
from engine.journal.origin import user_at_host
from engine.messages import ActivityStatus, check_by
from engine.runtime import Engine

CODES = """\b
Exit codes:
  0  the command is recorded
  1  there is no such activity
  2  it does not take the command as it is, or the journal cannot be opened
"""


def _epilog(verb: str, reason: str) -> str:
    return f'\b\nExamples:\n  playbill {verb} order-1001 --journal orders.db --reason "{reason}"\n\n{CODES}'


def command(verb: str, id: str, journal: str, by: str | None, reason: str | None) -> tuple[str, ActivityStatus]:
    """Record a command in a journal without an owner.

    Returns:
        Who asked, and the activity's status after it.
    """
    asker = by if by is not None else user_at_host()
    check_by(asker)
    # A journal that is not there must not be made by a command to something in it.
    with Ledger.open(journal):
        pass
    return asker, trio.run(_record, verb, id, journal, asker, reason)


async def _record(verb: str, id: str, journal: str, by: str, reason: str | None) -> ActivityStatus:
    async with Engine.open_idle(journal) as engine:
        engine.via = "cli"
        handle = engine.handle(id)
        await getattr(handle, verb)(by=by, reason=reason)
        return await handle.status()


_SAID = {
    ActivityStatus.CANCELLED: "is cancelled.",
    ActivityStatus.CANCELLING: "is cancelling: the next run cleans up after it, and ends it.",
    ActivityStatus.PAUSED: "is paused, until it is resumed.",
    ActivityStatus.BLOCKED: "stays blocked; it is cancelled when it runs again.",
}


def _verb(name: str, short: str, text: str, reason: str) -> click.Command:
    """A verb that gives one command to one activity."""

    def give(id: str, journal: str, by: str | None, reason: str | None, as_json: bool) -> None:
        asker, status = command(name, id, journal, by, reason)
        if as_json:
            print_json({"id": id, "command": name, "status": str(status), "by": asker, "reason": reason})
        else:
            click.echo(f"{id} {_SAID[status]}")

    options: list[Any] = [debug_option, json_option, reason_option, by_option, journal_option, click.argument("id")]
    for option in options:
        give = option(give)
    return click.command(name, short_help=short, help=text, epilog=_epilog(name, reason))(give)


cancel = _verb(
    "cancel",
    "Cancel an activity.",
    """Record that the activity ID is cancelled.

    The journal must have no owner. Nothing runs here: the next `playbill run`, or engine, that has the activity's
    definition lets its cleanups take their steps, and ends it. One that has not begun ends at once.
    """,
    "the order was withdrawn",
)

terminate = _verb(
    "terminate",
    "End an activity as it stands.",
    """Record that the activity ID has ended, as cancelled, with nothing cleaned up.

    The journal must have no owner.
    """,
    "it was a test",
)

pause = _verb(
    "pause",
    "Pause an activity.",
    """Record that the activity ID is paused: it does not run, in whatever engine, until `playbill resume`. Its timers
    and its messages are kept, and its deadline goes on.

    The journal must have no owner.
    """,
    "the bank is closed",
)
