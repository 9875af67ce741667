"""What each command does to an activity in each status: the table that the engine reads, and that the reference shows.

A command that is refused is recorded as `command.denied`, with the status; every other as `command.accepted`.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.messages import ActivityStatus as Status

REFUSED = "refused"
"""Recorded as denied; `CommandDeniedError` for the caller."""

SAME = "same"
"""Accepted and recorded; nothing changes."""

KEPT = "kept, acts when it runs again"
"""Accepted and recorded; it takes effect when the activity is resumed."""

FORKED = "ok"
"""Accepted and recorded; another activity begins, and nothing changes in this one."""

_ORDER = tuple(Status)


def _row(*effects: str) -> Mapping[Status, str]:
    """One command's effects, in the order of the statuses."""
    return dict(zip(_ORDER, effects, strict=True))


_NO = REFUSED

TABLE: Mapping[str, Mapping[Status, str]] = {
    "cancel": _row("cancelled", "cancelling", "cancelling", "cancelling", KEPT, SAME, _NO, _NO, SAME),
    "terminate": _row("cancelled", "cancelled", "cancelled", "cancelled", "cancelled", "cancelled", _NO, _NO, SAME),
    "pause": _row("paused", "paused", "paused", SAME, _NO, _NO, _NO, _NO, _NO),
    "resume": _row(_NO, _NO, _NO, "goes on", "tried again", _NO, _NO, _NO, _NO),
    "retry": _row(_NO, _NO, _NO, _NO, _NO, _NO, _NO, "runs again, if a failure is open", _NO),
    "send": _row("kept", "kept", "kept, wakes", "kept", "kept", "kept", _NO, _NO, _NO),
    "fork": _row(_NO, *[FORKED] * 8),
    "resolve": _row(_NO, _NO, _NO, _NO, "tried again, where that step stands interrupted", _NO, _NO, _NO, _NO),
}
"""What a command does, by its name and by the status of the activity that it is given to. Where it names a status, the
activity is in that status afterwards."""
