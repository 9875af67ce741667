"""One child, from the moment its specification is taken in until it goes.

| phase | what is there | what follows |
|---|---|---|
| `STARTING` | a run that is not ready, and somebody who waits for that | `RUNNING`; `STOPPING`; `STOPPED` |
| `RUNNING` | a run that is ready | `RESTARTING` or `RUNNING` (restarted); `DUE`; `STOPPING`; `STOPPED` |
| `RESTARTING` | a run that waits for its backoff, or is not ready | as for `RUNNING` |
| `STOPPING` | a run that was asked to end | `STOPPED`; `DUE`, if it was asked for a sibling's restart |
| `DUE` | no run, but its turn comes in a restart of several | `STARTING`, `RESTARTING`, `RUNNING`; `STOPPED` |
| `STOPPED` | no run | `STARTING` or `RUNNING`, by a call or its supervisor's restart; `DUE`, by a sibling's |

Each run is a task of its own; the next one begins when it has ended.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

import trio

from ._inbox import Inbox
from ._tree import Tree
from .children import ChildInfo, ChildKind, ChildState
from .mailbox import Mailbox
from .ref import Ref
from .specification import AnySpec, ChildSpec, RestartType
from .watching import Life

if TYPE_CHECKING:
    from ._family import Family


AT_ONCE = -math.inf
"""The end of no backoff."""


class Phase(Enum):
    """Where a child stands; the module's docstring has the table."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    DUE = "due"
    STOPPED = "stopped"


STATES = {
    Phase.STARTING: ChildState.RUNNING,
    Phase.RUNNING: ChildState.RUNNING,
    Phase.RESTARTING: ChildState.RESTARTING,
    Phase.STOPPING: ChildState.RUNNING,
    Phase.DUE: ChildState.RESTARTING,
    Phase.STOPPED: ChildState.STOPPED,
}


class Start:
    """Somebody's wait for a child to be ready, and what came of it."""

    __slots__ = ("error", "forget", "settled", "stopped")

    def __init__(self, *, forget: bool) -> None:
        self.forget = forget
        """The specification goes if the start fails."""
        self.settled = trio.Event()
        self.error: Exception | None = None
        """Why it failed."""
        self.stopped = False
        """It was stopped before it was ready."""


class Child(Life):
    """One child of a supervisor."""

    __slots__ = (
        "announces",
        "attempts",
        "due",
        "family",
        "final",
        "gone",
        "grouped",
        "inbox",
        "keep",
        "mailbox",
        "path",
        "phase",
        "restarts",
        "scope",
        "since",
        "spec",
        "start",
        "turn",
        "waiting",
    )

    inbox: Inbox | None
    family: Family | None

    def __init__(self, spec: AnySpec, path: str, tree: Tree, family: Family | None, *, keep: bool) -> None:
        Life.__init__(self)
        self.stopped = True
        self.spec = spec
        self.path = path
        self.keep = keep
        """Whether its specification stays when it ends for good."""
        self.family = family
        """Its own children, if it is a supervisor."""
        if isinstance(spec, ChildSpec):
            self.inbox = Inbox(path, spec.capacity, spec.overflow, tree)
            self.ref = Ref(self.inbox, self)
            self.announces = spec.announces
        else:
            self.inbox = None  # and its ref is made with its family
            self.announces = True
        self.phase = Phase.STOPPED
        self.restarts = 0
        self.attempts = 0
        """Restarts since its backoff last began again."""
        self.scope: trio.CancelScope
        """Around its run. Its deadline is the end of the allowance."""
        self.mailbox: Mailbox[object] | None = None
        """Its run's."""
        self.start: Start | None = None
        self.gone: trio.Event | None = None
        """Set when its run has ended, for those who wait for that."""
        self.turn: trio.Event | None = None
        """Set when its run is ready or has ended, for the supervisor that starts the next one then."""
        self.waiting = False
        """The run waits for its backoff, and has not begun."""
        self.grouped = False
        """Its run is to end for a sibling's restart; then its turn to be started comes, unless it is temporary."""
        self.due = AT_ONCE
        """Until when it waits for its turn at least: the end of its backoff."""
        self.final = False
        """It is being stopped for good: what waits in its inbox is given up."""
        self.since = 0.0
        """When its run was ready; kept only for its backoff."""

    @property
    def comes_back(self) -> bool:
        """Whether its turn comes when its run has ended for a sibling's restart."""
        return self.grouped and not self.final and self.spec.restart is not RestartType.TEMPORARY

    async def ended(self) -> None:
        """Waits until its run has ended."""
        if self.gone is None:
            self.gone = trio.Event()
        await self.gone.wait()

    def await_turn(self, due: float) -> None:
        """It has no run, and is started when its turn comes; its messages wait, as in any restart."""
        self.phase = Phase.DUE
        self.stopped = self.final = False
        if self.start is None:  # else it was never ready, and it is its start that goes on
            self.restarts += 1
        self.due = due
        if self.inbox is not None:
            self.inbox.open = True

    def retire(self) -> None:
        """It is not to come back by itself: its messages, and those of all below it, are given up."""
        if self.inbox is not None:
            self.inbox.close()
        if self.family is not None:
            self.family.retire()

    def info(self) -> ChildInfo:
        kind = ChildKind.WORKER if self.family is None else ChildKind.SUPERVISOR
        return ChildInfo(self.spec.id, self.ref, kind, STATES[self.phase], self.restarts)
