"""Signatures: arguments are written and read by the annotations of the function that takes them."""

from __future__ import annotations

import functools
import gc
import json
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import pytest

from engine.errors import DefinitionError, PayloadError
from engine.signatures import Signature, enclosing_locals

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

T = TypeVar("T")


@attrs.frozen
class Line:
    sku: str
    price: Decimal


@dataclass
class Order:
    id: str
    lines: list[Line]


@dataclass
class Receipt:
    total: Decimal


ORDER = Order("o", [Line("a", Decimal("1.50")), Line("b", Decimal("2"))])


async def charge(card: str, amount: int) -> Receipt: ...  # type: ignore[empty-body]


async def fulfil(ctx: object, order: Order, fast: bool = False) -> Receipt: ...  # type: ignore[empty-body]


def untyped(a, b=2):  # type: ignore[no-untyped-def]
    return a


def variadic(first: int, *rest: Decimal) -> None: ...


def keyword(card: str, *, currency: str) -> None: ...


def optional_keyword(card: str, *, currency: str = "EUR") -> None: ...


def nothing() -> None: ...


def lazy(a: int) -> Awaitable[Receipt]: ...  # type: ignore[empty-body]


def coroutine(a: int) -> Coroutine[Any, Any, Receipt]: ...  # type: ignore[empty-body]


def anything(value: T) -> T:
    return value


def unknown(value: Unknown) -> None: ...


def unknown_result() -> list[Unknown]: ...  # type: ignore[empty-body]


def everything(a: int, *rest: Decimal, **more: Line) -> None: ...


class Service:
    def charge(self, card: str, amount: int) -> Receipt: ...  # type: ignore[empty-body]

    @classmethod
    def make(cls, order: Order) -> Receipt: ...  # type: ignore[empty-body]

    @staticmethod
    def fixed(order: Order) -> Receipt: ...  # type: ignore[empty-body]

    def __call__(self, order: Order) -> Receipt: ...  # type: ignore[empty-body]


@functools.wraps(charge)
def wrapped(*args: Any, **kwargs: Any) -> Any: ...


@pytest.mark.parametrize(
    ("function", "skip", "args", "text"),
    [
        (charge, 0, ("c", 12), '["c",12]'),
        (fulfil, 1, (ORDER,), None),
        (fulfil, 1, (ORDER, True), None),
        (untyped, 0, ({"a": 1},), '[{"a":1}]'),
        (untyped, 0, (1, 2**70), f"[1,{2**70}]"),
        (variadic, 0, (1,), "[1]"),
        (variadic, 0, (1, Decimal("2.0"), Decimal(3)), '[1,"2.0","3"]'),
        (optional_keyword, 0, ("c",), '["c"]'),
        (nothing, 0, (), "[]"),
        (anything, 0, ([1, "a"],), '[[1,"a"]]'),
        (Service().charge, 0, ("c", 1), '["c",1]'),
        (Service.charge, 1, ("c", 1), '["c",1]'),
        (Service.make, 0, (ORDER,), None),
        (Service.fixed, 0, (ORDER,), None),
        (Service(), 0, (ORDER,), None),
        (wrapped, 0, ("c", 1), '["c",1]'),
        (functools.partial(charge, "c"), 0, (1,), "[1]"),
        (functools.partial(keyword, currency="EUR"), 0, ("c",), '["c"]'),
        (functools.partial(functools.partial(fulfil, None), fast=True), 0, (ORDER,), None),
        (lambda a, b: a, 0, (1, "x"), '[1,"x"]'),
        (sorted, 0, ([2, 1],), "[[2,1]]"),
        (min, 0, (1, 2, 3), "[1,2,3]"),
        (int, 0, ("5",), '["5"]'),
        (Order, 0, ("o", [Line("a", Decimal(1))]), '["o",[{"sku":"a","price":"1"}]]'),
        (Line, 0, ("a", Decimal(1)), '["a","1"]'),
    ],
)
def test_arguments_come_back_equal(
    function: Callable[..., Any], skip: int, args: tuple[Any, ...], text: str | None
) -> None:
    signature = Signature.of(function, skip=skip)
    written = signature.encode(args)
    assert text is None or written == text
    json.loads(written)
    assert signature.decode(written) == args
    assert [type(value) for value in signature.decode(written)] == [type(value) for value in args]


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (charge, Receipt(Decimal("1.5")), '{"total":"1.5"}'),
        (lazy, Receipt(Decimal("1.5")), '{"total":"1.5"}'),
        (coroutine, Receipt(Decimal("1.5")), '{"total":"1.5"}'),
        (Service(), Receipt(Decimal("1.5")), '{"total":"1.5"}'),
        (functools.partial(charge, "x"), Receipt(Decimal("1.5")), '{"total":"1.5"}'),
        (wrapped, Receipt(Decimal("1.5")), '{"total":"1.5"}'),
        (nothing, None, "null"),
        (untyped, [1, "a"], '[1,"a"]'),
        (sorted, [1, 2], "[1,2]"),
        (lambda: 1, {"a": 1.5}, '{"a":1.5}'),
        (anything, {"a": 1.5}, '{"a":1.5}'),
        (int, 5, "5"),
        (Decimal, Decimal("1.0"), '"1.0"'),
        (functools.partial(Decimal, "1.0"), Decimal("1.0"), '"1.0"'),
        (Line, Line("a", Decimal(1)), '{"sku":"a","price":"1"}'),
    ],
)
def test_results_are_written_by_the_return_annotation(function: Callable[..., Any], value: Any, text: str) -> None:
    result = Signature.of(function).result
    assert result.encode(value) == text
    assert result.decode(text) == value


