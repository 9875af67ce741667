"""Ctrl-C and SIGTERM: the first drains, the second ends at once.

The first signal cancels what stands in `scope`, inside the engine's block; leaving the block is what drains. The
watcher itself stands outside, so that it is still there while the engine drains.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator

import trio

from engine.cli.output import seconds
from engine.cli.progress import Display

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """What a signal does to a run.

    Attributes:
        scope: what the first signal cancels; it may be entered after the signal came, and then ends at once.
        signal: the first signal; `None` while there was none.
    """

    def __init__(self, display: Display, drain_within: float) -> None:
        self.scope = trio.CancelScope()
        self.signal: int | None = None
        self._display = display
        self._drain_within = drain_within

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait for signals, until cancelled; ready as soon as none can be missed."""
        with trio.open_signal_receiver(*SIGNALS) as received:
            task_status.started()
            await self._obey(received)

    async def _obey(self, received: AsyncIterator[int]) -> None:
        async for number in received:
            if self.signal is not None:
                self._end_at_once(number)
            self.signal = number
            self._display.say(
                f"stopping: what is under way may end within {seconds(self._drain_within)}; "
                "Ctrl-C once more stops at once, and loses nothing either"
            )
            self.scope.cancel()

    def _end_at_once(self, number: int) -> None:
        """End the process without unwinding anything, as a crash would. Nothing is lost by it: what is recorded is
        durable, a commit cut off half-way is rolled back by SQLite, and the next opening resumes from the records."""
        self._display.say("stopped at once; give the same command again to go on")
        self._display.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + number)
