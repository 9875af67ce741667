"""`docs/reference/programs.md`, from `tests/activities/test_programs.py` and the names of its tests."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from docs.making.markdown import cell, table

_PROGRAMS = Path(__file__).resolve().parents[2] / "tests" / "activities" / "test_programs.py"
_TEST = re.compile(r"test_program_(?P<number>\d\d)_(?P<sentence>\w+)")

_INTRODUCTION = """# Programs that break a simpler engine

<!-- Made by docs/make_reference.py from tests/activities/test_programs.py; change it there. -->

Small activities, each of which a durable engine gets wrong unless it minds the point. Here each has its test, most of
them killed right before and right after every record that they make. The numbers are names, and stay what they are;
[How a restart is a resume](../explanation/resume.md) tells the rules.
"""


def page() -> str:
    """The page's text."""
    tree = ast.parse(_PROGRAMS.read_text(encoding="utf-8"))
    sentences = defaultdict(list)
    for node in tree.body:
        found = _TEST.fullmatch(getattr(node, "name", ""))
        if found:
            sentences[int(found["number"])].append(_sentence(found["sentence"]))
    rows = [(str(number), cell(wrong), "<br>".join(sentences[number])) for number, wrong in _mistakes(tree).items()]
    return "\n".join([_INTRODUCTION, table(("", "a simpler engine", "here"), [row for row in rows if row[2]])])


def _mistakes(tree: ast.Module) -> dict[int, str]:
    """What stands in the table of the tests."""
    (node,) = (
        node
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "MISTAKES"
    )
    assert node.value is not None
    found: dict[int, str] = ast.literal_eval(node.value)
    return found


def _sentence(name: str) -> str:
    """A test's name as the sentence that it is."""
    text = name.replace("activitys", "activity's").replace("_", " ")
    return text[0].upper() + text[1:] + "."
