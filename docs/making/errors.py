"""`docs/reference/errors.md`, from the docstrings of `engine/errors.py`, in its order and under its headings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import engine
from docs.making.markdown import anchor, cell, table
from engine import errors
from engine.cli.program import exit_code
from engine.errors import PlaybillError

_INTRODUCTION = """# Errors

<!-- Made by docs/make_reference.py from engine/errors.py; change it there. -->

Whatever Playbill raises on purpose is a `PlaybillError`; all classes are in `engine`, and in `engine.errors`. Each
carries its data as attributes, so that a program need not read its text, and its text says what was wrong, where, and
what to do. On the command line the text becomes one line on standard error, followed by the class, and the exit code is
2, unless another one is given here; [Wrong input](wrong-input.md) shows such lines.
"""


def classes() -> list[type[PlaybillError]]:
    """Every class of the tree, in the order of the module."""
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PlaybillError)]
    return sorted(found, key=_line)


def page() -> str:
    """The page's text."""
    parts = [_INTRODUCTION, "## The tree\n", f"```\n{''.join(_tree(PlaybillError, ''))}```\n"]
    for subject, group in groupby(classes(), key=_subject):
        if subject:
            parts.append(f"## {subject}\n")
        parts.extend(_section(error) for error in group)
    return "\n".join(parts)


def _line(error: type) -> int:
    return inspect.getsourcelines(error)[1]


def _tree(error: type[PlaybillError], indent: str) -> Iterator[str]:
    also = [base.__name__ for base in error.__bases__ if not issubclass(base, PlaybillError) and base is not Exception]
    yield f"{indent}{error.__name__} ({', '.join(also)})\n" if also else f"{indent}{error.__name__}\n"
    for below in sorted(error.__subclasses__(), key=_line):
        if below.__module__ == errors.__name__:
            yield from _tree(below, f"{indent}    ")


def _subject(error: type) -> str:
    """The heading in the module under which the class stands; empty above the first one."""
    above = inspect.getsource(errors).splitlines()[: _line(error)]
    headings = [match[1] for match in (re.match(r"# -{20,} (.+)", line) for line in above) if match]
    return headings[-1].capitalize() if headings else ""


def _section(error: type[PlaybillError]) -> str:
    told, _, attributes = (inspect.getdoc(error) or "").partition("\n\nAttributes:\n")
    assert told, f"{error.__name__} has no docstring"
    parts = [f"### {error.__name__}\n", f"{told}\n", f"{_bases(error)}{_exit_code(error)}{_raised(error)}\n"]
    rows = [(f"`{name}`", cell(what)) for name, what in _attributes(attributes)]
    if rows:
        parts.append(table(("attribute", "what it holds"), rows))
    return "\n".join(parts)


def _bases(error: type[PlaybillError]) -> str:
    return "An `Exception`." if error is PlaybillError else f"A {' and '.join(map(_base, error.__bases__))}."


def _base(base: type) -> str:
    name = base.__name__
    return f"[`{name}`](#{anchor(name)})" if base.__module__ == errors.__name__ else f"`{name}`"


def _attributes(text: str) -> list[tuple[str, str]]:
    """Pairs of name and meaning; a meaning may go on over further, deeper lines."""
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", text, re.MULTILINE)
    return [(name, f"{what[0].upper()}{what[1:]}") for name, what in found]


def _exit_code(error: type[PlaybillError]) -> str:
    code = exit_code(error.__new__(error))
    return "" if code == 2 else f" Exit code {code}."


def _raised(error: type[PlaybillError]) -> str:
    """A word on the classes that are there for what a later version does."""
    room = Path(engine.__file__).parent
    elsewhere = (path for path in room.rglob("*.py") if path not in (room / "errors.py", room / "cli" / "program.py"))
    used = any(re.search(rf"\b{error.__name__}\b", path.read_text(encoding="utf-8")) for path in elsewhere)
    return "" if used else " This version does not raise it."
