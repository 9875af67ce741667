"""The table of record kinds: what each kind's `name`, `facts` and `data` hold, and the activity's status after it.

The journal's projections take the status from this table, `verify` refuses kinds that are not in it, and
`docs/reference/records.md` is printed from it (`python docs/make_reference.py`); there is no second list.

`facts` is what the engine made: it is never erased, and resuming, projections and lineage need nothing else. `data` is
what users made: arguments, results, error texts, reasons. A field with a question mark stands only where it applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from engine.messages import ActivityStatus

ENGINE_STREAM = "/engine"
"""The stream of the engine itself, and of events that come from outside."""

SUBSCRIBER_STREAMS = "/subscribers/"
"""What the stream of a subscriber begins with; its name follows."""


@attrs.frozen(kw_only=True)
class Kind:
    """One line of the table.

    Attributes:
        kind: the record's kind.
        stream: whose stream it stands in.
        meaning: what happened, in a sentence.
        name: what the column `name` holds, `None` where it is NULL.
        facts: the fields of `facts` and what each holds.
        data: the fields of `data` and what each holds; empty where there never is any.
        status: the activity's status after the record, `None` where it stays what it was.
        call: whether the record belongs to a call of the activity's code, which has `path`, `run` and `generation`.
    """

    kind: str
    stream: str
    meaning: str
    name: str | None = None
    facts: Mapping[str, str] = {}
    data: Mapping[str, str] = {}
    status: ActivityStatus | None = None
    call: bool = False


_RUN = {"generation": "how often the activity went on as new before; 0 at first"}
_CALL = {
    **_RUN,
    "scope": "path of the branch the call stands in; empty for the activity's own function",
    "copied?": "in an activity that was forked: `seq` of the record of which this is a copy",
}
_ASKED = {**_CALL, "digest": "commitment to the call's encoded arguments, by which replay compares them"}
_BEFORE = {"before": "how many records of the stream stand before this one, and the hash chain over their leaves"}
_ERROR = {"error": "type, message, arguments, notes, traceback, cause and members of the exception"}
_ORIGINS = {"origins": "paths of the step failures that the exception carries"}
_CANCELLING = {"cancelling?": "true where a cancel was recorded before, so that it is `cancelling` again"}
_FOUND = {"task": "name of the task: the actor's path, or what it runs in a nursery"}
_ATTEMPT = {"attempt": "number of the attempt, from 1", "started": "instant at which the attempt began"}


def _lifecycle() -> list[Kind]:
    activity = "activity"
    return [
        Kind(
            kind="activity.started",
            stream=activity,
            meaning="The activity's first run begins.",
            name="the activity definition's name",
            facts={
                **_RUN,
                "version": "the definition's version",
                "seed": "what `ctx.random()` and `ctx.uuid()` derive from",
                "deadline?": "instant at which the activity's time is over",
                "forked_from?": "id of the activity from which it was forked",
                "cut?": "where: `at`, the path; `began`, when the original began; `seeds`, those of the "
                "originals, each with the `seq` up to which it was theirs; `entered`, for branches that had waited for "
                "their slots, the instant that `ctx.now()` gave there",
            },
            data={"args": "the arguments", "key": "what the digests of this activity's calls are keyed with, in hex"},
            status=ActivityStatus.RUNNING,
        ),
        Kind(
            kind="activity.resumed",
            stream=activity,
            meaning="The activity goes on from its records, in another process or after having been parked or blocked.",
            name="the activity definition's name",
            facts={
                **_RUN,
                "cause": "`opened` (a journal with unfinished work was opened), `unparked` (its wait is over, or "
                "it was cancelled), `resumed` (by command, when it was blocked) or `unpaused` (by a command)",
                "clean": "whether the engine before had closed the journal properly",
                **_CANCELLING,
            },
            status=ActivityStatus.RUNNING,
        ),
        Kind(
            kind="activity.parked",
            stream=activity,
            meaning="The activity waits, and is given up in memory until what it waits for comes.",
            name="the activity definition's name",
            facts={
                **_RUN,
                "waits": "for each wait the `call` that waits, its `path`, and the instant at which it is `due`, where "
                "there is one",
                "due?": "the first of these instants",
            },
            status=ActivityStatus.WAITING,
        ),
        Kind(
            kind="activity.crashed",
            stream=activity,
            meaning="An exception left the activity's function, and it will be run again.",
            name="the activity definition's name",
            facts={
                **_RUN,
                "error": "the exception's type",
                **_ORIGINS,
                "superseded": "paths whose outcome the next run forgets, and tries anew",
                "retry_at": "instant of the next run",
                **_CANCELLING,
            },
            data=_ERROR,
            status=ActivityStatus.RUNNING,
        ),
        Kind(
            kind="activity.cancelling",
            stream=activity,
            meaning="The activity is cancelled: from here on nothing begins but what stands in `ctx.cleanup`.",
            name="the activity definition's name",
            facts={
                **_RUN,
                "cause": "`command` or `deadline`",
                "command?": "seq of the command",
                "kept?": "true where the activity is `blocked`, and stays so until it runs again",
            },
            status=ActivityStatus.CANCELLING,
        ),
        Kind(
            kind="activity.continued",
            stream=activity,
            meaning="The activity goes on as new: nothing before this record is read for a resume, but what it names.",
            name="the name of the definition with which it goes on",
            facts={
                **_RUN,
                "version": "the definition's version",
                "seed": "what `ctx.random()` and `ctx.uuid()` derive from",
                "began": "instant at which the activity's first run began",
                "deadline?": "instant at which the activity's time is over",
                "unread?": "seqs of the messages that it has not received",
                "children?": "ids of the children that run, each with what becomes of it when the activity ends",
                "cause?": "id of the event that led to the activity",
            },
            data={"args": "the arguments", "key": "what the digests of this activity's calls are keyed with, in hex"},
            status=ActivityStatus.RUNNING,
        ),
        Kind(
            kind="activity.retried",
            stream=activity,
            meaning="The activity had failed, and is run again.",
            name="the activity definition's name",
            facts={
                **_RUN,
                "command": "seq of the command",
                "superseded": "paths whose outcome the next run forgets, and tries anew",
                "deadline?": "the new instant at which its time is over",
                **_CANCELLING,
                **_BEFORE,
            },
            status=ActivityStatus.RUNNING,
        ),
        Kind(
            kind="activity.paused",
            stream=activity,
            meaning="The activity is paused: steps in flight end and are recorded, nothing new begins.",
            name="the activity definition's name",
            facts={**_RUN, "command": "seq of the command"},
            status=ActivityStatus.PAUSED,
        ),
        Kind(
            kind="activity.blocked",
            stream=activity,
            meaning="The activity cannot go on until its code is mended, its definition is there again, or a step is "
            "settled.",
            name="the activity definition's name",
            facts={
                **_RUN,
                "cause": "`nondeterminism` (the code does not fit the history), `definition` (there is none here) or "
                "`poison` (it was running each time that the process ended)",
                "recorded": "the call that the history holds, or what it needs",
                "asked": "the call that the code made, or what there is",
            },
            status=ActivityStatus.BLOCKED,
        ),
        Kind(
            kind="activity.completed",
            stream=activity,
            meaning="The activity's function returned.",
            name="the activity definition's name",
            facts={**_RUN, **_BEFORE},
            data={"value": "what it returned"},
            status=ActivityStatus.COMPLETED,
        ),
        Kind(
            kind="activity.failed",
            stream=activity,
            meaning="An exception left the activity's function, and it will not be run again.",
            name="the activity definition's name",
            facts={
                **_RUN,
                "error": "the exception's type",
                **_ORIGINS,
                "open": "paths of carried failures that nothing was done about",
                "acted_upon": "paths of carried failures that were final, or that something was done about",
                "why": "`fatal`, `limit` (of its `Restart`), `acted_upon`, `payload` (its result cannot be encoded), "
                "`deadline` or `fault` (of Playbill's own)",
                **_BEFORE,
            },
            data=_ERROR,
            status=ActivityStatus.FAILED,
        ),
        Kind(
            kind="activity.cancelled",
            stream=activity,
            meaning="The activity was cancelled, and all its cleanups were left; or it was terminated.",
            name="the activity definition's name",
            facts={
                **_RUN,
                "cause": "`command` (to cancel), or `terminate` (by command, or since `cancel_within` was over)",
                "command?": "seq of the command",
                **_BEFORE,
            },
            status=ActivityStatus.CANCELLED,
        ),
    ]


def _calls() -> list[Kind]:
    activity = "activity"
    step = "the step's name"
    return [
        Kind(
            kind="step.completed",
            stream=activity,
            meaning="A step returned; it never runs again.",
            name=step,
            facts={**_ASKED, **_ATTEMPT},
            data={"args": "the arguments", "value": "what it returned"},
            call=True,
        ),
        Kind(
            kind="step.failed",
            stream=activity,
            meaning="An attempt at a step failed or took too long.",
            name=step,
            facts={
                **_ASKED,
                **_ATTEMPT,
                "error": "the exception's type",
                "final": "whether no restart may try it anew",
                "retry_at?": "instant of the next attempt, where there is one",
                **_ORIGINS,
            },
            data={"args": "the arguments", **_ERROR, "details?": "what attempts have left by heartbeat"},
            call=True,
        ),
        Kind(
            kind="step.heartbeat",
            stream=activity,
            meaning="An attempt at a step is under way, and leaves what the next one may begin with.",
            name=step,
            facts={**_ASKED, "attempt": "number of the attempt, from 1"},
            data={"details": "what it leaves"},
            call=True,
        ),
        Kind(
            kind="step.intended",
            stream=activity,
            meaning="The only attempt at a step begins that is to be done at most once.",
            name=step,
            facts={**_ASKED, "attempt": "number of the attempt: 1"},
            data={"args": "the arguments"},
            call=True,
        ),
        Kind(
            kind="step.interrupted",
            stream=activity,
            meaning="The process ended in the only attempt at a step: whether it took effect is not known.",
            name=step,
            facts={
                **_ASKED,
                "error": "`engine.errors.StepInterruptedError`",
                "final": "true: no restart may try it anew",
                **_ORIGINS,
            },
            call=True,
        ),
        Kind(
            kind="step.resolved",
            stream=activity,
            meaning="Somebody found out what became of an interrupted step, and the activity goes on with that.",
            name=step,
            facts={
                **_ASKED,
                "command": "seq of the command",
                "superseded": "paths whose outcome the next run forgets: what followed from the interruption",
                "error?": "the error's type, where it was resolved with one",
                "final?": "true, beside an error",
                "origins?": _ORIGINS["origins"],
            },
            data={"value?": "what the step is taken to have returned", "error?": _ERROR["error"]},
            call=True,
        ),
        Kind(
            kind="timer.set",
            stream=activity,
            meaning="The activity began to wait.",
            facts={
                **_ASKED,
                "due": "instant at which the wait is over",
                "length": "seconds until then",
                "for": "which call waits: `sleep`, `sleep_until` or `receive`",
            },
            call=True,
        ),
        Kind(
            kind="timer.fired",
            stream=activity,
            meaning="The wait is over; or a cleanup's allowance is.",
            facts={**_ASKED, "for?": "`cleanup`"},
            call=True,
        ),
        Kind(
            kind="event.emitted",
            stream=activity,
            meaning="The activity published an event.",
            name="the topic",
            facts={**_ASKED, "id": "the event's id", "key?": "its key", "cause?": "id of the event that led to it"},
            data={"data": "the event's data", "headers?": "its headers"},
            call=True,
        ),
        Kind(
            kind="note.added",
            stream=activity,
            meaning="The activity left word of how it stands.",
            name="the note's name",
            facts=_ASKED,
            data={"value": "what it says"},
            call=True,
        ),
        Kind(
            kind="value.drawn",
            stream=activity,
            meaning="A change of the code is in force in this scope, from here on and at every replay.",
            name="the change's name",
            facts={**_CALL, "of": "`patched`", "value": "true"},
            call=True,
        ),
        Kind(
            kind="event.copied",
            stream=activity,
            meaning="An event that the original had published; no subscriber is given it here.",
            name="the topic",
            facts={
                **_ASKED,
                "id": "the event's id",
                "source": "id of the activity that published it",
                "key?": "its key",
                "cause?": "id of the event that led to it",
            },
            data={"data": "the event's data", "headers?": "its headers"},
            call=True,
        ),
        Kind(
            kind="scope.opened",
            stream=activity,
            meaning="Branches side by side began, or a cleanup did.",
            name="of a map: name of the function that each branch runs",
            facts={
                **_ASKED,
                "of": "`map`, `gather`, `race` or `cleanup`",
                "size?": "how many branches, where they have no names",
                "names?": "of a race: the names of its branches",
                "limit?": "of a map: how many at once, or null",
                "cut?": "of a cleanup: the calls before it that a cancel ended (name, path, digest), without a record",
            },
            call=True,
        ),
        Kind(
            kind="branch.ended",
            stream=activity,
            meaning="A branch ended.",
            facts={
                **_CALL,
                "outcome": "`value`, `error`, `cancelled` or `late` (it ended after the scope was decided)",
                "digest?": "commitment to its value, where that encodes",
                "error?": "the exception's type",
                "returned?": "of one that lost: ids of the messages that it gives back",
                **_ORIGINS,
            },
            data=_ERROR,
            call=True,
        ),
        Kind(
            kind="scope.ended",
            stream=activity,
            meaning="All branches of a scope have ended, and the call that opened it returns or raises; or a cleanup "
            "was left.",
            facts={**_CALL, "decided": "path of the branch whose end decided it, or null", **_ORIGINS},
            call=True,
        ),
        Kind(
            kind="call.abandoned",
            stream=activity,
            meaning="A cancel scope of the user's own ended the call; replay waits there for the same cancel.",
            facts={
                **_ASKED,
                "call": "which call it was, as `step`",
                "nursery": "whether a nursery around the call was cancelled",
                "attempt?": "of a step that had begun: the number of the attempt that was under way",
            },
            call=True,
        ),
    ]


def _children() -> list[Kind]:
    activity = "activity"
    name = "name of the child's definition"
    child = {**_ASKED, "call": "which call it was: `run`, `start` or `result`", "id": "the child's id"}
    return [
        Kind(
            kind="child.started",
            stream=activity,
            meaning="The activity started a child; the child's own start is of the same commit.",
            name=name,
            facts={**child, "on_parent_end": "what becomes of it when this one ends: `cancel`, `wait` or `abandon`"},
            call=True,
        ),
        Kind(
            kind="child.denied",
            stream=activity,
            meaning="The activity would have started a child under an id that is taken.",
            name=name,
            facts=child,
            call=True,
        ),
        Kind(
            kind="child.ended",
            stream=activity,
            meaning="The activity came to know how a child ended.",
            name=name,
            facts={
                **child,
                "status": "`completed`, `failed` or `cancelled`",
                "error?": "the exception's type",
                "final?": "of one that did not complete: whether no restart begins another",
                "origins?": "of one that did not complete: the path of this call",
            },
            data={"value?": "what it returned", **{f"{field}?": what for field, what in _ERROR.items()}},
            call=True,
        ),
        Kind(
            kind="child.cancelled",
            stream=activity,
            meaning="The activity asked for a child to be cancelled.",
            name=name,
            facts={**_ASKED, "id": "the child's id"},
            call=True,
        ),
    ]


def _messages() -> list[Kind]:
    activity = "activity"
    name = "the message's class, as `package.module.Class`"
    message = {"message": "the message's id"}
    return [
        Kind(
            kind="message.received",
            stream="the receiver's",
            meaning="A message came; it is kept until the activity receives it.",
            name=name,
            facts={
                "id": "the message's id",
                "handed_in": "instant at which it was handed in",
                "sender?": "id of the activity that sent it, where one did",
                "asks?": "`true` where the sender waits for an answer",
            },
            data={"value": "the message"},
        ),
        Kind(
            kind="message.taken",
            stream=activity,
            meaning="The activity received a message.",
            name=name,
            facts={**_ASKED, **message},
            call=True,
        ),
        Kind(
            kind="message.failed",
            stream=activity,
            meaning="The predicate of a call that waits for a message raised; the message stays unread.",
            name=name,
            facts={**_ASKED, **message, "error": "the exception's type"},
            data=_ERROR,
            call=True,
        ),
        Kind(
            kind="message.unread",
            stream=activity,
            meaning="The activity ends, and has not received the message.",
            name=name,
            facts={**_RUN, **message},
        ),
        Kind(
            kind="message.replied",
            stream=activity,
            meaning="The activity answered a message.",
            name=name,
            facts={**_ASKED, **message},
            data={"value": "the answer"},
            call=True,
        ),
        Kind(
            kind="message.answered",
            stream=activity,
            meaning="The activity was given the answer that it had asked for, or came to know that there will be none.",
            name=name,
            facts={
                **_ASKED,
                **message,
                "to": "the id of the activity that was asked",
                "status?": "where there is no answer: how that one ended",
            },
            data={"value?": "the answer"},
            call=True,
        ),
        Kind(
            kind="message.sent",
            stream=activity,
            meaning="The activity sent a message; its `message.received` is of the same commit.",
            name=name,
            facts={
                **_ASKED,
                **message,
                "call": "which call it was: `send` or `ask`",
                "to": "the receiver's id",
                "due?": "of an ask: instant at which its time is over",
                "length?": "of an ask: seconds until then",
            },
            call=True,
        ),
        Kind(
            kind="message.denied",
            stream=activity,
            meaning="The activity sent a message to one that there is not, or that has ended.",
            name=name,
            facts={
                **_ASKED,
                "call": "which call it was: `send` or `ask`",
                "to": "the id that was meant",
                "status?": "how that one ended, where there is one",
            },
            data={"value": "the message"},
            call=True,
        ),
    ]


def _commands() -> list[Kind]:
    asked = {
        "command": "what was asked: `start`, `send`, `cancel`, `terminate`, `pause`, `resume`, `resolve` or `fork`",
        "via": "through what it came: `engine`, `cli` or `activity`",
        "origin": "user, host and process it came from, or the id of the activity",
    }
    return [
        Kind(
            kind="command.accepted",
            stream="the target's",
            meaning="A command was recorded, and is obeyed.",
            name="the activity definition's name",
            facts={
                **asked,
                "key?": "the business key",
                "tags?": "tags",
                "priority?": "priority",
                "at?": "of a fork: the path of the call that is done anew",
                "new?": "of a fork: the id of the new activity",
                "forked_from?": "of the start of a fork: the id of the activity that was forked",
                "message?": "of a `send`: the message's id",
                "parent?": "of a child's start: its parent's id",
                "deadline?": "of a child's start: the instant at which its parent's time is over",
                "timeout?": "of a retry: seconds until the new deadline",
            },
            data={"args?": "the arguments", "reason?": "why it was asked"},
            status=ActivityStatus.PENDING,
        ),
        Kind(
            kind="command.denied",
            stream="the target's, or `/engine` where there is no such activity",
            meaning="A command was refused.",
            name="the activity definition's name, where it is known",
            facts={
                **asked,
                "target?": "id of the activity that was meant, where it has one",
                "rule": "what refused it",
            },
            data={"args?": "the arguments", "reason?": "why it was asked"},
        ),
    ]


def _engine() -> list[Kind]:
    return [
        Kind(
            kind="journal.created",
            stream=ENGINE_STREAM,
            meaning="The journal begins.",
            facts={"id": "the journal's UUID", "version": "version of Playbill", "schema": "names of the migrations"},
        ),
        Kind(
            kind="journal.migrated",
            stream=ENGINE_STREAM,
            meaning="The journal's schema was brought up to date.",
            facts={"version": "version of Playbill", "schema": "names of the migrations that were applied"},
        ),
        Kind(
            kind="engine.opened",
            stream=ENGINE_STREAM,
            meaning="An engine took the journal over.",
            facts={
                "version": "version of Playbill",
                "python": "version of Python",
                "user": "system user",
                "host": "host name",
                "pid": "process id",
                "clean": "whether the engine before had closed the journal properly",
            },
        ),
        Kind(
            kind="engine.closed",
            stream=ENGINE_STREAM,
            meaning="The engine gave the journal up properly. One that is missing tells of a crash.",
            facts={"running": "how many activities are left to be resumed"},
        ),
        Kind(
            kind="definition.registered",
            stream=ENGINE_STREAM,
            meaning="An engine has this code from here on.",
            name="the definition's name",
            facts={
                "type": "`activity`, `step` or `subscriber`",
                "version?": "an activity's version",
                "module": "module and qualified name of the function",
                "source?": "SHA-256 of its source, where that can be read",
            },
        ),
        Kind(
            kind="event.published",
            stream=ENGINE_STREAM,
            meaning="An event came from outside.",
            name="the topic",
            facts={"id": "the event's id", "key?": "its key"},
            data={"data": "the event's data", "headers?": "its headers"},
        ),
    ]


def _subscribers() -> list[Kind]:
    stream = SUBSCRIBER_STREAMS + "NAME"
    anywhere = f"`{stream}`, or `{ENGINE_STREAM}` for actors beside the subscribers"
    event = {"event": "the event's seq", "id": "the event's id"}
    name = "the subscriber's name"
    return [
        Kind(
            kind="subscriber.attached",
            stream=stream,
            meaning="A subscriber was attached, or attached anew with other patterns.",
            name=name,
            facts={"patterns": "its topic patterns", "after": "the seq up to which events are passed over"},
        ),
        Kind(
            kind="delivery.handled",
            stream=stream,
            meaning="Events were handled; the cursor moves.",
            name=name,
            facts={
                "from": "seq after which the range begins",
                "to": "seq up to which every matching event is settled",
                "beyond": "ranges of seq beyond it that are settled too",
            },
        ),
        Kind(
            kind="delivery.failed",
            stream=stream,
            meaning="The handler failed or took too long.",
            name=name,
            facts={
                **event,
                "attempt": "number of the attempt, from 1",
                "error": "the exception's type",
                "retry_at?": "instant of the next attempt, where there is one",
            },
            data=_ERROR,
        ),
        Kind(
            kind="delivery.dead",
            stream=stream,
            meaning="The retries are spent: the event is a dead letter, and the channel goes on.",
            name=name,
            facts={**event, "attempts": "how many there were"},
        ),
        Kind(
            kind="actor.crashed",
            stream=anywhere,
            meaning="An actor beside the activities crashed.",
            name="the actor's path",
            facts={"error": "the exception's type", "restarts": "how often it was restarted before"},
            data=_ERROR,
        ),
        Kind(
            kind="actor.restarted",
            stream=anywhere,
            meaning="Its supervisor restarted it.",
            name="the actor's path",
            facts={"restarts": "how often it was restarted, this time included"},
        ),
        Kind(
            kind="actor.stalled",
            stream=anywhere,
            meaning="An actor blocked the loop: no other task had its turn.",
            name="the actor's path",
            facts={**_FOUND, "seconds": "how long, as far as was seen"},
            data={"stack": "where it stood when it was found"},
        ),
        Kind(
            kind="actor.overdue",
            stream=anywhere,
            meaning="An actor ignores that it was cancelled when its allowance was over.",
            name="the actor's path",
            facts={**_FOUND, "seconds": "how long it was cancelled, about"},
            data={"stack": "where it stands, each of its tasks"},
        ),
        Kind(
            kind="supervisor.escalated",
            stream=ENGINE_STREAM,
            meaning="A supervisor's restart intensity was exceeded, and it ended.",
            name="the supervisor's path",
            facts={
                "child": "id of the child that failed once too often",
                "restarts": "how often it was restarted before",
                "error?": "the exception's type; missing where a child that returned was one restart too many",
            },
            data=_ERROR,
        ),
    ]


KINDS: Mapping[str, Kind] = {
    kind.kind: kind
    for kind in [*_engine(), *_commands(), *_lifecycle(), *_calls(), *_children(), *_messages(), *_subscribers()]
}
"""Every kind of record, by its name."""

STATUS_AFTER: Mapping[str, ActivityStatus] = {
    kind.kind: kind.status for kind in KINDS.values() if kind.status is not None
}
"""The activity's status after a record of each kind that changes it (`command.accepted` of a `start` only); see
`status_after` for what the facts have to say of it."""


def status_after(kind: str, facts: Mapping[str, Any]) -> ActivityStatus | None:
    """The activity's status after a record; `None` where it stays what it was."""
    status = STATUS_AFTER.get(kind)
    if kind == "command.accepted":
        return status if facts["command"] == "start" else None
    if kind == "activity.cancelling" and facts.get("kept"):
        return None
    if kind in ("activity.resumed", "activity.crashed") and facts.get("cancelling"):
        return ActivityStatus.CANCELLING
    return status


ENDED: frozenset[ActivityStatus] = frozenset(
    {ActivityStatus.COMPLETED, ActivityStatus.FAILED, ActivityStatus.CANCELLED}
)
"""The statuses in which an activity has ended."""

TERMINAL_KINDS: frozenset[str] = frozenset(kind for kind, status in STATUS_AFTER.items() if status in ENDED)
"""The kinds with which an activity ends. From the first one of a stream on, records hold `before`."""

EVENT_KINDS = ("event.emitted", "event.published")
"""The kinds that subscribers are given."""

DEAD_LETTERS_TOPIC = "playbill.dead_letters"


def _system_topic(kind: Kind) -> str | None:
    family, _, what = kind.kind.partition(".")
    if family == "activity":
        return None if kind.status is None else f"playbill.activities.{kind.status}"
    if family in ("actor", "supervisor"):
        return f"playbill.supervision.{what}"
    return DEAD_LETTERS_TOPIC if kind.kind == "delivery.dead" else None


SYSTEM_TOPICS: Mapping[str, str] = {
    kind.kind: topic for kind in KINDS.values() if (topic := _system_topic(kind)) is not None
}
"""The kinds that are seen as events, each with its topic, by subscribers whose patterns begin with `playbill`."""
