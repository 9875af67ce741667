"""The engine: the composition root, and the only module that sees all rooms.

Opening takes the journal over, starts the supervision tree, attaches the subscribers and resumes what is unfinished.
Leaving the block, however that comes about, lets the steps in flight end within `drain_within`, gives the rest up as it
stands, and closes the journal; the next opening goes on. The tree and the journal's writer are shielded from what
cancels the block: nothing is unwound without having been given up first.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import ModuleType
from typing import Any, Literal, Self, TypeAlias, TypeVar, TypeVarTuple, overload

import attrs
import orjson
import trio

from engine.activities import (
    Activities,
    Activity,
    Asked,
    Commanding,
    Context,
    Family,
    Flights,
    Handle,
    Letter,
    Parking,
    Post,
    RestInstrument,
    Running,
    Step,
    Surroundings,
    Workers,
    defined,
    source_digest,
)
from engine.activities.asking import answer_codec
from engine.activities.attempts import check_size
from engine.activities.definition import check_timeout, described
from engine.activities.execution import Execution
from engine.activities.forking import fork
from engine.activities.resolving import Resolution
from engine.actors import (
    ChildSpec,
    Intensity,
    Stopping,
    SupervisionEvent,
    Supervisor,
    SupervisorRef,
    SupervisorSpec,
    open_supervisor,
)
from engine.alone import alone
from engine.audit import ActivityFilter, Ledger
from engine.clock import Clock, SystemClock, stamp
from engine.codec import ValueCodec, canonical, codec_for, encode_error
from engine.errors import (
    ActivityEndedError,
    CommandDeniedError,
    DefinitionError,
    IdConflictError,
    JournalError,
    PayloadError,
)
from engine.journal import ENGINE_STREAM, SUBSCRIBER_STREAMS, SQLiteJournal, StoredRecord
from engine.journal.events import event_of
from engine.journal.origin import user_at_host
from engine.messages import Asks, Command, Event, check_by, check_id, check_message_id, check_name
from engine.messages import new_id as an_id
from engine.subscribers import BatchSubscriber, Subscriber, Subscriptions
from engine.subscribers import definitions as subscribers_by_name
from engine.topics import check_published
from engine.version import VERSION
from engine.watchdog import Found, watch_stopping, watching

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

Definition: TypeAlias = Activity[..., Any] | Step[..., Any] | Subscriber[Any] | BatchSubscriber[Any]
Authorize: TypeAlias = Callable[[Command], bool | str] | Callable[[Command], Awaitable[bool | str]]

FAULTS = Intensity(10, within=60.0)
"""An actor beside the activities crashes only by a fault of Playbill's own or of the journal; more is a lasting one."""

BRANCHES: Mapping[str, Intensity] = {
    # The crashes of an activity are counted in its records, so that its limit holds over processes.
    "activities": Intensity(math.inf),
    "subscribers": FAULTS,
    "timers": FAULTS,
    "bridges": FAULTS,
    "gateway": FAULTS,
}
"""The supervisors under the root, in the order in which they start. They stop in reverse: at first nothing comes in."""


