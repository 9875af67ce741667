"""The mailbox: an actor's end of its inbox, for one run.

An actor is given a new mailbox each time it is started or restarted; what waits in the inbox behind it stays. The
*message in hand* is the one that was received last; it is lost if the actor ends, and `reply` answers it.

| the mailbox | `receive` |
|---|---|
| a message waits | takes it: a cancel point, a schedule point only after `capacity` of them |
| none waits | waits |
| the actor is being stopped, or its run is over | `trio.EndOfChannel`; `async for` ends; what waits is not taken |
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import Any, Generic, TypeVar

import trio

from ._inbox import Ask, Inbox

M = TypeVar("M")


class _Nothing:
    """What is in hand before the first message."""


_NOTHING = _Nothing()


class Mailbox(Generic[M]):
    """An actor's mailbox, given to it by its supervisor. Only the actor's run may use it, one task at a time."""

    __slots__ = ("_ended", "_event", "_in_a_row", "_in_hand", "_inbox", "_stopping")

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._in_hand: object = _NOTHING
        self._in_a_row = 0
        self._ended = False
        self._stopping = False
        self._event: trio.Event | None = None

    @property
    def stopping(self) -> trio.Event:
        """Set when the actor is asked to stop. It has its `shutdown` seconds from then on."""
        if self._event is None:
            self._event = trio.Event()
            if self._stopping:
                self._event.set()
        return self._event

    def __aiter__(self) -> AsyncIterator[M]:
        return self

    def receive(self) -> Coroutine[Any, Any, M]:
        """Takes the next message, and waits for one if none is there.

        A cancel point always, a schedule point if it has to wait and at least once in `capacity` messages. Cancelled,
        it has taken nothing.

        Returns:
            The message, which is in hand from now on.

        Raises:
            trio.EndOfChannel: the actor is being stopped, or the run that this mailbox was given to is over.
            trio.BusyResourceError: another task waits in it already.
        """
        return self._next(trio.EndOfChannel)

    # `receive` and `async for` share the one coroutine: another around it would be held by each actor that waits.
    @trio.lowlevel.enable_ki_protection
    async def _next(self, ended: type[Exception] = StopAsyncIteration) -> M:
        await trio.lowlevel.checkpoint_if_cancelled()
        inbox = self._inbox
        if self._in_a_row >= inbox.capacity:
            self._in_a_row = 0
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not self._ended:
            if inbox.queue:
                self._in_a_row += 1
                if type(self._in_hand) is Ask:
                    inbox.let_go(self._in_hand)
                item: Any = inbox.queue.popleft()
                self._in_hand = item
                if inbox.line:
                    inbox.admit()
                message: M = item.message if type(item) is Ask else item
                return message
            self._in_a_row = 0
            if inbox.reader is not None:
                raise trio.BusyResourceError("another task is already receiving from this mailbox")
            inbox.reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(inbox.leave)
        raise ended

    __anext__ = _next

    def reply(self, value: Any, /) -> None:
        """Answers the message in hand. Never waits.

        Dropped if nobody waits for the answer: it was told and not asked, has been answered, or its asker has left.

        Args:
            value: the answer.

        Raises:
            RuntimeError: no message was received yet.
        """
        item = self._in_hand
        if item is _NOTHING:
            raise RuntimeError("there is no message in hand to reply to; receive one first")
        if type(item) is Ask:
            item.settle(value)

    # What follows is the supervisor's.

    def _stop(self) -> None:
        """Asks the actor to stop."""
        self._stopping = True
        if self._event is not None:
            self._event.set()
        self._end()

    @trio.lowlevel.enable_ki_protection
    def _end_run(self, crash: Exception | None) -> None:
        """The run has ended, by a crash or not."""
        self._end()
        self._inbox.run_ended(self._in_hand, crash)

    @trio.lowlevel.enable_ki_protection
    def _end(self) -> None:
        """No more messages are taken by this run."""
        self._ended = True
        reader = self._inbox.reader
        if reader is not None:
            self._inbox.reader = None
            trio.lowlevel.reschedule(reader)
