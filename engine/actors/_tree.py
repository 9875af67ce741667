"""What all supervisors of one tree share: the names, and those who are told."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import trio

from ..errors import ActorStoppedError
from .children import Stopping
from .dead_letters import DeadLetter
from .events import SupervisionEvent

if TYPE_CHECKING:
    from ._child import Child
    from ._timeouts import Timeouts
    from .ref import Ref
    from .supervisor_ref import SupervisorRef

_log = logging.getLogger("playbill.actors")


class Tree:
    """The registry of one `open_supervisor`, its hooks, and the context in which all of its actors run."""

    __slots__ = (
        "_closed",
        "_on_dead_letter",
        "_on_event",
        "_stopping",
        "_stops",
        "context",
        "names",
        "registry",
        "timeouts",
    )

    timeouts: Timeouts
    """Of its asks; there once its nursery is."""

    def __init__(
        self,
        on_dead_letter: Callable[[DeadLetter], None] | None,
        on_event: Callable[[SupervisionEvent], None] | None,
    ) -> None:
        self._on_dead_letter = on_dead_letter
        self._on_event = on_event
        self.names: dict[str, Ref[Any] | SupervisorRef] = {}
        self.registry: Mapping[str, Ref[Any] | SupervisorRef] = MappingProxyType(self.names)
        self._stopping: dict[Child, tuple[float, float]] = {}
        """The runs that were asked to end, each with when it was, and when its allowance is over."""
        self._stops: trio.Event | None = None
        self._closed = False
        # A run begins with the context variables that the tree was opened with, whoever started it and whatever the run
        # before it had set: else a restarted actor would not be the one that crashed, begun again.
        self.context = contextvars.copy_context()

    def begin_stopping(self, child: Child, allowance: float) -> None:
        """A run of a child was asked to end, and is cancelled after so many seconds."""
        now = trio.current_time()
        self._stopping[child] = (now, now + allowance)
        if self._stops is not None:
            self._stops.set()

    def end_stopping(self, child: Child) -> None:
        """A run that was asked to end has ended."""
        self._stopping.pop(child, None)

    def stopping(self) -> tuple[Stopping, ...]:
        return tuple(Stopping(child.ref, asked, due) for child, (asked, due) in self._stopping.items())

    async def wait_stopping(self) -> None:
        """Waits until a run is being stopped; none may be any more when this returns.

        Raises:
            ActorStoppedError: all has ended.
        """
        if self._stopping:
            await trio.lowlevel.checkpoint()
            return
        if self._stops is None or self._stops.is_set():
            self._stops = trio.Event()
        if not self._closed:
            await self._stops.wait()
        if self._closed:
            raise ActorStoppedError("the supervisor / has ended: nothing below it is stopped any more")

    def close(self) -> None:
        """All has ended."""
        self._closed = True
        self.timeouts.close()
        if self._stops is not None:
            self._stops.set()

    def bury(self, path: str, message: object, reason: str) -> None:
        """Hands a dead letter to whoever wants them."""
        if self._on_dead_letter is None:
            return
        try:
            self._on_dead_letter(DeadLetter(path, message, reason))
        except Exception:  # the user's code: its failure is neither the sender's nor the supervisor's
            _log.exception("on_dead_letter failed for a message to %s", path)

    def report(
        self,
        what: Literal["crashed", "restarted", "escalated"],
        path: str,
        child: str,
        error: Exception | None,
        restarts: int,
    ) -> None:
        """Tells whoever wants to know of a supervisor's doings."""
        if self._on_event is None:
            return
        try:
            self._on_event(SupervisionEvent(what, path, child, error, restarts))
        except Exception:  # the user's code: its failure must not keep a supervisor from what it has to do
            _log.exception("on_event failed for %s %s", path, what)
