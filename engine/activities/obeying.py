"""Obeying commands: start an activity, resume those that were left, give all up when the engine closes.

A start is one commit of the command and of the activity's first record; the actor is spawned when that commit lands,
not by the caller, who may be cancelled meanwhile. Resuming reads histories in batches and keeps a bounded number of
replays under way, so that a journal with many unfinished activities opens in bounded memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs
import orjson
import trio

from engine.activities.definition import Activity
from engine.activities.execution import Execution
from engine.activities.history import History
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

RESUMED_TOGETHER = 200
"""Histories read in one query, and replays under way at once: more costs memory and gains nothing."""


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
    ) -> None:
        """Prepare to obey.

        Args:
            around: what runs need of the engine.
            definitions: by name.
            idle: whether commands are only recorded, for another engine to act on.
            spawn: starts a child under `/activities`, without waiting.
            drain_within: seconds that a step in flight has when the engine closes.
        """
        self._around = around
        self._journal = around.journal
        self.definitions = definitions
        self._idle = idle
        self._spawn = spawn
        self._drain_within = drain_within
        self.live: dict[str, Execution] = {}
        self._watchers: dict[str, list[trio.Event]] = {}
        self._closed = False

    # ------------------------------------------------------------------------------------------------ start

    def known(self, id: str) -> ActivityState | Execution | None:
        """The activity of this id: the execution if it runs here, else what the journal says."""
        return self.live.get(id) or self._journal.activity(id)

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
    ) -> tuple[Execution, int]:
        """Record a start, of an id that is free; the activity begins when that is durable.

        Args:
            definition: what to run.
            args: the encoded arguments.
            id: the activity's id.
            asked: who asked.
            key, priority, tags: as recorded.

        Returns:
            The execution, and the `seq` to wait for.
        """
        journal = self._journal
        at = self._around.stamp()
        journal.append(
            id,
            "command.accepted",
            name=definition.name,
            by=asked.by,
            at=at,
            facts=asked.facts("start", key=key, tags=dict(tags) if tags else None, priority=priority),
            data=asked.data(args),
            begins="activity",
        )
        execution = Execution(self._around, definition, id, changed=self._changed)
        return execution, self._append_start(execution, args, at)

    def _append_start(self, execution: Execution, args: str, at: str) -> int:
        """Record that an activity begins, which it does when that is durable."""
        id, definition = execution.id, execution.definition
        drawn = os.urandom(32).hex()
        facts = {"generation": 0, "version": definition.version, "seed": drawn[:32]}
        data = f'{{"args":{args},"key":"{drawn[32:]}"}}'
        seq = self._journal.append(
            id,
            "activity.started",
            name=definition.name,
            run=1,
            at=at,
            facts=facts,
            data=data,
            landed=lambda: self._begin(execution),
        )
        execution.prepare(StoredRecord(seq, id, "activity.started", definition.name, None, 1, at, None, facts, data))
        execution.args = args
        self.live[id] = execution
        return seq

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
            self.live.pop(execution.id, None)
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
            live = self.live.get(id)
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

    async def resume_all(self) -> int:
        """Take on every unfinished activity, as the engine opens; returns how many run.

        What is blocked for the code's sake stays so; what lacks its definition is blocked, and what was blocked for
        that alone goes on.
        """
        resumed = 0
        unfinished = list(self._journal.unfinished())
        for start in range(0, len(unfinished), RESUMED_TOGETHER):
            batch = unfinished[start : start + RESUMED_TOGETHER]
            histories = self._journal.histories([state.id for state in batch])
            for state in batch:
                resumed += self._resume(state, histories[state.id], cause="opened")
            # Their resumes are durable, and their actors have begun; then the replays under way are bounded.
            await self._journal.durable(self._journal.last_seq)
            await trio.lowlevel.checkpoint()
            await self._around.instrument.wait_for_fewer(RESUMED_TOGETHER)
        return resumed

    def _resume(self, state: ActivityState, records: Sequence[StoredRecord], *, cause: str) -> bool:
        last = next((record for record in reversed(records) if record.kind.startswith("activity.")), None)
        if last is None:
            return self._start_accepted(state, records[0])
        blocked = last.kind == "activity.blocked"
        definition = self.definitions.get(state.name)
        if blocked and cause == "opened" and (last.facts["cause"] != "definition" or definition is None):
            return False
        history = History(records)
        if self._idle:
            self._record_resumed(history, cause)
            return False
        if definition is None:
            self._block(history)
            return False
        execution = Execution(self._around, definition, state.id, history=history, changed=self._changed)
        self.live[state.id] = execution
        seq = self._record_resumed(history, cause, lambda: self._begin(execution))
        history.resumes.append(seq)
        return True

    def _start_accepted(self, state: ActivityState, command: StoredRecord) -> bool:
        """Start what a command asked for and no engine has begun. A start is one commit with its command; an engine
        that only records commands leaves them like this."""
        definition = self.definitions.get(state.name)
        if definition is None or self._idle:
            return False
        args = orjson.dumps(parse_exactly(command.data or '{"args":[]}')["args"]).decode()
        self._append_start(
            Execution(self._around, definition, state.id, changed=self._changed), args, self._around.stamp()
        )
        return True

    def _record_resumed(self, history: History, cause: str, landed: Callable[[], None] | None = None) -> int:
        started = history.started
        facts = {"generation": started.facts["generation"], "cause": cause, "clean": self._journal.clean}
        return self._journal.append(
            started.stream, "activity.resumed", name=started.name, run=history.run, facts=facts, landed=landed
        )

    def _block(self, history: History) -> None:
        name = history.started.name
        facts = {
            "generation": history.started.facts["generation"],
            "cause": "definition",
            "recorded": f"activity {name}",
            "asked": "nothing: this engine was given no definition of that name",
        }
        self._journal.append(history.started.stream, "activity.blocked", name=name, run=history.run, facts=facts)

    async def resume(self, id: str, asked: Asked, *, within: float) -> None:
        """Obey a `resume`: take a blocked activity on, after its code was mended.

        Raises:
            ActivityNotFoundError: there is none of this id.
            ActivityEndedError: it has ended.
            CommandDeniedError: it is not blocked, or its definition is not here. Every refusal is recorded.
            JournalFullError, JournalBusyError: it could not be recorded within so many seconds, and may still be.
        """
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
                else CommandDeniedError(f"activity {id!r} is {status}; only a blocked one can be resumed")
            )
        elif state.name not in self.definitions and not self._idle:
            denied = CommandDeniedError(f"this engine was given no definition of {state.name!r}; open it with one")
        if denied is not None:
            stream = None if isinstance(denied, ActivityNotFoundError) else id
            name = state.name if state else None
            seq = self.deny(stream, target=id, name=name, rule=denied.reason, command="resume", asked=asked)
            await self._journal.durable_within(seq, within)
            raise denied
        assert state is not None
        await self._journal.durable_within(self._accept_resume(state, asked), within)

    @trio.lowlevel.enable_ki_protection  # Ctrl-C must not part the command from what it asks for
    def _accept_resume(self, state: ActivityState, asked: Asked) -> int:
        id = state.id
        self._journal.append(
            id, "command.accepted", name=state.name, by=asked.by, facts=asked.facts("resume"), data=asked.data()
        )
        self._resume(state, self._journal.histories([id])[id], cause="resumed")
        return self._journal.last_seq

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

    def watch_steps(self, watcher: Callable[[str], None]) -> None:
        """Have a function called with the path of each attempt at a step that begins."""
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
