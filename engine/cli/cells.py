"""From the text in a cell to JSON, by the annotation of what it becomes.

A cell of CSV is only text: `7` may be an int, a `Decimal`, a text, or a member of an enum, and only the annotation can
tell. A `CellReader` is compiled once for each column. It spells the text in each way in which the annotation's types
may be written as JSON and takes the first that the engine's codec reads, so that what can stand in a cell is what can
stand in a journal:

| annotation | in a cell |
|---|---|
| `str` | the text as it is, spaces too |
| `int`, `float`, `Decimal` | digits, with a point for the fraction; no separators of thousands |
| `bool` | `true`, `yes`, `1`, `false`, `no`, `0`, in any case |
| `date`, `time`, `datetime` | ISO 8601 |
| `timedelta` | seconds, or ISO 8601 (`PT90S`) |
| an enum | a member's value, or its name |
| `Literal` | one of its values |
| `X | None` | nothing, for `None`; otherwise an X |
| a list, a class, anything else | JSON |

Where a type has several annotations, `str` is tried last, since it takes everything.
"""

from __future__ import annotations

import datetime
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

import attrs

from engine.cli.rows import DECODER
from engine.codec import ValueCodec, codec_for
from engine.errors import PayloadError

ANYTHING = (Any, object, inspect.Parameter.empty)
"""What stands for no annotation."""

_INT = re.compile(r"[+-]?[0-9]+").fullmatch
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?").fullmatch
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_EXPECTED: dict[Any, str] = {
    str: "a text",
    int: "an int (as 12)",
    float: "a number (as 12.5)",
    Decimal: "a Decimal (as 12.50)",
    bool: "true or false",
    datetime.date: "a date (as 2026-11-23)",
    datetime.time: "a time (as 18:55:19)",
    datetime.datetime: "a datetime (as 2026-11-23T18:55:19Z)",
    datetime.timedelta: "a timedelta (seconds, or as PT90S)",
    UUID: "a UUID",
    bytes: "bytes in base64",
    type(None): "nothing",
}


