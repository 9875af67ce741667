"""Values there and back: what goes in comes back equal and of its type, or is refused with the path."""

from __future__ import annotations

import collections
import json
import math
import typing
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Optional, Union
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from engine.codec import codec_for
from engine.errors import PayloadError
from tests.codec.samples import (
    ID,
    ORDER,
    UTC_INSTANT,
    Account,
    Bounded,
    Box,
    Card,
    Checked,
    Chosen,
    Colour,
    Converted,
    Derived,
    IntBox,
    Keyed,
    Labelled,
    Line,
    MaybeId,
    Mixed,
    Mood,
    Movie,
    Named,
    Nickname,
    Odd,
    Order,
    Pair,
    Partial,
    Ping,
    Point,
    Pong,
    Private,
    Right,
    Seeded,
    Selfish,
    Selves,
    Several,
    Size,
    Special,
    T,
    Tree,
    Unsupported,
    Untyped,
    UserId,
)

VALUES: list[tuple[Any, Any]] = [
    (int, 5),
    (int, 0),
    (int, 2**63),
    (int, -(2**200)),
    (str, ""),
    (str, 'é\u2028\x00"\\😀'),
    (bool, True),
    (float, 1.5),
    (float, 1.0),
    (float, 5e-324),
    (None, None),
    (type(None), None),
    (Decimal, Decimal("1.50")),
    (Decimal, Decimal("1E+400")),
    (datetime, UTC_INSTANT),
    (datetime, datetime(2026, 1, 2, 3, 4, 5)),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 7)),
    (datetime, datetime(1, 1, 1, tzinfo=UTC)),
    (datetime, datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=45, seconds=7)))),
    (datetime, datetime(2026, 7, 2, 12, tzinfo=ZoneInfo("Europe/Berlin"))),
    (date, date(987, 1, 2)),
    (time, time(23, 59, 59, 999999)),
    (time, time(1, 2, tzinfo=UTC)),
    (timedelta, timedelta(days=-3, microseconds=7)),
    (timedelta, timedelta.max),
    (timedelta, timedelta.min),
    (timedelta, timedelta(0)),
    (UUID, ID),
    (bytes, b""),
    (bytes, bytes(range(256))),
    (bytearray, bytearray(b"\x00\xff")),
    (Path, Path("/tmp/x y")),
    (PurePosixPath, PurePosixPath("a/b")),
    (Nickname, Nickname("bob")),
    (Colour, Colour.RED),
    (Size, Size.LARGE),
    (Mood, Mood.GLAD),
    *((Mixed, member) for member in Mixed),
    *((Odd, member) for member in Odd),
    (Right, Right.READ | Right.WRITE),
    (Right, Right(0)),
    (Literal["a", 1, True, None], True),
    (Literal["a", 1, True, None], 1),
    (Literal["a", 1, True, None], None),
    (Literal[Colour.RED, "blue"], Colour.RED),
    (Literal[b"x"], b"x"),
    (UserId, "u-1"),
    (MaybeId, None),
    (Annotated[int, "metres"], 3),
    (Annotated[int, ["unhashable"]], 3),
    (Final[int], 3),
    (T, {"a": [1]}),
    (Bounded, 3),
    (Chosen, "x"),
    (list[int], [1, 2]),
    (typing.List[int], []),  # noqa: UP006
    (list, [1, "a", None]),
    (MutableSequence[int], [1]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (tuple[()], ()),
    (tuple, (1, "a")),
    (Sequence[int], [1, 2]),
    (Sequence[int], (1, 2)),
    (Iterable[str], ("a",)),
    (set[str], {"b", "a", "c"}),
    (set[tuple[int, str]], {(1, "a"), (2, "b")}),
    (frozenset[Colour], frozenset(Colour)),
    (AbstractSet[int], frozenset({1, 2})),
    (deque[int], deque([1, 2])),
    (dict[str, int], {"a": 1, "é": 2}),
    (dict, {"a": [1.5]}),
    (dict[int, str], {1: "a", -(2**70): "b"}),
    (dict[Size, int], {Size.SMALL: 1}),
    (dict[Colour, int], {Colour.RED: 1}),
    (dict[UUID, int], {ID: 1}),
    (dict[datetime, int], {UTC_INSTANT: 1}),
    (dict[date, int], {date(2026, 1, 1): 1}),
    (dict[Decimal, int], {Decimal("1.50"): 1}),
    (dict[bool, int], {True: 1, False: 0}),
    (dict[float, int], {1.5: 1, 2.0: 3}),
    (dict[tuple[int, int], str], {(1, 2): "a", (0, 9): "b"}),
    (dict[int | str, int], {1: 1, "1": 2}),
    (dict[Point, int], {Point(x=1): 1}),
    (dict[None, int], {None: 1}),
    (Mapping[str, Decimal], {"a": Decimal("1")}),
    (OrderedDict[tuple[int, int], int], OrderedDict([((9, 9), 1), ((1, 1), 2)])),
    (defaultdict[str, list[int]], defaultdict(list, {"a": [1]})),
    (Counter[str], Counter("hello")),
    (int | None, None),
    (Optional[int], 3),  # noqa: UP045
    (Union[int, str], "1"),  # noqa: UP007
    (int | float, 1),
    (int | float, 1.0),
    (int | float, 2**64),
    (int | float, float(2**64)),
    (bool | int, True),
    (bool | int, 1),
    (str | UUID, str(ID)),
    (str | UUID, ID),
    (date | datetime, UTC_INSTANT),
    (date | datetime, date(2026, 1, 1)),
    (Decimal | float | None, Decimal("1.5")),
    (Decimal | float | None, 1.5),
    (Colour | str, "red"),
    (Colour | str, Colour.RED),
    (Mixed | None, Mixed.NOTHING),
    (Mixed | None, None),
    (Decimal | UUID | dict[str, str], {"UUID": str(ID)}),
    (Decimal | UUID | dict[str, str], ID),
    (Literal["auto"] | int, "auto"),
    (Literal["auto"] | str, "other"),
    (Literal["auto"] | Colour, Colour.RED),
    (Card | Account, Card("1")),
    (Card | Account, Account("1")),
    (Card | Special, Special("1", 5)),
    (Card | str | None, Card("1")),
    (Card | dict[str, int], {"Card": 1}),
    (Card | dict[str, int], Card("Card")),
    (Card | Movie, Movie(name="x")),
    (Box[int] | Box[str], Box(1)),
    (Box[int] | Box[str], Box("a")),
    (list[int] | list[str], ["a"]),
    (list[int] | list[str], []),
    (list[int] | tuple[int, ...], (1,)),
    (list[int] | set[int], {1}),
    (Line, Line("a", 1, Decimal(1))),
    (Order, ORDER),
    (Point, Point(x=3)),
    (Tree, Tree(1, [Tree(2), Tree(3, [Tree(4)])])),
    (Ping, Ping(Pong(Ping(), 2**70))),
    (Selfish, Selfish([Selfish()], Selfish())),
    (Box[int], Box(5)),
    (Box, Box([1, "a"])),
    (Box[Box[Decimal]], Box(Box(Decimal("2")))),
    (Pair[int, datetime], Pair(1, [UTC_INSTANT])),
    (Labelled[Decimal], Labelled([Decimal(1)], Decimal(2))),
    (IntBox, IntBox(5, "x")),
    (Private, Private(1, 2, 3, 4, 5, 6)),
    (Named, Named(1, date(2026, 1, 1))),
    (Untyped, Untyped(1, [2])),
    (Several[Decimal], Several([Decimal(1)])),
    (Keyed[Decimal], Keyed(key=Decimal(1))),
    (Selves, Selves(1)),
    (Movie, Movie(name="x", year=1)),
    (Movie, Movie(name="x")),
    (Partial, Partial(name="x", price=Decimal("1"))),
    (Converted, Converted(Path("x"))),
    (Derived, Derived("abc")),
    (Any, {"a": [1, 1.5, None, True, {"b": "c"}]}),
    (Any, 2**64),
    (Any, [float(2**64), 2**64, "1" * 30]),
    (object, "x"),
    (dict[str, Any], {"a": 2**70}),
    (dict[str, list[tuple[Colour, set[UUID]] | None]], {"a": [None, (Colour.RED, {ID})]}),
]


