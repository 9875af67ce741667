"""What users test their activities with: kill an activity at each of its records, and see that it ends as it should.

A kill is made inside the process. The journal's writer stops at a chosen record: what a commit holds beyond it is
dropped, nothing is written after it, and nobody is told of anything. In the same instant every run is fenced, so that
user code that still unwinds has no effect through its context, and the engine is torn down without a word in the
journal. What stays is the file as a `kill -9` in that instant would have left it, and the next *life*, another engine
on that file, goes on from there.
"""

from __future__ import annotations

import functools
import math
import random
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, TypeVarTuple

import attrs
import orjson
import trio

from engine.activities import Activities, Activity, Context, Handle, Running
from engine.clock import Clock
from engine.errors import DefinitionError, PlaybillError
from engine.journal import ENDED, SQLiteJournal
from engine.journal.kinds import TERMINAL_KINDS
from engine.journal.projections import PROJECTED, Projected, Projections
from engine.journal.writer import Batch, CommitThread
from engine.messages import ActivityStatus
from engine.runtime import Definition, Engine, Settings
from engine.testing.clock import TrioTime
from engine.testing.opening import spare_the_disk

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Ts = TypeVarTuple("Ts")

_ID = "crash-everywhere"
AGAIN = 0.4
"""The part of the runs that are killed a second time."""

OPENING = 2
"""The records at the beginning of a life that goes on: the engine's opening, and the activity's resume."""

_BEGINNINGS = ("activity.started", "activity.resumed")
"""Records of one commit with the command before them, which a cut therefore does not part from it."""


@attrs.frozen(kw_only=True)
class Crashes(Generic[R_co]):
    """What `crash_everywhere` saw.

    Attributes:
        result: what the activity returned, the same in every run.
        records: how many records it has when nothing kills it.
        runs: how many runs were killed.
        effects: for each step, by its path, how often it was begun at most in any one of the runs, over all its lives.
    """

    result: R_co
    records: int
    runs: int
    effects: Mapping[str, int]


async def crash_everywhere(
    activity: Callable[[Context, *Ts], Running[R]],
    /,
    *args: *Ts,
    definitions: Sequence[ModuleType | Definition] = (),
    setup: Callable[[], object] | None = None,
    drive: Callable[[Handle[R]], Awaitable[object]] | None = None,
    check: Callable[[], object] | None = None,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
) -> Crashes[R]:
    """Run an activity without a fault; then, for each record, run it twice anew: killed once when that record is
    durable and nobody has acted on it, once when everything that follows from it was done and nothing of that is
    recorded; and have it resumed each time. Two of five runs are killed once more, up to six records into the next
    life. To be called in a test, under Trio; with Trio's mock clock waits take no time.

    Args:
        activity: the activity.
        args: its arguments.
        definitions: what the engine needs besides.
        setup: called before each run, to set the outside world back.
        drive: called in each life with the activity's handle, beside it.
        check: called after each run, to look at the outside world.
        settings: the engine's.

    Returns:
        What was seen.

    Raises:
        AssertionError: a run ended otherwise than the one without a fault, or was blocked, with the place of the kill.
        ActivityFailedError: the run without a fault failed.

    Cancelling ends the run under way.
    """
    if not isinstance(activity, Activity):
        raise DefinitionError(f"{activity!r} is no activity; decorate it with @activity")
    everything = [activity, *(entry for entry in definitions if entry is not activity)]
    most: dict[str, int] = {}

    async def ends(path: Path, *deaths: Death) -> Any:
        """How one run ends, killed by each of these in turn."""
        effects: dict[str, int] = {}
        if setup is not None:
            setup()
        ending = None
        for death in (*deaths, Death()):
            body = functools.partial(_lived, activity=activity, args=args, drive=drive)
            ending = await live(body, str(path), *everything, death=death, settings=settings, effects=effects)
        for name, count in effects.items():
            most[name] = max(most.get(name, 0), count)
        if check is not None:
            check()
        return ending

    with tempfile.TemporaryDirectory(prefix="playbill-") as folder:
        result = await ends(Path(folder, "whole.db"))
        first, last = _span(Path(folder, "whole.db"))
        runs = 0
        # The same kills each time: a failure comes again.
        draw = random.Random(0)
        for seq in range(first, last + 1):
            for told in (False, True):
                runs += 1
                deaths = [Death(after=seq, told=told)]
                if draw.random() < AGAIN:
                    deaths.append(Death(after=seq + OPENING + draw.randint(0, 6), told=draw.random() < 0.5))
                try:
                    killed = await ends(Path(folder, f"killed-{runs}.db"), *deaths)
                    assert killed == result, f"{activity.name} gave {killed!r} instead of {result!r}"
                except (AssertionError, PlaybillError) as error:
                    places = ", then ".join(str(death) for death in deaths)
                    raise AssertionError(f"killed after record {places}, and resumed: {error}") from error
    return Crashes(result=result, records=last - first + 1, runs=runs, effects=most)


