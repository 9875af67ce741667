"""How fast actors are, against pykka and against bare Trio, in paired rounds.

A round runs each measurement once, every second round in the opposite order, and gives these ratios:

- messages told a second over the peer's, and messages told and handled, which is what a stream of them comes to;
- questions asked and answered a second over the peer's, by one asker and by 100;
- the time in which a supervised actor is started and stopped, over that of a bare task in a nursery;
- the time of a start, and of a termination, under a supervisor of 2,000, over that under a supervisor of 20.

What 100,000 idle actors take of memory is no ratio, and is held against a figure.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from tests.benchmarks import actors_peers, actors_workload
from tests.benchmarks.actors_workload import ASKERS, FEW, MANY
from tests.benchmarks.measuring import Measurement, in_process
from tests.benchmarks.spread import Bar, Ceiling, Spread

Round = Mapping[str, float]
"""The figures of one round, by `MEASUREMENT: FIGURE`."""


@attrs.frozen
class Plan:
    """How much is measured.

    Attributes:
        rounds: how often everything is measured.
        messages: how many are told.
        questions: how many are asked.
        tasks: how many are started and stopped, bare and supervised.
        starts: how many, under supervisors of few and of many.
        idle: how many actors wait.
    """

    rounds: int = 3
    messages: int = 200_000
    questions: int = 20_000
    tasks: int = 10_000
    starts: int = 10_000
    idle: int = 100_000


NOISE = 1.25
"""What two measurements of the same on a shared machine may differ by."""

TOLD = "told over pykka's"
HANDLED = "told and handled over pykka's"
ASKED = "asked by one over pykka's"
ASKED_BY_MANY = f"asked by {ASKERS} over pykka's"
SUPERVISED = "a supervised start and stop over a bare task"
START = f"a start among {MANY:,} over one among {FEW}"
TERMINATION = f"a termination among {MANY:,} over one among {FEW}"
IDLE = "megabytes of all idle actors"

BARS: Mapping[str, Bar | Ceiling] = {
    TOLD: Bar(10),
    HANDLED: Bar(10),
    ASKED: Bar(4),
    ASKED_BY_MANY: Bar(4),
    SUPERVISED: Ceiling(10),
    START: Ceiling(NOISE),
    TERMINATION: Ceiling(NOISE),
    IDLE: Ceiling(500),
}
"""Each ratio with its bar."""


def measure(plan: Plan) -> list[Round]:
    """Run all rounds; tells on standard error how far it is."""
    rounds = []
    for number in range(plan.rounds):
        print(f"round {number + 1} of {plan.rounds} …", file=sys.stderr, flush=True)
        rounds.append(_round(plan, reverse=bool(number % 2)))
    return rounds


def _round(plan: Plan, *, reverse: bool) -> Round:
    work: list[tuple[str, Measurement, int, str]] = [
        ("tell", actors_workload.tell, plan.messages, ""),
        ("ask", actors_workload.ask, plan.questions, "1"),
        (f"ask by {ASKERS}", actors_workload.ask, plan.questions, str(ASKERS)),
        ("bare task", actors_workload.bare, plan.tasks, ""),
        ("supervised actor", actors_workload.supervised, plan.tasks, ""),
        ("siblings", actors_workload.siblings, plan.starts, ""),
        ("idle", actors_workload.idle, plan.idle, ""),
    ]
    if actors_peers.is_installed():
        work += [
            ("pykka, tell", actors_peers.tell, plan.messages, ""),
            ("pykka, ask", actors_peers.ask, plan.questions, "1"),
            (f"pykka, ask by {ASKERS}", actors_peers.ask, plan.questions, str(ASKERS)),
        ]
    figures: dict[str, float] = {}
    for name, measurement, count, way in reversed(work) if reverse else work:
        of_one = in_process(measurement, parent=None, count=count, way=way)
        figures |= {f"{name}: {figure}": value for figure, value in of_one.items()}
    return {name: figures[name] for name in sorted(figures)}


def ratios(rounds: Iterable[Round]) -> dict[str, list[float]]:
    """The ratios of each round; without the peer's where it was not measured."""
    found: dict[str, list[float]] = {name: [] for name in BARS}
    for figures in rounds:
        one_round = {
            SUPERVISED: figures["supervised actor: microseconds an actor"] / figures["bare task: microseconds a task"],
            START: _among_many(figures, "start"),
            TERMINATION: _among_many(figures, "termination"),
            IDLE: figures["idle: megabytes"],
        }
        if "pykka, tell: told a second" in figures:
            one_round[TOLD] = _over_pykka(figures, "tell: told a second")
            one_round[HANDLED] = _over_pykka(figures, "tell: told and handled a second")
            one_round[ASKED] = _over_pykka(figures, "ask: questions a second")
            one_round[ASKED_BY_MANY] = _over_pykka(figures, f"ask by {ASKERS}: questions a second")
        for name, ratio in one_round.items():
            found[name].append(ratio)
    return {name: values for name, values in found.items() if values}


def _over_pykka(figures: Round, name: str) -> float:
    return figures[name] / figures[f"pykka, {name}"]


def _among_many(figures: Round, what: str) -> float:
    many, few = (figures[f"siblings: microseconds a {what}, {actors:,} under one"] for actors in (MANY, FEW))
    return many / few


# ------------------------------------------------------------------------------------------------ what is said of it


def environment() -> dict[str, str]:
    """What the figures depend on besides the code."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{package: _version(package) for package in ("playbill", "trio", "pykka")},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def as_json(plan: Plan, rounds: Sequence[Round]) -> dict[str, Any]:
    """Everything that was measured, and what follows from it."""
    return {
        "environment": environment(),
        "plan": attrs.asdict(plan),
        "rounds": [dict(figures) for figures in rounds],
        "figures": {name: attrs.asdict(spread) for name, spread in _figures(rounds).items()},
        "ratios": {name: BARS[name].held_against(Spread.of(values)) for name, values in ratios(rounds).items()},
    }


def as_text(plan: Plan, rounds: Sequence[Round]) -> str:
    """The same for reading: median [lowest-highest]."""
    lines = [f"{name:12}{value}" for name, value in environment().items()]
    lines += ["", f"{plan.rounds} rounds; {plan.idle:,} idle actors; median [lowest-highest]", ""]
    lines += [f"  {name:54}{spread}" for name, spread in _figures(rounds).items()]
    lines += ["", "Held against their bars, ratios each within its round:", ""]
    for name, values in ratios(rounds).items():
        spread = Spread.of(values)
        lines.append(f"  {name:54}{spread!s:22}{BARS[name].verdict(spread)}")
    if not actors_peers.is_installed():
        lines += ["", f"pykka is not installed, and was not compared with; to have it: {actors_peers.INSTALL}"]
    return "\n".join(lines)


def _figures(rounds: Sequence[Round]) -> dict[str, Spread]:
    return {name: Spread.of([figures[name] for figures in rounds]) for name in rounds[0]}
