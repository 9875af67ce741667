"""A plain call of an activity's function: what the test says comes of its calls, and what it asked for."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn

import attrs
import trio
import trio.testing

from engine.activities.definition import Step
from engine.errors import FakeContextError
from engine.messages import Event
from engine.testing.step import fake_step
from engine.testing.waits import Waits

ID = "fake"
"""The id and the name of an activity that is called without an engine."""


@attrs.define
class Play:
    """What the contexts of one plain call share: what the test said, and what was asked."""

    results: Mapping[str, object]
    messages: list[object]
    waits: Waits = attrs.field(factory=Waits)
    asked: list[str] = attrs.field(factory=list)
    emitted: list[Event[Any]] = attrs.field(factory=list)
    sent: list[tuple[str, object]] = attrs.field(factory=list)
    replied: list[tuple[object, object]] = attrs.field(factory=list)
    noted: dict[str, object] = attrs.field(factory=dict)


@attrs.define
class End:
    """How a branch ended."""

    index: int
    value: Any = None
    error: Exception | None = None


class Place:
    """Where one context stands in a plain call."""

    def __init__(self, play: Play, scope: str) -> None:
        self.play = play
        self._prefix = f"{scope}/" if scope else ""
        self._counts: dict[str, int] = {}
        self._draws = 0

    def next(self, name: str) -> str:
        """The path of the next call of this name, which is noted as asked for."""
        count = self._counts[name] = self._counts.get(name, 0) + 1
        path = f"{self._prefix}{name}" if count == 1 else f"{self._prefix}{name}#{count}"
        self.play.asked.append(path)
        return path

    def is_given(self, path: str, name: str) -> bool:
        return path in self.play.results or name in self.play.results

    def given(self, path: str, name: str) -> Any:
        """What the test says comes of a call."""
        value = self.play.results[path if path in self.play.results else name]
        if isinstance(value, BaseException):
            raise value
        return value

    async def call(self, step: Step[..., Any], args: tuple[Any, ...], name: str) -> Any:
        """A step: the result that the test gave, or a plain call of its function."""
        await trio.lowlevel.checkpoint()
        path = self.next(name)
        step.signature.encode(args)  # what no engine takes is refused here too
        if self.is_given(path, name):
            return self.given(path, name)
        with fake_step(name=name, idempotency_key=f"{ID}/0/{path}"), self.play.waits.step():
            value = step.function(*args)
            if inspect.isawaitable(value):
                value = await value
        codec = step.signature.result
        return codec.decode(codec.encode(value, "result"))

    async def fork(
        self, functions: Sequence[Callable[[], Awaitable[Any]]], *, limit: int | None = None, first: bool = False
    ) -> list[End]:
        """Run functions side by side; returns their ends in their order, or only the one that came first. The first
        error is raised, bare."""
        ends: list[End] = []
        async with self.play.waits.side_by_side(), trio.open_nursery() as nursery:
            slots = trio.CapacityLimiter(limit if limit is not None else max(1, len(functions)))

            async def run(index: int) -> None:
                async with slots:
                    try:
                        ends.append(End(index, await functions[index]()))
                    except Exception as error:  # the edge where user code runs: the error belongs to the call
                        ends.append(End(index, error=error))
                if first or ends[-1].error is not None:
                    nursery.cancel_scope.cancel()

            self.play.waits.entering += 1
            try:
                for index in range(len(functions)):
                    nursery.start_soon(run, index)
                    await trio.testing.wait_all_tasks_blocked()
            finally:
                self.play.waits.entering -= 1
        decided = ends[0] if first else next((end for end in ends if end.error is not None), None)
        if decided is None:
            return sorted(ends, key=lambda end: end.index)
        if decided.error is not None:
            raise decided.error
        return [decided]

    def draw(self, what: str) -> bytes:
        """What a random value is made of: another one for each call, the same in each run."""
        self._draws += 1
        return hashlib.sha256(f"{ID}/{self._prefix}{what}#{self._draws}".encode()).digest()

    def only_an_engine(self, call: str, does: str) -> NoReturn:
        """Refuse a call that stands in no plain call."""
        raise FakeContextError(self.next(call), f"only an engine {does}; run the activity by open_engine")
