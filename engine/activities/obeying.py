"""Obeying commands: start an activity, resume those that were left, give all up when the engine closes.

A start is one commit of the command and of the activity's first record, where there is a place for it (see
`admission`); the actor is spawned when that commit lands, not by the caller, who may be cancelled meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs
import orjson
import trio

from engine.activities.admission import Admission
from engine.activities.definition import Activity
from engine.activities.execution import Execution
from engine.activities.resolving import Resolution, check_resolvable, resolved
from engine.activities.run import Run
from engine.activities.surroundings import Surroundings
from engine.actors import ChildSpec, Ref, RestartType
from engine.codec import canonical, parse_exactly
from engine.errors import (
    ActivityEndedError,
    ActivityNotFoundError,
    ActorStoppedError,
    CommandDeniedError,
    DefinitionError,
    NoEngineError,
)
from engine.journal import ENDED, ENGINE_STREAM, ActivityState, StoredRecord
from engine.messages import ActivityStatus


@attrs.frozen(kw_only=True)
class Asked:
    """Who asked for something, why, and through what.

    Attributes:
        by: who asked.
        reason: why.
        via: `engine` or `cli`.
        origin: user, host and process it came from.
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
            max_running=max_running,
            poison_after=poison_after,
        )
        self.live = self.admission.live
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
    ) -> tuple[Execution | None, int]:
        """Record a start, of an id that is free; the activity begins when that is durable and there is a place for it.

        Args:
            definition: what to run.
            args: the encoded arguments.
            id: the activity's id.
            asked: who asked.
            key, priority, tags: as recorded.

        Returns:
            The execution, `None` where there is no place yet; and the `seq` to wait for.
        """
        at = self._around.stamp()
        has_place = self.admission.has_place
        execution = Execution(self._around, definition, id, changed=self._changed)
        execution.args = args
        seq = self._journal.append(
            id,
            "command.accepted",
            name=definition.name,
            by=asked.by,
            at=at,
            facts=asked.facts("start", key=key, tags=dict(tags) if tags else None, priority=priority),
            data=asked.data(args),
            begins="activity",
            landed=None if has_place else lambda: self._stands_in_line(id),
        )
        if has_place:
            return execution, self.admission.append_start(execution, args, at)
        self.admission.asked[id] = execution
        return None, seq

    def _stands_in_line(self, id: str) -> None:
        """One that is pending is so durably."""
        del self.admission.asked[id]
        self.admission.look()

    def _begin(self, execution: Execution) -> None:
        """A start or a resume is durable: the actor may begin."""
        execution.args = None
        execution.landed(ActivityStatus.RUNNING)
        if not self._around.flights.draining:
            # No backoff of the supervisor's: the wait before a restart is the activity's own, and durable.
            spec: ChildSpec[Any] = ChildSpec(
                execution.id, execution.act, restart=RestartType.TRANSIENT, shutdown=self._drain_within
            )
            # The tree is coming down, perhaps by a Ctrl-C in one of its tasks: the next engine resumes the activity.
            with suppress(ActorStoppedError):
                self._spawn(spec)

    def _changed(self, execution: Execution) -> None:
        """A status of an activity is durable: wake whoever waits for one."""
        if execution.status in ENDED or execution.status is ActivityStatus.BLOCKED:
            self.admission.left(execution.id)
        for watcher in self._watchers.pop(execution.id, ()):
            watcher.set()

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
        known = self.known(target) if stream_of is not None else None
        return self._journal.append(
            stream,
            "command.denied",
            name=name,
            by=asked.by,
            facts=asked.facts(command, target=target, rule=rule),
            data=asked.data(args),
            ended=known is not None and known.status in ENDED,
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

    async def resume(self, id: str, asked: Asked, *, within: float, resolution: Resolution | None = None) -> None:
        """Obey a `resume`: take a blocked activity on, after its code was mended. Or a `resolve`: settle a step that
        was interrupted, and take the activity on that is blocked on its account.

        Raises:
            ActivityNotFoundError: there is none of this id.
            ActivityEndedError: it has ended.
            CommandDeniedError: it is not blocked, or its definition is not here, or the step does not stand
                interrupted. Every refusal is recorded.
            JournalFullError, JournalBusyError: it could not be recorded within so many seconds, and may still be.
        """
        command = "resume" if resolution is None else "resolve"
        state = self._journal.activity(id)
        denied: CommandDeniedError | None = None
        if state is None and id not in self.live:
            denied = ActivityNotFoundError(id)
        elif state is None or state.status is not ActivityStatus.BLOCKED or id in self.live:
            status = self.live[id].status if id in self.live else state.status if state else "pending"
            ended = status in ENDED
            denied = (
                ActivityEndedError(id, str(status))
                if ended
                else CommandDeniedError(f"activity {id!r} is {status}; only a blocked one can be {command}d")
            )
        elif state.name not in self.definitions and not self._idle:
            denied = CommandDeniedError(f"this engine was given no definition of {state.name!r}; open it with one")
        elif resolution is not None:
            try:
                check_resolvable(resolution.path, self._journal.histories([id])[id])
            except CommandDeniedError as error:
                denied = error
        if denied is not None:
            stream = None if isinstance(denied, ActivityNotFoundError) else id
            name = state.name if state else None
            seq = self.deny(stream, target=id, name=name, rule=denied.reason, command=command, asked=asked)
            await self._journal.durable_within(seq, within)
            raise denied
        assert state is not None
        await self._journal.durable_within(self._accept_resume(state, asked, command, resolution), within)

    @trio.lowlevel.enable_ki_protection  # Ctrl-C must not part the command from what it asks for
    def _accept_resume(self, state: ActivityState, asked: Asked, command: str, resolution: Resolution | None) -> int:
        id = state.id
        seq = self._journal.append(
            id, "command.accepted", name=state.name, by=asked.by, facts=asked.facts(command), data=asked.data()
        )
        records = self._journal.histories([id])[id]
        if resolution is not None:
            records.append(self._record_resolved(resolution, records, seq))
        self.admission.take_on(state, records, cause="resumed")
        return self._journal.last_seq

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
            if execution.run is not None:
                execution.run.fence()

    def close(self) -> None:
        """Nothing changes here any more: whoever waits for an activity is told so."""
        self._closed = True
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
