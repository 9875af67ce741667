"""What pytest knows of Playbill once it is installed: three fixtures, which cost nobody who asks for none."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

TEST = """
import trio
from engine import Context, activity, step
from engine.audit import Ledger

calls = []

@step
async def work() -> int:
    calls.append(1)
    return len(calls)

@activity(name="it")
async def it(ctx: Context) -> int:
    number = await ctx.step(work)
    await ctx.sleep(86_400)
    return number

async def test_it(playbill_engine, playbill_clock, playbill_journal):
    assert not playbill_journal.exists()
    async with playbill_engine(it) as engine:
        await engine.start(it, id="it")
        while not calls:
            await trio.sleep(1)
    async with playbill_engine(it) as engine:
        assert await engine.handle("it", it).result() == 1
    assert trio.lowlevel.current_clock() is playbill_clock
    assert playbill_clock.now().day == 2
    with Ledger.open(playbill_journal) as ledger:
        assert ledger.activity("it").status == "completed"

async def test_the_engine_brings_its_clock(playbill_engine):
    async with playbill_engine(it) as engine:
        assert await engine.run(it) == 2
"""

NO_TEST_OF_PLAYBILL = """
import sys

def test_it():
    assert "pytest_playbill" in sys.modules
    assert "engine" not in sys.modules
"""


@pytest.fixture
def run(repository: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs pytest on a file of tests; gives what it shows."""

    def run(test: str, *options: str) -> str:
        (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
        plugins = ["-p", "pytest_trio.plugin", "-p", "pytest_playbill", "-p", "no:cacheprovider"]
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plugins, "-c", os.devnull, "-o", "trio_mode=true", *options, "."],
            cwd=tmp_path,
            # By name and not by their entry points, which a checkout has only where it was installed.
            env={**os.environ, "PYTHONPATH": str(repository), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    return run


def test_a_test_has_an_engine_a_journal_and_a_clock_that_jumps(run: Callable[..., str]) -> None:
    assert "2 passed" in run(TEST)


def test_who_tests_something_else_does_not_wait_for_playbill(run: Callable[..., str]) -> None:
    assert "1 passed" in run(NO_TEST_OF_PLAYBILL)


def test_the_fixtures_say_what_they_are(run: Callable[..., str]) -> None:
    shown = run(NO_TEST_OF_PLAYBILL, "--fixtures")
    for name in ("playbill_clock", "playbill_engine", "playbill_journal"):
        assert f"\n{name}" in shown
        assert f"{name} -- no docstring" not in shown


def test_pytest_finds_it_by_the_entry_point(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"playbill": "pytest_playbill"}
