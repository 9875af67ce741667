"""Values that nobody annotated, kept in a form that says what they are: the arguments and attributes of errors.

What JSON has no form for is an object with a key that begins with `$`: `{"$decimal": "1.50"}`, `{"$tuple": […]}`,
`{"$enum": "package.module.Colour", "name": "RED"}`. A dict that has such keys itself is tagged as well. Enums and
data classes are named by module and class and are looked up by these names when they are read: modules are imported,
and nothing is called that was found in them but an enum, or the class of a value by its codec.
"""

from __future__ import annotations

import enum
import importlib
import sys
import types
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from pathlib import Path, PurePath
from typing import Any
from uuid import UUID

from engine.codec.annotations import codec_for, compiled
from engine.codec.canonical_text import sort_key
from engine.codec.faults import UnfitError
from engine.codec.scalars import SCALARS
from engine.codec.text import text_of, text_of_leaf

_TAGS: dict[type, str] = {
    Decimal: "$decimal", datetime: "$datetime", date: "$date", time: "$time", timedelta: "$timedelta",
    UUID: "$uuid", bytes: "$bytes", bytearray: "$bytearray",
}  # fmt: skip
_BY_TAG = {tag: SCALARS[cls] for cls, tag in _TAGS.items()}


def tagged(value: Any) -> Any:
    """A value as a tree that says what it is: an object with a key that begins with `$` is a tag."""
    cls = type(value)
    if cls in (bool, str) or value is None:
        return value
    if cls is int:
        return value if -(2**63) <= value < 2**64 else {"$int": str(value)}
    if cls is float:
        return value if isfinite(value) else {"$float": str(value)}
    if cls in _TAGS:
        tree = SCALARS[cls].write(value)
        return {_TAGS[cls]: tree if type(tree) is str else text_of_leaf(tree)}
    if cls is list:
        return [tagged(item) for item in value]
    if cls is tuple:
        return {"$tuple": [tagged(item) for item in value]}
    if cls in (set, frozenset):
        return {f"${cls.__name__}": sorted((tagged(item) for item in value), key=sort_key)}
    if cls is dict:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: tagged(item) for key, item in value.items()}
        return {"$dict": [[tagged(key), tagged(item)] for key, item in value.items()]}
    name = f"{cls.__module__}.{cls.__qualname__}"
    if isinstance(value, enum.Enum):
        by_name = value.name in cls.__members__  # combined flags have no name of their own
        return {"$enum": name, "name": value.name} if by_name else {"$enum": name, "value": value._value_}
    if isinstance(value, PurePath):
        return {"$path": str(value)}
    shape, _ = compiled(cls, None)
    if shape.types == (cls,):
        return {"$object": name, "value": text_of(shape.write(value))}
    raise UnfitError(f"is a {name}")


Find = Callable[[str], "type | None"]


def untagged(tree: Any, find: Find | None) -> Any:
    if type(tree) is list:
        return [untagged(item, find) for item in tree]
    if type(tree) is not dict:
        return tree
    tag = next((key for key in tree if key.startswith("$")), None)
    if tag is None:
        return {key: untagged(item, find) for key, item in tree.items()}
    content = tree[tag]
    if tag in _BY_TAG:
        return _BY_TAG[tag].read(content)
    match tag:
        case "$int":
            return int(content)
        case "$float":
            return float(content)
        case "$path":
            return Path(content)
        case "$tuple" | "$set" | "$frozenset":
            collection = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}[tag]
            return collection(untagged(item, find) for item in content)
        case "$dict":
            return {untagged(key, find): untagged(item, find) for key, item in content}
    cls = class_of(content, find)
    if tag == "$enum" and cls is not None and issubclass(cls, enum.Enum):
        return cls[tree["name"]] if "name" in tree else cls(tree["value"])
    if tag == "$object" and cls is not None:
        return codec_for(cls).decode(tree["value"])
    raise UnfitError(f"is a {content}, which is not to be found here")


def class_of(name: str, find: Find | None) -> Any:
    """The class of this full name, if there is one: nothing is called, and only modules are imported."""
    if "<locals>" in name:
        return find(name) if find is not None else None
    words = name.split(".")
    for split in range(len(words) - 1, 0, -1):
        module = _module(".".join(words[:split]))
        if module is None:
            continue
        thing: Any = module
        for word in words[split:]:
            thing = vars(thing).get(word) if isinstance(thing, type | types.ModuleType) else None
        if isinstance(thing, type):
            return thing
    return find(name) if find is not None else None


def _module(name: str) -> types.ModuleType | None:
    if name in sys.modules:
        return sys.modules[name]
    try:
        return importlib.import_module(name)
    except Exception:  # a module may raise anything when it is imported; then its classes are not to be found
        return None
