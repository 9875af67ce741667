"""Resuming: every function runs again from its records, and is given what it was given before.

The recorded outcomes (ends of branches among them) are handed out one at a time, in journal order, each when all the
activity's tasks are at rest; and nothing new begins before the last. So whatever side-by-side branches share in memory
comes out as it was, since each piece of code between two calls runs in the order in which it ran. A call without a
recorded outcome is at its branch's *frontier*; it waits there until everything recorded has been handed out.

A call that a cancel scope of the user's own ended has that end as its outcome: from its turn on nothing is handed out
until the same cancel has come.

Rest is seen by an instrument: it knows which tasks of a replaying activity are scheduled to run. The activity of a task
is known by a context variable, which the tasks of the user's own nurseries inherit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING

import outcome
import trio

from engine.activities.paths import around
from engine.errors import FencedError
from engine.journal import StoredRecord

if TYPE_CHECKING:
    from engine.activities.run import Run

CURRENT_RUN: ContextVar[Run] = ContextVar("playbill_run")
"""The run that a task belongs to."""

UNYIELDING = 32
"""Outcomes that a lone task is given before others may run: a checkpoint for each costs 3 us, none starves them."""


def _never_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


class Replay:
    """Hands out the recorded outcomes of one run.

    Attributes:
        scheduled: the run's tasks that are about to run, the current one aside.
        tasks: the run's tasks that were begun since the replay began.
    """

    def __init__(
        self,
        outcomes: Iterable[StoredRecord],
        *,
        finished: Callable[[], None],
        stuck: Callable[[StoredRecord], None],
        cancel: Callable[[StoredRecord], bool],
        stewards: Callable[[], Iterable[trio.lowlevel.Task]],
    ) -> None:
        """Prepare to hand out the outcomes.

        Args:
            outcomes: in journal order.
            finished: called once, when the last was handed out and all is at rest.
            stuck: called with the next outcome when no task can ask for it any more.
            cancel: called with a recorded cancel at its turn; tells whether there is anything that it can come to.
            stewards: gives the tasks that wait for a cancel to come, or for the end of what they cancelled.
        """
        self._outcomes = deque(outcomes)
        self._finished = finished
        self._stuck = stuck
        self._cancel = cancel
        self._stewards = stewards
        self._waiting: dict[str, trio.lowlevel.Task] = {}
        self._frontier: dict[trio.lowlevel.Task, None] = {}
        # How to enter a branch that has records and waits for its slot.
        self.enterable: dict[str, Callable[[], None]] = {}
        self._handed = 0
        # How many calls wait for a cancel that is recorded; and which were met by one that is not.
        self.awaited = 0
        self._leaving: dict[trio.lowlevel.Task, Callable[[], bool]] = {}
        self.over = False
        self.scheduled: set[trio.lowlevel.Task] = set()
        self.tasks: set[trio.lowlevel.Task] = set()

    @trio.lowlevel.enable_ki_protection
    async def turn(self, record: StoredRecord) -> None:
        """Wait until it is this outcome's turn. A cancellation does not end the wait: what is recorded is given.

        Raises:
            FencedError: the run was given up meanwhile.
        """
        assert record.path is not None
        if self._outcomes and self._outcomes[0] is record and not self.scheduled and not self.awaited:
            self._outcomes.popleft()
            self._handed += 1
            if not self._handed % UNYIELDING:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._waiting[record.path] = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(_never_abort)

    @trio.lowlevel.enable_ki_protection
    async def frontier(self) -> None:
        """Wait until everything that is recorded has been handed out."""
        if not self._outcomes and not self.scheduled and not self.awaited:
            self._finish()
            return
        task = trio.lowlevel.current_task()
        self._frontier[task] = None

        def abort(_: object) -> trio.lowlevel.Abort:
            self._frontier.pop(task, None)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    @trio.lowlevel.enable_ki_protection
    async def leave(self, is_cancelled: Callable[[], bool]) -> None:
        """At a call that a cancel scope of the user's own ends, which is not recorded yet: wait until everything
        that is recorded has been handed out, or until the engine cancels the branch too. Not to be cancelled."""
        if not self._outcomes and not self.scheduled and not self.awaited:
            self._finish()
            return
        self._leaving[trio.lowlevel.current_task()] = is_cancelled
        await trio.lowlevel.wait_task_rescheduled(_never_abort)

    @trio.lowlevel.enable_ki_protection
    def release(self) -> None:
        """Let those leave that the engine has cancelled."""
        for task in [task for task, is_cancelled in self._leaving.items() if is_cancelled()]:
            del self._leaving[task]
            trio.lowlevel.reschedule(task)

    def at_rest(self) -> None:
        """Go on by one: all the run's tasks wait. Called by the instrument."""
        while not (self.over or self.scheduled or self.awaited):
            if not self._outcomes:
                self._finish()
                continue
            record = self._outcomes[0]
            if is_cancel(record):
                if not self._cancel(record):
                    # The function has not begun, or has gone another way.
                    if record.path is not None and self._all_wait():
                        self._stuck(record)
                    return
                self._outcomes.popleft()
                continue
            assert record.path is not None
            task = self._waiting.pop(record.path, None)
            if task is not None:
                self._outcomes.popleft()
                trio.lowlevel.reschedule(task)
            elif not self._hand_to_nobody(record):
                return

    def _hand_to_nobody(self, record: StoredRecord) -> bool:
        """Deal with an outcome that no call waits for; whether the replay goes on at once."""
        path = record.path
        assert path is not None
        for branch in (path, *around(path)):
            enter = self.enterable.pop(branch, None)
            if enter is not None:
                enter()
                return True
        if self._all_wait():
            self._stuck(record)
        return False

    def _all_wait(self) -> bool:
        """Whether every task waits in a call of its context, or for its own children: nothing but the replay can wake
        them. A task that waits for anything else may still ask for the outcome."""
        waiting = {*self._waiting.values(), *self._frontier, *self._leaving, *self._stewards()}
        return all(task in waiting or waits_for_children(task) for task in self.tasks)

    def append(self, cancel: StoredRecord) -> None:
        """A cancel was recorded meanwhile, which comes when everything before it has been handed out."""
        self._outcomes.append(cancel)

    @property
    def left(self) -> StoredRecord | None:
        """The next outcome that was not handed out, if there is one; a cancel may come too late for anybody."""
        return next((record for record in self._outcomes if not is_cancel(record)), None)

    def _finish(self) -> None:
        self.over = True
        self._finished()
        self._wake_all()

    @trio.lowlevel.enable_ki_protection
    def _wake_all(self) -> None:
        waiting = [*self._frontier, *self._leaving]
        self._frontier, self._leaving = {}, {}
        for task in waiting:
            trio.lowlevel.reschedule(task)

    @trio.lowlevel.enable_ki_protection
    def give_up(self) -> None:
        """Wake whoever waits for a turn: the run is fenced."""
        self.over = True
        waiting, self._waiting = self._waiting, {}
        for task in waiting.values():
            trio.lowlevel.reschedule(task, outcome.Error(FencedError("this run of the activity was given up")))
        # Those, too, that the cancellation did not reach, since they are shielded.
        self._wake_all()


