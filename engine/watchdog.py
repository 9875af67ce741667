"""Finds what keeps the loop, or an end, from coming: a task that blocks, an actor that ignores being cancelled.

*Blocking.* A thread asks the loop for an answer and waits for it. Where none comes it looks which task is running,
twice, half of `stall_after` apart: only one that was found both times has kept the loop to itself, and not one of many
that take their turns. The thread logs it with its stack there and then, since the loop may never run again; if it does,
it is told too. Between two answers the thread waits, so that the loop is asked twice in `stall_after`, and that is all
it costs. What blocks for less than `stall_after` is never reported; what blocks for twice as long always is, unless it
is C code that keeps the interpreter to itself: then it is found when that ends, if the task still runs.

*Ignoring.* An actor that is stopped, at the end of its tree or before, is cancelled when its allowance is over. It is
reported if it is still there a moment later, and where it stands.

Tasks are told by the names that supervisors give them: an actor's is its path. A task in a nursery of an actor's counts
as that actor's. Everything is found from the outside, by what Trio and the interpreter show of any task: the tasks
themselves do nothing for it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Literal

import attrs
import trio

from engine.actors import Stopping, Supervisor
from engine.errors import ActorStoppedError

if TYPE_CHECKING:
    from trio.lowlevel import Task

logger = logging.getLogger("playbill.watchdog")

GRACE = 1.0
"""Seconds that an actor has to end after it was cancelled, before it is said to ignore that."""

MOST_TASKS = 10
"""Tasks of one actor whose stacks are shown."""


@attrs.frozen(kw_only=True)
class Found:
    """A task that blocks the loop, or that ignores being cancelled.

    Attributes:
        what: `stalled`, the loop; or `overdue`, its end.
        path: the actor's; `None` for a task that is no actor's.
        task: the task's name.
        seconds: for how long, by then: it blocks, or it was to be gone.
        stack: where it stands, as text.
    """

    what: Literal["stalled", "overdue"]
    path: str | None
    task: str
    seconds: float
    stack: str


# ------------------------------------------------------------------------------------------------ blocking


@contextlib.contextmanager
def watching(stall_after: float, found: Callable[[Found], None]) -> Iterator[None]:
    """Around a part of a Trio program: watch that no task blocks the loop.

    Args:
        stall_after: seconds for which a task may keep the loop from all others; `math.inf` watches nothing.
        found: called in the loop for each task that did, when the loop runs again; must not raise.

    Each is logged in any case, at once, from a thread.
    """
    if stall_after > threading.TIMEOUT_MAX:
        yield
        return
    thread = _Watchdog(stall_after, found)
    thread.start()
    try:
        yield
    finally:
        thread.end()


class _Watchdog(threading.Thread):
    """The thread. It holds nothing of the loop's, and only looks."""

    def __init__(self, stall_after: float, found: Callable[[Found], None]) -> None:
        super().__init__(name="playbill-watchdog", daemon=True)
        self._half = stall_after / 2
        self._found = found
        self._loop = threading.get_ident()
        self._token = trio.lowlevel.current_trio_token()
        self._root = trio.lowlevel.current_root_task()
        self._answered = threading.Event()
        self._ended = threading.Event()

    def end(self) -> None:
        """Has the thread end, and waits for that: it does nothing that takes time."""
        self._ended.set()
        self._answered.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(self._half):
            self._answered.clear()
            asked = time.monotonic()
            try:
                self._token.run_sync_soon(self._answered.set)
            except trio.RunFinishedError:
                return
            if not self._ended.is_set() and not self._answered.wait(self._half):
                self._look(asked)
                # What blocks is reported once.
                self._answered.wait()

    def _look(self, asked: float) -> None:
        suspect = self._running()
        if suspect is None or self._answered.wait(self._half) or self._running() is not suspect:
            return
        frame = sys._current_frames().get(self._loop)
        path, name = path_of(suspect), _recordable(suspect.name)
        blocking = Found(
            what="stalled", path=path, task=name, seconds=time.monotonic() - asked, stack=_stack_of(suspect, frame)
        )
        logger.warning("%s has kept the loop for %.1f s:\n%s", path or name, blocking.seconds, blocking.stack)
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._tell, blocking, asked)

    def _tell(self, blocking: Found, asked: float) -> None:
        self._found(attrs.evolve(blocking, seconds=time.monotonic() - asked))

    def _running(self) -> Task | None:
        """The task whose turn it is, as far as can be seen from another thread."""
        try:
            return next((task for task in _below(self._root) if getattr(task.coro, "cr_running", False)), None)
        except RuntimeError:  # a set of tasks changed while it was looked through: so the loop runs
            return None


