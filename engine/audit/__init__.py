"""Auditing: what a journal says, and whether it is what was recorded.

`Ledger` reads a journal, also one that a live engine is writing, and never writes it; `verify` holds it against its own
transparency log; `write_report` makes one HTML file of it. The room knows records alone: what the engine derives from
them is checked here, and not relied upon.
"""

from engine.audit.ledger import Ledger as Ledger
from engine.audit.report import write_report as write_report
from engine.audit.rows import ActivityFilter as ActivityFilter
from engine.audit.rows import ActivityRow as ActivityRow
from engine.audit.rows import CommandRow as CommandRow
from engine.audit.rows import DeadLetterRow as DeadLetterRow
from engine.audit.rows import ErrorRow as ErrorRow
from engine.audit.rows import EventRow as EventRow
from engine.audit.rows import Problem as Problem
from engine.audit.rows import Record as Record
from engine.audit.rows import Stats as Stats
from engine.audit.rows import StepRow as StepRow
from engine.audit.rows import Verification as Verification
from engine.audit.verification import verify as verify
