"""`ctx.run` and `ctx.start`: activities as children of an activity.

A child's start is one commit with `child.started` in its parent's history; how it ended is copied there with
`child.ended`, when the parent comes to know it. What the parent's code is given is the decoded value, or the child's
own error, made anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import attrs
import orjson
import trio

from engine.activities.attempts import check_size
from engine.activities.calls import awaitable
from engine.activities.definition import Activity, check_timeout
from engine.activities.waiting import Wait, after, rest_of, wait
from engine.codec import codec_for, decode_error
from engine.errors import ActivityCancelledError, DefinitionError, IdConflictError, PayloadError, WaitTimeoutError
from engine.journal import StoredRecord
from engine.journal.log import quoted
from engine.messages import ActivityStatus, Asks, check_by, check_id

if TYPE_CHECKING:
    from engine.activities.context import Context
    from engine.activities.history import RecordedCall
    from engine.activities.run import Run

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

OnParentEnd = Literal["cancel", "abandon", "wait"]

CURRENT_CONTEXT: ContextVar[Context] = ContextVar("playbill_context")
"""The context of the activity, or of the branch, that a task runs: a child is used in whatever branch holds it."""

_TAGS = codec_for(dict[str, str])


@attrs.frozen(kw_only=True)
class Wanted:
    """What is asked for with a child.

    Attributes:
        id: its id, where one was given.
        key: its business key.
        priority: its priority.
        tags: texts to search by.
        on_parent_end: what becomes of it when its parent ends.
    """

    id: str | None
    key: str | None
    priority: int
    tags: Mapping[str, str] | None
    on_parent_end: OnParentEnd

    def __attrs_post_init__(self) -> None:
        if self.id is not None:
            check_id(self.id)
        if self.key is not None:
            check_by(self.key)
        if type(self.priority) is not int:
            raise PayloadError("priority", f"{self.priority!r} is no int")
        if self.tags:
            _TAGS.encode(dict(self.tags), "tags")
        if self.on_parent_end not in ("cancel", "abandon", "wait"):
            raise DefinitionError(f"on_parent_end={self.on_parent_end!r}: give 'cancel', 'wait' or 'abandon'")


async def run_child(context: Context, activity: Any, args: tuple[Any, ...], wanted: Wanted) -> Any:
    """Start a child and wait for its end; see `Context.run`."""
    path, digest, recorded = await _asked(context, "run", activity, args, wanted)
    if recorded is not None and recorded.outcome is not None:
        return await _given(context, "run", path, recorded, activity)
    await context._begin("run", path, digest)
    if recorded is None or recorded.begun is None:
        id, seq, _ = await _start(context, "run", path, digest, activity, args, wanted, anew=recorded is not None)
        await context._run.journal.durable(seq)
    else:
        id = recorded.begun.facts["id"]
    try:
        ended = await _wait_for_end(context, "run", id, path, digest, Wait("run", path, None), math.inf)
    except trio.Cancelled:
        _cancel_with(context, id, wanted.on_parent_end)
        raise
    assert ended is not None
    return await _end(context, "run", id, path, digest, ended, activity, final=False)


async def start_child(context: Context, activity: Any, args: tuple[Any, ...], wanted: Wanted) -> Child[Any]:
    """Start a child; see `Context.start`."""
    path, digest, recorded = await _asked(context, "start", activity, args, wanted)
    if recorded is not None and recorded.outcome is not None:
        await context._turn(recorded.outcome)
        if recorded.outcome.kind == "child.denied":
            raise _conflict(recorded.outcome)
        return Child(context, recorded.outcome.facts["id"], activity)
    await context._begin("start", path, digest)
    id, seq, at = await _start(context, "start", path, digest, activity, args, wanted)
    await context._run.settle(seq, context)
    context._run.give(context._scope, seq, at)
    return Child(context, id, activity)


# ---------------------------------------------------------------------------------------------------- starting


async def _asked(
    context: Context, call: str, activity: Any, args: tuple[Any, ...], wanted: Wanted
) -> tuple[str, str, RecordedCall | None]:
    """Where the call stands, and what is recorded of it."""
    run = context._run
    context._use()
    if run.held:
        await run.hold()
    if not isinstance(activity, Activity):
        raise DefinitionError(f"{activity!r} is no activity; decorate it with @activity, or run it with ctx.step")
    text = activity.signature.encode(args)
    check_size(text, run.around.max_payload, "arguments")
    path = context._scope.next_path(activity.name)
    digest = run.digest(f"[{quoted(activity.name)},{text},{orjson.dumps(wanted.id).decode()}]")
    return path, digest, run.match(context._scope, call, path, digest)


async def _start(
    context: Context,
    call: str,
    path: str,
    digest: str,
    activity: Any,
    args: tuple[Any, ...],
    wanted: Wanted,
    *,
    anew: bool = False,
) -> tuple[str, int, str]:
    """Record the start, or that its id is taken; gives the child's id, and the record with its instant."""
    run = context._run
    family = run.around.family
    if not family.knows(activity):
        raise DefinitionError(
            f"this engine was not given {activity!r}, which {run.definition.name} runs as a child; "
            "name it, or its module, in Engine.open"
        )
    id = f"{run.id}/{path}" if wanted.id is None else wanted.id
    if wanted.id is None or anew or run.is_fork:
        # Where a child failed and is tried anew, or was the child of the activity that was forked, its id is taken.
        id = family.free_id(id)
    check_id(id)
    facts = f'"digest":"{digest}","call":"{call}","id":{quoted(id)}'
    if not family.is_free(id):
        seq, at = context._record("child.denied", path, facts, name=activity.name)
        await run.settle(seq, context)
        run.give(context._scope, seq, at)
        raise IdConflictError(id, "it is taken by another activity; choose another id for the child")
    seq, at = _record_start(context, path, facts, activity, args, id, wanted)
    return id, seq, at


