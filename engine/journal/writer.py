"""How a commit forms.

`append` is synchronous: it gives the record its `seq` and puts a plain tuple into the open *batch*; no queue, no lock,
no channel. The task that appended then waits in that batch. The first append of a batch reschedules the writer's task,
which runs in Trio's next tick, and so takes along what every task of this tick appended: some hundreds of records with
many activities under way, one for a lone activity, without a delay or a timer. The writer seals the records (salts,
leaves, the tree's root), inserts them and the rows derived from them, commits, and reschedules the batch's tasks in one
loop. Nothing acts on a record before that.

Inserting stays in the loop's thread, since a writer thread starves beside a busy loop (each of its statements waits
for the interpreter lock anew). Only COMMIT may leave it, for one long-lived thread, where the disk is slow: its moving
average decides. Where the thread's answer comes later than the commit itself took, COMMIT comes back into the loop.
Under a clock that jumps, as tests use, it never leaves: such a clock does not wait for threads.

A commit that fails is rolled back whole and tried again, with the same records and the same hashes, until it succeeds:
activities wait. After a COMMIT whose end is unclear the journal is read back first. Only records that SQLite will never
take (they break one of the schema's own rules) end the writer: all who wait are told so, and the engine goes down.

Where the structure's figures come from: docs/decisions/0002-the-writer.md.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

import orjson
import outcome
import trio

from engine.errors import JournalBusyError, JournalError, JournalFullError
from engine.journal.commit_place import CommitPlace
from engine.journal.kinds import TERMINAL_KINDS
from engine.journal.log import EMPTY_CHAIN, SALT_SIZE, Tile, Tree, chained, commitment, entry, leaf_hash
from engine.journal.projections import PROJECTED, Projected, Projections

logger = logging.getLogger("playbill.journal")

RETRY_FIRST = 0.01
RETRY_LONGEST = 1.0
"""Seconds between tries of a commit that fails, doubled from the first to the longest."""

_STARTED, _PARKED, _RETRIED = "activity.started", "activity.parked", "activity.retried"

_HOPELESS = (sqlite3.IntegrityError, sqlite3.ProgrammingError)
"""What no further try mends: a constraint that the records break, a connection that is closed."""

_INSERT = (
    "INSERT INTO records(seq, stream, kind, name, path, run, at, by, facts, data, salt, digest, leaf, root) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?)"
)

Draft = tuple[int, str, str, "str | None", "str | None", "int | None", str, "str | None", str, "str | None"]
"""A record before it is sealed: the columns from `seq` to `data`."""


class Batch:
    """The records of one commit, and who waits for it.

    Attributes:
        drafts: the records, as they were appended.
        rows: the records with their hashes, once the batch is sealed.
        tiles: the tiles of the log that they fill.
        streams: the streams that begin in this batch, with their types.
        ended: the streams, known to have ended, that get further records in it.
        projections: what they change in the derived tables.
        waiters: the tasks to be rescheduled when the batch is durable, and until when each is ready to wait.
        landed: what to call then, before any task goes on.
    """

    __slots__ = ("drafts", "ended", "landed", "projections", "rows", "streams", "tiles", "waiters")

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.rows: list[tuple[Any, ...]] = []
        self.tiles: list[Tile] = []
        self.streams: dict[str, str] = {}
        self.ended: set[str] = set()
        self.projections = Projections()
        self.waiters: dict[trio.lowlevel.Task, float] = {}
        self.landed: list[Callable[[], None]] = []

    @property
    def last(self) -> int:
        return self.drafts[-1][0]


def _is_hopeless(error: sqlite3.Error) -> bool:
    """Whether no other try can succeed: a record that breaks a rule of the schema, or a file that somebody has
    overwritten, or taken a table from."""
    if isinstance(error, _HOPELESS) or _code_of(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    return _code_of(error) == sqlite3.SQLITE_ERROR and str(error).startswith("no such ")


def _code_of(error: sqlite3.Error | None) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _jumps(clock: trio.abc.Clock) -> bool:
    """Whether this is no clock of real time: one that stands until it jumps, as Trio's `MockClock`, has no second that
    comes by waiting for it."""
    return clock.deadline_to_sleep_time(clock.current_time() + 1) > 2


def _never_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


class Writer:
    """The one who writes a journal: gives out `seq`, forms commits, keeps the log.

    Attributes:
        durable_seq: the last record that is durable.
        on_durable: called with it after each commit, when the records' own callbacks have been.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        tree: Tree,
        stamp: Callable[[], str],
        commit_delay: float = 0.0,
        reopened: Iterable[str] = (),
    ) -> None:
        """Take over a journal's connection, which nobody else uses from then on.

        Args:
            connection: in autocommit mode, usable from any thread.
            tree: the log's tree, at the journal's size.
            stamp: gives the present instant, as `at` holds it.
            commit_delay: seconds to wait for further records before each commit; 0 for none.
            reopened: the streams that had ended and go on: their records hold `before` all the same.
        """
        self._connection = connection
        self._tree = tree
        self._stamp = stamp
        self._commit_delay = commit_delay
        self.durable_seq = tree.size
        self.on_durable: Callable[[int], None] | None = None
        self._next_seq = tree.size + 1
        self._open: Batch | None = None
        self._committing: Batch | None = None
        self._task: trio.lowlevel.Task | None = None
        self._asleep = False
        self._closing = False
        self._failing_since = 0.0
        # Seconds for which a commit may fail, and from when on they count.
        self._patience = math.inf
        self._patient_since = 0.0
        self._over = False
        self._failure: sqlite3.Error | None = None
        self._broken: BaseException | None = None
        # The streams that ended in the batch before: who appends while its commit is under way cannot know it yet.
        self._ended: set[str] = set()
        # The hash chains of the activities that began in this process and run: their end needs no reading back. Those
        # that are pending or parked have none: there may be a million of them.
        self._chains: dict[str, tuple[int, bytes]] = {}
        self._reopened = set(reopened)
        self._registered: trio.Event | None = None
        self._place = CommitPlace()
        self._clock_jumps = False

    @property
    def last_seq(self) -> int:
        """The last record that was appended."""
        return self._next_seq - 1

    # ------------------------------------------------------------------------------------------------ for the engine

    @trio.lowlevel.enable_ki_protection  # Ctrl-C between two of its lines would leave a gap in `seq`
    def append(
        self,
        stream: str,
        kind: str,
        *,
        name: str | None = None,
        path: str | None = None,
        run: int | None = None,
        by: str | None = None,
        facts: Mapping[str, Any] | str = "{}",
        data: str | None = None,
        at: str | None = None,
        begins: str | None = None,
        ended: bool = False,
        landed: Callable[[], None] | None = None,
    ) -> int:
        """Put a record into the open batch. Never waits; the record is not durable yet: see `durable`.

        Args:
            stream, kind, name, path, run, by: the record's columns.
            facts: what the engine made; a mapping, or JSON text.
            data: what users made, as JSON text.
            at: the record's instant; now, unless given.
            begins: the stream's type, where this is the first record of the stream.
            ended: whether the stream had durably ended before (its records hold `before` from then on).
            landed: called in the loop when the record is durable, before any task goes on; must not raise.

        Returns:
            The record's `seq`. What this raises (facts that are no JSON) leaves nothing behind, not even a gap.

        Raises:
            JournalError: the writer has ended, or has broken down.
        """
        if self._over or self._broken is not None:
            raise self._breakdown() from self._broken
        if at is None:
            at = self._stamp()
        text = facts if isinstance(facts, str) else orjson.dumps(facts).decode()
        batch = self._open or Batch()
        seq = self._next_seq
        if kind in PROJECTED:
            read = orjson.loads(facts) if isinstance(facts, str) else facts
            batch.projections.apply(Projected(seq, stream, kind, name, run, at, by, read))
        batch.drafts.append((seq, stream, kind, name, path, run, at, by, text, data))
        self._next_seq = seq + 1
        if self._open is None:
            self._open = batch
            self._wake()
        if begins is not None:
            batch.streams[stream] = begins
        elif ended:
            batch.ended.add(stream)
        if landed is not None:
            batch.landed.append(landed)
        return seq

    @trio.lowlevel.enable_ki_protection
    async def durable(self, seq: int) -> None:
        """Wait until a record is durable. A cancellation does not end the wait: it comes at the next checkpoint, so
        that what was handed to the journal is never reported as not done.

        Raises:
            JournalError: the writer has broken down; nothing is recorded any more.
        """
        batch = self._batch_of(seq)
        if batch is not None:
            batch.waiters[trio.lowlevel.current_task()] = math.inf
            await trio.lowlevel.wait_task_rescheduled(_never_abort)

    @trio.lowlevel.enable_ki_protection
    async def durable_within(self, seq: int, seconds: float) -> None:
        """Wait until a record is durable, but not for ever; cancelling ends the wait and leaves the record.

        Raises:
            JournalFullError: the disk is full, or fails; the record may still be recorded later.
            JournalBusyError: nothing could be committed for another reason; it may still be recorded later.
            JournalError: the writer has broken down; nothing is recorded any more.
        """
        batch = self._batch_of(seq)
        if batch is None:
            return
        task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            batch.waiters.pop(task, None)
            return trio.lowlevel.Abort.SUCCEEDED

        # The writer looks at the deadlines where it is held up; a cancel scope for each call would cost 8 us.
        batch.waiters[task] = trio.current_time() + seconds
        if self._registered is not None:
            self._registered.set()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _refuse_overdue(self) -> None:
        """Wake whoever has waited longer than it was ready to."""
        now = trio.current_time()
        for batch in (self._committing, self._open):
            if batch is not None:
                for task in [task for task, deadline in batch.waiters.items() if deadline <= now]:
                    del batch.waiters[task]
                    trio.lowlevel.reschedule(task, outcome.Error(self._refusal()))

    async def _watch_deadlines(self) -> None:
        """Refuse in time while a COMMIT hangs in its thread. No timer runs where nobody waits with a deadline."""
        while True:
            self._registered = trio.Event()
            waiting = [batch.waiters.values() for batch in (self._committing, self._open) if batch is not None]
            with trio.move_on_at(min((deadline for waiters in waiting for deadline in waiters), default=math.inf)):
                await self._registered.wait()
            self._refuse_overdue()

    def _refusal(self) -> JournalError:
        why = "nothing was committed in time"
        advice = "it may still be recorded: ask again with the same id"
        code = _code_of(self._failure)
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
            return JournalFullError(f"{why} ({self._failure}); make room on the disk; {advice}")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return JournalBusyError(f"{why}, since another program writes to the journal's file; end it; {advice}")
        return JournalBusyError(f"{why} ({self._failure or 'the disk is slow'}); {advice}")

    def _batch_of(self, seq: int) -> Batch | None:
        if seq <= self.durable_seq:
            return None
        if self._broken is not None:
            raise self._breakdown() from self._broken
        committing = self._committing
        if committing is not None and seq <= committing.last:
            return committing
        return self._open

    # ------------------------------------------------------------------------------------------------ the writer's task

    @trio.lowlevel.enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit batch after batch, until `close` was called and all is written. Cancelling has no effect: what was
        appended is written first."""
        self._task = trio.lowlevel.current_task()
        self._clock_jumps = _jumps(trio.lowlevel.current_clock())
        try:
            with trio.CancelScope(shield=True), CommitThread() as thread:
                task_status.started()
                await self._write_all(thread)
                self._over = True
        except BaseException as error:
            # Whatever it is: those who wait cannot be cancelled, and would wait for ever.
            self._break_down(error)
            raise

    @trio.lowlevel.enable_ki_protection
    async def _write_all(self, thread: CommitThread) -> None:
        while True:
            if self._open is None:
                if self._closing:
                    break
                self._asleep = True
                await trio.lowlevel.wait_task_rescheduled(_never_abort)
                continue
            await self._gather()
            batch, self._open = self._open, None
            self._committing = batch
            await self._write(batch, thread)
            self.durable_seq = batch.last
            for callback in batch.landed:
                callback()
            if self.on_durable is not None:
                self.on_durable(batch.last)
            self._committing = None
            for task in batch.waiters:
                trio.lowlevel.reschedule(task)

    def _break_down(self, error: BaseException) -> None:
        self._broken = error
        for batch in (self._committing, self._open):
            for task in () if batch is None else batch.waiters:
                trio.lowlevel.reschedule(task, outcome.Error(self._breakdown()))

    def _breakdown(self) -> JournalError:
        if self._broken is None:
            return JournalError("the engine has closed the journal; open it again")
        return JournalError(f"the journal's writer broke down ({self._broken}), and nothing is recorded any more")

    def close(self, within: float = math.inf) -> None:
        """Have `run` end when all that was appended is written.

        Args:
            within: seconds after which a commit that still fails is given up, and `run` raises what `durable_within`
                does.
        """
        self._closing = True
        self.give_up_within(within)
        self._wake()

    def give_up_within(self, seconds: float) -> None:
        """From now on give up a commit that fails for so many seconds: `run` raises what `durable_within` does, and so
        does each wait. Until this is called, waits last as long as the failure: whoever closes has to end. Called
        again, it changes nothing."""
        if self._patience == math.inf:
            self._patience = seconds
            self._patient_since = trio.current_time()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            assert self._task is not None
            trio.lowlevel.reschedule(self._task)

    async def _gather(self) -> None:
        """Let the tasks that the last commit woke append to this batch too."""
        if self._commit_delay:
            await trio.sleep(self._commit_delay)
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _write(self, batch: Batch, thread: CommitThread) -> None:
        delay = RETRY_FIRST
        while True:
            try:
                if not batch.rows:
                    self._seal(batch)
                self._insert(batch)
                await self._commit(thread)
            except sqlite3.Error as error:
                if self._is_written(batch):
                    break
                if _is_hopeless(error):
                    raise
                if self._failure is None:
                    logger.warning("a commit failed and is tried again: %s", error)
                    self._failing_since = trio.current_time()
                self._failure = error
                self._refuse_overdue()
                if trio.current_time() - max(self._failing_since, self._patient_since) >= self._patience:
                    raise self._refusal() from error
                with trio.move_on_after(delay):
                    await self._watch_deadlines()
                self._registered = None
                delay = min(2 * delay, RETRY_LONGEST)
            else:
                break
        if self._failure is not None:
            logger.warning("commits succeed again")
            self._failure = None

    def _is_written(self, batch: Batch) -> bool:
        """After a failure: roll back what can be, then read whether the commit took place all the same."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            (last,) = self._connection.execute("SELECT max(seq) FROM records").fetchone()
        except sqlite3.Error:
            return False
        return last is not None and int(last) >= batch.last

    # ------------------------------------------------------------------------------------------------ sealing

    def _seal(self, batch: Batch) -> None:
        """Compute salts, commitments, leaves and the root; the log's tree grows. Done once for a batch, however often
        its commit is tried."""
        self._load_chains(batch)
        salts = os.urandom(SALT_SIZE * len(batch.drafts))
        chains = self._chains
        over = self._ended = batch.ended
        rows = batch.rows
        parked: list[str] = []
        at_salt = 0
        for seq, stream, kind, name, path, run, at, by, facts, data in batch.drafts:
            chain = chains.get(stream)
            if chain is not None and (kind in TERMINAL_KINDS or stream in over):
                over.add(stream)
                facts = _with_before(facts, chain)
                if kind in TERMINAL_KINDS:
                    self._reopened.discard(stream)
            salt = committed = None
            if data is not None:
                salt = salts[at_salt : at_salt + SALT_SIZE]
                at_salt += SALT_SIZE
                committed = commitment(salt, data)
            leaf = leaf_hash(entry(seq, stream, kind, name, path, run, at, by, facts, committed))
            batch.tiles += self._tree.append(leaf)
            if chain is not None:
                chains[stream] = (chain[0] + 1, chained(chain[1], leaf))
                if kind == _PARKED:
                    parked.append(stream)
            rows.append((seq, stream, kind, name, path, run, at, by, facts, data, salt, leaf, None))
        rows[-1] = (*rows[-1][:-1], self._tree.root())
        for stream in (*(over - self._reopened), *parked):
            chains.pop(stream, None)

    def _load_chains(self, batch: Batch) -> None:
        """Have the chain at hand of every stream that begins in this batch, or has ended by the end of it."""
        if batch.streams:
            for draft in batch.drafts:
                if draft[2] == _STARTED and draft[1] in batch.streams:
                    self._chains[draft[1]] = (0, EMPTY_CHAIN)
        ended_before = self._ended
        batch.ended.update([draft[1] for draft in batch.drafts if draft[1] in ended_before])
        self._reopened.update([draft[1] for draft in batch.drafts if draft[2] == _RETRIED])
        if self._reopened:
            batch.ended |= {draft[1] for draft in batch.drafts} & self._reopened
        ending = {draft[1] for draft in batch.drafts if draft[2] in TERMINAL_KINDS} | batch.ended
        for stream in ending - self._chains.keys():
            count, chain = 0, EMPTY_CHAIN
            for (leaf,) in self._connection.execute(
                "SELECT leaf FROM records WHERE stream = ? ORDER BY seq", (stream,)
            ):
                count, chain = count + 1, sha256(chain + leaf).digest()
            self._chains[stream] = (count, chain)

    # ------------------------------------------------------------------------------------------------ SQLite

    def _insert(self, batch: Batch) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        if batch.streams:
            self._connection.executemany("INSERT OR IGNORE INTO streams(id, type) VALUES (?, ?)", batch.streams.items())
        self._connection.executemany(_INSERT, batch.rows)
        batch.projections.write(self._connection)
        if batch.tiles:
            self._connection.executemany("INSERT INTO tiles(level, n, hashes) VALUES (?, ?, ?)", batch.tiles)

    async def _commit(self, thread: CommitThread) -> None:
        began = time.perf_counter()
        if self._clock_jumps or self._place.is_loop():
            self._connection.execute("COMMIT")
            self._place.took_in_loop(time.perf_counter() - began)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_deadlines)
            error = await thread.commit(self._connection)
            nursery.cancel_scope.cancel()
        self._registered = None
        if error is not None:
            raise error
        self._place.took_in_thread(time.perf_counter() - began)


