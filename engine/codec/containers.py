"""Containers: lists, tuples, sets and mappings.

All but mappings are arrays, and a set's items stand in the order of their canonical text, so that equal sets have
equal texts. Where the annotation leaves open whether a list or a tuple is meant, as `Sequence` does, the tuple is
tagged. A mapping is an object if its keys are text or ints, else an array of pairs in the order of its keys'
canonical text.
"""

from __future__ import annotations

import collections
import collections.abc
import functools
import typing
from collections.abc import Callable, Iterable
from typing import Any, get_args

from engine.codec.canonical_text import sort_key
from engine.codec.compiling import Compiler, origin_of
from engine.codec.faults import UnfitError, shown, unlike
from engine.codec.scalars import SCALARS
from engine.codec.shapes import ARRAY, INT, OBJECT, TEXT, Part, Shape, spelled
from engine.codec.text import text_of_leaf
from engine.codec.unannotated import ANYTHING
from engine.codec.unions import union

# --------------------------------------------------------------------------------------------------------------- arrays

_ABSTRACT = collections.abc


def _as_is(items: Any) -> Any:
    return items


_ARRAYS: dict[Any, tuple[type, Any, Callable[[Any], Any]]] = {
    list: (list, list, _as_is),
    _ABSTRACT.MutableSequence: (list, list, _as_is),
    collections.deque: (collections.deque, collections.deque, collections.deque),
    set: (set, set, set),
    _ABSTRACT.MutableSet: (set, set, set),
    frozenset: (frozenset, frozenset, frozenset),
    _ABSTRACT.Set: (frozenset, (set, frozenset), frozenset),
}
_SETS = (set, frozenset, _ABSTRACT.MutableSet, _ABSTRACT.Set)
_EITHER = (_ABSTRACT.Sequence, _ABSTRACT.Iterable, _ABSTRACT.Collection, _ABSTRACT.Reversible)


def array_rule(annotation: Any, compiler: Compiler) -> Shape | None:
    origin = origin_of(annotation)
    if origin in _ARRAYS:
        cls, accepts, make = _ARRAYS[origin]
        item = compiler.shape(*get_args(annotation) or (Any,))
        return _array(annotation, cls, item, accepts, make, is_sorted=origin in _SETS)
    if origin in _EITHER:
        item = compiler.shape(*get_args(annotation) or (Any,))
        listed = _array(annotation, list, item, list, _as_is)
        return union(spelled(annotation), [listed, _tagged_tuple(annotation, item)])
    return None


def _items(things: Iterable[Any], shape: Shape) -> Iterable[Part]:
    return [(f"[{index}]", shape, item) for index, item in enumerate(things)]


def _array(
    annotation: Any, cls: type, item: Shape, accepts: Any, make: Callable[[Any], Any], *, is_sorted: bool = False
) -> Shape:
    """A collection of like items, written as an array."""
    name = spelled(annotation)

    def write(value: Any) -> Any:
        if not isinstance(value, accepts):
            raise unlike(value, name)
        trees = [write_item(element) for element in value]
        return sorted(trees, key=sort_key) if is_sorted else trees

    def read(tree: Any, _: Any = None) -> Any:
        if type(tree) is not list:
            raise unlike(tree, name)
        return make([read_item(element) for element in tree])

    def parts_of_value(value: Any) -> Iterable[Part]:
        if not isinstance(value, accepts):
            raise unlike(value, name)
        return [(f"[{element!r}]", item, element) for element in value] if is_sorted else _items(value, item)

    def parts_of_tree(tree: Any) -> Iterable[Part]:
        if type(tree) is not list:
            raise unlike(tree, name)
        return _items(tree, item)

    write_item, read_item = item.write, item.read
    return Shape(
        name, frozenset({ARRAY}), (cls,), inner=(item,),
        write=write, read=read, parts_of_value=parts_of_value, parts_of_tree=parts_of_tree,
    )  # fmt: skip


def _tagged_tuple(annotation: Any, item: Shape) -> Shape:
    """The tuples among the sequences: an object, so that they come back as tuples."""
    inner = _array(annotation, tuple, item, tuple, tuple)

    def read(tree: Any, _: Any = None) -> Any:
        if type(tree) is dict and tree.keys() == {"tuple"}:
            return inner.read(tree["tuple"])
        raise unlike(tree, inner.name)

    return Shape(
        inner.name, frozenset({OBJECT}), (tuple,), inner=(inner,),
        write=lambda value: {"tuple": inner.write(value)}, read=read, parts_of_value=inner.parts_of_value,
    )  # fmt: skip