def unwrapped(annotation: Any) -> Any:
    """The annotation without what only decorates it: `Annotated`, `NewType`, `Final`, `Required`, type variables."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = annotation.__origin__
        elif origin in (typing.Final, typing.ClassVar, typing.Required, typing.NotRequired):
            (annotation,) = get_args(annotation)
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif isinstance(annotation, TypeVar):
            annotation = annotation.__bound__ or Any
        else:
            return type(None) if annotation is None else annotation


def members(annotation: Any) -> list[Any]:
    """The types of a union, in its order; of anything else itself."""
    annotation = unwrapped(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation]


def is_a(annotation: Any, *classes: type) -> bool:
    """Whether the annotation is one of these classes, or derived from one."""
    return isinstance(annotation, type) and issubclass(annotation, classes)


def expected(annotation: Any) -> str:
    """What an annotation takes, in words: `a Decimal (as 12.50)`."""
    return " or ".join(dict.fromkeys(map(_expected, members(annotation))))


def _expected(member: Any) -> str:
    if member in ANYTHING:
        return "anything"
    if get_origin(member) is Literal:
        return _one_of([_plain(value) for value in get_args(member)])
    if is_a(member, enum.Enum):
        return _one_of([_plain(one) for one in member])
    if member in _EXPECTED:
        return _EXPECTED[member]
    name = str(getattr(member, "__name__", member)) if get_origin(member) is None else str(member)
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _one_of(values: list[str]) -> str:
    shown = [repr(value) for value in values[:10]] + (["…"] if len(values) > 10 else [])
    return shown[0] if len(shown) == 1 else f"one of {', '.join(shown)}"


@attrs.frozen
class CellReader:
    """Reads the cells of one column.

    Attributes:
        annotation: what they become.
        codec: the annotation's.
        spellings: for each type of the annotation its codec, and what gives the ways to write a text as JSON.
        is_text: whether every text is taken as it is.
        takes_text: whether one of its types is text, so that an empty cell may be an empty text.
        takes_nothing: whether an empty cell is `None`.
    """

    annotation: Any
    codec: ValueCodec
    spellings: tuple[tuple[ValueCodec, Callable[[str], Iterator[str]]], ...]
    is_text: bool
    takes_text: bool
    takes_nothing: bool

    @classmethod
    def of(cls, annotation: Any) -> CellReader:
        """The reader for an annotation, which must have been resolved.

        Raises:
            DefinitionError: something in it cannot be resolved.
        """
        annotation = unwrapped(annotation)
        found = sorted(members(annotation), key=_is_text)
        return cls(
            annotation,
            codec_for(annotation),
            tuple((codec_for(member), _spelling(member)) for member in found),
            is_text=_is_text(annotation),
            takes_text=any(map(_is_text, found)),
            takes_nothing=type(None) in found,
        )

    def read(self, text: str) -> str:
        """A cell as JSON text that the annotation's codec reads.

        Raises:
            ValueError: it is not what the annotation takes; the text says what that would be.
        """
        if self.is_text:
            return json.dumps(text)
        if self.takes_nothing and not text.strip():
            return "null"
        for codec, spellings in self.spellings:
            for spelled in spellings(text):
                try:
                    value = codec.decode(spelled)
                except PayloadError:
                    continue
                # Written anew: a union may need a mark by which to tell its types apart.
                return self.codec.encode(value)
        raise ValueError(f"{shown(text)} where {expected(self.annotation)} is expected")


def _is_text(annotation: Any) -> bool:
    return annotation is str or annotation in ANYTHING


def shown(value: object) -> str:
    """A value in an error text: on one line, and short."""
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return _cut(text)


def shown_json(value: object) -> str:
    """The same of a value that stood in JSON, as JSON spells it."""
    if isinstance(value, str):
        return shown(value)
    return _cut(str(value) if isinstance(value, Decimal) else json.dumps(value, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"


# ------------------------------------------------------------------------------------------------ spellings


def _spelling(member: Any) -> Callable[[str], Iterator[str]]:
    """What gives the ways in which a text may stand for a value of this type, as JSON."""
    if get_origin(member) is Literal:
        return _choice(list(get_args(member)))
    if is_a(member, enum.Enum):
        return _enum_spelling(member)
    if is_a(member, bool):
        return _truth_spelling
    if is_a(member, int):
        return _int_spelling
    if is_a(member, float):
        return _float_spelling
    if is_a(member, datetime.timedelta):
        return _seconds_spelling
    if is_a(member, Decimal):
        return _decimal_spelling
    if member in ANYTHING or is_a(member, str):
        return _text_spelling
    if is_a(member, datetime.date, datetime.time, UUID, bytes, bytearray, PurePath):
        return _stripped_spelling
    return _json_spelling


def _text_spelling(text: str) -> Iterator[str]:
    yield json.dumps(text)


def _stripped_spelling(text: str) -> Iterator[str]:
    yield json.dumps(text.strip())


def _int_spelling(text: str) -> Iterator[str]:
    if _INT(text.strip()):
        yield _digits(text.strip())


def _digits(text: str) -> str:
    """An int as JSON writes it: without a plus, without zeros before it."""
    sign = "-" if text.startswith("-") else ""
    return sign + (text.lstrip("+-").lstrip("0") or "0")


def _float_spelling(text: str) -> Iterator[str]:
    if _NUMBER(text.strip()):
        yield json.dumps(float(text))


def _decimal_spelling(text: str) -> Iterator[str]:
    if _NUMBER(text.strip()):
        yield json.dumps(text.strip())


def _truth_spelling(text: str) -> Iterator[str]:
    found = _TRUTH.get(text.strip().lower())
    if found is not None:
        yield json.dumps(found)


def _seconds_spelling(text: str) -> Iterator[str]:
    if _NUMBER(text.strip()):
        yield codec_for(datetime.timedelta).encode(datetime.timedelta(seconds=float(text)))
    yield json.dumps(text.strip())


def _json_spelling(text: str) -> Iterator[str]:
    try:
        DECODER.decode(text.strip())
    except (ValueError, RecursionError):
        return
    yield text.strip()


def _choice(values: list[Any]) -> Callable[[str], Iterator[str]]:
    known = {_plain(value): codec_for(type(value)).encode(value) for value in values}

    def spelled(text: str) -> Iterator[str]:
        for written in (text, text.strip()):
            if written in known:
                yield known[written]

    return spelled


def _plain(value: Any) -> str:
    return str(value.value if isinstance(value, enum.Enum) else value)


def _enum_spelling(cls: type[enum.Enum]) -> Callable[[str], Iterator[str]]:
    by_name = dict(cls.__members__)
    by_value = {_plain(member): member for member in cls}
    codec = codec_for(cls)

    def spelled(text: str) -> Iterator[str]:
        for known in (by_value, by_name):
            for written in (text, text.strip()):
                if written in known:
                    yield codec.encode(known[written])

    return spelled
