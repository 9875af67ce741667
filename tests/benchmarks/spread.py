"""What several rounds of a measurement say together: the median, and between which extremes it lies.

Ratios are made within a round and only then put together, since a machine that others use too is another machine in
each round.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import attrs


@attrs.frozen
class Spread:
    """A figure over several rounds.

    Attributes:
        median: of all rounds.
        lowest: the round with the lowest.
        highest: the round with the highest.
    """

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """The spread of at least one figure."""
        return cls(statistics.median(figures), min(figures), max(figures))

    def __str__(self) -> str:
        return f"{_short(self.median)} [{_short(self.lowest)}-{_short(self.highest)}]"


@attrs.frozen
class Bar:
    """What a ratio is held against: the first bar, and the goal beyond it."""

    first: float
    goal: float | None = None

    def held_against(self, ratio: Spread) -> dict[str, float | bool | None]:
        """The ratio, the bars, and whether the median meets the first."""
        return {**attrs.asdict(ratio), **attrs.asdict(self), "met": ratio.median >= self.first}

    def verdict(self, ratio: Spread) -> str:
        """What the median says of both."""
        words = [f"bar {_short(self.first)} {_met(ratio.median >= self.first)}"]
        if self.goal is not None:
            words.append(f"goal {_short(self.goal)} {_met(ratio.median >= self.goal)}")
        return ", ".join(words)


@attrs.frozen
class Ceiling:
    """What a figure is held against that is to be low."""

    most: float

    def held_against(self, figure: Spread) -> dict[str, float | bool | None]:
        """The figure, the ceiling, and whether the median stays below it."""
        return {**attrs.asdict(figure), **attrs.asdict(self), "met": figure.median <= self.most}

    def verdict(self, figure: Spread) -> str:
        """What the median says of it."""
        return f"at most {_short(self.most)} {_met(figure.median <= self.most)}"


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def _short(figure: float) -> str:
    """Three figures that mean something, at least."""
    if figure >= 100:
        return f"{figure:,.0f}"
    if figure >= 10:
        return f"{figure:.1f}"
    return f"{figure:.2f}" if figure >= 1 else f"{figure:.3f}"
