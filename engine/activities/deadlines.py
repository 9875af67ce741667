"""The deadlines of activities: instants that are fixed when an activity first runs, and hold whatever becomes of it.

One actor waits for the first of them. It is told of each that is fixed while it runs; those of activities that were
begun before it reads from the journal, so many at a time that come soonest, so that a journal with many of them costs
no memory. Within one life they run on the monotonic clock; over an engine's ends no activity is given more time than it
had at first, though the clock went back.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from engine.activities.waiting import rest_of
from engine.actors import Mailbox
from engine.journal import Store

READ_AT_ONCE = 1_000
"""How many deadlines are read from the journal at once, and so are in memory beside those of this life."""


class Deadlines:
    """Knows which deadline comes next, and has it acted upon when it has come."""

    def __init__(self, journal: Store, stamp: Callable[[], str], passed: Callable[[str, str], Awaitable[None]]) -> None:
        """Prepare to wait.

        Args:
            journal: where the activities stand.
            stamp: gives the present instant, as records hold it.
            passed: called with an activity's id and its deadline, when that is over.
        """
        self._journal = journal
        self._stamp = stamp
        self._passed = passed
        # By Trio's clock; each with the activity's id and the instant.
        self._next: list[tuple[float, str, str]] = []
        self._read_up_to: tuple[str, str] | None = ("", "")
        self._look = trio.Event()

    def fix(self, id: str, began: str, deadline: str) -> None:
        """An activity first runs, and has a deadline.

        Args:
            id: its id.
            began: the instant at which it begins.
            deadline: the instant by which it must have ended.
        """
        heapq.heappush(self._next, (trio.current_time() + rest_of(began, deadline, self._stamp()), id, deadline))
        if self._next[0][1] == id:
            self._look.set()

    async def serve(self, mailbox: Mailbox[Any]) -> None:
        """The actor: wait for the next deadline, and act upon it."""
        now = self._stamp()
        for id, began, deadline in self._journal.deadlines_begun_after(now):
            # The clock went back: by the instants alone they would have more time than they had.
            self.fix(id, began, deadline)
        while True:
            self._look = trio.Event()
            self._read()
            at = self._next[0][0] if self._next else math.inf
            with trio.move_on_at(at):
                await self._look.wait()
            while self._next and self._next[0][0] <= trio.current_time():
                _, id, deadline = heapq.heappop(self._next)
                await self._passed(id, deadline)

    def _read(self) -> None:
        """Have in memory what comes next: whatever stands in the journal comes after the last of what was read."""
        while self._read_up_to is not None and len(self._next) < READ_AT_ONCE:
            page = self._journal.deadlines(self._read_up_to, READ_AT_ONCE)
            self._read_up_to = (page[-1][2], page[-1][0]) if len(page) == READ_AT_ONCE else None
            known = {id for _, id, _ in self._next}
            for id, began, deadline in page:
                if id not in known:
                    self.fix(id, began, deadline)
