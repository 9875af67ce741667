"""`playbill verify`: whether the journal is what was recorded."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine.audit import Ledger, Verification
from engine.audit import verify as verify_ledger
from engine.cli.options import debug_option, journal_option, json_option
from engine.cli.output import count_of, print_json, visible

LIMITS = (
    "Without a seal kept elsewhere nobody can see that records were cut off at the end, that an old copy was put in "
    "its place, or that all of it was rewritten with all hashes made anew."
)
"""What a verification without a seal cannot find. The docs and the report say the same."""

EPILOG = """\b
Examples:
  playbill verify --journal transfers.db
  playbill verify --journal transfers.db --json

\b
Exit codes:
  0  every record is as it was recorded
  1  something is wrong, each on a line of its own
  2  the file cannot be read as a journal at all
"""


@click.command(short_help="Verify the journal.", epilog=EPILOG)
@journal_option
@json_option
@debug_option
def verify(journal: str, as_json: bool) -> int:
    """Verify the journal: every record, the log's hashes, and all that is derived from them.

    Reads only, also while an engine is writing; what is recorded meanwhile is not looked at.
    """
    with Ledger.open(journal) as ledger:
        found = _verified(ledger)
    if as_json:
        root = None if found.root is None else found.root.hex()
        print_json(
            {"ok": found.ok, "size": found.size, "root": root, "problems": list(found.problems), "limits": LIMITS}
        )
    else:
        _print(found)
    return 0 if found.ok else 1


def _verified(ledger: Ledger) -> Verification:
    if not sys.stderr.isatty():
        return verify_ledger(ledger)
    columns = (TextColumn("verifying"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=ledger.size)
        return verify_ledger(ledger, progress=lambda done, total: progress.update(task, completed=done, total=total))


def _print(found: Verification) -> None:
    for problem in found.problems:
        click.echo(visible(str(problem)))
    records = count_of(found.size, "record")
    if found.ok:
        click.echo(f"Verified {records}: none was altered, added or removed.")
        if found.root is not None:
            click.echo(f"Root of the log: {found.root.hex()}")
    else:
        click.echo(f"Verified {records}: {count_of(len(found.problems), 'problem')}.")
    click.echo(f"{LIMITS}")
