"""Activities: what users define as coroutines, and how each is run, recorded, resumed.

`definition` is what a user writes, `context` what an activity does things through. `execution` tells the story of one
run, `attempts` that of one step, `processes` of those in processes of their own, `branches` that of side-by-side work,
`waiting` that of a wait. `history` reads what was recorded, `replay` hands it out again, `failures` decides what
follows an exception. `obeying` starts and resumes, `resolving` settles an interrupted step, `commanding` obeys every
other command, as the table in `permitted` says; `cancelling` and `cleaning` tell how a cancel comes to an activity's
code. `handle` is what whoever started an activity holds of it. The room is given its journal; it knows no subscribers.
"""

from engine.activities.children import Child as Child
from engine.activities.commanding import Commanding as Commanding
from engine.activities.context import Branch as Branch
from engine.activities.context import Context as Context
from engine.activities.definition import Activity as Activity
from engine.activities.definition import Running as Running
from engine.activities.definition import Step as Step
from engine.activities.definition import activity as activity
from engine.activities.definition import source_digest as source_digest
from engine.activities.definition import step as step
from engine.activities.family import Family as Family
from engine.activities.handle import Handle as Handle
from engine.activities.obeying import Activities as Activities
from engine.activities.obeying import Asked as Asked
from engine.activities.obeying import defined as defined
from engine.activities.parking import Parking as Parking
from engine.activities.posting import Letter as Letter
from engine.activities.posting import Post as Post
from engine.activities.processes import Workers as Workers
from engine.activities.replay import RestInstrument as RestInstrument
from engine.activities.step_info import StepInfo as StepInfo
from engine.activities.step_info import current_step as current_step
from engine.activities.surroundings import Flights as Flights
from engine.activities.surroundings import Surroundings as Surroundings
