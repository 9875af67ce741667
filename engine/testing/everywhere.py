"""Killing an activity at each of its records, and seeing that it ends as it should."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import inspect
import json
import random
import re
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, TypeVarTuple

import attrs
import trio
import trio.testing

from engine.activities import Activity, Context, Handle, Running
from engine.errors import (
    ActivityCancelledError,
    ActivityEndedError,
    ActivityFailedError,
    DefinitionError,
    PlaybillError,
)
from engine.journal import ENDED
from engine.messages import ActivityStatus
from engine.runtime import Definition, Engine, Settings
from engine.testing.clock import EPOCH, MockClock, going_by
from engine.testing.killing import Death, live

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Ts = TypeVarTuple("Ts")

AGAIN = 0.4
"""The part of the runs that are killed a second time."""

OPENING = 2
"""The records at the beginning of a life that goes on: the engine's opening, and the activity's resume."""

_ID = "crash-everywhere"
_OWN_KEYS = f"{_ID}/0/"
_PATIENCE = 100 * 365 * 86_400.0
"""Seconds, by a clock that jumps, after which an activity waits for what does not come."""


@attrs.frozen(kw_only=True)
class Crashes(Generic[R_co]):
    """What `crash_everywhere` saw.

    Attributes:
        result: what the activity returned, the same in every run.
        records: how many records it has when nothing kills it.
        runs: how many runs were killed.
        effects: for each step how often it was begun at most in any one of the runs, over all its lives; by its path,
            and where it is a child's, by its idempotency key.
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
    durable and nobody has acted on it, once when all was done that comes before it and it is about to be written; and
    have it resumed each time. Two of five runs are killed once more, up to six records into the next life.

    Each run must end as the one without a fault did: with the same result, or with an error of the same type and text,
    and having begun the same steps, told apart by their idempotency keys. Steps in branches that were cancelled for
    another's sake are left aside, and all of them where the activity was cancelled, since a kill may rightly change how
    far these come. Random values are the same in all runs. To be called in a test, under Trio, which goes by a
    `MockClock` meanwhile unless it goes by a mock clock already: no wait takes any time.

    Args:
        activity: the activity.
        args: its arguments.
        definitions: what the engine needs besides.
        setup: called before each run, to set the outside world back. May be async, as `check` may.
        drive: called with the activity's handle, beside it: to send what it waits for, to cancel it. In each life anew
            until it has returned once.
        check: called after each run, to look at the outside world.
        settings: the engine's.

    Returns:
        What was seen.

    Raises:
        AssertionError: a run ended otherwise than the one without a fault, was blocked, or did not end, or `check`
            failed; with the record at which it was killed, and with what differs.
        ActivityFailedError, ActivityCancelledError: the run without a fault ended so, and all others did too.

    Cancelling ends the run under way.
    """
    if not isinstance(activity, Activity):
        raise DefinitionError(f"{activity!r} is no activity; decorate it with @activity")
    trial = _Trial(activity, args, definitions, setup, drive, check, settings)
    with contextlib.ExitStack() as stack:
        if not isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
            stack.enter_context(going_by(MockClock()))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="playbill-"))
        whole = Path(folder, "whole.db")
        ending = await trial.run(whole)
        first, last = _span(whole)
        killed = 0
        for killed, deaths in enumerate(_deaths(first, last), 1):  # noqa: B007  (the number of the last one)
            journal = Path(folder, "killed.db")
            try:
                trial.compare(ending, await trial.run(journal, *deaths))
            except Exception as error:  # the edge where the user's code runs: whatever it raises tells of this kill
                places = ", then ".join(str(death) for death in deaths if death.dead) or "nowhere"
                said = str(error) if isinstance(error, AssertionError | PlaybillError) else repr(error)
                raise AssertionError(f"killed {places}, and resumed: {said}") from error
            _remove(journal)
    if ending.error is not None:
        raise ending.error
    return Crashes(result=ending.result, records=last - first + 1, runs=killed, effects=trial.most)


def _deaths(first: int, last: int) -> Iterator[list[Death]]:
    """How the runs are killed: the same each time, so that a failure comes again."""
    draw = random.Random(0)
    for seq in range(first, last + 1):
        for told in (False, True):
            deaths = [Death(after=seq, told=told)]
            if draw.random() < AGAIN:
                deaths.append(Death(after=seq + OPENING + draw.randint(0, 6), told=draw.random() < 0.5))
            yield deaths


@attrs.frozen(kw_only=True)
class _Ending:
    """How a run ended.

    Attributes:
        result: what the activity returned.
        error: what it ended with otherwise.
        begun: the idempotency keys of the steps that were begun.
        lost: scopes of which branches were cancelled for another's sake, each as its branches' keys begin.
    """

    result: Any = None
    error: ActivityFailedError | ActivityCancelledError | None = None
    begun: frozenset[str] = frozenset()
    lost: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"returned {self.result!r}" if self.error is None else f"ended with {self.error}"


@attrs.define
class _Trial:
    """The runs of one activity, each in an outside world that was set back.

    Attributes:
        most: how often each step was begun at most in any one of them.
    """

    activity: Activity[..., Any]
    args: Sequence[Any]
    definitions: Sequence[ModuleType | Definition]
    setup: Callable[[], object] | None
    drive: Callable[[Any], Awaitable[object]] | None
    check: Callable[[], object] | None
    settings: Settings
    most: dict[str, int] = attrs.field(factory=dict)

    async def run(self, journal: Path, *deaths: Death) -> _Ending:
        """One run, killed by each of these in turn."""
        await _called(self.setup)
        effects: dict[str, int] = {}
        driver = _Driver(self.drive)
        clock = _RunTime(trio.current_time())
        definitions = [self.activity, *(entry for entry in self.definitions if entry is not self.activity)]
        ending: _Ending | None = None
        for death in (*deaths, Death()):
            body = functools.partial(self._life, driver=driver)
            ending = await live(
                body, str(journal), *definitions, death=death, settings=self.settings, clock=clock, effects=effects
            )
        for key, count in effects.items():
            name = key.removeprefix(_OWN_KEYS)
            self.most[name] = max(self.most.get(name, 0), count)
        await _called(self.check)
        assert ending is not None
        return attrs.evolve(ending, begun=frozenset(effects), lost=_lost(journal))

    async def _life(self, engine: Engine, *, driver: _Driver) -> _Ending:
        """One life of the activity: started if it was not before, driven, and waited for."""
        handle = await engine.start(self.activity, *self.args, id=_ID)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.drive, handle)
            with trio.move_on_after(_PATIENCE):
                await handle.wait(*ENDED, ActivityStatus.BLOCKED)
            nursery.cancel_scope.cancel()
        driver.tell()
        status = await handle.status()
        if status is ActivityStatus.BLOCKED:
            raise AssertionError(f"{self.activity.name} is blocked: {_why_blocked(engine)}")
        if status not in ENDED:
            raise AssertionError(f"{self.activity.name} does not end: it is {status}, and waits for what does not come")
        try:
            result: Any = await handle.result()
        except (ActivityFailedError, ActivityCancelledError) as error:
            return _Ending(error=error)
        return _Ending(result=result)

    def compare(self, whole: _Ending, killed: _Ending) -> None:
        """Hold the end of a killed run against that of the one without a fault.

        Raises:
            AssertionError: they differ.
        """
        name = self.activity.name
        if (killed.result, _said(killed.error)) != (whole.result, _said(whole.error)):
            raise AssertionError(f"{name} {killed}; without a kill it {whole}")
        if isinstance(whole.error, ActivityCancelledError):
            return  # how far it came before is a matter of the moment
        aside = (*whole.lost, *killed.lost)
        more = sorted(key for key in killed.begun - whole.begun if not key.startswith(aside))
        if more:
            raise AssertionError(f"{name} began {_named(more)}, which it does not without a kill")
        fewer = sorted(key for key in whole.begun - killed.begun if not key.startswith(aside))
        if fewer:
            raise AssertionError(f"{name} did not begin {_named(fewer)}, which it does without a kill")


async def _called(function: Callable[[], object] | None) -> None:
    """Call a function of the test, where there is one, and await what it gives, where that is to be awaited."""
    given = None if function is None else function()
    if inspect.isawaitable(given):
        await given


class _Driver:
    """Calls what drives the activity, in each life anew until it has returned."""

    def __init__(self, drive: Callable[[Any], Awaitable[object]] | None) -> None:
        self._drive = drive
        self._error: Exception | None = None

    async def drive(self, handle: Handle[Any]) -> None:
        if self._drive is None:
            return
        try:
            await self._drive(handle)
        except ActivityEndedError:
            pass  # it had been driven before, and has ended of that
        except Exception as error:  # the test's own code; it is told of in the test's task, by `tell`
            self._error = error
        self._drive = None

    def tell(self) -> None:
        """Raise what the driving code raised."""
        if self._error is not None:
            raise self._error


class _RunTime:
    """A wall clock that goes with Trio's, and begins anew with each run: all see the same instants."""

    def __init__(self, began: float) -> None:
        self._began = began

    def now(self) -> dt.datetime:
        return EPOCH + dt.timedelta(seconds=trio.current_time() - self._began)


