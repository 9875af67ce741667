"""`playbill events`: the events of a journal."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator, Sequence

import click

from engine.audit import Ledger
from engine.cli.options import (
    debug_option,
    journal_option,
    json_option,
    limit_option,
    rows_wanted,
    since_option,
    until_option,
)
from engine.cli.output import compact, is_terminal, moment, print_json_array, print_table

EXAMPLES = """\b
Examples:
  playbill events --journal transfers.db
  playbill events 'transfers.*.rejected' --since 2026-11-23
  playbill events 'orders.#' --json
  playbill events 'playbill.supervision.#'
"""


@click.command("events", short_help="List events.", epilog=EXAMPLES)
@click.argument("topic", default="#")
@journal_option
@since_option
@until_option
@limit_option
@click.option("--after", type=click.IntRange(min=0), metavar="SEQ", help="Only those after this record: the next page.")
@json_option
@debug_option
def list_events(
    topic: str,
    journal: str,
    since: dt.datetime | None,
    until: dt.datetime | None,
    limit: int | None,
    after: int | None,
    as_json: bool,
) -> None:
    """List events, in the order in which they were recorded.

    TOPIC is a pattern, in which `*` is one word and `#` is zero or more; all events, unless given. Put it in quotes.
    One that begins with `playbill` lists the engine's own doings instead, as subscribers to it are given them.
    """
    wanted = rows_wanted(limit, on_terminal=is_terminal() and not as_json)
    with Ledger.open(journal) as ledger:
        events = itertools.dropwhile(
            lambda event: after is not None and event.seq <= after, ledger.events(topic, since=since, until=until)
        )
        shown = itertools.islice(events, wanted)
        if as_json:
            print_json_array(shown)
            return
        last = 0

        def cells() -> Iterator[Sequence[str]]:
            nonlocal last
            for event in shown:
                last = event.seq
                yield str(event.seq), moment(event.at), event.topic, event.source, event.key or "", compact(event.data)

        number = print_table(
            ("SEQ", "AT", "TOPIC", "SOURCE", "KEY", "DATA"), cells(), right=("SEQ",), spare=("KEY", "SOURCE")
        )
        if next(events, None) is not None:
            click.echo(f"There are more: add --after {last}, or --limit 0 for all.", err=True)
        elif not number:
            click.echo("No events." if topic == "#" else f"No events on {topic}.", err=True)
