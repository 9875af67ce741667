"""Steps for worker processes, in a module that those can import."""

from __future__ import annotations

import decimal
import os
import time
from pathlib import Path
from typing import Any

import attrs

from engine import Retry, current_step, step


class LostError(Exception):
    """An error that pickling would lose."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what


@attrs.frozen
class Parcel:
    weight: decimal.Decimal
    place: tuple[int, str]


@step(name="where", process=True)
def where() -> tuple[int, str, str, int]:
    info = current_step()
    return os.getpid(), info.path, info.idempotency_key, info.attempt


@step(name="weigh", process=True)
def weigh(parcel: Parcel, more: decimal.Decimal) -> Parcel:
    return attrs.evolve(parcel, weight=parcel.weight + more)


@step(name="lose", process=True)
def lose(what: str) -> None:
    raise LostError(what, "gone")


@step(name="give", process=True)
def give(what: str) -> Any:
    return {"lambda": lambda: None, "generator": (n for n in range(3))}[what]


@step(name="hang", process=True)
def hang(folder: str) -> None:
    """Leaves word of each second that it lives."""
    with open(Path(folder, f"{os.getpid()}.txt"), "a") as file:
        while True:
            file.write("x")
            file.flush()
            time.sleep(0.05)


@step(name="die", process=True, retry=Retry(2, 0.01))
def die(how: str) -> str:
    if current_step().attempt == 2:
        return "second time"
    if how == "exit":
        os._exit(7)
    raise SystemExit("enough")


@step(name="climb", process=True, retry=Retry(2, 0.01))
def climb() -> Any:
    """Leaves how far it got, and falls; the second attempt says from where it goes on."""
    info = current_step()
    if info.attempt == 1:
        info.heartbeat({"height": 1})
        info.heartbeat({"height": 2})
        os._exit(1)
    return info.details


class Scales:
    def __init__(self, error: int) -> None:
        self.error = error

    @step(process=True)
    def read(self, weight: int) -> int:
        return weight + self.error


@step(name="add", process=True)
def add(one: int, other: int, *, times: int = 1) -> int:
    return (one + other) * times


def lives(pid: int) -> bool:
    """Whether a process lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended and was not waited for lives no more.
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
