"""Actors under supervision: mailboxes, refs, and supervisors that restart what fails, as OTP's do.

An actor is an async function that owns a mailbox. A supervisor starts actors, watches them, restarts those that crash
and stops them in reverse. Whoever knows an actor's ref sends it messages, asks it, watches it. The room knows nothing
of journals: what it has to say of crashes and restarts it tells a hook.

`specification` says what is to be supervised, `mailbox` and `ref` are the two ends of a message's way, `supervisor` and
`supervisor_ref` are what a supervisor can be asked, `restarts` decides, `watching` tells of ends, `dead_letters` and
`events` are what the hooks are given.
"""

from __future__ import annotations

from ..messages import Asks as Asks
from ..messages import Request as Request
from .children import ChildCounts as ChildCounts
from .children import ChildInfo as ChildInfo
from .children import ChildKind as ChildKind
from .children import ChildState as ChildState
from .children import Stopping as Stopping
from .dead_letters import DeadLetter as DeadLetter
from .events import SupervisionEvent as SupervisionEvent
from .mailbox import Mailbox as Mailbox
from .ref import Ref as Ref
from .specification import AutoShutdown as AutoShutdown
from .specification import Backoff as Backoff
from .specification import ChildSpec as ChildSpec
from .specification import Intensity as Intensity
from .specification import Overflow as Overflow
from .specification import RestartType as RestartType
from .specification import Strategy as Strategy
from .specification import SupervisorSpec as SupervisorSpec
from .supervisor import Supervisor as Supervisor
from .supervisor import open_supervisor as open_supervisor
from .supervisor_ref import SupervisorRef as SupervisorRef
from .watching import Down as Down
from .watching import EndReason as EndReason
from .watching import watch as watch
