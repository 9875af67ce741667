"""Whether today's code fits what is recorded of an activity: a replay that ends where anything new would begin.

The activity is executed as an engine would execute it, on a journal that takes no record: from the end of the replay on
nothing begins, and what would be recorded of its end is looked at instead. Its function runs, so whatever that does
beside its context is done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import attrs
import orjson
import trio
import trio.testing

from engine.activities.definition import Activity
from engine.activities.execution import Execution, arguments_of
from engine.activities.family import Family
from engine.activities.history import History
from engine.activities.parking import Parking
from engine.activities.posting import Post
from engine.activities.processes import Workers
from engine.activities.replay import RestInstrument
from engine.activities.run import Run
from engine.activities.surroundings import Flights, Surroundings
from engine.actors import Mailbox
from engine.clock import SystemClock
from engine.codec import canonical
from engine.errors import PayloadError
from engine.journal import Store, StoredRecord
from engine.journal.kinds import TERMINAL_KINDS

Verdict: TypeAlias = Literal["fits", "diverges", "definition", "arguments", "erased"]

PATIENCE = 100 * 365 * 86_400.0
"""Seconds, by a clock that jumps, after which code waits for what does not come."""

LOOKING = 5.0
"""Real seconds after which code that looks again and again is taken to wait for what does not come."""


@attrs.frozen(kw_only=True)
class Finding:
    """What came of checking one activity.

    Attributes:
        verdict: `fits`; `diverges`: the code asks for something other than what is recorded; `definition`: there is
            none of its name; `arguments`: the recorded ones are none of the function any more; `erased`: what a replay
            needs was erased.
        recorded: where it does not fit, what the history holds there.
        asked: what the code asked for, or what there is.
    """

    verdict: Verdict
    recorded: str = ""
    asked: str = ""

    @property
    def is_fine(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.verdict in ("fits", "erased")


def missing(name: str) -> Finding:
    """What is found where there is no definition of an activity's name."""
    asked = "nothing: there is no definition of that name"
    return Finding(verdict="definition", recorded=f"activity {name}", asked=asked)


async def check(definition: Activity[..., Any] | None, records: Sequence[StoredRecord]) -> Finding:
    """Check one activity.

    Args:
        definition: today's, of the activity's name; `None` if there is none.
        records: the activity's, one that has begun.

    To be called under a clock that jumps, by which waits that are the code's own take no time. Cancelling ends it.
    """
    history = History(records)
    if definition is None:
        return missing(history.started.name or "")
    if history.started.data is None:
        return Finding(verdict="erased")
    try:
        definition.signature.decode(arguments_of(history.started))
    except PayloadError as error:
        return Finding(verdict="arguments", recorded="its arguments", asked=str(error))
    async with trio.open_nursery() as nursery:
        rehearsal = _Rehearsal(definition, history, records, nursery)
        nursery.start_soon(rehearsal.act, cast("Mailbox[Any]", None))
        with trio.CancelScope() as patience:
            nursery.start_soon(_lose_patience, patience)
            await rehearsal.come_to_an_end()
        found = rehearsal.finding()
        # Given up, and not cancelled alone: what cleans up is shielded, and waits.
        rehearsal.give_up()
        nursery.cancel_scope.cancel()
    return found


async def _lose_patience(patience: trio.CancelScope) -> None:
    """End the wait for code that does not come to its frontier."""
    began, seconds = time.monotonic(), 1.0
    while seconds < PATIENCE and time.monotonic() - began < LOOKING:
        await trio.sleep(seconds)
        seconds *= 2
    patience.cancel()


