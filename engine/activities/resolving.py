"""Settling a step that was interrupted: what somebody found out takes the place of what nobody knew.

An interrupted step stands so until its `StepInterruptedError` has left the function and the activity is `blocked` on
its account. `step.resolved` then supersedes the interruption, the ends of the branches and scopes around it, and what
was cancelled beside it, as a restart does with a failure that it tries anew; the activity goes on with the value, or
the error, as if the step had given it. An interruption that was caught has been acted upon, and is settled by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import orjson

from engine.activities.failures import superseded_by
from engine.codec import codec_for, encode_error
from engine.errors import CommandDeniedError, PayloadError, StepFailedError
from engine.journal import StoredRecord


@attrs.frozen(kw_only=True)
class Resolution:
    """What became of a step, as somebody found out.

    Attributes:
        path: the step's path.
        data: what is recorded of it, as JSON text: its `value`, or its `error`.
        error: the error's type, if it is one.
    """

    path: str
    data: str
    error: str | None = None

    @classmethod
    def of(cls, path: str, value: object, error: Exception | str | None) -> Resolution:
        """A resolution with a value, or with an error.

        Raises:
            PayloadError: the path is none, the value cannot be encoded, or both are given.
        """
        if not isinstance(path, str) or not path:
            raise PayloadError("path", f"{path!r} is no path of a step, as `charge` or `map[3]/pack`")
        if error is None:
            return cls(path=path, data=f'{{"value":{codec_for(type(value)).encode(value, "value")}}}')
        if value is not None:
            raise PayloadError("error", "a step has either a value or an error; give one of them")
        if not isinstance(error, Exception | str):
            raise PayloadError("error", f"{error!r} is neither an exception nor a text")
        tree = encode_error(StepFailedError("resolved", error) if isinstance(error, str) else error)
        return cls(path=path, data=f'{{"error":{orjson.dumps(tree).decode()}}}', error=tree["type"])


def unresolvable(path: str, records: Sequence[StoredRecord]) -> CommandDeniedError | None:
    """Why a step of an activity that is blocked cannot be settled: it does not stand interrupted. `None` if it does."""
    blocked = next((record for record in reversed(records) if record.kind == "activity.blocked"), None)
    standing = blocked.facts.get("interrupted", ()) if blocked is not None else ()
    if path not in standing:
        others = f"; {', '.join(standing)} does" if standing else ""
        return CommandDeniedError(f"step {path!r} does not stand interrupted{others}")
    return None


def resolved(resolution: Resolution, records: Sequence[StoredRecord], *, command: int) -> tuple[StoredRecord, Any]:
    """What is to be recorded of a step that is settled.

    Args:
        resolution: with what.
        records: the activity's.
        command: the `seq` of the command.

    Returns:
        The record of the interruption, and the facts of the resolution.
    """
    last = next(
        record for record in reversed(records) if record.kind == "step.interrupted" and record.path == resolution.path
    )
    facts = {
        **{field: last.facts[field] for field in ("generation", "scope", "digest")},
        "command": command,
        "superseded": superseded_by([resolution.path], records),
    }
    if resolution.error is not None:
        facts |= {"error": resolution.error, "final": True, "origins": [resolution.path]}
    return last, facts
