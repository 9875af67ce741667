"""Forking: an activity begins with another's records up to a call, and does that call anew.

The command is recorded in the stream of the activity that is forked, to which nothing else is done. In the same commit
the new activity has its start and the records that it takes over, each with the `seq` of its original; their instants,
digests and arguments are the original's, since what the code made of them must come out the same. From there on it is
an activity like any other, and its first run is a resume.

An event that was taken over stands as `event.copied`, which no subscriber is given. A step that was taken over is not
run again, and those that follow have idempotency keys of the new id. What `ctx.random()` and `ctx.uuid()` draw up to
the fork is drawn from the seed of the original, and from a new one afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio

from engine.activities.copying import TakenOver, forkable, near, taken_over
from engine.activities.execution import arguments_of
from engine.activities.history import GENERATIONS, generation_of
from engine.activities.waiting import after, length_of
from engine.errors import ActivityNotFoundError, CommandDeniedError, IdConflictError
from engine.journal import ENDED, StoredRecord

if TYPE_CHECKING:
    from engine.activities.obeying import Activities, Asked


async def fork(activities: Activities, id: str, *, at: str, new_id: str, asked: Asked, within: float) -> None:
    """Obey a `fork`. Durable when it returns.

    Args:
        activities: the engine's.
        id: the activity to be forked.
        at: the path of the call that is to be done anew.
        new_id: the id of the new activity. Where it is that of the same fork already, nothing is done.
        asked: who asked.
        within: seconds to wait for the commit.

    Raises:
        ActivityNotFoundError: there is none of this id.
        IdConflictError: the new id is taken by another activity.
        CommandDeniedError: it has not begun, has no such path, or its data was erased. Every refusal is recorded.
        JournalFullError, JournalBusyError: it could not be recorded in time, and may still be.
    """
    journal = activities._journal
    if activities.known(new_id) is not None:
        # Asked for a moment ago, it may not be durable yet.
        await journal.durable_within(journal.last_seq, within)
        if _is_fork(journal.stream_after(new_id, 0), id, at):
            return
    seq, denied = _fork(activities, id, at, new_id, asked)
    await journal.durable_within(seq, within)
    if denied is not None:
        raise denied


@trio.lowlevel.enable_ki_protection  # Ctrl-C must not part the command from what it asks for
def _fork(
    activities: Activities, id: str, at: str, new_id: str, asked: Asked
) -> tuple[int, CommandDeniedError | IdConflictError | None]:
    """Record a fork, or its refusal; gives the record to wait for."""
    journal = activities._journal
    known = activities.known(id)
    state = journal.activity(id)
    records: Sequence[StoredRecord] = [] if state is None else journal.histories([id])[id]
    denied: CommandDeniedError | IdConflictError | None = None
    taken: TakenOver | None = None
    if known is None:
        denied = ActivityNotFoundError(id)
    elif activities.known(new_id) is not None:
        denied = IdConflictError(new_id, "it is taken by another activity; choose another id for the fork")
    elif not any(record.kind in GENERATIONS for record in records):
        denied = CommandDeniedError(f"activity {id!r} is {known.status}, and has done nothing that could be forked")
    else:
        begun = next(record for record in records if record.kind in GENERATIONS)
        begins = generation_of(records)[0].seq
        # Of what came before the present generation it has these to receive.
        unread = [record for record in records if record.seq < begins and record.kind == "message.received"]
        records = generation_of(records)
        taken = taken_over(records, at)
        denied = _why_not(id, at, records, taken)
        taken = None if taken is None else attrs.evolve(taken, records=[*unread, *taken.records])
    if denied is not None or taken is None:
        assert denied is not None
        rule = denied.reason if isinstance(denied, CommandDeniedError) else str(denied)
        name = None if state is None else state.name
        stream = None if known is None else id
        return activities.deny(stream, target=id, name=name, rule=rule, command="fork", asked=asked), denied
    assert state is not None
    assert state.accepted is not None
    start = journal.record(state.accepted)
    assert start is not None
    journal.append(
        id,
        "command.accepted",
        name=state.name,
        by=asked.by,
        facts=asked.facts("fork", at=at, new=new_id),
        data=asked.data(),
        ended=state.status in ENDED,
    )
    return _append_fork(activities, new_id, start, begun, records[0], taken, at, asked), None


def _is_fork(records: Sequence[StoredRecord], id: str, at: str) -> bool:
    started = next((record for record in records if record.kind == "activity.started"), None)
    return started is not None and started.facts.get("forked_from") == id and started.facts["cut"]["at"] == at


def _why_not(id: str, at: str, records: Sequence[StoredRecord], taken: TakenOver | None) -> CommandDeniedError | None:
    if taken is None:
        paths = ", ".join(near(at, forkable(records)))
        there = f"there are, among others, {paths}" if paths else "it has recorded no call yet"
        return CommandDeniedError(f"activity {id!r} has no record of a call {at!r}; {there}")
    if records[0].data is None or any(
        record.kind == "step.completed" and record.data is None for record in taken.records
    ):
        return CommandDeniedError(f"data of activity {id!r} that a fork needs was erased")
    return None


def _append_fork(
    activities: Activities,
    id: str,
    start: StoredRecord,
    begun: StoredRecord,
    origin: StoredRecord,
    taken: TakenOver,
    at: str,
    asked: Asked,
) -> int:
    """Record the new activity, which begins when that is durable; gives the last of its records.

    Args:
        activities: the engine's.
        id: its id.
        start: the command that started the original.
        begun: the record with which its first run began.
        origin: the record with which the original's present generation began.
        taken: what is taken over.
        at: where it forks.
        asked: who asked.
    """
    journal = activities._journal
    now = activities._around.stamp()
    passed_on = {name: start.facts.get(name) for name in ("key", "tags", "priority")}
    seq = journal.append(
        id,
        "command.accepted",
        name=origin.name,
        by=asked.by,
        at=now,
        facts=asked.facts("start", forked_from=origin.stream, **passed_on),
        data=asked.data(arguments_of(origin)),
        begins="activity",
    )
    # Records without a checkpoint between them are one commit, and their numbers are known.
    facts = _facts_of_start(origin, taken, at, now, seq)
    if "deadline" in begun.facts:
        # It begins anew.
        facts["deadline"] = after(now, length_of(begun.facts.get("began", begun.at), begun.facts["deadline"]))
        activities.deadlines.fix(id, now, facts["deadline"])
    records = [StoredRecord(seq + 1, id, "activity.started", origin.name, None, 1, now, None, facts, origin.data)]
    records += [_copy(record, seq + number, id) for number, record in enumerate(taken.records, start=2)]
    landed = activities.admission.to_begin_from(origin.name or "", records)
    if landed is None:
        landed = activities.admission.stands_in_line
    for record in records:
        seq = journal.append(
            id,
            record.kind,
            name=record.name,
            path=record.path,
            run=1,
            at=record.at,
            facts=record.facts,
            data=record.data,
            landed=landed if record is records[-1] else None,
        )
    return seq


def _facts_of_start(origin: StoredRecord, taken: TakenOver, at: str, now: str, seq: int) -> dict[str, Any]:
    before = origin.facts.get("cut", {"began": origin.at, "seeds": []})
    cut: dict[str, Any] = {
        "at": at,
        "began": before["began"] if taken.records else now,
        "seeds": [*before["seeds"], [origin.facts["seed"], seq]],
    }
    entered = {**before.get("entered", {}), **taken.entered}
    if entered:
        cut["entered"] = entered
    facts = {
        "generation": origin.facts["generation"],
        "version": origin.facts["version"],
        "seed": os.urandom(16).hex(),
        "forked_from": origin.stream,
        "cut": cut,
    }
    if "cause" in origin.facts:
        facts["cause"] = origin.facts["cause"]
    return facts


def _copy(record: StoredRecord, seq: int, id: str) -> StoredRecord:
    # What a record says of those before it in its stream is not true of the copy.
    facts = {name: fact for name, fact in record.facts.items() if name != "before"}
    # The first original's, where this is the copy of a copy.
    facts.setdefault("copied", record.seq)
    kind = record.kind
    if kind == "event.emitted":
        kind = "event.copied"
        facts["source"] = record.stream
    return attrs.evolve(record, seq=seq, stream=id, kind=kind, run=1, facts=facts)
