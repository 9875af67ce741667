"""A shape: an annotation, compiled into a pair of functions.

`write` makes a value into a tree, `read` makes the tree into the value again; both stop at the first fault, and do
not say where. For the careful pass a shape also tells the parts of a value and those of a tree, each with what it
adds to the path and the shape that it has; `faults_of` goes down along them and collects all that is wrong. What a
union must know of its members, to tell them apart, stands in a shape too: the kinds of JSON it gives, and the types
it owns.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from engine.codec.faults import Faults, UnfitError

# What stands in JSON, by the type that orjson reads it as.
NULL, BOOL, INT, FLOAT, TEXT, ARRAY, OBJECT = "null", "bool", "int", "float", "text", "array", "object"
KIND = {type(None): NULL, bool: BOOL, int: INT, float: FLOAT, str: TEXT, list: ARRAY, dict: OBJECT}

Part = tuple[str, "Shape", Any]
"""One part of a value or of a tree: what its path adds, its shape, itself."""


def _no_parts(_: Any) -> Iterable[Part]:
    return ()


def _late(shape: Shape, name: str) -> Callable[..., Any]:
    """A function that looks itself up when it is called: a class that holds itself is used before it is compiled."""
    return lambda thing, _=None: getattr(shape, name)(thing)


@attrs.define(eq=False)
class Shape:
    """An annotation, compiled."""

    name: str
    """How the annotation is spelled; also the tag of a union's member."""
    kinds: frozenset[str] = frozenset(KIND.values())
    """The kinds of JSON that `write` gives."""
    types: tuple[type, ...] = ()
    """The types whose instances are written by this shape rather than by a sibling in a union."""
    is_bare: bool = False
    """Whether a union leaves it untagged even where JSON could not tell it from a sibling: `str` beside `UUID`."""
    is_loose: bool = False
    """Whether JSON alone decides what is read, so that an int must not be mistaken for a float."""
    refuses: bool = False
    """Whether nothing can be written or read by it."""
    inner: tuple[Shape, ...] = ()
    write: Callable[[Any], Any] = attrs.field(default=attrs.Factory(lambda self: _late(self, "write"), takes_self=True))
    """Value to tree; stops at the first fault."""
    read: Callable[..., Any] = attrs.field(default=attrs.Factory(lambda self: _late(self, "read"), takes_self=True))
    """Tree to value; stops at the first fault. It takes a second argument, as cattrs wants it, and passes it over."""
    parts_of_value: Callable[[Any], Iterable[Part]] = _no_parts
    """The parts of a value, for finding all faults; raises what is wrong with the value itself."""
    parts_of_tree: Callable[[Any], Iterable[Part]] = _no_parts
    """The parts of a tree, in the same manner."""


def refusing(name: str, why: str) -> Shape:
    def refuse(_: Any, _type: Any = None) -> Any:
        raise UnfitError(why)

    return Shape(name, refuses=True, write=refuse, read=refuse, parts_of_value=refuse, parts_of_tree=refuse)


def faults_of(shape: Shape, thing: Any, path: str, found: Faults, *, reading: bool) -> None:
    """Adds all that is wrong with a value to be written, or with a tree to be read."""
    before = len(found)
    try:
        for suffix, inner, part in (shape.parts_of_tree if reading else shape.parts_of_value)(thing):
            faults_of(inner, part, f"{path}{suffix}" if path else suffix.lstrip("."), found, reading=reading)
        if len(found) == before:
            (shape.read if reading else shape.write)(thing)
    except UnfitError as error:
        found.append((path, str(error)))
    except RecursionError:
        raise
    except Exception as error:  # constructors, validators and converters are the user's code, and may raise anything
        found.append((path, f"{type(error).__name__}: {error}"))


def spelled(annotation: Any) -> str:
    """An annotation as its user would write it, the same in every version of Python."""
    origin = get_origin(annotation)
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is ...:
        return "..."
    if origin is Union or origin is types.UnionType:
        return " | ".join(map(spelled, get_args(annotation)))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, get_args(annotation)))}]"
    if origin is not None:
        return f"{spelled(origin)}[{', '.join(map(spelled, get_args(annotation)))}]"
    return str(getattr(annotation, "__name__", None) or annotation)
