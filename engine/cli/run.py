"""`playbill run`: one activity for each row of a file.

First everything is checked without recording anything: the target imports, the file reads, every row fits the
activity's arguments. Then the engine opens the journal, which takes up what an earlier run left, and the file is read
again: each row's activity is started under its id, at most `--concurrency` of them under way at once, so that memory
stays flat. A row whose activity has completed is only compared with what was recorded. At the end the subscribers are
given the time to handle what was published. With `--skip-invalid` a row that does not fit stops nothing: its refusal is
recorded in its turn, and the others run.

Ctrl-C and SIGTERM leave the engine's block, which drains: steps in flight may end, everything else stays as it is, and
the same command goes on from there. A second one ends the process at once.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import attrs
import click
import trio

from engine.audit import Ledger
from engine.cli.arguments import Arguments
from engine.cli.feeding import Feeding
from engine.cli.observing import Observer, subscribers_of
from engine.cli.options import by_option, debug_option, journal_option, json_option, reason_option
from engine.cli.output import complain, count_of, print_json, seconds
from engine.cli.program import said
from engine.cli.progress import Display, Tally, display_of
from engine.cli.report import OUTPUT, ReportError, check_folder, refuse_overwriting, write_verified
from engine.cli.rows import InputError, Row, RowError, RowFile
from engine.cli.stopping import Stopping
from engine.cli.target import Target, load_target
from engine.errors import PayloadError, PlaybillError
from engine.journal.origin import user_at_host
from engine.journal.sqlite import journal_path
from engine.messages import check_by
from engine.runtime import Engine, Settings

EPILOG = """\b
Examples:
  playbill run app.py:transfer --input transfers.csv --journal transfers.db --id-field id
  playbill run shop.orders:fulfil --input orders.jsonl --journal orders.db --report orders.html
  PLAYBILL_JOURNAL=orders.db playbill run app.py:fulfil --input orders.json --by alice --reason "spring sale"

Give the same command again to go on after a crash or Ctrl-C: rows that completed are skipped, activities under way
go on from their last recorded step.

\b
Exit codes:
  0    all activities completed
  1    some failed, or were denied
  2    the command cannot be done as given; nothing was recorded
  130  stopped by Ctrl-C (143: by SIGTERM); give it again to go on
