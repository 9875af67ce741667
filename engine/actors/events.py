"""What supervisors tell of their doings, to whoever keeps a record of it."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen
class SupervisionEvent:
    """A child crashed, was restarted, or made its supervisor give up.

    For one crash they come in the order `crashed`, then `restarted` or `escalated`; where others are restarted with it,
    each has its `restarted`, in the order in which they are started. What an actor raises while it is being stopped is
    no crash.
    """

    what: Literal["crashed", "restarted", "escalated"]
    """`crashed`: it raised, also before it was ready. `restarted`: it runs again, and is ready. `escalated`: its
    supervisor gives up."""
    path: str
    """The child's path; for `escalated` the path of the supervisor that gives up, `/` being the top one."""
    child: str
    """The child's id."""
    error: Exception | None
    """What it raised, or the error with which the supervisor below gave up; None for `restarted`, and where a child
    that returned was one restart too many."""
    restarts: int
    """How often the child was restarted so far."""
