"""`ctx.send`: a message to another activity, recorded in both histories in one commit, or refused in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.activities.posting import Letter
from engine.errors import ActivityEndedError, ActivityNotFoundError, CommandDeniedError
from engine.journal import StoredRecord
from engine.journal.log import quoted
from engine.messages import check_id, new_id

if TYPE_CHECKING:
    from engine.activities.context import Context


async def send(context: Context, id: str, message: object) -> None:
    """Send a message; see `Context.send`."""
    run = context._run
    context._use()
    if run.held:
        await run.hold()
    check_id(id)
    letter = Letter.of(message, run.around.max_payload)
    path = context._scope.next_path("send")
    digest = run.digest(f"[{quoted(id)},{quoted(letter.type)},{letter.text}]")
    recorded = run.match(context._scope, "send", path, digest)
    if recorded is not None and recorded.outcome is not None:
        await context._turn(recorded.outcome)
        if recorded.outcome.kind == "message.denied":
            raise denied_error(recorded.outcome)
        return
    await context._begin("send", path, digest)
    refusal = run.around.post.refusal(id)
    if refusal is None:
        sent = run.around.post.put(id, letter, id=new_id(), sender=run.id)
        facts = f'"digest":"{digest}","call":"send","message":"{sent.facts["id"]}","to":{quoted(id)}'
        seq, at = context._record("message.sent", path, facts, name=letter.type)
    else:
        seq, at = record_denial(context, "send", path, digest, id, letter, refusal)
    await run.settle(seq, context)
    run.give(context._scope, seq, at)
    if refusal is not None:
        raise refusal


def record_denial(
    context: Context, call: str, path: str, digest: str, id: str, letter: Letter, refusal: CommandDeniedError
) -> tuple[int, str]:
    """Record that a message was refused: as a command, where the receiver's are, and as the call's outcome."""
    context._run.around.post.deny(id, letter, refusal, sender=context.id)
    status = f',"status":"{refusal.status}"' if isinstance(refusal, ActivityEndedError) else ""
    return context._record(
        "message.denied",
        path,
        f'"digest":"{digest}","call":"{call}","to":{quoted(id)}{status}',
        name=letter.type,
        data=f'{{"value":{letter.text}}}',
    )


def denied_error(record: StoredRecord) -> CommandDeniedError:
    """The refusal that a record tells of, as it was raised."""
    to, status = record.facts["to"], record.facts.get("status")
    return ActivityNotFoundError(to) if status is None else ActivityEndedError(to, status)
