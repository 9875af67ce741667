"""`ctx.continue_as_new`: an activity goes on with nothing of its past but what it hands on to itself.

One record ends a generation and begins the next: it holds the arguments, and what goes on, the messages that were not
received and the children that run. Whoever reads the activity's history from then on begins there, so an activity that
goes on for ever costs no more than one generation does. The run that continued is given up, as one that is fenced.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NoReturn

import orjson
import trio

from engine.activities.attempts import check_size
from engine.activities.definition import Activity
from engine.activities.run import Run
from engine.errors import DefinitionError
from engine.journal.log import quoted

if TYPE_CHECKING:
    from engine.activities.context import Context


async def continue_as_new(context: Context, activity: Any, args: tuple[Any, ...]) -> NoReturn:
    """Go on as new; see `Context.continue_as_new`."""
    run = context._run
    context._use()
    if run.held:
        await run.hold()
    if context._scope.path or context._parent is not None:
        raise DefinitionError(
            "ctx.continue_as_new() was called in a branch or a cleanup; call it in the activity's own function, "
            "where no branch runs"
        )
    if not isinstance(activity, Activity):
        raise DefinitionError(f"{activity!r} is no activity; decorate it with @activity")
    if not run.around.family.knows(activity):
        raise DefinitionError(f"this engine was not given {activity!r}; name it, or its module, in Engine.open")
    text = activity.signature.encode(args)
    check_size(text, run.around.max_payload, "arguments")
    path = context._scope.next_path("continue_as_new")
    digest = run.digest(f"[{quoted(activity.name)},{text}]")
    recorded = run.match(context._scope, "continue_as_new", path, digest)
    if recorded is not None and recorded.outcome is not None:
        # A cancel scope of the user's own had ended it.
        await context._turn(recorded.outcome)
    await context._begin("continue_as_new", path, digest)
    await run.journal.durable(_record(run, activity, text))
    await run.hold()
    raise AssertionError("unreachable")


@trio.lowlevel.enable_ki_protection  # Ctrl-C must not part the record from the run's end
def _record(run: Run, activity: Activity[..., Any], args: str) -> int:
    started = run.started
    facts: dict[str, Any] = {
        "generation": run.generation + 1,
        "version": activity.version,
        "seed": hashlib.sha256(f"{started.facts['seed']}/{run.generation + 1}".encode()).hexdigest()[:32],
        "began": started.facts.get("began", started.at),
    }
    if run.deadline is not None:
        facts["deadline"] = run.deadline
    if run.cause is not None:
        facts["cause"] = run.cause
    unread = [message.seq for message in run.inbox.unread]
    if unread:
        facts["unread"] = unread
    if run.children:
        facts["children"] = {
            id: on_parent_end for id, on_parent_end in run.children.items() if not run.around.family.is_over(id)
        }
    seq = run.journal.append(
        run.id,
        "activity.continued",
        name=activity.name,
        run=run.number,
        facts=facts,
        data=f'{{"args":{args},"key":{orjson.dumps(run.key.hex()).decode()}}}',
    )
    run.continued = activity
    run.ended = True
    run.fence()
    return seq
