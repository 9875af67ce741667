"""What was erased against what says so.

A record is erased if its `data` and `salt` are gone and its `digest` stands. That is right only where a later
`payload.erased` names it; else erasing would be a way to hide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.audit.checks.findings import Findings


class ErasureCheck:
    """Looks at one record after the other; keeps ranges of those that nothing has named yet."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._unnamed: list[tuple[int, int]] = []

    def erased(self, seq: int) -> None:
        """Take note of an erased record."""
        if self._unnamed and self._unnamed[-1][1] == seq - 1:
            self._unnamed[-1] = (self._unnamed[-1][0], seq)
        else:
            self._unnamed.append((seq, seq))

    def named(self, seq: int, facts: Mapping[str, Any]) -> None:
        """Take note of a `payload.erased`."""
        for low, high in _ranges(facts.get("records")):
            if high >= seq:
                self._findings.add("erasures that do not fit", seq, "it names records that come after it as erased")
                high = seq - 1
            self._unnamed = [rest for part in self._unnamed for rest in _without(part, low, high)]

    def finish(self) -> None:
        """Say which records nothing has named, once all have been seen."""
        for low, high in self._unnamed:
            for seq in range(low, high + 1):
                what = "its data was erased, and no later `payload.erased` names it"
                self._findings.add("erased records that nothing names", seq, what)


def _ranges(given: object) -> list[tuple[int, int]]:
    if not isinstance(given, list):
        return []
    return [(pair[0], pair[1]) for pair in given if isinstance(pair, list) and len(pair) == 2 and _are_numbers(pair)]


def _are_numbers(pair: list[object]) -> bool:
    return all(type(number) is int for number in pair)


def _without(part: tuple[int, int], low: int, high: int) -> list[tuple[int, int]]:
    """What is left of a range when another is taken out of it."""
    first, last = part
    return [(a, b) for a, b in ((first, min(last, low - 1)), (max(first, high + 1), last)) if a <= b]
