"""Topics and patterns: the rules at their edges as tables, then all of them against a slow and plain reference."""

from __future__ import annotations

import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import TopicError
from engine.topics import TopicPattern, check_published, check_topic

MATCHES = [
    ("orders", "orders"),
    ("orders.eu", "orders.eu"),
    ("*", "orders"),
    ("#", "orders"),
    ("#", "orders.eu.paid"),
    ("orders.*", "orders.eu"),
    ("orders.*.paid", "orders.eu.paid"),
    ("orders.*.#", "orders.eu.paid.late"),
    ("orders.*.#", "orders.eu"),
    ("orders.#", "orders"),
    ("#.paid", "paid"),
    ("#.paid", "orders.eu.paid"),
    ("#.paid", "paid.paid"),
    ("orders.#.paid", "orders.paid"),
    ("orders.#.paid", "orders.eu.west.paid"),
    ("#.eu.#", "eu"),
    ("#.eu.#", "orders.eu.paid"),
    ("#.#", "orders"),
    ("#.#.#", "orders"),
    ("#.*", "orders"),
    ("*.#", "orders"),
    ("#.*.#", "orders.eu"),
    ("#.a.#.b.#.a", "a.x.b.x.b.x.a"),
    ("#.a.b", "a.a.b"),
    ("a..b", "a..b"),
    ("a.*.b", "a..b"),
    ("a.#.b", "a..b"),
    ("*.*.*", "a..b"),
    ("*.*", "."),
    (".", "."),
    ("#", "."),
    ("a.*", "a."),
    ("*.a", ".a"),
    ("a.#", "a."),
    ("*.*", "a."),
    ("München.*", "München.Ost"),
    ("a b.*", "a b.c d"),
    ("[ab].?", "[ab].?"),
    ("playbill", "playbill"),
    ("playbill.#", "playbill"),
    ("playbill.#", "playbill.activities.failed"),
    ("playbill.*.failed", "playbill.activities.failed"),
    ("playbill.dead_letters", "playbill.dead_letters"),
    ("#", "playbills.new"),
    ("#", "orders.playbill"),
    ("*.playbill", "orders.playbill"),
    ("#", "Playbill.activities"),
]

DOES_NOT_MATCH = [
    ("orders", "order"),
    ("orders", "orders."),
    ("orders", "Orders"),
    ("orders", "orders.eu"),
    ("*", "orders.eu"),
    ("*", "."),
    ("orders.*", "orders"),
    ("orders.*", "orders.eu.paid"),
    ("*.#", "playbill"),
    ("#.*.*", "orders"),
    ("*.#.*", "orders"),
    ("#.paid", "orders.paid.late"),
    ("#.a.b", "a.b.b"),
    ("a.#.b", "a"),
    ("a.#.a", "a"),
    ("#.eu.#", "orders.us.paid"),
    ("a.b", "a..b"),
    ("a.*", "a..b"),
    ("a.b", "axb"),
    ("M\u00fcnchen", "Mu\u0308nchen"),
    ("#", "playbill"),
    ("#", "playbill.activities.failed"),
    ("*.activities.failed", "playbill.activities.failed"),
    ("#.playbill.#", "playbill.activities.failed"),
    ("#.failed", "playbill.activities.failed"),
    ("*", "playbill"),
    ("playbill.*", "playbill"),
]

NOT_A_TOPIC = [
    "",
    "*",
    "#",
    "orders.*",
    "orders.#.paid",
    "orders.e*",
    "orders#",
    "a\nb",
    "a\x00",
    "a\x7f",
    "a\x85b",
    "\ud800",
    "a" * 256,
    "ü" * 128,
]

NOT_A_PATTERN = [
    "",
    "orders*",
    "orders.*eu",
    "#orders",
    "**",
    "##",
    "*#",
    "a.#*.b",
    "a\tb",
    "*.\x1f",
    "\x9f.#",
    "\udfff.*",
    "a" * 256,
    "*" + ".*" * 128,
]


@pytest.mark.parametrize(("pattern", "topic"), MATCHES)
def test_a_pattern_matches_this_topic(pattern: str, topic: str) -> None:
    assert TopicPattern(pattern).matches(topic)


@pytest.mark.parametrize(("pattern", "topic"), DOES_NOT_MATCH)
def test_a_pattern_does_not_match_this_topic(pattern: str, topic: str) -> None:
    assert not TopicPattern(pattern).matches(topic)


