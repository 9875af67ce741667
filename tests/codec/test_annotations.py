"""Codecs: what is kept of what was compiled."""

from __future__ import annotations

from engine.codec import codec_for
from tests.codec.samples import Order


def test_codecs_are_made_once() -> None:
    assert codec_for(dict[str, Order]) is codec_for(dict[str, Order])
