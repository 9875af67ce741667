"""Retrying: an activity that has failed is run again, as far as nothing was done about what it failed of.

What a restart would do, where its limit did not forbid it: the open failures are forgotten and tried anew, everything
else is memoized, and the limit is full again. A failure that was compensated is not tried again, since that would do
what was undone; a fork can.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from engine.activities.failures import superseded_by
from engine.activities.history import generation_of, is_cleanup
from engine.errors import CommandDeniedError
from engine.journal import StoredRecord


@attrs.frozen
class Retrial:
    """What is to be forgotten of an activity that is run again.

    Attributes:
        superseded: the paths whose outcomes are forgotten.
        cancelling: whether it is to be cancelled still: it failed in a cleanup.
    """

    superseded: Sequence[str]
    cancelling: bool


def retrial_of(id: str, records: Sequence[StoredRecord], *, now: str, has_time: bool) -> Retrial:
    """What a retry of an activity forgets.

    Args:
        id: the activity.
        records: its records; it has failed.
        now: the present instant.
        has_time: whether it is given a new deadline.

    Raises:
        CommandDeniedError: something was done about all that it failed of, or its deadline has passed.
    """
    deadline = deadline_of(records)
    records = generation_of(records)
    failed = next(record for record in reversed(records) if record.kind == "activity.failed")
    cancelling = _cancelling(records)
    if failed.facts["why"] == "deadline" and cancelling is not None:
        _check_untouched(id, cancelling, records)
        retrial = Retrial([*_given_up_after(cancelling, records)], cancelling=False)
    else:
        retrial = Retrial(_tried_anew(id, failed, records), cancelling=cancelling is not None)
    if deadline is not None and deadline <= now and not has_time and not retrial.cancelling:
        raise CommandDeniedError(f"the deadline of activity {id!r} has passed; give it a new timeout")
    return retrial


def deadline_of(records: Sequence[StoredRecord]) -> str | None:
    """The instant by which an activity must have ended, if there is one."""
    return next((record.facts["deadline"] for record in reversed(records) if "deadline" in record.facts), None)


def _tried_anew(id: str, failed: StoredRecord, records: Sequence[StoredRecord]) -> Sequence[str]:
    unsettled: Sequence[str] = failed.facts["open"]
    acted_upon: Sequence[str] = failed.facts["acted_upon"]
    if not unsettled and acted_upon:
        at = min(acted_upon, key=lambda path: _last_of(path, records))
        raise CommandDeniedError(
            f"activity {id!r} failed of what cannot be tried again, since it is final or something was done about it; "
            f"fork it at {at}"
        )
    return superseded_by(unsettled, records)


def _cancelling(records: Sequence[StoredRecord]) -> StoredRecord | None:
    """The cancel of the run that failed."""
    found: StoredRecord | None = None
    for record in records:
        if record.kind == "activity.cancelling":
            found = found or record
        elif record.kind == "activity.retried" and not record.facts.get("cancelling"):
            found = None
    return found


def _check_untouched(id: str, cancelling: StoredRecord, records: Sequence[StoredRecord]) -> None:
    cleanup = next((record.path for record in records if record.seq > cancelling.seq and is_cleanup(record)), None)
    if cleanup is not None:
        raise CommandDeniedError(
            f"activity {id!r} was cleaned up after its deadline, which is not to be undone; fork it at {cleanup}"
        )


def _given_up_after(cancelling: StoredRecord, records: Sequence[StoredRecord]) -> list[str]:
    """The branches and scopes that ended on account of the cancel."""
    return [
        record.path
        for record in records
        if record.seq > cancelling.seq and record.path is not None and record.kind in ("branch.ended", "scope.ended")
    ]


def _last_of(path: str, records: Sequence[StoredRecord]) -> int:
    return max((record.seq for record in records if record.path == path), default=0)
