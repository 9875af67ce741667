"""The attempts at one step: run the function, record what came of it, wait, try again.

An attempt ends in one of four ways: it returns (`step.completed`), it raises or takes too long (`step.failed`, with the
instant of the next attempt where there is one), a cancel scope of the user's own ends it (`call.abandoned`), or the
engine ends it, and nothing is recorded. What user code is given is what a replay would give: the decoded copy of the
recorded value, the rebuilt error.

A step that is to be done at most once has one attempt, before which its intent is recorded (`step.intended`). Where the
intent is found with nothing after it, nobody knows whether the step took effect: `step.interrupted`, and no attempt.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import trio

from engine.activities.definition import Step
from engine.activities.heartbeats import Heartbeats, details_of
from engine.activities.history import RecordedCall
from engine.activities.processes import Done, Job
from engine.activities.step_info import CURRENT_STEP, StepInfo
from engine.activities.waiting import Wait, after, rest_of, wait
from engine.codec import decode_error, encode_error
from engine.errors import PayloadError, StepInterruptedError, StepTimeoutError
from engine.policies import Retry

if TYPE_CHECKING:
    from engine.activities.context import Context
    from engine.activities.run import Run
    from engine.activities.scopes import Scope


@attrs.define(slots=True)
class StepCall:
    """One call of a step, with all that its records need.

    Attributes:
        run: the run that makes it.
        scope: where it stands.
        context: the context it was made on.
        step: the step's description.
        name: its name here.
        path: its path.
        digest: commitment to its arguments.
        args: the arguments.
        text: the arguments as they are recorded: JSON text of the data's first field.
        retry: the policy that holds for it.
        timeout: seconds that an attempt may take.
        failed: how many live failed attempts are recorded.
        attempts: the number of the last attempt.
        beats: what attempts have left by heartbeat, if any did.
        is_attempting: whether an attempt is under way.
    """

    run: Run
    scope: Scope
    context: Context
    step: Step[..., Any]
    name: str
    path: str
    digest: str
    args: tuple[Any, ...]
    text: str
    retry: Retry
    timeout: float | None
    failed: int = 0
    attempts: int = 0
    beats: Heartbeats | None = None
    is_attempting: bool = False

    async def perform(self, recorded: RecordedCall | None) -> Any:
        """Attempt the step until it returns, or is not to be tried again; what was recorded of it before counts."""
        run = self.run
        if recorded is not None and recorded.begun is not None:
            await self._record_interruption()
            raise interrupted(run, self.path)
        # One that is to be done at most once has not begun before, or its intent would be recorded.
        self.attempts = 0 if self.step.at_most_once else self._attempts_before(recorded)
        if recorded is not None and (recorded.beat is not None or recorded.attempted is not None):
            left = details_of(recorded)
            self.beats = None if left is None else Heartbeats(left, self._record_heartbeat, run.around.errands)
        if recorded is not None and recorded.failures:
            self.failed = len(recorded.failures)
            last = recorded.failures[-1]
            due: str = last.facts["retry_at"]
            await self._wait_for_next(due, rest_of(last.at, due, run.stamp()))
        while True:
            self.attempts += 1
            started = run.stamp()
            run.around.flights.begin(run, self.path)
            run.attempts += 1
            try:
                result = await self._attempt()
            finally:
                run.around.flights.end()
                run.attempt_ended()
            if isinstance(result, _Failure):
                again = await self._record_failure(result.error, started, final=result.final, tree=result.tree)
                if again is None:
                    break
                await self._wait_for_next(*again)
            else:
                return await self._record_value(result, started)
        raise self._rebuilt

    def _attempts_before(self, recorded: RecordedCall | None) -> int:
        """How many attempts there may have been, with a record or without one."""
        run = self.run
        last = recorded.attempted if recorded is not None else None
        if last is None:
            return run.interruptions_of(self.path, self.scope.last_seq)
        before: int = last.facts["attempt"] + run.interruptions_of(self.path, last.seq)
        # Where it was the last of its attempts, the restart that tries it anew interrupted none.
        return before if "retry_at" in last.facts else max(last.facts["attempt"], before - 1)

    _rebuilt: Exception = attrs.field(init=False, default=None)

    # ------------------------------------------------------------------------------------------------ one attempt

    async def _attempt(self) -> Any:
        """Run the function once; its value, or a `_Failure`. Cancelled passes, recorded where it is the user's own."""
        if self.step.at_most_once:
            await self._record_intent()
        key = f"{self.run.id}/{self.run.generation}/{self.path}"
        details = None if self.beats is None else self.beats.details
        info = StepInfo(self.name, self.path, self.attempts, key, details, beat=self._beat)
        token = CURRENT_STEP.set(info)
        self.is_attempting = True
        try:
            if self.timeout is None:
                return await self._call(info)
            with trio.CancelScope(deadline=trio.current_time() + self.timeout) as scope:
                value = await self._call(info)
                if self.step.is_async or not scope.cancel_called:
                    return value
            # The thread was waited for, and is late.
            return _Failure(StepTimeoutError(self.path, self.timeout))
        except trio.Cancelled:
            await self._abandoned()
            raise
        except Exception as error:  # the edge where user code runs: whatever it raises is recorded
            return _Failure(error)
        except BaseExceptionGroup as group:
            # What a nursery of the step's own raised while it was being cancelled is part of that.
            cancelled = cancellation_in(group)
            if cancelled is None:
                raise
            await self._abandoned()
            raise cancelled from None
        finally:
            CURRENT_STEP.reset(token)
            self.is_attempting = False
            if self.beats is not None:
                self.beats.end()

    def _beat(self, text: str) -> None:
        """A heartbeat, in the loop or in the step's thread."""
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            trio.from_thread.run_sync(self._take, text)
        else:
            self._take(text)

    def _take(self, text: str) -> None:
        if self.is_attempting and not self.run.fenced:
            if self.beats is None:
                self.beats = Heartbeats(None, self._record_heartbeat, self.run.around.errands)
            self.beats.take(text)

    async def _call(self, info: StepInfo) -> Any:
        if self.step.is_async:
            return await self.step.function(*self.args)
        if self.step.process:
            return self._done(await self.run.around.workers.run(Job.of(self.step, self.args, info), self._take))
        # A thread is never left running: a cancellation waits for it, and its outcome is what counts; a timeout waits
        # for it too, so that the next attempt does not run beside it.
        # In a tuple, since Trio takes a coroutine that a thread returns for a mistake; here a lambda may return one.
        (value,) = await trio.to_thread.run_sync(lambda: (self.step.function(*self.args),))
        return await value if inspect.iscoroutine(value) else value

    def _done(self, done: Done) -> Any:
        """What came of an attempt in a process."""
        match done:
            case "value", text:
                return _Encoded(text)
            case "payload", (path, why):
                # The step has taken effect, so it must not be tried again.
                return _Failure(PayloadError(path, why), final=True)
            case _, tree:
                return _Failure(decode_error(tree, self.run.find_class), tree)

    # ------------------------------------------------------------------------------------------------ what is recorded

    def _record_heartbeat(self, text: str) -> None:
        """Record what an attempt leaves, without waiting for it."""
        run = self.run
        if run.fenced or run.ended:
            return
        facts = f'{self.scope.facts},"digest":"{self.digest}","attempt":{self.attempts}}}'
        data = f'{{"details":{text}}}'
        run.journal.append(
            run.id, "step.heartbeat", name=self.name, path=self.path, run=run.number, facts=facts, data=data
        )

    async def _record_intent(self) -> None:
        """Record that the only attempt is about to begin; durable when this returns."""
        run = self.run
        facts = f'{self.scope.facts},"digest":"{self.digest}","attempt":{self.attempts}}}'
        seq = run.journal.append(
            run.id,
            "step.intended",
            name=self.name,
            path=self.path,
            run=run.number,
            facts=facts,
            data=f"{{{self.text}}}",
        )
        await run.journal.durable(seq)
        if run.fenced:
            await run.hold()

    async def _record_interruption(self) -> None:
        """Record that nobody knows what became of the only attempt, which a process before this one began."""
        run = self.run
        at = run.stamp()
        origins = orjson.dumps([self.path]).decode()
        error = f"{StepInterruptedError.__module__}.{StepInterruptedError.__qualname__}"
        facts = f'{self.scope.facts},"digest":"{self.digest}","error":"{error}","final":true,"origins":{origins}}}'
        seq = run.journal.append(
            run.id, "step.interrupted", name=self.name, path=self.path, run=run.number, at=at, facts=facts
        )
        await run.settle(seq, self.context)
        run.give(self.scope, seq, at)

    async def _record_value(self, value: Any, started: str) -> Any:
        codec = self.step.signature.result
        try:
            text = value.text if type(value) is _Encoded else codec.encode(value, "result")
            check_size(text, self.run.around.max_payload, "result")
        except PayloadError as error:
            # The step has taken effect, so it must not be tried again.
            await self._record_failure(error, started, final=True)
            raise self._rebuilt from None
        if self.run.ended:
            await self.run.hold()
        if self.scope.takings:
            self.scope.consume()
        at = self.run.stamp()
        seq = self.run.journal.append(
            self.run.id,
            "step.completed",
            name=self.name,
            path=self.path,
            run=self.run.number,
            at=at,
            facts=f'{self.scope.facts},"digest":"{self.digest}","attempt":{self.attempts},"started":"{started}"}}',
            data=f'{{{self.text},"value":{text}}}',
        )
        await self.run.settle(seq, self.context)
        self.run.give(self.scope, seq, at)
        return codec.decode(text)

    async def _record_failure(
        self, error: Exception, started: str, *, final: bool = False, tree: dict[str, Any] | None = None
    ) -> tuple[str, float] | None:
        """Record a failed attempt; returns the instant of the next and the seconds until then, `None` where there is
        none."""
        run = self.run
        if run.ended:
            await run.hold()
        self.failed += 1
        final = final or self.step.at_most_once or self.retry.is_final(error)
        delay = None if final else self.retry.delay_after(self.failed, error)
        tree = encode_error(error) if tree is None else tree
        at = run.stamp()
        facts = (
            f'{self.scope.facts},"digest":"{self.digest}","attempt":{self.attempts},"started":"{started}",'
            f'"error":{orjson.dumps(tree["type"]).decode()},"final":{"true" if final else "false"},'
            f'"origins":{orjson.dumps([self.path]).decode()}'
        )
        left = "" if self.beats is None or self.beats.last is None else f',"details":{self.beats.last}'
        due = None if delay is None else after(at, delay)
        if due is not None:
            facts += f',"retry_at":"{due}"'
        if self.scope.takings:
            self.scope.consume()
        seq = run.journal.append(
            run.id,
            "step.failed",
            name=self.name,
            path=self.path,
            run=run.number,
            at=at,
            facts=facts + "}",
            data=f'{{{self.text},"error":{orjson.dumps(tree).decode()}{left}}}',
        )
        if delay is not None and due is not None:
            # No outcome: user code is given nothing, neither now nor at replay.
            await run.journal.durable(seq)
            self.scope.last_seq = seq
            return due, delay
        await run.settle(seq, self.context)
        run.give(self.scope, seq, at)
        self._rebuilt = rebuilt(run, tree, self.path)
        return None

    async def _wait_for_next(self, due: str, seconds: float) -> None:
        await wait(Wait("step", self.path, due), self.context, self.digest, seconds=seconds, attempt=self.attempts)

    async def _abandoned(self) -> None:
        await self.context._abandoned("step", self.path, self.digest, attempt=self.attempts)


