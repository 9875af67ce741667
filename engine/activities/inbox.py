"""What an activity was sent and has not received yet, and the calls that wait for some of it.

Messages stand in the order of their records. Who is given which is decided here alone, and without a checkpoint: a
message goes to the first call that wants it, in the order in which they began to wait. After a restart, when several
calls of the history wait at once, that is the order of their paths. What a branch gives back returns to its place.

A message comes in when its record is durable. Until then it is *coming*: a call whose time is over waits for it, since
of a message and a timer the earlier instant wins.
"""

from __future__ import annotations

import bisect
import contextvars
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_origin

import attrs
import trio

from engine.activities.waiting import Wait
from engine.codec import ValueCodec, codec_for
from engine.errors import DefinitionError, PayloadError
from engine.journal import StoredRecord

logger = logging.getLogger("playbill.activities")


def type_name(cls: type) -> str:
    """A message's class as it is recorded: `package.module.Class`."""
    return f"{cls.__module__}.{cls.__qualname__}"


class Wanted:
    """What a call of `receive` takes: messages of some classes, for which a predicate holds.

    Attributes:
        names: the classes, as they are recorded.
    """

    def __init__(self, types: Sequence[Any], where: Callable[[Any], bool] | None) -> None:
        """Take note of what is wanted.

        Raises:
            DefinitionError: there is no class among `types`, or something that is none.
        """
        if not types:
            raise DefinitionError("ctx.receive() was given no class; say of which class the message is to be")
        self._classes: list[tuple[type, Any]] = []
        for given in types:
            cls = get_origin(given) or given
            if not isinstance(cls, type):
                raise DefinitionError(f"ctx.receive({given!r}): give the class of the message")
            self._classes.append((cls, given))
        self.names = [type_name(cls) for cls, _ in self._classes]
        self._where = where
        # In the variables of the task that waits, and not of the one that brings the message.
        self._variables = None if where is None else contextvars.copy_context()

    def takes(self, message: StoredRecord) -> bool:
        """Whether a message is wanted. One that cannot be read as what its class says is left alone.

        Raises:
            Exception: what the predicate raises.
        """
        if self._codec_of(message) is None:
            return False
        try:
            value = self.value_of(message)
        except PayloadError as error:
            logger.warning(
                "message %s of activity %s cannot be read as a %s, and stays unread: %s",
                message.facts["id"], message.stream, message.name, error,
            )  # fmt: skip
            return False
        return self._variables is None or bool(self._variables.run(self._where, value))  # type: ignore[arg-type]

    def value_of(self, message: StoredRecord) -> Any:
        """The message, made anew at every call.

        Raises:
            PayloadError: it cannot be read as what its class says.
        """
        codec = self._codec_of(message)
        if codec is None:
            raise PayloadError("message", f"it is a {message.name}, and is received as {' or '.join(self.names)}")
        return codec.decode_field(message.data or "{}", "value", "message")

    def _codec_of(self, message: StoredRecord) -> ValueCodec | None:
        """By the class itself; else by its bare name, as the command line may give it; else by one derived from it."""
        name = message.name or ""
        for cls, given in self._classes:
            if name in (type_name(cls), cls.__qualname__, cls.__name__):
                return codec_for(given)
        found = _loaded(name)
        if found is not None and any(issubclass(found, cls) for cls, _ in self._classes):
            return codec_for(found)
        return None


def _loaded(name: str) -> type | None:
    """A class by its full name, where its module is loaded: nothing is imported because a message names it."""
    words = name.split(".")
    for split in range(len(words) - 1, 0, -1):
        thing: object = sys.modules.get(".".join(words[:split]))
        if thing is not None:
            for word in words[split:]:
                thing = getattr(thing, word, None)
            return thing if isinstance(thing, type) else None
    return None


@attrs.define(eq=False)
class Taker:
    """A call that waits for a message.

    Attributes:
        wait: its wait.
        wanted: what it takes.
        is_held: whether its run must not begin anything new.
        due: the instant at which its time is over; `None` where it is not limited.
        until: the same by Trio's clock.
        rank: its place among those that wait.
        given: the message that it is given.
        error: what its predicate raised, and for which message.
    """

    wait: Wait
    wanted: Wanted
    is_held: Callable[[], bool]
    until: float
    rank: tuple[int, Any]
    given: StoredRecord | None = None
    error: tuple[Exception, StoredRecord] | None = None

    def try_with(self, message: StoredRecord) -> bool:
        """Give the message to the call if it wants it; whether it is gone."""
        if self.given is not None or self.error is not None or self.is_held():
            return False
        at = message.facts["handed_in"]
        due = self.wait.due
        if due is not None and at > due and trio.current_time() >= self.until:
            return False
        try:
            if not self.wanted.takes(message):
                return False
            self.given = message
        except Exception as error:  # the edge where user code runs: what the predicate raises is the call's outcome
            self.error = (error, message)
        self.wait.wake(at)
        return self.given is not None


class Inbox:
    """What an activity was sent and has not received.

    Attributes:
        coming: the messages that are recorded for it and not durable yet.
    """

    __slots__ = ("_messages", "_rank", "_read_up_to", "_takers", "_unserved", "coming")

    def __init__(self, unread: Iterable[StoredRecord] = (), *, read_up_to: int = 0) -> None:
        """Begin with what the records say.

        Args:
            unread: the durable messages that were not received, in order.
            read_up_to: the last record that was read for that; messages up to it are known already.
        """
        self._messages = list(unread)
        self._read_up_to = read_up_to
        self._takers: list[Taker] = []
        self._rank = 0
        self._unserved = False
        self.coming: dict[int, StoredRecord] = {}

    @property
    def unread(self) -> list[StoredRecord]:
        """What is there, and what is coming."""
        return [*self._messages, *self.coming.values()]

    def expect(self, message: StoredRecord) -> None:
        """A message is recorded, and not durable yet."""
        self.coming[message.seq] = message

    def arrive(self, message: StoredRecord) -> None:
        """A message is durable."""
        self.coming.pop(message.seq, None)
        if message.seq > self._read_up_to:
            self.put(message)

    def put(self, message: StoredRecord) -> None:
        """Give a message to the first call that wants it, or keep it in its place."""
        if not any(taker.try_with(message) for taker in self._takers):
            bisect.insort(self._messages, message, key=lambda kept: kept.seq)

    def next_rank(self) -> tuple[int, Any]:
        """The place of a call that begins to wait now."""
        self._rank += 1
        return 1, self._rank

    def enter(self, taker: Taker) -> None:
        """A call waits, and is given the first message that it wants, if there is one."""
        bisect.insort(self._takers, taker, key=lambda waiting: waiting.rank)
        self._serve(taker)

    async def enter_in_order(self, taker: Taker) -> None:
        """The same for a call that waited before, when the activity was resumed: all of these come in at once, in any
        order, and are served in that of their paths. Not to be cancelled."""
        bisect.insort(self._takers, taker, key=lambda waiting: waiting.rank)
        self._unserved = True
        # The one with which the replay ends comes in a step of the loop before the others, which it wakes.
        await trio.lowlevel.cancel_shielded_checkpoint()
        await trio.lowlevel.cancel_shielded_checkpoint()
        if self._unserved:
            self._unserved = False
            for waiting in list(self._takers):
                self._serve(waiting)

    def _serve(self, taker: Taker) -> None:
        for index, message in enumerate(self._messages):
            if taker.try_with(message):
                del self._messages[index]
                return
            if taker.error is not None:
                return

    def leave(self, taker: Taker) -> None:
        """A call waits no more."""
        self._takers.remove(taker)
