"""Canonical text, by RFC 8785 (JCS): the one spelling of a JSON value; and digests, which are of that.

orjson with sorted keys spells nearly all values canonically: it differs in floats, which ECMAScript writes its own
way, and in the order of keys beyond the basic plane, which RFC 8785 sorts by UTF-16. So its text is taken, and looked
through for signs of either; only where there is one the value is spelled anew, piece by piece, from its exact tree.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import orjson

from engine.codec.text import exact_tree, text_of
from engine.codec.unannotated import ANYTHING
from engine.codec.values import ValueCodec
from engine.errors import PayloadError

# Where orjson's text ends a float: `.5,` or `e+16]`. Begun by one letter, so that the search runs at memchr's speed; a
# string that ends alike, as "1.5," does, costs the slower way and nothing else.
_ENDS_FRACTION = re.compile(r"\.[0-9]+(?:e[-+]?[0-9]+)?(?=[,\]}]|\Z)").search
_ENDS_EXPONENT = re.compile(r"e[-+]?[0-9]+(?=[,\]}]|\Z)").search
_BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]").search

_TREES = ValueCodec(Any, ANYTHING)


def canonical(json_text_or_tree: Any) -> bytes:
    """The one spelling of a JSON value, by RFC 8785 (JCS): keys sorted, numbers as ECMAScript writes them.

    Ints are written with all their digits, also beyond the 2**53 at which RFC 8785 stops.

    Args:
        json_text_or_tree: a `str` or `bytes` is JSON text; anything else is a tree of what JSON holds.

    Raises:
        PayloadError: it is no JSON.
    """
    text = json_text_or_tree
    if type(text) is not str:
        text = text.decode(errors="surrogateescape") if isinstance(text, bytes) else _TREES.encode(text)
    try:
        quick = orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError):  # nested deeper than orjson goes, or no JSON: the exact reader says which
        pass
    else:
        seen = quick.decode()  # to look for a letter in a text is eight times quicker than in bytes
        has_floats = ("." in seen and _ENDS_FRACTION(seen)) or ("e" in seen and _ENDS_EXPONENT(seen))
        # orjson sorts by code point and RFC 8785 by UTF-16; the two differ only beyond the basic plane.
        if not has_floats and (seen.isascii() or not _BEYOND_BMP(seen)):
            return quick
    try:
        return "".join(_canonical_pieces(exact_tree(text))).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError("", f"this is no JSON: {error}") from error


def digest(key: bytes, text: str) -> str:
    """What stands for a JSON text where the text itself is not kept: 32 hex characters.

    Args:
        key: what makes the digests of one activity differ from those of another.
        text: JSON; two texts of one value have one digest, however they are spelled.
    """
    return hashlib.sha256(key + canonical(text)).hexdigest()[:32]


def sort_key(tree: Any) -> bytes:
    return canonical(text_of(tree))


def _canonical_pieces(tree: Any) -> Iterator[str]:
    match tree:
        case float():
            yield _ecmascript_number(tree)
        case dict():
            opening = "{"
            for key in sorted(tree, key=lambda key: key.encode("utf-16-be")):
                yield f"{opening}{orjson.dumps(key).decode()}:"
                yield from _canonical_pieces(tree[key])
                opening = ","
            yield "}" if tree else "{}"
        case list():
            opening = "["
            for item in tree:
                yield opening
                yield from _canonical_pieces(item)
                opening = ","
            yield "]" if tree else "[]"
        case int() if not isinstance(tree, bool):
            yield str(tree)
        case _:
            yield orjson.dumps(tree).decode()


def _ecmascript_number(number: float) -> str:
    """A float as ECMA-262 writes it (Number::toString): the shortest digits, as Python's, in other clothes."""
    if number == 0:
        return "0"  # -0.0 too
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = whole + fraction
    point -= len(digits) - len(digits.lstrip("0"))
    digits = digits.strip("0")
    sign = "-" if number < 0 else ""
    if len(digits) <= point <= 21:
        return f"{sign}{digits}{'0' * (point - len(digits))}"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"