def test_paths_begin_with_the_name_of_the_parameter() -> None:
    wrong = Order("o", [Line("a", Decimal(1)), Line("b", 2)])  # type: ignore[arg-type]
    with pytest.raises(PayloadError) as caught:
        Signature.of(fulfil, skip=1).encode((wrong, "yes"))
    assert [path for path, _ in caught.value.faults] == ["order.lines[1].price", "fast"]
    with pytest.raises(PayloadError) as caught:
        Signature.of(fulfil, skip=1).decode('[{"id":1,"lines":[]},3]')
    assert [path for path, _ in caught.value.faults] == ["order.id", "fast"]


def test_paths_of_further_arguments_are_told_by_their_place() -> None:
    with pytest.raises(PayloadError) as caught:
        Signature.of(variadic).encode((1, Decimal(1), 2))
    assert caught.value.path == "[2]"


@pytest.mark.parametrize(
    ("function", "args", "why"),
    [
        (charge, ("c",), r"charge takes 2 arguments \(card, amount\), but 1 was given"),
        (charge, ("c", 1, 2), r"charge takes 2 arguments \(card, amount\), but 3 were given"),
        (untyped, (), r"untyped takes from 1 to 2 arguments \(a, b\), but 0 were given"),
        (nothing, (1,), "nothing takes no arguments, but 1 was given"),
        (variadic, (), r"variadic takes at least 1 argument \(first\), but 0 were given"),
        (functools.partial(charge, "c"), ("d", 1), r"charge takes 1 argument \(amount\), but 2 were given"),
    ],
)
def test_too_few_and_too_many_arguments_are_refused(
    function: Callable[..., Any], args: tuple[Any, ...], why: str
) -> None:
    signature = Signature.of(function)
    with pytest.raises(PayloadError, match=why):
        signature.encode(args)
    with pytest.raises(PayloadError, match=why):
        signature.decode(json.dumps(list(args)))


@pytest.mark.parametrize("text", ["", "{", "{}", '"ab"', "5", "null"])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(PayloadError):
        Signature.of(charge).decode(text)


def test_a_keyword_that_nothing_binds_is_a_definition_error() -> None:
    with pytest.raises(
        DefinitionError, match=r"keyword takes 'currency' by keyword only.*functools.partial\(keyword, currency="
    ):
        Signature.of(keyword).encode(("c",))


def test_a_function_without_room_for_its_context_is_a_definition_error() -> None:
    with pytest.raises(DefinitionError, match="nothing takes 0 parameters; 1 must come before its arguments"):
        Signature.of(nothing, skip=1).encode(())


