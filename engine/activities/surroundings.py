"""What the activities of one engine have around them: the journal, the clock, and the count of what is under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

from engine.activities.parking import Parking
from engine.activities.processes import Workers
from engine.activities.replay import RestInstrument
from engine.journal import Store, StoredRecord

if TYPE_CHECKING:
    from engine.activities.family import Family
    from engine.activities.posting import Post
    from engine.activities.run import Run


@attrs.frozen(kw_only=True)
class Surroundings:
    """What a run needs of the engine around it.

    Attributes:
        journal: where it records.
        stamp: gives the present instant, as records hold it.
        publish: called with the topic of each of its events, and how to read it, when that is durable.
        instrument: sees when a replay is at rest.
        max_payload: bytes of JSON that one payload may have.
        flights: counts the attempts under way, for draining.
        post: brings messages to other activities.
        workers: the processes that steps may run in.
        family: starts children, and tells when they have ended.
        cancel_within: seconds outside of cleanups after which a cancel becomes a terminate.
        errands: where tasks run that no activity's function waits for, such as the landing of a cancel.
        parking: parks those that wait for long.
        park_after: seconds after which one that waits is parked.
    """

    journal: Store
    stamp: Callable[[], str]
    publish: Callable[[str, Callable[[], StoredRecord]], None]
    instrument: RestInstrument
    max_payload: int
    flights: Flights
    post: Post
    workers: Workers
    family: Family
    cancel_within: float
    errands: trio.Nursery
    parking: Parking
    park_after: float


class Flights:
    """How many attempts at steps are under way; draining waits for the last.

    Attributes:
        count: how many.
        draining: whether the engine closes, and nothing new may begin.
        watcher: called with the run and the path of each attempt that begins.
    """

    __slots__ = ("_landed", "count", "draining", "watcher")

    def __init__(self) -> None:
        self.count = 0
        self.draining = False
        self.watcher: Callable[[Run, str], None] | None = None
        self._landed: trio.Event | None = None

    def begin(self, run: Run, path: str) -> None:
        self.count += 1
        if self.watcher is not None:
            self.watcher(run, path)

    def end(self) -> None:
        self.count -= 1
        if not self.count and self._landed is not None:
            self._landed.set()

    async def wait_for_none(self) -> None:
        """Wait until no attempt is under way."""
        while self.count:
            self._landed = trio.Event()
            await self._landed.wait()
