"""What a type takes by name: the fields of a class, the keys of a dict, the parameters of an activity.

`columns_of` answers for a type whether a row can be it, and which columns that row has; `parameters_of` does the same
for an activity. Both look only at annotations and defaults, and make nothing.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NotRequired, Required, TypeVar, get_args, get_origin

import attrs

from engine.cli.cells import ANYTHING, unwrapped
from engine.errors import DefinitionError

NOTHING = inspect.Parameter.empty
"""Stands for the default of what has none."""


@attrs.frozen
class Column:
    """One thing that a row gives by name.

    Attributes:
        name: the column's, the field's or the parameter's name.
        annotation: its type; `Any` where nothing is annotated.
        default: what it is where the row does not give it; `NOTHING` where the row must.
    """

    name: str
    annotation: Any
    default: Any = NOTHING

    @property
    def is_required(self) -> bool:
        """Whether each row must give it."""
        return self.default is NOTHING


@attrs.frozen
class Columns:
    """The columns of a type.

    Attributes:
        known: those that have a name of their own.
        others: the type of any other column; `NOTHING` where no other is taken.
    """

    known: Mapping[str, Column]
    others: Any = NOTHING

    def annotation_of(self, name: str) -> Any:
        """What a column becomes; `Any` where the type does not know it."""
        found = self.known.get(name)
        if found is not None:
            return found.annotation
        return Any if self.others is NOTHING else self.others


def parameters_of(function: Callable[..., Any]) -> list[Column]:
    """The parameters that an activity is started with: all positional ones after its Context.

    Raises:
        DefinitionError: an annotation cannot be resolved.
    """
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [one for one in inspect.signature(function).parameters.values() if one.kind in positional]
    hints = _hints(inspect.unwrap(_innermost(function)))
    return [Column(one.name, hints.get(one.name, Any), one.default) for one in found[1:]]


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__func__", function)


def _hints(annotated: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except Exception as error:  # an annotation is the user's code, and may raise anything
        name = f"{annotated.__module__}.{annotated.__qualname__}"
        raise DefinitionError(
            f"the annotations of {name} cannot be resolved ({error}); define what they name in its module"
        ) from error


@functools.cache
def columns_of(annotation: Any) -> Columns | None:
    """The columns of a class or a dict; `None` for a type that no row can be.

    Raises:
        DefinitionError: an annotation cannot be resolved.
    """
    annotation = unwrapped(annotation)
    cls = get_origin(annotation) or annotation
    if not isinstance(cls, type):
        return None
    if attrs.has(cls):
        return _known(annotation, _attrs_defaults(cls))
    if dataclasses.is_dataclass(cls):
        return _known(annotation, _dataclass_defaults(cls))
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return _known(annotation, {name: cls._field_defaults.get(name, NOTHING) for name in cls._fields})  # type: ignore[attr-defined]
    if hasattr(cls, "__required_keys__"):
        return _known(annotation, _typed_dict_defaults(cls))
    if issubclass(cls, dict) or cls in (collections.abc.Mapping, collections.abc.MutableMapping):
        return Columns({}, others=(*get_args(annotation), Any, Any)[1])
    return None


def item_annotation(annotation: Any, index: int) -> Any:
    """The type of one item of a list, tuple or set; `Any` for what is none."""
    annotation = unwrapped(annotation)
    cls, given = get_origin(annotation), get_args(annotation)
    if not (isinstance(cls, type) and issubclass(cls, collections.abc.Collection) and given):
        return Any
    if cls is tuple and given[-1] is not ...:
        return given[index] if index < len(given) else Any
    return given[0]


def _known(annotation: Any, defaults: Mapping[str, Any]) -> Columns:
    cls = get_origin(annotation) or annotation
    bindings = dict(zip(getattr(cls, "__parameters__", ()), get_args(annotation), strict=False))
    hints = _hints(cls)
    return Columns(
        {name: Column(name, _bound(hints.get(name, Any), bindings), default) for name, default in defaults.items()}
    )


def _bound(annotation: Any, bindings: Mapping[Any, Any]) -> Any:
    """The annotation of a generic class's field, for the types that the class was given."""
    if isinstance(annotation, TypeVar):
        return bindings.get(annotation, annotation)
    open_parameters = getattr(annotation, "__parameters__", ())
    if get_origin(annotation) is None or not open_parameters:
        return annotation
    return annotation[tuple(bindings.get(parameter, Any) for parameter in open_parameters)]


# ------------------------------------------------------------------------------------------------ defaults
#
# Which default it is says nothing here: the class itself takes it where the column is left out.


def _attrs_defaults(cls: type) -> dict[str, Any]:
    return {
        field.name: NOTHING if field.default is attrs.NOTHING else field.default
        for field in attrs.fields(cls)
        if field.init
    }


def _dataclass_defaults(cls: Any) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(cls):
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.init:
            found[field.name] = field.default if optional else NOTHING
    return found


def _typed_dict_defaults(cls: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, hint in _hints(cls).items():
        # A qualifier in an annotation that is text is not seen by TypedDict itself.
        qualifier = get_origin(hint)
        required = qualifier is Required or (name in cls.__required_keys__ and qualifier is not NotRequired)
        found[name] = NOTHING if required else None
    return found


def is_anything(annotation: Any) -> bool:
    """Whether nothing is said about the type."""
    return unwrapped(annotation) in ANYTHING
