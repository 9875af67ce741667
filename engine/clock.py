"""Wall time: what the engine calls now, and how an instant is written.

The engine asks a `Clock` and nothing else for the time of day, so that tests can replace it. Every instant it writes is
RFC 3339 in UTC with microseconds, 27 characters, `2026-11-23T18:55:19.123456Z`: texts of one length sort as the
instants do. An instant is stamped twice for each step, so the system clock's stamps keep the text of the current
second and write only the microseconds anew.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import gmtime, strftime, time_ns
from typing import Protocol

from .errors import PayloadError

_SECOND = 1_000_000_000  # nanoseconds
_DIGITS = [f"{number:03d}" for number in range(1000)]  # a third of what formatting with `06d` costs


class Clock(Protocol):
    """Whatever can say what time it is."""

    def now(self) -> datetime:
        """The instant that is now: aware, in UTC."""
        ...


class SystemClock:
    """The system's clock. It may go back: what is recorded is what it said."""

    __slots__ = ("_second",)

    def __init__(self) -> None:
        # When the current second began, in nanoseconds, and its text: one value, so that threads see both or neither.
        self._second = (-_SECOND, "")

    def now(self) -> datetime:
        return datetime.now(UTC)

    def stamp(self) -> str:
        """What `stamp_of(self.now())` would give, in a fraction of the time."""
        began, prefix = self._second
        now = time_ns()
        passed = now - began
        if not 0 <= passed < _SECOND:  # also when the clock went back
            passed = now % _SECOND
            prefix = strftime("%Y-%m-%dT%H:%M:%S.", gmtime(now // _SECOND))
            self._second = (now - passed, prefix)
        return f"{prefix}{_DIGITS[passed // 1_000_000]}{_DIGITS[passed // 1000 % 1000]}Z"


def stamp(clock: Clock) -> str:
    """The instant that is now by this clock, as text of 27 characters."""
    if type(clock) is SystemClock:
        return clock.stamp()
    return stamp_of(clock.now())


def stamp_of(instant: datetime) -> str:
    """An instant as text of 27 characters, in UTC.

    Raises:
        PayloadError: it is naive, so that nobody can say which instant it is.
    """
    if instant.tzinfo is not UTC:
        if instant.utcoffset() is None:
            raise PayloadError("", f"{instant.isoformat()} is naive; give an aware one, as datetime.now(timezone.utc)")
        instant = instant.astimezone(UTC)
    return instant.isoformat(timespec="microseconds")[:26] + "Z"


def parse(text: str) -> datetime:
    """The instant that a text says: aware, in UTC. Takes any offset of RFC 3339, not only `Z`.

    Raises:
        PayloadError: it says no instant, or has no offset.
    """
    try:
        instant = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise PayloadError("", f"{text!r} is no instant of RFC 3339, as 2026-11-23T18:55:19.123456Z") from error
    if instant.tzinfo is UTC:
        return instant
    if instant.tzinfo is None:
        raise PayloadError("", f"{text!r} has no offset; end it with Z, or with one as +01:00")
    return instant.astimezone(UTC)
