"""What an activity's function does things through: `ctx`.

Every call is compared with what is recorded at its place; a recorded outcome is handed out again, and what is new is
done, recorded, and given to user code when the record is durable. A context belongs to the task that first uses it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import inspect
import logging
import math
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NoReturn, TypeAlias, TypeVar, TypeVarTuple, overload

import orjson
import trio

from engine.activities.asking import ask, reply
from engine.activities.attempts import StepCall, check_size, interrupted, rebuilt
from engine.activities.branches import Branch as ForkBranch
from engine.activities.branches import Fork
from engine.activities.calls import Call, awaitable
from engine.activities.cancelling import raise_cancelled
from engine.activities.children import Child, OnParentEnd, Wanted, run_child, start_child
from engine.activities.cleaning import Cleanup, cleaning
from engine.activities.continuing import continue_as_new
from engine.activities.definition import Activity, Running, Step, check_timeout, step_for, takes_context
from engine.activities.history import RecordedCall
from engine.activities.receiving import receive
from engine.activities.run import GIVEN_UP, Run
from engine.activities.scopes import Scope
from engine.activities.sending import send
from engine.activities.step_info import in_step
from engine.activities.waiting import Wait, after, rest_of, seconds_until, wait, wait_until
from engine.clock import stamp_of
from engine.codec import codec_for
from engine.errors import ConcurrentContextError, DefinitionError, FencedError, PayloadError
from engine.journal import StoredRecord
from engine.journal.events import event_of
from engine.journal.log import quoted
from engine.messages import Asks, Event, Request, check_by, check_name, new_id
from engine.policies import Retry
from engine.topics import check_published

R = TypeVar("R")
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
Ts = TypeVarTuple("Ts")

Branch: TypeAlias = "Callable[[Context], Awaitable[R]]"
"""What `ctx.gather` and `ctx.race` run: a function that is given the branch's context."""


_TEXTS = codec_for(dict[str, str])


NO_ACTS = ("note.added", "scope.ended")
"""Records after which a branch has still done nothing about the message that it received last."""


