"""The inbox of an actor: what waits for it, through all its runs.

A message comes in by `offer`, which never waits, and goes out of the queue to the actor's mailbox. Where it can go:

| the inbox | `offer` |
|---|---|
| closed (the actor is stopped) | a dead letter, `stopped` |
| open, with room | the queue; the actor that waits for it is woken |
| full, `WAIT` | nowhere: False, and the sender waits in line, first come first served |
| full, `DROP_OLDEST` | the queue, whose oldest becomes a dead letter, `overflow` |
| full, `DROP_NEWEST` | a dead letter, `overflow` |
| full, `FAIL` | nowhere: `MailboxFullError` |

While senders wait in line the queue is full: each message that is taken lets the first one in. Closing empties both
into dead letters; a restart does not touch them.

An `Ask` is a message with somebody who waits for its answer. It is settled once: answered, failed because the actor
crashed or was stopped with it, or given up by whoever asked. It is answered while the actor has it in hand, or never:
one that is let go without is kept in mind, to fail when the run ends.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Any

import trio

from ..errors import ActorCrashedError, ActorStoppedError, AskTimeoutError, MailboxFullError
from ._tree import Tree
from .dead_letters import OVERFLOW, STOPPED
from .specification import Overflow


class Ask:
    """A message in an inbox whose sender waits for the answer, and the place where the answer is put."""

    __slots__ = ("_error", "_inbox", "_task", "_value", "message", "settled")

    def __init__(self, message: Any, inbox: Inbox) -> None:
        self.message = message
        self.settled = False
        """Nobody waits for its answer any more."""
        self._inbox = inbox
        self._task: trio.lowlevel.Task | None = None
        self._value: object = None
        self._error: Exception | None = None

    @trio.lowlevel.enable_ki_protection
    async def answered(self, timeout: float) -> Any:
        """Puts the message in, or in line, and waits for the answer. Cancelling takes it out of the line."""
        inbox = self._inbox
        if not inbox.offer(self):
            inbox.in_line()[self] = None
        if not self.settled:
            await self._wait(timeout)
        if self._error is None:
            return self._value
        error, self._error = self._error, None
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    @trio.lowlevel.enable_ki_protection
    async def _wait(self, timeout: float) -> None:
        if timeout == 0:
            self._give_up()
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise self._late(timeout)
        self._task = trio.lowlevel.current_task()
        if timeout == math.inf:
            await trio.lowlevel.wait_task_rescheduled(self._abandon)
            return
        timeouts = self._inbox.tree.timeouts
        timeouts.add(self, timeout)
        try:
            await trio.lowlevel.wait_task_rescheduled(self._abandon)
        finally:
            timeouts.discard(self, timeout)

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        self._give_up()
        return trio.lowlevel.Abort.SUCCEEDED

    def time_out(self, timeout: float) -> None:
        """The time of whoever waits is up; too late, it changes nothing."""
        if not self.settled:
            self._give_up()
            self._wake(self._late(timeout))

    def _wake(self, error: Exception | None) -> None:
        self._error = error
        task, self._task = self._task, None  # the actor may have the ask in hand for long, and the task with it
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _late(self, timeout: float) -> AskTimeoutError:
        return AskTimeoutError(f"{self._inbox.path} did not answer within {timeout:g} s")

    def _give_up(self) -> None:
        """Out of the line with it; in the queue it stays a message like any other."""
        self.settled = True
        inbox = self._inbox
        if inbox.line:
            inbox.line.pop(self, None)
        if inbox.unanswered:
            inbox.unanswered.pop(self, None)

    @trio.lowlevel.enable_ki_protection
    def settle(self, value: object, error: Exception | None = None) -> None:
        """Gives an answer or an error to whoever waits; too late, it is dropped."""
        if self.settled:
            return
        self.settled = True
        self._value = value
        self._wake(error)


class _Sender:
    """A sender that waits for room, with its message."""

    __slots__ = ("message", "task")

    def __init__(self, message: object, task: trio.lowlevel.Task) -> None:
        self.message = message
        self.task = task


class Inbox:
    """What waits for one actor. The rules stand in the module's docstring."""

    # The queue, the line and the unanswered are made when they are first needed: most actors of a large tree are idle.
    __slots__ = (
        "capacity",
        "dead_letters",
        "line",
        "open",
        "overflow",
        "path",
        "queue",
        "reader",
        "tree",
        "unanswered",
    )

    def __init__(self, path: str, capacity: int, overflow: Overflow, tree: Tree) -> None:
        self.path = path
        self.capacity = capacity
        self.overflow = overflow
        self.open = False
        self.dead_letters = 0
        self.queue: deque[object] | None = None
        self.reader: trio.lowlevel.Task | None = None
        """The actor, while it waits for a message."""
        self.unanswered: dict[Ask, None] | None = None
        """The asks that this run let go without an answer, and that somebody still waits for."""
        self.line: OrderedDict[_Sender | Ask, None] | None = None
        """Who waits for room."""
        self.tree = tree

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

    @trio.lowlevel.enable_ki_protection
    async def wait_for_room(self, message: object) -> None:
        """Waits in line until the message is taken in, or buried. Cancelling takes it out of the line."""
        sender = _Sender(message, trio.lowlevel.current_task())
        line = self.in_line()
        line[sender] = None

        def leave(_: object) -> trio.lowlevel.Abort:
            del line[sender]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def full(self) -> MailboxFullError:
        return MailboxFullError(self.path, self.capacity)

    def in_line(self) -> OrderedDict[_Sender | Ask, None]:
        """The line, to step into."""
        if self.line is None:
            self.line = OrderedDict()
        return self.line

    # -------------------------------------------------------------------------------------------- going out

    def admit(self) -> None:
        """A message was taken: the first in line comes in. There must be one."""
        assert self.line
        first, _ = self.line.popitem(last=False)
        assert self.queue is not None
        self.queue.append(self._admitted(first))

    def let_go(self, ask: Ask) -> None:
        """The actor takes the next message; nothing answers this one any more, if it has not been."""
        if not ask.settled:
            if self.unanswered is None:
                self.unanswered = {}
            self.unanswered[ask] = None

    def leave(self, _: object) -> trio.lowlevel.Abort:
        """The actor that waited for a message was cancelled."""
        self.reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    @staticmethod
    def _admitted(first: _Sender | Ask) -> object:
        if isinstance(first, Ask):
            return first
        trio.lowlevel.reschedule(first.task)
        return first.message

    # -------------------------------------------------------------------------------------------- ends

    @trio.lowlevel.enable_ki_protection
    def run_ended(self, in_hand: object, crash: Exception | None) -> None:
        """The actor's run has ended: what it took and did not answer will not be answered any more."""
        asks, self.unanswered = self.unanswered or {}, None
        if type(in_hand) is Ask and not in_hand.settled:
            asks[in_hand] = None
        for ask in asks:
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
        line, self.line = self.line, None
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
        self.tree.bury(self.path, message, reason)
