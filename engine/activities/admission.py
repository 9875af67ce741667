"""Who runs: at most so many activities at a time, and the best of those that could (see `line`) when there is a place.

An activity is *live* while it is in memory: from the record with which it starts or goes on until its end is durable,
or until it was blocked or parked and its function has been left. Each that is live has one of the places. As long as
there are places and nobody stands in line, a start takes one at once, and nothing here costs it anything; else its
command is recorded and it is `pending`, a row in the journal.

Whoever stands in line is taken on by one actor. It looks when it is told to (a place is free, somebody came into the
line) and when the first of those that are parked is to be woken. Histories are read in batches, and a bounded number of
replays is under way at once, so that a journal with many unfinished activities opens in bounded memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import orjson
import trio

from engine.activities.definition import Activity
from engine.activities.execution import Execution
from engine.activities.history import GENERATIONS, History, messages_in, unread_of
from engine.activities.inbox import Inbox
from engine.activities.line import Line
from engine.activities.surroundings import Surroundings
from engine.activities.suspicion import ALONE_FOR, TOLD_BY, Witness, is_suspect, unclean_ends
from engine.activities.waiting import after
from engine.actors import Mailbox
from engine.clock import parse
from engine.codec import parse_exactly
from engine.journal import ActivityState, StoredRecord
from engine.journal.kinds import TERMINAL_KINDS

RESUMED_TOGETHER = 200
"""Histories read in one query, and replays under way at once: more costs memory and gains nothing."""

_STAYS = (*TERMINAL_KINDS, "activity.paused")
"""After these an activity does not stand in line, though it did when the line was read."""


_BEGINNINGS = (*GENERATIONS, "activity.resumed", "activity.retried")
"""One that goes on, as this engine recorded, and had no place yet, needs no further record to do so."""


class Admission:
    """Takes activities on, and knows those that are live.

    Attributes:
        live: the activities that run here, by id.
        asked: those that are asked for and pending, by id, until that is durable.
    """

    def __init__(
        self,
        around: Surroundings,
        definitions: Mapping[str, Activity[..., Any]],
        *,
        idle: bool,
        begin: Callable[[Execution], None],
        changed: Callable[[Execution], None],
        is_changing: Callable[[str], bool],
        max_running: int,
        poison_after: int,
    ) -> None:
        """Prepare to take activities on.

        Args:
            around: what runs need of the engine.
            definitions: by name.
            idle: whether nothing is run, only recorded.
            begin: called with an execution when its start or resume is durable.
            changed: called with an execution when a status of it is durable.
            is_changing: whether another status of an activity that is not live was recorded, and is not durable yet.
            max_running: how many may be live.
            poison_after: unclean ends of the process in a row after which an activity is blocked.
        """
        self._around = around
        self._journal = around.journal
        self._definitions = definitions
        self._idle = idle
        self._begin = begin
        self._changed = changed
        self._is_changing = is_changing
        self._max_running = max_running
        self._poison_after = poison_after
        self.live: dict[str, Execution] = {}
        self.asked: dict[str, Execution] = {}
        self._line = Line(around.journal, around.stamp, self.live)
        self._is_empty = False
        self._opened = around.journal.last_seq
        self._look = trio.Event()
        # With the ends that each has met, by id.
        self._suspects: dict[str, tuple[int, ActivityState]] = {}
        self._is_sought = False
        around.parking.look = self.look
        self._alone: str | None = None
        self._alone_until = math.inf
        self._is_last = False
        # 32 bytes for an activity, by its id: its seed, and the key of its calls' digests.
        # Called with an activity's id, the instant at which it begins and its deadline.
        self.fix_deadline: Callable[[str, str, str], None] = lambda id, began, deadline: None
        self.draw_seed: Callable[[str], bytes] = lambda id: os.urandom(32)

    # ------------------------------------------------------------------------------------------------ places

    @property
    def has_place(self) -> bool:
        """Whether a start need not wait: there is a place, and nobody stands in line for it."""
        return self._is_empty and not self.asked and len(self.live) < self._max_running

    def left(self, id: str, *, parked: bool) -> None:
        """An activity is live no more. One that is parked may be the first to be woken."""
        self.live.pop(id, None)
        if id == self._alone:
            self._clear(id)
        if parked or not self._is_empty:
            self.look()

    def look(self) -> None:
        """Have the actor look who is next."""
        self._look.set()

    # ------------------------------------------------------------------------------------------------ the actor

    async def serve(self, mailbox: Mailbox[Any]) -> None:
        """The actor: take on who is next, whenever there is a place, and park those that have waited for long."""
        while True:
            self._look = trio.Event()
            self._around.parking.park()
            await self.admit()
            with trio.move_on_at(self._look_at()):
                await self._look.wait()

    async def admit(self) -> None:
        """Take on those in line, best first, as long as there are places; before them those that are suspects, each
        alone."""
        if not self._is_sought:
            self._is_sought = True
            self._seek_suspects()
        while not self._around.flights.draining:
            if self._alone is not None and trio.current_time() < self._alone_until:
                self._is_empty = False
                break
            places = self._max_running - len(self.live)
            if places <= 0:
                self._is_empty = False
                break
            batch = self._next_suspect() or self._line.take(min(places, RESUMED_TOGETHER))
            if not batch:
                self._is_empty = True
                break
            histories = self._journal.histories([state.id for state in batch])
            for state in batch:
                self.take_on(state, histories[state.id], cause="opened")
            # Their records are durable, and their actors have begun; then the replays under way are bounded.
            await self._journal.durable(self._journal.last_seq)
            await trio.lowlevel.checkpoint()
            await self._around.instrument.wait_for_fewer(RESUMED_TOGETHER)

    def _look_at(self) -> float:
        """When to look without having been told to, by Trio's clock."""
        at = self._around.parking.looks_at
        if trio.current_time() < self._alone_until:
            at = min(at, self._alone_until)
        if len(self.live) < self._max_running:
            now = self._around.stamp()
            due = self._journal.next_due(now)
            if due is not None:
                at = min(at, trio.current_time() + (parse(due) - parse(now)).total_seconds())
        return at

    # ------------------------------------------------------------------------------------------------ taking on

    def take_on(self, state: ActivityState, records: Sequence[StoredRecord], *, cause: str) -> bool:
        """Have an activity run that does not; whether it does.

        What is blocked for the code's sake stays so, unless that was asked for; what lacks its definition is blocked,
        and what was blocked for that alone goes on.

        Args:
            state: which.
            records: its records.
            cause: `resumed`, `unpaused` or `unparked`, where that was asked for; `opened` for those in line.
        """
        if cause == "opened" and self._is_changing(state.id):
            # What it is to be is known when that is durable; then it is looked for again.
            return False
        if not any(record.kind in GENERATIONS for record in records):
            return self._start(state, records)
        last = next(
            record for record in reversed(records) if record.kind.startswith("activity.") and "kept" not in record.facts
        )
        definition = self._definitions.get(state.name)
        if cause == "opened" and self._stays(last, definition):
            return False
        if last.kind == "activity.parked":
            cause = "unparked"
        history = History(records)
        if self._idle:
            self._record_resumed(history, cause)
            return False
        if definition is None:
            self._block(
                history,
                "definition",
                f"activity {history.started.name}",
                "nothing: this engine was given no definition of that name",
            )
            return False
        around = self._around
        if cause == "opened" and last.kind != "activity.blocked":
            ends = unclean_ends(records, self._journal.clean)
            if ends >= self._poison_after:
                self._block(
                    history,
                    "poison",
                    f"no record of its own, though the process ended {ends} times while it ran",
                    "to run again: it may end the process again",
                )
                return False
            if is_suspect(ends, self._poison_after):
                if self._alone is not None:
                    self._suspects[state.id] = ends, state
                    return False
                around = self._watched(state.id, is_last=ends == self._poison_after - 1)
        if cause != "opened" and last.kind != "activity.parked" and len(self.live) >= self._max_running:
            self._record_resumed(history, cause, self.stands_in_line)
            return False
        execution = Execution(around, definition, state.id, history=history, changed=self._changed)
        self.live[state.id] = execution
        if last.seq > self._opened and last.kind in _BEGINNINGS:
            self._begin(execution)
        else:
            seq = self._record_resumed(history, cause, lambda: self._begin(execution))
            if cause != "unparked":
                history.resumes.append(seq)
        return True

    def stands_in_line(self) -> None:
        """One that runs, as far as the journal says, waits for a place."""
        self._line.look_again()
        self._is_empty = False
        self.look()

    def _stays(self, last: StoredRecord, definition: Activity[..., Any] | None) -> bool:
        """Whether one that was found in line is not to be taken on, by its last record."""
        if last.kind == "activity.blocked":
            return last.facts["cause"] != "definition" or definition is None
        return last.kind in _STAYS

    def _start(self, state: ActivityState, records: Sequence[StoredRecord]) -> bool:
        """Start what a command asked for and nobody has begun: there was no place, or no engine that runs anything."""
        command = records[0]
        definition = self._definitions.get(state.name)
        if definition is None or self._idle:
            return False
        args = orjson.dumps(parse_exactly(command.data or '{"args":[]}')["args"]).decode()
        execution = Execution(self._around, definition, state.id, changed=self._changed)
        # What it was sent while it stood in line.
        unread = unread_of(messages_in(records), records)
        execution.inbox = Inbox(unread, read_up_to=records[-1].seq)
        execution.bound = command.facts.get("deadline")
        self.append_start(execution, args, self._around.stamp())
        return True

    def append_start(self, execution: Execution, args: str, at: str) -> int:
        """Record that an activity begins, which it does when that is durable."""
        id, definition = execution.id, execution.definition
        drawn = self.draw_seed(id).hex()
        facts = {"generation": 0, "version": definition.version, "seed": drawn[:32]}
        deadline = execution.bound
        if definition.timeout is not None:
            own = after(at, definition.timeout)
            deadline = own if deadline is None else min(own, deadline)
        if deadline is not None:
            facts["deadline"] = deadline
            self.fix_deadline(id, at, deadline)
        data = f'{{"args":{args},"key":"{drawn[32:]}"}}'
        seq = self._journal.append(
            id,
            "activity.started",
            name=definition.name,
            run=1,
            at=at,
            facts=facts,
            data=data,
            landed=lambda: self._begin(execution),
        )
        execution.prepare(StoredRecord(seq, id, "activity.started", definition.name, None, 1, at, None, facts, data))
        execution.args = args
        self.live[id] = execution
        return seq

    def to_begin_from(self, name: str, records: Sequence[StoredRecord]) -> Callable[[], None] | None:
        """What is to be called when the last of these records is durable, for their activity, which does not begin from
        nothing, to go on from them; `None` where it is to stand in line.

        Args:
            name: its definition's name.
            records: its records.
        """
        definition = self._definitions.get(name)
        if definition is None or self._idle or not self.has_place:
            return None
        id = records[0].stream
        execution = Execution(self._around, definition, id, history=History(records), changed=self._changed)
        self.live[id] = execution
        return lambda: self._begin(execution)

    def _record_resumed(self, history: History, cause: str, landed: Callable[[], None] | None = None) -> int:
        started = history.started
        facts = {"generation": started.facts["generation"], "cause": cause, "clean": self._journal.clean}
        if history.cancelling is not None:
            facts["cancelling"] = True
        return self._journal.append(
            started.stream, "activity.resumed", name=started.name, run=history.run, facts=facts, landed=landed
        )

    def _block(self, history: History, cause: str, recorded: str, asked: str) -> None:
        started = history.started
        facts = {
            "generation": started.facts["generation"],
            "cause": cause,
            "recorded": recorded,
            "asked": asked,
        }
        self._journal.append(started.stream, "activity.blocked", name=started.name, run=history.run, facts=facts)

    # ------------------------------------------------------------------------------------------------ suspects

    def _seek_suspects(self) -> None:
        """Find those that an unclean end has left, and ends before it: they run before anybody else does, so that what
        ends the process again tells who does it, and takes nobody along."""
        if self._journal.clean or self._idle:
            return
        for state in self._line.left():
            ends = unclean_ends(self._journal.tail(state.id, TOLD_BY), clean=False)
            if is_suspect(ends, self._poison_after):
                self._suspects[state.id] = ends, state

    def _watched(self, id: str, *, is_last: bool) -> Surroundings:
        """Let a suspect run alone; what it is given tells when it records something.

        Args:
            id: which.
            is_last: whether one more end has it blocked: then no other suspect runs beside it, however long that takes.
        """
        self._alone = id
        self._is_last = is_last
        self._alone_until = trio.current_time() + ALONE_FOR
        return attrs.evolve(self._around, journal=Witness(self._journal, lambda: self._clear(id)))

    def _clear(self, id: str) -> None:
        """A suspect has recorded something, or ended: the next may run."""
        if id == self._alone:
            self._alone = None
            self._alone_until = math.inf
            self.look()

    def _next_suspect(self) -> list[ActivityState]:
        if not self._suspects or (self._alone is not None and self._is_last):
            return []
        self._alone = None
        # First the one that met the fewest ends: those that others make are spread over all suspects.
        next_one = min(self._suspects, key=lambda id: self._suspects[id][0])
        return [self._suspects.pop(next_one)[1]]
