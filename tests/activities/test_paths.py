"""The names of calls."""

from __future__ import annotations

import pytest

from engine.activities.paths import around, branch_path, is_within, opener_of, scope_of
from engine.activities.scopes import Scope


@pytest.mark.parametrize(
    ("path", "scope", "scopes_around"),
    [
        ("charge", "", [""]),
        ("charge#2", "", [""]),
        ("map#2[3]/pack", "map#2[3]", ["map#2[3]", ""]),
        ("map[0]/map[1]/pack#4", "map[0]/map[1]", ["map[0]/map[1]", "map[0]", ""]),
        ("left/map[10]", "left", ["left", ""]),
    ],
)
def test_a_path_says_what_is_around_it(path: str, scope: str, scopes_around: list[str]) -> None:
    assert scope_of(path) == scope
    assert list(around(path)) == scopes_around


@pytest.mark.parametrize(
    ("branch", "opener"),
    [("map[3]", "map"), ("map[0]/map#2[11]", "map[0]/map#2"), ("left", None), ("map[1]/left", None)],
)
def test_a_branch_says_which_call_opened_it(branch: str, opener: str | None) -> None:
    assert opener_of(branch) == opener
    if opener is not None:
        assert branch_path(opener, branch.rpartition("[")[2][:-1]) == branch


@pytest.mark.parametrize(
    ("path", "scope", "within"),
    [
        ("charge", "", True),
        ("map[1]/charge", "map[1]", True),
        ("map[1]/map[2]/charge", "map[1]", True),
        ("map[1]", "map[1]", False),
        ("map[10]/charge", "map[1]", False),
    ],
)
def test_what_stands_in_a_scope(path: str, scope: str, within: bool) -> None:
    assert is_within(path, scope) is within


def test_calls_of_one_name_are_counted_within_their_scope() -> None:
    outer, inner = Scope("", 0, [], 0), Scope("map[1]", 0, [], 0)
    assert [outer.next_path(name) for name in ("charge", "ship", "charge", "charge")] == [
        "charge",
        "ship",
        "charge#2",
        "charge#3",
    ]
    assert [inner.next_path(name) for name in ("charge", "charge")] == ["map[1]/charge", "map[1]/charge#2"]
