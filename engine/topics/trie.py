"""A trie of topic patterns: which values have a pattern that matches this topic?

Each node stands for the words of the patterns that lead to it; `*` and `#` are branches like any word, and no topic
holds such a word. A topic is matched one word at a time against the set of nodes that its words so far lead to, as a
nondeterministic automaton is run: no node is entered twice for one word, so that patterns full of `#`, over which a
search by recursion takes exponential time, cost no more than others. From each of these nodes a word leads on by two
look-ups, in however many branches. The cost is thus in the topic's words and the nodes they lead to, and not in the
patterns kept.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from .pattern import ANY_WORDS, ONE_WORD, SYSTEM_WORD, TopicPattern

V = TypeVar("V", bound=Hashable)


class _Node(Generic[V]):
    """Where patterns that begin with the same words part; hashed by identity."""

    __slots__ = ("branches", "repeats", "values")

    def __init__(self, word: str) -> None:
        self.branches: dict[str, _Node[V]] = {}
        self.values: dict[V, None] = {}  # a set that keeps its order, so that routing is the same in every run
        self.repeats = word == ANY_WORDS


class Trie(Generic[V]):
    """Patterns, and for each the values that were added under it. Values are hashable."""

    def __init__(self) -> None:
        self._root: _Node[V] = _Node("")

    def add(self, pattern: TopicPattern, value: V) -> None:
        """Keeps a value under a pattern; adding it there again changes nothing."""
        node = self._root
        for word in pattern.words:
            following = node.branches.get(word)
            if following is None:
                following = node.branches[word] = _Node(word)
            node = following
        node.values[value] = None

    def remove(self, pattern: TopicPattern, value: V) -> None:
        """Takes a value from under a pattern, and gives up the memory of branches that lead nowhere any more.

        Raises:
            KeyError: the value is not kept under this pattern. Nothing was changed.
        """
        path = [self._root]
        for word in pattern.words:
            following = path[-1].branches.get(word)
            if following is None:
                raise KeyError(f"nothing is kept under the pattern {pattern.pattern!r}")
            path.append(following)
        if value not in path[-1].values:
            raise KeyError(f"{value!r} is not kept under the pattern {pattern.pattern!r}")
        del path[-1].values[value]
        for word in reversed(pattern.words):
            node = path.pop()
            if node.values or node.branches:
                break
            del path[-1].branches[word]

    def match(self, topic: str) -> tuple[V, ...]:
        """The values with a pattern that matches, each once, however many of its patterns do.

        Args:
            topic: a topic that `check_topic` lets pass; it is not looked at again.

        Returns:
            The values, in no promised order, but in the same one for the same sequence of calls.
        """
        words = topic.split(".")
        reached: dict[_Node[V], None] = {}
        if words[0] == SYSTEM_WORD:
            # Past the wildcards at the root: only a pattern that says `playbill` leads into the system's topics.
            _enter(self._root.branches.get(words.pop(0)), reached)
        else:
            _enter(self._root, reached)
        for word in words:
            entered: dict[_Node[V], None] = {}
            for node in reached:
                if node.repeats:
                    _enter(node, entered)
                branches = node.branches
                if branches:
                    _enter(branches.get(word), entered)
                    _enter(branches.get(ONE_WORD), entered)
            reached = entered
        matched: dict[V, None] = {}
        for node in reached:
            matched.update(node.values)
        return tuple(matched)


def _enter(node: _Node[V] | None, entered: dict[_Node[V], None]) -> None:
    """Adds a node, and those one reaches from it without a word: a `#` matches zero words."""
    while node is not None and node not in entered:
        entered[node] = None
        node = node.branches.get(ANY_WORDS)
