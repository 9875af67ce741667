"""Classes: attrs classes, dataclasses, NamedTuples and TypedDicts, all written as objects of their fields.

A value must be of the very class that is annotated: one derived from it would come back as less than it was. It is
made again by calling the class with its fields, so a class that could not be called so is refused when it is written;
fields that `__init__` does not take are set afterwards, where they count in `==`. A key that is missing takes the
field's default and one too many is passed over, so that classes can grow and shrink. For attrs classes and
dataclasses cattrs generates the functions, with each field's shape as its hooks.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn_from_attrs, make_dict_unstructure_fn_from_attrs, override

from engine.codec.compiling import Compiler, origin_of
from engine.codec.faults import UnfitError, unlike
from engine.codec.fields import field_types
from engine.codec.shapes import Part, Shape, refusing

# ------------------------------------------------------------------------------------------- attrs classes, dataclasses

_CATTRS = cattrs.Converter(detailed_validation=False)

_A_FIELD: Any = attrs.fields(attrs.make_class("Fields", {"one": attrs.field(kw_only=True)}))[0]


def _fields(cls: Any) -> list[Any]:
    """The fields of an attrs class or a dataclass, as attrs describes them; each is passed by keyword."""
    if attrs.has(cls):
        return [field.evolve(kw_only=True) for field in attrs.fields(cls)]
    described = []
    for field in dataclasses.fields(cls):
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = attrs.NOTHING if is_required else None  # which one is for the class to say
        told = {"name": field.name, "alias": field.name, "default": default, "init": field.init, "eq": field.compare}
        described.append(_A_FIELD.evolve(type=field.type, **told))
    return described


def class_rule(annotation: Any, compiler: Compiler) -> Shape | None:
    cls = origin_of(annotation)
    if not isinstance(cls, type) or not (attrs.has(cls) or dataclasses.is_dataclass(cls)):
        return None
    shape = compiler.begin(annotation, cls)
    described = _fields(cls)
    hints = field_types(annotation, compiler)
    shapes = {field.name: compiler.shape(hints.get(field.name, field.type or Any)) for field in described}
    fields = [field for field in described if field.init or (field.eq and not shapes[field.name].refuses)]
    why = _why_not_made(cls, fields)
    if why:
        refusal = refusing(shape.name, f"is a {shape.name}, which cannot be made again: {why}")
        shape.write, shape.read, shape.refuses = refusal.write, refusal.read, True
        shape.parts_of_value, shape.parts_of_tree = refusal.parts_of_value, refusal.parts_of_tree
        return shape
    _fill_class(shape, cls, fields, shapes)
    return shape


def _why_not_made(cls: type, fields: list[Any]) -> str:
    """Why calling the class with its fields would fail, if it would: what is written must be readable."""
    if inspect.isabstract(cls):
        return "it is abstract; annotate a union of the classes that derive from it"
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):
        return ""
    given = {field.alias for field in fields if field.init}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for parameter in parameters:
        if parameter.kind not in variadic and parameter.default is parameter.empty and parameter.name not in given:
            return f"its __init__ needs {parameter.name!r}, which is no field"
    refused = given - {parameter.name for parameter in parameters}
    if refused and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return f"its __init__ does not take {', '.join(sorted(refused))}"
    return ""


def _fill_class(shape: Shape, cls: Any, fields: list[Any], shapes: dict[str, Shape]) -> None:
    name = shape.name
    late = [(field.name, shapes[field.name]) for field in fields if not field.init]
    anything = {parameter.__name__: Any for parameter in getattr(cls, "__parameters__", ())}
    written = [_hooked(field, unstruct_hook=shapes[field.name].write, omit=False) for field in fields]
    read_by_init = [_hooked(field, struct_hook=shapes[field.name].read) for field in fields if field.init]
    unstructure = make_dict_unstructure_fn_from_attrs(written, cls, _CATTRS, anything)
    structure = make_dict_structure_fn_from_attrs(read_by_init, cls, _CATTRS, anything)

    def write(value: Any) -> Any:
        if type(value) is not cls:
            raise _unlike_class(value, cls, name)
        try:
            return unstructure(value)
        except AttributeError as error:
            raise UnfitError(f"lacks a field: {error}") from error

    def read(tree: Any, _: Any = None) -> Any:
        if type(tree) is not dict:
            raise unlike(tree, name)
        value = structure(tree, cls)
        for field, inner in late:
            if field in tree:  # past `frozen`, as __init__ itself does it
                object.__setattr__(value, field, inner.read(tree[field]))
        return value

    def parts_of_value(value: Any) -> Iterable[Part]:
        if type(value) is not cls:
            raise _unlike_class(value, cls, name)
        return [(f".{field.name}", shapes[field.name], getattr(value, field.name)) for field in fields]

    def parts_of_tree(tree: Any) -> Iterable[Part]:
        required = {field.name for field in fields if field.init and field.default is attrs.NOTHING}
        return _parts_of_object(tree, name, {field.name: shapes[field.name] for field in fields}, required)

    shape.inner = tuple(shapes[field.name] for field in fields)
    shape.write, shape.read = write, read
    shape.parts_of_value, shape.parts_of_tree = parts_of_value, parts_of_tree


def _hooked(field: Any, **hooks: Any) -> Any:
    """A field that tells cattrs its hook in its type: given by keyword, hooks would clash with fields called `cl`."""
    return field.evolve(type=Annotated[Any, override(**hooks)])


def _unlike_class(value: Any, cls: type, name: str) -> UnfitError:
    if isinstance(value, cls):
        derived = type(value).__qualname__
        return UnfitError(
            f"is a {derived}, which would come back as a {name}; annotate {derived}, or {name} | {derived}"
        )
    return unlike(value, name)


def _parts_of_object(tree: Any, name: str, shapes: Mapping[str, Shape], required: Iterable[str]) -> Iterable[Part]:
    if type(tree) is not dict:
        raise unlike(tree, name)
    present: list[Part] = [(f".{key}", shape, tree[key]) for key, shape in shapes.items() if key in tree]
    missing = [(f".{key}", refusing(key, "is missing"), None) for key in shapes if key in required and key not in tree]
    return present + missing


# -------------------------------------------------------------------------------------------- named tuples, typed dicts


def named_tuple_rule(annotation: Any, compiler: Compiler) -> Shape | None:
    cls = origin_of(annotation)
    if not isinstance(cls, type) or not issubclass(cls, tuple) or not hasattr(cls, "_fields"):
        return None
    shape = compiler.begin(annotation, cls)
    hints = field_types(annotation, compiler)
    shapes = {name: compiler.shape(hints.get(name, Any)) for name in cls._fields}
    required = set(cls._fields) - set(cls._field_defaults)  # type: ignore[attr-defined]

    def write(value: Any) -> Any:
        if type(value) is not cls:
            raise _unlike_class(value, cls, shape.name)
        return {name: inner.write(item) for (name, inner), item in zip(shapes.items(), value, strict=True)}

    def read(tree: Any, _: Any = None) -> Any:
        if type(tree) is not dict:
            raise unlike(tree, shape.name)
        return cls(**{name: inner.read(tree[name]) for name, inner in shapes.items() if name in tree})

    def parts_of_value(value: Any) -> Iterable[Part]:
        if type(value) is not cls:
            raise _unlike_class(value, cls, shape.name)
        return [(f".{name}", inner, item) for (name, inner), item in zip(shapes.items(), value, strict=True)]

    shape.inner = tuple(shapes.values())
    shape.write, shape.read, shape.parts_of_value = write, read, parts_of_value
    shape.parts_of_tree = lambda tree: _parts_of_object(tree, shape.name, shapes, required)
    return shape


def typed_dict_rule(annotation: Any, compiler: Compiler) -> Shape | None:
    cls = origin_of(annotation)
    if not isinstance(cls, type) or not issubclass(cls, dict) or not hasattr(cls, "__required_keys__"):
        return None
    shape = compiler.begin(annotation, dict)
    hints = field_types(annotation, compiler)
    shapes = {key: compiler.shape(hint) for key, hint in hints.items()}
    # A qualifier in an annotation that is text is not seen by TypedDict itself.
    said = {key: getattr(get_origin(hint), "_name", None) for key, hint in hints.items()}
    required = {key for key in hints if said[key] == "Required" or (key in cls.__required_keys__ and not said[key])}

    def check(thing: Any) -> Any:
        if not isinstance(thing, dict):
            raise unlike(thing, shape.name)
        return thing

    def write(value: Any) -> Any:
        if not required <= check(value).keys() or not value.keys() <= shapes.keys():
            raise unlike(value, shape.name)
        return {key: shapes[key].write(item) for key, item in value.items()}

    def read(tree: Any, _: Any = None) -> Any:
        if not required <= check(tree).keys():
            raise unlike(tree, shape.name)
        return {key: inner.read(tree[key]) for key, inner in shapes.items() if key in tree}

    def parts_of_value(value: Any) -> Iterable[Part]:
        known = {str(key): shapes.get(key) or refusing(str(key), f"is no key of {shape.name}") for key in check(value)}
        return _parts_of_object({str(key): item for key, item in value.items()}, shape.name, shapes | known, required)

    shape.inner = tuple(shapes.values())
    shape.write, shape.read, shape.parts_of_value = write, read, parts_of_value
    shape.parts_of_tree = lambda tree: _parts_of_object(tree, shape.name, shapes, required)
    return shape
