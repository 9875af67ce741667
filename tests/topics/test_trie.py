"""The trie against the patterns it keeps, asked one by one; and that it keeps nothing of what was taken out."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.topics import TopicPattern, Trie
from engine.topics import trie as trie_module

WORDS = st.sampled_from(["a", "b", "", "playbill"])
TOPICS = st.lists(WORDS, min_size=1, max_size=6).map(".".join).filter(bool)
PATTERNS = st.lists(WORDS | st.sampled_from(["*", "#", "#"]), min_size=1, max_size=5).map(".".join).filter(bool)
ENTRIES = st.tuples(PATTERNS.map(TopicPattern), st.integers(0, 4))


@given(st.lists(ENTRIES, max_size=12), st.data())
def test_the_trie_gives_those_whose_patterns_match_each_once(
    entries: list[tuple[TopicPattern, int]], data: st.DataObject
) -> None:
    trie: Trie[int] = Trie()
    for pattern, value in entries:
        trie.add(pattern, value)
    removed = data.draw(st.sets(st.sampled_from(entries))) if entries else set()
    for pattern, value in removed:
        trie.remove(pattern, value)
    for topic in data.draw(st.lists(TOPICS, min_size=1, max_size=5)):
        expected = sorted({value for pattern, value in set(entries) - removed if pattern.matches(topic)})
        assert sorted(trie.match(topic)) == expected


@given(st.lists(ENTRIES, max_size=12, unique=True), st.randoms(use_true_random=False))
def test_a_trie_from_which_all_was_removed_holds_no_branch(
    entries: list[tuple[TopicPattern, int]], random: Random
) -> None:
    trie: Trie[int] = Trie()
    for pattern, value in entries:
        trie.add(pattern, value)
    random.shuffle(entries)
    for pattern, value in entries:
        trie.remove(pattern, value)
    assert not trie._root.branches


def test_a_value_is_given_once_though_several_of_its_patterns_match() -> None:
    trie: Trie[str] = Trie()
    for pattern in ("orders.#", "orders.*", "#", "*.eu", "#.#"):
        trie.add(TopicPattern(pattern), "mailer")
    assert trie.match("orders.eu") == ("mailer",)


def test_adding_twice_is_adding_once() -> None:
    trie: Trie[str] = Trie()
    trie.add(TopicPattern("orders.*"), "mailer")
    trie.add(TopicPattern("orders.*"), "mailer")
    trie.remove(TopicPattern("orders.*"), "mailer")
    assert trie.match("orders.eu") == ()


def test_removing_one_value_leaves_the_others_of_the_pattern_and_below_it() -> None:
    trie: Trie[str] = Trie()
    trie.add(TopicPattern("orders.*"), "mailer")
    trie.add(TopicPattern("orders.*"), "ledger")
    trie.add(TopicPattern("orders.*.paid"), "till")
    trie.remove(TopicPattern("orders.*"), "mailer")
    assert trie.match("orders.eu") == ("ledger",)
    trie.remove(TopicPattern("orders.*"), "ledger")
    assert trie.match("orders.eu.paid") == ("till",)


@pytest.mark.parametrize(("pattern", "value"), [("a.c", 1), ("a", 1), ("a.b.c", 1), ("a.b", 2), ("*", 1)])
def test_removing_what_is_not_there_is_a_key_error_and_changes_nothing(pattern: str, value: int) -> None:
    trie: Trie[int] = Trie()
    trie.add(TopicPattern("a.b"), 1)
    with pytest.raises(KeyError):
        trie.remove(TopicPattern(pattern), value)
    assert trie.match("a.b") == (1,)


def test_patterns_full_of_hashes_are_matched_without_trying_every_split() -> None:
    trie: Trie[int] = Trie()
    for length in range(1, 60):
        trie.add(TopicPattern("#.a." * length + "b"), length)
        trie.add(TopicPattern("#.#." * length + "b"), length)
    began = time.perf_counter()
    assert trie.match(".".join("a" * 128)) == ()
    assert time.perf_counter() - began < 2.0  # tens of milliseconds; by recursion over the splits, it would not end


def test_a_match_looks_at_no_more_nodes_when_there_are_more_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def counting(*arguments: Any) -> None:
        nonlocal looks
        looks += 1
        enter(*arguments)

    enter = trie_module._enter
    monkeypatch.setattr(trie_module, "_enter", counting)
    costs = []
    for subscriptions in (10, 10_000):
        trie: Trie[int] = Trie()
        for number in range(subscriptions):
            for pattern in ("orders.{}", "*.{}", "#.x{}", "orders.*.x{}", "orders.#.x{}.*", "t{}.#"):
                trie.add(TopicPattern(pattern.format(number)), number)
        looks = 0
        assert trie.match("orders.7.paid") == ()
        assert trie.match("orders.7") == (7,)
        costs.append(looks)
    assert costs[0] == costs[1]
