"""Dead letters: messages that no actor will ever be given."""

from __future__ import annotations

import attrs

OVERFLOW = "overflow"
STOPPED = "stopped"


@attrs.frozen
class DeadLetter:
    """A message that reached nobody."""

    path: str
    """The path of the actor it was meant for."""
    message: object
    """The message."""
    reason: str
    """`overflow`: a full mailbox dropped it. `stopped`: the actor was stopped, or was stopped before it took it."""
