"""The examples that each verb's `--help` shows are commands that work."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from engine import ActivityStatus, Engine
from engine.cli.program import program
from engine.cli.target import load_target

Playbill = Callable[..., Result]

APPLICATION = """
from __future__ import annotations

from dataclasses import dataclass
from engine import Context, activity, step

@dataclass(frozen=True)
class Transfer:
    id: str
    amount: int

@step
async def move(transfer: Transfer) -> int:
    return transfer.amount

@step
async def check(transfer: Transfer) -> bool:
    return transfer.amount > 0

@activity
async def transfer(ctx: Context, transfer: Transfer) -> int:
    moved = await ctx.step(move, transfer)
    await ctx.sleep(3600 if transfer.id == "order-1001" else 0)
    await ctx.emit("transfers.eur.rejected" if moved < 0 else "transfers.eur.completed", moved)
    return moved

@activity
async def fulfil(ctx: Context, order: Transfer) -> int:
    return await ctx.step(move, order)
"""

COLUMNS = "id,amount\n"
ROWS = [f"transfer-{number:04},{number}" for number in range(1, 4)]
OBJECTS = '{"id": "a", "amount": 1}\n{"id": "b", "amount": 2}\n'

RUN = ("run", "list", "show", "events", "tree", "resume", "verify", "report", "completion")
"""Verbs whose examples are run, in a folder in which all is there that they name. Those of others, which need an
activity or an engine in some state of its own, are read as far as their arguments go."""

ENDLESS = ("--follow",)


def examples_of(verb: str) -> list[str]:
    """The commands that a verb's help shows, without what stands around them in a shell's configuration."""
    result = CliRunner().invoke(program, [*verb.split(), "--help"], terminal_width=200)
    text = result.stdout[result.stdout.index("Example") :]
    return [line.strip() for line in text.splitlines() if re.match(r" +(\w+=\S+ )*(eval \S+)?playbill ", line)]


EXAMPLES = [(verb, line) for verb in ("", *program.commands) for line in examples_of(verb)]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which all that the examples name is there."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "app.py").write_text(APPLICATION, encoding="utf-8")
    (folder / "shop").mkdir()
    (folder / "shop" / "orders.py").write_text(APPLICATION, encoding="utf-8")
    (folder / "transfers.csv").write_text(COLUMNS + "\n".join(ROWS), encoding="utf-8")
    (folder / "orders.json").write_text("[" + OBJECTS.strip().replace("\n", ",") + "]", encoding="utf-8")
    (folder / "orders.jsonl").write_text(OBJECTS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.syspath_prepend(str(folder))
        for input, journal in (("transfers.csv", "transfers.db"), ("orders.jsonl", "orders.db")):
            assert run(f"playbill run app.py:transfer --input {input} --journal {journal} --id-field id").exit_code == 0
        yield folder
    for name, module in list(sys.modules.items()):
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
        if str(place).startswith(f"{folder}/"):
            # The next test has other modules of these names.
            del sys.modules[name]


def run(line: str) -> Result:
    """What comes of a command line of a shell; in this process."""
    environment, arguments = words_of(line)
    return CliRunner().invoke(program, arguments, env=environment)


def words_of(line: str) -> tuple[Mapping[str, str], list[str]]:
    """The variables that a command line sets, and the words after `playbill`. Without a journal it is given one."""
    line = re.sub(r'^eval "\$\((.*)\)"$', r"\1", line).removesuffix(" | source")
    words = shlex.split(line)
    given = dict(word.split("=", 1) for word in words[: words.index("playbill")])
    arguments = words[words.index("playbill") + 1 :]
    return (given if "--journal" in arguments else {"PLAYBILL_JOURNAL": "transfers.db", **given}), arguments


def is_run(line: str) -> bool:
    """Whether an example can be run here."""
    _, arguments = words_of(line)
    return arguments[0] in RUN and not set(ENDLESS) & set(arguments)


def block(id: str, journal: str) -> None:
    """Start an activity that waits, and open the journal without its definition."""
    target = load_target("app.py:transfer")

    async def leave_it_waiting() -> None:
        async with Engine.open(journal, target.activity) as engine:
            await engine.start("transfer", {"id": id, "amount": 1}, id=id)
        async with Engine.open(journal) as engine:
            assert await engine.handle(id).status() is ActivityStatus.BLOCKED

    trio.run(leave_it_waiting)


def test_every_verb_shows_an_example() -> None:
    assert {verb for verb, _ in EXAMPLES} == {"", *program.commands}


@pytest.mark.parametrize("line", [line for _, line in EXAMPLES if is_run(line)])
def test_an_example_does_what_it_says(workshop: Path, line: str) -> None:
    if line.startswith("playbill resume"):
        block("order-1001", "orders.db")
    result = run(line)
    assert result.exit_code == 0, (line, result.stderr)


@pytest.mark.parametrize("line", [line for _, line in EXAMPLES if not is_run(line)])
def test_an_example_that_is_not_run_can_be_read(workshop: Path, line: str) -> None:
    environment, (verb, *arguments) = words_of(line)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        # Raises what it cannot read.
        program.commands[verb].make_context(verb, list(arguments))
