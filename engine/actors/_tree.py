"""What all supervisors of one tree share: the names, and those who are told."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from .dead_letters import DeadLetter
from .events import SupervisionEvent

if TYPE_CHECKING:
    from .ref import Ref
    from .supervisor_ref import SupervisorRef

_log = logging.getLogger("engine.actors")


class Tree:
    """The registry of one `open_supervisor`, its hooks, and the context in which all of its actors run."""

    __slots__ = ("_on_dead_letter", "_on_event", "context", "names", "registry")

    def __init__(
        self,
        on_dead_letter: Callable[[DeadLetter], None] | None,
        on_event: Callable[[SupervisionEvent], None] | None,
    ) -> None:
        self._on_dead_letter = on_dead_letter
        self._on_event = on_event
        self.names: dict[str, Ref[Any] | SupervisorRef] = {}
        self.registry: Mapping[str, Ref[Any] | SupervisorRef] = MappingProxyType(self.names)
        # A run begins with the context variables that the tree was opened with, whoever started it and whatever the run
        # before it had set: else a restarted actor would not be the one that crashed, begun again.
        self.context = contextvars.copy_context()

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
