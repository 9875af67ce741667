"""A step's surroundings, for calling its function without an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import orjson

from engine.activities import StepInfo
from engine.activities.step_info import in_attempt


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

    def leave(text: str) -> None:
        info.details = orjson.loads(text)

    info = StepInfo(name, name, attempt, idempotency_key, details, beat=leave)
    with in_attempt(info):
        yield info
