"""Unions: a value belongs to one of several shapes, and must be given back by the same.

`X | None` is X, or null. In any other union the kinds that JSON itself has tell the members apart as far as they go:
`Card | str` writes a card as it is. Members that JSON could not tell apart are tagged, as `{"Card": {…}}`; only
JSON's own scalars never are, so that `str | UUID` writes plain text as plain text. What has no tag because it was
written before the annotation became a union, or by hand, is read if it fits one member alone.
"""

from __future__ import annotations

import collections
import types
from collections.abc import Iterable
from typing import Any, Union, get_args, get_origin

from engine.codec.compiling import Compiler
from engine.codec.faults import UnfitError, unlike
from engine.codec.scalars import SCALARS
from engine.codec.shapes import FLOAT, INT, KIND, NULL, OBJECT, Part, Shape, spelled
from engine.codec.unannotated import ANYTHING


def union_rule(annotation: Any, compiler: Compiler) -> Shape | None:
    if get_origin(annotation) not in (Union, types.UnionType):
        return None
    members = list({id(shape): shape for shape in map(compiler.shape, get_args(annotation))}.values())
    if ANYTHING in members:
        return ANYTHING
    if len(members) == 1:
        return members[0]
    none = SCALARS[type(None)]
    others = [member for member in members if member is not none]
    if len(members) == 2 and len(others) == 1 and NULL not in others[0].kinds:
        return _optional(others[0])
    return union(spelled(annotation), members)


def _optional(some: Shape) -> Shape:
    def write(value: Any) -> Any:
        return None if value is None else some.write(value)

    def read(tree: Any, _: Any = None) -> Any:
        return None if tree is None else some.read(tree)

    def parts(thing: Any) -> Iterable[Part]:
        return () if thing is None else [("", some, thing)]

    return Shape(
        f"{some.name} | None", some.kinds | {NULL}, (*some.types, type(None)),
        inner=(some,), write=write, read=read, parts_of_value=parts, parts_of_tree=parts,
    )  # fmt: skip


def union(name: str, members: list[Shape]) -> Shape:
    """The shape of what is one of several; `name` is how its annotation is spelled."""
    return _Union(name, members).shape()


class _Union:
    """Several shapes, of which each value has one. Those that JSON tells apart are written as they are; the others are
    tagged: an object of one key, the member's name. Which member a value belongs to is told by its class, and among
    members of one class (`list[int] | list[str]`) by what fits."""

    def __init__(self, name: str, members: list[Shape]) -> None:
        self.name = name
        self.members = members
        tagged = self._tagged()
        self.by_tag = self._names(tagged)
        self.tags = {id(member): tag for tag, member in self.by_tag.items()}
        self.by_type: dict[type, list[Shape]] = {}
        self.by_kind: dict[str, list[Shape]] = {}
        for member in members:
            for cls in member.types:
                self.by_type.setdefault(cls, []).append(member)
            for kind in () if member in tagged else member.kinds:
                self.by_kind.setdefault(kind, []).append(member)
        if FLOAT in self.by_kind:
            self.by_kind.setdefault(INT, self.by_kind[FLOAT])

    def shape(self) -> Shape:
        kinds: set[str] = {OBJECT} if self.tags else set()
        for member in self.members:
            kinds |= set() if id(member) in self.tags else member.kinds
        return Shape(
            self.name,
            frozenset(kinds),
            tuple(self.by_type),
            is_loose=FLOAT in self.by_kind,
            inner=tuple(self.members),
            write=self.write,
            read=self.read,
            parts_of_value=self.parts_of_value,
            parts_of_tree=self.parts_of_tree,
        )

    def _tagged(self) -> list[Shape]:
        counts = collections.Counter(kind for member in self.members for kind in member.kinds)
        tagged = [m for m in self.members if not m.is_bare and any(counts[kind] > 1 for kind in m.kinds)]
        if tagged:  # a tagged one is an object, so none that is an object can stay as it is
            tagged = [m for m in self.members if m in tagged or OBJECT in m.kinds]
        return tagged

    @staticmethod
    def _names(members: list[Shape]) -> dict[str, Shape]:
        counts = collections.Counter(member.name for member in members)
        named: dict[str, Shape] = {}
        for member in members:
            tag = member.name
            if counts[tag] > 1:
                tag = f"{member.types[0].__module__}.{member.types[0].__qualname__}" if member.types else tag
            while tag in named:
                tag += "'"
            named[tag] = member
        return named

    def _candidates(self, value: Any) -> list[Shape]:
        return self.by_type.get(type(value)) or self.members

    def write(self, value: Any) -> Any:
        for member in self._candidates(value):
            try:
                tree = member.write(value)
            except UnfitError:
                continue
            tag = self.tags.get(id(member))
            return tree if tag is None else {tag: tree}
        raise unlike(value, self.name)

    def parts_of_value(self, value: Any) -> Iterable[Part]:
        fitting = self.by_type.get(type(value), [])
        return [("", fitting[0], value)] if len(fitting) == 1 else ()

    def read(self, tree: Any, _: Any = None) -> Any:
        if type(tree) is dict and len(tree) == 1:
            (tag,) = tree
            if tag in self.by_tag:
                return self.by_tag[tag].read(tree[tag])
        for member in self.by_kind.get(KIND[type(tree)], ()):
            try:
                return member.read(tree)
            except Exception:  # constructors are the user's code; another member may still fit
                continue
        return self._read_untagged(tree)

    def _read_untagged(self, tree: Any) -> Any:
        """What was written before the annotation became a union, or by hand: right if it fits one member alone."""
        fitting = []
        for member in self.by_tag.values():
            try:
                fitting.append((member, member.read(tree)))
            except Exception:  # constructors are the user's code; another member may still fit
                continue
        if len(fitting) == 1:
            return fitting[0][1]
        if fitting:
            tags = " or ".join(f'{{"{self.tags[id(member)]}": …}}' for member, _ in fitting)
            raise UnfitError(f"fits several of {self.name}; say which, as {tags}")
        raise unlike(tree, self.name)

    def parts_of_tree(self, tree: Any) -> Iterable[Part]:
        if type(tree) is dict and len(tree) == 1:
            (tag,) = tree
            if tag in self.by_tag:
                return [("", self.by_tag[tag], tree[tag])]
        fitting = self.by_kind.get(KIND[type(tree)], [])
        return [("", fitting[0], tree)] if len(fitting) == 1 and not self.by_tag else ()
