"""Every snippet of the README is run, and prints what the README says."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.documentation import pages

BLOCKS = pages.blocks_of(pages.CHECKOUT / "README.md")


def _block(start: str) -> str:
    return next(block.text for block in BLOCKS if block.text.startswith(start))


def _run(folder: Path, environment: Mapping[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=pages.PATIENCE, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    program = next(block.text for block in BLOCKS if block.language == "python")
    (folder / "orders.py").write_text(program)
    return folder


@pytest.fixture(scope="module")
def ran(folder: Path, reader: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The README's program, after its first run."""
    return _run(folder, reader, "python", "orders.py")


def test_the_program_prints_what_the_readme_shows(ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.stderr == ""
    assert ran.stdout == _block("thank you")


def test_the_program_run_again_charges_nothing(
    ran: subprocess.CompletedProcess[str], folder: Path, reader: Mapping[str, str]
) -> None:
    assert _run(folder, reader, "python", "orders.py").stdout == "A-17: payment of 12.50 by visa\n"


def test_each_command_of_the_readme_succeeds(
    ran: subprocess.CompletedProcess[str], folder: Path, reader: Mapping[str, str]
) -> None:
    for line in _block("playbill list").splitlines():
        done = _run(folder, reader, *shlex.split(line))
        assert (line, done.returncode, done.stderr) == (line, 0, "")


@pytest.mark.parametrize("target", ["demo", "test"])
def test_both_commands_stand_on_a_line_of_their_own(target: str) -> None:
    assert [block.text for block in BLOCKS].count(f"make {target}\n") == 1
    assert f"{target}:" in (pages.CHECKOUT / "Makefile").read_text()
