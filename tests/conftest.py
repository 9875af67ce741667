"""What all tests share: the checkout's paths, a calm Hypothesis, and the sample of the long tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# The machine is shared, so that a slow example says nothing; in CI the same examples are tried at each run, so that a
# change is not blamed for what an earlier one did.
hypothesis.settings.register_profile("playbill", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "playbill")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so, and the programs that the tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", type=int, default=1, metavar="N", help="run every Nth of the selected tests only")


@pytest.hookimpl(trylast=True)  # after -m and -k have taken away theirs
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    stride = max(1, config.getoption("--sample"))
    kept = items[::stride]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for index, item in enumerate(items) if index % stride])
        items[:] = kept


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY
