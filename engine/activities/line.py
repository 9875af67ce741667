"""Those that could run and do not, best first: the higher priority, then who was asked for first.

They stand in the journal and nowhere else: those that are `pending`, those that are parked and whose time has come, and
those that an engine before left running. So a line of a million costs no memory; what is read of it at a time is
bounded. Whoever is taken out of the line is taken on: it is `live` before the line is asked again, or its status is
another.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice

from engine.activities.execution import Execution
from engine.journal import ActivityState, Store
from engine.messages import ActivityStatus

DUE_AT_ONCE = 10_000
"""Of those whose time has come so many are read at once: to find the best of them, all must be looked at."""

LEFT_AT_ONCE = 1_000
"""Of those that were left running so many are read at once."""

_PENDING = (ActivityStatus.PENDING,)
_LEFT = (ActivityStatus.RUNNING, ActivityStatus.CANCELLING)


class Line:
    """Who is next."""

    def __init__(self, journal: Store, stamp: Callable[[], str], live: Mapping[str, Execution]) -> None:
        """Read the line of a journal.

        Args:
            journal: where it stands.
            stamp: gives the present instant.
            live: those that run here, and so do not stand in line.
        """
        self._journal = journal
        self._stamp = stamp
        self._live = live
        self._due: deque[ActivityState] = deque()
        self._left: deque[ActivityState] = deque()
        self._left_in: Collection[ActivityStatus] = (*_LEFT, ActivityStatus.BLOCKED)
        self._after: tuple[int, int] | None = None
        self._all_read = False

    def look_again(self) -> None:
        """One that is `running` by the journal does not run here: find it."""
        self._left.clear()
        self._left_in = _LEFT
        self._after = None
        self._all_read = False

    def take(self, most: int) -> list[ActivityState]:
        """Take the best out of the line, at most so many. Those that were blocked come once, when the line is read for
        the first time: they may have been waiting for this engine's definitions."""
        pending = self._absent(self._journal.in_line(_PENDING, most))
        self._fill_left(most)
        if len(self._due) < most:
            self._due = deque(self._absent(self._journal.due(self._stamp(), DUE_AT_ONCE)))
        sources = (pending, islice(self._left, most), islice(self._due, most))
        taken = list(islice(heapq.merge(*sources, key=_rank), most))
        ids = {state.id for state in taken}
        for waiting in (self._left, self._due):
            while waiting and waiting[0].id in ids:
                waiting.popleft()
        return taken

    def left(self) -> Iterator[ActivityState]:
        """All that were left running, best first."""
        after: tuple[int, int] | None = None
        while page := self._journal.in_line(_LEFT, LEFT_AT_ONCE, after=after):
            after = page[-1].rank
            yield from page

    def _fill_left(self, most: int) -> None:
        while len(self._left) < most and not self._all_read:
            page = self._journal.in_line(self._left_in, LEFT_AT_ONCE, after=self._after)
            self._all_read = len(page) < LEFT_AT_ONCE
            if page:
                self._after = page[-1].rank
            self._left.extend(self._absent(page))

    def _absent(self, states: Iterable[ActivityState]) -> list[ActivityState]:
        return [state for state in states if state.id not in self._live]


def _rank(state: ActivityState) -> tuple[int, int]:
    return state.rank
