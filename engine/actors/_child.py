"""One child, from the moment its specification is taken in until it goes.

| phase | what is there | what follows |
|---|---|---|
| `STARTING` | a run that is not ready, and somebody who waits for that | `RUNNING`; `STOPPING`; `STOPPED` |
| `RUNNING` | a run that is ready | `RESTARTING` or `RUNNING` (restarted); `STOPPING`; `STOPPED` |
| `RESTARTING` | a run that waits for its backoff, or is not ready | as for `RUNNING` |
| `STOPPING` | a run that was asked to end | `STOPPED` |
| `STOPPED` | no run | `STARTING` or `RUNNING`, by `restart_child` or a restart of the supervisor |

Each run is a task of its own; the next one begins when it has ended.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import trio

from ._inbox import Inbox
from ._tree import Tree
from .children import ChildInfo, ChildKind, ChildState
from .mailbox import Mailbox
from .ref import Ref
from .specification import AnySpec, ChildSpec
from .supervisor_ref import SupervisorRef
from .watching import Life

if TYPE_CHECKING:
    from ._family import Family


class Phase(Enum):
    """Where a child stands; the module's docstring has the table."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


STATES = {
    Phase.STARTING: ChildState.RUNNING,
    Phase.RUNNING: ChildState.RUNNING,
    Phase.RESTARTING: ChildState.RESTARTING,
    Phase.STOPPING: ChildState.RUNNING,
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
        "family",
        "final",
        "gone",
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
            assert family is not None
            self.inbox = None
            self.ref = SupervisorRef(family, self)
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
        self.waiting = False
        """The run waits for its backoff, and has not begun."""
        self.final = False
        """It is being stopped for good: what waits in its inbox is given up."""
        self.since = 0.0
        """When its run was ready; kept only for its backoff."""

    async def ended(self) -> None:
        """Waits until its run has ended."""
        if self.gone is None:
            self.gone = trio.Event()
        await self.gone.wait()

    def retire(self) -> None:
        """It is not to come back by itself: its messages, and those of all below it, are given up."""
        if self.inbox is not None:
            self.inbox.close()
        if self.family is not None:
            self.family.retire()

    def info(self) -> ChildInfo:
        kind = ChildKind.WORKER if self.family is None else ChildKind.SUPERVISOR
        return ChildInfo(self.spec.id, self.ref, kind, STATES[self.phase], self.restarts)