@awaitable("ctx")
class Context:
    """An activity's function is given one as its first argument; a branch has one of its own.

    Not to be made by users. All its methods belong to the task that first uses it; any other gets a
    `ConcurrentContextError`.
    """

    def __init__(self, run: Run, scope: Scope, *, parent: Context | None = None) -> None:
        self._run = run
        self._scope = scope
        # By which the engine cancels the branch, where it can, and the call that it waits in, where that has branches.
        self._cancel_scope: trio.CancelScope | None = None
        self._fork: Fork | None = None
        # The innermost cleanup that it stands in; a branch stands where it was made.
        self._shelter: Cleanup | None = None if parent is None else parent._shelter
        self._born_in = self._shelter
        # The calls that the engine cancelled, and that left no record of their own: the next cleanup's tells of them.
        self._cut: list[tuple[str, str, str]] = []
        self._parent = parent
        self._owner: trio.lowlevel.Task | None = None
        self._draws = 0

    # ------------------------------------------------------------------------------------------------ what it is

    @property
    def id(self) -> str:
        """The activity's id."""
        return self._run.id

    @property
    def name(self) -> str:
        """The name of the activity's definition."""
        return self._run.definition.name

    @property
    def run_number(self) -> int:
        """1 for the first run; each restart after a failure adds one, an end of the process none."""
        return self._run.number

    @property
    def replaying(self) -> bool:
        """Whether what happens now happened before."""
        return self._run.replay is not None

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that is silent while the activity is replayed; its records have `activity`."""
        return _ActivityLogger(self._run)

    # ------------------------------------------------------------------------------------------------ steps

    @overload
    async def step(
        self,
        function: Callable[[*Ts], Coroutine[Any, Any, R]],
        /,
        *args: *Ts,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = None,
    ) -> R: ...
    @overload
    async def step(
        self,
        function: Callable[[*Ts], R],
        /,
        *args: *Ts,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = None,
    ) -> R: ...
    async def step(  # type: ignore[misc]  # the implementation takes what both signatures take
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Run a function as a step: at least once, recorded exactly once, never again after that.

        Args:
            function: decorated or not; a coroutine function runs in the loop, a plain one in a worker thread.
            args: its arguments, which must be encodable. Its keywords go through `functools.partial`.
            name: its name in the history, where the function's own does not serve.
            retry: how often it is tried, in place of the decorator's.
            timeout: seconds for each attempt, in place of the decorator's.

        Returns:
            What it returned, durable by then, as it would come back from the journal.

        Raises:
            PayloadError: an argument cannot be encoded; nothing was recorded.
            DefinitionError: the function cannot be a step.
            StepTimeoutError: its last attempt took too long.
            StepInterruptedError: it is to be done at most once, and the process ended in its only attempt.
            Exception: what its last attempt raised, rebuilt from the record.

        Cancelling reaches the running step at once (a thread is waited for), and records `call.abandoned`. At replay
        the function is not run again: its recorded outcome is given.
        """
        return await self._step(step_for(function), args, name, retry, timeout)

    async def _step(
        self,
        step: Step[..., Any],
        args: tuple[Any, ...],
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = None,
    ) -> Any:
        run = self._run
        self._use()
        if run.held:
            await run.hold()
        if retry is not None:
            if not isinstance(retry, Retry):
                raise DefinitionError(f"retry={retry!r}: give a Retry, as Retry(attempts=3)")
            step.check_retry(retry)
        if timeout is not None:
            check_timeout("ctx.step", timeout)
        text = step.signature.encode(args)
        check_size(text, run.around.max_payload, "arguments")
        if name is None:
            name = step.name
        else:
            check_name(name)
        path = self._scope.next_path(name)
        bound = step.encode_bound()
        digest = run.digest(f"[{text},{bound}]" if bound else text)
        recorded = run.match(self._scope, "step", path, digest)
        if recorded is not None and recorded.outcome is not None:
            return await self._given(recorded, recorded.outcome, step)
        await self._begin("step", path, digest)
        call = StepCall(
            run,
            self._scope,
            self,
            step,
            name,
            path,
            digest,
            args,
            f'"args":{text}' if step.record_arguments else f'"digest":"{digest}"',
            retry if retry is not None else step.retry,
            timeout if timeout is not None else step.timeout,
        )
        return await call.perform(recorded)

    async def _given(self, recorded: RecordedCall, record: StoredRecord, step: Step[..., Any]) -> Any:
        """A step's recorded outcome, at its turn."""
        run = self._run
        await self._turn(record)
        if record.kind == "step.interrupted":
            raise interrupted(run, recorded.path)
        if record.kind == "step.completed":
            return step.signature.result.decode_field(record.data or "{}", "value")
        if record.kind == "step.resolved" and "error" not in record.facts:
            try:
                return step.signature.result.decode_field(record.data or "{}", "value")
            except PayloadError as error:
                run.unsettle(recorded.path, error)
        raise rebuilt(run, record.load()["error"], recorded.path)

    # ------------------------------------------------------------------------------------------------ side by side

    @overload
    async def map(
        self,
        function: Callable[[Context, T], Coroutine[Any, Any, R]],
        items: Iterable[T],
        /,
        *,
        limit: int | None = None,
    ) -> list[R]: ...
    @overload
    async def map(
        self, function: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T], /, *, limit: int | None = None
    ) -> list[R]: ...
    @overload
    async def map(self, function: Callable[[T], R], items: Iterable[T], /, *, limit: int | None = None) -> list[R]: ...
    async def map(
        self, function: Callable[..., Any], items: Iterable[Any], /, *, limit: int | None = None
    ) -> list[Any]:
        """Run a function for each item, side by side.

        Args:
            function: a step for each item; or, where its first parameter is annotated `Context`, a branch for each; or
                an activity, a child for each.
            items: one argument each, read at once.
            limit: how many at the same time; all, unless given.

        Returns:
            The results, in the order of the items.

        Raises:
            Exception: the first failure in journal order, bare. The others are cancelled and waited for.
            DefinitionError: the function cannot be mapped.

        Cancelling cancels all branches, and waits for them.
        """
        if limit is not None and limit < 1:
            raise DefinitionError(f"map(limit={limit!r}): give a whole number of at least 1, or None")
        everything = list(items)
        plain = not (isinstance(function, Activity) or takes_context(function))
        step = step_for(function) if plain else None
        if isinstance(function, Activity):
            name = function.name
        else:
            name = step.name if step is not None else getattr(function, "__qualname__", type(function).__name__)
        fork, _ = await self._forked(
            "map",
            [name, len(everything)],
            [_applied(function, step, item) for item in everything],
            name=name,
            limit=limit,
            plain=plain,
        )
        return [branch.value for branch in fork.branches]

    @overload
    async def gather(self, a: Branch[T1], /) -> tuple[T1]: ...
    @overload
    async def gather(self, a: Branch[T1], b: Branch[T2], /) -> tuple[T1, T2]: ...
    @overload
    async def gather(self, a: Branch[T1], b: Branch[T2], c: Branch[T3], /) -> tuple[T1, T2, T3]: ...
    @overload
    async def gather(self, a: Branch[T1], b: Branch[T2], c: Branch[T3], d: Branch[T4], /) -> tuple[T1, T2, T3, T4]: ...
    @overload
    async def gather(
        self, a: Branch[T1], b: Branch[T2], c: Branch[T3], d: Branch[T4], e: Branch[T5], /
    ) -> tuple[T1, T2, T3, T4, T5]: ...
    @overload
    async def gather(
        self, a: Branch[T], b: Branch[T], c: Branch[T], d: Branch[T], e: Branch[T], f: Branch[T], /, *more: Branch[T]
    ) -> tuple[T, ...]: ...
    async def gather(self, *functions: Branch[Any]) -> tuple[Any, ...]:
        """Run several functions side by side, each in a branch of its own.

        Args:
            functions: each is called with the branch's context, as in `gather(lambda branch: branch.sleep(1), other)`.

        Returns:
            The results, in the order of the functions. They need not be encodable.

        Raises:
            Exception: the first failure in journal order, bare. The others are cancelled and waited for.
            DefinitionError: one is no function.

        Cancelling cancels all branches, and waits for them.
        """
        for function in functions:
            _check_branch("ctx.gather", function)
        fork, _ = await self._forked("gather", [len(functions)], functions)
        return tuple(branch.value for branch in fork.branches)

    async def race(self, **functions: Branch[T]) -> tuple[str, T]:
        """Run several functions side by side, each in a branch of its own, until the first of them ends.

        Args:
            functions: each is called with the branch's context, as in `race(paid=wait, late=lambda b: b.sleep(60))`.

        Returns:
            The name of the first to end, in journal order, and what it returned. The others are cancelled, and have
            ended by then. At replay the same one wins.

        Raises:
            Exception: what the first to end raised, bare.
            DefinitionError: one is no function, or there is none.

        Cancelling cancels all branches, and waits for them.
        """
        if not functions:
            raise DefinitionError(
                "ctx.race was given nothing to run; name at least one function, as in race(paid=wait)"
            )
        for name, function in functions.items():
            check_name(name)
            _check_branch("ctx.race", function)
        names = list(functions)
        _, decided = await self._forked("race", names, list(functions.values()), labels=names, is_race=True)
        assert decided is not None
        return decided.label, decided.value

    async def _forked(
        self,
        call: str,
        asked: list[Any],
        functions: Sequence[Branch[Any]],
        *,
        name: str | None = None,
        labels: Sequence[str] | None = None,
        limit: int | None = None,
        plain: bool = False,
        is_race: bool = False,
    ) -> tuple[Fork, ForkBranch | None]:
        """Run branches side by side to their ends.

        Returns:
            The fork, and the branch that decided it; one whose error decided it is raised instead.
        """
        run = self._run
        self._use()
        if run.held:
            await run.hold()
        path = self._scope.next_path(call)
        digest = run.digest(orjson.dumps(asked).decode())
        recorded = run.match(self._scope, call, path, digest)
        if recorded is None or (recorded.begun is None and recorded.outcome is None):
            # Opening a scope waits for nothing recorded: its branches' code up to their first calls belongs here. But
            # in a branch that was cancelled before it came here, the cancel comes first.
            await (self._begin if self._is_over else self._check)(call, path, digest)
            holds = f'"size":{len(functions)}' if labels is None else f'"names":{orjson.dumps(labels).decode()}'
            if call == "map":
                holds += f',"limit":{"null" if limit is None else limit}'
            self._record("scope.opened", path, f'"digest":"{digest}","of":"{call}",{holds}', name=name)
        elif recorded.begun is None and recorded.outcome is not None:
            # It was abandoned before it was opened.
            await self._turn(recorded.outcome)
        fork = Fork(self, path, functions, labels=labels, limit=limit, plain=plain, is_race=is_race)
        return fork, await self._join(fork, call, path, digest, recorded)

    async def _join(
        self, fork: Fork, call: str, path: str, digest: str, recorded: RecordedCall | None
    ) -> ForkBranch | None:
        run = self._run
        self._fork = fork
        decided = await fork.join()
        self._fork = None
        if run.held or fork.is_lost:
            await run.hold()
        origins = frozenset().union(*(branch.origins for branch in fork.branches))
        if recorded is not None and recorded.outcome is not None:
            was = recorded.outcome
            if was.kind == "scope.ended" and was.facts.get("decided") != (decided.path if decided else None):
                run.diverge(f"{path} decided by {was.facts.get('decided')}", f"{decided and decided.path}")
            await self._turn(was)
        else:
            await self._begin(call, path, digest)
            seq, at = self._record(
                "scope.ended",
                path,
                f'"decided":{orjson.dumps(decided.path if decided else None).decode()},'
                f'"origins":{orjson.dumps(sorted(origins)).decode()}',
            )
            await run.settle(seq, self)
            run.give(self._scope, seq, at)
        if decided is not None and decided.error is not None:
            run.remember(decided.error, origins)
            raise decided.error
        return decided

    def branch(self, name: str, /) -> Context:
        """A context for a task of a nursery of the user's own; its calls have paths of their own.

        Args:
            name: the branch's name in the history.

        Raises:
            DefinitionError: the name is not one.
        """
        self._use()
        check_name(name)
        self._run.is_branched = True
        return self._branched(self._scope.next_path(name), self._scope.last_seq)

    def _branched(self, path: str, last_seq: int) -> Context:
        """A context for a branch, which belongs to the task that first uses it."""
        return Context(self._run, self._run.scope(path, last_seq, self._scope), parent=self)

    # ------------------------------------------------------------------------------------------------ cleanup

    def cleanup(self, *, within: float | None = 30.0) -> AbstractAsyncContextManager[None]:
        """A block in which the activity still takes steps when it is cancelled, or when its branch has lost. What
        undoes work belongs here, as in `finally: async with ctx.cleanup(): await ctx.step(release)`.

        Args:
            within: seconds that the block may take, counted anew in each life of the process; `None` for no limit.

        Returns:
            An async context manager. Its calls have paths of their own, as `cleanup/release`. It goes on after a crash.

        Raises:
            DefinitionError: `within` is no number of seconds.
            WaitTimeoutError: on leaving, when the block was cancelled because its time was over. Where nobody handles
                it, a restart of the activity tries the rest of the block anew.
            FencedError: the run was given up (the engine closes, say) and goes on later; nothing is to be undone.

        Cancelling does not reach the block: it comes when it was left.
        """
        return cleaning(self, within)

    # ------------------------------------------------------------------------------------------------ events

    async def emit(
        self, topic: str, data: object, /, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Event[Any]:
        """Publish an event, recorded with the activity's progress: never without it, never twice.

        Args:
            topic: its topic, a dotted name.
            data: what happened; of any type that can be encoded.
            key: events of one key are kept in order, and handled side by side with those of others.
            headers: further texts for subscribers.

        Returns:
            The event, durable by then.

        Raises:
            TopicError: the topic is not one, or begins with `playbill`: those are the engine's own.
            PayloadError: the data cannot be encoded; nothing was recorded.

        Cancelling does not take an event back; at replay it is not published again.
        """
        run = self._run
        self._use()
        if run.held:
            await run.hold()
        check_published(topic)
        if key is not None:
            check_by(key)
        codec = codec_for(type(data))
        text = codec.encode(data, "data")
        check_size(text, run.around.max_payload, "data")
        path = self._scope.next_path("emit")
        written = "" if headers is None else f',"headers":{_TEXTS.encode(dict(headers), "headers")}'
        digest = run.digest(
            f'{{"topic":{quoted(topic)},"key":{"null" if key is None else quoted(key)},"data":{text}{written}}}'
        )
        recorded = run.match(self._scope, "emit", path, digest)
        if recorded is not None and recorded.outcome is not None:
            await self._turn(recorded.outcome)
            return event_of(recorded.outcome, data=codec.decode(text))
        await self._begin("emit", path, digest)
        facts: dict[str, Any] = {"digest": digest, "id": new_id()}
        if key is not None:
            facts["key"] = key
        if run.cause is not None:
            facts["cause"] = run.cause
        at = run.stamp()
        payload = f'{{"data":{text}{written}}}'
        seq = 0

        def record() -> StoredRecord:
            return StoredRecord(seq, run.id, "event.emitted", topic, path, run.number, at, None, facts, payload)

        seq, _ = self._record(
            "event.emitted",
            path,
            orjson.dumps(facts).decode()[1:-1],
            name=topic,
            at=at,
            data=payload,
            landed=lambda: run.around.publish(topic, record),
        )
        await run.settle(seq, self)
        run.give(self._scope, seq, at)
        return event_of(record(), data=codec.decode(text))

    # ------------------------------------------------------------------------------------------------ waiting

    async def sleep(self, seconds: float, /) -> None:
        """Wait. The wait is durable: after a restart the rest of it is waited for, never more than it had at first.

        Args:
            seconds: how long.

        Raises:
            PayloadError: it is no number of seconds.

        Cancelling ends the wait, and records `call.abandoned`.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
            raise PayloadError("seconds", f"{seconds!r} is no number of seconds")
        seconds = max(0.0, float(seconds))
        await self._timer("sleep", f"[{orjson.dumps(seconds).decode()}]", seconds=seconds)

    async def sleep_until(self, instant: dt.datetime, /) -> None:
        """Wait until an instant of the wall clock: where that is set, or the machine sleeps, the wait follows it within
        a minute, or a tenth of the rest of the wait. Durable as `sleep`; an instant that has passed is not waited for.

        Args:
            instant: until when; aware.

        Raises:
            PayloadError: it is naive, or no instant.

        Cancelling ends the wait, and records `call.abandoned`.
        """
        if not isinstance(instant, dt.datetime):
            raise PayloadError("instant", f"{instant!r} is no datetime")
        try:
            due = stamp_of(instant)
        except PayloadError as error:
            raise PayloadError("instant", error.why) from None
        except OverflowError:
            raise PayloadError("instant", f"{instant.isoformat()} is beyond the years 1 to 9999 in UTC") from None
        await self._timer("sleep_until", f"[{quoted(due)}]", due=due)

    async def _timer(self, call: str, asked: str, *, seconds: float | None = None, due: str = "") -> None:
        """Wait for so many seconds, or until an instant of the wall clock."""
        run = self._run
        self._use()
        if run.held:
            await run.hold()
        path = self._scope.next_path(call)
        digest = run.digest(asked)
        recorded = run.match(self._scope, call, path, digest)
        if recorded is not None and recorded.outcome is not None:
            await self._turn(recorded.outcome)
            return
        await self._begin(call, path, digest)
        if recorded is not None and recorded.begun is not None:
            due = recorded.begun.facts["due"]
            if seconds is not None:
                seconds = rest_of(recorded.begun.at, due, run.stamp())
        else:
            at = run.stamp()
            length = seconds if seconds is not None else seconds_until(due, at)
            due = due or after(at, length)
            facts = f'"digest":"{digest}","due":"{due}","length":{orjson.dumps(length).decode()},"for":"{call}"'
            self._record("timer.set", path, facts, at=at)
        if seconds is not None:
            await wait(Wait(call, path, due), self, digest, seconds=seconds)
        else:
            await wait_until(due, self, call, path, digest)
        seq, at = self._record("timer.fired", path, f'"digest":"{digest}"')
        await run.settle(seq, self)
        run.give(self._scope, seq, at)

    # ------------------------------------------------------------------------------------------------ as new

    async def continue_as_new(self, activity: Callable[[Context, *Ts], Running[Any]], /, *args: *Ts) -> NoReturn:
        """Go on as new: the activity's function is begun from nothing, with these arguments, under the same id. What
        was recorded before is history, and is not read again, so that an activity may go on for ever.

        Messages that were not received are kept, in order; children that run go on, notes stay, and so does the
        deadline. Timers end. The new steps have idempotency keys of their own, and `Restart` its full limit.

        Args:
            activity: with what it goes on: its own definition, or another that the engine was given.
            args: the arguments.

        Returns:
            Never. The function is left at once; what its clean-up does through `ctx` has no effect.

        Raises:
            PayloadError: an argument cannot be encoded; nothing was recorded.
            DefinitionError: it was called in a branch or a cleanup, or the engine was not given the activity.

        A cancel that was recorded before it comes first, and the activity does not go on.
        """
        await continue_as_new(self, activity, args)

    # ------------------------------------------------------------------------------------------------ notes

    async def note(self, name: str, value: object, /) -> None:
        """Leave word of how the activity stands, for `Handle.notes()` and whoever reads its history. A note of the same
        name takes the place of the one before. Durable when it returns; at replay it is not made again.

        Args:
            name: what it is about.
            value: what there is to say; of any type that can be encoded.

        Raises:
            PayloadError: the value cannot be encoded; nothing was recorded.
            DefinitionError: the name is not one.

        Cancelling does not take a note back.
        """
        run = self._run
        self._use()
        if run.held:
            await run.hold()
        check_name(name)
        text = codec_for(type(value)).encode(value, "value")
        check_size(text, run.around.max_payload, "value")
        path = self._scope.next_path("note")
        digest = run.digest(f"[{quoted(name)},{text}]")
        recorded = run.match(self._scope, "note", path, digest)
        if recorded is not None and recorded.outcome is not None:
            await self._turn(recorded.outcome)
            return
        await self._begin("note", path, digest)
        seq, at = self._record("note.added", path, f'"digest":"{digest}"', name=name, data=f'{{"value":{text}}}')
        await run.settle(seq, self)
        run.give(self._scope, seq, at)

    # ------------------------------------------------------------------------------------------------ messages

    @overload
    async def receive(self, type: type[T1], /, *, where: Callable[[T1], bool] | None = None) -> T1: ...
    @overload
    async def receive(
        self, type: type[T1], /, *, where: Callable[[T1], bool] | None = None, timeout: float | None
    ) -> T1 | None: ...
    @overload
    async def receive(
        self, a: type[T1], b: type[T2], /, *, where: Callable[[T1 | T2], bool] | None = None
    ) -> T1 | T2: ...
    @overload
    async def receive(
        self, a: type[T1], b: type[T2], /, *, where: Callable[[T1 | T2], bool] | None = None, timeout: float | None
    ) -> T1 | T2 | None: ...
    @overload
    async def receive(
        self, a: type[T1], b: type[T2], c: type[T3], /, *, where: Callable[[T1 | T2 | T3], bool] | None = None
    ) -> T1 | T2 | T3: ...
    @overload
    async def receive(
        self,
        a: type[T1],
        b: type[T2],
        c: type[T3],
        /,
        *,
        where: Callable[[T1 | T2 | T3], bool] | None = None,
        timeout: float | None,
    ) -> T1 | T2 | T3 | None: ...
    async def receive(
        self, *types: type, where: Callable[[Any], bool] | None = None, timeout: float | None = None
    ) -> Any:
        """Receive the first message of these classes, waiting until there is one. Messages are kept in the order in
        which they were sent until they are received, over restarts too; those of other classes stay where they are.

        Args:
            types: the class of the message, or up to three.
            where: a predicate over the message, called with each that there is and each that comes; it must decide by
                the message alone. One for which it does not hold stays where it is.
            timeout: seconds to wait; for ever, unless given. Durable, as those of `sleep` are.

        Returns:
            The message; `None` when its time is over. A message counts that was sent up to the end of that time.

        Raises:
            DefinitionError: something is given that is no class, or the timeout is no number of seconds.
            Exception: what `where` raised; the message stays where it is.

        Cancelling ends the wait, and records `call.abandoned`; no message is lost by that. A branch that loses, or
        is cancelled, gives a message back to its place if it recorded nothing after it.
        """
        return await receive(self, types, where, timeout)

    async def send(self, id: str, message: object, /) -> None:
        """Send a message to another activity, which has it when this returns: it is recorded in both histories.

        Args:
            id: the other activity's id.
            message: the message, of any type that can be encoded.

        Raises:
            PayloadError: the message cannot be encoded, or the id is none; nothing was recorded.
            ActivityNotFoundError: there is no activity of this id. The refusal is recorded.
            ActivityEndedError: it has ended. The refusal is recorded.

        Cancelling does not take a message back; at replay it is not sent again.
        """
        await send(self, id, message)

    async def ask(self, id: str, message: Asks[R], /, *, timeout: float | None = 5.0) -> R:
        """Send another activity a message, and wait for its answer.

        Args:
            id: the other activity's id.
            message: the message, whose class derives from `Request`.
            timeout: seconds to wait; `None` for ever. Durable, as those of `sleep` are.

        Returns:
            The answer.

        Raises:
            PayloadError: the message cannot be encoded, or the id is none; nothing was recorded.
            DefinitionError: the message is no `Request`.
            ActivityNotFoundError: there is no activity of this id. The refusal is recorded.
            ActivityEndedError: it has ended, or it ends without having answered.
            AskTimeoutError: there was no answer in time; one that comes later is dropped.

        Cancelling ends the wait and does not take the message back; at replay it is not sent again.
        """
        value: R = await ask(self, id, message, timeout)
        return value

    async def reply(self, message: Request[R], value: R, /) -> None:
        """Answer a message that `receive` gave. Durable when this returns.

        Args:
            message: the very object that `receive` gave.
            value: the answer.

        Raises:
            PayloadError: the answer cannot be encoded; nothing was recorded.
            PlaybillError: the message is not from `receive`, or was answered already.

        Whether anybody still waits for the answer makes no difference. Cancelling does not take an answer back.
        """
        await reply(self, message, value)

    # ------------------------------------------------------------------------------------------------ children

    async def run(
        self,
        activity: Callable[[Context, *Ts], Running[R]],
        /,
        *args: *Ts,
        id: str | None = None,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, str] | None = None,
        on_parent_end: OnParentEnd = "cancel",
    ) -> R:
        """Run an activity as a child, and wait for its end.

        Args:
            activity: its definition, which the engine must have been given too.
            args: its arguments.
            id: its id; this activity's and the call's path, as `order-1/orders.ship`, unless given.
            key: the business key: searchable.
            priority: recorded.
            tags: texts to search by.
            on_parent_end: what becomes of it when this activity ends before it, as when the call was cancelled:
                `cancel` has it cancelled and waits for its end, `wait` waits, `abandon` does neither.

        Returns:
            What it returned.

        Raises:
            PayloadError: an argument cannot be encoded, or the id is none; nothing was recorded.
            DefinitionError: it is no activity, or the engine was not given it.
            IdConflictError: the id is taken. That is recorded.
            ActivityCancelledError: the child was cancelled.
            Exception: what the child failed of, made anew from its record. A restart of this activity that nothing was
                done about begins another child, with another id.

        Its deadline is not later than this activity's. Cancelling has the child cancelled too, unless it is to be
        abandoned, and does not wait for it.
        """
        wanted = Wanted(id=id, key=key, priority=priority, tags=tags, on_parent_end=on_parent_end)
        value: R = await run_child(self, activity, args, wanted)
        return value

    async def start(
        self,
        activity: Callable[[Context, *Ts], Running[R]],
        /,
        *args: *Ts,
        id: str | None = None,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, str] | None = None,
        on_parent_end: OnParentEnd = "cancel",
    ) -> Child[R]:
        """Start an activity as a child, which runs beside this one. Arguments and errors as with `run`.

        Returns:
            The child, whose start is durable.

        Cancelling leaves open whether it is started; one whose start is recorded runs.
        """
        wanted = Wanted(id=id, key=key, priority=priority, tags=tags, on_parent_end=on_parent_end)
        return await start_child(self, activity, args, wanted)

    # ------------------------------------------------------------------------------------------------ drawn values

    def now(self) -> dt.datetime:
        """The instant of the last outcome that the activity was given (its start, at first); the same at replay."""
        self._use()
        return self._run.now()

    def random(self) -> random.Random:
        """A generator of random numbers, seeded from the activity's seed and from where the call stands; the same at
        replay. Not for secrets."""
        return random.Random(self._drawn("random"))

    def uuid(self) -> uuid.UUID:
        """A UUID of version 8 (RFC 9562), from the activity's seed and from where the call stands, as at replay."""
        drawn = bytearray(self._drawn("uuid")[:16])
        drawn[6] = drawn[6] & 0x0F | 0x80
        drawn[8] = drawn[8] & 0x3F | 0x80
        return uuid.UUID(bytes=bytes(drawn))

    def patched(self, name: str, /) -> bool:
        """Whether a change of the code is in force here: guard it with `if ctx.patched("name"): …`, so that activities
        that are under way go on as they began.

        Args:
            name: the change's name.

        Returns:
            `True` where this branch of the activity comes here for the first time, which is recorded before anything
            that follows takes effect; `False` where it went past before, without the guard. The answer holds for every
            later call with this name in the branch, and at replay. Once no activity is left that was begun before the
            change, the guard can be taken out again.

        Raises:
            DefinitionError: the name is not one.
            FencedError: the run was given up.
        """
        self._use()
        check_name(name)
        run, scope = self._run, self._scope
        known = scope.drawn.get(name)
        if known is not None:
            return known
        new = scope.left is None and not self._is_over
        if new:
            if run.fenced:
                raise FencedError(GIVEN_UP)
            # It has no place in the order of the calls, so that the guard can be removed later.
            path = f"{scope.path}/patched" if scope.path else "patched"
            run.undurable, _ = self._record("value.drawn", path, '"of":"patched","value":true', name=name)
        scope.drawn[name] = new
        return new

    def _drawn(self, what: str) -> bytes:
        self._use()
        self._draws += 1
        run, scope = self._run, self._scope
        drawn = f"{run.seed_in(scope)}/{run.generation}/{scope.path}/{what}#{self._draws}"
        return hashlib.sha256(drawn.encode()).digest()

    # ------------------------------------------------------------------------------------------------ of all calls

    def _use(self) -> None:
        """The context belongs to the task that first uses it."""
        task = trio.lowlevel.current_task()
        if in_step():
            # It would work once, and not at a replay, which does not run the step again.
            self._run.misuse(ConcurrentContextError("a step cannot use the context; take it out into the activity"))
        if self._owner is not task:
            if self._owner is not None:
                self._run.misuse(
                    ConcurrentContextError(
                        f"the context of {self._owner.name} was used by {task.name}; "
                        "give each task ctx.branch(name), or use ctx.map"
                    )
                )
            self._owner = task

    async def _begin(self, call: str, path: str, digest: str) -> None:
        """Before anything new: everything recorded has been handed out, nobody has cancelled, and nothing holds."""
        if self._run.replay is not None:
            try:
                await self._run.replay.frontier()
            except trio.Cancelled:
                await self._abandoned(call, path, digest)
                raise
        if self._run.undurable:
            # What was drawn is committed before anything that follows from it takes effect.
            await self._run.journal.durable(self._run.undurable)
            self._run.undurable = 0
        await self._check(call, path, digest)

    async def _check(self, call: str, path: str, digest: str) -> None:
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            await self._abandoned(call, path, digest)
            raise
        if self._run.held:
            await self._run.hold(f"{call} {path}")
        if self._run.has_cancels:
            await self._refuse_if_cancelled(call, path, digest)

    async def _refuse_if_cancelled(self, call: str, path: str, digest: str) -> None:
        """Once its cancel is recorded, nothing begins outside a cleanup, whatever the user's own scopes shield."""
        if self._is_doomed:
            await self._run.wait_for_cancel(self)
        if self._is_cancelled:
            self._cut.append((call, path, digest))
            await raise_cancelled()

    async def _turn(self, record: StoredRecord) -> None:
        """Wait for a recorded outcome's turn. Where a cancel scope of the user's own ended the call, wait for the same
        cancel; until it comes, nothing further is handed out."""
        run = self._run
        if run.replay is not None:
            await run.replay.turn(record)
        if run.fenced:
            await run.hold()
        run.give(self._scope, record.seq, record.at)
        if record.kind == "call.abandoned":
            replay = run.replay
            if replay is None:
                await run.hold()
                return
            replay.awaited += 1
            try:
                await run.hold()
            finally:
                replay.awaited -= 1

    def _record(
        self,
        kind: str,
        path: str,
        facts: str,
        *,
        name: str | None = None,
        at: str | None = None,
        data: str | None = None,
        landed: Callable[[], None] | None = None,
    ) -> tuple[int, str]:
        run = self._run
        if self._scope.takings and kind not in NO_ACTS:
            self._scope.consume()
        at = at or run.stamp()
        seq = run.journal.append(
            run.id,
            kind,
            name=name,
            path=path,
            run=run.number,
            at=at,
            facts=f"{self._scope.facts},{facts}}}",
            data=data,
            landed=landed,
        )
        return seq, at

    @property
    def _is_cancelled(self) -> bool:
        """Whether the engine cancelled what the call stands in: this branch, or one around it, up to the cleanup that
        shields it; or that cleanup."""
        context: Context | None = self
        while context is not None:
            if self._shelter is not None and self._shelter.context is context:
                return self._shelter.cancel_scope.cancel_called
            if context._cancel_scope is not None and context._cancel_scope.cancel_called:
                return True
            context = context._parent
        return self._run.cancel_scope.cancel_called

    @property
    def _is_within_cancelled(self) -> bool:
        """Whether the engine cancelled this branch, or anything around it, whatever cleanup it stands in."""
        shelter = self._shelter
        while shelter is not None:
            if shelter.cancel_scope.cancel_called:
                return True
            shelter = shelter.outer
        context: Context | None = self
        while context is not None:
            if context._cancel_scope is not None and context._cancel_scope.cancel_called:
                return True
            context = context._parent
        return self._run.cancel_scope.cancel_called

    @property
    def _is_over(self) -> bool:
        """Whether the end of this branch, or of one around it, is recorded: nothing new is recorded in it."""
        branches = self._run.branches
        context: Context | None = self if branches else None
        while context is not None:
            if context._scope.path in branches:
                return True
            context = context._parent
        return False

    @property
    def _is_doomed(self) -> bool:
        """Whether a cancel of the activity was recorded that will come to the call, and has not come yet."""
        return self._run.cancelling is not None and self._shelter is None and not self._is_cancelled

    @property
    def _parent_facts(self) -> str:
        """The beginning of the facts of records that stand in the scope around."""
        assert self._parent is not None
        return self._parent._scope.facts

    async def _abandoned(self, call: str, path: str, digest: str, *, attempt: int | None = None) -> None:
        """Record that a cancel scope of the user's own ended a call, so that a replay waits there for the same. When
        this returns, that is durable and its turn has come. What the engine itself cancels leaves no such record."""
        run = self._run
        if self._is_cancelled:
            self._cut.append((call, path, digest))
            return
        facts = f'"digest":"{digest}","call":"{call}","nursery":{"true" if run.is_nursery_cancelled() else "false"}'
        if attempt is not None:
            facts += f',"attempt":{attempt}'
        if run.replay is not None:
            # What is recorded came before it.
            await run.replay.leave(lambda: self._is_cancelled)
        if self._is_doomed:
            await run.wait_for_cancel(self)
        if self._is_cancelled:
            self._cut.append((call, path, digest))
            return
        if run.held:
            return
        seq, at = self._record("call.abandoned", path, facts)
        await run.settle(seq, self)
        run.give(self._scope, seq, at)


def _applied(
    function: Callable[..., Any], step: Step[..., Any] | None, item: Any
) -> Callable[[Context], Awaitable[Any]]:
    """What a branch of a map runs."""
    if step is not None:
        return lambda context: context._step(step, (item,))
    if isinstance(function, Activity):
        wanted = Wanted(id=None, key=None, priority=0, tags=None, on_parent_end="cancel")
        return lambda context: run_child(context, function, (item,), wanted)
    return lambda context: function(context, item)


def _check_branch(call: str, function: object) -> None:
    if isinstance(function, Call) or inspect.iscoroutine(function):
        function.close()
    if not callable(function):
        raise DefinitionError(
            f"{call} was given {function!r}, which is no function; give one that takes the branch's context, as in "
            "lambda branch: branch.step(pack, line)"
        )


class _ActivityLogger(logging.LoggerAdapter[logging.Logger]):
    def __init__(self, run: Run) -> None:
        super().__init__(logging.getLogger(f"playbill.activity.{run.definition.name}"), {"activity": run.id})
        self._run = run

    def isEnabledFor(  # noqa: N802  (the logging module's name)
        self, level: int
    ) -> bool:
        return self._run.replay is None and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs
