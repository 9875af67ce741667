"""The journal: the append-only record of everything, and the only source of truth.

What the engine asks of it is `store.Store`; `sqlite.SQLiteJournal` keeps it in one file. `kinds` is the table of record
kinds, `writer` tells how a commit forms, `log` how each record becomes a leaf of the transparency log, `projections`
how the derived tables follow from the records. The room knows of records, not of activities or subscribers.
"""

from engine.journal.kinds import ENDED as ENDED
from engine.journal.kinds import ENGINE_STREAM as ENGINE_STREAM
from engine.journal.kinds import EVENT_KINDS as EVENT_KINDS
from engine.journal.kinds import KINDS as KINDS
from engine.journal.kinds import SUBSCRIBER_STREAMS as SUBSCRIBER_STREAMS
from engine.journal.kinds import TERMINAL_KINDS as TERMINAL_KINDS
from engine.journal.kinds import Kind as Kind
from engine.journal.records import StoredRecord as StoredRecord
from engine.journal.sqlite import SQLiteJournal as SQLiteJournal
from engine.journal.store import ActivityState as ActivityState
from engine.journal.store import Store as Store
from engine.journal.store import SubscriptionState as SubscriptionState
