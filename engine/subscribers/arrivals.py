"""Events on their way to subscribers, and where a channel reads those that it missed: the journal."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from engine.journal import Store, StoredRecord

MOST_AT_ONCE = 128
"""How many events are read at a time, so that other tasks wait no more than a millisecond or so."""


@attrs.frozen
class Arrival:
    """An event as a channel sees it; its data is decoded when it is delivered.

    Attributes:
        seq: its place in the journal.
        topic: its topic.
        record: the record that holds it.
    """

    seq: int
    topic: str
    record: StoredRecord

    @classmethod
    def of(cls, record: StoredRecord) -> Arrival:
        return cls(record.seq, record.name or "", record)


class JournalEvents:
    """The journal as the source of one channel.

    Attributes:
        last_read: the `seq` of the last event that was read, matching or not; 0 where there was none.
    """

    def __init__(self, journal: Store, *, system: bool, but_of: str) -> None:
        """
        Args:
            journal: where events are read.
            system: whether the engine's own doings are seen as events.
            but_of: the stream whose records are left out of these: a subscriber that is told of what befalls it, and
                fails at that, would never come to an end.
        """
        self._journal = journal
        self._system = system
        self._but_of = but_of
        self.last_read = 0

    async def read(self, after: int, limit: int) -> tuple[Sequence[Arrival], int]:
        """The durable events above a `seq`, and the `seq` up to which these are all there are."""
        await trio.lowlevel.checkpoint()
        records, read_to = self._journal.events(after, min(limit, MOST_AT_ONCE), system=self._system)
        if self._system:
            records = [record for record in records if record.stream != self._but_of]
        if records:
            self.last_read = records[-1].seq
        return [Arrival.of(record) for record in records], read_to
