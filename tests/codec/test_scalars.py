"""Scalars: their spelling, and what they keep."""

from __future__ import annotations

import decimal
import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.codec import codec_for


def test_minus_zero_keeps_its_sign() -> None:
    assert math.copysign(1, codec_for(float).decode(codec_for(float).encode(-0.0))) == -1


def test_an_aware_datetime_keeps_its_offset() -> None:
    instant = datetime(2026, 7, 2, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    assert codec_for(datetime).encode(instant) == '"2026-07-02T12:00:00+02:00"'


@pytest.mark.parametrize(
    ("text", "length"), [("P1DT2H3M4.5S", 93784.5), ("PT2H", 7200), ("-PT0.5S", -0.5), ("P1D", 86400)]
)
def test_durations_are_read_in_all_of_their_units(text: str, length: float) -> None:
    assert codec_for(timedelta).decode(f'"{text}"') == timedelta(seconds=length)


def test_a_decimal_does_not_depend_on_the_context() -> None:
    long = Decimal("1.23456789012345678901234567890123456789")
    with decimal.localcontext() as context:
        context.prec = 3
        assert codec_for(Decimal).decode(codec_for(Decimal).encode(long)) == long


@given(st.timedeltas() | st.times() | st.dates() | st.uuids() | st.binary())
def test_any_of_the_text_scalars_comes_back_equal(value: Any) -> None:
    codec = codec_for(type(value))
    assert codec.decode(codec.encode(value)) == value