"""


@attrs.frozen
class Plan:
    """What is to be run: all of it was checked, and nothing is recorded yet."""

    target: Target
    arguments: Arguments
    rows: int
    journal: str
    by: str
    reason: str | None
    concurrency: int
    skip_invalid: bool


@attrs.frozen
class Ended:
    """How a run ended.

    Attributes:
        tally: what became of the rows.
        signal: the signal that stopped it; `None` where it came to its end.
        seconds: how long it took.
    """

    tally: Tally
    signal: int | None
    seconds: float

    @property
    def exit_code(self) -> int:
        """The exit code that tells of it."""
        if self.signal is not None:
            return 128 + self.signal
        return 1 if self.tally.failed or self.tally.denied else 0


@click.command(short_help="Run one activity for each row of a file.", epilog=EPILOG)
@click.argument("target", type=click.Path())
@click.option(
    "--input",
    "input_file",
    required=True,
    type=click.Path(readable=False, path_type=Path),
    metavar="FILE",
    help="The rows: CSV, JSON or JSON Lines.",
)
@journal_option
@click.option(
    "--report",
    "report_file",
    type=OUTPUT,
    callback=check_folder,
    metavar="FILE",
    help="Write an HTML report at the end.",
)
@click.option(
    "--id-field",
    metavar="NAME",
    help="The column that holds each activity's id.  [default: FILE's name and the row's number]",
)
@by_option
@reason_option
@click.option(
    "--skip-invalid",
    is_flag=True,
    help="Record rows that do not fit as denied, and run the rest.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="Activities under way at once.",
)
@json_option
@debug_option
def run(
    target: str,
    input_file: Path,
    journal: str,
    report_file: Path | None,
    id_field: str | None,
    by: str | None,
    reason: str | None,
    concurrency: int,
    skip_invalid: bool,
    as_json: bool,
) -> int:
    """Run one activity for each row of a file.

    TARGET is the activity: package.module:activity or file.py:activity. If it takes one argument that is a class or a
    dict, each row is that argument; otherwise the columns are its parameters, by name. All other definitions of the
    module are at work too, its subscribers among them.
    """
    began = time.monotonic()
    if report_file is not None:
        refuse_overwriting(report_file, journal_path(journal), input_file)
    who = _checked_by(by) if by is not None else user_at_host()
    file = RowFile.open(input_file)
    loaded = load_target(target)
    arguments = Arguments.of(loaded.activity, file, id_field)
    rows = check_rows(arguments, skip_invalid=skip_invalid)
    plan = Plan(loaded, arguments, rows, journal, who, reason, concurrency, skip_invalid)
    tally, signal = carry_out(plan)
    ended = Ended(tally, signal, time.monotonic() - began)
    if report_file is None or signal is not None:
        _tell(ended, plan, None, as_json=as_json)
        return ended.exit_code
    verified = _reported(journal, report_file)
    _tell(ended, plan, None if verified is None else report_file, as_json=as_json)
    return ended.exit_code if verified else 1


def _checked_by(by: str) -> str:
    try:
        check_by(by)
    except PayloadError as error:
        raise click.BadParameter(error.why, param_hint="'--by'") from None
    return by


# ------------------------------------------------------------------------------------------------ checking


def check_rows(arguments: Arguments, *, skip_invalid: bool = False) -> int:
    """Read the whole file, and see that every row can be started.

    Args:
        arguments: make rows into what the activity is started with.
        skip_invalid: whether rows that cannot be started are passed over.

    Returns:
        How many rows there are.

    Raises:
        InputError: a row does not fit, the file cannot be read on, or is a CSV file of a header alone; nothing was
            started.
    """
    rows = 0
    faulty = 0
    first: RowError | None = None
    unused: dict[str, None] = {}
    try:
        for reading in arguments.file.readings():
            rows += 1
            error = _fault(arguments, reading, unused)
            if error is not None and not skip_invalid:
                first = first or error
                faulty += 1
                if reading.number == faulty == 10:  # none of the first rows fits: it is not the rows that are wrong
                    break
    except InputError as error:
        raise InputError(f"{error.message}; nothing was started") from None
    if first is not None:
        more = f" (and {count_of(faulty - 1, 'more row')})" if faulty > 1 else ""
        raise InputError(f"{first.message}{more}; nothing was started")
    if arguments.file.has_changed():
        raise InputError(f"{arguments.file.path} was changed while it was read; give the command again")
    if not rows and arguments.file.is_text:
        raise InputError(f"{arguments.file.path} has no rows; the header alone starts nothing")
    if unused:
        complain(f"not used, since {arguments.activity.name} does not take it: {', '.join(list(unused)[:20])}")
    return rows


def _fault(arguments: Arguments, reading: Row | RowError, unused: dict[str, None]) -> RowError | None:
    """Why a row cannot be started; `None` where it can. What it holds besides is added to `unused`."""
    if isinstance(reading, RowError):
        return reading
    unused.update(dict.fromkeys(arguments.unused(reading)))
    try:
        arguments.id_of(reading)
        arguments.of_row(reading)
    except RowError as error:
        return error
    return None


# ------------------------------------------------------------------------------------------------ running


def carry_out(plan: Plan) -> tuple[Tally, int | None]:
    """Run the plan.

    Returns:
        What became of the rows, and the signal that stopped the run, where one did.

    Raises:
        PlaybillError: the journal cannot be opened or written.
    """
    tally = Tally(plan.rows)
    display = display_of(tally)
    try:
        signal = trio.run(_carry_out, plan, tally, display)
    except BaseExceptionGroup as group:
        raise _sole(group) from group
    finally:
        display.close()
    return tally, signal


async def _carry_out(plan: Plan, tally: Tally, display: Display) -> int | None:
    """The signal that stopped the run, where one did."""
    settings = Settings()
    async with trio.open_nursery() as nursery:
        stopping = Stopping(display, settings.drain_within)
        await nursery.start(stopping.watch)
        # The module may hold the activity under no name of its own, as an attribute of a class.
        definitions: tuple[Any, ...] = (plan.target.module, plan.target.activity)
        async with Engine.open(plan.journal, *definitions, settings=settings) as engine:
            engine.via = "cli"
            with Observer(plan.journal) as observer:
                feeding = Feeding(
                    engine,
                    plan.arguments,
                    tally,
                    display,
                    by=plan.by,
                    reason=plan.reason,
                    concurrency=plan.concurrency,
                    taken_up=observer.taken_up(),
                    skip_invalid=plan.skip_invalid,
                )
                with stopping.scope:
                    await feeding.run()
                    await observer.until_settled(subscribers_of(plan.target.module), display)
        nursery.cancel_scope.cancel()
    return stopping.signal


def _sole(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a nursery has wrapped; of several the first, since only one line is shown."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# ------------------------------------------------------------------------------------------------ telling


def _reported(journal: str, output: Path) -> bool | None:
    """Write the report. Where that fails the run stands all the same, so it is told and is no error of the run.

    Returns:
        Whether the journal verifies; `None` where no report was written.
    """
    try:
        with Ledger.open(journal) as ledger:
            return write_verified(ledger, output).ok
    except ReportError as error:
        complain(error.message)
    except PlaybillError as error:
        complain(f"the report could not be written: {said(error)}")
    return None


def _tell(ended: Ended, plan: Plan, written: Path | None, *, as_json: bool) -> None:
    tally = ended.tally
    if as_json:
        print_json(
            {
                **attrs.asdict(tally),
                "left": tally.left,
                "seconds": round(ended.seconds, 3),
                "stopped": ended.signal is not None,
                "report": None if written is None else str(written),
            }
        )
    else:
        click.echo(f"{count_of(tally.rows, 'row')} in {seconds(ended.seconds)}: {tally}")
        if written is not None:
            click.echo(f"Wrote {written}")
    if ended.signal is not None:
        complain(
            f"stopped: {count_of(tally.left, 'row')} left as they are, nothing is lost; "
            "give the same command again to go on"
        )
    if tally.failed:
        complain(f"see what failed: playbill list --status failed --status blocked --journal {plan.journal}")