def _with_before(facts: str, chain: tuple[int, bytes]) -> str:
    before = f'"before":{{"records":{chain[0]},"leaves":"{chain[1].hex()}"}}}}'
    return f"{{{before}" if facts == "{}" else f"{facts[:-1]},{before}"


class CommitThread:
    """One long-lived thread that does nothing but COMMIT; started when it is first needed, gone at the block's end."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[sqlite3.Connection, trio.lowlevel.Task] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    def __enter__(self) -> Self:
        self._token = trio.lowlevel.current_trio_token()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._requests.put(None)
            self._thread.join()

    @trio.lowlevel.enable_ki_protection
    async def commit(self, connection: sqlite3.Connection) -> Exception | None:
        """COMMIT on the connection; returns why it failed, if it did. Cannot be cancelled."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="playbill-commit", daemon=True)
            self._thread.start()
        self._requests.put((connection, trio.lowlevel.current_task()))
        error: Exception | None = await trio.lowlevel.wait_task_rescheduled(_never_abort)
        return error

    def _serve(self) -> None:
        assert self._token is not None
        while (request := self._requests.get()) is not None:
            connection, task = request
            failure: Exception | None = None
            try:
                connection.execute("COMMIT")
            except Exception as error:  # whatever it is, the loop must hear of it: it waits for nothing else
                failure = error
            self._token.run_sync_soon(_reschedule, task, failure)


def _reschedule(task: trio.lowlevel.Task, answer: Exception | None) -> None:
    trio.lowlevel.reschedule(task, outcome.Value(answer))
