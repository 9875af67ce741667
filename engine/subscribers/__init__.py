"""Subscribers: who is given the events, each at least once and in the journal's order.

`definition` is what a user writes. `subscription` tells the story of one subscriber's actor, `delivery` that of one
event, `cursor` how far a subscriber has got and how that is recorded, `arrivals` where its channel reads what it
missed. `subscriptions` is what the engine holds of them all. The room is given its journal, and a supervisor's hand; it
knows no activities.
"""

from __future__ import annotations

from engine.subscribers.definition import BatchSubscriber as BatchSubscriber
from engine.subscribers.definition import Start as Start
from engine.subscribers.definition import Subscriber as Subscriber
from engine.subscribers.definition import definitions as definitions
from engine.subscribers.definition import subscriber as subscriber
from engine.subscribers.subscription import SubscriberStatistics as SubscriberStatistics
from engine.subscribers.subscriptions import Subscriptions as Subscriptions
