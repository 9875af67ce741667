"""What becomes of an activity whose function was left by an exception: tables over records."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from engine import ConcurrentContextError, Restart
from engine.activities.failures import carried_by, is_open, judge, restarts_that_count, superseded_by
from engine.activities.paths import scope_of
from engine.clock import stamp_of
from engine.journal import StoredRecord

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
Line = tuple[Any, ...]


def history(*lines: Line) -> list[StoredRecord]:
    """Records from lines of kind, path, and facts; `at` is seconds after the start."""
    records = [_record(1, "activity.started", None, {})]
    for number, (kind, path, *facts) in enumerate(lines, start=2):
        records.append(_record(number, kind, path, facts[0] if facts else {}))
    return records


def _record(seq: int, kind: str, path: str | None, facts: dict[str, Any]) -> StoredRecord:
    at = stamp_of(START + dt.timedelta(seconds=facts.get("at", seq)))
    scope = {} if path is None else {"scope": scope_of(path)}
    return StoredRecord(seq, "it", kind, None, path, 1, at, None, {**scope, **facts}, None)


def failed(path: str, *, final: bool = False, **facts: Any) -> Line:
    return ("step.failed", path, {"final": final, **facts})


def done(path: str) -> Line:
    return ("step.completed", path)


def ended(path: str, outcome: str) -> Line:
    return ("branch.ended", path, {"outcome": outcome})


def abandoned(path: str, *, nursery: bool = True, **facts: Any) -> Line:
    return ("call.abandoned", path, {"nursery": nursery, **facts})


def crashed(*superseded: str, **facts: Any) -> Line:
    return ("activity.crashed", None, {"superseded": list(superseded), **facts})


@pytest.mark.parametrize(
    ("lines", "open"),
    [
        ([failed("card")], True),
        ([failed("card", final=True)], False),
        ([], False),
        ([failed("card"), done("refund")], False),
        ([done("reserve"), failed("card")], True),
        # What is done in another branch says nothing; in one around it, it does.
        ([failed("map[0]/card"), done("map[1]/refund")], True),
        ([failed("map[0]/card"), done("map[0]/refund")], False),
        ([failed("map[0]/card"), done("refund")], False),
        ([failed("map[0]/card"), done("map[0]/map[1]/refund")], False),
        ([failed("map[0]/map[1]/card"), done("map[0]/refund")], False),
        ([failed("map[0]/map[1]/card"), done("map[0]/map[2]/refund")], True),
        ([failed("left/card"), done("right/refund")], True),
        # The ends of branches and scopes are nothing that was done about it.
        ([failed("map[0]/card"), ended("map[0]", "error"), ("scope.ended", "map")], True),
        ([failed("map[0]/card"), ended("map[0]", "error"), ("scope.ended", "map"), ("scope.opened", "map#2")], False),
        ([failed("card"), abandoned("cash")], False),
        # A nursery that gives up other tasks does nothing about it, nor does a task that asks in vain; one that goes on
        # undoes something. After a cancel of the task's own it goes on as it would have.
        ([failed("left/card"), abandoned("right/pack", attempt=1)], True),
        ([failed("left/card"), abandoned("pack", attempt=1), abandoned("right/pack", attempt=1)], True),
        ([failed("card"), abandoned("right/pack", attempt=1)], True),
        ([failed("left/card"), abandoned("right/pack", attempt=1), abandoned("right/label")], True),
        ([failed("left/card"), abandoned("right/pack", attempt=1), abandoned("right/unpack", attempt=1)], False),
        ([failed("left/card"), abandoned("right/pack", attempt=1), done("right/unpack")], False),
        ([failed("left/card"), abandoned("right/in/pack", attempt=1), done("right/unpack")], False),
        ([failed("left/card"), abandoned("right/pack", attempt=1, nursery=False), done("right/label")], True),
        # Tried anew: the last failure counts.
        ([failed("card"), crashed("card"), failed("card")], True),
        ([failed("card"), done("refund"), crashed(), failed("card")], True),
    ],
)
def test_a_failure_is_open_when_nothing_was_done_about_it(lines: list[Line], open: bool) -> None:
    path = next((line[1] for line in lines if line[0] == "step.failed"), "card")
    assert is_open(path, history(*lines)) is open


@pytest.mark.parametrize(
    ("lines", "paths", "superseded"),
    [
        ([failed("card")], ["card"], ["card"]),
        (
            [failed("map[1]/card"), ended("map[1]", "error"), ended("map[0]", "cancelled"), ("scope.ended", "map")],
            ["map[1]/card"],
            ["map", "map[0]", "map[1]", "map[1]/card"],
        ),
        (
            [ended("map[0]", "value"), failed("map[1]/card"), ended("map[1]", "error"), ("scope.ended", "map")],
            ["map[1]/card"],
            ["map", "map[1]", "map[1]/card"],
        ),
        # Nested in a branch that was given up with it: what had not ended by itself is forgotten.
        (
            [
                ended("map[0]/map[0]", "error"),
                ended("map[0]/map[1]", "cancelled"),
                ("scope.ended", "map[0]/map"),
                failed("map[1]/card"),
                ended("map[1]", "error"),
                ended("map[0]/map#2[0]", "cancelled"),
                ended("map[0]", "cancelled"),
                ("scope.ended", "map"),
            ],
            ["map[1]/card"],
            ["map", "map[0]", "map[0]/map#2[0]", "map[1]", "map[1]/card"],
        ),
        # Given up in the run before, and come to its end since.
        (
            [
                failed("map[1]/card"),
                ended("map[1]", "error"),
                ended("map[0]", "cancelled"),
                ("scope.ended", "map"),
                crashed("map", "map[0]", "map[1]", "map[1]/card"),
                ended("map[0]", "value"),
                failed("map[1]/card"),
                ended("map[1]", "error"),
                ("scope.ended", "map"),
            ],
            ["map[1]/card"],
            ["map", "map[1]", "map[1]/card"],
        ),
        # A nested scope that had ended, was forgotten, and was given up the next time before it ended.
        (
            [
                failed("map[0]/map[0]/cash"),
                ended("map[0]/map[0]", "error"),
                ended("map[0]/map[1]", "cancelled"),
                ("scope.ended", "map[0]/map"),
                ended("map[0]", "error"),
                ("scope.ended", "map"),
                crashed("map", "map[0]", "map[0]/map", "map[0]/map[0]", "map[0]/map[0]/cash", "map[0]/map[1]"),
                failed("map[1]/card"),
                ended("map[1]", "error"),
                ended("map[0]/map[1]", "cancelled"),
                ended("map[0]", "cancelled"),
                ("scope.ended", "map"),
            ],
            ["map[1]/card"],
            ["map", "map[0]", "map[0]/map[1]", "map[1]", "map[1]/card"],
        ),
        # A nursery of the user's own cancelled the other task, which did nothing further.
        ([failed("left/card"), abandoned("right/pack")], ["left/card"], ["left/card", "right/pack"]),
        ([abandoned("right/pack"), failed("left/card")], ["left/card"], ["left/card"]),
        # It had come to something else, which was given up in its turn.
        (
            [failed("left/card"), abandoned("right/a", attempt=1, nursery=False), abandoned("right/b", attempt=1)],
            ["left/card"],
            ["left/card", "right/b"],
        ),
    ],
)
def test_what_the_next_run_forgets(lines: list[Line], paths: list[str], superseded: list[str]) -> None:
    assert superseded_by(paths, history(*lines)) == superseded


@pytest.mark.parametrize(
    ("lines", "now", "count"),
    [
        ([], 0, 0),
        ([done("a"), crashed(at=10), done("b")], 30, 1),
        ([done("a"), crashed(at=10), done("b")], 71, 0),
        # However long ago, one whose restart got no further counts.
        ([done("a"), crashed(at=10), crashed(at=200), done("b")], 1000, 1),
        ([done("a"), crashed(at=10), crashed(at=200)], 1000, 2),
        # A clock that went back takes none away, and makes none out of old ones.
        ([done("a"), crashed(at=100), done("b"), crashed(at=90), done("c")], 95, 2),
        ([done("a"), crashed(at=10), done("b"), crashed(at=100), done("c")], 20, 1),
    ],
)
def test_restarts_that_count(lines: list[Line], now: float, count: int) -> None:
    assert restarts_that_count(history(*lines), within=60, now=START + dt.timedelta(seconds=now)) == count


class BadError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "origins", "lines", "again", "why"),
    [
        (ValueError(), [], [done("a")], True, ""),
        (ValueError(), ["card"], [failed("card")], True, ""),
        (ValueError(), ["card"], [failed("card"), done("refund")], False, "acted_upon"),
        (ValueError(), ["card"], [failed("card", final=True)], False, "acted_upon"),
        (ValueError(), ["card", "cash"], [failed("card"), failed("cash")], True, ""),
        (BadError(), ["card"], [failed("card")], False, "fatal"),
        (ExceptionGroup("", [ValueError(), BadError()]), [], [done("a")], False, "fatal"),
        (ConcurrentContextError(""), [], [done("a")], False, "fatal"),
        (ValueError(), [], [crashed(), crashed(), crashed()], False, "limit"),
        (
            ValueError(),
            ["card"],
            [failed("card"), crashed("card"), failed("card"), crashed("card")] * 2,
            False,
            "limit",
        ),
    ],
)
def test_what_follows_an_exception(
    error: Exception, origins: list[str], lines: list[Line], again: bool, why: str
) -> None:
    verdict = judge(
        error, origins, history(*lines), restart=Restart(3), fatal=(BadError,), now=START + dt.timedelta(seconds=20)
    )
    assert (verdict.again, verdict.why) == (again, why)
    assert verdict.origins == origins
    assert bool(verdict.superseded) is (again and bool(origins))


def test_only_the_later_of_two_failures_in_a_branch_is_open() -> None:
    verdict = judge(
        ValueError(),
        ["card", "cash"],
        history(failed("card"), failed("cash")),
        restart=Restart(3),
        fatal=(),
        now=START,
    )
    assert (verdict.open, verdict.acted_upon, verdict.superseded) == (["cash"], ["card"], ["cash"])


def test_an_exception_carries_its_causes_contexts_and_members() -> None:
    first, second, third = BadError("1"), BadError("2"), BadError("3")
    known: dict[int, tuple[BaseException, frozenset[str]]] = {
        id(error): (error, frozenset({str(error)})) for error in (first, second, third)
    }
    chained = ValueError()
    chained.__cause__, first.__context__ = first, second
    assert carried_by(chained, known) == {"1", "2"}
    assert carried_by(ExceptionGroup("", [KeyError(), ExceptionGroup("", [chained, third])]), known) == {"1", "2", "3"}
    assert carried_by(KeyError(), known) == set()


def test_a_circle_of_contexts_comes_to_an_end() -> None:
    one, other = BadError(), BadError()
    one.__context__, other.__context__ = other, one
    assert carried_by(one, {id(other): (other, frozenset({"card"}))}) == {"card"}
