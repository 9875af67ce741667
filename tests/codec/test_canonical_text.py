"""Canonical text, held against another implementation of RFC 8785; and digests."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from engine.codec import canonical, codec_for, digest
from engine.errors import PayloadError

SMALL_INTS = st.integers(-(2**53) + 1, 2**53 - 1)
INTEROPERABLE = st.recursive(
    st.none() | st.booleans() | SMALL_INTS | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(INTEROPERABLE)
def test_canonical_text_is_that_of_rfc_8785(tree: Any) -> None:
    expected = rfc8785.dumps(tree)
    assert canonical(json.dumps(tree)) == expected
    assert canonical(codec_for(Any).encode(tree)) == expected
    if not isinstance(tree, str):
        assert canonical(tree) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_written_as_rfc_8785_says(number: float) -> None:
    assert canonical(f"[{number!r}]") == rfc8785.dumps([number])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-0.0", "0"),
        ("[-0.0]", "[0]"),
        ("1.0", "1"),
        ("1e16", "10000000000000000"),
        ("[1e16,2]", "[10000000000000000,2]"),
        ("1e21", "1e+21"),
        ("1e-7", "1e-7"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("[18446744073709551616]", "[18446744073709551616]"),
        ("[-9223372036854775809]", "[-9223372036854775809]"),
        (' { "b" : 1 , "a" : [ ] } ', '{"a":[],"b":1}'),
        ('{"\\ud83d\\ude00":1,"\\ufb33":2}', '{"\U0001f600":1,"\ufb33":2}'),
        ('"1.5,"', '"1.5,"'),
        ('["e16]"]', '["e16]"]'),
    ],
)
def test_canonical_text_of_what_is_easily_mistaken(text: str, expected: str) -> None:
    assert canonical(text) == expected.encode()


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", '"\\ud800"', b"\xff", {"a": math.nan}, (1,)])
def test_what_is_no_json_has_no_canonical_text(text: Any) -> None:
    with pytest.raises(PayloadError):
        canonical(text)


def test_a_digest_is_of_the_value_and_the_key() -> None:
    assert digest(b"k", '{"a":1,"b":[1.0]}') == digest(b"k", ' {"b": [1], "a": 1}')
    assert digest(b"k", "[1]") != digest(b"l", "[1]")
    assert digest(b"k", "[1]") != digest(b"k", "[2]")
    assert len(digest(b"k", "[1]")) == 32
