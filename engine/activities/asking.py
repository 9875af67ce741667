"""`ctx.ask` and `ctx.reply`: a message that is answered, and its answer.

The answer is recorded in the history of the activity that gives it, and copied into that of the activity that asked,
when its code is given it. Of an answer, the other's end without one, and the wait's own end the earliest wins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import orjson
import trio

from engine.activities.attempts import check_size
from engine.activities.definition import check_timeout
from engine.activities.posting import Letter
from engine.activities.sending import denied_error, record_denial
from engine.activities.waiting import Wait, after, rest_of, wait
from engine.codec import ValueCodec, codec_for
from engine.errors import ActivityEndedError, AskTimeoutError, DefinitionError, PlaybillError
from engine.journal import StoredRecord
from engine.journal.log import quoted
from engine.messages import Request, answer_annotation, check_id, new_id

if TYPE_CHECKING:
    from engine.activities.context import Context
    from engine.activities.history import RecordedCall


def answer_codec(message: object) -> ValueCodec:
    """How the answer to a message is written and read.

    Raises:
        DefinitionError: the message is no request.
    """
    if not isinstance(message, Request):
        raise DefinitionError(
            f"{type(message).__qualname__} is no Request; derive it from Request[…] to have an answer"
        )
    return codec_for(answer_annotation(type(message)))


def too_late(id: str, timeout: float | None) -> AskTimeoutError:
    """The error of an ask whose time is over."""
    return AskTimeoutError(f"activity {id!r} has not answered after {timeout:g} s; it may still do so")


async def ask(context: Context, id: str, message: object, timeout: float | None) -> Any:
    """Ask another activity; see `Context.ask`."""
    run = context._run
    context._use()
    if run.held:
        await run.hold()
    check_id(id)
    codec = answer_codec(message)
    if timeout is not None:
        check_timeout("ctx.ask", timeout)
    letter = Letter.of(message, run.around.max_payload)
    path = context._scope.next_path("ask")
    limit = orjson.dumps(timeout).decode()
    digest = run.digest(f"[{quoted(id)},{quoted(letter.type)},{letter.text},{limit}]")
    recorded = run.match(context._scope, "ask", path, digest)
    if recorded is not None and recorded.outcome is not None:
        await context._turn(recorded.outcome)
        return _given(recorded.outcome, id, codec, timeout)
    await context._begin("ask", path, digest)
    refusal = run.around.post.refusal(id) if recorded is None or recorded.begun is None else None
    if refusal is not None:
        seq, at = record_denial(context, "ask", path, digest, id, letter, refusal)
        await run.settle(seq, context)
        run.give(context._scope, seq, at)
        raise refusal
    asked, until, seconds = _begun(context, id, letter, path, digest, recorded, timeout)
    outcome = await _answered(context, id, asked, until, digest, seconds)
    return await _settle(context, id, letter, path, digest, asked, outcome, codec, timeout)


@trio.lowlevel.enable_ki_protection  # Ctrl-C must not part the message from its sender's record
def _begun(
    context: Context,
    id: str,
    letter: Letter,
    path: str,
    digest: str,
    recorded: RecordedCall | None,
    timeout: float | None,
) -> tuple[str, Wait, float]:
    """Send the message, if it was not; gives its id, and until when to wait, and the seconds that are left."""
    run = context._run
    if recorded is not None and recorded.begun is not None:
        begun = recorded.begun
        due = begun.facts.get("due")
        seconds = math.inf if due is None else rest_of(begun.at, due, run.stamp())
        return begun.facts["message"], Wait("ask", path, due), seconds
    asked = new_id()
    run.around.post.put(id, letter, id=asked, sender=run.id, asks=True)
    at = run.stamp()
    facts = f'"digest":"{digest}","call":"ask","message":"{asked}","to":{quoted(id)}'
    due = None if timeout is None else after(at, timeout)
    if due is not None:
        facts += f',"due":"{due}","length":{orjson.dumps(timeout).decode()}'
    context._record("message.sent", path, facts, name=letter.type, at=at)
    return asked, Wait("ask", path, due), math.inf if timeout is None else timeout


async def _answered(
    context: Context, id: str, asked: str, until: Wait, digest: str, seconds: float
) -> StoredRecord | None:
    """Wait for the answer; gives its record, or that of the other's end, or nothing where the time was over."""
    run = context._run
    post, family = run.around.post, run.around.family
    post.watch(id, asked, until.wake)
    family.watch(id, until.wake)
    try:
        outcome = post.answer(id, asked) or family.ending(id)
        if outcome is not None:
            until.wake(outcome.at)
        if not await wait(until, context, digest, seconds=seconds):
            # One that was given before the time was over may not have been durable yet.
            await run.journal.durable(run.journal.last_seq)
        outcome = post.answer(id, asked) or family.ending(id)
        return outcome if outcome is not None and (until.due is None or outcome.at <= until.due) else None
    finally:
        post.forget(id, asked)
        family.forget(id, until.wake)


