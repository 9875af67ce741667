"""The peer of `actors`: pykka, whose actors are threads with a queue each.

The actors do what Playbill's do, in the same process as whoever speaks to them. pykka's queue has no bound, so that
`tell` need not wait for the actor; Playbill's goes on in bursts that its mailbox holds.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.util
import time
from typing import Any

from tests.benchmarks.actors_workload import WARM, check
from tests.benchmarks.measuring import Figures, Options

INSTALL = "pip install -e '.[benchmark]'"

PATIENCE = 5.0
"""Seconds that an `ask` waits at most: what Playbill's does as it comes."""


def is_installed() -> bool:
    """Whether there is a pykka to compare with."""
    return importlib.util.find_spec("pykka") is not None


def tell(options: Options) -> Figures:
    """Messages a second: told, by the time of whoever tells alone; and told and handled, from the first to the last."""
    ref = _started()
    try:
        _tell(ref, WARM)
        began = time.perf_counter()
        _tell(ref, options.count)
        told = time.perf_counter() - began
        total = ref.ask(0)  # once all that was told before is handled
        seconds = time.perf_counter() - began
    finally:
        ref.stop()
    check(total, WARM + options.count)
    return {"told a second": options.count / told, "told and handled a second": options.count / seconds}


def _tell(ref: Any, messages: int) -> None:
    for _ in range(messages):
        ref.tell(1)


def ask(options: Options) -> Figures:
    """Questions a second, asked by `way` threads, each one question after another."""
    ref = _started()
    askers = int(options.way)
    try:
        _ask(ref, WARM)
        began = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(askers) as threads:
            for asking in [threads.submit(_ask, ref, options.count // askers) for _ in range(askers)]:
                asking.result()
        seconds = time.perf_counter() - began
    finally:
        ref.stop()
    return {"questions a second": options.count / seconds}


def _ask(ref: Any, questions: int) -> None:
    for _ in range(questions):
        ref.ask(0, timeout=PATIENCE)


def _started() -> Any:
    class Adder(importlib.import_module("pykka").ThreadingActor):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            super().__init__()
            self.total = 0

        def on_receive(self, message: int) -> int:
            self.total += message
            return self.total

    return Adder.start()
