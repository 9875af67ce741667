"""JSON text: trees of what JSON holds, written and read without loss.

orjson does the work. When it writes, it refuses ints beyond 64 bits and nesting beyond 254 levels; when it reads, it
makes such ints floats, and refuses nesting beyond 1024 levels. There Python's own json takes over, which is several
times slower and keeps all digits. A refusal is seen, lost digits are not: where JSON alone decides what an int is,
`may_hold_large_int` is asked before orjson reads; where the annotation says `int`, the float in its place is a fault,
and the text is read exactly after it.
"""

from __future__ import annotations

import json
import re
from datetime import date
from typing import Any

import orjson

from engine.codec.faults import shown
from engine.errors import PayloadError


def text_of(tree: Any) -> str:
    """A tree as JSON text. A shape's tree may hold datetimes, dates and UUIDs, which orjson writes as we would."""
    try:
        return orjson.dumps(tree).decode()
    except TypeError:  # also for what orjson refuses and JSON does not: large ints, deep nesting
        text = json.dumps(tree, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=text_of_leaf)
        text.encode()  # a lone surrogate is an error here
        return text


def text_of_leaf(leaf: Any) -> str:
    return leaf.isoformat() if isinstance(leaf, date) else str(leaf)


def exact_tree(text: str) -> Any:
    """A text's tree, in which ints have all their digits: orjson makes those beyond 64 bits into floats."""
    tree = json.loads(text, parse_constant=_refuse_constant)
    if "\\u" in text:  # json, unlike orjson, takes lone surrogates: an error here
        json.dumps(tree, ensure_ascii=False).encode()
    return tree


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def parse_exactly(text: str, path: str = "") -> Any:
    """The tree of a JSON text, in which ints have all their digits.

    Raises:
        PayloadError: it is no JSON.
    """
    try:
        return exact_tree(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(path, f"{shown(text)} is no JSON: {error}") from error


_DIGITS_OF_LARGE_INT = 19  # of 2**63 and beyond
_LARGE_INT = re.compile(rf"[0-9]{{{_DIGITS_OF_LARGE_INT}}}").search


def may_hold_large_int(text: str) -> bool:
    """Whether orjson might read an int of this text as a float; false for all but few."""
    return len(text) >= _DIGITS_OF_LARGE_INT and _LARGE_INT(text) is not None
