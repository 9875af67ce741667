"""One run of an activity's function: what its contexts share.

A run ends with its function. When it is given up before (drained, blocked) it is *fenced*: whatever the function still
does through `ctx` has no effect, and how it ends is ignored.
"""

from __future__ import annotations

import contextvars
import datetime as dt
import functools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from engine.activities.calls import Site, described
from engine.activities.failures import carried_by
from engine.activities.history import History, RecordedCall
from engine.activities.paths import opener_of, scope_of
from engine.activities.replay import CURRENT_RUN, Replay
from engine.activities.scopes import Scope
from engine.activities.surroundings import Surroundings
from engine.clock import parse
from engine.codec import digest
from engine.errors import (
    ConcurrentContextError,
    FencedError,
    JournalError,
    NonDeterminismError,
    PayloadError,
    PlaybillError,
    StepInterruptedError,
)
from engine.journal import StoredRecord

if TYPE_CHECKING:
    from engine.activities.cancelling import Cancellable, Trunk
    from engine.activities.cleaning import Cleanup
    from engine.activities.context import Context
    from engine.activities.definition import Activity
    from engine.activities.execution import Execution
    from engine.activities.inbox import Inbox
    from engine.activities.waiting import Wait


GIVEN_UP = "this run of the activity was given up; what it does through ctx has no effect"

LANDING_STEPS = 64
"""Steps of the loop that a cancelled branch has to come to its end; one without nested branches takes one or two."""


def _never_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


class Entry:
    """A branch that is about to begin.

    Attributes:
        task: its task, where that waits for the branches before it.
    """

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None


