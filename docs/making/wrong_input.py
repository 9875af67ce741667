"""`docs/reference/wrong-input.md`: what `tests/cli/test_wrong_input.py` gives the command, and what it is answered.

The tests are run for it, so that the page shows what the command says and not what somebody wrote down.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from docs.making.markdown import code, table

REPOSITORY = Path(__file__).resolve().parents[2]

_INTRODUCTION = """# Wrong input

<!-- Made by docs/make_reference.py from tests/cli/test_wrong_input.py; change it there. -->

What the command says when it is given what it cannot use: one line on standard error that says what is wrong, where,
and what to do. Nothing was recorded then, and no file was touched. With `--debug` the traceback is shown too.

The activity `orders.fulfil` of `app.py` takes a class with the fields `id: str`, `amount: Decimal`, `count: int = 1`,
`day: date | None = None`, `urgent: bool = False`, `colour: Colour` (red or blue) and `note: str | None = None`; the
activity `greet` takes `name: str` and `times: int = 1`. `⏎` is the end of a line.
"""

_JOURNALS = {
    "text": "a journal that is a text",
    "newer": "a journal of a newer version",
    "damaged": "a damaged journal",
    "foreign": "a database that is no journal",
}
"""What the cases mean that neither the command nor the file of rows shows."""

LONGEST = 160
"""Characters of a file that are shown."""


def page() -> str:
    """The page's text. Runs the tests, which takes some seconds."""
    parts = [_INTRODUCTION]
    for test, notes in groupby(recorded(), key=lambda note: note["test"]):
        parts.append(f"## {_heading(test)}\n")
        parts.append(table(("what is given", "what it says", "exit code"), _rows(list(notes))))
    return "\n".join(parts)


def recorded() -> list[Mapping[str, Any]]:
    """What the tests gave the command and were refused, in their order.

    Raises:
        RuntimeError: a test failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "recorded.json")
        plugin = ["-p", "docs.making.recording", "-p", "no:cacheprovider", "--recorded", str(file)]
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plugin, "tests/cli/test_wrong_input.py"],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTEST_ADDOPTS": "", "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(f"the tests of wrong input fail:\n{ended.stdout}{ended.stderr}")
        notes: list[Mapping[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return notes


def _heading(test: str) -> str:
    words = test.removeprefix("test_").replace("utf_8", "UTF-8").replace("csv", "CSV").replace("json", "JSON")
    sentence = words.replace("_", " ")
    return sentence[0].upper() + sentence[1:]


def _rows(notes: list[Mapping[str, Any]]) -> Iterable[tuple[str, str, str]]:
    # Only what differs between the cases of a test is worth its place.
    inputs_differ = len({note["input"] for note in notes if note["input"]}) > 1
    arguments_differ = len({tuple(note["arguments"]) for note in notes}) > 1
    rows: dict[tuple[str, str, str], None] = {}
    for note in notes:
        given = []
        words = _JOURNALS.get(note["case"].rpartition("-")[2])
        if words is not None:
            given.append(words)
        if arguments_differ or not inputs_differ:
            given.append(code(shlex.join(["playbill", *note["arguments"]])))
        if inputs_differ:
            given.append(code(_shown(note["input"])) if note["input"] else "an empty file")
        rows[", ".join(given), code(note["message"]), str(note["exit_code"])] = None
    return rows


def _shown(content: str) -> str:
    shown = "".join("⏎" if each == "\n" else each if each.isprintable() else f"\\x{ord(each):02x}" for each in content)
    return shown if len(shown) <= LONGEST else f"{shown[:20]}… ({len(content):,} characters)"