@trio.lowlevel.enable_ki_protection  # Ctrl-C must not part the child from its parent's record
def _record_start(
    context: Context, path: str, facts: str, activity: Any, args: tuple[Any, ...], id: str, wanted: Wanted
) -> tuple[int, str]:
    run = context._run
    seq, at = context._record(
        "child.started", path, f'{facts},"on_parent_end":"{wanted.on_parent_end}"', name=activity.name
    )
    run.around.family.start(
        run,
        activity,
        activity.signature.encode(args),
        id=id,
        key=wanted.key,
        priority=wanted.priority,
        tags=wanted.tags,
        is_bound=wanted.on_parent_end != "abandon",
    )
    run.children[id] = wanted.on_parent_end
    return seq, at


def _conflict(denied: StoredRecord) -> IdConflictError:
    return IdConflictError(denied.facts["id"], "it is taken by another activity; choose another id for the child")


# ---------------------------------------------------------------------------------------------------- ending


async def _given(context: Context, call: str, path: str, recorded: RecordedCall, activity: Any) -> Any:
    """A recorded end, at its turn."""
    outcome = recorded.outcome
    assert outcome is not None
    try:
        await context._turn(outcome)
    except trio.Cancelled:
        if recorded.begun is not None:
            _cancel_with(context, recorded.begun.facts["id"], recorded.begun.facts["on_parent_end"])
        raise
    if outcome.kind == "child.denied":
        raise _conflict(outcome)
    return _value_of(context._run, outcome, activity)


def _cancel_with(context: Context, id: str, on_parent_end: str) -> None:
    """The call was cancelled, and its child with it; not where the run is only given up."""
    run = context._run
    if on_parent_end != "abandon" and not run.fenced:
        run.around.family.cancel(id)


async def _wait_for_end(
    context: Context, call: str, id: str, path: str, digest: str, until: Wait, seconds: float
) -> StoredRecord | None:
    """Wait for a child's end; gives the record of it, or nothing where the time was over before."""
    run = context._run
    family = run.around.family
    family.watch(id, until.wake)
    try:
        ended = family.ending(id)
        if ended is not None:
            until.wake(ended.at)
        came = await wait(until, context, digest, seconds=seconds)
        if not came:
            # One that ended before the time was over may not have been durable yet.
            await run.journal.durable(run.journal.last_seq)
        ended = family.ending(id)
        return ended if ended is not None and (until.due is None or ended.at <= until.due) else None
    finally:
        family.forget(id, until.wake)


async def _end(
    context: Context,
    call: str,
    id: str,
    path: str,
    digest: str,
    ended: StoredRecord,
    activity: Any,
    *,
    final: bool,
) -> Any:
    """Record how a child ended, and give that when it is durable."""
    run = context._run
    status = ended.kind.partition(".")[2]
    facts = f'"digest":"{digest}","call":"{call}","id":{quoted(id)},"status":"{status}"'
    if status != ActivityStatus.COMPLETED:
        # Whoever cancelled it meant it, and a failure that is not this call's to begin anew is as it is.
        settled = final or status == ActivityStatus.CANCELLED
        facts += f',"final":{"true" if settled else "false"},"origins":{orjson.dumps([path]).decode()}'
        if "error" in ended.facts:
            facts += f',"error":{quoted(ended.facts["error"])}'
    seq, at = context._record("child.ended", path, facts, name=activity.name, data=ended.data)
    run.children.pop(id, None)
    await run.settle(seq, context)
    run.give(context._scope, seq, at)
    record = StoredRecord(
        seq, run.id, "child.ended", activity.name, path, run.number, at, None, orjson.loads(f"{{{facts}}}"), ended.data
    )
    return _value_of(run, record, activity)


