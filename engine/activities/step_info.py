"""What a step can ask of itself, wherever it runs: in the loop, in a thread, or in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import attrs

from engine.codec import codec_for
from engine.errors import NoStepError


@attrs.define(slots=True)
class StepInfo:
    """What a step can ask of itself.

    Attributes:
        name: its name.
        path: its path in the activity.
        attempt: the number of this attempt, from 1. Above 1 it may have taken effect before.
        idempotency_key: the same for every attempt, restart and retry; pass it on to the outside.
        details: what an attempt before this one left last by `heartbeat`, as plain JSON values; `None` if none did.
    """

    name: str
    path: str
    attempt: int
    idempotency_key: str
    details: Any = None
    _beat: Callable[[str], None] | None = attrs.field(default=None, kw_only=True, repr=False, eq=False)

    def heartbeat(self, details: object = None, /) -> None:
        """Say how far the step is, and leave what the next attempt may begin with. May be called as often as it suits:
        what it leaves is recorded once a second at most, so that a crash loses a second of it. Does not wait for that,
        but in a thread for the loop.

        Args:
            details: of any type that can be encoded.

        Raises:
            PayloadError: the details cannot be encoded.
        """
        text = codec_for(type(details)).encode(details, "details")
        if self._beat is not None:
            self._beat(text)


CURRENT_STEP: ContextVar[StepInfo | None] = ContextVar("playbill_step", default=None)
"""The innermost step that is running here."""


def current_step() -> StepInfo:
    """The innermost step that is running, in the loop or in its worker thread.

    Raises:
        NoStepError: no step is running here.
    """
    info = CURRENT_STEP.get()
    if info is None:
        raise NoStepError("no step is running here; current_step() is for the functions given to ctx.step and ctx.map")
    return info


@contextmanager
def in_attempt(info: StepInfo) -> Iterator[None]:
    """A block in which an attempt at a step is made."""
    token = CURRENT_STEP.set(info)
    try:
        yield
    finally:
        CURRENT_STEP.reset(token)


def in_step() -> bool:
    """Whether a step is running here."""
    return CURRENT_STEP.get() is not None
