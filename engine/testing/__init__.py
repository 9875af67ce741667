"""What users test their activities with.

From the cheapest to the hardest: `fake_step` and `fake_context` for plain calls without an engine; `open_engine`, an
engine on a journal of its own; `MockClock`, by which a day's wait takes no time; `crash_everywhere`, which kills an
activity at each of its records and has it resumed. Installed, Playbill gives pytest the fixtures `playbill_clock`,
`playbill_engine` and `playbill_journal`.
"""

from engine.testing.clock import MockClock as MockClock
from engine.testing.context import FakeContext as FakeContext
from engine.testing.context import fake_context as fake_context
from engine.testing.everywhere import Crashes as Crashes
from engine.testing.everywhere import crash_everywhere as crash_everywhere
from engine.testing.opening import open_engine as open_engine
from engine.testing.step import fake_step as fake_step