@pytest.mark.parametrize(("annotation", "value"), VALUES, ids=lambda thing: ascii(thing)[:40])
def test_what_is_encoded_comes_back_equal_and_of_its_type(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    text = codec.encode(value)
    back = codec.decode(text)
    assert back == value
    assert type(back) is type(value) or isinstance(value, AbstractSet)
    json.loads(text)
    text.encode()
    assert codec.encode(back) == text


@pytest.mark.parametrize(
    ("annotation", "value", "back"),
    [
        (float, 2, 2.0),
        (float, True, None),
        (int, Size.LARGE, 2),
        (str, Mood.GLAD, "glad"),
        (list[int], collections.UserList([1]), None),
        (tuple[int, date, str], Named(1, date(2026, 1, 1)), (1, date(2026, 1, 1), "none")),
        (dict[str, int], OrderedDict(a=1), {"a": 1}),
        (Any, Mood.GLAD, "glad"),
        (Any, Size.SMALL, 1),
        (Any, OrderedDict(a=1), {"a": 1}),
    ],
)
def test_what_derives_from_a_builtin_is_given_back_as_the_builtin(annotation: Any, value: Any, back: Any) -> None:
    codec = codec_for(annotation)
    if back is None:
        with pytest.raises(PayloadError):
            codec.encode(value)
    else:
        given = codec.decode(codec.encode(value))
        assert given == back == value
        assert isinstance(given, type(back))


class Someone:
    pass


MISFITS: list[Any] = [
    (int, True),
    (int, "1"),
    (int, 1.0),
    (int, None),
    (bool, 1),
    (str, b"x"),
    (str, "\ud800"),
    (str, 1),
    (None, 0),
    (float, "1"),
    (float, math.nan),
    (float, math.inf),
    (float, 2**53 + 1),
    (float, 10**400),
    pytest.param(int, 10**5000, id="an int of too many digits"),
    (Decimal, 1),
    (Decimal, Decimal("NaN")),
    (Decimal, Decimal("-Infinity")),
    (date, UTC_INSTANT),
    (datetime, date(2026, 1, 1)),
    (UUID, str(ID)),
    (bytes, "x"),
    (Path, "x"),
    (Nickname, "bob"),
    (Colour, "red"),
    (Colour, Mood.GLAD),
    (Literal[1], True),
    (Literal["a"], "b"),
    (Literal["a"], []),
    (list[int], (1,)),
    (list[int], [1, "a"]),
    (tuple[int, int], (1,)),
    (tuple[int, ...], [1]),
    (set[int], [1]),
    (Sequence[str], "abc"),
    (Sequence[int], range(3)),
    (dict[str, int], {1: 1}),
    (dict[str, int], {"\ud800": 1}),
    (dict[int, int], {"1": 1}),
    (dict[tuple[int, int], int], {(1, "a"): 1}),
    (Card, {"number": "1"}),
    (Card, Special("1")),
    (Card, Account("1")),
    (Card | Account, Special("1")),
    (int | str, 1.5),
    (Movie, {"year": 1}),
    (Movie, {"name": "x", "more": 1}),
    (Named, (1, date(2026, 1, 1), "x")),
    (Box[int], Box("a")),
    (IntBox, IntBox("a")),  # type: ignore[arg-type]
    (Seeded, Seeded(1, seed=2)),
    (Unsupported, Unsupported("x", trio.Lock())),
    (Someone, Someone()),
    (Iterable[int], iter([1])),
    (type[int], int),
    (Any, (1, 2)),
    (Any, {1, 2}),
    (Any, [Card("1")]),
    (Any, {1: 2}),
    (Any, {"a": math.nan}),
    (Any, ["\udfff"]),
    (Any, {"\udfff": 1}),
    (Any, Someone()),
    (Any, UTC_INSTANT),
    (Any, ID),
    (Any, Colour.RED),
    (Any, b"x"),
]


@pytest.mark.parametrize(("annotation", "value"), MISFITS, ids=lambda thing: ascii(thing)[:40])
def test_a_value_that_does_not_fit_its_annotation_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(PayloadError) as caught:
        codec_for(annotation).encode(value, "order")
    assert caught.value.path.startswith("order")
    assert str(caught.value).isascii() or "…" in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, '"5"'),
        (int, "5.0"),
        (int, "true"),
        (int, "{"),
        (int, ""),
        (int, "18446744073709551616.5"),
        (str, '"\\ud800"'),
        (Any, '["\\udfff"]'),
        (dict[str, int], '{"\\ud800": 1}'),
        (float, "NaN"),
        (float, '"1"'),
        (Decimal, "1.5"),
        (Decimal, '"x"'),
        (Decimal, '"NaN"'),
        (datetime, '"yesterday"'),
        (timedelta, '"PT"'),
        (timedelta, '"1 day"'),
        (UUID, '"x"'),
        (bytes, '"a"'),
        (bytes, '"é"'),
        (Colour, '"green"'),
        (Colour, "[]"),
        (Literal["a"], '"b"'),
        (list[int], "{}"),
        (tuple[int, int], "[1]"),
        (set[int], '["a"]'),
        (dict[int, int], '{"01": 1}'),
        (dict[int, int], '{"a": 1}'),
        (dict[tuple[int, int], int], "[1]"),
        (Card, "[]"),
        (Card, "{}"),
        (Card, '{"number": 5}'),
        (Card | Account, '{"number": "1"}'),
        (Card | Account, '{"Card": {"number": 5}}'),
        (Checked, '{"amount": 0}'),
        (int | str, "1.5"),
        (Movie, '{"year": 1}'),
        (Named, '{"x": 1}'),
        (Someone, "{}"),
    ],
    ids=str,
)
def test_a_text_that_does_not_fit_its_annotation_is_refused(annotation: Any, text: str) -> None:
    with pytest.raises(PayloadError) as caught:
        codec_for(annotation).decode(text, "order")
    assert caught.value.path.startswith("order")