def _said(error: ActivityFailedError | ActivityCancelledError | None) -> tuple[object, ...]:
    """What is the same of two errors by which an activity ended in the same way."""
    if isinstance(error, ActivityFailedError):
        # The text of an object without one of its own holds its address.
        return error.type, re.sub(r"\b0x[0-9a-f]+\b", "0x…", error.message)
    return (type(error),)


def _named(keys: Sequence[str]) -> str:
    return ("step " if len(keys) == 1 else "steps ") + ", ".join(key.removeprefix(_OWN_KEYS) for key in keys)


def _why_blocked(engine: Engine) -> str:
    records = engine._journal.histories([_ID])[_ID]
    facts = [record for record in records if record.kind == "activity.blocked"][-1].facts
    return f"the history holds {facts['recorded']}, the code asked for {facts['asked']}"


def _span(journal: Path) -> tuple[int, int]:
    """The first and the last record of the activity."""
    ((first, last),) = _query(journal, "SELECT min(seq), max(seq) FROM records WHERE stream = ?", _ID)
    return int(first), int(last)


def _lost(journal: Path) -> tuple[str, ...]:
    """The scopes of which branches were cancelled for another's sake, each as the keys of its branches begin."""
    rows = _query(journal, "SELECT stream, path, facts FROM records WHERE kind = 'scope.ended'")
    ended = [(stream, path, json.loads(facts)) for stream, path, facts in rows]
    return tuple(
        f"{stream}/{facts['generation']}/{path}[" for stream, path, facts in ended if facts["decided"] is not None
    )


def _remove(journal: Path) -> None:
    for file in journal.parent.glob(f"{journal.name}*"):
        file.unlink()


def _query(journal: Path, statement: str, *parameters: object) -> list[Any]:
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        return connection.execute(statement, parameters).fetchall()
