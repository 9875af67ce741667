"""Children as their supervisor shows them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from .ref import Ref
    from .supervisor_ref import SupervisorRef


class ChildKind(StrEnum):
    """What a child is."""

    WORKER = "worker"
    SUPERVISOR = "supervisor"


class ChildState(StrEnum):
    """Where a child stands."""

    RUNNING = "running"
    """It runs; or it is being started, or stopped."""
    RESTARTING = "restarting"
    """It ended, by itself or for a sibling's restart, and waits to be started again, or is not ready yet."""
    STOPPED = "stopped"
    """Only its specification is there."""


@attrs.frozen
class ChildInfo:
    """One child, as it stood when `which_children` was called."""

    id: str
    """Its id."""
    ref: Ref[Any] | SupervisorRef
    """Its ref."""
    kind: ChildKind
    """`worker` or `supervisor`."""
    state: ChildState
    """`running`, `restarting` or `stopped`."""
    restarts: int
    """How often it was restarted so far."""


@attrs.frozen
class Stopping:
    """A run that was asked to end and has not ended yet, as it stood when `stopping` was called."""

    ref: Ref[Any] | SupervisorRef
    """The actor's ref, or the supervisor's."""
    asked: float
    """When it was asked, in seconds of Trio's clock."""
    due: float
    """When its allowance is over and it is cancelled; `math.inf` for one that may take as long as it likes."""


@attrs.frozen
class ChildCounts:
    """How many children there were when `count_children` was called."""

    specs: int
    """Specifications, running or not."""
    active: int
    """Those that run."""
    supervisors: int
    """Those that are supervisors, running or not."""
    workers: int
    """Those that are not."""