def test_all_faults_are_told_at_once_each_with_its_path() -> None:
    order = Order("o", [Line("a", "x", Decimal(1)), Line(None, 1, 1.5)], None, tags={"k": 5})  # type: ignore[arg-type, dict-item]
    with pytest.raises(PayloadError) as caught:
        codec_for(Order).encode(order, "order")
    paths = [path for path, _ in caught.value.faults]
    assert paths == [
        "order.lines[0].quantity",
        "order.lines[1].sku",
        "order.lines[1].price",
        "order.placed",
        "order.tags['k']",
    ]
    assert caught.value.path == "order.lines[0].quantity"
    assert "order.lines[1].price: is a float, 1.5, where Decimal is annotated" in str(caught.value)


def test_all_faults_of_a_text_are_told_at_once_each_with_its_path() -> None:
    text = '{"id": 5, "lines": [{"sku": "a", "quantity": "x"}, 7], "placed": "x"}'
    with pytest.raises(PayloadError) as caught:
        codec_for(Order).decode(text)
    assert [path for path, _ in caught.value.faults] == [
        "id", "lines[0].sku"[:8] + ".quantity", "lines[0].price", "lines[1]", "placed",
    ]  # fmt: skip


def test_a_path_without_a_name_begins_with_the_field() -> None:
    with pytest.raises(PayloadError) as caught:
        codec_for(dict[str, list[Card]]).encode({"a": [Card(5)]})  # type: ignore[arg-type]
    assert caught.value.path == "['a'][0].number"


