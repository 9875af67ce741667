"""A row becomes the activity's one argument, or its parameters by name, and an id."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, NamedTuple, NotRequired, TypedDict, TypeVar

import attrs
import pytest

from engine import Context, activity
from engine.cli.arguments import Arguments
from engine.cli.rows import InputError, RowFile

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    sku: str
    price: Decimal


@dataclass(frozen=True)
class DataclassOrder:
    id: str
    amount: Decimal
    count: int = 3
    lines: list[Line] = field(default_factory=list)


@attrs.frozen
class AttrsOrder:
    id: str
    amount: Decimal
    count: int = 3
    lines: list[Line] = attrs.field(factory=list)


class NamedOrder(NamedTuple):
    id: str
    amount: Decimal
    count: int = 3
    lines: list[Line] = []  # noqa: RUF012  (a NamedTuple's default)


class DictOrder(TypedDict):
    id: str
    amount: Decimal
    count: NotRequired[int]
    lines: NotRequired[list[Line]]


@attrs.frozen
class Box(Generic[T]):
    id: str
    amount: T


async def dataclass_order(ctx: Context, order: DataclassOrder) -> None: ...
async def attrs_order(ctx: Context, order: AttrsOrder) -> None: ...
async def named_order(ctx: Context, order: NamedOrder) -> None: ...
async def dict_order(ctx: Context, order: DictOrder) -> None: ...
async def boxed(ctx: Context, order: Box[Decimal]) -> None: ...
async def optional_order(ctx: Context, order: DataclassOrder | None) -> None: ...
async def any_dict(ctx: Context, row: dict[str, str]) -> None: ...
async def bare_dict(ctx: Context, row: dict) -> None: ...  # type: ignore[type-arg]
async def any_mapping(ctx: Context, row: Mapping[str, Any]) -> None: ...
async def parameters(ctx: Context, id: str, amount: Decimal, count: int = 3, note: str | None = None) -> None: ...
async def unannotated(ctx, id, amount="0"): ...  # type: ignore[no-untyped-def]
async def one_value(ctx: Context, amount: Decimal) -> None: ...
async def one_unannotated(ctx, row): ...  # type: ignore[no-untyped-def]
async def two_classes(ctx: Context, order: DataclassOrder | AttrsOrder) -> None: ...


Fit = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    def fitted(function: Any, content: str, name: str = "f.csv") -> list[tuple[Any, ...]]:
        (tmp_path / name).write_text(content, encoding="utf-8")
        file = RowFile.open(tmp_path / name)
        arguments = Arguments.of(activity(function), file, None)
        return [arguments.of_row(row) for row in file.rows()]

    return fitted


ORDER = DataclassOrder("a", Decimal("1.50"), 2)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (dataclass_order, (ORDER,)),
        (optional_order, (ORDER,)),
        (attrs_order, (AttrsOrder("a", Decimal("1.50"), 2),)),
        (named_order, (NamedOrder("a", Decimal("1.50"), 2),)),
        (dict_order, ({"id": "a", "amount": Decimal("1.50"), "count": 2},)),
        (boxed, (Box("a", Decimal("1.50")),)),
        (any_dict, ({"id": "a", "amount": "1.50", "count": "2"},)),
        (bare_dict, ({"id": "a", "amount": "1.50", "count": "2"},)),
        (any_mapping, ({"id": "a", "amount": "1.50", "count": "2"},)),
        (parameters, ("a", Decimal("1.50"), 2)),
        (unannotated, ("a", "1.50")),
        (one_value, (Decimal("1.50"),)),
    ],
)
def test_a_row_of_csv_becomes_the_arguments(fit: Fit, function: Any, args: tuple[Any, ...]) -> None:
    (found,) = fit(function, "id,amount,count\na,1.50,2\n")
    assert found == args
    assert [type(value) for value in found] == [type(value) for value in args]


@pytest.mark.parametrize(
    ("function", "cls"),
    [(dataclass_order, DataclassOrder), (attrs_order, AttrsOrder), (named_order, NamedOrder), (dict_order, dict)],
)
def test_a_row_of_json_may_be_nested_and_keeps_digits(fit: Fit, function: Any, cls: Any) -> None:
    content = '{"id": "a", "amount": 1.50, "lines": [{"sku": "x", "price": 2.10}, {"sku": "y", "price": "3"}]}'
    ((found,),) = fit(function, content, "f.jsonl")
    lines = [Line("x", Decimal("2.10")), Line("y", Decimal("3"))]
    assert found == cls(id="a", amount=Decimal("1.50"), lines=lines)
    assert str((found if cls is dict else {"lines": found.lines})["lines"][0].price) == "2.10"


def test_json_numbers_are_floats_where_nothing_else_is_annotated(fit: Fit) -> None:
    ((found,),) = fit(any_mapping, '{"a": 1.50, "b": {"c": [0.1, 2]}}', "f.jsonl")
    assert found == {"a": 1.5, "b": {"c": [0.1, 2]}}
    assert type(found["a"]) is float


def test_two_classes_are_told_apart_in_json_only(fit: Fit) -> None:
    content = '{"AttrsOrder": {"id": "a", "amount": 1.50}}'
    assert fit(two_classes, content, "f.jsonl") == [(AttrsOrder("a", Decimal("1.50")),)]
    with pytest.raises(InputError, match="a row of CSV cannot tell which class"):
        fit(two_classes, "id,amount\na,1\n")


@pytest.mark.parametrize(
    ("function", "content", "args"),
    [
        (dataclass_order, "id,amount,count\na,1,\n", (DataclassOrder("a", Decimal(1)),)),
        (dataclass_order, "id,amount\na,1\n", (DataclassOrder("a", Decimal(1)),)),
        (dataclass_order, "id,amount\n,1\n", (DataclassOrder("", Decimal(1)),)),
        (dict_order, "id,amount,count\na,1,\n", ({"id": "a", "amount": Decimal(1)},)),
        (parameters, "id,amount,count\na,1,\n", ("a", Decimal(1))),
        (parameters, "id,amount,note\na,1,hi\n", ("a", Decimal(1), 3, "hi")),
        (parameters, "id,amount,note\na,1,\n", ("a", Decimal(1), 3, None)),
        (parameters, "note,amount,id\nhi,1,a\n", ("a", Decimal(1), 3, "hi")),
    ],
)
def test_what_is_left_out_takes_its_default(fit: Fit, function: Any, content: str, args: tuple[Any, ...]) -> None:
    assert fit(function, content) == [args]


def test_a_cell_may_hold_json_for_a_nested_value(fit: Fit) -> None:
    content = 'id,amount,lines\na,1,"[{""sku"": ""x"", ""price"": ""2""}]"\n'
    assert fit(dataclass_order, content) == [(DataclassOrder("a", Decimal(1), 3, [Line("x", Decimal(2))]),)]


@pytest.mark.parametrize(
    ("function", "content", "name", "says"),
    [
        (one_unannotated, "a,b\n1,2\n", "f.csv", "annotate 'row' with dict or a class"),
        (parameters, "id\na\n", "f.csv", "names no column 'amount', which parameters needs; it names: id"),
        (dataclass_order, '{"id": "a", "amount": 1, "lines": [{"sku": 1, "price": 2}]}', "f.jsonl", r"lines\[0\].sku"),
        (parameters, '{"id": "a", "amount": "x"}', "f.jsonl", "line 1, column amount: .*'x'.*Decimal"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(fit: Fit, function: Any, content: str, name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        fit(function, content, name)


# ------------------------------------------------------------------------------------------------ ids


def ids(tmp_path: Path, content: str, id_field: str | None, name: str = "f.csv") -> list[str]:
    (tmp_path / name).write_text(content, encoding="utf-8")
    file = RowFile.open(tmp_path / name)
    arguments = Arguments.of(activity(any_mapping), file, id_field)
    return [arguments.id_of(row) for row in file.rows()]


def test_without_a_field_the_id_is_the_file_and_the_row(tmp_path: Path) -> None:
    assert ids(tmp_path, "a\n1\n\n2\n", None, "may.orders.csv") == ["may.orders-1", "may.orders-2"]
    assert ids(tmp_path, '[{"a": 1}, {"a": 2}]', None, "o.json") == ["o-1", "o-2"]


def test_the_field_is_the_id(tmp_path: Path) -> None:
    assert ids(tmp_path, "id,a\nx,1\n y ,2\n", "id") == ["x", " y "]
    assert ids(tmp_path, '{"id": 7}\n{"id": "x"}', "id", "o.jsonl") == ["7", "x"]


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        ("id\n/a\n", "f.csv", "line 2, column id: '/a' begins with /"),
        ("id,a\n,1\n", "f.csv", "line 2, column id: it is empty"),
        ("no\na\n", "f.csv", "f.csv: the header names no column 'id', which --id-field names; it names: no"),
        ('{"id": null}', "o.jsonl", "line 1, column id: null where an id is expected"),
        ('{"id": 1.5}', "o.jsonl", "column id: 1.5 where an id is expected"),
        ('{"id": true}', "o.jsonl", "column id: true where an id is expected"),
        ("id\n" + "x" * 256 + "\n", "f.csv", "256 bytes"),
    ],
)
def test_what_cannot_be_an_id_is_refused(tmp_path: Path, content: str, name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ids(tmp_path, content, "id", name)


def test_columns_that_the_activity_does_not_take_are_named(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("id,amount,extra,key\na,1,x,k\n", encoding="utf-8")
    file = RowFile.open(tmp_path / "f.csv")
    (row,) = file.rows()
    assert list(Arguments.of(activity(dataclass_order), file, "key").unused(row)) == ["extra"]
    assert list(Arguments.of(activity(parameters), file, None).unused(row)) == ["extra", "key"]
    assert list(Arguments.of(activity(any_dict), file, None).unused(row)) == []


def test_the_annotations_of_this_module_are_texts() -> None:
    """The tests above are about annotations as `from __future__ import annotations` leaves them."""
    assert isinstance(parameters.__annotations__["amount"], str)
    assert typing.get_type_hints(parameters)["amount"] is Decimal
