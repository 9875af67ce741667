"""The options that several verbs share, so that each is spelled, explained and checked in one way."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

JOURNAL_VARIABLE = "PLAYBILL_JOURNAL"
"""The environment variable that names the journal where `--journal` does not."""


def instant(text: str) -> dt.datetime:
    """An instant: ISO 8601. One without an offset is in the system's time zone, as whoever types it means it.

    Raises:
        click.BadParameter: it is none.
    """
    try:
        return dt.datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is no instant; write it as 2026-11-23 or 2026-11-23T18:55:19Z") from None


def journal_option(function: F) -> F:
    """`--journal FILE`, or `$PLAYBILL_JOURNAL`."""
    return click.option(
        "--journal",
        envvar=JOURNAL_VARIABLE,
        metavar="FILE",
        # A text and no Path, which would spoil a URL as sqlite:///FILE; the type is there for the shell's completion.
        # Whether it can be read is found where it is opened, which can say what to do.
        type=click.Path(readable=False),
        callback=_journal_named,
        help=f"The journal; needed where ${JOURNAL_VARIABLE} does not name it.",
    )(function)


def _journal_named(ctx: click.Context, option: click.Parameter, journal: str | None) -> str:
    if journal is None:
        if ctx.resilient_parsing:  # the shell completes a line that is not finished
            return ""
        raise click.UsageError(f"no journal is named: give --journal FILE, or set ${JOURNAL_VARIABLE}")
    return journal


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def debug_option(function: F) -> F:
    """`--debug`: seen by `program`, which prints the errors; the verbs need not know."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")(function)


def by_option(function: F) -> F:
    """`--by WHO`."""
    return click.option("--by", metavar="WHO", help="Who asks.  [default: the system's user@host]")(function)


def reason_option(function: F) -> F:
    """`--reason WHY`."""
    return click.option("--reason", metavar="WHY", help="Why; recorded with each command.")(function)


def since_option(function: F) -> F:
    """`--since INSTANT`."""
    return click.option("--since", type=instant, metavar="INSTANT", help="From this instant on.")(function)


def until_option(function: F) -> F:
    """`--until INSTANT`."""
    return click.option("--until", type=instant, metavar="INSTANT", help="Before this instant.")(function)


def limit_option(function: F) -> F:
    """`--limit N`."""
    return click.option(
        "--limit",
        type=click.IntRange(min=0),
        metavar="N",
        help="At most so many rows; 0 for all.  [default: 50 on a terminal, else all]",
    )(function)


def rows_wanted(limit: int | None, *, on_terminal: bool) -> int | None:
    """How many rows a `--limit` allows; `None` for all."""
    if limit is None:
        return 50 if on_terminal else None
    return limit or None
