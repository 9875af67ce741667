"""Scalars: what JSON has itself, and what is written as text.

A writer takes exactly the type that is annotated, or one derived from it that equals an instance of it, and gives the
plain one: a `bool` is no `int`, a `datetime` no `date`; an `int` is a `float` if exactly. What has no JSON that would
come back equal (NaN, a lone surrogate) is refused. Readers are as strict. `SCALARS` is the table of them; the rules
add paths, and classes of the user's own that derive from a scalar, as `class UserId(str)`.

Writers leave datetimes in UTC or without a zone, dates and UUIDs as they are: orjson writes their text, and several
times quicker.
"""

from __future__ import annotations

import enum
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, cast
from uuid import UUID

from engine.codec.compiling import Compiler
from engine.codec.faults import UnfitError, kind_of, shown, unlike
from engine.codec.shapes import BOOL, FLOAT, INT, NULL, TEXT, Part, Shape, spelled

# ------------------------------------------------------------------------------------------------- what JSON has itself


def write_int(value: Any) -> Any:
    if type(value) is int:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__int__(value)
    raise unlike(value, "int")


def printable_int(value: Any) -> Iterable[Part]:
    try:
        str(write_int(value))
    except ValueError as error:  # Python's own limit on digits
        raise UnfitError(f"has too many digits: {error}") from error
    return ()


def _read_int(tree: Any, _: Any = None) -> Any:
    if type(tree) is int:
        return tree
    raise unlike(tree, "int")


def _write_bool(value: Any, _: Any = None) -> Any:
    if value is True or value is False:
        return value
    raise unlike(value, "bool")


def _write_none(value: Any, _: Any = None) -> Any:
    if value is None:
        return None
    raise unlike(value, "None")


def write_float(value: Any) -> Any:
    if isinstance(value, float):
        if isfinite(value):
            return value if type(value) is float else float.__float__(value)
        raise UnfitError(f"is {value}, which JSON has no number for")
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = 0.5
        if number == value:
            return number
        raise UnfitError(f"is {shown(value)}, which no float is exactly; annotate int")
    raise unlike(value, "float")


def _read_float(tree: Any, _: Any = None) -> Any:
    return tree if type(tree) is float else write_float(tree)


def write_text(value: Any) -> Any:
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    raise unlike(value, "str")


def encodable_text(value: Any) -> Iterable[Part]:
    try:
        write_text(value).encode()
    except UnicodeEncodeError:
        raise UnfitError(f"is {shown(value)}, which holds a lone surrogate; decode the bytes it came from") from None
    return ()


def _read_text(tree: Any, _: Any = None) -> Any:
    if type(tree) is str:
        return tree
    raise unlike(tree, "str")


# ---------------------------------------------------------------------------------------------- what is written as text


def _reader(cls: Any, make: Callable[[str], Any]) -> Callable[..., Any]:
    def read(tree: Any, _: Any = None) -> Any:
        if type(tree) is str:
            try:
                return make(tree)
            except ValueError:
                pass
        raise unlike(tree, cls.__name__)

    return read


def _write_datetime(value: Any) -> Any:
    if type(value) is datetime:
        # orjson writes these as isoformat does, eight times quicker.
        return value if value.tzinfo is UTC or value.tzinfo is None else value.isoformat()
    return _iso_text(value, datetime)


def _write_date(value: Any) -> Any:
    if isinstance(value, datetime):
        raise unlike(value, "date")
    return value if type(value) is date else _iso_text(value, date)


def _iso_text(value: Any, cls: Any) -> str:
    if not isinstance(value, cls):
        raise unlike(value, cls.__name__)
    text: str = value.isoformat()
    if type(value) is not cls and not _is_same(cls, text, value):
        raise UnfitError(f"is {kind_of(value)}, {shown(value)}, which no {cls.__name__} equals")
    return text


def _is_same(cls: Any, text: str, value: Any) -> bool:
    try:
        return bool(cls.fromisoformat(text) == value)
    except ValueError:
        return False


def _write_decimal(value: Any) -> Any:
    if isinstance(value, Decimal):
        if value.is_finite():
            return Decimal.__str__(value)
        raise UnfitError(f"is {value}, which is no number")
    raise unlike(value, "Decimal")


def _read_decimal(tree: Any, _: Any = None) -> Any:
    if type(tree) is str or type(tree) is int:
        try:
            number = Decimal(tree)
        except ArithmeticError:
            raise unlike(tree, "Decimal") from None
        if number.is_finite():
            return number
        raise UnfitError(f"is {tree}, which is no number")
    if type(tree) is float:
        raise UnfitError(f"is the float {tree}, which has lost its digits; write a Decimal as text")
    raise unlike(tree, "Decimal")


_DURATION = re.compile(
    r"(?P<sign>-?)P(?:(?P<days>[0-9]+)D)?"
    r"(?:T(?:(?P<hours>[0-9]+)H)?(?:(?P<minutes>[0-9]+)M)?(?:(?P<seconds>[0-9]+)(?:\.(?P<fraction>[0-9]{1,6}))?S)?)?"
).fullmatch


def _write_timedelta(value: Any) -> Any:
    if not isinstance(value, timedelta):
        raise unlike(value, "timedelta")
    microseconds = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    whole, fraction = divmod(abs(microseconds), 1_000_000)
    tail = f".{fraction:06d}".rstrip("0") if fraction else ""
    return f"{'-' if microseconds < 0 else ''}PT{whole}{tail}S"


def _read_timedelta(tree: Any, _: Any = None) -> Any:
    found = _DURATION(_read_text(tree))
    if not found or not any(found[name] for name in ("days", "hours", "minutes", "seconds")):
        raise unlike(tree, "timedelta")
    amounts = {name: int(found[name] or 0) for name in ("days", "hours", "minutes", "seconds")}
    length = timedelta(**amounts, microseconds=int((found["fraction"] or "").ljust(6, "0")))
    return -length if found["sign"] else length


def _write_uuid(value: Any) -> Any:
    if type(value) is UUID:
        return value
    if isinstance(value, UUID):
        return UUID(int=value.int)
    raise unlike(value, "UUID")


def _write_bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        return b2a_base64(value, newline=False).decode()
    raise unlike(value, "bytes")


def _write_bytearray(value: Any) -> Any:
    if isinstance(value, bytearray):
        return b2a_base64(value, newline=False).decode()
    raise unlike(value, "bytearray")


def _read_base64(tree: Any, _: Any = None) -> bytes:
    return a2b_base64(_read_text(tree).encode(), strict_mode=True)


def _read_bytearray(tree: Any, _: Any = None) -> bytearray:
    return bytearray(_read_base64(tree))


# ------------------------------------------------------------------------------------------------- the table, the rules


def _scalar(cls: type, kind: str, write: Callable[[Any], Any], read: Callable[[Any], Any], **more: Any) -> Shape:
    return Shape(spelled(cls), frozenset({kind}), (cls,), write=write, read=read, **more)


SCALARS: dict[Any, Shape] = {
    int: _scalar(int, INT, write_int, _read_int, is_bare=True, parts_of_value=printable_int),
    bool: _scalar(bool, BOOL, _write_bool, _write_bool, is_bare=True),
    type(None): _scalar(type(None), NULL, _write_none, _write_none, is_bare=True),
    float: _scalar(float, FLOAT, write_float, _read_float, is_bare=True),
    str: _scalar(str, TEXT, write_text, _read_text, is_bare=True, parts_of_value=encodable_text),
    datetime: _scalar(datetime, TEXT, _write_datetime, _reader(datetime, datetime.fromisoformat)),
    date: _scalar(date, TEXT, _write_date, _reader(date, date.fromisoformat)),
    time: _scalar(time, TEXT, lambda value: _iso_text(value, time), _reader(time, time.fromisoformat)),
    timedelta: _scalar(timedelta, TEXT, _write_timedelta, _read_timedelta),
    Decimal: _scalar(Decimal, TEXT, _write_decimal, _read_decimal),
    UUID: _scalar(UUID, TEXT, _write_uuid, _reader(UUID, UUID)),
    bytes: _scalar(bytes, TEXT, _write_bytes, _read_base64),
    bytearray: _scalar(bytearray, TEXT, _write_bytearray, _read_bytearray),
}


def scalar_rule(annotation: Any, _: Compiler) -> Shape | None:
    return SCALARS.get(annotation) if isinstance(annotation, type) else None


def path_rule(annotation: Any, _: Compiler) -> Shape | None:
    if annotation not in (Path, PurePath, PurePosixPath, PureWindowsPath):
        return None

    def write(value: Any) -> Any:
        if isinstance(value, annotation):
            return str(value)
        raise unlike(value, annotation.__name__)

    def parts(value: Any) -> Iterable[Part]:
        return [("", SCALARS[str], write(value))]

    read = _reader(annotation, annotation)
    written = (annotation, type(annotation()))
    return Shape(annotation.__name__, frozenset({TEXT}), written, write=write, read=read, parts_of_value=parts)


def derived_scalar_rule(annotation: Any, _: Compiler) -> Shape | None:
    """A class of the user's own that derives from a scalar, as `class UserId(str)`."""
    if not isinstance(annotation, type) or issubclass(annotation, enum.Enum):
        return None
    base = next((base for base in (str, int, float, bytes, Decimal) if issubclass(annotation, base)), None)
    if base is None:
        return None
    inner = SCALARS[base]
    make = cast("Callable[[Any], Any]", annotation)

    def write(value: Any) -> Any:
        if type(value) is not annotation:
            raise unlike(value, annotation.__name__)
        return inner.write(value)

    def read(tree: Any, _: Any = None) -> Any:
        return make(inner.read(tree))

    return Shape(annotation.__name__, inner.kinds, (annotation,), write=write, read=read)
