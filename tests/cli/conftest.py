"""What the tests of the command line share: a folder with an application, and the command itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.cli.program import program

APPLICATION = """
from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import trio
from engine import Context, Event, activity, step, subscriber


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Order:
    id: str
    amount: Decimal
    count: int = 1
    day: date | None = None
    urgent: bool = False
    colour: Colour = Colour.RED
    note: str | None = None


@step
async def price(order: Order) -> Decimal:
    if order.note == "slow":
        await trio.sleep(0.5)
    return order.amount * order.count


@activity(name="orders.fulfil", fatal=(ValueError,))
async def fulfil(ctx: Context, order: Order) -> Decimal:
    if order.note == "fail":
        raise ValueError("it was told to")
    total = await ctx.step(price, order)
    if order.note == "wait":
        await ctx.sleep(600)
    await ctx.emit(f"orders.{order.colour.value}.paid", order, key=order.id)
    return total


@activity
async def greet(ctx: Context, name: str, times: int = 1) -> str:
    return " ".join([f"hello {name}"] * times)


@step
def only_a_step(name: str) -> str:
    return name


async def undecorated(ctx: Context, name: str) -> str:
    return name


text = "no activity"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with `app.py` in it. What the command imports is forgotten afterwards."""
    (tmp_path / "app.py").write_text(APPLICATION, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLAYBILL_JOURNAL", raising=False)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.fixture
def playbill(folder: Path) -> Callable[..., Result]:
    """Runs a command line in this process, in the folder."""

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(program, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def write(folder: Path) -> Callable[[str, str], Path]:
    """Writes a file of the folder."""

    def written(name: str, content: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    return written
