"""Containers: the order in which they are written."""

from __future__ import annotations

import json

from engine.codec import codec_for


def test_sets_are_written_in_one_order_whatever_theirs_is() -> None:
    words = [f"word-{number}" for number in range(50)]
    assert codec_for(set[str]).encode(set(words)) == json.dumps(sorted(words), separators=(",", ":"))


def test_mappings_of_pairs_are_written_in_one_order() -> None:
    codec = codec_for(dict[tuple[int, int], int])
    assert codec.encode({(2, 1): 1, (1, 2): 2}) == codec.encode({(1, 2): 2, (2, 1): 1}) == "[[[1,2],2],[[2,1],1]]"
