"""`python -m tests.benchmarks durable`, `… actors` and `… profile`; see `--help` of each."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.benchmarks import actors, actors_peers, durable, peers, profile
from tests.benchmarks.measuring import MeasurementError


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _directory(text: str) -> str:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no directory; make it first")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure Playbill against peers.")
    commands = parser.add_subparsers(dest="command", required=True)

    measure = commands.add_parser("durable", help="activities, records and a lone activity, over DBOS and raw SQLite")
    default = durable.Plan()
    measure.add_argument("--rounds", type=_positive, default=default.rounds, help="default: %(default)s")
    measure.add_argument("--activities", type=_positive, default=default.activities, help="default: %(default)s")
    measure.add_argument("--workflows", type=_positive, default=default.workflows, help="of DBOS; default: %(default)s")
    measure.add_argument(
        "--directory", metavar="DIR", type=_directory, help="where to write; a disk, or commits cost nothing"
    )
    measure.add_argument("--json", action="store_true", help="print everything as JSON")

    supervise = commands.add_parser("actors", help="messages, starts, stops and memory of actors, over pykka and Trio")
    supervise.add_argument("--rounds", type=_positive, default=actors.Plan().rounds, help="default: %(default)s")
    supervise.add_argument("--json", action="store_true", help="print everything as JSON")

    dissect = commands.add_parser("profile", help="where the time of the hot path goes, by cProfile")
    dissect.add_argument("--activities", type=_positive, default=1_000, help="default: %(default)s")
    dissect.add_argument("--lines", type=_positive, default=40, help="default: %(default)s")
    dissect.add_argument("--sort", default="tottime", help="a key of pstats; default: %(default)s")
    return parser


def main() -> int:
    """Run what was asked; gives the exit code."""
    arguments = _parser().parse_args()
    if arguments.command == "profile":
        profile.show(activities=arguments.activities, lines=arguments.lines, sort=arguments.sort)
        return 0
    try:
        print(_actors(arguments) if arguments.command == "actors" else _durable(arguments))
    except MeasurementError as error:
        print(f"a measurement failed: {error}", file=sys.stderr)
        return 1
    return 0


def _actors(arguments: argparse.Namespace) -> str:
    if not actors_peers.is_installed():
        print(f"pykka is not installed; going on without it. To have it: {actors_peers.INSTALL}", file=sys.stderr)
    plan = actors.Plan(rounds=arguments.rounds)
    rounds = actors.measure(plan)
    return json.dumps(actors.as_json(plan, rounds), indent=2) if arguments.json else actors.as_text(plan, rounds)


def _durable(arguments: argparse.Namespace) -> str:
    if not peers.is_installed():
        print(f"DBOS is not installed; going on without it. To have it: {peers.INSTALL}", file=sys.stderr)
    plan = durable.Plan(
        rounds=arguments.rounds,
        activities=arguments.activities,
        busy=max(1, arguments.activities // 4),
        lone=max(1, arguments.activities // 10),
        workflows=arguments.workflows,
        directory=arguments.directory,
    )
    rounds = durable.measure(plan)
    return json.dumps(durable.as_json(plan, rounds), indent=2) if arguments.json else durable.as_text(plan, rounds)


if __name__ == "__main__":
    sys.exit(main())
