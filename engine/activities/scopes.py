"""A scope: the calls of one branch, whose names are counted and whose order is compared with the recorded one."""

from __future__ import annotations

from collections.abc import Mapping

from engine.activities.history import RecordedCall
from engine.journal import StoredRecord
from engine.journal.log import quoted


class Scope:
    """The calls of one branch, compared in order with those that are recorded.

    Attributes:
        path: the branch's path; empty for the activity's own function.
        facts: the beginning of the facts of each of its records, as JSON text.
        last_seq: the `seq` of the last outcome that was given in it.
        drawn: what `patched` answered in it, by name.
        takings: the messages that were received in it, or in a scope within, and after which nothing else was recorded
            there; by their ids. A branch that loses gives them back.
    """

    __slots__ = ("_around", "_counts", "_next", "_prefix", "_recorded", "drawn", "facts", "last_seq", "path", "takings")

    def __init__(
        self,
        path: str,
        generation: int,
        recorded: list[RecordedCall],
        last_seq: int,
        drawn: Mapping[str, bool] = {},
        around: Scope | None = None,
    ) -> None:
        self.path = path
        self._around = around
        self.takings: dict[str, StoredRecord] = {}
        self.drawn = dict(drawn)
        self.facts = f'{{"generation":{generation},"scope":{quoted(path)}'
        self.last_seq = last_seq
        self._prefix = f"{path}/" if path else ""
        self._counts: dict[str, int] = {}
        self._recorded = recorded
        self._next = 0

    def next_path(self, name: str) -> str:
        """The path of the next call of this name."""
        count = self._counts.get(name, 0) + 1
        self._counts[name] = count
        return f"{self._prefix}{name}" if count == 1 else f"{self._prefix}{name}#{count}"

    def next_recorded(self) -> RecordedCall | None:
        """The recorded call that stands next, if there is one."""
        if self._next == len(self._recorded):
            return None
        call = self._recorded[self._next]
        self._next += 1
        return call

    @property
    def copied(self) -> int:
        """Where a fork took the call over that stands next: the `seq` of the original; else 0."""
        return self._recorded[self._next].copied if self._next < len(self._recorded) else 0

    @property
    def left(self) -> RecordedCall | None:
        """The recorded call that was not asked for yet, if there is one."""
        return self._recorded[self._next] if self._next < len(self._recorded) else None

    # ------------------------------------------------------------------------------------------------ messages

    def took(self, message: StoredRecord) -> None:
        """A message was received here."""
        self.consume()
        scope: Scope | None = self
        while scope is not None:
            scope.takings[message.facts["id"]] = message
            scope = scope._around

    def consume(self) -> list[StoredRecord]:
        """Something else is recorded here, or the branch has lost: what it received it has received, or gives back."""
        if not self.takings:
            return []
        taken = self.takings.copy()
        scope: Scope | None = self
        while scope is not None:
            for id in taken:
                scope.takings.pop(id, None)
            scope = scope._around
        return sorted(taken.values(), key=lambda message: message.seq)
