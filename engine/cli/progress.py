"""How far a run is: a bar on a terminal, a line every so often elsewhere, both on standard error.

The bar is drawn by a thread of rich's, so that it also moves while nothing is counted. What is said while it stands
goes through it, or the two would be written over each other.
"""

from __future__ import annotations

import sys
from typing import Protocol

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from engine.cli.output import complain, count_of, visible

EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


@attrs.define
class Tally:
    """What became of the rows, so far.

    Attributes:
        rows: how many rows there are.
        completed: activities that completed in this run.
        failed: activities that failed, were cancelled or are blocked; also those of which an earlier run says so.
        skipped: rows whose activity had completed before, and repetitions of a row.
        denied: rows that no activity was started for: their id has other arguments, or a rule refused them.
    """

    rows: int
    completed: int = 0
    failed: int = 0
    skipped: int = 0
    denied: int = 0

    @property
    def settled(self) -> int:
        """How many rows nothing more is to be done for."""
        return self.completed + self.failed + self.skipped + self.denied

    @property
    def left(self) -> int:
        """How many rows there is still something to be done for."""
        return self.rows - self.settled

    def __str__(self) -> str:
        counts = ((self.failed, "failed"), (self.skipped, "skipped"), (self.denied, "denied"))
        return ", ".join([f"{self.completed:,} completed", *(f"{count:,} {what}" for count, what in counts if count)])


class Display(Protocol):
    """Shows a tally while it grows."""

    @property
    def every(self) -> float | None:
        """Seconds after which `show` is to be called also where nothing was counted; `None` where it need not be."""

    def show(self) -> None:
        """Show the tally as it is now."""

    def counted(self) -> None:
        """Something was counted."""

    def say(self, line: str) -> None:
        """Show a line beside the tally."""

    def close(self) -> None:
        """Leave standard error as it was found. Closing twice is no error."""


def display_of(tally: Tally) -> Display:
    """The display that fits standard error."""
    return Bar(tally) if sys.stderr.isatty() else Lines(tally)


class Bar:
    """A bar on a terminal."""

    every = None

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._progress = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=tally.rows, counts="")
        self._progress.start()

    def show(self) -> None:
        self.counted()

    def counted(self) -> None:
        self._progress.update(self._task, completed=self._tally.settled, counts=str(self._tally))

    def say(self, line: str) -> None:
        self._progress.console.print(Text(f"playbill: {visible(line)}"), soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


class Lines:
    """A line every so often."""

    every = EVERY

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def show(self) -> None:
        complain(f"{self._tally.settled:,} of {count_of(self._tally.rows, 'row')}: {self._tally}")

    def counted(self) -> None:
        pass

    def say(self, line: str) -> None:
        complain(line)

    def close(self) -> None:
        pass
