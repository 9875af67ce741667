"""How the report writes lengths of time, instants and payloads."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import attrs

LONGEST = 4000
"""Characters of a payload or a traceback that are shown; `playbill show` has the rest."""

_INLINE = 60
"""Characters up to which a payload stands on one line."""


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `850 ms`, `12.3 s`, `3 min 5 s`, `2 h 4 min`, `3 d 2 h`."""
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 0.9995:
        thousandths = seconds * 1000
        return f"{thousandths:.2g} ms" if 0 < thousandths < 10 else f"{thousandths:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for unit, size, next_unit, next_size in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            count, rest = divmod(whole, size)
            return f"{count} {unit} {rest // next_size} {next_unit}" if rest // next_size else f"{count} {unit}"
    return f"{whole} s"


def instant(at: dt.datetime) -> str:
    """An instant to the millisecond, in UTC, which is said once for the whole report."""
    return at.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.") + f"{at.microsecond // 1000:03d}"


def day_and_time(at: dt.datetime) -> str:
    """An instant to the second, in UTC."""
    return at.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def error_type(type: str) -> str:
    """An exception's class as Python's tracebacks name it: those that everybody knows without their module."""
    return type.removeprefix("builtins.")


_BLOCKED_BY = {
    "nondeterminism": ("its code does not fit its history", "Mend the code so that it fits what was done, then: "),
    "definition": (
        "the engine had no definition of it",
        "An engine that has the definition takes it on by itself; or: ",
    ),
    "poison": ("it was running each time that the process ended", "Find out what ends the process, then: "),
}


def blocked_by(cause: str) -> str:
    """Why an activity is blocked, in words."""
    return _BLOCKED_BY.get(cause, (f"cause: {cause}", ""))[0]


def way_out(cause: str) -> str:
    """What is to be done about a blocked activity before the command that takes it on."""
    return _BLOCKED_BY.get(cause, ("", "Take it on: "))[1]


@attrs.frozen
class Shown:
    """A text as it is shown.

    Attributes:
        text: what is shown of it.
        left_out: how many characters are not.
        inline: whether it stands on one line.
    """

    text: str
    left_out: int
    inline: bool


def payload(value: Any) -> Shown:
    """A payload, as JSON: on one line where it is short."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > _INLINE:
        text = json.dumps(value, ensure_ascii=False, indent=2)
        return shortened(text)
    return Shown(text, 0, True)


def shortened(text: str) -> Shown:
    """A text of any length."""
    return Shown(text[:LONGEST], max(0, len(text) - LONGEST), False)


def one_line(text: str, length: int = 160) -> str:
    """The beginning of a text."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"
