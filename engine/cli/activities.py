"""`playbill list` and `playbill show`: the activities of a journal, and all that is known of one."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping
from typing import Any

import click

from engine.audit import ActivityRow, ErrorRow, Ledger, Record
from engine.audit.folding import payload, text_of
from engine.audit.rows import StatusText
from engine.cli.options import (
    debug_option,
    journal_option,
    json_option,
    limit_option,
    rows_wanted,
    since_option,
    until_option,
)
from engine.cli.output import (
    compact,
    count_of,
    error_line,
    is_terminal,
    moment,
    print_fields,
    print_heading,
    print_json,
    print_json_array,
    print_table,
    seconds,
    visible_lines,
)
from engine.messages import ActivityStatus


def tag(text: str) -> str | tuple[str, str]:
    """A tag, or a tag and its value: `region`, `region=eu`."""
    name, equals, value = text.partition("=")
    return (name, value) if equals else name


# ------------------------------------------------------------------------------------------------ list

LIST_EXAMPLES = """\b
Examples:
  playbill list --journal transfers.db
  playbill list --status failed --status blocked --since 2026-11-23
  playbill list --tag region=eu --text "card declined" --json
"""


@click.command("list", short_help="List activities.", epilog=LIST_EXAMPLES)
@journal_option
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([status.value for status in ActivityStatus]),
    help="Only these; repeat it.",
)
@click.option("--name", metavar="NAME", help="Only activities of this definition.")
@click.option("--by", metavar="WHO", help="Only those that this one asked for.")
@click.option("--key", metavar="KEY", help="Only those of this business key.")
@click.option("--tag", type=tag, metavar="TAG[=VALUE]", help="Only those with this tag.")
@click.option("--text", metavar="TEXT", help="Only those in whose id, arguments, results or errors it stands.")
@since_option
@until_option
@limit_option
@click.option("--after", metavar="ID", help="Only those that were asked for after this one: the next page.")
@json_option
@debug_option
def list_activities(
    journal: str,
    statuses: tuple[StatusText, ...],
    limit: int | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """List activities, in the order in which they were asked for."""
    wanted = rows_wanted(limit, on_terminal=is_terminal() and not as_json)
    with Ledger.open(journal) as ledger:
        # One more than is shown, to know whether there are more.
        rows = ledger.activities(status=list(statuses) or None, limit=None if wanted is None else wanted + 1, **filters)
        shown = itertools.islice(rows, wanted)
        if as_json:
            print_json_array(shown)
            return
        last: ActivityRow | None = None

        def cells() -> Any:
            nonlocal last
            for last in shown:
                yield _cells(last)

        number = print_table(_HEADERS, cells(), right=("TOOK", "RUNS"), spare=("RUNS", "BY", "TOOK"))
        if next(rows, None) is not None and last is not None:
            click.echo(f"There are more: add --after {last.id}, or --limit 0 for all.", err=True)
        elif not number:
            click.echo("No activities." if not any(filters.values()) and not statuses else "None fits.", err=True)


_HEADERS = ("ID", "ACTIVITY", "STATUS", "STARTED", "TOOK", "RUNS", "BY", "OUTCOME")


def _cells(row: ActivityRow) -> tuple[str, ...]:
    outcome = error_line(row.error.type, row.error.message) if row.error is not None else compact(row.result)
    return (
        row.id,
        row.name,
        row.status.value,
        moment(row.started),
        seconds(_length(row)),
        str(row.runs),
        row.by or "",
        outcome if len(outcome) <= 100 else f"{outcome[:99]}…",
    )


def _length(row: ActivityRow) -> float | None:
    if row.started is None or row.ended is None:
        return None
    return (row.ended - row.started).total_seconds()


# ------------------------------------------------------------------------------------------------ show

SHOW_EXAMPLES = """\b
Examples:
  playbill show transfer-0001 --journal transfers.db
  playbill show transfer-0001 --history
  playbill show transfer-0001 --json
"""


@click.command("show", short_help="Show one activity.", epilog=SHOW_EXAMPLES)
@click.argument("id")
@journal_option
@click.option("--history", "with_history", is_flag=True, help="Show every record too.")
@json_option
@debug_option
def show_activity(id: str, journal: str, with_history: bool, as_json: bool) -> None:
    """Show one activity: who asked for it and why, its commands, steps and errors."""
    with Ledger.open(journal) as ledger:
        row = ledger.activity(id)
        if as_json:
            print_json(
                {
                    "activity": row,
                    "commands": list(ledger.commands(id)),
                    "steps": list(ledger.steps(id)),
                    "history": list(ledger.history(id)),
                }
            )
            return
        _print_summary(ledger, row)
        _print_commands(ledger, id)
        _print_steps(ledger, id)
        _print_messages(ledger, id)
        _print_children(ledger, id)
        if row.error is not None:
            _print_error(row.error)
        if with_history:
            _print_history(ledger, id)


def _print_summary(ledger: Ledger, row: ActivityRow) -> None:
    took = seconds(_length(row))
    asked, blocked, fork = _asked_blocked_and_forked(ledger, row)
    fields = {
        "id": row.id,
        "activity": f"{row.name}, version {row.version}" if row.version else row.name,
        "status": row.status.value,
        "because of": text_of(blocked.get("cause", "")),
        "recorded": text_of(blocked.get("recorded", "")),
        "asked": text_of(blocked.get("asked", "")),
        "arguments": compact(asked),
        "asked for by": row.by or "",
        "because": row.reason or "",
        "key": row.key or "",
        "tags": ", ".join(f"{name}={value}" for name, value in row.tags.items()),
        "child of": row.parent or "",
        "fork of": fork,
        "started": moment(row.started),
        "ended": f"{moment(row.ended)}, after {took}" if took else moment(row.ended),
        "runs": str(row.runs),
        "result": compact(row.result),
    }
    print_fields(fields)


def _asked_blocked_and_forked(ledger: Ledger, row: ActivityRow) -> tuple[Any, Mapping[str, Any], str]:
    """The activity's arguments, why it is blocked, and of what it is a fork; empty where it is not."""
    arguments: Any = None
    fork = ""
    blocked: Mapping[str, Any] = {}
    kinds = "'command.accepted', 'activity.blocked', 'activity.started'"
    for record in ledger.reader.records(f"stream = ? AND kind IN ({kinds})", (row.id,)):
        if record.kind == "activity.blocked":
            blocked = record.facts
        elif record.kind == "activity.started":
            if "forked_from" in record.facts:
                fork = f"{text_of(record.facts['forked_from'])}, at {text_of(record.facts['cut']['at'])}"
        elif record.facts.get("command") == "start":
            arguments = payload(record, "args")
    return arguments, blocked if row.status is ActivityStatus.BLOCKED else {}, fork


