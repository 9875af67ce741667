"""From an annotation to its shape.

A `Compiler` takes off what only decorates an annotation, and asks one rule after the other; the first that knows the
annotation gives its shape, and asks the compiler for the shapes of what stands inside. A class may hold itself: its
rule begins its shape before it compiles the fields, and an alias within itself is given a shape that looks up what
was made of it in the end. An annotation that is text is resolved by the names of whoever asks, so that nothing made
of it is kept for others; a class whose annotations cannot be resolved has a shape too, one that refuses and says what
to do.

The rules stand in the modules of what they are about, and the table of them in `annotations`.
"""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, ForwardRef, TypeVar, get_args, get_origin

from engine.codec.shapes import OBJECT, Shape, refusing, spelled
from engine.errors import DefinitionError

Names = Callable[[], Mapping[str, Any]]
"""Gives the names of the function in which something was defined, as they are when they are asked for."""

Rule = Callable[[Any, "Compiler"], "Shape | None"]
"""Gives the shape of an annotation that it knows, and None for any other."""


def _no_names() -> Mapping[str, Any]:
    return {}


class _UnresolvedError(Exception):
    """The annotations of a class cannot be resolved, by what is known now. Never leaves this module."""


class Compiler:
    """Makes annotations into shapes. What it made is kept for all, unless it depends on who asked."""

    def __init__(self, rules: Sequence[Rule], known: Mapping[Any, Shape], names: Names | None) -> None:
        self.rules = rules
        self.known = known
        self.names: Names = names or _no_names
        self.made: dict[Any, Shape] = {}
        self.lasts = True
        self._open: list[Any] = []

    def shape(self, annotation: Any) -> Shape:
        annotation = self._unwrapped(annotation)
        try:
            known = self.made.get(annotation) or self.known.get(annotation)
        except TypeError:  # not hashable, so not kept
            return self._built(annotation)
        if known is None and annotation in self._open:
            return self._again(annotation)
        if known is None:
            self._open.append(annotation)
            known = self.made[annotation] = self._built(annotation)
            self._open.pop()
        return known

    def _again(self, annotation: Any) -> Shape:
        """The shape of an alias within itself, as `Json = str | list["Json"]`: what is made of it in the end."""
        made = self.made
        return Shape(
            spelled(annotation),
            is_loose=True,
            write=lambda value: made[annotation].write(value),
            read=lambda tree, _=None: made[annotation].read(tree),
            parts_of_value=lambda value: made[annotation].parts_of_value(value),
            parts_of_tree=lambda tree: made[annotation].parts_of_tree(tree),
        )

    def begin(self, annotation: Any, cls: type) -> Shape:
        """The shape of a class, to be filled in: its fields may need it."""
        shape = self.made[annotation] = Shape(spelled(annotation), frozenset({OBJECT}), (cls,))
        return shape

    def _built(self, annotation: Any) -> Shape:
        name = spelled(annotation)
        for rule in self.rules:
            try:
                shape = rule(annotation, self)
            except _UnresolvedError as error:
                self.lasts = False
                return refusing(name, str(error))
            if shape is not None:
                return shape
        return refusing(name, f"is annotated as {name}, which cannot be encoded; pass what it is made of")

    def _unwrapped(self, annotation: Any) -> Any:
        """The annotation without what only decorates it: Annotated, NewType, Final, aliases, type variables, text."""
        while True:
            origin = get_origin(annotation)
            if isinstance(annotation, str | ForwardRef):
                annotation = self.resolved(annotation)
            elif annotation is None:
                return type(None)
            elif annotation in _ANY:
                return Any
            elif origin is Annotated:
                annotation = annotation.__origin__
            elif origin in (Final, ClassVar) or getattr(origin, "_name", None) in _QUALIFIERS:
                (annotation,) = get_args(annotation)
            elif hasattr(annotation, "__supertype__"):
                annotation = annotation.__supertype__
            elif isinstance(annotation, TypeVar):
                constraints = annotation.__constraints__
                annotation = annotation.__bound__ or (
                    functools.reduce(operator.or_, constraints) if constraints else Any
                )
            elif type(origin or annotation).__name__ == "TypeAliasType":
                value = (origin or annotation).__value__
                annotation = value[get_args(annotation)] if origin else value
            else:
                return annotation

    def resolved(self, reference: str | ForwardRef) -> Any:
        """What a text in place of an annotation means: one thing here and another there, so it is not kept."""
        self.lasts = False
        text = reference if isinstance(reference, str) else reference.__forward_arg__
        module = None if isinstance(reference, str) else reference.__forward_module__
        known = vars(module) if isinstance(module, types.ModuleType) else {}
        try:
            return eval(text, {**vars(typing), **known, **self.names()})
        except Exception as error:  # an annotation is the user's code, and may raise anything
            raise DefinitionError(f"the annotation {text!r} cannot be resolved ({error}); {_RESOLVE}") from error

    def hints(self, cls: type) -> dict[str, Any]:
        """The annotations of a class, resolved; those of a class local to a function by that function's names."""
        names: dict[str, Any] | None = None
        if "<locals>" in cls.__qualname__:
            known = self.names()
            is_of_one_module = known.get("__name__", cls.__module__) == cls.__module__
            names = {**(known if is_of_one_module else {}), cls.__name__: cls}
        try:
            return typing.get_type_hints(cls, localns=names, include_extras=True)
        except Exception as error:  # an annotation is the user's code, and may raise anything
            where = f"{cls.__module__}.{cls.__qualname__}"
            raise _UnresolvedError(f"the annotations of {where} cannot be resolved ({error}); {_RESOLVE}") from error


_ANY = (Any, object, inspect.Parameter.empty)
_QUALIFIERS = ("Required", "NotRequired", "ReadOnly")
_RESOLVE = "define or import the name in the module, not under `if TYPE_CHECKING`, before the definition is first used"


def origin_of(annotation: Any) -> Any:
    return get_origin(annotation) or annotation