@pytest.mark.parametrize("topic", NOT_A_TOPIC)
def test_what_is_no_topic_is_refused_with_its_text_and_the_reason(topic: str) -> None:
    with pytest.raises(TopicError) as caught:
        check_topic(topic)
    assert caught.value.topic == topic
    assert caught.value.why


@pytest.mark.parametrize("pattern", NOT_A_PATTERN)
def test_what_is_no_pattern_is_refused_with_its_text_and_the_reason(pattern: str) -> None:
    with pytest.raises(TopicError) as caught:
        TopicPattern(pattern)
    assert caught.value.topic == pattern
    assert caught.value.why


@pytest.mark.parametrize("topic", ["playbill", "playbill.supervision.crashed", "playbill.", "orders.*", ""])
def test_nothing_is_published_on_the_engine_s_own_topics_or_on_what_is_no_topic(topic: str) -> None:
    with pytest.raises(TopicError) as caught:
        check_published(topic)
    assert caught.value.topic == topic


@pytest.mark.parametrize("topic", ["playbills", "orders.playbill", ".playbill", "Playbill.a"])
def test_a_topic_that_only_resembles_the_engine_s_own_can_be_published_on(topic: str) -> None:
    check_published(topic)


def test_a_topic_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"'orders\.\*'"):
        check_topic("orders.*")


def test_matching_refuses_what_is_no_topic() -> None:
    with pytest.raises(TopicError):
        TopicPattern("#").matches("orders.*")


@pytest.mark.parametrize("topic", ["a", ".", "a" * 255, "ü" * 127, "." * 255, "a b", "playbill.x", "é.日本.🙂"])
def test_a_topic_of_1_to_255_bytes_passes(topic: str) -> None:
    check_topic(topic)
    assert TopicPattern(topic).matches(topic)


def test_patterns_are_equal_and_hashed_by_their_text() -> None:
    assert TopicPattern("a.#") == TopicPattern("a.#")
    assert TopicPattern("a.#") != TopicPattern("a.#.#")
    assert len({TopicPattern("a.#"), TopicPattern("a.#"), TopicPattern("a.*")}) == 2


def test_a_pattern_shows_its_text_and_survives_pickling() -> None:
    pattern = TopicPattern("orders.*")
    assert pattern.pattern == str(pattern) == "orders.*"
    assert eval(repr(pattern)) == pattern
    assert pickle.loads(pickle.dumps(pattern)) == pattern


def test_a_pattern_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        TopicPattern("orders.*").pattern = "#"  # type: ignore[misc]


def test_the_worst_pattern_takes_time_in_proportion_to_pattern_times_topic() -> None:
    pattern = TopicPattern("#.a." * 62 + "b")
    topic = ".".join("a" * 128)
    began = time.perf_counter()
    assert not pattern.matches(topic)
    assert time.perf_counter() - began < 1.0  # about a millisecond; by trying every split, longer than the universe


def reference(pattern: list[str], topic: list[str]) -> bool:
    """The definition, word by word; exponential, and so for short ones only."""
    if not pattern:
        return not topic
    first, *others = pattern
    if first == "#":
        return any(reference(others, topic[taken:]) for taken in range(len(topic) + 1))
    return bool(topic) and first in ("*", topic[0]) and reference(others, topic[1:])


WORDS = st.sampled_from(["a", "b", "", "playbill"])
TOPICS = st.lists(WORDS, min_size=1, max_size=7).map(".".join).filter(bool)
PATTERNS = st.lists(WORDS | st.sampled_from(["*", "#", "#"]), min_size=1, max_size=7).map(".".join).filter(bool)


@given(PATTERNS, TOPICS)
def test_matching_agrees_with_the_definition(pattern: str, topic: str) -> None:
    hidden = topic.split(".")[0] == "playbill" and pattern.split(".")[0] != "playbill"
    expected = not hidden and reference(pattern.split("."), topic.split("."))
    assert TopicPattern(pattern).matches(topic) == expected


@given(st.text(max_size=20))
def test_a_text_that_passes_as_a_topic_is_a_pattern_that_matches_itself(text: str) -> None:
    try:
        check_topic(text)
    except TopicError:
        return
    assert TopicPattern(text).matches(text)
