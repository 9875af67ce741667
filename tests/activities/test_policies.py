"""Retry and Restart: tables of what they decide."""

from __future__ import annotations

import pytest

from engine import DefinitionError, Restart, Retry, RetryAfter
from engine.policies import matches


class DeclinedError(Exception):
    pass


class BusyError(Exception):
    pass


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("several", errors)


@pytest.mark.parametrize(
    ("retry", "failures", "error", "delay"),
    [
        (Retry(), 1, BusyError(), None),
        (Retry(2, jitter=0), 1, BusyError(), 0.2),
        (Retry(2, jitter=0), 2, BusyError(), None),
        (Retry(9, 0.5, 3.0, jitter=0), 3, BusyError(), 4.5),
        (Retry(99, 0.5, maximum=7.0, jitter=0), 30, BusyError(), 7.0),
        (Retry(10**6, 0.5, jitter=0), 10**5, BusyError(), 30.0),
        (Retry(3, on=(BusyError,), jitter=0), 1, BusyError(), 0.2),
        (Retry(3, on=(BusyError,), jitter=0), 1, DeclinedError(), None),
        (Retry(3, on=(BusyError,), jitter=0), 1, group(DeclinedError(), group(BusyError())), 0.2),
        (Retry(3, give_up_on=(DeclinedError,), jitter=0), 1, DeclinedError(), None),
        (Retry(3, give_up_on=(DeclinedError,), jitter=0), 1, group(BusyError(), DeclinedError()), None),
        (Retry(3, jitter=0), 1, RetryAfter(12.5), 12.5),
        (Retry(3, jitter=0), 1, RetryAfter(-1), 0.0),
        (Retry(1), 1, RetryAfter(5), None),
        (Retry(3, give_up_on=RetryAfter), 1, RetryAfter(5), None),
    ],
)
def test_what_follows_a_failed_attempt(retry: Retry, failures: int, error: Exception, delay: float | None) -> None:
    assert retry.delay_after(failures, error) == delay


@pytest.mark.parametrize(
    ("restart", "restarts", "delay"),
    [
        (Restart(0), 0, None),
        (Restart(3, jitter=0), 0, 0.1),
        (Restart(3, jitter=0), 2, 0.4),
        (Restart(3, jitter=0), 3, None),
        (Restart(10**6, maximum=4.0, jitter=0), 10**5, 4.0),
    ],
)
def test_what_follows_a_crash(restart: Restart, restarts: int, delay: float | None) -> None:
    assert restart.delay_after(restarts) == delay


def test_jitter_moves_a_wait_by_its_part_and_no_further() -> None:
    delays = {Retry(2, 10.0, jitter=0.1).delay_after(1, BusyError()) for _ in range(200)}
    assert len(delays) > 1
    assert all(delay is not None and 9.0 <= delay <= 11.0 for delay in delays)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": True},
        {"initial": -1},
        {"factor": 0.5},
        {"maximum": float("nan")},
        {"on": ("BusyError",)},
        {"give_up_on": (BaseException,)},
    ],
)
def test_a_wrong_option_of_a_retry_is_refused_where_it_is_made(options: dict[str, object]) -> None:
    with pytest.raises(DefinitionError, match=next(iter(options))):
        Retry(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"attempts": -1}, {"within": -1}, {"factor": 0}, {"initial": "1"}])
def test_a_wrong_option_of_a_restart_is_refused_where_it_is_made(options: dict[str, object]) -> None:
    with pytest.raises(DefinitionError, match=next(iter(options))):
        Restart(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "types", "found"),
    [
        (BusyError(), (), False),
        (BusyError(), (BusyError,), True),
        (BusyError(), (Exception,), True),
        (group(BusyError(), group(DeclinedError())), (DeclinedError,), True),
        (group(BusyError()), (DeclinedError,), False),
        (group(BusyError()), (ExceptionGroup,), True),
    ],
)
def test_types_are_looked_for_in_groups(error: Exception, types: tuple[type[Exception], ...], found: bool) -> None:
    assert matches(error, types) is found
