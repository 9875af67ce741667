"""Choices: enums and literals, whose values are a few that are known beforehand.

An enum's members are written as their values, or all of them as their names where some value is no JSON scalar; so a
member may be renamed in the one case, and its value changed in the other. A literal is written as a value of its type
is, and found again by type and value: `True` is not `1`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from math import isfinite
from typing import Any, Literal, cast, get_args, get_origin

from engine.codec.compiling import Compiler
from engine.codec.faults import UnfitError, shown, unlike
from engine.codec.shapes import INT, KIND, TEXT, Shape, refusing, spelled

_JSON_SCALARS = (type(None), bool, int, float, str)


def _is_json_scalar(value: Any) -> bool:
    return type(value) in _JSON_SCALARS and not (type(value) is float and not isfinite(value))


def enum_rule(annotation: Any, _: Compiler) -> Shape | None:
    if not isinstance(annotation, type) or not issubclass(annotation, enum.Enum):
        return None
    make = cast("Callable[[Any], Any]", annotation)
    members = list(annotation.__members__.values())
    by_value = all(_is_json_scalar(member._value_) for member in members)
    name = annotation.__name__
    known = {member._value_ if by_value else member.name: member for member in members}

    def write(value: Any) -> Any:
        if type(value) is not annotation:
            raise unlike(value, name)
        return value._value_ if by_value else value.name

    def read(tree: Any, _: Any = None) -> Any:
        member = known.get(tree) if type(tree) in _JSON_SCALARS else None
        if member is not None:
            return member
        try:  # combined flags, and what the enum's own _missing_ takes
            return make(tree)
        except ValueError:
            raise UnfitError(f"is {shown(tree)}, which is no {name}; there are {', '.join(map(repr, known))}") from None

    kinds = {KIND[type(member._value_)] for member in members} if by_value else {TEXT}
    return Shape(name, frozenset(kinds or {INT}), (annotation,), write=write, read=read)


def literal_rule(annotation: Any, compiler: Compiler) -> Shape | None:
    if get_origin(annotation) is not Literal:
        return None
    values = get_args(annotation)
    name = spelled(annotation)
    trees = [compiler.shape(type(value)).write(value) for value in values]
    by_value = {(type(value), value): tree for value, tree in zip(values, trees, strict=True)}
    by_tree = {(type(tree), tree): value for value, tree in zip(values, trees, strict=True)}
    if len(by_tree) < len(by_value):
        return refusing(name, f"is annotated as {name}, of which JSON could not tell two apart; annotate a union")

    def write(value: Any) -> Any:
        try:
            return by_value[type(value), value]
        except (KeyError, TypeError):
            raise unlike(value, name) from None

    def read(tree: Any, _: Any = None) -> Any:
        try:
            return by_tree[type(tree), tree]
        except (KeyError, TypeError):
            raise unlike(tree, name) from None

    owned = tuple(dict.fromkeys(type(value) for value in values))
    bare = all(type(value) in _JSON_SCALARS for value in values)
    return Shape(name, frozenset(KIND[type(tree)] for tree in trees), owned, bare, write=write, read=read)
