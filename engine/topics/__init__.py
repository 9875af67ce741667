"""Topics: which events go to whom, and the path that takes them there in order.

`pattern` says what a topic is and what matches it, `trie` keeps patterns so that asking is cheap, `router` answers
from a topic to those attached, and `channel` carries the events to one subscriber. The room knows nothing of activities
or of the journal: a channel is given its source.
"""

from __future__ import annotations

from .channel import Channel as Channel
from .channel import ChannelStatistics as ChannelStatistics
from .channel import Published as Published
from .channel import Source as Source
from .pattern import SYSTEM_WORD as SYSTEM_WORD
from .pattern import TopicPattern as TopicPattern
from .pattern import check_published as check_published
from .pattern import check_topic as check_topic
from .router import Router as Router
from .trie import Trie as Trie
