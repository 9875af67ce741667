"""The restart decision and the window, by plain calls."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.actors import AutoShutdown, Backoff, EndReason, Intensity, RestartType, Strategy
from engine.actors.restarts import Decision, RestartWindow, affected, backoff_delay, decide

NORMAL, CRASHED, SHUTDOWN = EndReason.NORMAL, EndReason.CRASHED, EndReason.SHUTDOWN


@pytest.mark.parametrize(
    ("restart", "reason", "decision"),
    [
        (RestartType.PERMANENT, NORMAL, Decision.RESTART),
        (RestartType.PERMANENT, CRASHED, Decision.RESTART),
        (RestartType.PERMANENT, SHUTDOWN, Decision.RESTART),
        (RestartType.TRANSIENT, NORMAL, Decision.KEEP),
        (RestartType.TRANSIENT, CRASHED, Decision.RESTART),
        (RestartType.TRANSIENT, SHUTDOWN, Decision.KEEP),
        (RestartType.TEMPORARY, NORMAL, Decision.FORGET),
        (RestartType.TEMPORARY, CRASHED, Decision.FORGET),
        (RestartType.TEMPORARY, SHUTDOWN, Decision.FORGET),
    ],
)
def test_what_follows_an_end_is_in_this_table(restart: RestartType, reason: EndReason, decision: Decision) -> None:
    assert decide(restart, reason, RestartWindow(Intensity(1)), 0.0) is decision


@pytest.mark.parametrize("strategy", [Strategy.REST_FOR_ONE, Strategy.ONE_FOR_ALL])
def test_a_restart_of_several_is_one_restart(strategy: Strategy) -> None:
    window = RestartWindow(Intensity(1))
    assert decide(RestartType.PERMANENT, CRASHED, window, 0.0, strategy=strategy) is Decision.RESTART_GROUP
    assert decide(RestartType.PERMANENT, CRASHED, window, 1.0, strategy=strategy) is Decision.GIVE_UP


@pytest.mark.parametrize("strategy", Strategy)
def test_the_strategy_is_asked_only_where_there_is_a_restart(strategy: Strategy) -> None:
    window = RestartWindow(Intensity(1))
    assert decide(RestartType.TRANSIENT, NORMAL, window, 0.0, strategy=strategy) is Decision.KEEP
    assert decide(RestartType.TEMPORARY, CRASHED, window, 0.0, strategy=strategy) is Decision.FORGET


@pytest.mark.parametrize(
    ("strategy", "group"),
    [(Strategy.ONE_FOR_ONE, "b"), (Strategy.REST_FOR_ONE, "bcd"), (Strategy.ONE_FOR_ALL, "abcd")],
)
def test_who_is_restarted_with_a_child_is_a_matter_of_the_strategy(strategy: Strategy, group: str) -> None:
    assert list(affected(strategy, tuple("abcd"), "b")) == list(group)


@pytest.mark.parametrize(
    ("auto_shutdown", "others_left", "shuts_down"),
    [
        (AutoShutdown.NEVER, False, False),
        (AutoShutdown.NEVER, True, False),
        (AutoShutdown.ANY_SIGNIFICANT, False, True),
        (AutoShutdown.ANY_SIGNIFICANT, True, True),
        (AutoShutdown.ALL_SIGNIFICANT, False, True),
        (AutoShutdown.ALL_SIGNIFICANT, True, False),
    ],
)
@pytest.mark.parametrize(
    ("restart", "reason", "otherwise"),
    [
        (RestartType.TRANSIENT, NORMAL, Decision.KEEP),
        (RestartType.TRANSIENT, SHUTDOWN, Decision.KEEP),
        (RestartType.TEMPORARY, NORMAL, Decision.FORGET),
        (RestartType.TEMPORARY, CRASHED, Decision.FORGET),
        (RestartType.TEMPORARY, SHUTDOWN, Decision.FORGET),
    ],
)
def test_the_end_of_a_significant_child_shuts_down_as_this_table_says(
    restart: RestartType,
    reason: EndReason,
    otherwise: Decision,
    auto_shutdown: AutoShutdown,
    others_left: bool,
    shuts_down: bool,
) -> None:
    window = RestartWindow(Intensity(1))
    how: dict[str, Any] = {"auto_shutdown": auto_shutdown, "others_left": others_left}
    decision = decide(restart, reason, window, 0.0, significant=True, **how)
    assert decision is (Decision.SHUT_DOWN if shuts_down else otherwise)
    assert decide(restart, reason, window, 0.0, significant=False, **how) is otherwise


@pytest.mark.parametrize("auto_shutdown", AutoShutdown)
def test_a_significant_child_that_is_restarted_shuts_nothing_down(auto_shutdown: AutoShutdown) -> None:
    window = RestartWindow(Intensity(1))
    decision = decide(
        RestartType.TRANSIENT, CRASHED, window, 0.0, significant=True, auto_shutdown=auto_shutdown, others_left=False
    )
    assert decision is Decision.RESTART


def test_a_restart_too_many_is_not_made() -> None:
    window = RestartWindow(Intensity(0))
    assert decide(RestartType.PERMANENT, CRASHED, window, 0.0) is Decision.GIVE_UP


def test_an_end_without_a_restart_does_not_count() -> None:
    window = RestartWindow(Intensity(1))
    for _ in range(5):
        decide(RestartType.TRANSIENT, NORMAL, window, 0.0)
        decide(RestartType.TEMPORARY, CRASHED, window, 0.0)
    assert window.admits(0.0)


@pytest.mark.parametrize(
    ("restarts", "within", "instants", "admitted"),
    [
        (0, 5.0, [0.0], [False]),
        (1, 5.0, [0.0, 1.0], [True, False]),
        (1, 5.0, [0.0, 5.0], [True, False]),
        (1, 5.0, [0.0, 5.1], [True, True]),
        (2, 5.0, [0.0, 4.0, 6.0, 8.0], [True, True, True, False]),
        (1.5, 5.0, [0.0, 1.0], [True, False]),
        (math.inf, 5.0, [0.0] * 50, [True] * 50),
        (1, math.inf, [0.0, 1e9], [True, False]),
    ],
)
def test_the_window_slides(restarts: float, within: float, instants: list[float], admitted: list[bool]) -> None:
    window = RestartWindow(Intensity(restarts, within=within))
    assert [window.admits(instant) for instant in instants] == admitted


@given(
    st.integers(0, 4),
    st.floats(0.1, 10),
    st.lists(st.floats(0, 3), max_size=30),
)
def test_the_window_agrees_with_counting_anew(restarts: int, within: float, gaps: list[float]) -> None:
    window, now, made = RestartWindow(Intensity(restarts, within=within)), 0.0, list[float]()
    for gap in gaps:
        now += gap
        recent = [instant for instant in made if now - instant <= within]
        assert window.admits(now) is (len(recent) + 1 <= restarts)
        if len(recent) + 1 > restarts:
            return
        made.append(now)


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (Backoff(jitter=0), [0.1, 0.2, 0.4, 0.8, 1.6]),
        (Backoff(1, factor=3, maximum=10, jitter=0), [1, 3, 9, 10, 10]),
        (Backoff(2, factor=1, jitter=0), [2, 2, 2]),
        (Backoff(0, jitter=0), [0, 0]),
        (Backoff(60, jitter=0), [30, 30]),
    ],
)
def test_restart_n_waits_the_initial_delay_times_the_factor_to_the_n_minus_1(
    backoff: Backoff, delays: list[float]
) -> None:
    assert [backoff_delay(backoff, number + 1) for number in range(len(delays))] == pytest.approx(delays)


def test_a_great_many_restarts_wait_the_maximum() -> None:
    assert backoff_delay(Backoff(jitter=0), 1_000_000) == 30


@given(st.integers(1, 2000))
def test_jitter_keeps_within_its_part_and_the_maximum(restart: int) -> None:
    even = backoff_delay(Backoff(jitter=0), restart)
    assert even * 0.9 <= backoff_delay(Backoff(jitter=0.1), restart) <= min(even * 1.1 + 1e-9, 30)
