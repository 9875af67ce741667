"""From a topic to those who want its events: a trie, with a bounded cache of its answers in front.

An engine publishes on few topics, over and over. What the trie answers is kept for the topics asked for most recently;
attaching or detaching anything empties the cache, since a pattern may match any topic in it. A topic asked for again
costs one look-up in a dict, and one asked for the first time a walk through the trie.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from .pattern import TopicPattern, patterns_of
from .trie import Trie

V = TypeVar("V", bound=Hashable)


class Router(Generic[V]):
    """Values, each attached by its patterns. Nothing here waits; it is used from one thread.

    Args:
        cached: for how many topics the answer is kept.
    """

    def __init__(self, *, cached: int = 4096) -> None:
        if cached < 1:
            raise ValueError(f"cached is the number of topics whose answer is kept, at least 1, not {cached!r}")
        self._patterns: dict[V, tuple[TopicPattern, ...]] = {}
        self._trie: Trie[V] = Trie()
        # Written in C: a hit is one look-up, and moving the topic to the front of the list follows a pointer.
        self._match = functools.lru_cache(maxsize=cached)(self._trie.match)

    def attach(self, patterns: Iterable[TopicPattern | str], value: V) -> None:
        """Lets `route` give a value for every topic that one of its patterns matches.

        Raises:
            TopicError: one of the patterns is not one. Nothing was changed.
            ValueError: the value is attached already, or there are no patterns. Nothing was changed.
        """
        if value in self._patterns:
            raise ValueError(f"{value!r} is attached already; detach it first")
        wanted = self._patterns[value] = patterns_of(patterns)
        for pattern in wanted:
            self._trie.add(pattern, value)
        self._match.cache_clear()

    def detach(self, value: V) -> None:
        """Lets `route` give a value no more. To detach what is not attached is no error: it may be done twice."""
        for pattern in self._patterns.pop(value, ()):
            self._trie.remove(pattern, value)
        self._match.cache_clear()

    def route(self, topic: str) -> tuple[V, ...]:
        """The values with a pattern that matches, each once.

        Args:
            topic: a topic that `check_topic` lets pass; it is not looked at again.

        Returns:
            The values as of now. What is attached or detached later does not change a tuple that was given.
        """
        return self._match(topic)
