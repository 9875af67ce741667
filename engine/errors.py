"""Every exception that Playbill raises, in one tree under `PlaybillError`.

Each class says who caused it and what to do about it; each carries its data as attributes, so that it can be handled
without reading its text. The text is made from the attributes, and says what was wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class PlaybillError(Exception):
    """The root of the tree: whatever Playbill raises on purpose is one of these."""


# ------------------------------------------------------------------------------------------------ what was defined


class DefinitionError(PlaybillError):
    """A definition, or an option of one, is wrong. Caused by the code that defines; trying again changes nothing."""


class PayloadError(PlaybillError, ValueError):
    """A value cannot be encoded or decoded. Nothing was recorded.

    Attributes:
        path: where the first fault stands, as `order.lines[3].price`.
        faults: every fault that was found, as pairs of path and what is wrong there.
    """

    def __init__(self, path: str, why: str, *, faults: Sequence[tuple[str, str]] = ()) -> None:
        self.path = path
        self.why = why
        self.faults = tuple(faults) or ((path, why),)
        super().__init__("; ".join(f"{where}: {what}" if where else what for where, what in self.faults))

    def __reduce__(self) -> tuple[type[PayloadError], tuple[str, str]]:
        return type(self), (self.path, self.why)


class TopicError(PlaybillError, ValueError):
    """A topic or a topic pattern is not of the form that `engine.topics` takes. Caused by whoever wrote it.

    Attributes:
        topic: the text that was refused.
        why: what is wrong with it.
    """

    def __init__(self, topic: str, why: str) -> None:
        self.topic = topic
        self.why = why
        super().__init__(f"{topic!r}: {why}")

    def __reduce__(self) -> tuple[type[TopicError], tuple[str, str]]:
        return type(self), (self.topic, self.why)


class NoStepError(PlaybillError, LookupError):
    """`current_step()` was called where no step is running: outside Playbill, or in an activity's own body."""


# ------------------------------------------------------------------------------------------------ commands


class IdConflictError(PlaybillError):
    """The id is taken by something else: another activity or other arguments. Nothing was recorded.

    Attributes:
        id: the id that was asked for.
    """

    def __init__(
        self, id: str, why: str = "it is taken by an activity with other arguments; choose another id"
    ) -> None:
        self.id = id
        self.why = why
        super().__init__(f"{id!r}: {why}")


class CommandDeniedError(PlaybillError):
    """The command was refused, and the refusal recorded as `command.denied`.

    Attributes:
        reason: the rule that refused it.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ActivityNotFoundError(CommandDeniedError, LookupError):
    """There is no activity of this id.

    Attributes:
        id: the id that was asked for.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        super().__init__(f"there is no activity {id!r}; `playbill list` shows those there are")

    def __str__(self) -> str:
        return self.reason


class ActivityEndedError(CommandDeniedError):
    """The activity has ended, and takes no more commands of this kind.

    Attributes:
        id: its id.
        status: how it ended.
    """

    def __init__(self, id: str, status: str = "ended", *, unanswered: bool = False) -> None:
        self.id = id
        self.status = status
        super().__init__(f"activity {id!r} is {status}{', and has not answered' if unanswered else ''}")


# ------------------------------------------------------------------------------------------------ activities and steps


class ActivityFailedError(PlaybillError):
    """The activity ended as `failed`. Raised to whoever waits for its result.

    Attributes:
        id: the activity's id.
        type: the recorded error's class, as `package.module.Class`.
        message: its text.
        traceback: its traceback, as recorded.
        notes: its notes (PEP 678).
    """

    def __init__(self, id: str, type: str, message: str, traceback: str = "", notes: Sequence[str] = ()) -> None:
        self.id = id
        self.type = type
        self.message = message
        self.traceback = traceback
        self.notes = tuple(notes)
        super().__init__(f"activity {id!r} failed: {type.removeprefix('builtins.')}: {message}")

    def __reduce__(self) -> tuple[type[ActivityFailedError], tuple[str, str, str, str, tuple[str, ...]]]:
        return type(self), (self.id, self.type, self.message, self.traceback, self.notes)


class ActivityCancelledError(PlaybillError):
    """The activity ended as `cancelled`. Raised to whoever waits for its result.

    Attributes:
        id: the activity's id.
        by: who cancelled it, where that is known.
        reason: why, where that was given.
    """

    def __init__(self, id: str, by: str | None = None, reason: str | None = None) -> None:
        self.id = id
        self.by = by
        self.reason = reason
        who = f" by {by}" if by else ""
        why = f": {reason}" if reason else ""
        super().__init__(f"activity {id!r} was cancelled{who}{why}")


class ActivityTimeoutError(PlaybillError, TimeoutError):
    """The activity's deadline passed before it ended. It is never restarted."""


class StepFailedError(PlaybillError):
    """A step failed with an error whose class cannot be found or rebuilt here; this stands for it, live and at replay.

    Attributes:
        type: the original class, as `package.module.Class`.
        message: its text.
    """

    def __init__(self, type: str, message: str) -> None:
        self.type = type
        self.message = message
        super().__init__(f"{type}: {message}")


class StepTimeoutError(PlaybillError, TimeoutError):
    """A step took longer than its `timeout`. A failed attempt like any other: its `Retry` decides what follows.

    Attributes:
        path: the step's path in its activity.
        seconds: the allowance it exceeded.
    """

    def __init__(self, path: str, seconds: float) -> None:
        self.path = path
        self.seconds = seconds
        super().__init__(f"step {path!r} took longer than {seconds:g} s")


