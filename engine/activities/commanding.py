"""Commands to activities that there are: cancel, terminate, pause, resume and retry them, one or many.

Each is recorded before it is obeyed, in one commit with what it does; a refused one is recorded too. What it does in
which status stands in `permitted`. An engine that only records commands lets happen what needs no code to run, and
leaves the rest to the next engine that has the definitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import trio

from engine.activities.asking import too_late
from engine.activities.obeying import Activities, Asked
from engine.activities.permitted import KEPT, REFUSED, SAME, TABLE
from engine.activities.posting import Letter
from engine.activities.resolving import Resolution, unresolvable
from engine.errors import ActivityEndedError, ActivityNotFoundError, CommandDeniedError, IdConflictError
from engine.journal import ENDED, ENGINE_STREAM, Store, StoredRecord
from engine.messages import ActivityStatus, new_id


class Commanding:
    """Obeys the commands that are given to the activities of one engine."""

    def __init__(self, activities: Activities, journal: Store, stamp: Callable[[], str], *, within: float) -> None:
        """Prepare to obey.

        Args:
            activities: the activities.
            journal: where commands are recorded.
            stamp: gives the present instant, as records hold it.
            within: seconds after which the wait for a commit is given up.
        """
        self._activities = activities
        self._post = activities.post
        self._journal = journal
        self._stamp = stamp
        self._within = within
        self._acts: Mapping[str, Callable[[str, str, int], None]] = {
            "cancel": self._cancel,
            "terminate": self._terminate,
            "pause": self._pause,
            "resume": self._resume,
        }

    async def obey(
        self,
        command: str,
        id: str,
        asked: Asked,
        resolution: Resolution | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Obey a command to one activity. Durable when it returns.

        Args:
            command: the command.
            id: the activity.
            asked: who asked.
            resolution: of a `resolve`: what became of the step.
            timeout: of a `retry`: seconds until the new deadline.

        Raises:
            ActivityNotFoundError: there is none of this id.
            ActivityEndedError: it has ended, and takes no such command.
            CommandDeniedError: it takes no such command in its status. Every refusal is recorded.
            JournalFullError, JournalBusyError: it could not be recorded in time, and may still be.

        Cancelling leaves open whether it is recorded; what is recorded is obeyed.
        """
        if self._activities.is_leaving(id):
            await self._journal.durable_within(self._journal.last_seq, self._within)
        denied = self._denied(command, id, timeout)
        if denied is None and resolution is not None:
            denied = unresolvable(resolution.path, self._journal.histories([id])[id])
        if denied is not None:
            await self._refuse(command, id, denied, asked)
        await self._journal.durable_within(self._accept(command, id, asked, resolution, timeout), self._within)

    async def obey_many(
        self,
        command: str,
        ids: Iterable[str],
        selected: Mapping[str, Any],
        asked: Asked,
        *,
        timeout: float | None = None,
    ) -> int:
        """Obey one command to many activities: those of these that take it in their status. Durable when it returns.

        Args:
            command: the command.
            ids: the activities that were selected.
            selected: by what, for the record.
            asked: who asked.
            timeout: of a `retry`: seconds until the new deadlines.

        Returns:
            To how many it was given.

        Raises:
            JournalFullError, JournalBusyError: it could not be recorded in time, and may still be.
        """
        seq = self._journal.append(
            ENGINE_STREAM,
            "command.accepted",
            by=asked.by,
            facts=asked.facts(command, selected=dict(selected), timeout=timeout),
            data=asked.data(),
        )
        count = 0
        for id in ids:
            if self._denied(command, id, timeout) is None:
                self._obey_once(command, id, seq, timeout)
                count += 1
                # Others have their turn, and no commit grows without bound.
                if not count % 100:
                    await self._journal.durable(self._journal.last_seq)
                    await trio.lowlevel.checkpoint()
        await self._journal.durable_within(self._journal.last_seq, self._within)
        return count

    # ------------------------------------------------------------------------------------------------ messages

    async def send(self, id: str, letter: Letter, asked: Asked, *, message_id: str | None, asks: bool = False) -> None:
        """Obey a `send`: have an activity receive a message. Durable when it returns.

        Args:
            id: the activity.
            letter: the message.
            asked: who asked.
            message_id: the message's id, where one was given: what was sent before is not kept twice.
            asks: whether an answer is waited for.

        Raises:
            IdConflictError: it was sent another message of this id.
            ActivityNotFoundError, ActivityEndedError: it cannot be sent anything. The refusal is recorded.
            JournalFullError, JournalBusyError: it could not be recorded in time, and may still be.
        """
        before = None if message_id is None else self._post.find(id, message_id)
        if before is not None:
            if self._post.is_other(before, letter):
                raise IdConflictError(before.facts["id"], "another message was sent with it; choose another id")
            await self._journal.durable_within(before.seq, self._within)
            return
        denied = self._denied("send", id, None)
        if denied is not None:
            if self._activities.is_leaving(id):
                await self._journal.durable_within(self._journal.last_seq, self._within)
            await self._refuse("send", id, denied, asked, args=f"[{letter.text}]")
        await self._journal.durable_within(
            self._accept_message(id, letter, asked, message_id or new_id(), asks), self._within
        )

    async def ask(self, id: str, letter: Letter, asked: Asked, *, timeout: float | None) -> StoredRecord:
        """Obey a `send`, and wait for the answer, or for the activity's end.

        Args:
            id: the activity.
            letter: the message.
            asked: who asked.
            timeout: seconds to wait; `None` for ever.

        Returns:
            The record of the answer, or of the end.

        Raises:
            AskTimeoutError: there was neither in time.
            NoEngineError: the engine has closed.
            ActivityNotFoundError, ActivityEndedError, JournalFullError, JournalBusyError: as `send`.
        """
        message_id = new_id()
        answered = trio.Event()

        def wake(at: str) -> None:
            answered.set()

        post, family = self._activities.post, self._activities.family
        post.watch(id, message_id, wake)
        family.watch(id, wake)
        try:
            with trio.move_on_after(math.inf if timeout is None else timeout):
                await self.send(id, letter, asked, message_id=message_id, asks=True)
                await answered.wait()
            if answered.is_set():
                self._activities.check_open()
            record = post.answer(id, message_id) or family.ending(id)
        finally:
            post.forget(id, message_id)
            family.forget(id, wake)
        if record is None:
            raise too_late(id, timeout)
        return record

    async def send_many(
        self, ids: Iterable[str], selected: Mapping[str, Any], letter: Letter, asked: Asked, *, message_id: str | None
    ) -> int:
        """Have those of these activities receive a message that have not ended, and were not sent it before. Durable
        when it returns.

        Args:
            ids: the activities that were selected.
            selected: by what, for the record.
            letter: the message.
            asked: who asked.
            message_id: the message's id, where one was given.

        Returns:
            How many have it.

        Raises:
            JournalFullError, JournalBusyError: it could not be recorded in time, and may still be.
        """
        chosen = message_id or new_id()
        facts = asked.facts("send", message=chosen, selected=dict(selected))
        self._journal.append(ENGINE_STREAM, "command.accepted", by=asked.by, facts=facts, data=asked.data())
        count = 0
        for id in ids:
            if self._denied("send", id, None) is None:
                if self._post.find(id, chosen) is None:
                    self._post.put(id, letter, id=chosen, by=asked.by)
                count += 1
                if not count % 100:
                    await self._journal.durable(self._journal.last_seq)
                    await trio.lowlevel.checkpoint()
        await self._journal.durable_within(self._journal.last_seq, self._within)
        return count

    @trio.lowlevel.enable_ki_protection  # Ctrl-C must not part the command from what it asks for
    def _accept_message(self, id: str, letter: Letter, asked: Asked, message_id: str, asks: bool) -> int:
        self._journal.append(
            id,
            "command.accepted",
            name=self._activities.name_of(id),
            by=asked.by,
            facts=asked.facts("send", message=message_id),
            data=asked.data(),
        )
        return self._post.put(id, letter, id=message_id, by=asked.by, asks=asks).seq

    # ------------------------------------------------------------------------------------------------ whether

    async def _refuse(
        self, command: str, id: str, denied: CommandDeniedError, asked: Asked, *, args: str | None = None
    ) -> NoReturn:
        """Record a refusal, and raise it when that is durable."""
        unknown = isinstance(denied, ActivityNotFoundError)
        seq = self._activities.deny(
            None if unknown else id,
            target=id,
            name=self._activities.name_of(id),
            rule=denied.reason,
            command=command,
            asked=asked,
            args=args,
        )
        await self._journal.durable_within(seq, self._within)
        raise denied

    def _denied(self, command: str, id: str, timeout: float | None) -> CommandDeniedError | None:
        """Why the activity does not take the command now; `None` where it does."""
        status = self._activities.standing(id)
        if status is None:
            return ActivityNotFoundError(id)
        if TABLE[command][status] == REFUSED:
            if status in ENDED:
                return ActivityEndedError(id, str(status))
            return CommandDeniedError(f"activity {id!r} is {status}; {self._advice(command)}")
        if command != "send" and status is ActivityStatus.BLOCKED and self._activities.is_leaving(id):
            return CommandDeniedError(f"activity {id!r} is about to be {status}; ask again")
        if command in ("resume", "resolve") and not self._activities.has_definition(id):
            name = self._activities.name_of(id)
            return CommandDeniedError(f"this engine was given no definition of {name!r}; open it with one")
        if command == "retry":
            try:
                self._activities.retrial_of(id, timeout=timeout)
            except CommandDeniedError as error:
                return error
        return None

    def _advice(self, command: str) -> str:
        taken = [str(status) for status, effect in TABLE[command].items() if effect != REFUSED]
        if len(taken) == 1:
            return f"`{command}` is for one that is {taken[0]}"
        return (
            f"`{command}` is for one that is {' or '.join([', '.join(taken[:-1]), taken[-1]] if taken[1:] else taken)}"
        )

    # ------------------------------------------------------------------------------------------------ what it does

    @trio.lowlevel.enable_ki_protection  # Ctrl-C must not part the command from what it asks for
    def _accept(self, command: str, id: str, asked: Asked, resolution: Resolution | None, timeout: float | None) -> int:
        status = self._activities.standing(id)
        seq = self._journal.append(
            id,
            "command.accepted",
            name=self._activities.name_of(id),
            by=asked.by,
            facts=asked.facts(command, timeout=timeout),
            data=asked.data(),
            ended=status in ENDED,
        )
        if resolution is not None:
            self._activities.resolve(id, resolution, command=seq)
        else:
            self._obey_once(command, id, seq, timeout)
        return self._journal.last_seq

    def _obey_once(self, command: str, id: str, seq: int, timeout: float | None) -> None:
        status = self._activities.standing(id)
        assert status is not None
        effect = TABLE[command][status]
        if command == "retry":
            self._activities.retry(id, command=seq, timeout=timeout)
        elif effect != SAME:
            self._acts[command](id, effect, seq)

    def _cancel(self, id: str, effect: str, command: int) -> None:
        if effect == ActivityStatus.CANCELLED:
            # It has not begun.
            self._activities.end_at_once(id, cause="command", command=command)
        else:
            self._activities.cancel(id, cause="command", command=command, kept=effect == KEPT)

    def _terminate(self, id: str, effect: str, command: int) -> None:
        self._activities.end_at_once(id, cause="terminate", command=command)

    def _pause(self, id: str, effect: str, command: int) -> None:
        self._activities.pause(id, command=command)

    def _resume(self, id: str, effect: str, command: int) -> None:
        self._activities.take_on(id)
