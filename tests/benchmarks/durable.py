"""How fast durable activities are, against raw SQLite and against a peer, in paired rounds.

A round runs each measurement once, every second round in the opposite order, and gives these ratios:

- activities of five steps a second, many in flight, over the peer's workflows of five steps a second, the peer once as
  it comes and once on a file that was tuned by hand; both are held against the same bar;
- their records a second over raw rows a second in batches;
- a lone activity's records a second over raw commits of one row a second (its records fewer by one are its commits: the
  command and the start share one);
- activities a second beside a task that keeps the loop busy, over the same without it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from tests.benchmarks import peers, raw, workload
from tests.benchmarks.measuring import Measurement, in_process
from tests.benchmarks.spread import Bar, Spread

Round = Mapping[str, float]
"""The figures of one round, by `MEASUREMENT: FIGURE`."""


@attrs.frozen
class Plan:
    """How much is measured.

    Attributes:
        rounds: how often everything is measured.
        activities: how many, many in flight.
        busy: how many beside the busy task.
        lone: how many one after another.
        workflows: how many of the peer's, in each of its ways.
        rows: raw rows in batches.
        commits: raw commits.
        directory: where the files are written; `None` for the system's temporary directory.
    """

    rounds: int = 5
    activities: int = 4_000
    busy: int = 1_000
    lone: int = 400
    workflows: int = 200
    rows: int = 200_000
    commits: int = 3_000
    directory: str | None = None


BARS: Mapping[str, Bar] = {
    "activities over DBOS, as it comes": Bar(45, 80),
    "activities over DBOS, its file put into WAL mode": Bar(45, 80),
    "records over raw rows": Bar(0.09, 0.15),
    "a lone activity's records over raw commits": Bar(0.4, 0.65),
    "activities beside a busy task over those without": Bar(0.3),
}
"""Each ratio with its bars, as docs/explanation/benchmarks.md tells them."""


def measure(plan: Plan) -> list[Round]:
    """Run all rounds; tells on standard error how far it is."""
    rounds = []
    for number in range(plan.rounds):
        print(f"round {number + 1} of {plan.rounds} …", file=sys.stderr, flush=True)
        rounds.append(_round(plan, reverse=bool(number % 2)))
    return rounds


def _round(plan: Plan, *, reverse: bool) -> Round:
    work: list[tuple[str, Measurement, int, str]] = [
        ("raw, batches of 500", raw.batched_rows, plan.rows, ""),
        ("many in flight", workload.many, plan.activities, ""),
        ("50 in flight", workload.many, plan.activities, "few"),
        ("beside a busy task", workload.many, plan.busy, "busy"),
        ("lone", workload.lone, plan.lone, ""),
        ("raw, single", raw.single_commits, plan.commits, ""),
    ]
    if peers.is_installed():
        work += [(f"DBOS, {way}", peers.workflows, plan.workflows, way) for way in peers.WAYS]
    figures: dict[str, float] = {}
    for name, measurement, count, way in reversed(work) if reverse else work:
        of_one = in_process(measurement, parent=plan.directory, count=count, way=way)
        figures |= {f"{name}: {figure}": value for figure, value in of_one.items()}
    return {name: figures[name] for name in sorted(figures)}


def ratios(rounds: Iterable[Round]) -> dict[str, list[float]]:
    """The ratios of each round; without the peer's where it was not measured."""
    found: dict[str, list[float]] = {name: [] for name in BARS}
    for figures in rounds:
        activities = figures["many in flight: activities a second"]
        rows = figures["raw, batches of 500: rows a second"]
        commits = figures["raw, single: commits a second"]
        workflows = {name: value for name, value in figures.items() if name.endswith(": workflows a second")}
        one_round = {
            "records over raw rows": figures["many in flight: records a second"] / rows,
            "a lone activity's records over raw commits": figures["lone: records a second"] / commits,
            "activities beside a busy task over those without": figures["beside a busy task: activities a second"]
            / activities,
        }
        if workflows:
            as_it_comes = [value for name, value in workflows.items() if "WAL" not in name]
            tuned = [value for name, value in workflows.items() if "WAL" in name]
            one_round["activities over DBOS, as it comes"] = activities / max(as_it_comes)
            one_round["activities over DBOS, its file put into WAL mode"] = activities / max(tuned)
        for name, ratio in one_round.items():
            found[name].append(ratio)
    return {name: values for name, values in found.items() if values}


# ------------------------------------------------------------------------------------------------ what is said of it


def environment(plan: Plan) -> dict[str, str]:
    """What the figures depend on besides the code."""
    packages = ["playbill", "trio", "orjson", "dbos"]
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{package: _version(package) for package in packages},
        "directory": plan.directory or "the system's temporary directory",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def as_json(plan: Plan, rounds: Sequence[Round]) -> dict[str, Any]:
    """Everything that was measured, and what follows from it."""
    return {
        "environment": environment(plan),
        "plan": attrs.asdict(plan),
        "rounds": [dict(figures) for figures in rounds],
        "figures": {name: attrs.asdict(spread) for name, spread in _figures(rounds).items()},
        "ratios": {name: BARS[name].held_against(Spread.of(values)) for name, values in ratios(rounds).items()},
    }


def as_text(plan: Plan, rounds: Sequence[Round]) -> str:
    """The same for reading: median [lowest-highest]."""
    lines = [f"{name:12}{value}" for name, value in environment(plan).items()]
    lines += [
        "",
        f"{plan.rounds} rounds; {plan.activities:,} activities of {workload.STEPS} steps, {workload.STARTERS} starters;"
        " median [lowest-highest]",
        "",
    ]
    lines += [f"  {name:56}{spread}" for name, spread in _figures(rounds).items()]
    lines += ["", "Ratios, each within its round:", ""]
    for name, values in ratios(rounds).items():
        spread, bar = Spread.of(values), BARS[name]
        lines.append(f"  {name:52}{spread!s:22}{bar.verdict(spread)}")
    if not peers.is_installed():
        lines += ["", f"DBOS is not installed, and was not compared with; to have it: {peers.INSTALL}"]
    return "\n".join(lines)


def _figures(rounds: Sequence[Round]) -> dict[str, Spread]:
    return {name: Spread.of([figures[name] for figures in rounds]) for name in rounds[0]}
