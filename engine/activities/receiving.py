"""`ctx.receive`: the next message of some class, or nothing when its time is over.

A taking is an outcome as any other. What has to be waited for is a durable wait; of a message and the wait's end the
earlier instant wins, however late the engine looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import trio

from engine.activities.attempts import rebuilt
from engine.activities.definition import check_timeout
from engine.activities.inbox import Taker, Wanted
from engine.activities.waiting import Wait, after, rest_of, wait
from engine.codec import encode_error
from engine.journal import StoredRecord
from engine.journal.log import quoted
from engine.messages import Request

if TYPE_CHECKING:
    from engine.activities.context import Context
    from engine.activities.history import RecordedCall


async def receive(
    context: Context, types: Sequence[Any], where: Callable[[Any], bool] | None, timeout: float | None
) -> Any:
    """Receive the first message that is wanted; see `Context.receive`."""
    run = context._run
    context._use()
    if run.held:
        await run.hold()
    wanted = Wanted(types, where)
    if timeout is not None and timeout != 0:
        check_timeout("ctx.receive", timeout)
    path = context._scope.next_path("receive")
    digest = run.digest(orjson.dumps([wanted.names, timeout]).decode())
    recorded = run.match(context._scope, "receive", path, digest)
    if recorded is not None and recorded.outcome is not None:
        return await _given(context, wanted, path, recorded.outcome)
    resumed = run.replay is not None
    await context._begin("receive", path, digest)
    taker = Taker(
        Wait("receive", path, None),
        wanted,
        lambda: run.held or context._is_doomed or context._is_cancelled,
        math.inf,
        (0, path) if resumed else run.inbox.next_rank(),
    )
    seconds = _limit(context, taker, path, digest, recorded, timeout)
    await _wait(context, taker, digest, seconds, resumed=resumed)
    return await _settle(context, taker, path, digest)


async def _given(context: Context, wanted: Wanted, path: str, outcome: StoredRecord) -> Any:
    """A recorded outcome, at its turn."""
    run = context._run
    await context._turn(outcome)
    if outcome.kind == "message.failed":
        raise rebuilt(run, outcome.load()["error"], path)
    if outcome.kind == "timer.fired":
        return None
    message = run.message(outcome.facts["message"])
    context._scope.took(message)
    return _known(context, message, wanted.value_of(message))


def _limit(
    context: Context, taker: Taker, path: str, digest: str, recorded: RecordedCall | None, timeout: float | None
) -> float:
    """Say until when the call waits, and record it if it was not; returns the seconds that are left."""
    if timeout is None:
        return math.inf
    run = context._run
    if recorded is not None and recorded.begun is not None:
        taker.wait.due = recorded.begun.facts["due"]
        seconds = rest_of(recorded.begun.at, recorded.begun.facts["due"], run.stamp())
    else:
        at = run.stamp()
        seconds = timeout
        taker.wait.due = due = after(at, seconds)
        length = orjson.dumps(seconds).decode()
        context._record(
            "timer.set", path, f'"digest":"{digest}","due":"{due}","length":{length},"for":"receive"', at=at
        )
    taker.until = trio.current_time() + seconds
    return seconds


async def _wait(context: Context, taker: Taker, digest: str, seconds: float, *, resumed: bool) -> None:
    """Wait until the call is given a message, its predicate raises, or its time is over."""
    run = context._run
    inbox = run.inbox
    try:
        if resumed:
            await inbox.enter_in_order(taker)
        else:
            inbox.enter(taker)
        if taker.given is None and taker.error is None:
            await wait(taker.wait, context, digest, seconds=seconds)
        if taker.given is None and taker.error is None and inbox.coming:
            # One that was handed in before the time was over may not be durable yet.
            await run.journal.durable(max(inbox.coming))
        if run.held:
            await run.hold()
        if run.has_cancels:
            await context._refuse_if_cancelled("receive", taker.wait.path, digest)
    except BaseException:
        inbox.leave(taker)
        if taker.given is not None:
            inbox.put(taker.given)
        raise
    inbox.leave(taker)


async def _settle(context: Context, taker: Taker, path: str, digest: str) -> Any:
    """Record how the wait ended, and give that when it is durable."""
    run = context._run
    message, tree = taker.given, None
    if message is not None:
        facts = f'"digest":"{digest}","message":{quoted(message.facts["id"])}'
        seq, at = context._record("message.taken", path, facts, name=message.name)
    elif taker.error is not None:
        error, refused = taker.error
        tree = encode_error(error)
        facts = f'"digest":"{digest}","message":{quoted(refused.facts["id"])},"error":{quoted(tree["type"])}'
        data = f'{{"error":{orjson.dumps(tree).decode()}}}'
        seq, at = context._record("message.failed", path, facts, name=refused.name, data=data)
    else:
        seq, at = context._record("timer.fired", path, f'"digest":"{digest}"')
    if message is not None:
        context._scope.took(message)
    await run.settle(seq, context)
    run.give(context._scope, seq, at)
    if tree is not None:
        raise rebuilt(run, tree, path)
    return None if message is None else _known(context, message, taker.wanted.value_of(message))


def _known(context: Context, message: StoredRecord, value: Any) -> Any:
    """A message as user code is given it; a request is known by that object when it is answered."""
    if isinstance(value, Request):
        context._run.requests[id(value)] = (value, message)
    return value
