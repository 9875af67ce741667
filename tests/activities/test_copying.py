"""Which records a fork takes over: tables over histories."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from engine.activities.copying import forkable, near, taken_over
from engine.activities.paths import scope_of
from engine.clock import stamp_of
from engine.journal import StoredRecord

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
Line = tuple[Any, ...]


def history(*lines: Line) -> list[StoredRecord]:
    """Records from lines of kind, path and facts, one a second; `started` is seconds after the start."""
    records = [_record(1, "activity.started", None, {})]
    return records + [
        _record(number, kind, path, facts[0] if facts else {}) for number, (kind, path, *facts) in enumerate(lines, 2)
    ]


def _record(seq: int, kind: str, path: str | None, facts: dict[str, Any]) -> StoredRecord:
    if "started" in facts:
        facts = {**facts, "started": stamp_of(START + dt.timedelta(seconds=facts["started"]))}
    scope = {} if path is None else {"scope": scope_of(path)}
    at = stamp_of(START + dt.timedelta(seconds=seq))
    return StoredRecord(seq, "it", kind, None, path, 1, at, None, {**scope, **facts}, None)


def done(path: str, **facts: Any) -> Line:
    return ("step.completed", path, facts)


def failed(path: str, **facts: Any) -> Line:
    return ("step.failed", path, {"final": False, **facts})


def opened(path: str, of: str = "map") -> Line:
    return ("scope.opened", path, {"of": of})


def ended(path: str, outcome: str, **facts: Any) -> Line:
    return ("branch.ended", path, {"outcome": outcome, **facts})


def closed(path: str) -> Line:
    return ("scope.ended", path)


def abandoned(path: str) -> Line:
    return ("call.abandoned", path, {"nursery": True})


def kept(at: str, *lines: Line) -> list[str] | None:
    """What is taken over, each as its kind and path."""
    taken = taken_over(history(*lines), at)
    return None if taken is None else [f"{record.kind} {record.path or ''}".strip() for record in taken.records]


def told(*lines: Line) -> list[str]:
    return [f"{kind} {path or ''}".strip() for kind, path, *_ in lines]


def test_a_call_and_all_that_follows_it_are_dropped() -> None:
    before = [done("a"), ("timer.set", "sleep"), ("timer.fired", "sleep")]
    assert kept("b", *before, failed("b"), done("c"), ("activity.completed", None)) == told(*before)


def test_every_record_of_the_call_is_dropped() -> None:
    assert kept("b", done("a"), failed("b", retry_at="later"), done("b"), done("c")) == told(done("a"))


def test_a_path_without_a_record_is_none() -> None:
    assert kept("b", done("a")) is None
    assert kept("", done("a")) is None


def test_a_branch_beside_stays_whole_whatever_it_did_later() -> None:
    beside = [done("map[1]/x"), done("map[1]/y"), ended("map[1]", "value")]
    records = [opened("map"), done("map[0]/x"), done("map[0]/y"), *beside, ended("map[0]", "value"), closed("map")]
    expected = [opened("map"), done("map[0]/x"), *beside]
    assert kept("map[0]/y", *records, done("after")) == told(*expected)


def test_what_follows_in_each_branch_around_is_dropped() -> None:
    records = [
        opened("map"),
        opened("map[0]/map"),
        done("map[0]/map[0]/x"),
        done("map[0]/map[1]/x"),
        closed("map[0]/map"),
        done("map[0]/after"),
        done("map[1]/x"),
        ended("map[1]", "value"),
        ended("map[0]", "value"),
        closed("map"),
        done("after"),
    ]
    assert kept("map[0]/map[1]/x", *records) == told(*records[:3], *records[6:8])


def test_a_whole_branch_can_be_done_anew() -> None:
    records = [opened("map"), done("map[0]/x"), done("map[1]/x"), done("map[1]/y"), closed("map"), done("after")]
    assert kept("map[1]", *records) == told(*records[:2])


def test_a_call_with_branches_is_dropped_with_them() -> None:
    records = [done("a"), opened("map"), done("map[0]/x"), ended("map[0]", "value"), closed("map")]
    assert kept("map", *records) == told(done("a"))


def test_a_branch_that_lost_on_account_of_what_is_dropped_goes_on() -> None:
    records = [
        opened("map"),
        done("map[1]/x"),
        failed("map[0]/x"),
        ended("map[0]", "error"),
        ended("map[1]", "cancelled"),
        closed("map"),
    ]
    assert kept("map[0]/x", *records) == told(*records[:2])


def test_a_branch_that_lost_for_another_reason_stays_lost() -> None:
    records = [
        opened("map"),
        done("map[2]/x"),
        ended("map[2]", "value"),
        failed("map[0]/x"),
        ended("map[0]", "error"),
        ended("map[1]", "cancelled"),
        closed("map"),
    ]
    expected = [records[0], *records[3:6]]
    assert kept("map[2]/x", *records) == told(*expected)


def test_branches_nested_in_one_that_lost_go_on_with_it() -> None:
    records = [
        opened("map"),
        opened("map[1]/map"),
        done("map[1]/map[0]/x"),
        failed("map[0]/x"),
        ended("map[0]", "error"),
        ended("map[1]/map[0]", "cancelled"),
        ended("map[1]", "cancelled"),
        closed("map"),
    ]
    assert kept("map[0]/x", *records) == told(*records[:3])


def test_a_cleanup_that_losing_led_to_is_dropped() -> None:
    records = [
        opened("map"),
        done("map[1]/reserve"),
        failed("map[0]/x"),
        ended("map[0]", "error"),
        opened("map[1]/cleanup", "cleanup"),
        done("map[1]/cleanup/release"),
        closed("map[1]/cleanup"),
        ended("map[1]", "cancelled"),
        closed("map"),
    ]
    assert kept("map[0]/x", *records) == told(*records[:2])


def test_a_race_goes_on_without_the_value_that_decided_it() -> None:
    records = [
        opened("race", "race"),
        done("race[slow]/x"),
        done("race[fast]/x"),
        ended("race[fast]", "value"),
        ended("race[slow]", "cancelled"),
        closed("race"),
    ]
    assert kept("race[fast]/x", *records) == told(*records[:2])


CANCELLED = [
    done("reserve"),
    ("timer.set", "sleep"),
    ("activity.cancelling", None),
    opened("cleanup", "cleanup"),
    done("cleanup/release"),
    done("cleanup/tell"),
    closed("cleanup"),
    ("activity.cancelled", None),
]


def test_a_cancel_that_came_later_is_dropped_with_the_cleanup_that_it_led_to() -> None:
    assert kept("sleep", *CANCELLED) == told(done("reserve"))


def test_a_fork_at_what_a_cancel_led_to_goes_on_without_it() -> None:
    assert kept("cleanup", *CANCELLED) == told(*CANCELLED[:2])


def test_a_fork_within_a_cleanup_goes_on_being_cancelled() -> None:
    assert kept("cleanup/tell", *CANCELLED) == told(*CANCELLED[:5])


def test_a_task_beside_stays_and_one_that_was_begun_afterwards_is_dropped() -> None:
    records = [
        done("one/x", started=1),
        done("two/x", started=2),
        done("two/y", started=3),
        done("three/x", started=4),
        done("after", started=5),
    ]
    # The outcome of one/x came at second 2, of two/x at second 3.
    assert kept("one/x", *records) == []
    assert kept("two/x", *records) == told(records[0])
    slow = [done("one/x", started=1), done("two/x", started=1)]
    assert kept("one/x", *slow) == told(slow[1])


def test_a_call_that_a_scope_of_the_user_s_own_ended_on_its_account_is_done_anew() -> None:
    records = [done("two/x", started=1), failed("one/x", started=1), abandoned("two/y"), done("after")]
    assert kept("one/x", *records) == told(records[0])


def test_a_call_that_ended_so_in_a_branch_beside_stays() -> None:
    records = [opened("map"), done("map[0]/x"), abandoned("map[1]/x"), done("map[1]/y"), closed("map")]
    assert kept("map[0]/x", *records) == told(records[0], *records[2:4])


def test_outcomes_that_a_restart_has_forgotten_are_not_taken_over() -> None:
    crash = ("activity.crashed", None, {"superseded": ["map", "map[0]", "map[0]/x"]})
    first = [opened("map"), failed("map[0]/x"), ended("map[0]", "error"), closed("map"), crash]
    again = [done("map[0]/x"), ended("map[0]", "value"), closed("map")]
    assert kept("after", *first, *again, done("after")) == told(first[0], *again)
    assert kept("map[0]/x", *first) == told(first[0])


def test_what_is_received_is_taken_over_and_a_dropped_taking_leaves_it_unread() -> None:
    records = [("message.received", None), done("a"), ("message.taken", "receive"), ("message.received", None)]
    assert kept("receive", *records) == told(*records[:2], records[3])


def test_a_message_that_a_loser_gave_back_is_unread() -> None:
    records = [
        opened("race", "race"),
        ("message.received", None),
        ("message.taken", "race[b]/receive"),
        done("race[a]/x"),
        ended("race[a]", "value"),
        ended("race[b]", "late", returned=["m"]),
        closed("race"),
    ]
    assert kept("race[a]/x", *records) == told(*records[:2])


@pytest.mark.parametrize(("drawn", "stays"), [(0, True), (1, True), (2, False)])
def test_what_was_drawn_before_the_call_is_taken_over(drawn: int, stays: bool) -> None:
    records = [done("a"), done("b"), done("c")]
    records.insert(drawn, ("value.drawn", "patched-new"))
    found = kept("b", *records)
    assert found is not None
    assert ("value.drawn patched-new" in found) is stays


def test_what_a_step_at_most_once_intended_is_left_to_the_fork() -> None:
    records = [opened("map"), ("step.intended", "map[1]/x"), done("map[0]/x"), done("map[0]/y")]
    assert kept("map[0]/y", *records) == told(records[0], records[2])
    assert kept("map[0]/y", *records, done("map[1]/x")) == told(*records[:3], done("map[1]/x"))


def test_a_branch_that_waited_for_its_slot_keeps_the_instant_at_which_it_had_it() -> None:
    records = [
        ("scope.opened", "map", {"of": "map", "limit": 1}),
        done("map[0]/x"),
        ended("map[0]", "value"),
        done("map[1]/x", started=9),
    ]
    taken = taken_over(history(*records), "map[0]/x")
    assert taken is not None
    assert taken.entered == {"map[1]": stamp_of(START + dt.timedelta(seconds=4))}


def test_paths_are_named_that_look_alike_or_else_the_last() -> None:
    paths = forkable(history(done("reserve"), opened("map"), done("map[0]/pack"), done("charge")))
    assert paths == ["reserve", "map", "map[0]/pack", "charge"]
    assert near("chrage", paths) == ["charge"]
    assert near("zzz", paths) == paths