def _print_commands(ledger: Ledger, id: str) -> None:
    print_heading("Commands")
    rows = (
        (
            moment(command.at),
            command.kind if command.accepted else f"{command.kind} (denied: {command.refusal})",
            command.by or "",
            command.origin,
            command.reason or "",
        )
        for command in ledger.commands(id)
    )
    print_table(("AT", "COMMAND", "BY", "FROM", "REASON"), rows, spare=("FROM",))


def _print_steps(ledger: Ledger, id: str) -> None:
    steps = ledger.steps(id)
    first = next(steps, None)
    if first is None:
        return
    print_heading("Steps")
    rows = (
        (
            step.path,
            moment(step.started),
            seconds(step.seconds),
            str(step.attempts),
            error_line(step.error.type, step.error.message) if step.error is not None else compact(step.result),
        )
        for step in itertools.chain([first], steps)
    )
    headers = ("STEP", "STARTED", "TOOK", "ATTEMPTS", "OUTCOME")
    print_table(headers, rows, right=("TOOK", "ATTEMPTS"), spare=("ATTEMPTS", "TOOK"))


def _print_messages(ledger: Ledger, id: str) -> None:
    """What the activity was sent, and what became of it."""
    kinds = "'message.received', 'message.taken', 'message.replied', 'message.unread', 'branch.ended'"
    states: dict[str, str] = {}
    received: list[Record] = []
    for record in ledger.reader.records(f"stream = ? AND kind IN ({kinds})", (id,)):
        if record.kind == "message.received":
            received.append(record)
        elif record.kind == "branch.ended":
            for message in record.facts.get("returned", ()):
                states.pop(message, None)
        else:
            state = {"message.taken": "received", "message.replied": "answered"}.get(record.kind, "left unread")
            states[text_of(record.facts.get("message", ""))] = state
    if not received:
        return
    print_heading("Messages")
    rows = (
        (
            moment(record.at),
            (record.name or "").rpartition(".")[2],
            text_of(record.facts.get("sender", record.by or "")),
            states.get(text_of(record.facts.get("id", "")), "not received yet"),
            compact(payload(record, "value")),
        )
        for record in received
    )
    print_table(("AT", "MESSAGE", "FROM", "STATE", "VALUE"), rows, spare=("FROM",))


def _print_children(ledger: Ledger, id: str) -> None:
    """The children that the activity started, and how they ended as far as it knows."""
    started: list[Record] = []
    ended: dict[str, str] = {}
    for record in ledger.reader.records("stream = ? AND kind IN ('child.started', 'child.ended')", (id,)):
        if record.kind == "child.started":
            started.append(record)
        else:
            ended[text_of(record.facts.get("id", ""))] = text_of(record.facts.get("status", ""))
    if not started:
        return
    print_heading("Children")
    rows = (
        (child, record.name or "", moment(record.at), ended.get(child, ""))
        for record in started
        for child in [text_of(record.facts.get("id", ""))]
    )
    print_table(("CHILD", "ACTIVITY", "STARTED", "ENDED"), rows)


def _print_error(error: ErrorRow) -> None:
    print_heading("Error")
    click.echo(visible_lines(error.traceback.rstrip() or error_line(error.type, error.message)))


def _print_history(ledger: Ledger, id: str) -> None:
    print_heading("History")
    rows = ((str(one.seq), _instant(one.at), one.kind, one.path or "", _facts(one)) for one in ledger.history(id))
    number = print_table(("SEQ", "AT", "RECORD", "CALL", "FACTS"), rows, right=("SEQ",))
    click.echo(count_of(number, "record"), err=True)


def _instant(at: dt.datetime) -> str:
    return f"{at:%H:%M:%S.%f}"


# What every record of a call holds, and only programs read.
_UNSAID = frozenset({"generation", "scope", "digest", "before", "seed"})


def _facts(record: Record) -> str:
    said: Mapping[str, Any] = {
        name: value for name, value in record.facts.items() if name not in _UNSAID and value not in (None, [], "")
    }
    return ", ".join(f"{name} {value if isinstance(value, str) else compact(value)}" for name, value in said.items())
