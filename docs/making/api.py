"""`docs/reference/api.md`: what a program imports, from the docstrings and signatures of the packages' public names.

The sections below say in which order the names come; a public name that none of them lists stands at the end of its
package's last section, so that nothing is left out. Errors have a page of their own.
"""

from __future__ import annotations

import enum
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import attrs

from docs.making.markdown import anchor

_INTRODUCTION = """# The Python API

<!-- Made by docs/make_reference.py from the docstrings in engine and workflows; change it there. -->

What a program imports. All of it is typed, and checked with mypy and pyright in their strict modes. What each call
raises is told with it; the classes are in [Errors](errors.md). Times are seconds, instants are aware datetimes.
"""


@attrs.frozen
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        package: from where its names are imported.
        introduction: what its names have in common.
        names: in the order in which they are told.
    """

    title: str
    package: str
    introduction: str
    names: tuple[str, ...]


SECTIONS = (
    Section(
        "Definitions",
        "engine",
        "A decorator only describes: what it gives stays callable, and nothing is registered anywhere. An engine is "
        "given the definitions, or modules that hold them.",
        (
            "activity",
            "step",
            "subscriber",
            "current_step",
            "StepInfo",
            "Activity",
            "Step",
            "Subscriber",
            "BatchSubscriber",
            "Running",
            "Definition",
        ),
    ),
    Section(
        "Policies",
        "engine",
        "How often and how fast something is tried anew. They are values, checked where they are made.",
        ("Retry", "Restart"),
    ),
    Section(
        "The engine",
        "engine",
        "One engine owns a journal. It resumes what is unfinished, takes commands, publishes events, and gives handles "
        "on activities. How to live beside one: [Embed the engine](../how-to/embed-the-engine.md).",
        ("Engine", "Settings", "Clock"),
    ),
    Section(
        "Handles",
        "engine",
        "What `Engine.start` gives: an activity, as seen from outside.",
        ("Handle", "ActivityStatus"),
    ),
    Section(
        "The context",
        "engine",
        "What an activity is given as its first argument. Whatever is to be remembered goes through it.",
        ("Context", "Branch"),
    ),
    Section(
        "Values",
        "engine",
        "What is passed in and out: immutable, and comparable.",
        ("Event", "Command", "Request", "Asks", "ActivityFilter", "TopicPattern"),
    ),
    Section(
        "The ledger",
        "engine.audit",
        "Reading a journal, also one that a live engine is writing, without ever writing it. How to ask in SQL what no "
        "method answers: [Read a journal with SQL](../how-to/read-a-journal-with-sql.md).",
        (
            "Ledger",
            "verify",
            "write_report",
            "Verification",
            "Problem",
            "ActivityRow",
            "StepRow",
            "CommandRow",
            "EventRow",
            "ErrorRow",
            "DeadLetterRow",
            "Record",
            "Stats",
        ),
    ),
    Section(
        "Testing",
        "engine.testing",
        "What activities are tested with; see [Test an activity](../how-to/test-an-activity.md).",
        ("crash_everywhere", "Crashes", "MockClock", "open_engine", "fake_step", "fake_context"),
    ),
    Section(
        "Actors",
        "engine.actors",
        "Supervision by itself, without a journal; the rules are told in [Supervision](supervision.md).",
        (
            "open_supervisor",
            "Supervisor",
            "SupervisorRef",
            "ChildSpec",
            "SupervisorSpec",
            "RestartType",
            "Strategy",
            "Intensity",
            "Backoff",
            "AutoShutdown",
            "Mailbox",
            "Overflow",
            "Ref",
            "watch",
            "Down",
            "EndReason",
            "DeadLetter",
        ),
    ),
    Section("Workflows", "workflows", "Ready-made workflows, on the public API alone.", ()),
)

_WIDTH = 110
"""Characters of a signature that stand on one line."""

_MOST_OVERLOADS = 3
"""Signatures of one function that are shown; of more than these the one that takes all is."""

_TOLD_ONCE = {"Asks", "Request"}
"""Names of `engine` that `engine.actors` has too."""


def page() -> str:
    """The page's text."""
    parts = [_INTRODUCTION, _contents()]
    for section in SECTIONS:
        names = names_of(section)
        if not names:
            continue
        parts.append(f"## {section.title}\n")
        parts.append(f"In `{section.package}`. {section.introduction}\n")
        module = import_module(section.package)
        parts.extend(_entry(name, getattr(module, name)) for name in names)
    # A class without properties leaves an empty part behind.
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def names_of(section: Section) -> list[str]:
    """The names that a section tells of: its own, and in the last one of a package those that are left."""
    public = public_names(import_module(section.package))
    names = [name for name in section.names if name in public]
    siblings = [one for one in SECTIONS if one.package == section.package]
    if section is siblings[-1]:
        told = {name for one in siblings for name in one.names}
        names += [name for name in public if name not in told]
    return names


