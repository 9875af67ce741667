"""What the fields of a class are annotated as, once the class stands in an annotation itself.

A field's annotation is resolved, `Self` in it is the class, and its type variables stand for what the annotation
gives them: in `Box[int]` a field `content: T` is an int. So they do through generic classes that it derives from,
each of which has type variables of its own; what is not given may be anything.
"""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from engine.codec.compiling import Compiler, origin_of


def field_types(annotation: Any, compiler: Compiler) -> dict[str, Any]:
    """The resolved annotations of a class's fields, by name."""
    cls = origin_of(annotation)
    hints = compiler.hints(cls)
    bindings = _bindings(cls, get_args(annotation))
    found: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        for name in inspect.get_annotations(owner):
            if name in hints:
                found[name] = _substituted(_with_self(hints[name], annotation), bindings.get(owner, {}))
    return found


def _bindings(cls: Any, arguments: tuple[Any, ...]) -> dict[type, dict[Any, Any]]:
    """For a generic class and each generic class that it derives from: what its type variables stand for."""
    own = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
    found = {cls: own}
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = origin_of(base)
        if isinstance(origin, type) and origin not in (object, typing.Generic):
            found |= _bindings(origin, tuple(_substituted(argument, own) for argument in get_args(base)))
    return found


def _substituted(annotation: Any, known: Mapping[Any, Any]) -> Any:
    """An annotation with its type variables replaced; what is not known may be anything."""
    if isinstance(annotation, TypeVar):
        return known.get(annotation, annotation)
    parameters = getattr(annotation, "__parameters__", ())
    if not parameters or get_origin(annotation) is None:
        return annotation
    return annotation[tuple(known.get(parameter, Any) for parameter in parameters)]


def _with_self(annotation: Any, cls: Any) -> Any:
    """An annotation with `Self` replaced by the class it stands in."""
    if annotation is typing.Self:
        return cls
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Annotated or origin is Literal or not arguments:
        return annotation
    replaced = tuple(_with_self(argument, cls) for argument in arguments)
    if replaced == arguments:
        return annotation
    if origin is Union or origin is types.UnionType:
        return functools.reduce(operator.or_, replaced)
    return origin[replaced]
