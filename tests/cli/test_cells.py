"""A cell is read by the annotation of what it becomes, and refused with what was expected."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Optional, Union
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli.cells import CellReader, expected
from engine.codec import codec_for


class Colour(enum.Enum):
    RED = "red"
    DEEP_BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Size(enum.StrEnum):
    SMALL = "s"


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


class UserId(str):
    __slots__ = ()


Amount = NewType("Amount", Decimal)


def read(annotation: Any, text: str) -> Any:
    return codec_for(annotation).decode(CellReader.of(annotation).read(text))


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str, "", ""),
        (str, "  a b ", "  a b "),
        (str, '"\\\u2028\x00', '"\\\u2028\x00'),
        (Any, "7", "7"),
        (UserId, "u-1", UserId("u-1")),
        (int, "12", 12),
        (int, " +007 ", 7),
        (int, "-0", 0),
        (int, "9" * 40, int("9" * 40)),
        (float, "1.5", 1.5),
        (float, "12", 12.0),
        (float, ".5e3", 500.0),
        (Decimal, "12.50", Decimal("12.50")),
        (Decimal, " -1e3 ", Decimal("-1e3")),
        (Amount, "1.10", Decimal("1.10")),
        (Annotated[int, "seconds"], "5", 5),
        (bool, "true", True),
        (bool, " YES", True),
        (bool, "0", False),
        (dt.date, "2026-11-23", dt.date(2026, 11, 23)),
        (dt.time, "18:55", dt.time(18, 55)),
        (dt.datetime, "2026-11-23T18:55:19Z", dt.datetime(2026, 11, 23, 18, 55, 19, tzinfo=dt.UTC)),
        (dt.timedelta, "90.5", dt.timedelta(seconds=90.5)),
        (dt.timedelta, "PT2H", dt.timedelta(hours=2)),
        (UUID, "12345678-1234-5678-1234-567812345678", UUID("12345678-1234-5678-1234-567812345678")),
        (bytes, "aGk=", b"hi"),
        (Path, "a/b", Path("a/b")),
        (Colour, "red", Colour.RED),
        (Colour, "DEEP_BLUE", Colour.DEEP_BLUE),
        (Level, "2", Level.HIGH),
        (Level, "LOW", Level.LOW),
        (Size, "s", Size.SMALL),
        (Literal["a", 1, True], "1", 1),
        (Literal["a", 1], "a", "a"),
        (Optional[int], "", None),  # noqa: UP045  (both spellings are users')
        (int | None, " ", None),
        (int | None, "5", 5),
        (str | None, "", None),
        (str | None, "x", "x"),
        (Union[str, int], "5", 5),  # noqa: UP007
        (str | int, "five", "five"),
        (int | Decimal, "5.5", Decimal("5.5")),
        (dt.date | Colour | None, "red", Colour.RED),
        (list[int], "[1, 2]", [1, 2]),
        (dict[str, float], '{"a": 1.5}', {"a": 1.5}),
        (Sequence[str], '["a"]', ["a"]),
        (Point, '{"x": 1}', Point(1)),
        (Point | None, "", None),
    ],
)
def test_a_cell_becomes_what_is_annotated(annotation: Any, text: str, value: Any) -> None:
    found = read(annotation, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text", "says"),
    [
        (int, "", "'' where an int (as 12) is expected"),
        (int, "1.0", "'1.0' where an int (as 12) is expected"),
        (int, "1,000", "'1,000' where"),
        (int, "\u0661", "where an int"),
        (float, "inf", "'inf' where a number (as 12.5) is expected"),
        (Decimal, "1_0", "'1_0' where a Decimal (as 12.50) is expected"),
        (Decimal, "12,50", "'12,50' where a Decimal"),
        (bool, "2", "'2' where true or false is expected"),
        (dt.date, "2026-02-30", "'2026-02-30' where a date (as 2026-11-23) is expected"),
        (dt.datetime, "soon", "'soon' where a datetime"),
        (dt.timedelta, "1:30", "where a timedelta (seconds, or as PT90S) is expected"),
        (UUID, "12", "'12' where a UUID is expected"),
        (bytes, "%", "'%' where bytes in base64 is expected"),
        (Colour, "Red", "'Red' where one of 'red', 'blue' is expected"),
        (Literal["a"], "b", "'b' where 'a' is expected"),
        (int | None, "x", "'x' where an int (as 12) or nothing is expected"),
        (list[int], "1 2", "'1 2' where a list[int] is expected"),
        (list[int], '["a"]', "where a list[int] is expected"),
        (Point, "{}", "'{}' where a Point is expected"),
        (int, "x" * 500, "'xxx"),
    ],
)
def test_a_cell_that_does_not_fit_is_refused_with_what_was_expected(annotation: Any, text: str, says: str) -> None:
    with pytest.raises(ValueError, match="is expected") as raised:
        CellReader.of(annotation).read(text)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 200


def test_long_lists_of_choices_are_cut() -> None:
    many = enum.Enum("Many", {f"M{number}": number for number in range(50)})  # type: ignore[misc]
    assert expected(many).endswith("'9', …")


@given(value=st.decimals(allow_nan=False, allow_infinity=False) | st.integers() | st.dates() | st.booleans())
def test_what_python_prints_of_a_value_is_read_as_that_value(value: Any) -> None:
    found = read(type(value), str(value))
    assert (found, type(found)) == (value, type(value))


@given(text=st.text())
def test_every_text_is_itself(text: str) -> None:
    assert read(str, text) == text
