"""The heartbeats of a step: what an attempt leaves for the next one, should there be one.

The last details are kept in memory, and recorded (`step.heartbeat`) once a second at most: at once where the record
before is older, else when the second is over. A failed attempt is recorded with them. Nobody waits for the records.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import trio

from engine.activities.history import RecordedCall
from engine.codec import codec_for, parse_exactly

EVERY = 1.0
"""Seconds between two records of one step."""

_PLAIN = codec_for(Any)


class Heartbeats:
    """What the attempts at one step have left.

    Attributes:
        last: the last details, as JSON text; `None` where there are none.
    """

    def __init__(self, last: str | None, record: Callable[[str], None], errands: trio.Nursery) -> None:
        """Begin with what attempts before have left.

        Args:
            last: the details, as JSON text.
            record: records details, without waiting.
            errands: where what is not due yet waits for its time.
        """
        self.last = last
        self._record = record
        self._errands = errands
        self._next = -math.inf
        self._waits = False
        self._is_heard = False

    @property
    def details(self) -> Any:
        """The last details, as an attempt is given them."""
        return None if self.last is None else _PLAIN.decode(self.last)

    def take(self, text: str) -> None:
        """An attempt leaves details."""
        self.last = text
        self._is_heard = True
        now = trio.current_time()
        if now >= self._next:
            self._next = now + EVERY
            self._record(text)
        elif not self._waits:
            self._waits = True
            self._errands.start_soon(self._record_later)

    def end(self) -> None:
        """The attempt is over: its end is recorded, or it was given up."""
        self._is_heard = False

    async def _record_later(self) -> None:
        await trio.sleep_until(self._next)
        self._waits = False
        if self._is_heard and self.last is not None:
            self._next = trio.current_time() + EVERY
            self._record(self.last)


def details_of(call: RecordedCall) -> str | None:
    """The details that were recorded last of a step, with a heartbeat or with a failed attempt; as JSON text."""
    last = None
    for record in sorted((one for one in (call.beat, call.attempted) if one is not None), key=lambda one: one.seq):
        if record.data is not None and '"details":' in record.data:
            fields = parse_exactly(record.data)
            last = _PLAIN.encode(fields["details"]) if "details" in fields else last
    return last
