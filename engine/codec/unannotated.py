"""Values without annotation: what JSON gives back equal, and nothing else.

Nothing tells how such a value is to be read, so it must be one that JSON alone gives back: no tuple, no set, no
object, no key but text. What an int is JSON alone decides, so the shape is loose: its texts are read with all digits
of their ints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.codec.compiling import Compiler
from engine.codec.faults import UnfitError, kind_of, shown
from engine.codec.scalars import SCALARS, encodable_text, printable_int, write_float, write_int, write_text
from engine.codec.shapes import Part, Shape


def _write_anything(value: Any) -> Any:
    """A value without annotation: what JSON gives back equal, else unfit."""
    cls = type(value)
    if cls is str or cls is int or value is None or cls is bool:
        return value
    if isinstance(value, float):
        return write_float(value)
    if isinstance(value, list):
        return [_write_anything(item) for item in value]
    if isinstance(value, dict):
        return {_write_key(key): _write_anything(item) for key, item in value.items()}
    if isinstance(value, str):
        return write_text(value)
    if isinstance(value, int):
        return write_int(value)
    raise UnfitError(f"is {kind_of(value)}, {shown(value)}, which JSON alone would not give back equal; annotate it")


def _write_key(key: Any) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    raise UnfitError(f"has the key {shown(key)}, {kind_of(key)}: JSON has text keys only; annotate the dict")


def _parts_of_anything(value: Any) -> Iterable[Part]:
    if isinstance(value, list):
        return [(f"[{index}]", ANYTHING, item) for index, item in enumerate(value)]
    if isinstance(value, dict):
        keys = [("", SCALARS[str], _write_key(key)) for key in value]
        return keys + [(f"[{key!r}]", ANYTHING, item) for key, item in value.items()]
    if isinstance(value, str):
        return encodable_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return printable_int(value)
    return ()


ANYTHING = Shape(
    "Any", is_loose=True, write=_write_anything, read=lambda tree, _=None: tree, parts_of_value=_parts_of_anything
)


def anything_rule(annotation: Any, _: Compiler) -> Shape | None:
    return ANYTHING if annotation is Any else None
