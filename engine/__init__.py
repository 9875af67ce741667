"""Playbill: durable, auditable workflows that need no server; one Python process and one file.

An activity is a coroutine that takes journaled steps. It runs as a supervised actor; when it crashes, by an exception,
a `kill -9` or a power cut, it goes on from the last recorded step. These are the public names, and nothing else.
"""

from engine.activities import Activity as Activity
from engine.activities import Branch as Branch
from engine.activities import Child as Child
from engine.activities import Context as Context
from engine.activities import Handle as Handle
from engine.activities import Running as Running
from engine.activities import Step as Step
from engine.activities import StepInfo as StepInfo
from engine.activities import activity as activity
from engine.activities import current_step as current_step
from engine.activities import step as step
from engine.audit import ActivityFilter as ActivityFilter
from engine.clock import Clock as Clock
from engine.errors import *  # noqa: F403
from engine.messages import ActivityStatus as ActivityStatus
from engine.messages import Asks as Asks
from engine.messages import Command as Command
from engine.messages import Event as Event
from engine.messages import Request as Request
from engine.policies import Restart as Restart
from engine.policies import Retry as Retry
from engine.runtime import Definition as Definition
from engine.runtime import Engine as Engine
from engine.runtime import Settings as Settings
from engine.subscribers import BatchSubscriber as BatchSubscriber
from engine.subscribers import Subscriber as Subscriber
from engine.subscribers import subscriber as subscriber
from engine.topics import TopicPattern as TopicPattern