@pytest.mark.parametrize(
    ("function", "bound"),
    [
        (charge, ""),
        (functools.partial(charge), "{}"),
        (functools.partial(charge, "c"), '{"card":"c"}'),
        (functools.partial(charge, "c", amount=5), '{"amount":5,"card":"c"}'),
        (functools.partial(keyword, currency="EUR"), '{"currency":"EUR"}'),
        (
            functools.partial(everything, 1, Decimal(2), x=Line("a", Decimal(3))),
            '{"a":1,"more":{"x":{"sku":"a","price":"3"}},"rest":["2"]}',
        ),
        (functools.partial(max, 1, default=2), '{"args":[1],"default":2}'),
    ],
)  # fmt: skip
def test_what_a_partial_binds_is_written_by_the_names_of_the_parameters(
    function: Callable[..., Any], bound: str
) -> None:
    assert Signature.of(function).bound == bound


def test_what_a_partial_binds_must_fit_too() -> None:
    with pytest.raises(PayloadError) as caught:
        _ = Signature.of(functools.partial(charge, 5)).bound  # type: ignore[arg-type]
    assert caught.value.path == "card"


# ------------------------------------------------------------------------------------------------- names, looked up


def test_nothing_is_resolved_before_it_is_needed() -> None:
    Signature.of(unknown)


def test_an_annotation_that_cannot_be_resolved_names_the_function_and_says_what_to_do() -> None:
    why = r"unknown: the annotation 'Unknown' of parameter 'value' cannot be resolved .*define or import the name"
    with pytest.raises(DefinitionError, match=why):
        Signature.of(unknown).encode((1,))
    with pytest.raises(DefinitionError, match=r"unknown_result: the annotation .* of its result cannot be resolved"):
        _ = Signature.of(unknown_result).result


def described(function: Callable[..., Any]) -> Signature:
    """What a decorator does."""
    return Signature.of(function, locals=enclosing_locals(1))


def test_classes_local_to_the_enclosing_function_are_found_also_those_defined_later() -> None:
    @described
    def pack(box: Box, boxes: list[Box] | None = None) -> dict[str, Box]: ...  # type: ignore[empty-body]

    @dataclass
    class Box:
        lid: Lid
        inside: Box | None = None

    @dataclass
    class Lid:
        width: int

    args = (Box(Lid(1), Box(Lid(2))), [Box(Lid(3))])
    assert pack.decode(pack.encode(args)) == args
    assert pack.result.decode('{"a":{"lid":{"width":1}}}') == {"a": Box(Lid(1))}


def test_local_names_win_over_those_of_the_module() -> None:
    @dataclass
    class Order:
        other: int

    @described
    def pack(order: Order) -> None: ...

    assert pack.decode('[{"other":1}]') == (Order(1),)


def test_methods_of_local_classes_find_the_names_of_the_function_around() -> None:
    @dataclass
    class Box:
        width: int

    class Packer:
        @described
        def pack(self: Any, box: Box) -> None: ...

    signature = Packer.pack
    assert isinstance(signature, Signature)
    assert signature.decode('[1,{"width":1}]') == (1, Box(1))


def test_names_of_the_closure_are_found_without_the_frame() -> None:
    @dataclass
    class Box:
        width: int

    def pack(box: Box) -> int:
        return Box(box.width).width

    assert Signature.of(pack).decode('[{"width":1}]') == (Box(1),)


def test_a_decorator_in_a_module_has_no_enclosing_names() -> None:
    namespace: dict[str, Any] = {"enclosing_locals": enclosing_locals}
    exec("found = enclosing_locals()", namespace)
    assert namespace["found"] is None


def test_the_frame_is_let_go_of_once_the_names_are_resolved() -> None:
    class Heavy:
        pass

    def define() -> tuple[Signature, weakref.ref[Heavy]]:
        heavy = Heavy()

        @described
        def pack(count: int) -> None: ...

        return pack, weakref.ref(heavy)

    signature, heavy = define()
    gc.collect()
    assert heavy() is not None
    signature.encode((1,))
    gc.collect()
    assert heavy() is None


def test_texts_within_annotations_are_resolved() -> None:
    def pack(orders: list["Order"], by: dict[str, "Line | None"]) -> None: ...  # noqa: UP037

    signature = Signature.of(pack)
    args = ([ORDER], {"a": None, "b": Line("a", Decimal(1))})
    assert signature.decode(signature.encode(args)) == args


def test_arguments_of_large_ints_come_back_exactly_without_annotation() -> None:
    signature = Signature.of(untyped)
    assert signature.decode(signature.encode((2**64, [2**90, 1.5]))) == (2**64, [2**90, 1.5])
