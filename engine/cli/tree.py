"""`playbill tree`: the supervision tree of the engine that owns a journal, or owned it last.

The tree stands in the engine's memory, and is told here from outside: by what the engine recorded since it opened the
journal last, and by whether somebody holds the lock beside the journal. What follows from that, and what does not:

| what | from where |
|---|---|
| whether the engine lives | the lock |
| a supervisor runs | every engine starts all of them; one that gave up is on record |
| a subscriber's actor runs | a record of its own since the opening; one that crashed last is `restarting` |
| events that wait for a subscriber | those in the journal above its cursor; up to 256 of them may be handled already |
| crashes, restarts, escalations, stalls, ends that were ignored | records |
| which of the events that wait are in memory | not told |
| a subscriber that the engine's code no longer has | not told apart from one to which nothing happened |

The lock is asked for as a second owner would ask for it, but shared and without waiting, and given back at once. Where
an engine lives, it is refused, and nothing happened. Where none does, it is held for some microseconds: several `tree`s
do not see each other.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import attrs
import click
import orjson

from engine.audit import Ledger, Record
from engine.cli.options import debug_option, journal_option, json_option
from engine.cli.output import is_terminal, moment, print_json, print_json_line, print_table
from engine.journal import ENGINE_STREAM, SUBSCRIBER_STREAMS
from engine.journal.kinds import ENDED, SYSTEM_TOPICS
from engine.journal.records import COLUMNS
from engine.messages import ActivityStatus
from engine.topics import TopicPattern

EXAMPLES = """\b
Examples:
  playbill tree --journal transfers.db
  playbill tree --journal transfers.db --json
  playbill tree --journal transfers.db --follow

\b
Exit codes:
  0    the tree was shown, whether its engine lives or not
  2    the file cannot be read as a journal
  130  --follow was ended by Ctrl-C
