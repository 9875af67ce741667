"""Playbill's side of `actors`: messages, starts and stops under a supervisor, and actors that only wait.

The actors add numbers, so that what is measured is the way of a message, and one that was lost shows. Each measurement
does a part of its work once before its clock starts. What one thread does alone, starts and stops, is measured by the
processor's time, which neighbours on the machine change less.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from pathlib import Path

import trio
import trio.testing

from engine.actors import ChildSpec, Mailbox, Ref, RestartType, Supervisor, open_supervisor
from tests.benchmarks.measuring import Figures, Options

BURST = 500
"""Messages that are told before other tasks have their turn. Trio may run the teller once more before the actor: a
mailbox as it comes has to hold two of these."""

WARM = 1_000
"""Messages, or tasks, before the clock starts."""

ASKERS = 100
"""Tasks, or threads, that ask at a time, where they are many."""

FEW, MANY = 20, 2_000
"""Actors under one supervisor."""


async def add(mailbox: Mailbox[int]) -> None:
    """Adds up what it is told, and answers a 0 with the sum."""
    total = 0
    async for number in mailbox:
        total += number
        if number == 0:
            mailbox.reply(total)


async def count(mailbox: Mailbox[int]) -> None:
    """Answers each message with the number after it."""
    async for number in mailbox:
        mailbox.reply(number + 1)


async def wait(mailbox: Mailbox[object]) -> None:
    """Takes messages that never come."""
    await mailbox.receive()


def check(found: int, expected: int) -> None:
    if found != expected:
        raise AssertionError(f"the actor counted {found:,}, not {expected:,}: messages were lost")


# ------------------------------------------------------------------------------------------------ messages


def tell(options: Options) -> Figures:
    """Messages a second: told, by the time of whoever tells alone; and told and handled, from the first to the last."""
    return trio.run(_tell, options.count)


async def _tell(messages: int) -> Figures:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("adder", add))
        await _told(ref, WARM)
        began = time.perf_counter()
        telling = await _told(ref, messages)
        total = await ref.ask(0)  # once all that was told before is handled
        seconds = time.perf_counter() - began
    check(total, WARM + messages)
    return {"told a second": messages / telling, "told and handled a second": messages / seconds}


async def _told(ref: Ref[int], messages: int) -> float:
    """Seconds that telling them took."""
    seconds = 0.0
    for told in range(0, messages, BURST):
        began = time.perf_counter()
        for _ in range(min(BURST, messages - told)):
            ref.tell(1)
        seconds += time.perf_counter() - began
        await trio.lowlevel.checkpoint()
    return seconds


def ask(options: Options) -> Figures:
    """Questions a second, asked by `way` tasks, each one question after another."""
    return trio.run(_ask, options.count, int(options.way))


async def _ask(questions: int, askers: int) -> Figures:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("counter", count))
        await _asked(ref, WARM)
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(askers):
                nursery.start_soon(_asked, ref, questions // askers)
        seconds = time.perf_counter() - began
    return {"questions a second": questions / seconds}


async def _asked(ref: Ref[int], questions: int) -> None:
    number = 0
    for _ in range(questions):
        number = await ref.ask(number)
    check(number, questions)


# ------------------------------------------------------------------------------------------------ starts and stops


def bare(options: Options) -> Figures:
    """Microseconds of a task that returns at once, in a nursery: spawned, run and gone."""
    return trio.run(_bare, options.count)


async def _bare(tasks: int) -> Figures:
    async def return_at_once() -> None: ...

    async def one_after_another(tasks: int) -> None:
        for _ in range(tasks):
            nursery.start_soon(return_at_once)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await one_after_another(WARM)
        began = time.process_time()
        await one_after_another(tasks)
        seconds = time.process_time() - began
    return {"microseconds a task": seconds / tasks * 1e6}


def supervised(options: Options) -> Figures:
    """Microseconds of an actor that is started and stopped; its specification and its mailbox are made and gone."""
    return trio.run(_supervised, options.count)


async def _supervised(actors: int) -> Figures:
    async def one_after_another(actors: int) -> None:
        for _ in range(actors):
            await supervisor.start_child(ChildSpec("actor", wait, restart=RestartType.TEMPORARY))
            await supervisor.terminate_child("actor")

    async with open_supervisor() as supervisor:
        await one_after_another(WARM)
        began = time.process_time()
        await one_after_another(actors)
        seconds = time.process_time() - began
    return {"microseconds an actor": seconds / actors * 1e6}


# ------------------------------------------------------------------------------------------------ many


def siblings(options: Options) -> Figures:
    """Microseconds of a start and of a termination, half as many of these, where few stand under a supervisor and where
    many do; `count` starts of each, the two in turns.

    Without the garbage collector: what it takes grows with all that is alive in a process, bare tasks too, of which a
    start among 2,000 costs by a quarter more than one among 20.
    """
    gc.disable()
    return trio.run(_siblings, options.count)


async def _siblings(starts: int) -> Figures:
    seconds = {FEW: [0.0, 0.0], MANY: [0.0, 0.0]}
    await _one_family(FEW)
    for _ in range(starts // MANY):
        for actors in (FEW, MANY):
            for _ in range(MANY // actors):
                started, terminated = await _one_family(actors)
                seconds[actors][0] += started
                seconds[actors][1] += terminated
    return {
        f"microseconds a {what}, {actors:,} under one": seconds[actors][place] / count * 1e6
        for actors in (FEW, MANY)
        for place, what, count in ((0, "start", starts), (1, "termination", starts // 2))
    }


async def _one_family(actors: int) -> tuple[float, float]:
    """Seconds for all starts, and for the terminations of every second one."""
    async with open_supervisor() as supervisor:
        began = time.process_time()
        await _start(supervisor, range(actors))
        started = time.process_time()
        for number in range(0, actors, 2):
            await supervisor.terminate_child(f"actor-{number}")
        return started - began, time.process_time() - started


async def _start(supervisor: Supervisor, numbers: Iterable[int]) -> None:
    for number in numbers:
        await supervisor.start_child(ChildSpec(f"actor-{number}", wait))


def idle(options: Options) -> Figures:
    """Megabytes that the process takes with so many actors that wait for a message, everything else included."""
    return trio.run(_idle, options.count)


async def _idle(actors: int) -> Figures:
    before = _resident()
    async with open_supervisor() as supervisor:
        await _start(supervisor, range(actors))
        await trio.testing.wait_all_tasks_blocked()
        after = _resident()
    return {"megabytes": after / 1e6, "bytes an actor": (after - before) / actors}


def _resident() -> int:
    """Bytes of memory that the process holds, as Linux tells it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/self/status does not tell VmRSS")
