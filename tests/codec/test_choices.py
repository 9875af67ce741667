"""Enums: what they take beside their members."""

from __future__ import annotations

from engine.codec import codec_for
from tests.codec.samples import Loud


def test_an_enums_own_missing_is_asked() -> None:
    assert codec_for(Loud).decode('"YES"') is Loud.YES
