"""The inbox of an actor: what waits for it, through all its runs.

A message comes in by `offer`, which never waits, and goes out by `take`. Where it can go:

| the inbox | `offer` |
|---|---|
| closed (the actor is stopped) | a dead letter, `stopped` |
| open, with room | the queue; the actor that waits for it is woken |
| full, `WAIT` | nowhere: False, and the sender waits in line, first come first served |
| full, `DROP_OLDEST` | the queue, whose oldest becomes a dead letter, `overflow` |
| full, `DROP_NEWEST` | a dead letter, `overflow` |
| full, `FAIL` | nowhere: `MailboxFullError` |

While senders wait in line the queue is full: each `take` lets the first one in. Closing empties both into dead letters;
a restart does not touch them.

An `Ask` is a message with somebody who waits for its answer. It is settled once: answered, failed because the actor
crashed or was stopped with it, or given up by whoever asked.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

import trio

from ..errors import ActorCrashedError, ActorStoppedError, MailboxFullError
from ._tree import Tree
from .dead_letters import OVERFLOW, STOPPED
from .specification import Overflow


class Ask:
    """A message in an inbox whose sender waits for the answer, and the place where the answer is put."""

    __slots__ = ("_error", "_inbox", "_settled", "_task", "_value", "message", "taken")

    def __init__(self, message: object, inbox: Inbox) -> None:
        self.message = message
        self.taken = False
        """A run of the actor has it, or had it."""
        self._inbox = inbox
        self._settled = False
        self._task: trio.lowlevel.Task | None = None
        self._value: object = None
        self._error: Exception | None = None

    @trio.lowlevel.enable_ki_protection
    async def answered(self) -> Any:
        """Puts the message in, or in line, and waits for the answer. Cancelling takes it out of the line."""
        self._inbox.offer_ask(self)
        if not self._settled:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abandon)
        if self._error is None:
            return self._value
        error, self._error = self._error, None
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._settled = True
        self._task = None
        self._inbox.forget(self)
        return trio.lowlevel.Abort.SUCCEEDED

    @trio.lowlevel.enable_ki_protection
    def settle(self, value: object, error: Exception | None = None) -> None:
        """Gives an answer or an error to whoever waits; too late, it is dropped."""
        if self._settled:
            return
        self._settled = True
        self._value = value
        self._error = error
        self._inbox.asks.pop(self, None)
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)


class _Sender:
    """A sender that waits for room, with its message."""

    __slots__ = ("message", "task")

    def __init__(self, message: object, task: trio.lowlevel.Task) -> None:
        self.message = message
        self.task = task


class Inbox:
    """What waits for one actor. The rules stand in the module's docstring."""

    # The queue, the line and the asks are made when they are first needed: most actors of a large tree are idle.
    __slots__ = ("_line", "_tree", "asks", "capacity", "dead_letters", "open", "overflow", "path", "queue", "reader")

    def __init__(self, path: str, capacity: int, overflow: Overflow, tree: Tree) -> None:
        self.path = path
        self.capacity = capacity
        self.overflow = overflow
        self.open = False
        self.dead_letters = 0
        self.queue: deque[object] | None = None
        self.reader: trio.lowlevel.Task | None = None
        """The actor, while it waits for a message."""
        self.asks: dict[Ask, None] = {}
        """The asks that somebody still waits for, in line, in the queue, or taken."""
        self._line: OrderedDict[_Sender | Ask, None] | None = None
        self._tree = tree

    # -------------------------------------------------------------------------------------------- coming in

    @trio.lowlevel.enable_ki_protection
    def offer(self, item: object) -> bool:
        """Puts a message where it belongs; False if it has to wait in line.

        Raises:
            MailboxFullError: the inbox is full, and the policy is `FAIL`.
        """
        if not self.open:
            self._bury(item, STOPPED)
            return True
        queue = self.queue
        if queue is None:
            queue = self.queue = deque()
        elif len(queue) >= self.capacity:
            overflow = self.overflow
            if overflow is Overflow.WAIT:
                return False
            if overflow is Overflow.FAIL:
                raise self.full()
            if overflow is Overflow.DROP_NEWEST:
                self._bury(item, OVERFLOW)
                return True
            queue.append(item)
            self._bury(queue.popleft(), OVERFLOW)
            return True
        queue.append(item)
        reader = self.reader
        if reader is not None:
            self.reader = None
            trio.lowlevel.reschedule(reader)
        return True

    def offer_ask(self, ask: Ask) -> None:
        """Puts an ask where it belongs, in line too; it waits there for its answer, not for room."""
        self.asks[ask] = None
        try:
            if not self.offer(ask):
                self._in_line()[ask] = None
        except MailboxFullError:
            del self.asks[ask]
            raise

    @trio.lowlevel.enable_ki_protection
    async def wait_for_room(self, message: object) -> None:
        """Waits in line until the message is taken in, or buried. Cancelling takes it out of the line."""
        sender = _Sender(message, trio.lowlevel.current_task())
        line = self._in_line()
        line[sender] = None

        def leave(_: object) -> trio.lowlevel.Abort:
            del line[sender]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def full(self) -> MailboxFullError:
        return MailboxFullError(self.path, self.capacity)

    def _in_line(self) -> OrderedDict[_Sender | Ask, None]:
        if self._line is None:
            self._line = OrderedDict()
        return self._line

    # -------------------------------------------------------------------------------------------- going out

    @trio.lowlevel.enable_ki_protection
    def take(self) -> object:
        """The message that waited longest; the first in line comes in. There must be one."""
        queue = self.queue
        assert queue is not None
        item = queue.popleft()
        line = self._line
        if line:
            first, _ = line.popitem(last=False)
            queue.append(self._admitted(first))
        return item

    @staticmethod
    def _admitted(first: _Sender | Ask) -> object:
        if isinstance(first, Ask):
            return first
        trio.lowlevel.reschedule(first.task)
        return first.message

    def forget(self, ask: Ask) -> None:
        """Whoever asked has given up: out of the line with it; in the queue it stays a message like any other."""
        self.asks.pop(ask, None)
        if self._line is not None:
            self._line.pop(ask, None)

    # -------------------------------------------------------------------------------------------- ends

    @trio.lowlevel.enable_ki_protection
    def run_ended(self, crash: Exception | None) -> None:
        """The actor's run has ended: what it took and did not answer will not be answered any more."""
        if not self.asks:
            return
        for ask in [ask for ask in self.asks if ask.taken]:
            error: Exception
            if crash is None:
                error = ActorStoppedError(f"{self.path} ended before it answered")
            else:
                error = ActorCrashedError(f"{self.path} crashed before it answered: {crash!r}")
                error.__cause__ = crash
            ask.settle(None, error)

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """The actor is stopped: whatever waits becomes a dead letter, whoever waits is let go."""
        self.open = False
        queue, self.queue = self.queue, None
        line, self._line = self._line, None
        while queue:
            self._bury(queue.popleft(), STOPPED)
        while line:
            first, _ = line.popitem(last=False)
            self._bury(self._admitted(first), STOPPED)

    def _stopped(self) -> ActorStoppedError:
        return ActorStoppedError(f"{self.path} is stopped; what was asked was not handled")

    def _bury(self, item: object, reason: str) -> None:
        self.dead_letters += 1
        message = item
        if type(item) is Ask:
            message = item.message
            item.settle(None, self._stopped() if reason == STOPPED else self.full())
        self._tree.bury(self.path, message, reason)