def test_what_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(PayloadError, match="nested too deeply, or holds itself"):
        codec_for(Any).encode(endless)


@given(
    st.builds(
        Order,
        st.text(),
        st.lists(st.builds(Line, st.text(), st.integers(), st.decimals(allow_nan=False, allow_infinity=False))),
        st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=False),
        st.none() | st.text(),
        st.dictionaries(st.text(), st.text()),
    )
)
def test_any_order_comes_back_equal(order: Order) -> None:
    codec = codec_for(Order)
    back = codec.decode(codec.encode(order))
    placed, given = back.placed, order.placed
    assert (placed.utcoffset(), placed.replace(tzinfo=None)) == (given.utcoffset(), given.replace(tzinfo=None, fold=0))
    assert attrs.evolve(back, placed=UTC_INSTANT) == attrs.evolve(order, placed=UTC_INSTANT)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(int, 5), (int, 2**70), (Any, [2**70, float(2**70)]), (dict[str, Any], {"a": -(2**64)}), (Order, ORDER)],
    ids=lambda thing: ascii(thing)[:40],
)
def test_the_value_in_a_field_comes_back_with_all_its_digits(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    back = codec.decode_field(f'{{"args":[],"value":{codec.encode(value)}}}', "value")
    assert back == value
    assert repr(back) == repr(value)  # 2**70 is not float(2**70)


def test_the_faults_in_a_field_are_told_all_at_once_each_with_its_path() -> None:
    text = '{"value": {"id": 5, "lines": [{"sku": "a", "quantity": "x", "price": "1"}], "placed": "2026-01-02"}}'
    with pytest.raises(PayloadError) as caught:
        codec_for(Order).decode_field(text, "value", "result")
    assert [path for path, _ in caught.value.faults] == ["result.id", "result.lines[0].quantity"]


def test_a_field_that_is_missing_is_no_fault_of_the_value() -> None:
    with pytest.raises(KeyError):
        codec_for(Order).decode_field("{}", "value")
