"""One activity as the engine runs it: an actor that resumes, runs the function, and records how it ended.

A run's story, in order: wait for the instant that a crash before it set; run the function; then one of these. It
returned: `activity.completed`. An exception left it: judge it, and either record `activity.crashed` and raise, so that
the supervisor restarts the actor, and the restart is a resume; or record `activity.failed`. The code did not fit the
history: `activity.blocked`. It waits for long: `activity.parked`, and the run is fenced. The run was fenced otherwise:
nothing is recorded, and the next engine resumes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import orjson
import trio

from engine.activities.attempts import check_size
from engine.activities.cancelling import Trunk
from engine.activities.context import Context
from engine.activities.definition import Activity
from engine.activities.failures import judge
from engine.activities.history import History
from engine.activities.inbox import Inbox
from engine.activities.posting import record_unread
from engine.activities.replay import CURRENT_RUN
from engine.activities.run import Run
from engine.activities.surroundings import Surroundings
from engine.activities.waiting import after, rest_of
from engine.actors import Mailbox
from engine.clock import parse
from engine.codec import codec_for, encode_error, may_hold_large_int, parse_exactly
from engine.errors import ActivityTimeoutError, JournalError, NonDeterminismError, PayloadError, StepInterruptedError
from engine.journal import ENDED, StoredRecord
from engine.messages import ActivityStatus

logger = logging.getLogger("playbill.activities")


@attrs.frozen(slots=True)
class Ending:
    """How an activity ended, as it is recorded.

    Attributes:
        status: its last status.
        data: the terminal record's data, as JSON text, if it has any.
        command: the `seq` of the command that ended it, if one did.
    """

    status: ActivityStatus
    data: str | None
    command: int | None = None


@attrs.frozen(slots=True)
class _End:
    """How an activity is to end, when its children have.

    Attributes:
        run: the run that ended so.
        status: its last status.
        facts: the terminal record's facts.
        data: its data, as JSON text, if it has any.
    """

    run: Run
    status: ActivityStatus
    facts: Mapping[str, Any]
    data: str | None


class Execution:
    """An activity that this engine has in memory.

    Attributes:
        id: its id.
        definition: its definition.
        status: its status, as far as it is durable.
        standing: its status as far as it is recorded, durable or not: by this commands are judged.
        cancelling: the record of its cancel, if it is to be cancelled.
        ending: how it ended, once that is durable.
        run: its run, while there is one.
        is_acting: whether its actor was started, and has not ended.
        inbox: the messages that it has not received.
        has_left: whether it was parked, and its function has been left.
        args: its encoded arguments, until its start is durable.
        bound: the instant at which its parent's time is over, where that limits its own.
        children: its children of whose end nothing is recorded, by id, with what becomes of them when it ends.
    """

    __slots__ = (
        "_again",
        "_around",
        "_backoff",
        "_changed",
        "_end",
        "_history",
        "_nudge",
        "_started",
        "args",
        "bound",
        "cancelling",
        "children",
        "definition",
        "ending",
        "has_left",
        "id",
        "inbox",
        "is_acting",
        "run",
        "standing",
        "status",
    )

    def __init__(
        self,
        around: Surroundings,
        definition: Activity[..., Any],
        id: str,
        *,
        history: History | None = None,
        changed: Callable[[Execution], None],
    ) -> None:
        """Prepare to run an activity.

        Args:
            around: what a run needs of the engine.
            definition: what to run.
            id: the activity's id.
            history: its records, where it is resumed.
            changed: called with this execution when a status of it became durable.
        """
        self._around = around
        self.definition = definition
        self.id = id
        self._started: StoredRecord | None = None
        self._history = history
        self._changed = changed
        self.status = ActivityStatus.PENDING
        self.cancelling = None if history is None else history.cancelling
        self.standing = ActivityStatus.RUNNING if self.cancelling is None else ActivityStatus.CANCELLING
        self._again = False
        self.is_acting = False
        self._backoff: trio.CancelScope | None = None
        self.ending: Ending | None = None
        self.run: Run | None = None
        self.has_left = False
        self.args: str | None = None
        self.bound: str | None = None
        self.children: dict[str, str] = {} if history is None else history.children
        # How it is to end, when its children have ended; and what wakes it while it waits for them.
        self._end: _End | None = None
        self._nudge: trio.Event | None = None
        self.inbox = Inbox() if history is None else _inbox_of(history)

    def prepare(self, started: StoredRecord) -> None:
        """Say with which record the activity starts, where it runs for the first time."""
        self._started = started

    @property
    def replaying(self) -> bool:
        """Whether it is being resumed, and has not come to anything new."""
        return self.run is not None and self.run.replay is not None

    # ------------------------------------------------------------------------------------------------ commands

    def cancel(self, cancelling: StoredRecord) -> None:
        """Its cancel was recorded."""
        was, self.standing = self.standing, ActivityStatus.CANCELLING
        self._nudged()
        self.cancelling = cancelling
        if self.run is None:
            return
        if was in (ActivityStatus.PAUSED, ActivityStatus.WAITING):
            # What is held could not be cancelled in its turn: another run is, from the records.
            self._again = True
            self.run.fence()
            return
        self.run.cancel(cancelling)
        if self._backoff is not None:
            self._backoff.cancel()

    def terminate(self) -> None:
        """Its end was recorded by command: whatever it still does has no effect."""
        self.standing = ActivityStatus.CANCELLED
        self._nudged()
        if self.run is not None:
            self.run.ended = True
            self.run.fence()

    def pause(self) -> None:
        """Begin nothing new; when the steps in flight have ended, the run is given up."""
        self.standing = ActivityStatus.PAUSED
        self._again = False
        self._nudged()
        if self.run is not None:
            self.run.held = True
            self.run.send(self._come_to_rest, self.run)

    async def _come_to_rest(self, run: Run) -> None:
        await run.wait_for_attempts()
        # What they gave is recorded, or was to be.
        if self.standing is ActivityStatus.PAUSED or self._again:
            run.fence()

    def give_up(self) -> None:
        """The engine closes: whatever it still does has no effect; it goes on in the next engine."""
        self._nudged()
        if self.run is not None:
            self.run.fence()

    def go_on(self) -> None:
        """It was resumed before it had come to rest: it goes on from its records when it has."""
        self.standing = ActivityStatus.RUNNING
        self._again = True

    # ------------------------------------------------------------------------------------------------ the actor

    async def act(self, mailbox: Mailbox[Any]) -> None:
        """The actor: a run of the function, from what is recorded.

        Raises:
            Exception: what left the function, where it is to be run again: the supervisor does that.
        """
        while not (self._around.flights.draining or self._is_stopped):
            if self._started is None and self._history is None:
                # What was done up to the crash, or the pause, comes back from the journal.
                await self._around.journal.durable(self._around.journal.last_seq)
                self._history = History(self._around.journal.histories([self.id])[self.id])
                self.inbox = _inbox_of(self._history, coming=self.inbox.coming)
                continue
            self._again = False
            await self._run_once(self._next_run())
            if self._end is not None:
                await self._end_after_children(self._end)
            if not self._again:
                break
        self.is_acting = False
        if self.is_at_rest or self.has_left:
            self._changed(self)

    @property
    def _is_stopped(self) -> bool:
        return self.standing in ENDED or self.standing is ActivityStatus.PAUSED

    @property
    def is_at_rest(self) -> bool:
        """Whether it is paused, and its run is over."""
        return self.status is self.standing is ActivityStatus.PAUSED and not self.is_acting

    async def _run_once(self, run: Run) -> None:
        CURRENT_RUN.set(run)
        if run.replay is not None:
            run.replay.tasks.add(trio.lowlevel.current_task())
        try:
            with run.cancel_scope:
                run.task = trio.lowlevel.current_task()
                run.bound = trio.current_effective_deadline()
                await self._wait_for_restart()
                await self._perform(run)
        except trio.Cancelled:
            # Not by a recorded cancel: whoever stops the actor gives the run up.
            run.fence()
            raise
        except Exception as error:
            if run.has_crashed:
                raise
            run.fence()
            if not isinstance(error, JournalError):
                # A fault of Playbill's own: without a record, a restart would follow at once, and for ever. Where the
                # journal has failed nothing can be recorded, and the engine ends of it.
                logger.exception("activity %s failed by a fault of Playbill's own", self.id)
                await self._fail(run, error, why="fault")
            return
        finally:
            # What still holds a context of this run does nothing through it any more.
            run.fence()
            self.run = self._started = self._history = None
        if run.continued is not None:
            self.definition = run.continued
            self._again = self.standing is not ActivityStatus.PAUSED
        if run.parked is not None:
            await self._around.journal.durable(run.parked)
            self.has_left = self.standing is ActivityStatus.WAITING
            return
        if run.ended:
            return
        if isinstance(run.poison, NonDeterminismError):
            poison = run.poison
            await self._block(run, cause="nondeterminism", recorded=poison.recorded, asked=poison.asked)
        elif isinstance(run.poison, StepInterruptedError):
            path = run.poison.path
            await self._block(
                run,
                cause="interrupted",
                recorded=f"step.resolved {path}",
                asked="a value that fits the step: settle it anew with resolve",
                interrupted=[path],
            )
        elif run.poison is not None:
            await self._fail(run, run.poison)

    def _next_run(self) -> Run:
        started = self._started if self._history is None else self._history.started
        assert started is not None
        run = self.run = Run(
            self._around,
            self.definition,
            id=self.id,
            started=started,
            history=self._history,
            cancelling=self.cancelling,
            overdue=self._end_overdue,
            inbox=self.inbox,
        )
        run.execution = self
        self.children = run.children
        self._end = None
        return run

    async def _wait_for_restart(self) -> None:
        crash = self._history.restarts[-1] if self._history is not None and self._history.restarts else None
        if crash is not None and crash.kind == "activity.crashed":
            rest = rest_of(crash.at, crash.facts["retry_at"], self._around.stamp())
            with trio.move_on_after(rest) as self._backoff:
                # What was cancelled before it crashed waits as any other.
                if self.cancelling is None or self.cancelling.seq < crash.seq:
                    await trio.sleep_forever()
            self._backoff = None

    async def _perform(self, run: Run) -> None:
        """Run the function to its end, and record that; raises what left it if it is to be run again."""
        assert self._started is not None or self._history is not None
        started = self._started or self._history.started  # type: ignore[union-attr]
        self._started = self._history = None
        context = Context(run, run.scope("", started.seq))
        trunk = Trunk(run, context)
        run.begin(trunk)
        try:
            try:
                args = self.definition.signature.decode(arguments_of(started))
                value = await self.definition.function(context, *args)
            finally:
                trunk.left = True
                run.left()
        except trio.Cancelled:
            if run.cancelling is None or not run.cancel_scope.cancel_called:
                raise
            await self._end_cancelled(run, context)
        except Exception as error:  # the edge where user code runs: what leaves the function is judged and recorded
            await self._crash(run, context, error)
        except BaseExceptionGroup as group:
            _, rest = group.split(trio.Cancelled)
            if rest is None and run.cancelling is not None and run.cancel_scope.cancel_called:
                await self._end_cancelled(run, context)
            elif isinstance(rest, Exception):
                await self._crash(run, context, rest)
            else:
                raise
        else:
            await (self._complete(run, context, value) if run.cancelling is None else self._end_cancelled(run, context))

    # ------------------------------------------------------------------------------------------------ ends

    async def _complete(self, run: Run, context: Context, value: Any) -> None:
        if run.fenced or run.poison is not None:
            return
        if self._left_over(run, context, "nothing"):
            return
        try:
            text = self.definition.signature.result.encode(value, "result")
            check_size(text, self._around.max_payload, "result")
        except PayloadError as error:
            await self._fail(run, error, why="payload")
            return
        await self._record_end(run, ActivityStatus.COMPLETED, {"generation": run.generation}, f'{{"value":{text}}}')

    async def _end_cancelled(self, run: Run, context: Context) -> None:
        """Record the end of one that was cancelled, whatever its function returned."""
        if not (run.fenced or run.poison is not None or self._left_over(run, context, "nothing")):
            await self._record_cancelled(run, str(run.cancelling.facts["cause"]) if run.cancelling else "command")

    async def _end_overdue(self) -> None:
        """It was cancelled, and does not end: what it still does has no effect any more."""
        run = self.run
        if run is not None and not run.fenced and run.cancelling is not None:
            deadline = run.cancelling.facts["cause"] == "deadline"
            await self._record_cancelled(run, "deadline" if deadline else "terminate", at_once=True)

    async def _record_cancelled(self, run: Run, cause: str, *, at_once: bool = False) -> None:
        assert run.cancelling is not None
        if cause == "deadline":
            timeout = ActivityTimeoutError(f"activity {self.id!r} did not end before its deadline")
            await self._fail(run, timeout, why="deadline", at_once=at_once)
            return
        facts: dict[str, Any] = {"generation": run.generation, "cause": cause}
        if "command" in run.cancelling.facts:
            facts["command"] = run.cancelling.facts["command"]
        await self._record_end(run, ActivityStatus.CANCELLED, facts, None, at_once=at_once)

    def _left_over(self, run: Run, context: Context, asked: str) -> bool:
        """Whether the function was left before it asked for all that is recorded: it does not fit its history."""
        left: object = context._scope.left
        if left is None and run.replay is not None and run.replay.left is not None:
            left = f"{run.replay.left.kind} {run.replay.left.path}"
        if left is not None:
            run.poison = NonDeterminismError(str(left), asked)
        return left is not None

    async def _crash(self, run: Run, context: Context, error: Exception) -> None:
        """Record what follows an exception that left the function; raises it if the function is to be run again."""
        if run.fenced or run.poison is not None:
            return
        journal = self._around.journal
        if self._left_over(run, context, f"{type(error).__name__}, which left the function"):
            return
        run.fence()
        now = self._around.stamp()
        verdict = judge(
            error,
            run.origins_of(error),
            journal.histories([self.id])[self.id],
            restart=self.definition.restart,
            fatal=self.definition.fatal,
            now=parse(now),
        )
        if verdict.why == "interrupted":
            await self._block(
                run,
                cause="interrupted",
                recorded=f"step.interrupted {verdict.interrupted[0]}",
                asked="nothing: settle the step with resolve",
                interrupted=verdict.interrupted,
            )
            return
        if not verdict.again:
            await self._fail(
                run, error, why=verdict.why, origins=verdict.origins, open=verdict.open, acted_upon=verdict.acted_upon
            )
            return
        tree = encode_error(error)
        facts = {
            "generation": run.generation,
            "error": tree["type"],
            "origins": verdict.origins,
            "superseded": verdict.superseded,
            "retry_at": after(now, verdict.delay),
            **({} if self.cancelling is None else {"cancelling": True}),
        }
        seq = journal.append(
            self.id,
            "activity.crashed",
            name=self.definition.name,
            run=run.number,
            at=now,
            facts=facts,
            data=f'{{"error":{orjson.dumps(tree).decode()}}}',
        )
        run.has_crashed = True
        await journal.durable(seq)
        raise error

    async def _fail(
        self,
        run: Run,
        error: Exception,
        *,
        why: str = "fatal",
        origins: Sequence[str] = (),
        open: Sequence[str] = (),
        acted_upon: Sequence[str] = (),
        at_once: bool = False,
    ) -> None:
        tree = encode_error(error)
        facts = {
            "generation": run.generation,
            "error": tree["type"],
            "origins": origins,
            "open": open,
            "acted_upon": acted_upon,
            "why": why,
        }
        data = f'{{"error":{orjson.dumps(tree).decode()}}}'
        await self._record_end(run, ActivityStatus.FAILED, facts, data, at_once=at_once)

    async def _record_end(
        self, run: Run, status: ActivityStatus, facts: Mapping[str, Any], data: str | None, *, at_once: bool = False
    ) -> None:
        # Decided: nothing that the function left behind may be recorded after it.
        run.ended = True
        run.fence()
        end = _End(run, status, facts, data)
        if at_once or not self._running_children():
            self._cancel_children()
            await self._append_end(end)
        else:
            self._end = end

    # ------------------------------------------------------------------------------------------------ its children

    def _running_children(self) -> list[str]:
        """The children that must have ended before it ends."""
        family = self._around.family
        return [id for id, then in self.children.items() if then != "abandon" and not family.is_over(id)]

    def _cancel_children(self) -> None:
        for id, on_parent_end in self.children.items():
            if on_parent_end == "cancel":
                self._around.family.cancel(id)

    async def _end_after_children(self, end: _End) -> None:
        """Its function has ended: have its children cancelled that are to be, wait for them, and end last. A cancel
        that arrives meanwhile wins; where it is paused, or the engine closes, another run comes to this again."""
        self._cancel_children()
        while (running := self._running_children()) and not (self._is_stopped or self._around.flights.draining):
            self._nudge = trio.Event()
            self._around.family.watch(running[0], self._nudged)
            try:
                # It may have ended just now.
                if not self._around.family.is_over(running[0]):
                    await self._nudge.wait()
            finally:
                self._around.family.forget(running[0], self._nudged)
        await trio.lowlevel.checkpoint()
        if self._is_stopped or self._around.flights.draining:
            return
        self._end = None
        if self.cancelling is not None and end.run.cancelling is None:
            end.run.cancelling = self.cancelling
            await self._record_cancelled(end.run, str(self.cancelling.facts["cause"]), at_once=True)
        else:
            await self._append_end(end)

    def _nudged(self, at: str = "") -> None:
        """Something changed that it may wait for, when its function has ended."""
        if self._nudge is not None:
            self._nudge.set()

    async def _append_end(self, end: _End) -> None:
        run, status, data, facts = end.run, end.status, end.data, end.facts
        self.standing = status
        record_unread(self._around.journal, self.inbox.unread, run=run.number, generation=run.generation)
        seq = self._around.journal.append(
            self.id,
            f"activity.{status}",
            name=self.definition.name,
            run=run.number,
            facts=facts,
            data=data,
            landed=lambda: self.landed(status, Ending(status, data, facts.get("command"))),
        )
        await self._around.journal.durable(seq)

    def park(self, run: Run, waits: Sequence[Mapping[str, Any]], due: str | None) -> None:
        """Record that the activity waits, and give the run up: from now on it makes no difference."""
        facts: dict[str, Any] = {"generation": run.generation, "waits": waits}
        if due is not None:
            facts["due"] = due
        self.standing = ActivityStatus.WAITING
        run.parked = self._around.journal.append(
            self.id,
            "activity.parked",
            name=self.definition.name,
            run=run.number,
            facts=facts,
            landed=lambda: self.landed(ActivityStatus.WAITING),
        )
        run.fence()

    async def _block(self, run: Run, **why: Any) -> None:
        facts = {"generation": run.generation, **why}
        self.standing = ActivityStatus.BLOCKED
        seq = self._around.journal.append(
            self.id,
            "activity.blocked",
            name=self.definition.name,
            run=run.number,
            facts=facts,
            landed=lambda: self.landed(ActivityStatus.BLOCKED),
        )
        await self._around.journal.durable(seq)

    def landed(self, status: ActivityStatus, ending: Ending | None = None) -> None:
        """A status has become durable."""
        self.status = status
        self.ending = ending
        self._changed(self)


def _inbox_of(history: History, coming: Mapping[int, StoredRecord] | None = None) -> Inbox:
    inbox = Inbox(history.unread, read_up_to=history.last.seq)
    for message in (coming or {}).values():
        inbox.expect(message)
    return inbox


def arguments_of(started: StoredRecord) -> str:
    """The encoded arguments of a start, as a text of their own, in which ints have all their digits."""
    if started.data is not None and may_hold_large_int(started.data):
        return codec_for(Any).encode(parse_exactly(started.data)["args"])
    return orjson.dumps(started.load()["args"]).decode()