def _stack_of(task: Task, frame: FrameType | None) -> str:
    """The frames of a running task's own code, the outermost first."""
    outermost = getattr(task.coro, "cr_frame", None)
    frames = []
    while frame is not None:
        frames.append((frame, frame.f_lineno))
        if frame is outermost:
            break
        frame = frame.f_back
    return _as_text(reversed(frames))


# ------------------------------------------------------------------------------------------------ ignoring


async def watch_stopping(
    tree: Supervisor, found: Callable[[Found], None], *, due: Callable[[Stopping], float] = lambda run: run.due
) -> None:
    """Watch what is stopped in a tree: report the runs that are still there though they were cancelled, each once.

    Args:
        tree: the supervisor at the top.
        found: called for each of them; must not raise. It is logged in any case.
        due: when a run is cancelled, where that is not at the end of its allowance.

    Returns when the tree has ended. Cancelling ends the watch. While nothing is being stopped it costs nothing.
    """
    reported: set[Stopping] = set()
    while True:
        try:
            await tree.wait_stopping()
        except ActorStoppedError:
            return
        # An end that comes as it should costs nothing, however many come one after another.
        await trio.sleep(GRACE)
        now = trio.current_time()
        stopping = tree.stopping()
        reported.intersection_update(stopping)
        for run in stopping:
            if run not in reported and now - due(run) >= GRACE:
                reported.add(run)
                _report_overdue(run.ref.path, now - due(run), found)


def _report_overdue(path: str, seconds: float, found: Callable[[Found], None]) -> None:
    actor = next((task for task in _below(trio.lowlevel.current_root_task()) if task.name == path), None)
    if actor is None:  # it has ended in this very tick
        return
    # Those that wait for others say little; the others follow them.
    tasks = [task for _, task in zip(range(MOST_TASKS), _below(actor), strict=False)]
    stack = _recordable("\n".join(f"task {task.name}:\n{_as_text(task.iter_await_frames())}" for task in tasks))
    overdue = Found(what="overdue", path=path, task=actor.name, seconds=seconds, stack=stack)
    logger.warning("%s was cancelled, and goes on since %.1f s:\n%s", path, seconds, stack)
    found(overdue)


# ------------------------------------------------------------------------------------------------ tasks


def path_of(task: Task) -> str | None:
    """The path of the actor that a task belongs to: its own, or that of the one in whose nursery it is."""
    while not task.name.startswith("/"):
        nursery = task.parent_nursery
        if nursery is None:
            return None
        task = nursery.parent_task
    return task.name


def _below(task: Task | None) -> Iterator[Task]:
    """A task, and all in its nurseries, and in theirs."""
    waiting = [] if task is None else [task]
    while waiting:
        one = waiting.pop()
        yield one
        for nursery in one.child_nurseries:
            waiting.extend(nursery.child_tasks)


def _as_text(frames: Iterator[tuple[FrameType, int]]) -> str:
    return _recordable("".join(traceback.StackSummary.extract(frames).format()))


def _recordable(text: str) -> str:
    """A text that a record can hold: the name of a task, or of a file, may be no Unicode."""
    return text.encode(errors="backslashreplace").decode()