async def _lived(
    engine: Engine, *, activity: Any, args: Sequence[Any], drive: Callable[[Any], Awaitable[object]] | None
) -> Any:
    """One life of the activity: started if it was not before, driven, and waited for."""
    handle = await engine.start(activity, *args, id=_ID)
    async with trio.open_nursery() as nursery:
        if drive is not None:
            nursery.start_soon(drive, handle)
        status = await handle.wait(*ENDED, ActivityStatus.BLOCKED)
        nursery.cancel_scope.cancel()
    if status is ActivityStatus.BLOCKED:
        blocked = [record for record in engine._journal.histories([_ID])[_ID] if record.kind == "activity.blocked"][-1]
        raise AssertionError(
            f"{activity.name} is blocked: the history holds {blocked.facts['recorded']}, "
            f"the code asked for {blocked.facts['asked']}"
        )
    return await handle.result()


def _span(path: Path) -> tuple[int, int]:
    """The first and the last record of the activity."""
    connection = sqlite3.connect(path)
    try:
        first, last = connection.execute("SELECT min(seq), max(seq) FROM records WHERE stream = ?", (_ID,)).fetchone()
        return int(first), int(last)
    finally:
        connection.close()


# ---------------------------------------------------------------------------------------------------- killing


@attrs.define(kw_only=True, str=False)
class Death:
    """When a life ends. Once it has ended, it says so.

    Attributes:
        after: the last record that becomes durable; none is the last, unless given.
        at: the same by its kind and its path: the first such record that this life writes.
        told: whether the record is acted upon: the life ends when a later one was to be written.
        terminal: whether the life ends before an activity's end is recorded.
        dead: whether the life has ended.
    """

    after: float = math.inf
    at: tuple[str, str | None] | None = None
    told: bool = False
    terminal: bool = False
    dead: bool = False

    def __str__(self) -> str:
        return f"{self.after} ({'acted upon' if self.told else 'not acted upon'})"

    def last_of(self, batch: Batch) -> float:
        """The last record of a commit that may be written; infinite where the life does not end in it."""
        if self.at is not None:
            # The columns of a draft: `seq`, `stream`, `kind`, `name`, `path`.
            self.after = min([self.after, *(draft[0] for draft in batch.drafts if (draft[2], draft[4]) == self.at)])
            self.at = None if self.after < math.inf else self.at
        last = self.after
        if self.terminal:
            last = min([last, *(draft[0] - 1 for draft in batch.drafts if draft[2] in TERMINAL_KINDS)])
        if last > batch.last or (last == batch.last and self.told):
            return math.inf
        kinds = {draft[0]: draft[2] for draft in batch.drafts}
        if kinds.get(int(last)) == "command.accepted" and kinds.get(int(last) + 1) in _BEGINNINGS:
            last += 1
            return math.inf if last == batch.last and self.told else last
        return last


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
        effects: where to count how often each step is begun, by its path.

    Returns:
        What the body returned; `None` if the engine died before it did.
    """

    class Mortal(Engine):
        def __init__(self, journal: SQLiteJournal, activities: Activities, *rest: Any) -> None:
            super().__init__(journal, activities, *rest)
            _arm(journal, activities, death, scope)
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
            _cut(batch, last)
            if batch.drafts:
                await write(batch, thread)
            batch.drafts = drafts
            _die(activities, death, scope)
            writer.on_durable = None
        batch.landed.clear()

    writer._write = write_or_die


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
    def begun(path: str) -> None:
        if not death.dead:
            effects[path] = effects.get(path, 0) + 1

    activities.watch_steps(begun)