def is_cancel(record: StoredRecord) -> bool:
    """Whether the record cancels something when its turn comes, instead of ending a call."""
    return record.kind == "activity.cancelling" or record.facts.get("for") == "cleanup"


class RestInstrument(trio.abc.Instrument):
    """Tells each replay when all tasks of its run are at rest; installed only while there is a replay."""

    def __init__(self) -> None:
        self._replays = 0
        self._ended: trio.Event | None = None

    async def wait_for_fewer(self, most: int) -> None:
        """Wait until fewer replays than so many are under way."""
        while self._replays >= most:
            self._ended = trio.Event()
            await self._ended.wait()

    def begin(self) -> None:
        """A replay begins."""
        self._replays += 1
        if self._replays == 1:
            trio.lowlevel.add_instrument(self)

    def end(self) -> None:
        """A replay has ended."""
        self._replays -= 1
        if self._ended is not None:
            self._ended.set()
        if not self._replays:
            trio.lowlevel.remove_instrument(self)

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        replay = _replay_of(task)
        if replay is not None:
            replay.tasks.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        replay = _replay_of(task)
        if replay is not None:
            replay.tasks.discard(task)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        replay = _replay_of(task)
        if replay is not None:
            replay.scheduled.add(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        replay = _replay_of(task)
        if replay is not None:
            replay.scheduled.discard(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        replay = _replay_of(task)
        if replay is not None and not replay.scheduled:
            replay.at_rest()


def waits_for_children(task: trio.lowlevel.Task) -> bool:
    """Whether a task is at the end of a nursery's block. Trio does not say so publicly; without the word, it is not."""
    nurseries = task.child_nurseries
    return bool(nurseries) and getattr(nurseries[-1], "_parent_waiting_in_aexit", False)


def _replay_of(task: trio.lowlevel.Task) -> Replay | None:
    run = task.context.get(CURRENT_RUN)
    return run.replay if run is not None else None