async def _settle(
    context: Context,
    id: str,
    letter: Letter,
    path: str,
    digest: str,
    asked: str,
    outcome: StoredRecord | None,
    codec: ValueCodec,
    timeout: float | None,
) -> Any:
    """Record what came of the ask, and give that when it is durable."""
    run = context._run
    if outcome is None:
        facts, kind, data = f'"digest":"{digest}"', "timer.fired", None
    else:
        facts, kind, data = f'"digest":"{digest}","message":"{asked}","to":{quoted(id)}', "message.answered", None
        if outcome.kind == "message.replied":
            data = outcome.data
        else:
            facts += f',"status":"{outcome.kind.partition(".")[2]}"'
    seq, at = context._record(kind, path, facts, name=None if outcome is None else letter.type, data=data)
    await run.settle(seq, context)
    run.give(context._scope, seq, at)
    read = orjson.loads(f"{{{facts}}}")
    return _given(StoredRecord(seq, run.id, kind, None, path, run.number, at, None, read, data), id, codec, timeout)


def _given(outcome: StoredRecord, id: str, codec: ValueCodec, timeout: float | None) -> Any:
    """What an ask gives, by its outcome."""
    if outcome.kind == "message.denied":
        raise denied_error(outcome)
    if outcome.kind == "timer.fired":
        raise too_late(id, timeout)
    if "status" in outcome.facts:
        raise ActivityEndedError(id, outcome.facts["status"], unanswered=True)
    return codec.decode_field(outcome.data or "{}", "value", "answer")


async def reply(context: Context, message: object, value: object) -> None:
    """Answer a message; see `Context.reply`."""
    run = context._run
    context._use()
    if run.held:
        await run.hold()
    known = run.requests.get(id(message))
    if known is None or known[0] is not message:
        raise PlaybillError(
            f"ctx.reply was given {message!r}, which ctx.receive did not give; answer with the very object that it gave"
        )
    received = known[1]
    asked: str = received.facts["id"]
    if asked in run.answered:
        raise PlaybillError(f"message {asked} was answered already; a message has one answer")
    text = answer_codec(message).encode(value, "value")
    check_size(text, run.around.max_payload, "value")
    run.answered.add(asked)
    path = context._scope.next_path("reply")
    digest = run.digest(f"[{quoted(asked)},{text}]")
    recorded = run.match(context._scope, "reply", path, digest)
    if recorded is not None and recorded.outcome is not None:
        await context._turn(recorded.outcome)
        return
    await context._begin("reply", path, digest)
    at = run.stamp()
    seq, _ = context._record(
        "message.replied",
        path,
        f'"digest":"{digest}","message":{quoted(asked)}',
        name=received.name,
        at=at,
        data=f'{{"value":{text}}}',
        landed=lambda: run.around.post.answered(run.id, asked, at),
    )
    await run.settle(seq, context)
    run.give(context._scope, seq, at)
