"""`playbill report`: the journal as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from engine.audit import Ledger, write_report
from engine.cli.options import debug_option, journal_option, json_option
from engine.cli.output import print_json
from engine.journal.sqlite import journal_path

OUTPUT = click.Path(dir_okay=False, writable=True, path_type=Path)
"""A file to write."""


def check_folder(_: click.Context, option: click.Parameter, output: Path | None) -> Path | None:
    """See that a file can be written where it is wanted, before any work is done.

    Raises:
        click.BadParameter: its folder is not there.
    """
    if output is not None and not output.parent.is_dir():
        raise click.BadParameter(f"there is no folder '{output.parent}' to write {output.name} into; make it first")
    return output


BESIDE = ("-wal", "-shm", "-journal", ".lock", ".sock")
"""What the names of the files beside a journal end with: SQLite's and the engine's own."""


def refuse_overwriting(output: Path, journal: Path, *others: Path) -> None:
    """Refuse to write over the journal, a file that belongs to it, there or not yet, or another one that is read.

    Raises:
        click.UsageError: it is one of these.
    """
    # SQLite's files stand beside what a symbolic link leads to.
    beside = [path.with_name(path.name + ending) for path in {journal, journal.resolve()} for ending in BESIDE]
    for path in (journal, *others, *beside):
        if output.resolve() == path.resolve() or (output.exists() and path.exists() and output.samefile(path)):
            raise click.UsageError(f"the report would overwrite {path}; name another file")


@click.command(
    short_help="Write the journal as one HTML file.",
    epilog="\b\nExample:\n  playbill report --journal transfers.db --output report.html",
)
@journal_option
@click.option(
    "--output", required=True, type=OUTPUT, callback=check_folder, metavar="FILE", help="The HTML file to write."
)
@json_option
@debug_option
def report(journal: str, output: Path, as_json: bool) -> None:
    """Write the journal as one HTML file that opens offline.

    It holds everything: totals, verification, each activity with its commands, steps, events and errors.
    """
    refuse_overwriting(output, journal_path(journal))
    with Ledger.open(journal) as ledger:
        write_report(ledger, output)
    if as_json:
        print_json({"report": str(output)})
    else:
        click.echo(f"Wrote {output}")
