"""The plugin by which pytest knows Playbill's fixtures, once Playbill is installed.

It stands beside the package and not in it: pytest imports it at each of its runs, and importing a module of the package
would import all of Playbill, also where no test uses it. So the package is imported by the fixtures alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from engine import Engine
    from engine.testing import MockClock


@pytest.fixture
def playbill_clock() -> MockClock:
    """The time of day and Trio's time as one, jumping ahead when all tasks wait. A test that asks for it is run by it
    (by pytest-trio), so that long waits take no time."""
    from engine.testing import MockClock

    return MockClock()


@pytest.fixture
def playbill_journal(tmp_path: Path) -> Path:
    """The journal of this test's engines: a file that is not there yet."""
    return tmp_path / "playbill.db"


@pytest.fixture
def playbill_engine(
    playbill_clock: MockClock, playbill_journal: Path
) -> Callable[..., AbstractAsyncContextManager[Engine]]:
    """Opens an engine on the test's journal, by the test's clock: `async with playbill_engine(fulfil) as engine:`.
    Opened a second time it goes on with what the first one left, as the next process would."""
    import functools

    from engine.testing.opening import open_engine_on

    return functools.partial(open_engine_on, playbill_journal, clock=playbill_clock)
