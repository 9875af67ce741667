"""Obeying commands: start an activity, resume those that were left, give all up when the engine closes.

A start is one commit of the command and of the activity's first record, where there is a place for it (see
`admission`); the actor is spawned when that commit lands, not by the caller, who may be cancelled meanwhile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import orjson
import trio

from engine.activities.admission import Admission
from engine.activities.deadlines import Deadlines
from engine.activities.definition import Activity
from engine.activities.execution import Ending, Execution
from engine.activities.history import GENERATIONS, History, messages_in, unread_of
from engine.activities.permitted import KEPT, TABLE
from engine.activities.posting import record_unread
from engine.activities.resolving import Resolution, resolved
from engine.activities.retrying import Retrial, deadline_of, retrial_of
from engine.activities.run import Run
from engine.activities.surroundings import Surroundings
from engine.activities.waiting import after
from engine.actors import ChildSpec, Ref, RestartType
from engine.codec import canonical, parse_exactly
from engine.errors import ActorStoppedError, ChildExistsError, DefinitionError, NoEngineError
from engine.journal import ENDED, ENGINE_STREAM, ActivityState, StoredRecord
from engine.messages import ActivityStatus

SETTLING_STEPS = 64
"""Steps of the loop in which a wait ends whose time was over before its activity was resumed."""


@attrs.frozen(kw_only=True)
class Asked:
    """Who asked for something, why, and through what.

    Attributes:
        by: who asked.
        reason: why.
        via: `engine`, `cli` or `activity`.
        origin: user, host and process it came from, or the id of the activity.
    """

    by: str | None
    reason: str | None
    via: str
    origin: str

    def facts(self, command: str, **more: Any) -> dict[str, Any]:
        return {"command": command, "via": self.via, "origin": self.origin, **{k: v for k, v in more.items() if v}}

    def data(self, args: str | None = None) -> str | None:
        """What users gave with the command, as JSON text; `None` where they gave nothing."""
        fields = [] if args is None else [f'"args":{args}']
        if self.reason is not None:
            fields.append(f'"reason":{orjson.dumps(self.reason).decode()}')
        return f"{{{','.join(fields)}}}" if fields else None


class Activities:
    """The activities of one engine.

    Attributes:
        definitions: the activities that this engine knows, by name.
        admission: says who runs.
        deadlines: whose time is over when.
        post: brings messages to them.
        family: starts their children, and tells when these have ended.
        live: the activities that run here, by id.
    """

    def __init__(
        self,
        around: Surroundings,
        definitions: Mapping[str, Activity[..., Any]],
        *,
        idle: bool,
        spawn: Callable[[ChildSpec[Any]], Ref[Any]],
        drain_within: float,
        max_running: int,
        poison_after: int,
    ) -> None:
        """Prepare to obey.

        Args:
            around: what runs need of the engine.
            definitions: by name.
            idle: whether commands are only recorded, for another engine to act on.
            spawn: starts a child under `/activities`, without waiting.
            drain_within: seconds that a step in flight has when the engine closes.
            max_running: how many activities may run at a time.
            poison_after: unclean ends of the process in a row after which one that ran is blocked.
        """
        self._around = around
        self._journal = around.journal
        self.definitions = definitions
        self._idle = idle
        self._spawn = spawn
        self._drain_within = drain_within
        self.admission = Admission(
            around,
            definitions,
            idle=idle,
            begin=self._begin,
            changed=self._changed,
            is_changing=lambda id: id in self._standing,
            max_running=max_running,
            poison_after=poison_after,
        )
        self.live = self.admission.live
        self.deadlines = Deadlines(around.journal, around.stamp, self.pass_deadline)
        self.admission.fix_deadline = self.deadlines.fix
        self.post = around.post
        self.family = around.family
        self.family.belongs_to(self)
        self.post.bring_to(self.standing, self.live, lambda id: None)
        # The status of activities that do not run here, from its record until that is durable.
        self._standing: dict[str, ActivityStatus] = {}
        # The deadlines of those that were retried, in whose place others may have been fixed before.
        self._deadlines_anew: dict[str, str] = {}
        self._watchers: dict[str, list[trio.Event]] = {}
        self._closed = False

    # ------------------------------------------------------------------------------------------------ start

    def known(self, id: str) -> ActivityState | Execution | None:
        """The activity of this id: the execution if it runs here, or was asked for just now, else what the journal
        says."""
        return self.live.get(id) or self.admission.asked.get(id) or self._journal.activity(id)

    @trio.lowlevel.enable_ki_protection  # Ctrl-C must not part the command from the start
    def start(
        self,
        definition: Activity[..., Any],
        args: str,
        *,
        id: str,
        asked: Asked,
        key: str | None,
        priority: int,
        tags: Mapping[str, str] | None,
        parent: str | None = None,
        deadline: str | None = None,
    ) -> tuple[Execution | None, int]:
        """Record a start, of an id that is free; the activity begins when that is durable and there is a place for it.

        Args:
            definition: what to run.
            args: the encoded arguments.
            id: the activity's id.
            asked: who asked.
            key, priority, tags: as recorded.
            parent: the id of the activity whose child it is, if it is one.
            deadline: the instant by which it must have ended, whatever its own time is.

        Returns:
            The execution, `None` where there is no place yet; and the `seq` to wait for.
        """
        at = self._around.stamp()
        has_place = self.admission.has_place
        execution = Execution(self._around, definition, id, changed=self._changed)
        execution.args = args
        execution.bound = deadline
        facts = asked.facts(
            "start", key=key, tags=dict(tags) if tags else None, priority=priority, parent=parent, deadline=deadline
        )
        seq = self._journal.append(
            id,
            "command.accepted",
            name=definition.name,
            by=asked.by,
            at=at,
            facts=facts,
            data=asked.data(args),
            begins="activity",
            landed=None if has_place else lambda: self._stands_in_line(id),
        )
        if has_place:
            return execution, self.admission.append_start(execution, args, at)
        self.admission.asked[id] = execution
        return None, seq

    def start_child(
        self,
        definition: Activity[..., Any],
        args: str,
        *,
        id: str,
        by: str | None,
        parent: str,
        deadline: str | None,
        key: str | None,
        priority: int,
        tags: Mapping[str, str] | None,
    ) -> int:
        """Record the start of a child: see `start`. Nobody is asked for leave."""
        asked = Asked(by=by, reason=None, via="activity", origin=parent)
        _, seq = self.start(
            definition,
            args,
            id=id,
            asked=asked,
            key=key,
            priority=priority,
            tags=tags,
            parent=parent,
            deadline=deadline,
        )
        return seq

    def record_cancel_by_parent(self, id: str, parent: str, by: str | None, reason: str | None) -> int:
        """Record that a parent asks for its child to be cancelled."""
        asked = Asked(by=by, reason=reason, via="activity", origin=parent)
        return self._journal.append(
            id,
            "command.accepted",
            name=self.name_of(id),
            by=by,
            facts=asked.facts("cancel"),
            data=asked.data(),
        )

    def _stands_in_line(self, id: str) -> None:
        """One that is pending is so durably."""
        del self.admission.asked[id]
        self.admission.look()

    def _begin(self, execution: Execution) -> None:
        """A start or a resume is durable: the actor may begin."""
        execution.args = None
        execution.landed(execution.standing)
        if not self._around.flights.draining:
            execution.is_acting = True
            self._start_actor(execution)

    def _start_actor(self, execution: Execution) -> None:
        # No backoff of the supervisor's: the wait before a restart is the activity's own, and durable.
        spec: ChildSpec[Any] = ChildSpec(
            execution.id, execution.act, restart=RestartType.TRANSIENT, shutdown=self._drain_within
        )
        try:
            self._spawn(spec)
        except ChildExistsError:
            # It was paused, or blocked, a moment ago, and the actor is on its way out.
            self._around.errands.start_soon(self._start_actor_soon, execution)
        except ActorStoppedError:
            # The tree is coming down, perhaps by a Ctrl-C in one of its tasks: the next engine resumes the activity.
            pass

    async def _start_actor_soon(self, execution: Execution) -> None:
        await trio.lowlevel.checkpoint()
        if not self._around.flights.draining:
            self._start_actor(execution)

    def _changed(self, execution: Execution) -> None:
        """A status of an activity is durable: wake whoever waits for one."""
        is_over = (
            execution.status in ENDED
            or execution.status is ActivityStatus.BLOCKED
            or execution.is_at_rest
            or execution.has_left
        )
        if is_over and self.live.get(execution.id) is execution:
            self.admission.left(execution.id, parked=execution.has_left)
        self._wake(execution.id)

    def _wake(self, id: str) -> None:
        self.family.tell(id)
        for watcher in self._watchers.pop(id, ()):
            watcher.set()

    def check_open(self) -> None:
        """Refuse to tell anything after the engine has closed.

        Raises:
            NoEngineError: it has.
        """
        if self._closed:
            raise NoEngineError("the engine has closed; open the journal again, and ask for a handle by the id")

    async def change(self, id: str) -> None:
        """Wait until another status of an activity is durable.

        Raises:
            NoEngineError: the engine has closed.
        """
        if self._closed:
            raise NoEngineError("the engine has closed; open the journal again, and ask for a handle by the id")
        watcher = trio.Event()
        watchers = self._watchers.setdefault(id, [])
        watchers.append(watcher)
        try:
            await watcher.wait()
            if self._closed and id in self.live:
                raise NoEngineError("the engine has closed; the activity goes on when the journal is opened again")
        finally:
            # Cancelled: nobody waits any more. Where the change came, the list is gone from the table already.
            watchers.remove(watcher)
            if not watchers and self._watchers.get(id) is watchers:
                del self._watchers[id]

    def wake(self, id: str) -> None:
        """What an activity waits for has come, as its row says: have it go on, where it is parked."""
        self.admission.look()

    def deny(
        self,
        stream_of: str | None,
        *,
        target: str,
        name: str | None,
        rule: str,
        command: str,
        asked: Asked,
        args: str | None = None,
    ) -> int:
        """Record a refusal, in the target's stream where there is one."""
        stream = stream_of if stream_of is not None else ENGINE_STREAM
        return self._journal.append(
            stream,
            "command.denied",
            name=name,
            by=asked.by,
            facts=asked.facts(command, target=target, rule=rule),
            data=asked.data(args),
            ended=stream_of is not None and self.standing(target) in ENDED,
        )

    def conflicts(self, id: str, definition: Activity[..., Any], args: str) -> bool:
        """Whether an activity that has this id was asked for with another definition or other arguments."""
        state = self._journal.activity(id)
        if state is None or state.accepted is None:
            live = self.live.get(id) or self.admission.asked.get(id)
            if live is None or live.definition.name != definition.name:
                return live is not None
            return live.args is not None and canonical(live.args) != canonical(args)
        accepted = self._journal.record(state.accepted)
        if state.name != definition.name:
            return True
        # Where the arguments were erased there is nothing left to differ from.
        if accepted is None or accepted.data is None:
            return False
        return canonical(parse_exactly(accepted.data)["args"]) != canonical(args)

    # ------------------------------------------------------------------------------------------------ resume

    async def resume_all(self) -> None:
        """Take on those that are unfinished, as the engine opens, as far as there are places."""
        await self.admission.admit()

    # ------------------------------------------------------------------------------------------------ commands

    def standing(self, id: str) -> ActivityStatus | None:
        """An activity's status as far as it is recorded, durable or not; `None` if there is none of this id."""
        live = self.live.get(id)
        if live is not None:
            return live.standing
        if id in self._standing:
            return self._standing[id]
        if id in self.admission.asked:
            return ActivityStatus.PENDING
        state = self._journal.activity(id)
        return None if state is None else state.status

    def is_leaving(self, id: str) -> bool:
        """Whether an activity is blocked, or has ended, and that is not durable yet."""
        live = self.live.get(id)
        return live is not None and live.standing in (ActivityStatus.BLOCKED, *ENDED)

    def name_of(self, id: str) -> str | None:
        """The name of an activity's definition, if there is one of this id."""
        live = self.live.get(id) or self.admission.asked.get(id)
        if live is not None:
            return live.definition.name
        state = self._journal.activity(id)
        return None if state is None else state.name

    def has_definition(self, id: str) -> bool:
        """Whether the activity can run here, or need not, since commands are only recorded."""
        return self._idle or self.name_of(id) in self.definitions

    def cancel(self, id: str, *, cause: str, command: int | None = None, kept: bool = False) -> None:
        """Record that an activity is cancelled, and have that come to it.

        Args:
            id: the activity, which has not ended, and is not being cancelled yet unless it is blocked.
            cause: `command`, `deadline` or `parent`.
            command: the `seq` of the command.
            kept: whether it is blocked: then it stays so until it is resumed.
        """
        live = self.live.get(id)
        records = [] if live is not None and live.run is not None else self._records_of(id)
        if kept and any(record.kind == "activity.cancelling" for record in records):
            # The first one counts.
            return
        cancelling = self._record_status(
            id,
            "activity.cancelling",
            ActivityStatus.BLOCKED if kept else ActivityStatus.CANCELLING,
            records,
            {"cause": cause, "command": command, "kept": kept or None},
            landed=None if live is None or kept else lambda: live.landed(ActivityStatus.CANCELLING),
        )
        if live is not None and not kept:
            was_paused = live.standing in (ActivityStatus.PAUSED, ActivityStatus.WAITING)
            live.cancel(cancelling)
            if was_paused:
                self._record_unpaused(live)
        elif not kept and not self._idle:
            parked = self._journal.activity(id)
            is_parked = parked is not None and parked.status is ActivityStatus.WAITING
            self._go_on(id, [*records, cancelling], cause="unparked" if is_parked else "unpaused")

    def end_at_once(self, id: str, *, cause: str, command: int | None) -> None:
        """Record an activity's end, before anything is done about what it still does."""
        live = self.live.get(id)
        records = [] if live is not None and live.run is not None else self._records_of(id)
        ending = Ending(ActivityStatus.CANCELLED, None, command)
        self._record_unread(id, records)
        self._record_status(
            id,
            "activity.cancelled",
            ActivityStatus.CANCELLED,
            records,
            {"cause": cause, "command": command},
            landed=None if live is None else lambda: live.landed(ActivityStatus.CANCELLED, ending),
        )
        if live is not None:
            live.terminate()
        children = live.children if live is not None else History(records).children if _has_begun(records) else {}
        for child, on_parent_end in children.items():
            if on_parent_end == "cancel":
                self.family.cancel(child)

    def _record_unread(self, id: str, records: Sequence[StoredRecord]) -> None:
        live = self.live.get(id)
        if live is not None:
            unread = live.inbox.unread
        else:
            messages = messages_in(records)
            unread = unread_of(messages, records) + self.post.coming_to(id)
        if unread:
            generation, run = self._run_of(id, records)
            record_unread(self._journal, unread, run=run, generation=generation)

    def pause(self, id: str, *, command: int) -> None:
        """Record that an activity is paused: steps in flight end and are recorded, nothing new begins."""
        live = self.live.get(id)
        records = [] if live is not None and live.run is not None else self._records_of(id)
        self._record_status(
            id,
            "activity.paused",
            ActivityStatus.PAUSED,
            records,
            {"command": command},
            landed=None if live is None else lambda: live.landed(ActivityStatus.PAUSED),
        )
        if live is not None:
            live.pause()

    def take_on(self, id: str) -> None:
        """Have an activity go on that is paused or blocked."""
        live = self.live.get(id)
        if live is not None and live.standing is ActivityStatus.PAUSED:
            live.go_on()
            self._record_unpaused(live)
            return
        cause = "unpaused" if self.standing(id) is ActivityStatus.PAUSED else "resumed"
        self._go_on(id, self._records_of(id), cause=cause)

    def resolve(self, id: str, resolution: Resolution, *, command: int) -> None:
        """Settle a step that stands interrupted, and have its activity go on, which is blocked on its account."""
        records = self._records_of(id)
        self._go_on(id, [*records, self._record_resolved(resolution, records, command)], cause="resumed")

    def retrial_of(self, id: str, *, timeout: float | None) -> Retrial:
        """What a retry of an activity forgets, which has failed.

        Raises:
            CommandDeniedError: it cannot be retried.
        """
        return retrial_of(id, self._records_of(id), now=self._around.stamp(), has_time=timeout is not None)

    def retry(self, id: str, *, command: int, timeout: float | None) -> None:
        """Have an activity run again that has failed, and can be retried.

        Args:
            id: the activity.
            command: the `seq` of the command.
            timeout: seconds until its new deadline, if it gets one.
        """
        records = self._records_of(id)
        retrial = self.retrial_of(id, timeout=timeout)
        history = History(records)
        at = self._around.stamp()
        facts: dict[str, Any] = {
            "generation": history.started.facts["generation"],
            "command": command,
            "superseded": retrial.superseded,
        }
        if timeout is not None:
            facts["deadline"] = after(at, timeout)
        deadline = facts.get("deadline") or deadline_of(records)
        if deadline is not None:
            self._deadlines_anew[id] = deadline
            self.deadlines.fix(id, at, deadline)
        if retrial.cancelling:
            facts["cancelling"] = True
        name, run = history.started.name, history.run + 1
        retried = StoredRecord(
            self._journal.last_seq + 1, id, "activity.retried", name, None, run, at, None, facts, None
        )
        begin = self.admission.to_begin_from(name or "", [*records, retried])
        if begin is None:
            self._standing[id] = ActivityStatus.CANCELLING if retrial.cancelling else ActivityStatus.RUNNING
            begin = functools.partial(self._landed, id)
        self._journal.append(id, "activity.retried", name=name, run=run, at=at, facts=facts, ended=True, landed=begin)

    def _go_on(self, id: str, records: Sequence[StoredRecord], *, cause: str) -> None:
        state = self._journal.activity(id)
        assert state is not None
        if state.status in (ActivityStatus.RUNNING, ActivityStatus.CANCELLING):
            # It stands in line already.
            return
        self._standing.pop(id, None)
        if self._idle and not any(record.kind in GENERATIONS for record in records):
            # It has not begun: the next engine begins it.
            facts = {"generation": 0, "cause": cause, "clean": self._journal.clean}
            self._journal.append(id, "activity.resumed", name=state.name, run=0, facts=facts)
            return
        self.admission.take_on(state, records, cause=cause)

    def _records_of(self, id: str) -> list[StoredRecord]:
        return self._journal.histories([id])[id]

    def _record_unpaused(self, live: Execution) -> None:
        """It goes on before it has come to rest."""
        generation, run = (live.run.generation, live.run.number) if live.run is not None else (0, 1)
        facts = {"generation": generation, "cause": "unpaused", "clean": True}
        if live.cancelling is not None:
            facts["cancelling"] = True
        self._journal.append(
            live.id,
            "activity.resumed",
            name=live.definition.name,
            run=run,
            facts=facts,
            landed=lambda: live.landed(live.standing),
        )

    def _record_status(
        self,
        id: str,
        kind: str,
        status: ActivityStatus,
        records: Sequence[StoredRecord],
        facts: Mapping[str, Any],
        landed: Callable[[], None] | None = None,
    ) -> StoredRecord:
        """Record another status of an activity, whether it runs here or not."""
        live = self.live.get(id)
        generation, run = self._run_of(id, records)
        stated = {"generation": generation, **{name: value for name, value in facts.items() if value is not None}}
        name, at = self.name_of(id), self._around.stamp()
        if live is None:
            self._standing[id] = status
            landed = functools.partial(self._landed, id)
        seq = self._journal.append(id, kind, name=name, run=run, at=at, facts=stated, landed=landed)
        return StoredRecord(seq, id, kind, name, None, run, at, None, stated, None)

    def _run_of(self, id: str, records: Sequence[StoredRecord]) -> tuple[int, int]:
        """An activity's generation, and the number of its run."""
        live = self.live.get(id)
        if live is not None and live.run is not None:
            return live.run.generation, live.run.number
        if any(record.kind in GENERATIONS for record in records):
            history = History(records)
            return history.started.facts["generation"], history.run
        return 0, 0 if live is None else 1

    def _landed(self, id: str) -> None:
        """The status of an activity that does not run here is durable."""
        if self._standing.pop(id, None) in (ActivityStatus.CANCELLING, ActivityStatus.RUNNING):
            self.admission.stands_in_line()
        self._wake(id)

    def _record_resolved(self, resolution: Resolution, records: Sequence[StoredRecord], command: int) -> StoredRecord:
        last, facts = resolved(resolution, records, command=command)
        at = self._around.stamp()
        columns = (last.name, last.path, last.run, at, None, facts, resolution.data)
        seq = self._journal.append(
            last.stream,
            "step.resolved",
            name=last.name,
            path=last.path,
            run=last.run,
            at=at,
            facts=facts,
            data=resolution.data,
        )
        return StoredRecord(seq, last.stream, "step.resolved", *columns)

    # ------------------------------------------------------------------------------------------------ deadlines

    async def pass_deadline(self, id: str, deadline: str) -> None:
        """An activity's deadline is over: cancel it, unless it has ended or is being cancelled."""
        if self._deadlines_anew.get(id, deadline) != deadline:
            await trio.lowlevel.checkpoint()
            return
        live = self.live.get(id)
        if live is not None and (live.run is None or live.replaying):
            self._around.errands.start_soon(self._pass_after_replay, live, deadline)
        else:
            self._pass_deadline(id)
        await trio.lowlevel.checkpoint()

    async def _pass_after_replay(self, live: Execution, deadline: str) -> None:
        """An activity was resumed after its deadline: what came before that instant comes first, as a wait that was
        over by then."""
        for _ in range(SETTLING_STEPS):
            if live.run is not None and live.run.replay is not None:
                await live.run.replay.frontier()
            await trio.lowlevel.checkpoint()
            if live.run is not None and not any(wait.due and wait.due <= deadline for wait in live.run.waits.values()):
                break
        self._pass_deadline(live.id)

    def _pass_deadline(self, id: str) -> None:
        status = self.standing(id)
        if status is not None and TABLE["cancel"][status] in (ActivityStatus.CANCELLING, KEPT):
            self.cancel(id, cause="deadline", kept=status is ActivityStatus.BLOCKED)

    # ------------------------------------------------------------------------------------------------ closing

    async def drain(self) -> None:
        """Let the steps in flight end, within the allowance; then give every run up. Nothing new begins from the call
        on. The activities are left unfinished, and go on in the next engine."""
        self._around.flights.draining = True
        for execution in self.live.values():
            if execution.run is not None:
                execution.run.held = True
        with trio.move_on_after(self._drain_within):
            await self._around.flights.wait_for_none()
        self.give_up()

    def give_up(self) -> None:
        """Give every run up as it stands, and begin nothing any more."""
        self._around.flights.draining = True
        for execution in list(self.live.values()):
            execution.give_up()

    def close(self) -> None:
        """Nothing changes here any more: whoever waits for an activity is told so."""
        self._closed = True
        self.post.wake_all()
        watchers, self._watchers = self._watchers, {}
        for waiting in watchers.values():
            for watcher in waiting:
                watcher.set()

    def watch_steps(self, watcher: Callable[[Run, str], None]) -> None:
        """Have a function called with the run and the path of each attempt at a step that begins."""
        self._around.flights.watcher = watcher


def defined(activities: Iterable[Activity[..., Any]]) -> dict[str, Activity[..., Any]]:
    """The definitions by name.

    Raises:
        DefinitionError: two have one name.
    """
    found: dict[str, Activity[..., Any]] = {}
    for activity in activities:
        other = found.setdefault(activity.name, activity)
        if other is not activity:
            raise DefinitionError(f"two activities are named {activity.name!r}: {other!r} and {activity!r}; rename one")
    return found


def _has_begun(records: Iterable[StoredRecord]) -> bool:
    return any(record.kind in GENERATIONS for record in records)