def _positive(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise DefinitionError(f"Settings({attribute.name}={value!r}): give a number of at least 0")


def _count(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if type(value) is not int or value < 1:
        raise DefinitionError(f"Settings({attribute.name}={value!r}): give a whole number of at least 1")


def _above_zero(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise DefinitionError(f"Settings({attribute.name}={value!r}): give a number above 0")


@attrs.frozen(kw_only=True)
class Settings:
    """Every tunable of an engine, in seconds, bytes or counts.

    Args:
        park_after: seconds for which an activity sleeps, or waits for the next attempt at a step, before it is parked:
            given up in memory until its time comes. One whose wait is known to last longer is parked at once. None is,
            unless given. One that waits for anything else, or has children, is not parked in this version.
        drain_within: seconds that a step in flight has to end when the engine closes. One that runs in a thread, or
            that is shielded, cannot be stopped, and is waited for all the same.
        cancel_within: seconds that an activity has to end when it is cancelled, the time in its cleanups not counted;
            one that takes longer is terminated.
        commit_within: seconds after which a call from outside gives up waiting for its commit.
        commit_delay: seconds to wait for further records before each commit; 0 for none.
        mailbox_capacity: how many messages, or events, wait in memory for one actor.
        max_payload: bytes of JSON that one argument list, result or event may have.
        max_running: how many activities run at a time. Those beyond wait, `pending` or parked, and cost a row each: the
            higher priority goes first, then who was asked for first.
        poison_after: unclean ends of the process in a row after which an activity is `blocked` that was running at each
            and recorded nothing in between.
        stall_after: seconds for which a task may keep the loop from all others; one that does is logged with its stack,
            and where it is an actor's, recorded. `math.inf` to have none looked for.

    Raises:
        DefinitionError: a value is out of its range.
    """

    park_after: float = attrs.field(default=math.inf, validator=_positive)
    drain_within: float = attrs.field(default=10.0, validator=_positive)
    cancel_within: float = attrs.field(default=30.0, validator=_positive)
    commit_within: float = attrs.field(default=30.0, validator=_positive)
    commit_delay: float = attrs.field(default=0.0, validator=_positive)
    mailbox_capacity: int = attrs.field(default=1024, validator=_count)
    max_payload: int = attrs.field(default=8 * 1024 * 1024, validator=_count)
    max_running: int = attrs.field(default=10_000, validator=_count)
    poison_after: int = attrs.field(default=5, validator=_count)
    stall_after: float = attrs.field(default=2.0, validator=_above_zero)


class Engine:
    """An engine that owns a journal; made by `Engine.open`.

    Attributes:
        via: through what its commands are recorded to have come; `engine`, unless set.
    """

    def __init__(
        self,
        journal: SQLiteJournal,
        activities: Activities,
        subscriptions: Subscriptions,
        settings: Settings,
        authorize: Authorize | None,
        now: Callable[[], str],
    ) -> None:
        self._journal = journal
        self._activities = activities
        self._subscriptions = subscriptions
        self._settings = settings
        self._authorize = authorize
        self._now = now
        self._commanding = Commanding(activities, journal, now, within=settings.commit_within)
        self.via = "engine"
        self._origin = f"{user_at_host()}:{os.getpid()}"
        # Events that are published under an id of the caller's, until they are durable.
        self._publishing: dict[str, StoredRecord] = {}

    # ------------------------------------------------------------------------------------------------ opening

    @classmethod
    def open(
        cls,
        url: str,
        /,
        *definitions: ModuleType | Definition,
        settings: Settings = Settings(),
        clock: Clock | None = None,
        authorize: Authorize | None = None,
    ) -> AbstractAsyncContextManager[Self]:
        """Open a journal as its owner, or make it; resume what is unfinished in it.

        Args:
            url: the journal's file, or `sqlite:///FILE`.
            definitions: activities and subscribers, or modules that hold them.
            settings: the tunables.
            clock: tells the time of day; the system's, unless given.
            authorize: asked for every command from outside: `True` lets it pass, `False` or the text of a rule refuses
                it. May be async.

        Returns:
            An async context manager that gives the engine. Leaving its block drains: a step in flight may end within
            `settings.drain_within` and is recorded; everything else stands as it is and goes on at the next opening.

        Raises:
            DefinitionError: at once, if two definitions have one name.
            JournalOwnedError: another engine owns the journal.
            JournalDamagedError: the file is no journal, or is damaged.
            JournalVersionError: a newer Playbill wrote it.
            JournalError: it cannot be opened.
            RestartIntensityError: on leaving, if the supervision tree gave up; the block was cancelled.
        """
        gathered = _Definitions.gathered(definitions)
        return cls._opened(url, gathered, settings, clock or SystemClock(), authorize)

    @classmethod
    def open_idle(cls, url: str, /) -> AbstractAsyncContextManager[Self]:
        """Own a journal only to record commands in it, as the command line does: nothing is resumed, delivered or
        blocked. What is asked for is recorded, and done by the next engine that has the definitions.

        Args:
            url: the journal's file, or `sqlite:///FILE`.

        Raises:
            JournalError: as `open`.
        """
        return cls._opened(url, None, Settings(), SystemClock(), None)

    @classmethod
    @asynccontextmanager
    async def _opened(
        cls, url: str, definitions: _Definitions | None, settings: Settings, clock: Clock, authorize: Authorize | None
    ) -> AsyncIterator[Self]:
        now = clock.stamp if isinstance(clock, SystemClock) else functools.partial(stamp, clock)
        # Here and not in a worker thread: it takes milliseconds, and a test's clock would jump ahead of a thread.
        journal = SQLiteJournal(url, version=VERSION, stamp=now, commit_delay=settings.commit_delay)
        try:
            with alone():
                async with trio.open_nursery() as nursery:
                    # Shielded: cancelled just here, the writer would be left without anybody to end it.
                    with trio.CancelScope(shield=True):
                        await nursery.start(journal.run)
                    try:
                        with _watched(journal, nursery, settings, idle=definitions is None) as watch:
                            async with cls._supervised(
                                journal, definitions, settings, now, authorize, watch, nursery
                            ) as engine:
                                yield engine
                    finally:
                        try:
                            running = journal.count_unfinished()
                            # A writer that broke down says so itself, and must not hide how the block ended.
                            with contextlib.suppress(JournalError):
                                journal.append(ENGINE_STREAM, "engine.closed", facts={"running": running})
                        finally:
                            journal.close_soon(settings.commit_within)
        finally:
            journal.close()

    @classmethod
    @asynccontextmanager
    async def _supervised(
        cls,
        journal: SQLiteJournal,
        definitions: _Definitions | None,
        settings: Settings,
        now: Callable[[], str],
        authorize: Authorize | None,
        watch: Callable[[Supervisor], None],
        errands: trio.Nursery,
    ) -> AsyncIterator[Self]:
        """The supervision tree around the block."""
        tree = [SupervisorSpec(name, intensity=intensity) for name, intensity in BRANCHES.items()]
        on_event = functools.partial(_record_supervision, journal)
        async with (
            _open_workers() as workers,
            open_supervisor(intensity=Intensity(0), children=tree, on_event=on_event) as root,
        ):
            watch(root)
            branches = {name: _supervisor(root.registry[f"/{name}"]) for name in BRANCHES}
            subscriptions = Subscriptions(
                journal,
                stamp=now,
                spawn=branches["subscribers"].start_child_soon,
                capacity=settings.mailbox_capacity,
                drain_within=settings.drain_within,
            )
            around = Surroundings(
                cancel_within=settings.cancel_within,
                errands=errands,
                journal=journal,
                stamp=now,
                publish=subscriptions.publish,
                instrument=RestInstrument(),
                max_payload=settings.max_payload,
                flights=Flights(),
                post=Post(journal, now),
                workers=workers,
                family=Family(journal),
                parking=Parking(),
                park_after=settings.park_after,
            )
            activities = Activities(
                around,
                {} if definitions is None else definitions.activities,
                idle=definitions is None,
                spawn=functools.partial(branches["activities"].start_child_soon, keep=False),
                drain_within=settings.drain_within,
                max_running=settings.max_running,
                poison_after=settings.poison_after,
            )
            engine = cls(journal, activities, subscriptions, settings, authorize, now)
            try:
                if definitions is not None:
                    await engine._begin(definitions)
                    # Nothing that it waits for need end with it.
                    for name, actor in (
                        ("waking", activities.admission.serve),
                        ("deadlines", activities.deadlines.serve),
                    ):
                        branches["timers"].start_child_soon(ChildSpec(name, actor, shutdown=0.0))
                yield engine
            finally:
                # Activities wait for their records, however long commits fail; from here on they must end.
                journal.give_up_within(settings.commit_within)
                with trio.CancelScope(shield=True):
                    await activities.drain()
                    subscriptions.closing()
                    activities.close()

    async def _begin(self, definitions: _Definitions) -> None:
        self._register(definitions)
        for subscriber in definitions.subscribers.values():
            self._subscriptions.attach(subscriber)
        self._journal.watch(self._subscriptions.advance)
        # What was published before anybody acts on anything must be durable: so must the engine's own first records.
        await self._journal.durable(self._journal.last_seq)
        await self._activities.resume_all()

    def _register(self, definitions: _Definitions) -> None:
        """Record which code runs, where it is not the code that ran last."""
        known = self._journal.registered()
        for (kind, name), facts in definitions.facts().items():
            if known.get((kind, name)) != facts:
                self._journal.append(ENGINE_STREAM, "definition.registered", name=name, facts=facts)

    # ------------------------------------------------------------------------------------------------ commands

    @overload
    async def start(
        self,
        activity: Callable[[Context, *Ts], Running[R]],
        /,
        *args: *Ts,
        id: str | None = None,
        by: str | None = None,
        reason: str | None = None,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, str] | None = None,
        if_exists: Literal["same", "fail"] = "same",
    ) -> Handle[R]: ...
    @overload
    async def start(
        self,
        activity: str,
        /,
        *args: Any,
        id: str | None = None,
        by: str | None = None,
        reason: str | None = None,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, str] | None = None,
        if_exists: Literal["same", "fail"] = "same",
    ) -> Handle[Any]: ...
    async def start(  # type: ignore[misc]  # the implementation takes what both signatures take
        self,
        activity: Any,
        /,
        *args: Any,
        id: str | None = None,
        by: str | None = None,
        reason: str | None = None,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, str] | None = None,
        if_exists: Literal["same", "fail"] = "same",
    ) -> Handle[Any]:
        """Start an activity. The command is durable when this returns, and the activity begins.

        Args:
            activity: its definition, or its name; with a name the arguments are plain JSON values.
            args: its arguments.
            id: its id; a new UUIDv7, unless given. The same id with the same arguments gives the same activity.
            by: who asks.
            reason: why.
            key: the business key: searchable.
            priority: a higher one begins sooner where more are asked for than `Settings.max_running`.
            tags: texts to search by.
            if_exists: `fail` to have an id that is taken refused even where the arguments agree.

        Returns:
            A handle of the activity.

        Raises:
            PayloadError: an argument cannot be encoded, or the id, key or `by` is not one; nothing was recorded.
            IdConflictError: the id is taken by an activity of other arguments. The refusal is recorded.
            CommandDeniedError: `authorize` refused, or there is no such definition. The refusal is recorded.
            JournalFullError, JournalBusyError: it could not be recorded within `commit_within`, and may still be: ask
                again with the same id.

        Cancelling leaves open whether it is recorded; an activity whose start is recorded runs.
        """
        _check_asked(id=id, by=by, reason=reason, key=key, priority=priority, tags=tags)
        asked = self._asked(by, reason)
        definition, text = await self._called(activity, args, id, asked)
        command = (
            Command(
                definition.name, args, kind="start", id=id, by=by, reason=reason, key=key, priority=priority, tags=tags
            )
            if self._authorize is not None
            else None
        )
        if command is not None:
            await self._check_authorized(command, definition.name, text, asked)
        if id is not None:
            known = self._activities.known(id)
            if known is not None:
                return await self._known(definition, text, id, asked, if_exists)
        id = an_id() if id is None else id
        execution, seq = self._activities.start(
            definition, text, id=id, asked=asked, key=key, priority=priority, tags=tags
        )
        await self._journal.durable_within(seq, self._settings.commit_within)
        return self._handle(id, definition.signature.result, execution)

    async def _called(
        self, activity: Any, args: tuple[Any, ...], id: str | None, asked: Asked
    ) -> tuple[Activity[..., Any], str]:
        """The definition that is meant, and the encoded arguments."""
        name = activity if isinstance(activity, str) else getattr(activity, "name", None)
        definition = self._activities.definitions.get(name) if isinstance(name, str) else None
        if definition is None or not (isinstance(activity, str) or activity is definition):
            if not isinstance(activity, str | Activity):
                raise DefinitionError(f"{activity!r} is no activity; decorate it with @activity")
            rule = f"this engine was given no activity {name!r}; name it, or its module, in Engine.open"
            seq = self._activities.deny(None, target=id or "", name=str(name), rule=rule, command="start", asked=asked)
            await self._journal.durable_within(seq, self._settings.commit_within)
            raise CommandDeniedError(rule)
        if isinstance(activity, str):
            args = definition.signature.decode(codec_for(Any).encode(list(args), "arguments"))
        text = definition.signature.encode(args)
        check_size(text, self._settings.max_payload, "arguments")
        return definition, text

    async def _known(
        self, definition: Activity[..., Any], text: str, id: str, asked: Asked, if_exists: str
    ) -> Handle[Any]:
        """The activity that has the id already, if it is the one that is asked for."""
        conflicts = self._activities.conflicts(id, definition, text)
        if conflicts or if_exists == "fail":
            rule = "the id is taken" + (" by an activity with other arguments" if conflicts else "")
            seq = self._activities.deny(
                id, target=id, name=definition.name, rule=rule, command="start", asked=asked, args=text
            )
            await self._journal.durable_within(seq, self._settings.commit_within)
            raise IdConflictError(id) if conflicts else IdConflictError(id, "it is taken, and if_exists is 'fail'")
        execution = self._activities.live.get(id)
        # One that was asked for a moment ago may not be durable yet.
        await self._journal.durable_within(self._journal.last_seq, self._settings.commit_within)
        return self._handle(id, definition.signature.result, execution)

    async def _check_authorized(self, command: Command, name: str, text: str, asked: Asked) -> None:
        assert self._authorize is not None
        answer = self._authorize(command)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is True:
            return
        rule = answer if isinstance(answer, str) and answer else "refused by authorize"
        _TEXT.encode(rule, "authorize")
        target = command.id or ""
        stream = target if target and self._activities.known(target) is not None else None
        seq = self._activities.deny(
            stream, target=target, name=name, rule=rule, command=command.kind, asked=asked, args=text
        )
        await self._journal.durable_within(seq, self._settings.commit_within)
        raise CommandDeniedError(rule)

    async def deny(
        self,
        name: str,
        /,
        *,
        id: str,
        rule: str,
        given: Mapping[str, Any] | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Record that a start cannot even be asked for, as the command line does with rows that are no arguments of the
        activity. No part of the promised interface.

        Args:
            name: the activity's name.
            id: the id that it was meant for; empty where there is none. The refusal stands in the stream of that
                activity where there is one, and in the engine's own otherwise.
            rule: what refuses it. A fact, which no erasure removes, so that it must show nothing of what was given.
            given: what was given in the arguments' place: plain JSON values, recorded as the only argument; left out
                where it cannot be recorded either.
            by: who asks.
            reason: why.

        Raises:
            JournalFullError, JournalBusyError: it could not be recorded within `commit_within`, and may still be.

        Durable when it returns. Cancelling leaves open whether it is recorded.
        """
        _check_asked(by=by, reason=reason)
        args = None
        if given is not None:
            with contextlib.suppress(PayloadError, RecursionError):
                text = codec_for(Any).encode([given])
                check_size(text, self._settings.max_payload, "arguments")
                args = text
        stream = id if id and self._activities.known(id) is not None else None
        asked = self._asked(by, reason)
        seq = self._activities.deny(stream, target=id, name=name, rule=rule, command="start", asked=asked, args=args)
        await self._journal.durable_within(seq, self._settings.commit_within)

    async def run(
        self,
        activity: Callable[[Context, *Ts], Running[R]],
        /,
        *args: *Ts,
        id: str | None = None,
        by: str | None = None,
        reason: str | None = None,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, str] | None = None,
        if_exists: Literal["same", "fail"] = "same",
    ) -> R:
        """Start an activity and wait for its result: `start` and `Handle.result` in one; see there."""
        handle = await self.start(
            activity, *args, id=id, by=by, reason=reason, key=key, priority=priority, tags=tags, if_exists=if_exists
        )
        return await handle.result()

    async def cancel(self, target: str | ActivityFilter, /, *, by: str | None = None, reason: str | None = None) -> int:
        """Cancel an activity: its code is cancelled where it waits, its `ctx.cleanup` blocks take their steps, and it
        ends as `cancelled`. Durable when this returns; the end comes later: see `Handle.wait`.

        Args:
            target: the activity's id, or what selects the activities.
            by: who asks.
            reason: why.

        Returns:
            To how many activities the command was given; a filter passes over those that do not take it as they are.

        Raises:
            ActivityNotFoundError: there is none of this id.
            CommandDeniedError: it has ended otherwise, or `authorize` refused. The refusal is recorded.
            JournalFullError, JournalBusyError: it could not be recorded within `commit_within`, and may still be.

        Cancelling this call leaves open whether the command is recorded; what is recorded is obeyed.
        """
        return await self._command("cancel", target, by, reason)

    async def terminate(
        self, target: str | ActivityFilter, /, *, by: str | None = None, reason: str | None = None
    ) -> int:
        """End an activity as it stands, as `cancelled`: nothing is cleaned up, and whatever its code still does through
        `ctx` has no effect. Arguments, result, errors and cancelling as with `cancel`."""
        return await self._command("terminate", target, by, reason)

    async def pause(self, target: str | ActivityFilter, /, *, by: str | None = None, reason: str | None = None) -> int:
        """Pause an activity: steps in flight end and are recorded, nothing new begins; its timers and messages are
        kept, and its deadline goes on. It stays paused over restarts of the engine, until `resume`. Arguments, result,
        errors and cancelling as with `cancel`."""
        return await self._command("pause", target, by, reason)

    async def resume(self, target: str | ActivityFilter, /, *, by: str | None = None, reason: str | None = None) -> int:
        """Take an activity on, which is `paused`, or is `blocked` and had its code mended. Arguments, result, errors
        and cancelling as with `cancel`; refused, too, where this engine has no definition of it."""
        return await self._command("resume", target, by, reason)

    async def retry(
        self,
        target: str | ActivityFilter,
        /,
        *,
        timeout: float | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> int:
        """Run an activity again, which has failed, as far as nothing was done about what it failed of.

        The failures that left its function and that nothing was done about are forgotten and tried anew, with fresh
        attempts; all other steps are memoized, and its `Restart` has its full limit again. So it is where the function
        failed by itself, and of no step. A failure that was final, or was compensated, is not tried again: fork the
        activity before it.

        Args:
            target: the activity's id; or a filter: those that it selects and that can be retried.
            timeout: seconds until a new deadline; needed where the old one has passed.
            by: who asks.
            reason: why.

        Returns:
            To how many activities it was given.

        Raises:
            ActivityNotFoundError: there is none of this id.
            CommandDeniedError: it has not failed, or something was done about all that it failed of. The refusal is
                recorded, and names where to fork it.
            JournalFullError, JournalBusyError: it could not be recorded within `commit_within`, and may still be.

        Durable when it returns; it runs again if its definition is here, else in the next engine that has it.
        Cancelling leaves open whether it is recorded; what is recorded is obeyed.
        """
        if timeout is not None:
            check_timeout("retry", timeout)
        return await self._command("retry", target, by, reason, timeout=timeout)

    async def _command(
        self,
        kind: str,
        target: str | ActivityFilter,
        by: str | None,
        reason: str | None,
        *,
        timeout: float | None = None,
    ) -> int:
        _check_asked(by=by, reason=reason)
        asked = self._asked(by, reason)
        id = target if isinstance(target, str) else None
        if self._authorize is not None:
            await self._check_authorized(Command(kind=kind, id=id, by=by, reason=reason), "", "[]", asked)
        if id is not None:
            await self._commanding.obey(kind, id, asked, timeout=timeout)
            return 1
        assert not isinstance(target, str)
        ids = await self._selected(target)
        return await self._commanding.obey_many(kind, ids, target.as_facts(), asked, timeout=timeout)

    async def _selected(self, target: ActivityFilter) -> list[str]:
        """The ids of the activities that a filter selects."""
        ids = []
        # As of what is durable now; it is read page by page.
        with Ledger.open(self._journal.path) as ledger:
            for row in ledger.selected(target):
                ids.append(row.id)
                if not len(ids) % 100:
                    await trio.lowlevel.checkpoint()
        return ids

    async def resolve(
        self,
        id: str,
        path: str,
        value: object = None,
        /,
        *,
        error: Exception | str | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Settle a step that was interrupted, and take its activity on, which is `blocked` on its account. Durable when
        it returns.

        Args:
            id: the activity's id.
            path: the step's path, as `StepInterruptedError` and the history say it.
            value: what the step is to have returned, where it took effect. One that does not fit its annotation leaves
                the activity `blocked`, for the step to be settled anew.
            error: what it is to have raised instead; a text becomes a `StepFailedError`.
            by: who asks.
            reason: why.

        Raises:
            PayloadError: the value cannot be encoded; nothing was recorded.
            ActivityNotFoundError: there is none of this id.
            CommandDeniedError: the activity is not blocked on account of this step. The refusal is recorded.
        """
        _check_asked(by=by, reason=reason)
        resolution = Resolution.of(path, value, error)
        check_size(resolution.data, self._settings.max_payload, "value")
        asked = self._asked(by, reason)
        if self._authorize is not None:
            command = Command(kind="resolve", id=id, by=by, reason=reason)
            await self._check_authorized(command, "", "[]", asked)
        await self._commanding.obey("resolve", id, asked, resolution)

    async def fork(
        self, id: str, /, *, at: str, new_id: str | None = None, by: str | None = None, reason: str | None = None
    ) -> Handle[Any]:
        """Begin a new activity with another's records up to a call, and do that call anew.

        The new activity takes over all that the other one has recorded in its present generation but the call, what
        followed it in its branch, and what followed that branch's scope around it; branches beside it stay. Steps that
        are taken over are not run again, their events not published again, timers keep their instants; messages taken
        by what is dropped are unread again. New steps have idempotency keys of the new id. The other activity stays as
        it is.

        Args:
            id: the id of the activity to be forked. It may have ended, or still run.
            at: the path of the call, as `playbill show` prints it; or of a branch, as `map[2]`.
            new_id: the new activity's id; a new UUIDv7, unless given. Asked for again with the same id and path, the
                same activity is given.
            by: who asks.
            reason: why.

        Returns:
            A handle of the new activity, which runs if its definition is here.

        Raises:
            ActivityNotFoundError: there is none of this id.
            CommandDeniedError: nothing is recorded under the path, or the activity has not begun. The refusal is
                recorded, and names paths that there are.
            IdConflictError: the new id is taken by another activity. The refusal is recorded.
            JournalFullError, JournalBusyError: it could not be recorded within `commit_within`, and may still be.

        Durable when it returns. Cancelling leaves open whether it is recorded; a fork that is recorded runs.
        """
        _check_asked(id=new_id, by=by, reason=reason)
        _TEXT.encode(at, "at")
        asked = self._asked(by, reason)
        if self._authorize is not None:
            command = Command(kind="fork", id=id, by=by, reason=reason)
            await self._check_authorized(command, "", "[]", asked)
        chosen = new_id or an_id()
        await fork(self._activities, id, at=at, new_id=chosen, asked=asked, within=self._settings.commit_within)
        state = self._journal.activity(chosen)
        definition = None if state is None else self._activities.definitions.get(state.name)
        return self.handle(chosen) if definition is None else self.handle(chosen, definition)

    async def send(
        self,
        target: str | ActivityFilter,
        message: object,
        /,
        *,
        message_id: str | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> int:
        """Send an activity a message, which is kept until `ctx.receive` takes it. Durable when this returns.

        Args:
            target: the activity's id; or a filter, for all that it selects and that have not ended.
            message: the message, of any type that can be encoded.
            message_id: its id; a new UUIDv7, unless given. The same id with the same message is kept once.
            by: who sends it.
            reason: why.

        Returns:
            How many activities have it.

        Raises:
            PayloadError: the message cannot be encoded, or an id is none; nothing was recorded.
            IdConflictError: the activity was sent another message of this id.
            ActivityNotFoundError: there is no activity of this id. The refusal is recorded.
            ActivityEndedError: it has ended. The refusal is recorded.
            CommandDeniedError: `authorize` refused. The refusal is recorded.
            JournalFullError, JournalBusyError: it could not be recorded within `commit_within`, and may still be: send
                it again with the same id.

        Cancelling leaves open whether it is recorded.
        """
        letter = Letter.of(message, self._settings.max_payload)
        return await self._send(target, letter, message_id, by, reason, message)

    async def send_typed(
        self,
        target: str,
        type: str,
        value: object,
        /,
        *,
        message_id: str | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> int:
        """Send a message whose class is not at hand, as the command line does: see `send`. No part of the promised
        interface.

        Args:
            target: the activity's id.
            type: the message's class, as `package.module.Class`, or its bare name.
            value: what it holds: plain JSON values.
            message_id, by, reason: as of `send`.
        """
        check_name(type)
        text = codec_for(Any).encode(value, "message")
        check_size(text, self._settings.max_payload, "message")
        return await self._send(target, Letter(type, text), message_id, by, reason, value)

    async def ask(
        self,
        id: str,
        message: Asks[R],
        /,
        *,
        timeout: float | None = 5.0,
        by: str | None = None,
        reason: str | None = None,
    ) -> R:
        """Send an activity a message, and wait for its answer: see `Handle.ask`.

        Args:
            id: the activity's id.
            message: the message, whose class derives from `Request`.
            timeout: seconds to wait; `None` for ever.
            by: who asks.
            reason: why.

        Returns:
            The answer.

        Raises:
            DefinitionError: the message is no `Request`.
            PayloadError: the message cannot be encoded; nothing was recorded.
            ActivityNotFoundError: there is no activity of this id. The refusal is recorded.
            ActivityEndedError: it has ended, or it ends without having answered.
            AskTimeoutError: there was no answer in time; the message may still be handled.
            CommandDeniedError: `authorize` refused. The refusal is recorded.

        Cancelling ends the wait and does not take the message back.
        """
        _check_asked(id=id, by=by, reason=reason)
        codec = answer_codec(message)
        if timeout is not None:
            check_timeout("ask", timeout)
        letter = Letter.of(message, self._settings.max_payload)
        asked = self._asked(by, reason)
        if self._authorize is not None:
            command = Command(None, (message,), kind="send", id=id, by=by, reason=reason)
            await self._check_authorized(command, "", f"[{letter.text}]", asked)
        record = await self._commanding.ask(id, letter, asked, timeout=timeout)
        if record.kind != "message.replied":
            raise ActivityEndedError(id, record.kind.partition(".")[2], unanswered=True)
        answer: R = codec.decode_field(record.data or "{}", "value", "answer")
        return answer

    async def _send(
        self,
        target: str | ActivityFilter,
        letter: Letter,
        message_id: str | None,
        by: str | None,
        reason: str | None,
        message: object,
    ) -> int:
        _check_asked(by=by, reason=reason)
        id = target if isinstance(target, str) else None
        if id is not None:
            check_id(id)
        if message_id is not None:
            check_message_id(message_id)
        asked = self._asked(by, reason)
        if self._authorize is not None:
            command = Command(None, (message,), kind="send", id=id, by=by, reason=reason)
            await self._check_authorized(command, "", f"[{letter.text}]", asked)
        if isinstance(target, str):
            await self._commanding.send(target, letter, asked, message_id=message_id)
            return 1
        ids = await self._selected(target)
        return await self._commanding.send_many(ids, target.as_facts(), letter, asked, message_id=message_id)

    def _asked(self, by: str | None, reason: str | None) -> Asked:
        return Asked(by=by, reason=reason, via=self.via, origin=self._origin)

    # ------------------------------------------------------------------------------------------------ handles

    @overload
    def handle(self, id: str, /) -> Handle[Any]: ...
    @overload
    def handle(self, id: str, result: Callable[..., Running[R]], /) -> Handle[R]: ...
    @overload
    def handle(self, id: str, result: type[R], /) -> Handle[R]: ...
    def handle(self, id: str, result: Any = None, /) -> Handle[Any]:
        """A handle of an activity by its id, whether there is one or not.

        Args:
            id: the activity's id.
            result: the activity's definition, or the type of its result; plain JSON values, unless given.
        """
        if isinstance(result, Activity):
            codec = result.signature.result
        else:
            codec = codec_for(Any if result is None else result)
        return self._handle(id, codec, self._activities.live.get(id))

    def _handle(self, id: str, codec: ValueCodec, execution: Execution | None) -> Handle[Any]:
        return Handle(id, self._journal, self._activities, codec, self, execution)

    # ------------------------------------------------------------------------------------------------ events

    async def publish(
        self,
        topic: str,
        data: object,
        /,
        *,
        key: str | None = None,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Event[Any]:
        """Publish an event from outside. Durable when this returns.

        Args:
            topic: its topic, a dotted name.
            data: what happened.
            key: events of one key are kept in order.
            id: its id; a new UUIDv7, unless given. The same id with the same data publishes once.
            headers: further texts for subscribers.

        Returns:
            The event.

        Raises:
            TopicError: the topic is not one, or begins with `playbill`: those are the engine's own.
            PayloadError: the data cannot be encoded; nothing was recorded.
            IdConflictError: the id was published with other data.
            JournalFullError, JournalBusyError: it could not be recorded within `commit_within`, and may still be.

        Cancelling leaves open whether it is recorded.
        """
        check_published(topic)
        _check_asked(id=id, key=key)
        codec = codec_for(type(data))
        text = codec.encode(data, "data")
        check_size(text, self._settings.max_payload, "data")
        payload = f'{{"data":{text}' + (f',"headers":{_TEXTS.encode(dict(headers), "headers")}}}' if headers else "}")
        before = None if id is None else self._publishing.get(id) or self._journal.publication(id)
        if before is not None:
            if before.name != topic or (before.data is not None and canonical(before.data) != canonical(payload)):
                raise IdConflictError(before.facts["id"], "it was published with other data; choose another id")
            await self._journal.durable_within(before.seq, self._settings.commit_within)
            return event_of(before, data=codec.decode(text))
        record = self._append_publication(topic, payload, id=id, key=key)
        await self._journal.durable_within(record.seq, self._settings.commit_within)
        return event_of(record, data=codec.decode(text))

    @trio.lowlevel.enable_ki_protection  # Ctrl-C must not part the record from what is to be done when it lands
    def _append_publication(self, topic: str, payload: str, *, id: str | None, key: str | None) -> StoredRecord:
        facts: dict[str, Any] = {"id": id or an_id(), **({} if key is None else {"key": key})}
        at = self._now()
        seq = self._journal.append(
            ENGINE_STREAM,
            "event.published",
            name=topic,
            at=at,
            facts=facts,
            data=payload,
            landed=lambda: self._published(record),
        )
        record: StoredRecord = StoredRecord(
            seq, ENGINE_STREAM, "event.published", topic, None, None, at, None, facts, payload
        )
        if id is not None:
            self._publishing[id] = record
        return record

    def _published(self, record: StoredRecord) -> None:
        self._publishing.pop(record.facts["id"], None)
        self._subscriptions.publish(record.name or "", lambda: record)


@asynccontextmanager
async def _open_workers() -> AsyncIterator[Workers]:
    """The processes that steps run in, which end with the tree."""
    workers = Workers()
    try:
        yield workers
    finally:
        with trio.CancelScope(shield=True):
            await workers.close()


def _supervisor(ref: object) -> SupervisorRef:
    assert isinstance(ref, SupervisorRef)
    return ref


_TEXTS = codec_for(dict[str, str])
_TEXT = codec_for(str)

PRIORITIES = range(-(2**31), 2**31)
"""What a priority may be: far more than anybody tells apart, and every store can hold it."""


def _check_asked(
    *,
    id: str | None = None,
    by: str | None = None,
    reason: str | None = None,
    key: str | None = None,
    priority: int = 0,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Refuse what no record could hold, before anything is recorded."""
    if id is not None:
        check_id(id)
    if by is not None:
        check_by(by)
    if reason is not None:
        _TEXT.encode(reason, "reason")
    if key is not None:
        try:
            check_by(key)
        except PayloadError as error:
            raise PayloadError("key", error.why) from None
    if type(priority) is not int or priority not in PRIORITIES:
        raise PayloadError("priority", f"{priority!r} is no whole number of 32 bits")
    if tags:
        _TEXTS.encode(dict(tags), "tags")


@contextlib.contextmanager
def _watched(
    journal: SQLiteJournal, nursery: trio.Nursery, settings: Settings, *, idle: bool
) -> Iterator[Callable[[Supervisor], None]]:
    """Watch for what blocks the loop, and in the tree that is given to what this gives, for what does not end."""
    found = functools.partial(_record_found, journal)
    # Whatever has cancelled the block: the tree is stopped with its allowances all the same, and watched meanwhile.
    scope = trio.CancelScope(shield=True)

    async def watch(tree: Supervisor) -> None:
        with scope:
            await watch_stopping(tree, found, due=_cancelled_at)

    with watching(math.inf if idle else settings.stall_after, found):
        try:
            yield lambda tree: nursery.start_soon(watch, tree)
        finally:
            scope.cancel()


def _cancelled_at(run: Stopping) -> float:
    """When a run that is being stopped is cancelled. Those of activities were given up, and so cancelled, before."""
    return run.asked if run.ref.path.startswith("/activities/") else run.due


def _record_found(journal: SQLiteJournal, found: Found) -> None:
    """Record the actor that blocks the loop, or ignores being cancelled; other tasks are logged only."""
    if found.path is None:
        return
    facts = {"seconds": round(found.seconds, 3), "task": found.task}
    data = orjson.dumps({"stack": found.stack}).decode()
    # Where the journal is closed, or has failed, the log has it.
    with contextlib.suppress(JournalError):
        journal.append(_stream_of(found.path), f"actor.{found.what}", name=found.path, facts=facts, data=data)


def _stream_of(path: str) -> str:
    """The stream in which what befell an actor is told: its own; but an activity's is its history, and only that."""
    return path if path.startswith(SUBSCRIBER_STREAMS) else ENGINE_STREAM


def _record_supervision(journal: SQLiteJournal, event: SupervisionEvent) -> None:
    """Record the crashes and restarts of actors beside the activities, whose own records tell theirs."""
    if event.path.startswith("/activities/"):
        return
    facts: dict[str, Any] = {"restarts": event.restarts}
    data = None
    if event.error is not None:
        tree = encode_error(event.error)
        facts["error"] = tree["type"]
        data = f'{{"error":{orjson.dumps(tree).decode()}}}'
    if event.what == "escalated":
        journal.append(
            ENGINE_STREAM, "supervisor.escalated", name=event.path, facts={"child": event.child, **facts}, data=data
        )
    else:
        journal.append(_stream_of(event.path), f"actor.{event.what}", name=event.path, facts=facts, data=data)


@attrs.frozen
class _Definitions:
    """What an engine was given to run."""

    activities: dict[str, Activity[..., Any]]
    steps: list[Step[..., Any]]
    subscribers: dict[str, Subscriber[Any]]

    @classmethod
    def gathered(cls, given: tuple[ModuleType | Definition, ...]) -> _Definitions:
        """The definitions that were given, and those that the modules hold, each once.

        Raises:
            DefinitionError: something is no definition, or two have one name.
        """
        found: dict[int, Any] = {}
        for entry in given:
            inside = list(vars(entry).values()) if isinstance(entry, ModuleType) else [entry]
            for value in inside:
                if isinstance(value, Activity | Step | Subscriber):
                    found[id(value)] = value
                elif not isinstance(entry, ModuleType):
                    raise DefinitionError(f"{entry!r} is no definition; give activities, subscribers, or their modules")
        values = list(found.values())
        return cls(
            defined(value for value in values if isinstance(value, Activity)),
            [value for value in values if isinstance(value, Step)],
            subscribers_by_name(value for value in values if isinstance(value, Subscriber)),
        )

    def facts(self) -> dict[tuple[str, str], dict[str, Any]]:
        """What is recorded of each definition, by its type and name."""
        recorded: dict[tuple[str, str], dict[str, Any]] = {}
        for activity in self.activities.values():
            recorded["activity", activity.name] = _facts("activity", activity.function, version=activity.version)
        for step in self.steps:
            recorded["step", step.name] = _facts("step", step.function)
        for subscriber in self.subscribers.values():
            recorded["subscriber", subscriber.name] = _facts("subscriber", subscriber.function)
        return recorded


def _facts(kind: str, function: Callable[..., Any], **more: str) -> dict[str, Any]:
    facts = {"type": kind, **more, "module": described(function)}
    source = source_digest(function)
    return facts if source is None else {**facts, "source": source}
