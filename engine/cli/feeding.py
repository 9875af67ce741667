"""Starting an activity for each row, and waiting for it.

The rows are taken in the file's order, and each has a task of its own from its start to its end, at most so many at
once. A row that repeats the id of one under way waits until that one's start is recorded, so that of two rows with one
id the first is started and the second compared with it, whatever the tasks' order.

A row that cannot be used stopped the command when the file was checked, unless it is told to skip such rows: then the
refusal is recorded in the row's turn, with what was expected as its rule and the row as what was given.
"""

from __future__ import annotations

import json
from typing import Any

import trio

from engine.cli.arguments import Arguments
from engine.cli.output import count_of, error_line
from engine.cli.progress import Display, Tally
from engine.cli.rows import Row, RowError
from engine.errors import (
    ActivityCancelledError,
    ActivityFailedError,
    ActivityNotFoundError,
    CommandDeniedError,
    IdConflictError,
    PayloadError,
)
from engine.messages import ActivityStatus
from engine.runtime import Engine

SAID = 10
"""How many rows that failed or were denied are told of one by one."""

_OVER = (
    ActivityStatus.COMPLETED,
    ActivityStatus.FAILED,
    ActivityStatus.CANCELLED,
    ActivityStatus.BLOCKED,
    ActivityStatus.PAUSED,
)


class Feeding:
    """Brings all rows to their end."""

    def __init__(
        self,
        engine: Engine,
        arguments: Arguments,
        tally: Tally,
        display: Display,
        *,
        by: str,
        reason: str | None,
        concurrency: int,
        taken_up: set[str],
        skip_invalid: bool = False,
    ) -> None:
        """Prepare.

        Args:
            engine: starts the activities.
            arguments: make rows into what activities are started with.
            tally: what became of the rows is counted there.
            display: what is told of rows goes there.
            by: who asks.
            reason: why.
            concurrency: how many rows are under way at once.
            taken_up: ids of the activities that an earlier run left, and the engine goes on with.
            skip_invalid: whether a row that cannot be used is recorded as refused, and the others run.
        """
        self._engine = engine
        self._arguments = arguments
        self._tally = tally
        self._display = display
        self._by = by
        self._reason = reason
        # Whoever is first to ask for one of them takes it out: its end is this run's, that of others an earlier one's.
        self._taken_up = taken_up
        self._skip_invalid = skip_invalid
        self._slots = trio.Semaphore(concurrency)
        # The rows under way, by id, each with what is set when its start is recorded or refused.
        self._started: dict[str, trio.Event] = {}
        # Ids that are counted as failed. It grows with the failures only, so that a row that repeats one is told from a
        # failure of an earlier run.
        self._failed: set[str] = set()
        self._unsaid = 0

    async def run(self) -> None:
        """Start all rows and wait for their ends.

        Raises:
            InputError: the file was changed since it was checked.
            JournalError: nothing can be recorded any more.

        Cancelling leaves the activities to the engine.
        """
        async with trio.open_nursery() as nursery:
            if self._display.every is not None:
                nursery.start_soon(self._show_every, self._display.every)
            async with trio.open_nursery() as rows:
                for reading in self._arguments.file.readings():
                    try:
                        place, id, args = self._read(reading)
                    except RowError as error:
                        if not self._skip_invalid:
                            raise
                        await self._slots.acquire()
                        rows.start_soon(self._refuse, self._arguments.target_of(reading), error)
                        continue
                    under_way = self._started.get(id)
                    if under_way is not None:
                        await under_way.wait()
                    # Before the task exists, so that no more tasks exist than may be at work.
                    await self._slots.acquire()
                    repeats = id in self._started
                    if not repeats:
                        self._started[id] = trio.Event()
                    rows.start_soon(self._row, place, id, args, repeats)
            nursery.cancel_scope.cancel()
        self._display.counted()
        if self._unsaid:
            self._display.say(f"… and {count_of(self._unsaid, 'more row')} that failed or were denied")

    async def _show_every(self, seconds: float) -> None:
        while True:
            await trio.sleep(seconds)
            self._display.show()

    def _read(self, reading: Row | RowError) -> tuple[str, str, tuple[Any, ...]]:
        """The row's place in its file, its id, and its arguments."""
        if isinstance(reading, RowError):
            raise reading
        place = f"{self._arguments.file.path}: {reading.place}"
        return place, self._arguments.id_of(reading), self._arguments.of_row(reading)

    async def _refuse(self, id: str, error: RowError) -> None:
        """Record that a row cannot be used."""
        name = self._arguments.activity.name
        try:
            await self._engine.deny(name, id=id, rule=error.rule, given=_given(error), by=self._by, reason=self._reason)
        finally:
            self._slots.release()
        self._tally.denied += 1
        self._say(f"denied: {error.message}")
        self._display.counted()

    async def _row(self, place: str, id: str, args: tuple[Any, ...], repeats: bool) -> None:
        try:
            if repeats:
                await self._compare(place, id, args)
            else:
                try:
                    await self._bring_to_end(place, id, args)
                finally:
                    self._started.pop(id).set()
        finally:
            self._slots.release()
        self._display.counted()

    async def _bring_to_end(self, place: str, id: str, args: tuple[Any, ...]) -> None:
        before = await self._status(id)
        if not await self._start(place, id, args):
            return
        self._started[id].set()
        if id in self._taken_up:
            self._taken_up.remove(id)
            before = None
        if before is ActivityStatus.COMPLETED or id in self._failed:
            self._tally.skipped += 1
            return
        status = await self._engine.handle(id).wait(*_OVER)
        if status is ActivityStatus.COMPLETED:
            self._tally.completed += 1
            return
        self._tally.failed += 1
        self._failed.add(id)
        earlier = " (in an earlier run)" if before is status else ""
        self._say(f"{id}{earlier} {await self._what_happened(id, status)}")

    async def _compare(self, place: str, id: str, args: tuple[Any, ...]) -> None:
        """A row that repeats one under way: the same, or denied."""
        if await self._start(place, id, args):
            self._tally.skipped += 1

    async def _status(self, id: str) -> ActivityStatus | None:
        try:
            return await self._engine.handle(id).status()
        except ActivityNotFoundError:
            return None

    async def _start(self, place: str, id: str, args: tuple[Any, ...]) -> bool:
        """Whether there is an activity of this id and these arguments, from now on at the latest."""
        try:
            await self._engine.start(self._arguments.activity, *args, id=id, by=self._by, reason=self._reason)
        except (IdConflictError, CommandDeniedError, PayloadError) as error:
            self._tally.denied += 1
            self._say(f"denied: {place}: {error}")
            return False
        return True

    async def _what_happened(self, id: str, status: ActivityStatus) -> str:
        if status is ActivityStatus.BLOCKED:
            return f"is blocked; see why with `playbill show {id}`"
        if status is ActivityStatus.PAUSED:
            return f"is paused; `playbill resume {id}` has it go on"
        try:
            await self._engine.handle(id).result()
        except ActivityFailedError as error:
            return f"failed: {error_line(error.type, error.message)}"
        except (ActivityCancelledError, PayloadError):  # the latter where what it raised was erased
            pass
        return f"is {status}"

    def _say(self, line: str) -> None:
        if self._tally.failed + self._tally.denied <= SAID:
            self._display.say(line)
        else:
            self._unsaid += 1


def _given(error: RowError) -> Any:
    """What the row holds, as plain JSON values: what is written with a point, a Decimal here, as its digits."""
    try:
        return None if error.values is None else json.loads(json.dumps(error.values, default=str))
    except RecursionError:
        return None
