"""A plugin of pytest that notes what the command line was given in a test, and what it answered.

    python -m pytest -p docs.making.recording --recorded FILE tests/cli/test_wrong_input.py

What was refused with one line on standard error goes into FILE, a JSON array in the order of the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

_NOTED: list[dict[str, Any]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--recorded", metavar="FILE", help="write what was refused to this file")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    invoke = CliRunner.invoke

    def noted(runner: CliRunner, program: Any, arguments: list[str], **more: Any) -> Result:
        content = _content(arguments)
        result = invoke(runner, program, arguments, **more)
        if result.exit_code and result.stderr.count("\n") == 1:
            _NOTED.append(_note(item, arguments, content, result))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CliRunner, "invoke", noted)
        return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    Path(session.config.getoption("--recorded")).write_text(json.dumps(_NOTED), encoding="utf-8")


def _content(arguments: list[str]) -> str:
    """What stands in the file of rows; empty where it is no file."""
    path = Path(arguments[arguments.index("--input") + 1]) if "--input" in arguments[:-1] else Path()
    return path.read_bytes().decode(errors="backslashreplace") if path.is_file() else ""


def _note(item: pytest.Item, arguments: list[str], content: str, result: Result) -> dict[str, Any]:
    folder = f"{Path.cwd()}"
    return {
        "test": getattr(item, "originalname", item.name),
        "case": item.callspec.id if hasattr(item, "callspec") else "",
        "arguments": [argument.replace(f"{folder}/", "").replace(folder, ".") for argument in arguments],
        "input": content,
        "message": result.stderr.rstrip("\n").replace(f"{folder}/", "").replace(folder, "."),
        "exit_code": result.exit_code,
    }