class StepInterruptedError(PlaybillError):
    """The process ended between an at-most-once step's intent and its record: whether it took effect is not known.

    Attributes:
        path: the step's path in its activity.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"step {path!r} may or may not have taken effect; find out, then settle it with `resolve`")


class RetryAfter(PlaybillError):
    """Raised by a step to have its next attempt begin after so many seconds, whatever its `Retry` would wait.

    Attributes:
        seconds: how long to wait.
    """

    def __init__(self, seconds: float, /) -> None:
        self.seconds = seconds
        super().__init__(f"to be tried again in {seconds:g} s")


class NonDeterminismError(PlaybillError):
    """The code asks for something other than what the history holds: it was changed under an unfinished activity, or it
    takes its decisions from what is not recorded. The activity is `blocked`; `resume` takes it on after the mend.

    Attributes:
        recorded: the call that the history holds at this point, as `step charge`, or `nothing`.
        asked: the call that the code made, or `nothing`.
    """

    def __init__(self, recorded: str, asked: str) -> None:
        self.recorded = recorded
        self.asked = asked
        super().__init__(
            f"the history holds {recorded}, the code asked for {asked}; mend the code (or guard the change with "
            f"`ctx.patched`), then `resume` the activity"
        )


class ConcurrentContextError(PlaybillError):
    """A context was used by another task than the one it belongs to. Give each task `ctx.branch(name)`, or use
    `ctx.map`, `ctx.gather` or `ctx.race`. A mistake in the activity's code, which no restart repeats."""


class FencedError(PlaybillError):
    """This run of the activity was given up (parked, drained, paused, blocked): what it still does through `ctx` has no
    effect. What undoes work belongs in `ctx.cleanup`; there is nothing to handle here."""


class WaitTimeoutError(PlaybillError, TimeoutError):
    """The wait's own time was over. What was waited for is left as it is, and can be waited for again."""


# ------------------------------------------------------------------------------------------------ actors


class ChildSpecError(PlaybillError, ValueError):
    """A child's specification is wrong. Nothing was started."""


class ChildStartError(PlaybillError):
    """A child failed before it was ready; `__cause__` is why.

    Attributes:
        child: the child's id.
    """

    def __init__(self, child: str) -> None:
        self.child = child
        super().__init__(f"child {child!r} failed to start")


class ChildExistsError(PlaybillError):
    """The supervisor has a child of this id already, running or not.

    Attributes:
        child: the id.
    """

    def __init__(self, child: str) -> None:
        self.child = child
        super().__init__(f"there is a child {child!r} already; restart it, or delete it first")


class ChildNotFoundError(PlaybillError, LookupError):
    """The supervisor has no child of this id.

    Attributes:
        child: the id.
    """

    def __init__(self, child: str) -> None:
        self.child = child
        super().__init__(f"there is no child {child!r}")


class ChildRunningError(PlaybillError):
    """The child is running or restarting, and so can be neither restarted nor deleted.

    Attributes:
        child: the id.
    """

    def __init__(self, child: str) -> None:
        self.child = child
        super().__init__(f"child {child!r} is running; terminate it first")


class RestartIntensityError(PlaybillError):
    """Children failed more often than the supervisor's intensity allows; `__cause__` is the last failure.

    Attributes:
        child: the id of the child whose failure was one too many.
    """

    def __init__(self, child: str) -> None:
        self.child = child
        super().__init__(f"child {child!r} failed more often than the restart intensity allows")


class MailboxFullError(PlaybillError):
    """The actor's mailbox is full, and its overflow policy does not let the sender wait. The message was not taken.

    Attributes:
        path: the actor's path.
        capacity: how many messages its mailbox holds.
    """

    def __init__(self, path: str, capacity: int) -> None:
        self.path = path
        self.capacity = capacity
        super().__init__(f"the mailbox of {path} is full ({capacity} messages)")


class AskTimeoutError(WaitTimeoutError):
    """No answer came within the ask's timeout. The message may still be handled; a late answer is dropped."""


class ActorCrashedError(PlaybillError):
    """The actor crashed with the message in hand; `__cause__` is why. Whether to ask again is for the asker to say."""


class ActorStoppedError(PlaybillError):
    """The actor, or the supervisor, was stopped or has ended. The message was not handled."""


# ------------------------------------------------------------------------------------------------ the journal


class JournalError(PlaybillError):
    """The journal cannot be used as asked."""


class JournalOwnedError(JournalError):
    """Another engine owns the journal. Ask that engine, or stop it first.

    Attributes:
        pid: the owner's process id.
        host: the owner's host name.
    """

    def __init__(self, path: str, pid: int, host: str) -> None:
        self.path = path
        self.pid = pid
        self.host = host
        super().__init__(f"{path} is owned by process {pid} on {host}; stop it, or send it the command")


class JournalVersionError(JournalError):
    """The journal's schema is newer than this Playbill knows. Nothing was written: upgrade Playbill."""


class JournalDamagedError(JournalError):
    """The file is no journal, or is damaged. Nothing was written: restore a copy; see what `playbill verify` says."""


class JournalFullError(JournalError):
    """The record could not be written, for want of space or by an error of the disk, within `commit_within`. It may
    still be recorded: ask again with the same id."""


class JournalBusyError(JournalError):
    """The record could not be written within `commit_within`. It may still be recorded: ask again with the same id."""


class NoEngineError(PlaybillError):
    """No engine owns the journal, so there is nobody to ask. Start one, with `playbill run` or `Engine.open`."""


# ------------------------------------------------------------------------------------------------ tests


class FakeContextError(PlaybillError):
    """The activity asked a context of `fake_context` for something that stands in no plain call: an answer that the
    test did not give, or what only an engine can do. Give the answer, or run the activity by `open_engine`.

    Attributes:
        path: the call's path in its activity.
        why: what is missing, and where to give it.
    """

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        self.why = why
        super().__init__(f"{path!r} in a plain call: {why}")
