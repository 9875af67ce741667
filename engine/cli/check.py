"""`playbill check`: whether today's code fits the activities of a journal, before it is deployed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import click
import trio
import trio.testing

from engine.activities import Activity, defined
from engine.activities.checking import Finding, Verdict, check, missing
from engine.audit import Ledger
from engine.audit.reading import Reader
from engine.cli.options import debug_option, journal_option, json_option
from engine.cli.output import count_of, print_json_array, print_table
from engine.cli.target import Target, load_target
from engine.journal.kinds import ENDED
from engine.journal.records import COLUMNS, StoredRecord

EPILOG = """\b
Examples:
  playbill check app.py:transfer --journal transfers.db
  playbill check app.py:transfer --journal transfers.db --all --json

\b
Exit codes:
  0  today's code fits all of them
  1  some would be blocked, or their code is missing
  2  the target cannot be imported, or the journal cannot be read
"""

PAGE = 500
"""Activities whose rows are read at once."""


@attrs.frozen(kw_only=True)
class CheckRow:
    """What came of checking one activity.

    Attributes:
        id: its id.
        activity: its definition's name.
        version: the version that it began with.
        now: the version of today's definition; empty where there is none.
        status: where it stands.
        verdict: see `engine.activities.checking.Finding`.
        recorded: where it does not fit, what the history holds there.
        asked: what the code asked for.
    """

    id: str
    activity: str
    version: str
    now: str
    status: str
    verdict: Verdict
    recorded: str
    asked: str


@click.command("check", short_help="See whether today's code fits what is recorded.", epilog=EPILOG)
@click.argument("target", metavar="TARGET")
@journal_option
@click.option("--all", "everything", is_flag=True, help="Check ended activities too, and how they end.")
@json_option
@debug_option
def check_activities(target: str, journal: str, everything: bool, as_json: bool) -> int:
    """Replay every unfinished activity against today's code, and tell which it does not fit.

    TARGET names an activity, as package.module:activity or file.py:activity; all activities of its module are known.
    No step runs and nothing is written, so this works beside the engine that owns the journal. The activities'
    functions do run, up to where something new would begin: what they do beside their context is done.
    """
    definitions = _definitions_of(load_target(target))
    with Ledger.open(journal) as ledger:
        counted: Counter[bool] = Counter()
        rows = _counted(_checked(ledger.reader, definitions, everything=everything), counted)
        if as_json:
            print_json_array(rows)
        else:
            print_table(_HEADERS, (_cells(row) for row in rows if not _is_fine(row)))
            _print_summary(counted)
    return 1 if counted[False] else 0


def _definitions_of(target: Target) -> Mapping[str, Activity[..., Any]]:
    """The activities that an engine with this target knows, by name."""
    found = [value for value in vars(target.module).values() if isinstance(value, Activity)]
    return defined(dict.fromkeys([*found, target.activity]))


# ------------------------------------------------------------------------------------------------ checking


def _checked(reader: Reader, definitions: Mapping[str, Activity[..., Any]], *, everything: bool) -> Iterator[CheckRow]:
    """What comes of each activity, in the order in which they were asked for."""
    for page in _pages(reader, everything=everything):
        # The code's own waits take no time: a clock that jumps takes the replay past them.
        yield from trio.run(_check_page, reader, definitions, page, clock=trio.testing.MockClock(autojump_threshold=0))


def _pages(reader: Reader, *, everything: bool) -> Iterator[Sequence[tuple[str, str, str]]]:
    ended = ", ".join(f"'{status}'" for status in sorted(ENDED))
    which = "1" if everything else f"status NOT IN ({ended})"
    last = -1
    while True:
        rows = reader.query(
            f"SELECT rowid, id, name, status FROM activities WHERE {which} AND rowid > ? ORDER BY rowid LIMIT ?",
            (last, PAGE),
        )
        if not rows:
            return
        yield [(id, name, status) for _, id, name, status in rows]
        last = rows[-1][0]


async def _check_page(
    reader: Reader, definitions: Mapping[str, Activity[..., Any]], page: Sequence[tuple[str, str, str]]
) -> list[CheckRow]:
    found = []
    for id, name, status in page:
        rows = reader.query(
            f"SELECT {COLUMNS} FROM records WHERE stream = ? AND seq <= ? ORDER BY seq", (id, reader.size)
        )
        records = [StoredRecord.of(row) for row in rows]
        started = [record for record in records if record.kind == "activity.started"]
        definition = definitions.get(name)
        if started:
            finding = await check(definition, records)
        elif records:
            finding = Finding(verdict="fits") if definition is not None else missing(name)
        else:
            continue  # it was asked for after the journal was opened here
        found.append(
            CheckRow(
                id=id,
                activity=name,
                version=started[-1].facts["version"] if started else "",
                now=definition.version if definition is not None else "",
                status=status,
                verdict=finding.verdict,
                recorded=finding.recorded,
                asked=finding.asked,
            )
        )
    return found


# ------------------------------------------------------------------------------------------------ telling

_HEADERS = ("id", "activity", "version", "status", "verdict", "recorded", "asked")


def _cells(row: CheckRow) -> tuple[str, ...]:
    versions = row.version if row.now in ("", row.version) else f"{row.version} → {row.now}"
    return row.id, row.activity, versions, row.status, row.verdict, row.recorded, row.asked


def _is_fine(row: CheckRow) -> bool:
    return row.verdict in ("fits", "erased")


def _counted(rows: Iterator[CheckRow], counted: Counter[bool]) -> Iterator[CheckRow]:
    for row in rows:
        counted[_is_fine(row)] += 1
        yield row


def _print_summary(counted: Counter[bool]) -> None:
    checked = count_of(counted.total(), "activity", "activities")
    if counted[False]:
        click.echo(f"\n{checked} checked: {counted[True]:,} fit, {counted[False]:,} do not.")
    else:
        click.echo(f"{checked} checked: today's code fits {'it' if counted.total() == 1 else 'them all'}.")