"""

PAUSE = 0.5
"""Seconds between two looks of `--follow`."""


@click.command("tree", short_help="Show the supervision tree.", epilog=EXAMPLES)
@click.option("--follow", is_flag=True, help="Show it again whenever it has changed, until Ctrl-C.")
@journal_option
@json_option
@debug_option
def show_tree(journal: str, follow: bool, as_json: bool) -> None:
    """Show the supervision tree of the engine that owns the journal, or owned it last.

    Reads only, also while that engine is writing. Crashes, restarts, escalations, stalls (it blocked the loop) and ends
    that are overdue (it ignored being cancelled) are counted since it opened the journal.
    """
    if not follow:
        tree = tree_of(journal)
        if as_json:
            print_json(tree)
        else:
            _print(tree)
        return
    for number, tree in enumerate(changes(journal, lambda: time.sleep(PAUSE))):
        if as_json:
            print_json_line(tree)
            continue
        if is_terminal():
            click.clear()
        elif number:
            click.echo()
        _print(tree)


def _print(tree: TreeRow) -> None:
    # For who looks on, what never happened needs no column.
    keep_zeros = not is_terminal()
    rows = ((node.path, node.state or "", _told(node, tree.engine), *_counts(node, keep_zeros)) for node in tree.tree)
    print_table(_HEADERS, rows, right=_HEADERS[3:])


@attrs.frozen(kw_only=True)
class TreeRow:
    """The engine, and its tree: each supervisor before its children."""

    engine: EngineRow
    tree: Sequence[NodeRow]


def tree_of(journal: str) -> TreeRow:
    """The tree as of now.

    Raises:
        JournalError: the file cannot be read as a journal.
    """
    with Ledger.open(journal) as ledger:
        engine = engine_of(ledger, is_owned(ledger.path))
        return TreeRow(engine=engine, tree=tuple(nodes_of(ledger, engine)))


def changes(journal: str, pause: Callable[[], object]) -> Iterator[TreeRow]:
    """The tree as of now, and again each time it has changed.

    Args:
        journal: the journal.
        pause: called between two looks.

    Raises:
        JournalError: the file cannot be read as a journal, any more.
    """
    before = None
    while True:
        tree = tree_of(journal)
        if tree != before:
            yield tree
            before = tree
        pause()


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


State: TypeAlias = Literal["running", "restarting", "ended", "stopped"]


@attrs.frozen(kw_only=True)
class NodeRow:
    """One supervisor, or one subscriber's actor.

    Attributes:
        path: where it stands in the tree.
        state: `running`; `restarting`, after a crash; `ended`, where a supervisor gave up, and what stood below it;
            `stopped` where no engine lives. `None` where nothing tells.
        activities: of `/activities`: how many there are of each status that is no end.
        patterns: of a subscriber: the topic patterns that it was attached with.
        cursor: of a subscriber: the `seq` up to which it has settled every event.
        waiting: of a subscriber: how many events above its cursor it is to be given.
        crashes: how often it crashed since the opening.
        restarts: how often it was restarted since the opening.
        escalations: how often a supervisor gave up, or a subscriber made its supervisor do so, since the opening.
        stalls: how often it blocked the loop since the opening; of `/activities`, all activities together.
        overdue: how often it ignored being cancelled when its allowance was over, in the same way.
    """

    path: str
    state: State | None = None
    activities: dict[ActivityStatus, int] | None = None
    patterns: Sequence[str] | None = None
    cursor: int | None = None
    waiting: int | None = None
    crashes: int = 0
    restarts: int = 0
    escalations: int = 0
    stalls: int = 0
    overdue: int = 0


SUPERVISORS = ("/", "/activities", "/subscribers", "/timers", "/bridges", "/gateway")
"""The supervisors of every engine, in the order in which they start."""


def nodes_of(ledger: Ledger, engine: EngineRow) -> Iterator[NodeRow]:
    """The tree, each supervisor before its children."""
    given_up, causes = _escalations(ledger, engine.seq)
    for path in SUPERVISORS:
        ended = bool(given_up[path] or given_up["/"])
        node = NodeRow(path=path, state=_state(engine, ended=ended), escalations=given_up[path])
        if path == "/activities":
            found = _found_of_activities(ledger, engine.seq)
            node = attrs.evolve(
                node,
                activities=_unfinished(ledger),
                stalls=found.get("actor.stalled", 0),
                overdue=found.get("actor.overdue", 0),
            )
        yield node
        if path == "/subscribers":
            for stream in _subscriber_streams(ledger):
                yield _subscriber(ledger, stream, engine, ended=ended, escalations=causes[stream])


def _state(engine: EngineRow, *, ended: bool) -> State | None:
    if engine.alive:
        return "ended" if ended else "running"
    return "stopped" if engine.alive is False else None


def _unfinished(ledger: Ledger) -> dict[ActivityStatus, int]:
    rows = ledger.reader.query("SELECT status, count(*) FROM activities GROUP BY status")
    counts = {ActivityStatus(status): count for status, count in rows}
    return {status: count for status, count in counts.items() if status not in ENDED}


def _found_of_activities(ledger: Ledger, since: int) -> dict[str, int]:
    rows = ledger.reader.query(
        "SELECT kind, count(*) FROM records WHERE stream = ? AND seq > ? "
        "AND kind IN ('actor.stalled', 'actor.overdue') AND name LIKE '/activities/%' GROUP BY kind",
        (ENGINE_STREAM, since),
    )
    return dict(rows)


def _subscriber(ledger: Ledger, stream: str, engine: EngineRow, *, ended: bool, escalations: int) -> NodeRow:
    counts = dict(
        ledger.reader.query(
            "SELECT kind, count(*) FROM records WHERE stream = ? AND seq > ? AND seq <= ? GROUP BY kind",
            (stream, engine.seq, ledger.size),
        )
    )
    state = _state(engine, ended=ended)
    if state == "running":
        last = _last(ledger, stream, "actor.crashed", "actor.restarted") if counts.get("actor.crashed") else None
        crashed = last is not None and last.kind == "actor.crashed" and last.seq > engine.seq
        state = "restarting" if crashed else "running" if counts else None
    attached = ledger.reader.query("SELECT patterns, cursor FROM subscriptions WHERE stream = ?", (stream,))
    patterns, cursor = (orjson.loads(attached[0][0]), attached[0][1]) if attached else ((), 0)
    return NodeRow(
        path=stream,
        state=state,
        patterns=tuple(patterns),
        cursor=cursor,
        waiting=_waiting(ledger, stream, tuple(map(TopicPattern, patterns)), cursor),
        crashes=counts.get("actor.crashed", 0),
        restarts=counts.get("actor.restarted", 0),
        escalations=escalations,
        stalls=counts.get("actor.stalled", 0),
        overdue=counts.get("actor.overdue", 0),
    )


def _waiting(ledger: Ledger, stream: str, patterns: Sequence[TopicPattern], cursor: int) -> int:
    """How many events above a subscriber's cursor match its patterns."""
    events = ledger.reader.query(
        "SELECT name, count(*) FROM records WHERE kind IN ('event.emitted', 'event.published') AND seq > ? "
        "AND seq <= ? GROUP BY name",
        (cursor, ledger.size),
    )
    if any(pattern.is_of_the_system for pattern in patterns):
        rows = ledger.reader.query(
            "SELECT kind, count(*) FROM records WHERE seq > ? AND seq <= ? AND stream <> ? GROUP BY kind",
            (cursor, ledger.size, stream),
        )
        events += [(SYSTEM_TOPICS[kind], count) for kind, count in rows if kind in SYSTEM_TOPICS]
    return sum(count for topic, count in events if any(pattern.matches(topic) for pattern in patterns))


def _subscriber_streams(ledger: Ledger) -> list[str]:
    # From the prefix up to the prefix with its last character raised by one, so that the key serves.
    low, high = SUBSCRIBER_STREAMS, SUBSCRIBER_STREAMS[:-1] + chr(ord(SUBSCRIBER_STREAMS[-1]) + 1)
    return [
        id for (id,) in ledger.reader.query("SELECT id FROM streams WHERE id >= ? AND id < ? ORDER BY id", (low, high))
    ]


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

_HEADERS = ("PATH", "STATE", "WHAT", "CURSOR", "WAITING", "CRASHES", "RESTARTS", "ESCALATIONS", "STALLS", "OVERDUE")


def _counts(node: NodeRow, keep_zeros: bool) -> tuple[str, ...]:
    counts = (node.cursor, node.waiting, node.crashes, node.restarts, node.escalations, node.stalls, node.overdue)
    return tuple("" if count is None or not (count or keep_zeros) else f"{count:,}" for count in counts)


def _told(node: NodeRow, engine: EngineRow) -> str:
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
