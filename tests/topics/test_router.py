"""The router: who is attached, and that its cache never answers from before a change."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from engine.errors import TopicError
from engine.topics import Router, TopicPattern


def test_a_topic_is_routed_to_those_attached_each_once() -> None:
    router: Router[str] = Router()
    router.attach(["orders.*.paid", "orders.#"], "mailer")
    router.attach([TopicPattern("#")], "archive")
    router.attach(("invoices.#",), "till")
    assert sorted(router.route("orders.eu.paid")) == ["archive", "mailer"]


def test_attaching_shows_in_topics_that_were_asked_for_before() -> None:
    router: Router[str] = Router()
    assert router.route("orders.eu") == ()
    router.attach(["orders.*"], "mailer")
    assert router.route("orders.eu") == ("mailer",)


def test_detaching_shows_in_topics_that_were_asked_for_before() -> None:
    router: Router[str] = Router()
    router.attach(["orders.*", "#"], "mailer")
    given = router.route("orders.eu")
    router.detach("mailer")
    assert router.route("orders.eu") == ()
    assert given == ("mailer",)


def test_a_topic_asked_for_again_is_not_matched_again() -> None:
    router: Router[str] = Router()
    router.attach(["orders.*"], "mailer")
    assert router.route("orders.eu") is router.route("orders.eu")


def test_the_cache_keeps_the_topics_asked_for_last_and_no_more() -> None:
    router: Router[str] = Router(cached=2)
    router.attach(["#"], "mailer")
    first = router.route("a")
    router.route("b")
    assert router.route("a") is first
    router.route("c")
    assert router.route("a") is first
    assert router._match.cache_info().currsize == 2


def test_detaching_what_is_not_attached_is_no_error() -> None:
    router: Router[str] = Router()
    router.detach("mailer")
    assert router.route("a") == ()


def test_attaching_again_is_refused_until_detached() -> None:
    router: Router[str] = Router()
    router.attach(["a"], "mailer")
    with pytest.raises(ValueError, match="attached already"):
        router.attach(["b"], "mailer")
    router.detach("mailer")
    router.attach(["b"], "mailer")
    assert router.route("a") == ()
    assert router.route("b") == ("mailer",)


@pytest.mark.parametrize(
    ("patterns", "error"), [(["a", "b*"], TopicError), ([], ValueError), ("orders", TypeError), ([""], TopicError)]
)
def test_wrong_patterns_are_refused_and_nothing_is_attached(patterns: list[str], error: type[Exception]) -> None:
    router: Router[str] = Router()
    with pytest.raises(error):
        router.attach(patterns, "mailer")
    assert router.route("a") == ()
    router.attach(["a"], "mailer")


def test_a_pattern_given_twice_counts_once() -> None:
    router: Router[str] = Router()
    router.attach(["a", "a", TopicPattern("a")], "mailer")
    router.detach("mailer")
    assert router.route("a") == ()


@pytest.mark.parametrize("cached", [0, -1])
def test_a_cache_for_no_topics_is_refused(cached: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Router(cached=cached)


WORDS = st.sampled_from(["a", "b", "playbill"])
TOPICS = st.lists(WORDS, min_size=1, max_size=3).map(".".join)
PATTERNS = st.lists(WORDS | st.sampled_from(["*", "#"]), min_size=1, max_size=3).map(".".join)


class AnyOrderOfCalls(RuleBasedStateMachine):
    """A router beside a plain dict of what is attached: after any calls they agree, whatever the cache held."""

    def __init__(self) -> None:
        super().__init__()
        self.router: Router[int] = Router(cached=4)
        self.attached: dict[int, list[str]] = {}

    @rule(value=st.integers(0, 3), patterns=st.lists(PATTERNS, min_size=1, max_size=3))
    def attach(self, value: int, patterns: list[str]) -> None:
        if value not in self.attached:
            self.router.attach(patterns, value)
            self.attached[value] = patterns

    @rule(value=st.integers(0, 3))
    def detach(self, value: int) -> None:
        self.router.detach(value)
        self.attached.pop(value, None)

    @rule(topic=TOPICS)
    def route(self, topic: str) -> None:
        expected = [
            value
            for value, patterns in sorted(self.attached.items())
            if any(TopicPattern(pattern).matches(topic) for pattern in patterns)
        ]
        assert sorted(self.router.route(topic)) == expected


TestAnyOrderOfCalls = AnyOrderOfCalls.TestCase
TestAnyOrderOfCalls.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
