"""Messages on their way: from whoever sends one into the records of the activity that it is meant for.

A message is part of its receiver's history from the commit on in which it is recorded; when that is durable it comes
into the receiver's inbox, where the receiver runs here. One id is kept once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import trio

from engine.activities.attempts import check_size
from engine.activities.inbox import type_name
from engine.codec import canonical, codec_for
from engine.errors import ActivityEndedError, ActivityNotFoundError, CommandDeniedError
from engine.journal import ENDED, ENGINE_STREAM, Store, StoredRecord

if TYPE_CHECKING:
    from engine.activities.execution import Execution
    from engine.messages import ActivityStatus


def record_unread(journal: Store, unread: Iterable[StoredRecord], *, run: int, generation: int) -> None:
    """Record which messages an activity has not received, that ends.

    Args:
        journal: where to record.
        unread: the messages.
        run: the number of the activity's run.
        generation: how often it went on as new.
    """
    for message in unread:
        journal.append(
            message.stream,
            "message.unread",
            name=message.name,
            run=run,
            facts={"generation": generation, "message": message.facts["id"]},
        )


def _unknown(id: str) -> None:
    """Nobody can be sent anything yet."""


def _wake_nobody(id: str) -> None:
    """Whoever does not run here finds its messages when it runs again."""


@attrs.frozen
class Letter:
    """A message as it is recorded.

    Attributes:
        type: its class.
        text: the message, as JSON text.
    """

    type: str
    text: str

    @classmethod
    def of(cls, message: object, most: int) -> Letter:
        """A message, encoded.

        Args:
            message: the message.
            most: bytes of JSON that it may have.

        Raises:
            PayloadError: it cannot be encoded, or is larger.
        """
        text = codec_for(type(message)).encode(message, "message")
        check_size(text, most, "message")
        return cls(type_name(type(message)), text)


class Post:
    """Brings messages to the activities of one engine."""

    def __init__(self, journal: Store, stamp: Callable[[], str]) -> None:
        """Prepare to bring messages.

        Args:
            journal: where they are recorded.
            stamp: gives the present instant.
        """
        self._journal = journal
        self._stamp = stamp
        self._standing: Callable[[str], ActivityStatus | None] = _unknown
        self._live: Mapping[str, Execution] = {}
        self._wake: Callable[[str], object] = _wake_nobody
        self._coming: dict[tuple[str, str], StoredRecord] = {}
        # Who waits for the answer to a message, by the receiver's id and the message's.
        self._askers: dict[tuple[str, str], Callable[[str], object]] = {}

    def bring_to(
        self,
        standing: Callable[[str], ActivityStatus | None],
        live: Mapping[str, Execution],
        wake: Callable[[str], object],
    ) -> None:
        """Say where messages go.

        Args:
            standing: gives the status of the activity of an id, if there is one.
            live: the activities that run here, by id.
            wake: called with the id of a receiver that does not run here, when its message is durable.
        """
        self._standing = standing
        self._live = live
        self._wake = wake

    def refusal(self, target: str) -> CommandDeniedError | None:
        """Why an activity cannot be sent anything; `None` where it can."""
        status = self._standing(target)
        if status is None:
            return ActivityNotFoundError(target)
        return ActivityEndedError(target, str(status)) if status in ENDED else None

    def find(self, target: str, id: str) -> StoredRecord | None:
        """The message of this id that the activity was sent, durable or not."""
        return self._coming.get((target, id)) or self._journal.message(target, id)

    def coming_to(self, target: str) -> list[StoredRecord]:
        """The messages that are recorded for an activity, and not durable yet."""
        return [message for message in self._coming.values() if message.stream == target]

    @staticmethod
    def is_other(before: StoredRecord, letter: Letter) -> bool:
        """Whether a message that was sent is another than this one; of one that was erased nothing is known."""
        if before.name != letter.type:
            return True
        return before.data is not None and canonical(before.data) != canonical(f'{{"value":{letter.text}}}')

    @trio.lowlevel.enable_ki_protection  # Ctrl-C must not part the record from what is to be done when it lands
    def put(
        self,
        target: str,
        letter: Letter,
        *,
        id: str,
        by: str | None = None,
        sender: str | None = None,
        asks: bool = False,
    ) -> StoredRecord:
        """Record a message for an activity that can be sent one; it comes in when that is durable.

        Args:
            target: the receiver's id.
            letter: the message.
            id: the message's id.
            by: who sends it.
            sender: the id of the activity that sends it, where one does.
            asks: whether the sender waits for an answer.
        """
        at = self._stamp()
        facts: dict[str, Any] = {"id": id, "handed_in": at}
        if sender is not None:
            facts["sender"] = sender
        if asks:
            facts["asks"] = True
        data = f'{{"value":{letter.text}}}'
        seq = self._journal.append(
            target,
            "message.received",
            name=letter.type,
            by=by,
            at=at,
            facts=facts,
            data=data,
            landed=lambda: self._landed(message),
        )
        message: StoredRecord = StoredRecord(
            seq, target, "message.received", letter.type, None, None, at, by, facts, data
        )
        self._coming[target, id] = message
        execution = self._live.get(target)
        if execution is not None:
            execution.inbox.expect(message)
        return message

    # ------------------------------------------------------------------------------------------------ answers

    def watch(self, target: str, id: str, wake: Callable[[str], object]) -> None:
        """Have a function called with the instant at which a message is answered."""
        self._askers[target, id] = wake

    def forget(self, target: str, id: str) -> None:
        """Call it no more."""
        self._askers.pop((target, id), None)

    def answered(self, target: str, id: str, at: str) -> None:
        """An answer is durable."""
        wake = self._askers.get((target, id))
        if wake is not None:
            wake(at)

    def wake_all(self) -> None:
        """No more answers come: the engine has closed."""
        for wake in list(self._askers.values()):
            wake("")

    def answer(self, target: str, id: str) -> StoredRecord | None:
        """The answer to a message, if there is one, and durably."""
        return self._journal.answer(target, id)

    # ------------------------------------------------------------------------------------------------ refusals

    def deny(self, target: str, letter: Letter, refusal: CommandDeniedError, *, sender: str) -> int:
        """Record that an activity's message was refused, in the stream of the one that was meant, where it has one."""
        state = self._journal.activity(target)
        is_known = not isinstance(refusal, ActivityNotFoundError)
        return self._journal.append(
            target if is_known else ENGINE_STREAM,
            "command.denied",
            name=None if state is None else state.name,
            facts={
                "command": "send",
                "via": "activity",
                "origin": sender,
                "target": target,
                "rule": refusal.reason,
            },
            data=f'{{"args":[{letter.text}]}}',
            ended=state is not None and state.status in ENDED,
        )

    def _landed(self, message: StoredRecord) -> None:
        self._coming.pop((message.stream, message.facts["id"]), None)
        execution = self._live.get(message.stream)
        if execution is not None:
            execution.inbox.arrive(message)
        else:
            self._wake(message.stream)
