"""`playbill tree`: the supervision tree of the engine that owns a journal, or owned it last.

The tree stands in the engine's memory, and is told here from outside: by what the engine recorded since it opened the
journal last, and by whether somebody holds the lock beside the journal. Every tree has `/`, `/activities` and
`/subscribers`; a subscriber belongs to it once it was attached.

The lock is asked for as a second owner would ask for it, but shared and without waiting, and given back at once. Where
an engine lives, it is refused, and nothing happened. Where none does, it is held for some microseconds: several `tree`s
do not see each other.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import click

from engine.audit import Ledger, Record
from engine.cli.options import debug_option, journal_option, json_option
from engine.cli.output import moment, print_json, print_table
from engine.journal import ENGINE_STREAM, SUBSCRIBER_STREAMS
from engine.journal.kinds import ENDED
from engine.journal.records import COLUMNS
from engine.messages import ActivityStatus

EXAMPLES = """\b
Examples:
  playbill tree --journal transfers.db
  playbill tree --journal transfers.db --json

\b
Exit codes:
  0  the tree was shown, whether its engine lives or not
  2  the file cannot be read as a journal
"""


@click.command("tree", short_help="Show the supervision tree.", epilog=EXAMPLES)
@journal_option
@json_option
@debug_option
def show_tree(journal: str, as_json: bool) -> None:
    """Show the supervision tree of the engine that owns the journal, or owned it last.

    Reads only, also while that engine is writing. Crashes, restarts and escalations are counted since it opened the
    journal.
    """
    with Ledger.open(journal) as ledger:
        alive = is_owned(ledger.path)
        engine = engine_of(ledger, alive)
        nodes = list(nodes_of(ledger, engine))
    if as_json:
        print_json({"engine": engine, "tree": nodes})
        return
    rows = ((node.path, _state(node, engine), *_counts(node)) for node in nodes)
    print_table(_HEADERS, rows, right=_HEADERS[2:])


# ------------------------------------------------------------------------------------------------ the owner


@attrs.frozen(kw_only=True)
class EngineRow:
    """The engine that owns a journal, or owned it last.

    Attributes:
        alive: whether it owns the journal now; `None` where this user may not ask.
        pid: its process.
        host: the host of that.
        user: the system's user who runs it.
        version: its version of Playbill.
        opened: when it opened the journal.
        closed: when it gave the journal up; `None` where it lives, or crashed.
        seq: the record that tells of its opening; 0 where there is none yet.
    """

    alive: bool | None
    pid: int | None = None
    host: str | None = None
    user: str | None = None
    version: str | None = None
    opened: dt.datetime | None = None
    closed: dt.datetime | None = None
    seq: int = 0


def is_owned(journal: Path) -> bool | None:
    """Whether an engine owns the journal at this moment; `None` where this user may not know."""
    path = Path(os.path.realpath(journal))
    try:
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        # Which gives the lock back, where it was had.
        os.close(descriptor)
    return False


def engine_of(ledger: Ledger, alive: bool | None) -> EngineRow:
    """The engine that opened the journal last, by the records."""
    last = _last(ledger, ENGINE_STREAM, "engine.opened", "engine.closed")
    opened = _last(ledger, ENGINE_STREAM, "engine.opened")
    if last is None or opened is None:
        return EngineRow(alive=alive)
    facts = opened.facts
    return EngineRow(
        alive=alive,
        pid=facts.get("pid"),
        host=facts.get("host"),
        user=facts.get("user"),
        version=facts.get("version"),
        opened=opened.at,
        closed=last.at if last.kind == "engine.closed" else None,
        seq=opened.seq,
    )


# ------------------------------------------------------------------------------------------------ the nodes


@attrs.frozen(kw_only=True)
class NodeRow:
    """One supervisor, or one subscriber's actor.

    Attributes:
        path: where it stands in the tree.
        activities: of `/activities`: how many there are of each status that is no end.
        patterns: of a subscriber: the topic patterns that it was attached with.
        cursor: of a subscriber: the `seq` up to which it has settled every event.
        crashes: how often it crashed since the opening.
        restarts: how often it was restarted since the opening.
        escalations: how often a supervisor gave up, or a subscriber made its supervisor do so, since the opening.
    """

    path: str
    activities: dict[ActivityStatus, int] | None = None
    patterns: list[str] | None = None
    cursor: int | None = None
    crashes: int = 0
    restarts: int = 0
    escalations: int = 0


def nodes_of(ledger: Ledger, engine: EngineRow) -> Iterator[NodeRow]:
    """The tree, each supervisor before its children."""
    given_up, causes = _escalations(ledger, engine.seq)
    unfinished = {status: count for status, count in ledger.stats().activities.items() if status not in ENDED}
    yield NodeRow(path="/", escalations=given_up["/"])
    yield NodeRow(path="/activities", activities=unfinished, escalations=given_up["/activities"])
    yield NodeRow(path="/subscribers", escalations=given_up["/subscribers"])
    for stream in _subscriber_streams(ledger):
        yield _subscriber(ledger, stream, engine.seq, causes[stream])


def _subscriber(ledger: Ledger, stream: str, since: int, escalations: int) -> NodeRow:
    attached = _last(ledger, stream, "subscriber.attached")
    moved = _last(ledger, stream, "delivery.handled", "subscriber.attached")
    counts = dict(
        ledger.reader.query(
            "SELECT kind, count(*) FROM records WHERE stream = ? AND seq > ? AND seq <= ? GROUP BY kind",
            (stream, since, ledger.size),
        )
    )
    return NodeRow(
        path=stream,
        patterns=None if attached is None else list(attached.facts.get("patterns", ())),
        cursor=None if moved is None else moved.facts.get("to", moved.facts.get("after")),
        crashes=counts.get("actor.crashed", 0),
        restarts=counts.get("actor.restarted", 0),
        escalations=escalations,
    )


def _subscriber_streams(ledger: Ledger) -> list[str]:
    # From the prefix up to the prefix with its last character raised by one, so that the index serves.
    low, high = SUBSCRIBER_STREAMS, SUBSCRIBER_STREAMS[:-1] + chr(ord(SUBSCRIBER_STREAMS[-1]) + 1)
    rows = ledger.reader.query(
        "SELECT DISTINCT stream FROM records WHERE stream >= ? AND stream < ? AND seq <= ? ORDER BY stream",
        (low, high, ledger.size),
    )
    return [stream for (stream,) in rows]


def _escalations(ledger: Ledger, since: int) -> tuple[Counter[str], Counter[str]]:
    """How often each supervisor gave up, and how often each child was the reason, by path."""
    given_up: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    for record in ledger.reader.records("stream = ? AND kind = 'supervisor.escalated'", (ENGINE_STREAM,), after=since):
        supervisor = record.name or "/"
        given_up[supervisor] += 1
        causes[f"{supervisor.rstrip('/')}/{record.facts.get('child', '')}"] += 1
    return given_up, causes


def _last(ledger: Ledger, stream: str, *kinds: str) -> Record | None:
    """The last record of a stream that is of one of these kinds."""
    marks = ", ".join("?" for _ in kinds)
    rows = ledger.reader.query(
        f"SELECT {COLUMNS} FROM records WHERE stream = ? AND seq <= ? AND kind IN ({marks}) ORDER BY seq DESC LIMIT 1",
        (stream, ledger.size, *kinds),
    )
    return ledger.reader.record(rows[0]) if rows else None


# ------------------------------------------------------------------------------------------------ telling

_HEADERS = ("PATH", "STATE", "CURSOR", "CRASHES", "RESTARTS", "ESCALATIONS")


def _counts(node: NodeRow) -> tuple[str, ...]:
    counts = (node.cursor, node.crashes, node.restarts, node.escalations)
    return tuple("" if count is None else f"{count:,}" for count in counts)


def _state(node: NodeRow, engine: EngineRow) -> str:
    if node.path == "/":
        return _owner(engine)
    if node.activities is not None:
        blocked = node.activities.get(ActivityStatus.BLOCKED, 0)
        others = sum(node.activities.values()) - blocked
        doing = "running" if engine.alive else "to be resumed"
        return ", ".join([f"{others:,} {doing}", *([f"{blocked:,} blocked"] if blocked else [])])
    return ", ".join(node.patterns or ())


def _owner(engine: EngineRow) -> str:
    process = f"process {engine.pid} of {engine.user} on {engine.host}"
    if engine.alive:
        # It records its opening a moment after it took the lock.
        opening = engine.seq == 0 or engine.closed is not None
        return "opening" if opening else f"{process}, since {moment(engine.opened)}"
    if engine.closed is not None:
        return f"no owner; closed {moment(engine.closed)} by {process}"
    if engine.alive is None:
        return f"{process}, which may have ended: this user may not read the lock file"
    return f"no owner; {process} ended without closing it"