def public_names(module: ModuleType) -> list[str]:
    """The public names of a package, but for errors, modules, constants, and what another package tells of."""
    found = []
    for name, value in vars(module).items():
        own = getattr(value, "__module__", "").partition(".")[0] in ("engine", "workflows") or name in _ALIASES
        is_error = isinstance(value, type) and issubclass(value, BaseException)
        elsewhere = module.__name__ == "engine.audit" and name == "ActivityFilter"
        elsewhere = elsewhere or (module.__name__ == "engine.actors" and name in _TOLD_ONCE)
        if own and not name.startswith("_") and not is_error and not elsewhere and not isinstance(value, ModuleType):
            found.append(name)
    return found


_DECORATORS = ("activity", "step", "subscriber")

_OF_DEFINITIONS = ("name", "version", "patterns")
"""What users ask of a definition; the rest is the engine's."""

_ALIASES = {
    "Branch": "A function that is given a branch of the activity: `Callable[[Context], Awaitable[R]]`.",
    "Definition": "What an engine is given: an `Activity`, a `Step`, a `Subscriber` or a `BatchSubscriber`.",
}
"""Names of types that have no docstring of their own."""


def _contents() -> str:
    lines = []
    for section in SECTIONS:
        names = ", ".join(f"[{name}](#{anchor(_heading(name))})" for name in names_of(section))
        if names:
            lines.append(f"- [{section.title}](#{anchor(section.title)}): {names}\n")
    return "".join(lines)


# ------------------------------------------------------------------------------------------------ entries


def _heading(name: str) -> str:
    # Anchors do not tell small letters from capitals.
    return f"The decorator {name}" if name in _DECORATORS else name


def _entry(name: str, value: Any) -> str:
    parts = [f"### {_heading(name)}\n"]
    if name in _ALIASES:
        parts.append(f"{_ALIASES[name]}\n")
    elif isinstance(value, type):
        parts.extend(_class(name, value))
    else:
        parts.append(_fenced(signatures(name, value)))
        parts.append(told(value))
    return "\n".join(parts)


def _class(name: str, cls: type) -> Iterator[str]:
    if issubclass(cls, enum.Enum):
        yield told(cls)
        yield "".join(f"- `{name}.{member.name}`: `{str(member.value)!r}`\n" for member in cls)
        return
    if _is_made_by_users(cls):
        yield _fenced([_signature(name, inspect.signature(cls), with_result=False)])
    yield told(cls)
    members = dict(_members(cls))
    if name in ("Activity", "Step", "Subscriber", "BatchSubscriber"):
        members = {member: found for member, found in members.items() if member in _OF_DEFINITIONS}
    yield "".join(_property(member, found) for member, found in members.items() if isinstance(found, property))
    for member, found in members.items():
        if not isinstance(found, property):
            yield f"#### {name}.{member}\n"
            yield _fenced(signatures(member, found, is_method=True))
            yield told(found)


def _property(name: str, found: property) -> str:
    """A line of the list of a class's properties; what it raises is left to its own docstring."""
    result = _annotation(inspect.signature(found.fget).return_annotation) if found.fget else ""
    summary = " ".join((inspect.getdoc(found) or "").partition("\n\n")[0].split())
    return f"- `{name}: {result}`: {summary}\n"


