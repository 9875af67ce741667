"""What whoever started an activity holds of it: its result, its status, and commands to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

import orjson
import trio

from engine.activities.execution import Ending, Execution
from engine.activities.obeying import Activities
from engine.codec import ValueCodec, codec_for, decode_error
from engine.errors import (
    ActivityCancelledError,
    ActivityFailedError,
    ActivityNotFoundError,
    PayloadError,
    WaitTimeoutError,
)
from engine.journal import ENDED, Store
from engine.messages import ActivityStatus, Asks

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_PLAIN = codec_for(Any)

_FOR_GOOD = ENDED - {ActivityStatus.FAILED}
"""One that has failed can be retried: what became of it is read from the journal."""


class Commanded(Protocol):
    """What a handle passes its commands on to: the engine."""

    async def cancel(self, target: str, /, *, by: str | None = None, reason: str | None = None) -> int: ...

    async def terminate(self, target: str, /, *, by: str | None = None, reason: str | None = None) -> int: ...

    async def pause(self, target: str, /, *, by: str | None = None, reason: str | None = None) -> int: ...

    async def resume(self, target: str, /, *, by: str | None = None, reason: str | None = None) -> int: ...

    async def send(
        self,
        target: str,
        message: object,
        /,
        *,
        message_id: str | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> int: ...

    async def ask(
        self,
        id: str,
        message: Asks[R],
        /,
        *,
        timeout: float | None = 5.0,
        by: str | None = None,
        reason: str | None = None,
    ) -> R: ...

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
    ) -> None: ...

    async def retry(
        self, target: str, /, *, timeout: float | None = None, by: str | None = None, reason: str | None = None
    ) -> int: ...

    async def fork(
        self, id: str, /, *, at: str, new_id: str | None = None, by: str | None = None, reason: str | None = None
    ) -> Handle[Any]: ...


class Handle(Generic[R_co]):
    """An activity, as seen from outside. It stays good after the activity has ended, and in another engine it can be
    had again by `engine.handle(id)`."""

    def __init__(
        self,
        id: str,
        journal: Store,
        activities: Activities,
        result: ValueCodec,
        commanded: Commanded,
        execution: Execution | None = None,
    ) -> None:
        self._id = id
        self._journal = journal
        self._activities = activities
        self._result = result
        self._commanded = commanded
        self._execution = execution

    @property
    def id(self) -> str:
        """The activity's id."""
        return self._id

    def __repr__(self) -> str:
        return f"<handle of activity {self._id!r}>"

    async def result(self, *, timeout: float | None = None) -> R_co:
        """Wait for the activity's end.

        Args:
            timeout: seconds to wait; for ever, unless given.

        Returns:
            What it returned.

        Raises:
            ActivityFailedError: it failed; `__cause__` is the recorded error.
            ActivityCancelledError: it was cancelled.
            ActivityNotFoundError: there is none of this id.
            WaitTimeoutError: it has not ended yet; it goes on.

        Cancelling ends the wait and leaves the activity alone.
        """
        await self.wait(*ENDED, timeout=timeout)
        ending = self._ending()
        if ending.status is ActivityStatus.COMPLETED:
            assert ending.data is not None
            value: R_co = self._result.decode_field(ending.data, "value", "result")
            return value
        if ending.status is ActivityStatus.CANCELLED:
            raise ActivityCancelledError(self._id, *self._asked_by(ending))
        assert ending.data is not None
        error = orjson.loads(ending.data)["error"]
        raise ActivityFailedError(
            self._id, error["type"], error["message"], error.get("traceback", ""), error.get("notes", ())
        ) from decode_error(error)

    def _ending(self) -> Ending:
        if self._execution is not None and self._execution.status in _FOR_GOOD:
            assert self._execution.ending is not None
            return self._execution.ending
        state = self._journal.activity(self._id)
        assert state is not None
        assert state.ended is not None
        record = self._journal.record(state.ended)
        assert record is not None
        if record.data is None and state.status is not ActivityStatus.CANCELLED:
            raise PayloadError("result", f"what activity {self._id!r} returned was erased")
        return Ending(state.status, record.data, record.facts.get("command"))

    def _asked_by(self, ending: Ending) -> tuple[str | None, str | None]:
        """Who asked for the cancel, and why, where a command did."""
        command = None if ending.command is None else self._journal.record(ending.command)
        return (None, None) if command is None else (command.by, command.load().get("reason"))

    async def status(self) -> ActivityStatus:
        """The activity's status, as far as it is durable. A checkpoint.

        Raises:
            ActivityNotFoundError: there is none of this id.
        """
        await trio.lowlevel.checkpoint()
        return self._status()

    def _status(self) -> ActivityStatus:
        if self._execution is not None and self._execution.status in _FOR_GOOD:
            return self._execution.status
        live = self._activities.live.get(self._id)
        if live is not None:
            self._execution = live
            return live.status
        state = self._journal.activity(self._id)
        if state is None:
            raise ActivityNotFoundError(self._id)
        return state.status

    async def wait(self, *statuses: ActivityStatus, timeout: float | None = None) -> ActivityStatus:
        """Wait until the activity is in one of these statuses.

        Args:
            statuses: which.
            timeout: seconds to wait; for ever, unless given.

        Returns:
            The status it is in.

        Raises:
            ActivityNotFoundError: there is none of this id.
            WaitTimeoutError: it is in none of them yet.

        Cancelling ends the wait and leaves the activity alone.
        """
        if timeout is None:
            return await self._change_to(statuses)
        with trio.move_on_after(timeout):
            return await self._change_to(statuses)
        asked = ", ".join(sorted(statuses))
        raise WaitTimeoutError(f"activity {self._id!r} is {self._status()}, not {asked}, after {timeout:g} s")

    async def _change_to(self, statuses: tuple[ActivityStatus, ...]) -> ActivityStatus:
        await trio.lowlevel.checkpoint_if_cancelled()
        while (status := self._status()) not in statuses:
            await self._activities.change(self._id)
        return status

    async def notes(self) -> Mapping[str, Any]:
        """What the activity has left word of with `ctx.note`, as far as it is durable: the last value of each name, as
        plain JSON values. What was erased is left out. A checkpoint.

        Raises:
            ActivityNotFoundError: there is none of this id.
        """
        await trio.lowlevel.checkpoint()
        self._status()
        return {
            record.name or "": _PLAIN.decode_field(record.data, "value")
            for record in self._journal.stream_after(self._id, 0)
            if record.kind == "note.added" and record.data is not None
        }

    async def send(
        self, message: object, /, *, message_id: str | None = None, by: str | None = None, reason: str | None = None
    ) -> None:
        """Send the activity a message, which is kept until `ctx.receive` takes it. Durable when it returns.

        Args:
            message: the message, of any type that can be encoded.
            message_id: its id; a new UUIDv7, unless given. The same id with the same message is kept once.
            by: who sends it.
            reason: why.

        Raises:
            PayloadError: the message cannot be encoded; nothing was recorded.
            IdConflictError: the activity was sent another message of this id.
            ActivityNotFoundError: there is no activity of this id. The refusal is recorded.
            ActivityEndedError: it has ended. The refusal is recorded.

        Cancelling leaves open whether it is recorded.
        """
        await self._commanded.send(self._id, message, message_id=message_id, by=by, reason=reason)

    async def ask(
        self, message: Asks[R], /, *, timeout: float | None = 5.0, by: str | None = None, reason: str | None = None
    ) -> R:
        """Send the activity a message, and wait for its answer.

        Args:
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

        Cancelling ends the wait and does not take the message back.
        """
        return await self._commanded.ask(self._id, message, timeout=timeout, by=by, reason=reason)

    async def cancel(self, *, by: str | None = None, reason: str | None = None) -> None:
        """Cancel the activity: its code is cancelled where it waits, its `ctx.cleanup` blocks take their steps, and it
        ends as `cancelled`. Durable when this returns; the end comes later, and can be waited for.

        Args:
            by: who asks.
            reason: why.

        Raises:
            ActivityNotFoundError: there is none of this id.
            CommandDeniedError: it has completed or failed, or `authorize` refused. The refusal is recorded.
            JournalFullError, JournalBusyError: it could not be recorded within `commit_within`, and may still be.

        Cancelling this call leaves open whether the command is recorded; what is recorded is obeyed.
        """
        await self._commanded.cancel(self._id, by=by, reason=reason)

    async def terminate(self, *, by: str | None = None, reason: str | None = None) -> None:
        """End the activity as it stands, as `cancelled`: nothing is cleaned up, and what its code still does through
        `ctx` has no effect. Arguments, errors and cancelling as with `cancel`."""
        await self._commanded.terminate(self._id, by=by, reason=reason)

    async def pause(self, *, by: str | None = None, reason: str | None = None) -> None:
        """Pause the activity: steps in flight end and are recorded, nothing new begins; its timers and messages are
        kept, and its deadline goes on. Arguments, errors and cancelling as with `cancel`; refused, too, where it is
        `blocked` or `cancelling`."""
        await self._commanded.pause(self._id, by=by, reason=reason)

    async def resume(self, *, by: str | None = None, reason: str | None = None) -> None:
        """Take the activity on, which is `paused`, or is `blocked` and had its code mended. Arguments, errors and
        cancelling as with `cancel`; refused, too, where it is neither, or this engine has no definition of it."""
        await self._commanded.resume(self._id, by=by, reason=reason)

    async def resolve(
        self,
        path: str,
        value: object = None,
        /,
        *,
        error: Exception | str | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Settle a step that was interrupted, and take the activity on, which is `blocked` on its account. Durable when
        it returns.

        Args:
            path: the step's path, as `StepInterruptedError` and the history say it.
            value: what the step is to have returned, where it took effect. One that does not fit its annotation leaves
                the activity `blocked`, for the step to be settled anew.
            error: what it is to have raised instead.
            by: who asks.
            reason: why.

        Raises:
            PayloadError: the value cannot be encoded.
            CommandDeniedError: the step does not stand interrupted. The refusal is recorded.
        """
        await self._commanded.resolve(self._id, path, value, error=error, by=by, reason=reason)

    async def retry(self, *, timeout: float | None = None, by: str | None = None, reason: str | None = None) -> None:
        """Run the activity again, which has failed, as far as nothing was done about what it failed of; see
        `Engine.retry`. Durable when it returns.

        Args:
            timeout: seconds until a new deadline; needed where the old one has passed.
            by: who asks.
            reason: why.

        Raises:
            CommandDeniedError: it has not failed, or something was done about all that it failed of. The refusal is
                recorded, and names where to fork it.
        """
        await self._commanded.retry(self._id, timeout=timeout, by=by, reason=reason)

    async def fork(
        self, *, at: str, id: str | None = None, by: str | None = None, reason: str | None = None
    ) -> Handle[R_co]:
        """Begin a new activity with this one's records up to a call, and do that call anew. Durable when it returns.

        See `Engine.fork`, which tells what the new activity takes over.

        Args:
            at: the path of the call, as `playbill show` prints it; or of a branch.
            id: the new activity's id; a new UUIDv7, unless given.
            by: who asks.
            reason: why.

        Returns:
            A handle of the new activity.

        Raises:
            CommandDeniedError: nothing is recorded under the path, or the activity has not begun. The refusal is
                recorded.
            IdConflictError: the id is taken by another activity. The refusal is recorded.

        Cancelling leaves open whether it is recorded; a fork that is recorded runs.
        """
        forked = await self._commanded.fork(self._id, at=at, new_id=id, by=by, reason=reason)
        execution = self._activities.live.get(forked.id)
        return Handle(forked.id, self._journal, self._activities, self._result, self._commanded, execution)
