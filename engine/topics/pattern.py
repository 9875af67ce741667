"""Topics, and the patterns that match them: the topic exchange of AMQP 0-9-1, with RabbitMQ's behaviour at the edges.

A topic is 1 to 255 bytes of UTF-8. Dots divide it into words, and an empty word is a word: `a..b` has three, `.` has
two. A pattern is of the same form; in it a word `*` matches exactly one word, an empty one too, and a word `#` matches
zero or more. Every other word matches itself, code point by code point: no case folding, no normalisation.

| text | as a topic | as a pattern |
|---|---|---|
| `*` or `#` as a whole word | refused | wildcard |
| `*` or `#` within a word (`a*`, `##`) | refused | refused |
| a control character (Unicode category Cc), a lone surrogate | refused | refused |
| no text at all, more than 255 bytes | refused | refused |

A *system topic* is one whose first word is `playbill`. Only a pattern whose own first word is `playbill` matches it, so
that whoever subscribes to `#` is told of what was published, and not of the engine's own doings. On a system topic
nobody publishes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import attrs

from engine.errors import TopicError

SYSTEM_WORD = "playbill"
ONE_WORD = "*"
ANY_WORDS = "#"

# AMQP's short string, in which a routing key travels: its length is one byte.
_MAXIMUM_BYTES = 255
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FORBIDDEN_IN_TOPIC = re.compile(r"[*#\x00-\x1f\x7f-\x9f]")


def check_topic(topic: str) -> None:
    """Refuses what is not a topic; `TopicPattern` itself refuses what is not a pattern.

    Args:
        topic: the text to look at.

    Raises:
        TopicError: it is empty, longer than 255 bytes, not encodable, or holds `*`, `#` or a control character.
    """
    _check_length(topic, "topic")
    if found := _FORBIDDEN_IN_TOPIC.search(topic):
        if found[0] in (ONE_WORD, ANY_WORDS):
            raise TopicError(topic, f"a topic holds no {found[0]!r}: only patterns do; leave it out")
        raise TopicError(topic, f"a topic holds no control character, here {found[0]!r}; leave it out")


def check_published(topic: str) -> None:
    """Refuses what no event can be published on: what is not a topic, and the engine's own topics.

    Args:
        topic: the text to look at.

    Raises:
        TopicError: it is not a topic, or its first word is `playbill`.
    """
    check_topic(topic)
    if topic.partition(".")[0] == SYSTEM_WORD:
        why = f"topics whose first word is {SYSTEM_WORD!r} tell of the engine's own doings; begin with another word"
        raise TopicError(topic, why)


def _check_length(text: str, what: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise TopicError(text, f"a {what} is encodable as UTF-8, which {text[error.start]!r} is not") from None
    if not 1 <= size <= _MAXIMUM_BYTES:
        raise TopicError(text, f"a {what} has 1 to {_MAXIMUM_BYTES} bytes of UTF-8, not {size}")


@attrs.frozen(init=False, repr=False)
class TopicPattern:
    """A pattern of topics, checked when it is made; equal to, and hashed as, another of the same text.

    Attributes:
        pattern: its text.
        words: its text divided at the dots.
    """

    pattern: str
    words: tuple[str, ...] = attrs.field(eq=False)

    def __init__(self, pattern: str, /) -> None:
        """Makes a pattern of its text.

        Raises:
            TopicError: the text is empty, longer than 255 bytes, not encodable, or holds a control character, or a `*`
                or `#` within a word.
        """
        _check_length(pattern, "pattern")
        if found := _CONTROL_CHARACTER.search(pattern):
            raise TopicError(pattern, f"a pattern holds no control character, here {found[0]!r}; leave it out")
        words = tuple(pattern.split("."))
        for word in words:
            if len(word) > 1 and (ONE_WORD in word or ANY_WORDS in word):
                raise TopicError(pattern, f"'*' and '#' stand for whole words, not within one as in {word!r}")
        self.__attrs_init__(pattern, words)

    @property
    def is_of_the_system(self) -> bool:
        """Whether it matches system topics."""
        return self.words[0] == SYSTEM_WORD

    def matches(self, topic: str, /) -> bool:
        """Whether the pattern matches a topic; at worst in time proportional to words of the pattern x of the topic.

        Raises:
            TopicError: `topic` is not a topic.
        """
        check_topic(topic)
        return self.matches_words(topic.split("."))

    def matches_words(self, words: Sequence[str]) -> bool:
        """The same for a topic that was checked before and is already divided: for those with many patterns to ask."""
        pattern = self.words
        if words[0] == SYSTEM_WORD and pattern[0] != SYSTEM_WORD:
            return False
        at = here = 0
        # Only the last `#` passed is ever widened: an earlier one taking more could not match what this one cannot.
        # That is what keeps the worst case at the product of the lengths.
        last_any, widened_to = -1, 0
        while here < len(words):
            wanted = pattern[at] if at < len(pattern) else None
            if wanted == ANY_WORDS:
                last_any, widened_to = at, here
                at += 1
            elif wanted is not None and wanted in (ONE_WORD, words[here]):
                at += 1
                here += 1
            elif last_any >= 0:
                widened_to += 1
                at, here = last_any + 1, widened_to
            else:
                return False
        return all(word == ANY_WORDS for word in pattern[at:])

    def __repr__(self) -> str:
        return f"TopicPattern({self.pattern!r})"

    def __str__(self) -> str:
        return self.pattern


def patterns_of(patterns: Iterable[TopicPattern | str]) -> tuple[TopicPattern, ...]:
    """Patterns made of texts where they are texts, each once, in the order given.

    Raises:
        TopicError: one of them is not a pattern.
        TypeError: `patterns` is one text instead of several.
        ValueError: there are none.
    """
    if isinstance(patterns, str):
        raise TypeError(f"patterns are given in a tuple or list: ({patterns!r},) and not {patterns!r}")
    made = dict.fromkeys(one if isinstance(one, TopicPattern) else TopicPattern(one) for one in patterns)
    if not made:
        raise ValueError("at least one pattern is needed; '#' matches every topic but the system's")
    return tuple(made)
