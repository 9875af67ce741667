"""Watching: who is told that an actor ended, and how it ended.

`watch(ref)` gives a channel that gets one `Down` for each end of the actor: it may end many times, since it may be
restarted. The channel ends when the actor's specification is gone, after which it can end no more; until then it grows
with each end, so whoever lost interest closes it.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs
import trio

if TYPE_CHECKING:
    from .ref import Ref
    from .supervisor_ref import SupervisorRef


class EndReason(StrEnum):
    """How an actor ended."""

    NORMAL = "normal"
    """It returned."""
    CRASHED = "crashed"
    """It raised."""
    SHUTDOWN = "shutdown"
    """It was stopped; or it is a supervisor that gave up, or that ended with its significant children."""
    KILLED = "killed"
    """It was stopped, and cancelled when its allowance was over."""
    GONE = "gone"
    """It had been stopped already when it began to be watched."""


@attrs.frozen
class Down:
    """One end of an actor that is watched."""

    ref: Ref[Any] | SupervisorRef
    """The actor."""
    reason: EndReason
    """How it ended."""
    error: Exception | None
    """What it raised if it crashed, or the `RestartIntensityError` with which a supervisor gave up; else None."""


class Life:
    """Whether an actor is there, through all its runs, and who is told when one of them ends."""

    __slots__ = ("over", "ref", "stopped", "watchers")

    ref: Ref[Any] | SupervisorRef

    def __init__(self) -> None:
        self.stopped = False
        """No run is there, and none is to come by itself."""
        self.over = False
        """None can come any more."""
        self.watchers: list[trio.MemorySendChannel[Down]] | None = None

    def announce(self, reason: EndReason, error: Exception | None) -> None:
        """Tells the watchers of an end, and forgets those that have closed their channel."""
        if not self.watchers:
            return
        down = Down(self.ref, reason, error)
        listening: list[trio.MemorySendChannel[Down]] = []
        for watcher in self.watchers:
            try:
                watcher.send_nowait(down)
            except trio.BrokenResourceError:
                watcher.close()
            else:
                listening.append(watcher)
        self.watchers = listening

    def finish(self) -> None:
        """There will be no more ends: the watchers' channels end after what is in them."""
        self.stopped = self.over = True
        watchers, self.watchers = self.watchers, None
        for watcher in watchers or ():
            watcher.close()


def watch(ref: Ref[Any] | SupervisorRef, /) -> trio.MemoryReceiveChannel[Down]:
    """Watches an actor, or a supervisor. Never waits.

    Args:
        ref: who is watched.

    Returns:
        An unbounded channel with one `Down` for each end from now on; if the actor is stopped already, with a `gone`
        first. It can be read after the supervisor has ended too, and ends when the actor can end no more. Close it
        when you are done with it.
    """
    life = ref._life
    told: trio.MemorySendChannel[Down]
    told, heard = trio.open_memory_channel(math.inf)
    if life.stopped:
        told.send_nowait(Down(ref, EndReason.GONE, None))
    if life.over:
        told.close()
    elif life.watchers is None:
        life.watchers = [told]
    else:
        life.watchers.append(told)
    return heard
