"""Values without annotation: what JSON gives back equal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.codec import codec_for
from engine.errors import PayloadError


def test_what_is_not_annotated_is_told_to_be_annotated() -> None:
    with pytest.raises(PayloadError, match=r"x\[0\]: is a tuple, .* annotate it"):
        codec_for(Any).encode([(1, 2)], "x")


def test_trees_of_one_codec_share_nothing() -> None:
    text = codec_for(Any).encode({"a": []})
    assert codec_for(Any).decode(text)["a"] is not codec_for(Any).decode(text)["a"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


@given(TREES)
def test_any_json_comes_back_equal_without_annotation(tree: Any) -> None:
    codec = codec_for(Any)
    back = codec.decode(codec.encode(tree))
    assert back == tree
    assert repr(back) == repr(tree)  # 1 is not 1.0, nor True
