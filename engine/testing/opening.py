"""An engine for a test: on a journal of its own, which spares the disk and goes by the test's clock."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.clock import Clock
from engine.journal import SQLiteJournal
from engine.runtime import Definition, Engine, Settings
from engine.testing.clock import MockClock, going_by, wall_clock


class SparingEngine(Engine):
    """An engine whose journal does not wait for the disk: what a test needs of it, no power cut takes."""

    def __init__(self, journal: SQLiteJournal, *rest: Any) -> None:
        super().__init__(journal, *rest)
        spare_the_disk(journal)


def spare_the_disk(journal: SQLiteJournal) -> None:
    """Have commits return before they are on the disk."""
    journal._writer._connection.execute("PRAGMA synchronous = OFF")


@contextlib.asynccontextmanager
async def open_engine(
    *definitions: ModuleType | Definition,
    clock: Clock | None = None,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
) -> AsyncIterator[Engine]:
    """Open an engine for a test, on a new journal that is removed with the block.

    What is recorded is not waited for on the disk. Leaving the block drains, as with `Engine.open`.

    Args:
        definitions: activities and subscribers, or modules that hold them.
        clock: tells the time of day; what goes with Trio's clock, unless given. By a `MockClock` Trio runs too, for the
            length of the block: long waits take no time.
        settings: the engine's tunables.

    Raises:
        DefinitionError: two definitions have one name.
    """
    with tempfile.TemporaryDirectory(prefix="playbill-") as folder:
        async with open_engine_on(Path(folder, "journal.db"), *definitions, clock=clock, settings=settings) as engine:
            yield engine


@contextlib.asynccontextmanager
async def open_engine_on(
    journal: Path,
    *definitions: ModuleType | Definition,
    clock: Clock | None = None,
    settings: Settings = Settings(),  # noqa: B008  (frozen)
) -> AsyncIterator[Engine]:
    """As `open_engine`, on a journal that stays: opened again, the next engine goes on with it."""
    with contextlib.ExitStack() as stack:
        if isinstance(clock, MockClock):
            stack.enter_context(going_by(clock))
        told = clock if clock is not None else wall_clock()
        async with SparingEngine.open(str(journal), *definitions, settings=settings, clock=told) as engine:
            yield engine
