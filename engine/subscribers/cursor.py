"""How far a subscriber has got, and how that is recorded.

An event is *settled* when its handler returned, or when it became a dead letter, or does not match. The cursor is moved
by `delivery.handled` records, each from where the one before ended up to where everything is settled now. Nobody waits
for them: as long as one is on its way to the disk what returns is counted, and the next one, written when that has
landed, is for all of it. So there is at most one such record a commit, however fast the handler is.

| what happens | a record on its way | none |
|---|---|---|
| an event is settled | is counted | writes |
| the record lands | writes, if any were counted | |
| 256 settled events are not durable | the handler waits for the record to land | |
| a while of events that do not match | | writes, if that is any further |
| a dead letter, the end of a run | writes, if that is any further | the same |

The record is never ahead of what returned, and a crash never repeats more than those 256.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from engine.journal import Store

MOST_LATE = 256
"""How many settled events may be without a durable record."""


class Cursor:
    """One subscriber's cursor.

    Attributes:
        recorded: up to where the last record goes that was appended.
    """

    def __init__(self, journal: Store, stream: str, name: str, *, settled: Callable[[], int]) -> None:
        """
        Args:
            journal: where it is recorded.
            stream: the subscriber's stream.
            name: the subscriber's name.
            settled: gives the `seq` up to which everything is settled at this moment.
        """
        self._journal = journal
        self._stream = stream
        self._name = name
        self._settled = settled
        self.recorded = 0
        self._counted = 0  # settled since the last record was appended
        self._landing = 0  # settled, and in a record on its way
        self._on_their_way = 0  # records
        self._last = 0  # seq of the last record

    @property
    def late(self) -> int:
        """How many settled events have no durable record yet."""
        return self._counted + self._landing

    async def begin(self) -> None:
        """Wait until all that was appended before is durable; the next record goes on from there."""
        while self._on_their_way:
            await self._journal.durable(self._last)
        state = self._journal.subscription(self._name)
        assert state is not None, "a subscriber is attached before it runs"
        self.recorded = state.cursor
        self._counted = 0

    def settle(self) -> None:
        """Note that one more event is settled. Never waits."""
        self._counted += 1
        if not self._on_their_way:
            self.write()

    def pass_over(self) -> None:
        """Take the cursor over events that do not match, unless a record is on its way. Never waits."""
        if not self._on_their_way:
            self.write()

    def write(self) -> None:
        """Append a record of how far everything is settled, if that is any further. Never waits."""
        to = self._settled()
        if to <= self.recorded:
            return
        counted, self._counted = self._counted, 0
        self._landing += counted
        self._on_their_way += 1
        self._last = self._journal.append(
            self._stream,
            "delivery.handled",
            name=self._name,
            facts={"from": self.recorded, "to": to, "beyond": []},
            landed=functools.partial(self._landed, counted),
        )
        self.recorded = to

    def _landed(self, counted: int) -> None:
        self._landing -= counted
        self._on_their_way -= 1
        if self._counted and not self._on_their_way:
            self.write()

    async def room(self) -> None:
        """Wait while too many events are settled without a durable record. Cancelling comes at the next checkpoint."""
        while self.late >= MOST_LATE and self._on_their_way:
            await self._journal.durable(self._last)