class Run:
    """One run of an activity's function.

    Attributes:
        id: the activity's id.
        definition: the activity's definition.
        number: 1 for the first run; each restart adds one.
        started: the record with which its generation began.
        continued: the definition with which the activity goes on as new, once that is recorded.
        generation: how often it went on as new.
        held: whether new work must not begin (draining, or fenced).
        fenced: whether the run was given up.
        poison: the error that ends the run whatever the function does with it.
        has_crashed: whether its end is recorded as a crash, after which it is run again.
        replay: the replay under way, `None` when the run is live.
        at: the instant of the last outcome that it was given.
        is_fork: whether it goes on from another activity's records.
        undurable: the last draw that was recorded and is not known to be durable; 0 for none.
        cancelling: the record of the cancel that is to come to it, or has come.
        has_cancels: whether anything was cancelled, or is about to be.
        cancel_scope: by which the engine ends the function.
        trunk: the function itself, as a cancel reaches it, once it has begun.
        overdue: ends the run when it does not end by itself after its cancel has come.
        cleanups: the cleanups that are open, by path.
        attempts: how many attempts at steps are under way.
        ended: whether the activity's end is recorded, after which not even a thread's outcome is.
        waits: the calls that wait for an instant or to be woken, by path.
        withheld: the new calls that did not begin, since the run was held.
        inbox: the messages that the activity has not received.
        deadline: the instant at which the activity's time is over, where it is limited.
        children: the children of whose end nothing is recorded here, by id, with what becomes of them at its own end.
        task: the task of its function, once that runs.
        bound: until when what is around the function lets it run, by Trio's clock.
        execution: whose run it is.
        parked: the record that says so.
    """

    def __init__(
        self,
        around: Surroundings,
        definition: Activity[..., Any],
        *,
        id: str,
        started: StoredRecord,
        history: History | None,
        cancelling: StoredRecord | None,
        overdue: Callable[[], Awaitable[None]],
        inbox: Inbox,
    ) -> None:
        self.around = around
        self.journal = around.journal
        self.stamp = around.stamp
        self.definition = definition
        self.id = id
        self.started = started
        self.generation: int = started.facts["generation"]
        self._seed: str = started.facts["seed"]
        self.key = bytes.fromhex(started.load()["key"])
        self.cause: str | None = started.facts.get("cause")
        self.started_seq = started.seq
        self.number = 1 if history is None else history.run
        self.continued: Activity[..., Any] | None = None
        cut: Mapping[str, Any] | None = started.facts.get("cut")
        self.at: str = started.at if cut is None else cut["began"]
        self.held = False
        self.fenced = False
        self.poison: PlaybillError | None = None
        self.ended = False
        self.cancelling = cancelling
        self.has_cancels = cancelling is not None
        self.cancel_scope = trio.CancelScope()
        self.trunk: Trunk | None = None
        self.overdue = overdue
        self.cleanups: dict[str, Cleanup] = {}
        self._cleanups_changed: trio.Event | None = None
        self.attempts = 0
        self._attempts_ended: trio.Event | None = None
        self.waits: dict[str, Wait] = {}
        self.withheld: list[str] = []
        self.inbox = inbox
        # The requests that were received, by identity, each with its record; and those that were answered.
        self.requests: dict[int, tuple[object, StoredRecord]] = {}
        self.answered: set[str] = set()
        self.deadline: str | None = started.facts.get("deadline")
        self.children: dict[str, str] = {} if history is None else dict(history.children)
        self.task: trio.lowlevel.Task | None = None
        self.bound = math.inf
        self.execution: Execution
        self.parked: int | None = None
        # The exceptions that were given to user code, with the failures that each carries.
        self.known: dict[int, tuple[BaseException, frozenset[str]]] = {}
        # Side by side, outcomes are given one at a time in journal order, live as at replay: see `settle`.
        self.is_branched = False
        self._landing = 0
        self._stewards: dict[trio.lowlevel.Task, None] = {}
        self._entries: deque[Entry] = deque()
        # In the order of `seq`, since each comes here as soon as it is appended.
        self._unsettled: dict[int, trio.lowlevel.Task | None] = {}
        self._fallen: trio.Event | None = None
        self._doomed: set[trio.lowlevel.Task] = set()
        self._errands: set[trio.CancelScope] = set()
        self._history = history
        self.branches: Mapping[str, StoredRecord] = {} if history is None else history.branches
        self._scopes: dict[str, list[RecordedCall]] = {} if history is None else history.scopes
        self._drawn: dict[str, dict[str, bool]] = {} if history is None else history.drawn
        self.undurable = 0
        # What a fork took over was drawn from the seeds of the originals.
        self.is_fork = cut is not None
        self._entered: Mapping[str, str] = {} if cut is None else cut.get("entered", {})
        self._seeds: Sequence[tuple[str, int]] = () if cut is None else cut["seeds"]
        self._copied_beside = _copied_beside(self._scopes) if cut is not None else {}
        self.has_crashed = False
        self.replay: Replay | None = None
        outcomes = [] if history is None else history.outcomes
        if cancelling is not None and (history is None or history.cancelling is None):
            # It was recorded when the records had been read already, or when there were none to be read.
            outcomes = [*outcomes, cancelling]
        if outcomes or self._scopes:
            self.replay = Replay(
                outcomes,
                finished=self._go_live,
                stuck=self._stuck,
                cancel=self._cancel_again,
                stewards=lambda: [*self._stewards, *self._doomed],
            )
            around.instrument.begin()

    # ------------------------------------------------------------------------------------------------ scopes

    def scope(self, path: str, last_seq: int, around: Scope | None = None) -> Scope:
        """The scope of a branch that begins, within another."""
        return Scope(path, self.generation, self._scopes.get(path, []), last_seq, self._drawn.get(path, {}), around)

    def has_records_in(self, branch: str) -> bool:
        """Whether a branch was begun before, as far as the records tell."""
        return branch in self._scopes or branch in self.branches or branch in self._drawn

    def match(self, scope: Scope, kind: str, path: str, digest: str) -> RecordedCall | None:
        """Compare a call with the one that is recorded at its place.

        Returns:
            What is recorded of it; `None` if it is new.

        Raises:
            NonDeterminismError: another call is recorded there. The run is fenced.
        """
        recorded = scope.next_recorded()
        if recorded is None:
            return None
        asked = f"{kind} {path}"
        if recorded.kind != kind or recorded.path != path:
            self.diverge(str(recorded), asked)
        if recorded.digest != digest:
            self.diverge(str(recorded), f"{asked} with other arguments")
        if scope.takings and kind != "note":
            scope.consume()
        return recorded

    def message(self, id: str) -> StoredRecord:
        """A message that was received before."""
        assert self._history is not None
        return self._history.messages[id]

    def digest(self, text: str) -> str:
        """The commitment to a call's encoded arguments, which only this activity's key opens to guessing."""
        return digest(self.key, text)

    def begin_branch(self, path: str) -> None:
        """A branch begins: where it had waited for its slot in the original of this fork, its first code is given the
        instant that it was given there, in whatever order the branches have their slots now."""
        if path in self._entered:
            self.at = self._entered[path]

    def seed_in(self, scope: Scope) -> str:
        """The seed of what is drawn at this place: up to where an activity forked, that of the original."""
        if self._seeds:
            copied = scope.copied or self._copied_beside.get(scope.path, 0)
            for seed, before in self._seeds:
                if 0 < copied < before:
                    return seed
        return self._seed

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way in it but what its tasks wait for."""
        return not (self.held or self.poison or self.replay or self._entries or self._landing or self._unsettled)

    # ------------------------------------------------------------------------------------------------ giving up

    def diverge(self, recorded: str, asked: str) -> NoReturn:
        """The code does not fit the history: the run is given up, whatever the function does with the error.

        Raises:
            NonDeterminismError: always.
        """
        error = NonDeterminismError(recorded, asked)
        if self.poison is None:
            self.poison = error
        self.fence()
        raise error

    def unsettle(self, path: str, misfit: PayloadError) -> NoReturn:
        """A step was settled with a value that it cannot have given: the run is given up, until it is settled anew.

        Raises:
            StepInterruptedError: always.
        """
        error = StepInterruptedError(path)
        error.add_note(f"what it was resolved with does not fit: {misfit}")
        if self.poison is None:
            self.poison = error
        self.fence()
        raise error from misfit

    def misuse(self, error: ConcurrentContextError) -> NoReturn:
        """A context was used by a task that it does not belong to, which no restart cures.

        Raises:
            ConcurrentContextError: always.
        """
        if self.poison is None and not self.fenced:
            self.poison = error
        self.fence()
        raise error

    def forgotten(self, site: Site) -> None:
        """A call was dropped without having been awaited, which no restart cures. May be called at any moment, from any
        thread, since it is when an object is freed: the run ends at its next call, or as soon as the loop has time."""
        if self.poison is None and not self.fenced:
            self.poison = PlaybillError(
                f"{described(site)}, was not awaited, and so did nothing; put `await` before it"
            )
            self.held = True
            with suppress(RuntimeError):
                trio.lowlevel.current_trio_token().run_sync_soon(self.fence)

    @trio.lowlevel.enable_ki_protection
    def fence(self) -> None:
        """Give the run up: from here on nothing that it does through a context has an effect."""
        if self.fenced:
            return
        self.fenced = self.held = True
        self.around.parking.ended(self)
        self.cancel_scope.cancel(reason="this run of the activity was given up")
        # Those are shielded from it, and so are they who see to the run beside it.
        for scope in [*(cleanup.cancel_scope for cleanup in self.cleanups.values()), *self._errands]:
            scope.cancel(reason="this run of the activity was given up")
        self.end_replay()
        self.wake_doomed()
        if self._fallen is not None:
            self._fallen.set()
        unsettled, self._unsettled = self._unsettled, {}
        for task in unsettled.values():
            if task is not None:
                trio.lowlevel.reschedule(task)
        self._wake_stewards()

    def end_replay(self) -> None:
        """No outcome is handed out any more."""
        if self.replay is not None:
            replay, self.replay = self.replay, None
            self.around.instrument.end()
            replay.give_up()

    def _go_live(self) -> None:
        self.replay = None
        self.around.instrument.end()

    def _stuck(self, record: StoredRecord) -> None:
        if self.poison is None:
            self.poison = NonDeterminismError(f"{record.kind} {record.path}", "nothing")
        self.fence()

    async def hold(self, asked: str | None = None) -> None:
        """Where new work must not begin: wait for the fence, which ends the wait even where the caller is shielded.

        Args:
            asked: what was to begin.

        Raises:
            FencedError: the run is fenced, and the caller is shielded from the cancellation that says so.
        """
        if self.poison is not None:
            self.fence()
        if asked is not None:
            self.withheld.append(asked)
        if not self.fenced:
            if self._fallen is None:
                self._fallen = trio.Event()
            await self._fallen.wait()
        await trio.lowlevel.checkpoint()
        raise FencedError(GIVEN_UP)

    # ------------------------------------------------------------------------------------------------ cancelling

    def begin(self, trunk: Trunk) -> None:
        """The function begins, and a cancel can come to it."""
        self.trunk = trunk
        if self.cancelling is not None and self.replay is None:
            self.send(self.deliver, self.cancelling.seq, trunk)

    @trio.lowlevel.enable_ki_protection
    def cancel(self, cancelling: StoredRecord) -> None:
        """The activity's cancel was recorded: have it come to the function, in its turn among the outcomes."""
        if self.fenced:
            return
        self.cancelling = cancelling
        self.has_cancels = True
        if self.replay is not None:
            # What is recorded is given first.
            self.replay.append(cancelling)
            return
        if self.is_branched:
            self._unsettled[cancelling.seq] = None
        if self.trunk is not None:
            self.send(self.deliver, cancelling.seq, self.trunk)

    async def deliver(self, seq: int, cancelled: Cancellable) -> None:
        """Have a cancel that was recorded just now come in its turn, and see it to its end."""
        if self.is_branched:
            self._unsettled.setdefault(seq)
        await self._come_to(seq)
        # Whoever is given an outcome of the same commit, perhaps in the loop's next step only, comes to a call first.
        for _ in range(2):
            await trio.lowlevel.cancel_shielded_checkpoint()
        if not self.fenced:
            await self.land(cancelled.all())

    def _cancel_again(self, record: StoredRecord) -> bool:
        """At replay: a recorded cancel's turn has come; whether there is anything that it can come to."""
        cancelled: Cancellable | None = self.trunk if record.path is None else self.cleanups.get(record.path)
        if cancelled is None:
            return False
        self.send(self.land, cancelled.all(), seen=True)
        return True

    def send(self, errand: Callable[..., Awaitable[None]], *args: Any, seen: bool = False) -> None:
        """Have something seen to beside the function, until the run is over.

        Args:
            errand: called with the arguments, in a task of its own.
            seen: whether a replay does not rest before it waits.
        """
        context = contextvars.Context()
        if seen:
            context.run(CURRENT_RUN.set, self)
        name = f"an errand for activity {self.id}"
        context.run(functools.partial(self.around.errands.start_soon, self._run_errand, errand, *args, name=name))

    async def _run_errand(self, errand: Callable[..., Awaitable[None]], *args: Any) -> None:
        if self.fenced:
            return
        with trio.CancelScope() as scope:
            self._errands.add(scope)
            try:
                # Where the journal has failed nothing can be recorded, and the engine ends of it.
                with suppress(JournalError):
                    await errand(*args)
            finally:
                self._errands.discard(scope)

    def cleanup_began(self, cleanup: Cleanup) -> None:
        self.cleanups[cleanup.path] = cleanup
        self._change_cleanups()

    def cleanup_ended(self, cleanup: Cleanup) -> None:
        del self.cleanups[cleanup.path]
        self._change_cleanups()

    def _change_cleanups(self) -> None:
        if self._cleanups_changed is not None:
            self._cleanups_changed.set()
            self._cleanups_changed = None

    async def cleanups_change(self) -> None:
        """Wait until a cleanup is entered or left."""
        if self._cleanups_changed is None:
            self._cleanups_changed = trio.Event()
        await self._cleanups_changed.wait()

    def attempt_ended(self) -> None:
        """An attempt at a step is over, as it may be recorded."""
        self.attempts -= 1
        if not self.attempts and self._attempts_ended is not None:
            self._attempts_ended.set()

    async def wait_for_attempts(self) -> None:
        """Wait until no attempt at a step is under way."""
        while self.attempts:
            self._attempts_ended = trio.Event()
            await self._attempts_ended.wait()

    @trio.lowlevel.enable_ki_protection
    async def wait_for_cancel(self, context: Context) -> None:
        """Wait until the recorded cancel has come to a context's task, or the run is given up. Not to be cancelled."""
        while not self.fenced and context._is_doomed:
            self._doomed.add(trio.lowlevel.current_task())
            await trio.lowlevel.wait_task_rescheduled(_never_abort)

    @trio.lowlevel.enable_ki_protection
    def wake_doomed(self) -> None:
        """A cancel has come to a branch, or to all: let those look who wait for it."""
        doomed, self._doomed = self._doomed, set()
        for task in doomed:
            trio.lowlevel.reschedule(task)
        if self.replay is not None:
            self.replay.release()

    # ------------------------------------------------------------------------------------------------ in order

    @trio.lowlevel.enable_ki_protection
    async def settle(self, seq: int, context: Context) -> None:
        """Wait until an outcome is durable, and its turn among this run's outcomes has come. Not to be cancelled.

        Where branches run side by side, each is given its outcome when the one before it, in journal order, has been
        given, no branch is about to begin, and no cancelled one is on its way to its end. A replay hands them out in
        the same order, so what branches share in memory comes out the same.

        Args:
            seq: the outcome's record.
            context: whose call it is.
        """
        if not self.is_branched:
            await self.journal.durable(seq)
            return
        self._unsettled[seq] = None
        await self._come_to(seq)
        if self._stewards and context._is_within_cancelled:
            self._wake_stewards()
        else:
            self._next_turn()

    @trio.lowlevel.enable_ki_protection
    async def _come_to(self, seq: int) -> None:
        """Wait until a record is durable, and its turn has come. Not to be cancelled."""
        await self.journal.durable(seq)
        while (
            not self.fenced
            and seq in self._unsettled
            and (self._entries or self._landing or next(iter(self._unsettled)) != seq)
        ):
            self._unsettled[seq] = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(_never_abort)
        self._unsettled.pop(seq, None)

    def _next_turn(self) -> None:
        if self._unsettled and not self._entries and not self._landing:
            seq = next(iter(self._unsettled))
            task, self._unsettled[seq] = self._unsettled[seq], None
            if task is not None:
                trio.lowlevel.reschedule(task)

    @trio.lowlevel.enable_ki_protection
    def enter(self) -> Entry:
        """A branch is about to begin: no outcome is given before it has come to its first call."""
        entry = Entry()
        self._entries.append(entry)
        return entry

    @trio.lowlevel.enable_ki_protection
    async def come_in(self, entry: Entry) -> None:
        """Wait until the branches that were to begin before this one have come to their first calls; its own code up to
        its first call follows at once. Not to be cancelled."""
        if self._entries[0] is not entry:
            entry.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(_never_abort)
        self._entries.popleft()
        if not self._entries:
            self._next_turn()
        elif self._entries[0].task is not None:
            trio.lowlevel.reschedule(self._entries[0].task)

    @trio.lowlevel.enable_ki_protection
    async def land(self, losers: Iterable[Cancellable]) -> None:
        """Cancel branches one after another, and give each time to come to its end before any outcome is given: what
        their code does on the way stands between the same two outcomes live and at replay.

        One that is held up (by an outcome that it is still to be given, or by a thread) has the same time again
        whenever it was given something.
        """
        lost: list[Cancellable] = []
        self._landing += 1
        for branch in losers:
            lost.append(branch)
            branch.cancel()
            await self._unwind([branch])
        self._landed()
        while not self.fenced and not all(branch.left for branch in lost):
            self._stewards[trio.lowlevel.current_task()] = None
            await trio.lowlevel.wait_task_rescheduled(_never_abort)
            await self._unwind(lost)
            self._landed()

    async def _unwind(self, lost: list[Cancellable]) -> None:
        at_rest = 0
        for step in range(LANDING_STEPS):
            if self.fenced or all(branch.left for branch in lost):
                break
            # A replay knows that nobody else is about to do anything: those that are left wait for their outcomes.
            at_rest = at_rest + 1 if self.replay is not None and not self.replay.scheduled else 0
            if at_rest > 1:
                break
            if step == LANDING_STEPS // 2 and self.replay is None:
                # It may be held up by a commit alone.
                await self.journal.durable(self.journal.last_seq)
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _landed(self) -> None:
        self._landing -= 1
        self._next_turn()

    def _wake_stewards(self) -> None:
        """Those that wait for branches which they cancelled look after them; until then no outcome is given."""
        stewards, self._stewards = self._stewards, {}
        self._landing += len(stewards)
        for task in stewards:
            trio.lowlevel.reschedule(task)

    @trio.lowlevel.enable_ki_protection
    def left(self) -> None:
        """The function of a branch was left."""
        if self._stewards:
            self._wake_stewards()

    # ------------------------------------------------------------------------------------------------ what was given

    def give(self, scope: Scope, seq: int, at: str) -> None:
        """Note that an outcome was given: `now()` and the attempts' numbers follow from it."""
        scope.last_seq = seq
        self.at = at

    def is_nursery_cancelled(self) -> bool:
        """Whether a nursery around the running task, within the activity, was cancelled, as by a failure in it."""
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        below: trio.Nursery | None = None
        while task is not None and task.context.get(CURRENT_RUN) is self:
            for nursery in task.child_nurseries:
                if nursery.cancel_scope.cancel_called:
                    return True
                if nursery is below:
                    break
            below = task.parent_nursery
            task = below.parent_task if below is not None else None
        return False

    def interruptions_of(self, path: str, seq: int) -> int:
        """How often a call may have been begun after a record, and left none of its own."""
        return 0 if self._history is None else self._history.interruptions_of(path, seq)

    def remember(self, error: BaseException, origins: frozenset[str]) -> None:
        """Note which failures an exception carries that is given to user code."""
        self.known[id(error)] = (error, origins)

    def origins_of(self, error: BaseException) -> frozenset[str]:
        """The failures that an exception carries."""
        return carried_by(error, self.known) if self.known else frozenset()

    def now(self) -> dt.datetime:
        """The instant of the last outcome."""
        return parse(self.at)

    def find_class(self, name: str) -> type | None:
        """A class local to a function, by its module and qualified name, where the activity's code refers to it."""
        return self.definition.find_class(name)


def _copied_beside(scopes: Mapping[str, Sequence[RecordedCall]]) -> dict[str, int]:
    """The scopes in which a nursery of the user's own had branches that a fork took over, each with the last of their
    calls: what is drawn there may have been drawn for these."""
    last: dict[str, int] = {}
    for branch, calls in scopes.items():
        if branch and opener_of(branch) is None:
            outer = scope_of(branch)
            last[outer] = max([last.get(outer, 0), *(call.copied for call in calls)])
    return last