def tuple_rule(annotation: Any, compiler: Compiler) -> Shape | None:
    if origin_of(annotation) is not tuple:
        return None
    arguments = get_args(annotation)
    if annotation in (tuple, typing.Tuple):  # noqa: UP006  (what the user may have written)
        arguments = (Any, ...)
    if len(arguments) == 2 and arguments[1] is ...:
        return _array(annotation, tuple, compiler.shape(arguments[0]), tuple, tuple)
    shapes = [compiler.shape(argument) for argument in arguments]
    name = spelled(annotation)

    def check(thing: Any, cls: type) -> Any:
        _checked(thing, cls, name)
        if len(thing) != len(shapes):
            raise UnfitError(f"has {len(thing)} items, where {name} is annotated")
        return thing

    def write(value: Any) -> Any:
        return [shape.write(item) for shape, item in zip(shapes, check(value, tuple), strict=True)]

    def read(tree: Any, _: Any = None) -> Any:
        return tuple([shape.read(item) for shape, item in zip(shapes, check(tree, list), strict=True)])

    def parts(thing: Any, cls: type) -> Iterable[Part]:
        check(thing, cls)
        return [(f"[{index}]", shape, item) for index, (shape, item) in enumerate(zip(shapes, thing, strict=True))]

    return Shape(
        name, frozenset({ARRAY}), (tuple,), inner=tuple(shapes), write=write, read=read,
        parts_of_value=lambda value: parts(value, tuple), parts_of_tree=lambda tree: parts(tree, list),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- mappings

_MAPPINGS = (
    dict,
    _ABSTRACT.Mapping,
    _ABSTRACT.MutableMapping,
    collections.OrderedDict,
    collections.defaultdict,
    collections.Counter,
)


def mapping_rule(annotation: Any, compiler: Compiler) -> Shape | None:
    origin = origin_of(annotation)
    if origin not in _MAPPINGS:
        return None
    arguments = get_args(annotation) or (Any, Any)
    key, value = compiler.shape(arguments[0]), compiler.shape(arguments[1] if len(arguments) > 1 else int)
    cls = origin if isinstance(origin, type) and issubclass(origin, dict) else dict
    make: Callable[[Any], Any] = _as_is if cls is dict else cls
    if cls is collections.defaultdict:
        factory = origin_of(arguments[1])
        make = functools.partial(cls, factory if isinstance(factory, type) else None)
    if key is ANYTHING or key.kinds == {TEXT}:
        return _object(annotation, cls, SCALARS[str] if key is ANYTHING else key, value, make, _key_text, _as_is)
    if key.kinds == {INT}:
        return _object(annotation, cls, key, value, make, str, _key_int)
    return _pairs(annotation, cls, key, value, make)


def _key_text(tree: Any) -> str:
    return tree if type(tree) is str else text_of_leaf(tree)


def _key_int(text: str) -> int:
    number = int(text)
    if str(number) != text:
        raise unlike(text, "int")
    return number


def _checked(thing: Any, cls: type, name: str) -> Any:
    if not isinstance(thing, cls):
        raise unlike(thing, name)
    return thing


def _object(
    annotation: Any, cls: type, key: Shape, value: Shape, make: Callable[[Any], Any], to_text: Any, from_text: Any
) -> Shape:
    """A mapping whose keys can be the keys of a JSON object."""
    name = spelled(annotation)
    write_key, write_value, read_key, read_value = key.write, value.write, key.read, value.read

    def write(thing: Any) -> Any:
        items = _checked(thing, dict, name).items()
        return {to_text(write_key(one)): write_value(another) for one, another in items}

    def read(tree: Any, _: Any = None) -> Any:
        items = _checked(tree, dict, name).items()
        return make({read_key(from_text(one)): read_value(another) for one, another in items})

    def parts_of_value(thing: Any) -> Iterable[Part]:
        keys = [(f"[{one!r}]", key, one) for one in _checked(thing, dict, name)]
        return keys + [(f"[{one!r}]", value, another) for one, another in thing.items()]

    def parts_of_tree(tree: Any) -> Iterable[Part]:
        keys = [(f"[{one!r}]", _keyed(key, from_text), one) for one in _checked(tree, dict, name)]
        return keys + [(f"[{one!r}]", value, another) for one, another in tree.items()]

    return Shape(
        name, frozenset({OBJECT}), (cls,), inner=(key, value),
        write=write, read=read, parts_of_value=parts_of_value, parts_of_tree=parts_of_tree,
    )  # fmt: skip


def _keyed(key: Shape, from_text: Callable[[str], Any]) -> Shape:
    return Shape(key.name, read=lambda text, _=None: key.read(from_text(text)))


def _pairs(annotation: Any, cls: type, key: Shape, value: Shape, make: Callable[[Any], Any]) -> Shape:
    """A mapping whose keys JSON has no place for: an array of pairs, sorted by their keys' canonical text."""
    name = spelled(annotation)

    def write(thing: Any) -> Any:
        pairs = [[key.write(one), value.write(another)] for one, another in _checked(thing, dict, name).items()]
        return pairs if cls is collections.OrderedDict else sorted(pairs, key=lambda pair: sort_key(pair[0]))

    def read(tree: Any, _: Any = None) -> Any:
        return make({key.read(one): value.read(another) for one, another in _checked(tree, list, name)})

    def parts_of_value(thing: Any) -> Iterable[Part]:
        keys = [(f"[{one!r}]", key, one) for one in _checked(thing, dict, name)]
        return keys + [(f"[{one!r}]", value, another) for one, another in thing.items()]

    def parts_of_tree(tree: Any) -> Iterable[Part]:
        for index, pair in enumerate(_checked(tree, list, name)):
            if type(pair) is not list or len(pair) != 2:
                raise UnfitError(f"has {shown(pair)} at [{index}], where a pair of key and value is due")
            yield f"[{index}][0]", key, pair[0]
            yield f"[{index}][1]", value, pair[1]

    return Shape(
        name, frozenset({ARRAY}), (cls,), inner=(key, value),
        write=write, read=read, parts_of_value=parts_of_value, parts_of_tree=parts_of_tree,
    )  # fmt: skip