def _value_of(run: Run, ended: StoredRecord, activity: Activity[..., Any]) -> Any:
    """What a child returned; raises what it failed of."""
    assert ended.path is not None
    id, status = ended.facts["id"], ended.facts["status"]
    if status == ActivityStatus.COMPLETED:
        return activity.signature.result.decode_field(ended.data or "{}", "value", "result")
    error: Exception = ActivityCancelledError(id)
    if status == ActivityStatus.FAILED:
        error = decode_error(ended.load()["error"], lambda name: run.find_class(name) or activity.find_class(name))
    run.remember(error, frozenset((ended.path,)))
    raise error


# ---------------------------------------------------------------------------------------------------- a child


@awaitable("child")
class Child(Generic[R_co]):
    """An activity started by an activity, with `ctx.start`; every method is a call, recorded in the caller's history,
    and belongs to the branch whose code calls it."""

    def __init__(self, context: Context, id: str, activity: Activity[..., R_co]) -> None:
        self._made_by = context
        self._run = context._run
        self._id = id
        self._activity = activity

    @property
    def id(self) -> str:
        """The child's id."""
        return self._id

    def __repr__(self) -> str:
        return f"<child {self._id!r}>"

    @property
    def _context(self) -> Context:
        context = CURRENT_CONTEXT.get(self._made_by)
        return context if context._run is self._run else self._made_by

    async def result(self, *, timeout: float | None = None) -> R_co:
        """Wait for the child's end.

        Args:
            timeout: seconds to wait; for ever, unless given. Durable, as those of `ctx.sleep` are.

        Returns:
            What it returned.

        Raises:
            Exception: what it failed of, made anew from its record.
            ActivityCancelledError: it was cancelled.
            WaitTimeoutError: it has not ended yet; it goes on, and can be waited for again.

        Cancelling ends the wait, and leaves the child alone.
        """
        context, run = self._context, self._run
        context._use()
        if run.held:
            await run.hold()
        if timeout is not None:
            check_timeout("child.result", timeout)
        path = context._scope.next_path("result")
        digest = run.digest(orjson.dumps([self._id, timeout]).decode())
        recorded = run.match(context._scope, "result", path, digest)
        if recorded is not None and recorded.outcome is not None:
            await context._turn(recorded.outcome)
            if recorded.outcome.kind == "timer.fired":
                raise self._too_late(timeout)
            value: R_co = _value_of(run, recorded.outcome, self._activity)
            return value
        await context._begin("result", path, digest)
        until, seconds = self._limit(context, path, digest, recorded, timeout)
        ended = await _wait_for_end(context, "result", self._id, path, digest, until, seconds)
        if ended is not None:
            value = await _end(context, "result", self._id, path, digest, ended, self._activity, final=True)
            return value
        seq, at = context._record("timer.fired", path, f'"digest":"{digest}"')
        await run.settle(seq, context)
        run.give(context._scope, seq, at)
        raise self._too_late(timeout)

    def _too_late(self, timeout: float | None) -> WaitTimeoutError:
        return WaitTimeoutError(f"child {self._id!r} has not ended after {timeout:g} s")

    def _limit(
        self, context: Context, path: str, digest: str, recorded: RecordedCall | None, timeout: float | None
    ) -> tuple[Wait, float]:
        """Until when to wait, recorded if it was not; and the seconds that are left."""
        if timeout is None:
            return Wait("result", path, None), math.inf
        if recorded is not None and recorded.begun is not None:
            due = recorded.begun.facts["due"]
            return Wait("result", path, due), rest_of(recorded.begun.at, due, self._run.stamp())
        at = self._run.stamp()
        due = after(at, timeout)
        length = orjson.dumps(timeout).decode()
        facts = f'"digest":"{digest}","due":"{due}","length":{length},"for":"result"'
        context._record("timer.set", path, facts, at=at)
        return Wait("result", path, due), timeout

    async def send(self, message: object, /) -> None:
        """Send the child a message: `ctx.send` with its id; see there."""
        await self._context.send(self._id, message)

    async def ask(self, message: Asks[R], /, *, timeout: float | None = 5.0) -> R:
        """Ask the child: `ctx.ask` with its id; see there."""
        return await self._context.ask(self._id, message, timeout=timeout)

    async def cancel(self, *, reason: str | None = None) -> None:
        """Ask for the child to be cancelled. Durable when this returns; its end comes later, and can be waited for.

        Args:
            reason: why.

        Cancelling does not take it back; at replay it is not asked again.
        """
        context, run = self._context, self._run
        context._use()
        if run.held:
            await run.hold()
        path = context._scope.next_path("cancel")
        digest = run.digest(orjson.dumps([self._id, reason]).decode())
        recorded = run.match(context._scope, "cancel", path, digest)
        if recorded is not None and recorded.outcome is not None:
            await context._turn(recorded.outcome)
            return
        await context._begin("cancel", path, digest)
        seq, at = context._record(
            "child.cancelled", path, f'"digest":"{digest}","id":{quoted(self._id)}', name=self._activity.name
        )
        run.around.family.ask_to_cancel(self._id, run.id, reason)
        await run.settle(seq, context)
        run.give(context._scope, seq, at)
