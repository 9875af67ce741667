"""The clock: instants are written in one form, whoever asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import clock
from engine.clock import SystemClock, parse, stamp, stamp_of
from engine.errors import PayloadError

INSTANT = datetime(2026, 11, 23, 18, 55, 19, 123456, tzinfo=UTC)


class FixedClock:
    def __init__(self, instant: datetime) -> None:
        self.instant = instant

    def now(self) -> datetime:
        return self.instant


def test_a_stamp_is_the_instant_of_the_clock() -> None:
    assert stamp(FixedClock(INSTANT)) == "2026-11-23T18:55:19.123456Z"


def test_the_system_clock_stamps_what_it_says() -> None:
    system = SystemClock()
    before = system.now()
    said = parse(stamp(system))
    after = system.now()
    assert before.tzinfo is UTC
    assert before - timedelta(microseconds=1) <= said <= after


@pytest.mark.parametrize(
    "nanoseconds",
    [
        0,
        999,
        1_000,
        999_999_999,
        1_000_000_000,
        1_764_000_000_123_456_789,
        1_764_000_000_999_999_999,
        4_102_444_800_000_000_000,
    ],
)
def test_the_system_clocks_stamp_is_the_same_as_the_slow_one(nanoseconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "time_ns", lambda: nanoseconds)
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    assert stamp(SystemClock()) == stamp_of(expected)


def test_the_second_that_is_kept_follows_the_clock_also_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    system = SystemClock()
    for seconds in (1_764_000_000, 1_764_000_001, 1_763_999_999, 1_764_000_000):
        for fraction in (0, 1_000, 999_999_999):
            monkeypatch.setattr(clock, "time_ns", lambda now=seconds * 1_000_000_000 + fraction: now)
            expected = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=fraction // 1000)
            assert stamp(system) == stamp_of(expected)


@given(st.datetimes(timezones=st.timezones(), min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)))
def test_every_instant_is_written_in_27_characters_and_read_back(instant: datetime) -> None:
    text = stamp_of(instant)
    assert len(text) == 27
    assert text.endswith("Z")
    assert parse(text) == instant.astimezone(UTC)
    assert parse(text).tzinfo is UTC


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_stamps_sort_as_instants_do(one: datetime, another: datetime) -> None:
    assert (stamp_of(one) < stamp_of(another)) == (one < another)


@pytest.mark.parametrize(
    "text", ["2026-11-23T19:55:19.123456+01:00", "2026-11-23T18:55:19.123456+00:00", "2026-11-23 18:55:19.123456Z"]
)
def test_other_spellings_of_an_instant_are_read_as_utc(text: str) -> None:
    assert parse(text) == INSTANT
    assert parse(text).tzinfo is UTC


@pytest.mark.parametrize("text", ["", "now", "2026-11-23", "2026-11-23T18:55:19", "2026-13-01T00:00:00Z", None])
def test_what_says_no_instant_is_refused(text: str) -> None:
    with pytest.raises(PayloadError):
        parse(text)


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(PayloadError, match="naive; give an aware one"):
        stamp_of(datetime(2026, 1, 1))


def test_an_instant_with_an_offset_is_stamped_in_utc() -> None:
    assert stamp_of(INSTANT.astimezone(timezone(timedelta(hours=-5)))) == "2026-11-23T18:55:19.123456Z"
