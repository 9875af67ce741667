"""Poison: an activity that takes the process down each time that it runs.

Each unclean end of the process at which an activity was running, and since which nothing of its own was recorded,
counts against it. Nobody can tell which of those that ran was to blame, so whoever met a second one is a *suspect*: the
next engine resumes the suspects before anybody else, one at a time, and nobody runs beside one until it has recorded
something. At the last count that it can stand it is blocked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.journal import Store, StoredRecord

SUSPECT_AFTER = 2
"""Unclean ends in a row: after one, all that ran would be suspects, and be resumed one after another."""

ALONE_FOR = 2.0
"""Seconds for which a suspect that records nothing is alone; then it runs beside others."""

TOLD_BY = 64
"""Records of an activity, the last ones, that tell at how many ends it was running: far more than what others can have
sent or asked it between two ends, which do not count."""


def unclean_ends(records: Sequence[StoredRecord], clean: bool) -> int:
    """At how many unclean ends of the process in a row an activity was running, without a record of its own between.

    Args:
        records: the activity's, as an engine that opens the journal finds them.
        clean: whether the engine before had closed the journal properly.
    """
    if clean:
        return 0
    count = 1
    for record in reversed(records):
        if record.kind == "activity.resumed" and record.facts["cause"] == "opened" and not record.facts["clean"]:
            count += 1
        elif not record.kind.startswith(_OF_OTHERS):
            break
    return count


_OF_OTHERS = ("command.", "message.received", "activity.cancelling")
"""Records in an activity's stream that others made."""


def is_suspect(ends: int, poison_after: int) -> bool:
    """Whether an activity is to be resumed alone after so many unclean ends."""
    return ends >= min(SUSPECT_AFTER, poison_after - 1) > 0


class Witness:
    """A journal as a suspect is given it: tells when something of its own is durable."""

    def __init__(self, journal: Store, cleared: Callable[[], None]) -> None:
        self._journal = journal
        self._cleared = cleared

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(
        self,
        stream: str,
        kind: str,
        *,
        facts: Mapping[str, Any] | str = "{}",
        landed: Callable[[], None] | None = None,
        **columns: Any,
    ) -> int:
        def both() -> None:
            if landed is not None:
                landed()
            self._cleared()

        return self._journal.append(stream, kind, facts=facts, landed=both, **columns)
