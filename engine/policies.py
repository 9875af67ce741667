"""How failures are met: `Retry` governs a step and the delivery of an event, `Restart` the body of an activity.

Both are frozen and checked where they are made. What they decide are plain functions of values; the rooms that use them
wait and record.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from engine.errors import DefinitionError, RetryAfter


def _types(value: Iterable[type[Exception]] | type[Exception]) -> tuple[type[Exception], ...]:
    return (value,) if isinstance(value, type) else tuple(value)


def _check_types(instance: object, attribute: attrs.Attribute[Any], value: Sequence[Any]) -> None:
    for entry in value:
        if not (isinstance(entry, type) and issubclass(entry, Exception)):
            raise DefinitionError(
                f"{attribute.name}={entry!r}: give exception classes, as in {attribute.name}=(OSError,)"
            )


def _at_least(least: float, most: float = sys.float_info.max) -> Callable[[object, attrs.Attribute[Any], Any], None]:
    def check(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise DefinitionError(
                f"{type(instance).__name__}({attribute.name}={value!r}): give a number of at least {least:g}"
            )

    return check


def _count(least: int) -> Callable[[object, attrs.Attribute[Any], Any], None]:
    def check(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DefinitionError(
                f"{type(instance).__name__}({attribute.name}={value!r}): give a whole number of at least {least}"
            )

    return check


def _delay(number: int, initial: float, factor: float, maximum: float, jitter: float) -> float:
    """Seconds before try `number + 1`: initial * factor^(number - 1), at most `maximum`, give or take `jitter`."""
    try:
        delay = initial * factor ** (number - 1)
    except OverflowError:
        delay = maximum
    return min(delay, maximum) * (1 + jitter * random.uniform(-1, 1))


@attrs.frozen
class Retry:
    """How often a step, or the delivery of an event, is tried, and how long to wait between the attempts.

    `Retry(5)` waits 0.2, 0.4, 0.8 and 1.6 seconds, each give or take a tenth; with more attempts never longer than 30.
    The wait is durable: over a restart of the process the rest of it is waited for.

    Args:
        attempts: how many attempts in all; 1 for no second one.
        initial: seconds before the second attempt.
        factor: by which each further wait is longer.
        maximum: seconds that a wait is never longer than, jitter aside.
        jitter: the part of a wait, from 0 to 1, by which it differs at random.
        on: only these are tried again; a group counts when one of its leaves does.
        give_up_on: these are never tried again, by no restart of the activity either.

    Raises:
        DefinitionError: a value is out of its range.
    """

    attempts: int = attrs.field(default=1, validator=_count(1))
    initial: float = attrs.field(default=0.2, validator=_at_least(0))
    factor: float = attrs.field(default=2.0, validator=_at_least(1))
    maximum: float = attrs.field(default=30.0, validator=_at_least(0))
    jitter: float = attrs.field(default=0.1, validator=_at_least(0, 1))
    on: Sequence[type[Exception]] = attrs.field(
        default=(Exception,), kw_only=True, converter=_types, validator=_check_types
    )
    give_up_on: Sequence[type[Exception]] = attrs.field(
        default=(), kw_only=True, converter=_types, validator=_check_types
    )

    def is_final(self, error: BaseException) -> bool:
        """Whether this failure is given up for good."""
        return matches(error, self.give_up_on)

    def delay_after(self, failures: int, error: BaseException) -> float | None:
        """Seconds to wait after so many failed attempts, the last by this error; `None` where it is not tried again."""
        if failures >= self.attempts or self.is_final(error) or not matches(error, self.on):
            return None
        if isinstance(error, RetryAfter):
            return max(0.0, error.seconds)
        return _delay(failures, self.initial, self.factor, self.maximum, self.jitter)


@attrs.frozen
class Restart:
    """How often an activity's function is run again after an exception left it.

    `Restart(3, 60)` allows three restarts in sixty seconds, after 0.1, 0.2 and 0.4 seconds, and three in a row that get
    no further, however long that takes. Ends of the process count for nothing.

    Args:
        attempts: how many restarts; 0 for none.
        within: seconds within which they count.
        initial, factor, maximum, jitter: the wait before a restart, as in `Retry`.

    Raises:
        DefinitionError: a value is out of its range.
    """

    attempts: int = attrs.field(default=3, validator=_count(0))
    within: float = attrs.field(default=60.0, validator=_at_least(0, math.inf))
    initial: float = attrs.field(default=0.1, kw_only=True, validator=_at_least(0))
    factor: float = attrs.field(default=2.0, kw_only=True, validator=_at_least(1))
    maximum: float = attrs.field(default=30.0, kw_only=True, validator=_at_least(0))
    jitter: float = attrs.field(default=0.1, kw_only=True, validator=_at_least(0, 1))

    def delay_after(self, restarts: int) -> float | None:
        """Seconds to wait before the next restart when so many count already; `None` where the limit is spent."""
        if restarts >= self.attempts:
            return None
        return _delay(restarts + 1, self.initial, self.factor, self.maximum, self.jitter)


def matches(error: BaseException, types: Sequence[type[Exception]]) -> bool:
    """Whether the error, or one leaf of a group, is of one of these types."""
    if isinstance(error, tuple(types)):
        return True
    return isinstance(error, BaseExceptionGroup) and any(matches(member, types) for member in error.exceptions)
