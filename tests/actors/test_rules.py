"""The reference page's table of OTP's rules: every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import engine.actors

HERE = Path(__file__).parent
ROW = re.compile(r"^\| (?P<rule>[^|]+) \| `(?P<test>test_\w+)` \|$", re.MULTILINE)


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "reference" / "supervision.md").read_text(encoding="utf-8")


def test_every_rule_of_the_table_has_its_test(page: str) -> None:
    written = {
        node.name
        for path in HERE.glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    rules = ROW.findall(page)
    assert len(rules) > 50
    assert [rule for rule, test in rules if test not in written] == []


def test_every_row_of_the_table_names_a_test(page: str) -> None:
    _, _, table = page.partition("| rule | test |\n| --- | --- |\n")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert [row for row in rows if not ROW.match(row) and not re.match(r"^\| \*\*[^|]+\*\* \| \|$", row)] == []


def test_every_public_name_stands_on_the_page(page: str) -> None:
    public = {name for name in vars(engine.actors) if name[0].isupper() or name in ("open_supervisor", "watch")}
    assert sorted(name for name in public if not re.search(rf"\b{name}\b", page)) == []