def _is_made_by_users(cls: type) -> bool:
    """Whether the class is made by calling it: a value, or what takes nothing of the engine's insides."""
    if attrs.has(cls) or "__init__" not in vars(cls):
        return attrs.has(cls)
    return "Args:" in (inspect.getdoc(cls) or "") or "Args:" in (inspect.getdoc(vars(cls)["__init__"]) or "")


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """The methods and properties of a class, in the order of the source; then those of its bases here."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] not in ("engine", "workflows"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or name in seen:
                continue
            seen.add(name)
            if not inspect.getdoc(value):  # a class that stands in for another one is told of as a whole
                continue
            if isinstance(value, property) or callable(getattr(cls, name, None)) or isinstance(value, classmethod):
                plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                if isinstance(plain, property) or inspect.isfunction(plain):
                    yield name, plain


def told(value: Any) -> str:
    """A docstring as Markdown.

    Raises:
        AssertionError: there is none.
    """
    text = inspect.getdoc(value)
    name = getattr(value, "__qualname__", getattr(getattr(value, "fget", None), "__qualname__", value))
    assert text, f"{name} is public and has no docstring"
    return "\n".join(_paragraphs(text)).rstrip() + "\n"


_HEADINGS: Mapping[str, str] = {
    "Args:": "Arguments:",
    "Attributes:": "Attributes:",
    "Returns:": "Returns:",
    "Yields:": "Yields:",
    "Raises:": "Raises:",
}


def _paragraphs(text: str) -> Iterator[str]:
    heading = ""
    for line in text.splitlines():
        stripped = line.strip()
        if line in _HEADINGS:
            heading = line
            yield f"**{_HEADINGS[line]}**\n"
        elif heading and line and not line.startswith(" "):
            heading = ""
            yield line
        elif not heading:
            yield line
        elif not stripped:
            yield ""
        elif line.startswith("     "):
            yield f"  {stripped}"
        elif heading in ("Returns:", "Yields:"):
            yield stripped
        else:
            names, _, what = stripped.partition(": ")
            yield f"- `{names}`: {what}"


# ------------------------------------------------------------------------------------------------ signatures


def signatures(name: str, function: Callable[..., Any], *, is_method: bool = False) -> list[str]:
    """How a function is called: each of its overloads, where they are few."""
    overloads = list(typing.get_overloads(function))
    shown = overloads if 0 < len(overloads) <= _MOST_OVERLOADS else [function]
    is_async = inspect.iscoroutinefunction(inspect.unwrap(function)) or any(map(inspect.iscoroutinefunction, overloads))
    prefix = "async def " if is_async else "def "
    return [prefix + _signature(name, inspect.signature(one), is_method=is_method) for one in shown]


def _signature(name: str, found: inspect.Signature, *, with_result: bool = True, is_method: bool = False) -> str:
    parameters = list(found.parameters.values())
    if is_method and parameters and parameters[0].name in ("self", "cls"):
        parameters.pop(0)
    words = list(_words(parameters))
    result = ""
    if with_result and found.return_annotation is not inspect.Signature.empty:
        result = f" -> {_annotation(found.return_annotation)}"
    line = f"{name}({', '.join(words)}){result}"
    if len(line) <= _WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){result}"


def _words(parameters: list[inspect.Parameter]) -> Iterator[str]:
    """The parameters as they are written, with the marks between their kinds."""
    before: Any = None
    for number, parameter in enumerate(parameters):
        kind = parameter.kind
        if before is inspect.Parameter.POSITIONAL_ONLY and kind is not before and number:
            yield "/"
        is_first_keyword = kind is inspect.Parameter.KEYWORD_ONLY and before is not kind
        if is_first_keyword and before is not inspect.Parameter.VAR_POSITIONAL:
            yield "*"
        before = kind
        yield _word(parameter)
    if before is inspect.Parameter.POSITIONAL_ONLY:
        yield "/"


def _word(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotation = "" if parameter.annotation is inspect.Parameter.empty else f": {_annotation(parameter.annotation)}"
    if parameter.default is inspect.Parameter.empty:
        return f"{stars}{parameter.name}{annotation}"
    equals = " = " if annotation else "="
    return f"{parameter.name}{annotation}{equals}{_default(parameter.default)}"


def _annotation(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b(?:engine|workflows|typing|collections\.abc)(?:\.\w+)*\.(?=\w)", "", text)
    return text.replace("'", '"')  # as the source has it


def _default(value: Any) -> str:
    if value is ... or value is attrs.NOTHING:
        return "…"
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if attrs.has(type(value)) and value == _made_without_arguments(type(value)):
        return f"{type(value).__name__}()"
    shown = f'"{value}"' if isinstance(value, str) else repr(value)
    return "…" if " at 0x" in shown else re.sub(r"<class '(?:builtins\.)?([\w.]+)'>", r"\1", shown)


def _made_without_arguments(cls: type) -> Any:
    try:
        return cls()
    except TypeError:
        return None


def _fenced(lines: list[str]) -> str:
    text = "\n".join(lines)
    return f"```\n{text}\n```\n"
