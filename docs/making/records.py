"""`docs/reference/records.md`, from the table of record kinds."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from docs.making.markdown import anchor, cell, table
from engine.journal.kinds import ENDED, KINDS, SYSTEM_TOPICS, Kind

_INTRODUCTION = """# Records: the kinds and their fields

<!-- Made by docs/make_reference.py from engine/journal/kinds.py; change it there. -->

A journal is a sequence of records. Every record has `seq`, `stream`, `kind`, `at` and `facts`; the kind says what else.
`facts` is what the engine made (ids, instants, attempts, causes): it is never erased, and the rest can be made
again from it. `data` is what users made (arguments, results, error texts, reasons): it is salted, and may be erased.
`by`, who asked, stands on commands. A field with a question mark is there only where it applies.

Records that belong to a call of the activity's code also have `path`, the call's path in the activity, and `run`, the
number of the run that made them, from 1.

Where it says that a record is seen as an event, subscribers are given it as one if a pattern of theirs begins with the
word `playbill`; no record of an event is made of it. The event's `data` is the record: `kind`, `stream`, `name`, `run`,
`facts` and `data`. `Ledger.events` and `playbill events` list them too where they are asked for such a pattern. Nobody
else can publish on such a topic.
"""


def page() -> str:
    """The page's text."""
    parts = [_INTRODUCTION, "## All kinds\n", _overview(), _statuses()]
    for subject, kinds in groupby(KINDS.values(), key=_subject):
        parts.append(f"## {subject}\n")
        parts.extend(_section(kind) for kind in kinds)
    return "\n".join(parts)


def _subject(kind: Kind) -> str:
    if kind.call:
        return "Calls of an activity"
    if kind.kind.startswith("command."):
        return "Commands"
    if kind.kind.startswith("activity."):
        return "Activities"
    if kind.kind.startswith(("subscriber.", "delivery.")):
        return "Subscribers"
    if kind.kind.startswith(("actor.", "supervisor.")):
        return "Supervision"
    return "Journal, engine and events from outside"


def _overview() -> str:
    rows = [(f"[`{kind.kind}`](#{anchor(kind.kind)})", cell(kind.meaning), _status(kind)) for kind in KINDS.values()]
    return table(("kind", "what happened", "status after it"), rows)


def _statuses() -> str:
    ended = ", ".join(f"`{status}`" for status in sorted(ENDED))
    return (
        f"An activity has ended when it is {ended}. From the first record with which it ended on, each further record "
        "of its\nstream holds `before` too. Where no status is given it stays what it was; of the commands only one to "
        "`start` sets it.\n"
    )


def _section(kind: Kind) -> str:
    rows = [
        ("stream", "", cell(_stream(kind))),
        ("`name`", "", cell(kind.name) if kind.name else "NULL"),
        *_fields("`facts`", kind.facts),
        *(_fields("`data`", kind.data) if kind.data else [("`data`", "", "NULL")]),
    ]
    topic = SYSTEM_TOPICS.get(kind.kind)
    seen = f" Seen as an event on `{topic}`." if topic else ""
    return (
        f"### {kind.kind}\n\n{kind.meaning} Status after it: {_status(kind) or 'unchanged'}.{seen}\n\n"
        f"{table(('where', 'field', 'what it holds'), rows)}"
    )


def _fields(column: str, fields: Mapping[str, str]) -> list[tuple[str, str, str]]:
    if not fields:
        return [(column, "", "nothing: `{}`")]
    return [(column if at == 0 else "", f"`{name}`", cell(what)) for at, (name, what) in enumerate(fields.items())]


def _stream(kind: Kind) -> str:
    return {"activity": "the activity's id"}.get(
        kind.stream, f"`{kind.stream}`" if kind.stream.startswith("/") else kind.stream
    )


def _status(kind: Kind) -> str:
    return f"`{kind.status}`" if kind.status else ""
