"""How a measurement is run: in a process of its own, on a fresh file; none inherits another's memory or threads.

A measurement is a plain function from an options class to a mapping of figures. `in_process(function, options)` starts
`python -m tests.benchmarks.measuring MODULE FUNCTION OPTIONS` and reads the figures as JSON from the last line of its
standard output.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

CHECKOUT = Path(__file__).resolve().parents[2]

PATIENCE = 900.0
"""Seconds after which a measurement is given up."""

Figures = Mapping[str, float]


class MeasurementError(Exception):
    """A measurement's process failed; the text is what it said at last."""


@attrs.frozen
class Options:
    """What every measurement is given.

    Attributes:
        directory: where it may write; empty at first, and removed afterwards.
        count: how much work: activities, workflows or rows.
        way: which of its ways of working is measured, where it has several.
    """

    directory: str
    count: int
    way: str = ""


Measurement = Callable[[Options], Figures]


def in_process(measurement: Measurement, *, parent: str | None, count: int, way: str = "") -> Figures:
    """Run a measurement in a process of its own.

    Args:
        measurement: a function at the top of an importable module.
        parent: directory in which its fresh directory is made; `None` for the system's temporary one.
        count: how much work.
        way: which way.

    Raises:
        MeasurementError: the process failed, or took longer than `PATIENCE`.
    """
    with tempfile.TemporaryDirectory(prefix="playbill-benchmark-", dir=parent) as directory:
        options = json.dumps(attrs.asdict(Options(directory, count, way)))
        command = [sys.executable, "-m", __spec__.name, measurement.__module__, measurement.__name__, options]
        try:
            ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE, check=True)
        except subprocess.CalledProcessError as error:
            raise MeasurementError(f"{measurement.__name__}: {error.stderr[-2_000:]}") from error
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"{measurement.__name__} took longer than {PATIENCE:g} s") from error
    figures: Figures = json.loads(ended.stdout.splitlines()[-1])
    return figures


def main() -> None:
    module, function, options = sys.argv[1:]
    measurement: Measurement = getattr(importlib.import_module(module), function)
    print(json.dumps(dict(measurement(Options(**json.loads(options))))))


if __name__ == "__main__":
    main()
