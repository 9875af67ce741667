"""`playbill report`: the journal as one HTML file."""

from __future__ import annotations

import os
from pathlib import Path

import click

from engine.audit import Ledger, Verification, write_report
from engine.cli.options import debug_option, journal_option, json_option
from engine.cli.output import complain, count_of, print_json
from engine.journal.sqlite import journal_path

OUTPUT = click.Path(dir_okay=False, writable=True, path_type=Path)
"""A file to write."""


def check_folder(_: click.Context, option: click.Parameter, output: Path | None) -> Path | None:
    """See that a file can be written where it is wanted, before any work is done.

    Raises:
        click.BadParameter: its folder is not there, or this user may write nothing there.
    """
    if output is None:
        return None
    if not output.name:
        raise click.BadParameter("it names no file; name the HTML file to write, as report.html")
    if not output.parent.is_dir():
        raise click.BadParameter(f"there is no folder '{output.parent}' to write {output.name} into; make it first")
    # A report is written beside its place, and put there when it is whole.
    if not os.access(output.resolve().parent, os.W_OK) and (output.is_file() or not output.exists()):
        raise click.BadParameter(f"this user may write nothing into '{output.parent}'; name a file in another folder")
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


class ReportError(click.ClickException):
    """The report could not be written. Its text is one line that says what to do."""


def write_verified(ledger: Ledger, output: Path) -> Verification:
    """Write the report, and complain where the journal does not verify.

    Returns:
        What verification found, which stands in the report too.

    Raises:
        ReportError: the file cannot be written.
        JournalError: the journal cannot be read.
    """
    found = ledger.verify()
    try:
        write_report(ledger, output, verification=found)
    except OSError as error:
        # What the system names is the file beside it, which is gone.
        raise ReportError(
            f"the report could not be written to {output}: {error.strerror or error}; see that its folder is writable "
            "and its disk has room"
        ) from error
    if not found.ok:
        problems = count_of(len(found.problems), "problem")
        complain(f"the journal is not what was recorded: {problems}; the report names them, as does `playbill verify`")
    return found


EPILOG = """\b
Examples:
  playbill report --journal transfers.db --output report.html
  playbill report --journal transfers.db --output report.html --json

\b
Exit codes:
  0  the report is written, and every record is as it was recorded
  1  the report is written, and verification found a problem; or the report could not be written
  2  the file cannot be read as a journal at all
"""


@click.command(short_help="Write the journal as one HTML file.", epilog=EPILOG)
@journal_option
@click.option(
    "--output", required=True, type=OUTPUT, callback=check_folder, metavar="FILE", help="The HTML file to write."
)
@json_option
@debug_option
def report(journal: str, output: Path, as_json: bool) -> int:
    """Write the journal as one HTML file that opens offline.

    It holds everything: totals, verification, each activity with its commands, steps, events and errors.
    """
    refuse_overwriting(output, journal_path(journal))
    with Ledger.open(journal) as ledger:
        found = write_verified(ledger, output)
    if as_json:
        print_json({"report": str(output), "ok": found.ok, "problems": len(found.problems)})
    else:
        click.echo(f"Wrote {output}")
    return 0 if found.ok else 1
