"""Refs: how an actor is spoken to. A ref stays good for as long as the actor's specification stands.

It does not tell whether the actor runs just now: while it is restarting messages wait for it, while it is stopped they
become dead letters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import trio

from ..messages import Asks
from ._inbox import Ask

if TYPE_CHECKING:
    from ._inbox import Inbox
    from .watching import Life

M_contra = TypeVar("M_contra", contravariant=True)
R = TypeVar("R")


class Ref(Generic[M_contra]):
    """The address of an actor. Got from `start_child`, `restart_child`, `which_children` and the registry."""

    __slots__ = ("__weakref__", "_inbox", "_life")

    def __init__(self, inbox: Inbox, life: Life) -> None:
        self._inbox = inbox
        self._life = life

    def __repr__(self) -> str:
        return f"<Ref {self.path}>"

    @property
    def path(self) -> str:
        """The actor's path, as `/subscribers/mailer`."""
        return self._inbox.path

    @property
    def dead_letters(self) -> int:
        """How many messages to this actor became dead letters."""
        return self._inbox.dead_letters

    def tell(self, message: M_contra, /) -> None:
        """Sends a message without waiting. No checkpoint.

        To an actor that is stopped it is a dead letter, and no error.

        Raises:
            MailboxFullError: the mailbox is full, and its policy is `WAIT` or `FAIL`. The message was not taken.
        """
        if not self._inbox.offer(message):
            raise self._inbox.full()

    async def send(self, message: M_contra, /) -> None:
        """Sends a message, and waits for room where the mailbox is full and its policy is `WAIT`.

        A checkpoint. Cancelled, the message was not sent. To an actor that is stopped, or is stopped meanwhile, it is a
        dead letter, and no error. Messages of one sender arrive in the order in which they were sent.

        Raises:
            MailboxFullError: the mailbox is full, and its policy is `FAIL`. The message was not taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._inbox.offer(message):
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self._inbox.wait_for_room(message)

    @overload
    async def ask(self, message: Asks[R], /, *, timeout: float | None = 5.0) -> R: ...
    @overload
    async def ask(self, message: M_contra, /, *, timeout: float | None = 5.0) -> Any: ...
    async def ask(self, message: Any, /, *, timeout: float | None = 5.0) -> Any:
        """Sends a message and waits for what the actor gives to `mailbox.reply` with it in hand.

        A checkpoint. Cancelled, or after its timeout, the message may still be handled if the mailbox had taken it; the
        late answer is dropped.

        Args:
            message: the message; one that derives from `Request[R]` is answered by an R.
            timeout: how many seconds to wait for room and answer together; None waits for ever.

        Returns:
            The answer.

        Raises:
            AskTimeoutError: no answer came in time; a `TimeoutError`.
            ActorCrashedError: the actor crashed after it had taken the message; `__cause__` is why.
            ActorStoppedError: the actor is stopped, or is stopped or returns before it answered.
            MailboxFullError: the mailbox is full and does not let the asker wait, or dropped the message.
            ValueError: the timeout is negative or not a number.
        """
        if timeout is None:
            timeout = math.inf
        elif not timeout >= 0:
            raise ValueError(f"the timeout is {timeout!r}; give seconds, 0 or more, or None to wait for ever")
        await trio.lowlevel.checkpoint_if_cancelled()
        return await Ask(message, self._inbox).answered(timeout)
