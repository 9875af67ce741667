"""JSON text beyond what orjson writes."""

from __future__ import annotations

from typing import Any

from engine.codec import codec_for
from tests.codec.samples import Linked


def test_what_is_nested_deeper_than_orjson_goes_comes_back() -> None:
    chain = None
    for value in range(150):
        chain = Linked(value, chain)
    codec = codec_for(Linked)
    assert codec.decode(codec.encode(chain)) == chain
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    assert codec_for(Any).decode(codec_for(Any).encode(deep)) == deep
