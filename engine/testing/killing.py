"""Killing an engine at a record of its journal, in a test.

A kill is made inside the process. The journal's writer stops at a chosen record: what a commit holds beyond it is
dropped, nothing is written after it, and nobody is told of anything. In the same instant every run is fenced, so that
user code that still unwinds has no effect through its context, and the engine is torn down without a word in the
journal. What stays is the file as a `kill -9` in that instant would have left it, and the next *life*, another engine
on that file, goes on from there.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, TypeVar

import attrs
import orjson
import trio

from engine.activities import Activities
from engine.activities.run import Run
from engine.clock import Clock
from engine.journal import SQLiteJournal
from engine.journal.kinds import TERMINAL_KINDS
from engine.journal.projections import PROJECTED, Projected, Projections
from engine.journal.writer import Batch, CommitThread, Draft
from engine.runtime import Definition, Engine, Settings
from engine.testing.clock import TrioTime
from engine.testing.opening import spare_the_disk

R = TypeVar("R")

_OBEYED = ("step.resolved", "activity.started", "activity.resumed", "activity.retried")
"""Records of one commit with the command before them, which a cut therefore does not part from it."""


_TOGETHER = (
    ("child.started", "command.accepted"),
    ("child.cancelled", "command.accepted"),
    ("command.accepted", "activity.cancelling"),
    ("command.accepted", "activity.cancelled"),
    ("message.received", "message.sent"),
    ("command.denied", "message.denied"),
    ("message.unread", "message.unread"),
    *(("message.unread", kind) for kind in sorted(TERMINAL_KINDS)),
)
"""Further pairs: what an activity does to another, with what is recorded of it there."""


def _is_of_one_commit(draft: Draft, following: Draft) -> bool:
    """Whether a cut does not part a record from the next, since they were appended together."""
    if draft[2] in ("command.accepted", "step.resolved") and following[2] in _OBEYED:
        return True
    if (draft[2], following[2]) in _TOGETHER:
        return True
    # A fork: its command, and the new activity's, with its start and the copies.
    return '"forked_from":' in following[8] or '"copied":' in following[8]


@attrs.define(kw_only=True, str=False)
class Death:
    """When a life ends. Once it has ended, it says so.

    Attributes:
        after: the last record that becomes durable; none is the last, unless given.
        at: the same by its kind and its path: the first such record that this life writes.
        told: whether the record is acted upon: the life ends when a later one was to be written.
        terminal: whether the life ends before an activity's end is recorded.
        stream: the only activity whose end counts for that; any, unless given.
        dead: whether the life has ended.
        place: where, once it has.
    """

    after: float = math.inf
    at: tuple[str, str | None] | None = None
    told: bool = False
    terminal: bool = False
    stream: str | None = None
    dead: bool = False
    place: str = ""

    def __str__(self) -> str:
        return self.place or f"{'before the record after' if self.told else 'after'} record {self.after}"

    def last_of(self, batch: Batch) -> float:
        """The last record of a commit that may be written; infinite where the life does not end in it."""
        if self.at is not None:
            # The columns of a draft: `seq`, `stream`, `kind`, `name`, `path`.
            self.after = min([self.after, *(draft[0] for draft in batch.drafts if (draft[2], draft[4]) == self.at)])
            self.at = None if self.after < math.inf else self.at
        last = self.after
        if self.terminal:
            ends = ("message.unread", *TERMINAL_KINDS)
            ended = [draft for draft in batch.drafts if draft[2] in ends and self.stream in (None, draft[1])]
            last = min([last, *(draft[0] - 1 for draft in ended)])
        if last > batch.last or (last == batch.last and self.told):
            return math.inf
        for draft, following in itertools.pairwise(batch.drafts):
            if draft[0] == last and _is_of_one_commit(draft, following):
                last += 1
        return math.inf if last == batch.last and self.told else last


async def live(
    body: Callable[[Engine], Awaitable[R]],
    url: str,
    /,
    *definitions: ModuleType | Definition,
    death: Death,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    clock: Clock | None = None,
    effects: dict[str, int] | None = None,
) -> R | None:
    """One life of an engine, which dies at a record.

    Args:
        body: called with the engine, once it is open.
        url: the journal.
        definitions: what the engine runs.
        death: when it dies.
        settings: its settings.
        clock: tells the time of day; one that goes with Trio's, unless given.
        effects: where to count how often each step is begun, by its idempotency key.

    Returns:
        What the body returned; `None` if the engine died before it did.
    """

    class Mortal(Engine):
        def __init__(self, journal: SQLiteJournal, activities: Activities, *rest: Any) -> None:
            super().__init__(journal, activities, *rest)
            _arm(journal, activities, death, scope)
            activities.admission.draw_seed = _seed
            if effects is not None:
                _count(activities, death, effects)

    with trio.CancelScope() as scope:
        async with Mortal.open(url, *definitions, settings=settings, clock=clock or TrioTime()) as engine:
            return await body(engine)
    return None


def _arm(journal: SQLiteJournal, activities: Activities, death: Death, scope: trio.CancelScope) -> None:
    """Have the journal's writer end the life at its record."""
    writer: Any = journal._writer
    write = writer._write
    spare_the_disk(journal)

    async def write_or_die(batch: Batch, thread: CommitThread) -> None:
        if not death.dead:
            last = death.last_of(batch)
            if last == math.inf:
                await write(batch, thread)
                return
            drafts = batch.drafts
            death.place = _place(drafts, last, told=death.told)
            _cut(batch, last)
            if batch.drafts:
                await write(batch, thread)
            batch.drafts = drafts
            _die(activities, death, scope)
            writer.on_durable = None
        batch.landed.clear()

    writer._write = write_or_die


def _place(drafts: list[Draft], last: float, *, told: bool) -> str:
    """Where a life ends that cuts a commit after this record, in words."""
    kept = [draft for draft in drafts if draft[0] <= last]
    seq, _, kind, name, path, *_ = drafts[len(kept)] if told or not kept else kept[-1]
    return f"{'before' if told or not kept else 'after'} record {seq} ({' '.join(filter(None, (kind, path or name)))})"


def _cut(batch: Batch, last: float) -> None:
    """Leave in a commit only the records up to the last."""
    batch.drafts = [draft for draft in batch.drafts if draft[0] <= last]
    batch.projections = Projections()
    for seq, stream, kind, name, _, run, at, by, facts, _ in batch.drafts:
        if kind in PROJECTED:
            batch.projections.apply(Projected(seq, stream, kind, name, run, at, by, orjson.loads(facts)))
    streams = {draft[1] for draft in batch.drafts}
    batch.streams = {stream: what for stream, what in batch.streams.items() if stream in streams}
    batch.ended &= streams


def _die(activities: Activities, death: Death, scope: trio.CancelScope) -> None:
    death.dead = True
    activities.give_up()
    scope.cancel()


def _count(activities: Activities, death: Death, effects: dict[str, int]) -> None:
    def begun(run: Run, path: str) -> None:
        if not death.dead:
            key = f"{run.id}/{run.generation}/{path}"
            effects[key] = effects.get(key, 0) + 1

    activities.watch_steps(begun)


def _seed(id: str) -> bytes:
    """In each life and in each run an activity draws the same random values, so that runs can be compared."""
    return hashlib.sha256(id.encode()).digest()