class _Rehearsal(Execution):
    """An execution that records nothing, and comes to nothing new.

    Attributes:
        over: set when everything that is recorded was handed out, or the function has ended.
        end: the record with which it ends, if it does: its kind, facts and data.
    """

    def __init__(
        self,
        definition: Activity[..., Any],
        history: History,
        records: Sequence[StoredRecord],
        errands: trio.Nursery,
    ) -> None:
        self.over = trio.Event()
        self.end: tuple[str, Mapping[str, Any], str | None] | None = None
        self._records = records
        self._was = next((record for record in reversed(records) if _is_its_own_end(record)), None)
        journal = cast(Store, _Unwritten(records, self._ends_with))
        stamp = SystemClock().stamp
        around = Surroundings(
            journal=journal,
            stamp=stamp,
            publish=lambda topic, record: None,
            instrument=_Frontier(self._come_to_the_frontier),
            max_payload=2**62,
            flights=Flights(),
            parking=Parking(),
            park_after=math.inf,
            workers=Workers(),
            post=Post(journal, stamp),
            family=Family(journal),
            cancel_within=math.inf,
            errands=errands,
        )
        super().__init__(around, definition, history.started.stream, history=history, changed=lambda _: None)

    def _next_run(self) -> Run:
        run = super()._next_run()
        self._last_run = run
        if run.replay is None:
            self._come_to_the_frontier()
        return run

    def _come_to_the_frontier(self) -> None:
        # A run that is given up comes to no frontier; what ends it is told of by `_ends_with`.
        if not self._last_run.fenced:
            self._last_run.held = True
            self.over.set()

    def _ends_with(self, kind: str, facts: Mapping[str, Any], data: str | None) -> None:
        if self.end is None:
            self.end = (kind, facts, data)
        self.over.set()

    async def come_to_an_end(self) -> None:
        """Wait until it is known whether the code fits."""
        await self.over.wait()
        if self._was is not None and self.end is None:
            # It has ended before: so it must again, and ask for nothing more on the way.
            while self.end is None and not self._last_run.withheld:
                await trio.testing.wait_all_tasks_blocked()
                await trio.sleep(1)

    def give_up(self) -> None:
        """Have the function do nothing more through its context."""
        self._last_run.fence()

    def finding(self) -> Finding:
        """What came of it."""
        run, was = self._last_run, self._was
        if self.end is not None and self.end[1].get("cause") == "nondeterminism":
            return Finding(verdict="diverges", recorded=self.end[1]["recorded"], asked=self.end[1]["asked"])
        if not self.over.is_set():
            left = run.replay.left if run.replay is not None else None
            recorded = f"{left.kind} {left.path}" if left is not None else "the end of what is recorded"
            return Finding(verdict="diverges", recorded=recorded, asked=_WAITS)
        if was is None:
            return Finding(verdict="fits")
        if self.end is None:
            asked = run.withheld[0] if run.withheld else _WAITS
            return Finding(verdict="diverges", recorded=was.kind, asked=asked)
        recorded, asked = _told(was.kind, was.facts, was.data), _told(*self.end)
        if recorded == asked:
            return Finding(verdict="fits")
        return Finding(verdict="diverges", recorded=recorded, asked=asked)


def _is_its_own_end(record: StoredRecord) -> bool:
    """Whether the activity's function came to its end by itself, and so must come to it again."""
    if record.kind == "activity.failed":
        return bool(record.facts["why"] != "deadline")
    return record.kind in TERMINAL_KINDS and record.kind != "activity.cancelled"


_WAITS = "nothing: the code waits for something that is not in its history"


def _told(kind: str, facts: Mapping[str, Any], data: str | None) -> str:
    """An end in words: what must be the same whenever it is replayed."""
    if kind in ("activity.failed", "activity.crashed"):
        # Whether another restart would follow depends on when it is asked.
        return f"activity.failed with {facts['error']}"
    if kind == "activity.completed" and data is not None:
        return f"{kind} with {canonical(orjson.dumps(orjson.loads(data)['value']).decode()).decode()}"
    return kind


class _Frontier(RestInstrument):
    """Says when a replay is over."""

    def __init__(self, over: Callable[[], None]) -> None:
        super().__init__()
        self._over = over

    def end(self) -> None:
        super().end()
        self._over()


class _Unwritten:
    """The journal of a check, as far as an execution uses one: it holds the activity's records, and takes no other."""

    def __init__(
        self, records: Sequence[StoredRecord], ends_with: Callable[[str, Mapping[str, Any], str | None], None]
    ) -> None:
        self._records = records
        self._ends_with = ends_with
        self.last_seq = records[-1].seq

    def append(
        self, stream: str, kind: str, *, facts: Mapping[str, Any] | str = "{}", data: str | None = None, **_: Any
    ) -> int:
        if kind.startswith("activity."):
            self._ends_with(kind, orjson.loads(facts) if isinstance(facts, str) else facts, data)
        self.last_seq += 1
        return self.last_seq

    async def durable(self, seq: int) -> None:
        """Nothing acts on a record that was not written."""
        if seq > self._records[-1].seq:
            await trio.sleep_forever()

    def histories(self, ids: Sequence[str]) -> Mapping[str, Sequence[StoredRecord]]:
        return dict.fromkeys(ids, self._records)