@attrs.frozen(slots=True)
class _Failure:
    error: Exception
    tree: dict[str, Any] | None = None
    final: bool = False


@attrs.frozen(slots=True)
class _Encoded:
    text: str


def cancellation_in(group: BaseExceptionGroup[BaseException]) -> trio.Cancelled | None:
    """The first cancellation in a group, if there is one."""
    for member in group.exceptions:
        found = cancellation_in(member) if isinstance(member, BaseExceptionGroup) else member
        if isinstance(found, trio.Cancelled):
            return found
    return None


def rebuilt(run: Run, tree: dict[str, Any], path: str) -> Exception:
    """A recorded error as user code is given it, live and at replay alike."""
    error = decode_error(tree, run.find_class)
    run.remember(error, frozenset((path,)))
    return error


def interrupted(run: Run, path: str) -> StepInterruptedError:
    """The error of an interrupted step as user code is given it, live and at replay alike."""
    error = StepInterruptedError(path)
    run.remember(error, frozenset((path,)))
    return error


def check_size(text: str, most: int, path: str) -> None:
    """Refuse a payload that is too large.

    Raises:
        PayloadError: it is.
    """
    # A character has at most four bytes: nearly every payload passes without being encoded.
    if len(text) * 4 > most and len(text.encode()) > most:
        raise PayloadError(path, f"larger than {most:,} bytes; keep large values elsewhere and pass on where they are")
