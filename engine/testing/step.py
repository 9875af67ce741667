"""A step's surroundings, for calling its function without an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs

from engine.activities import StepInfo
from engine.activities.step_info import CURRENT_STEP


@attrs.define(slots=True)
class FakeStep(StepInfo):
    """What a step can ask of itself, as the test says it; `details` is also what it leaves by `heartbeat`."""

    def heartbeat(self, details: object = None, /) -> None:
        """Say that the step is alive, and leave what the next attempt may begin with."""
        self.details = details


@contextlib.contextmanager
def fake_step(
    *, name: str = "step", attempt: int = 1, idempotency_key: str = "test", details: object = None
) -> Iterator[StepInfo]:
    """Have `current_step()` give this step within the block, so that a step's function can be called without an engine.

    Args:
        name: its name, and its path.
        attempt: the number of the attempt.
        idempotency_key: what the outside is to tell a repetition by.
        details: what the attempt before left by `heartbeat`.

    Returns:
        A context manager that gives what `current_step()` gives; its `details` are then what the function left last.
    """
    info = FakeStep(name, name, attempt, idempotency_key, details)
    token = CURRENT_STEP.set(info)
    try:
        yield info
    finally:
        CURRENT_STEP.reset(token)
