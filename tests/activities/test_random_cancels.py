"""Random programs that are cancelled, paused and resumed at each of their records, and during their replay.

The programs are those of `test_random_programs`, with one operation more: a *saga* reserves something, does a block,
and releases in a cleanup whatever became of the block. The same oracles hold; and what was reserved is released once.
`PLAYBILL_SEED=<seed> PLAYBILL_PROGRAMS=1 pytest -m long` plays one again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pytest
import trio
import trio.testing

from engine import ActivityStatus, CommandDeniedError, Context, Engine, Handle, Restart, activity
from engine.activities.run import Run
from engine.testing.everywhere import AGAIN, OPENING
from engine.testing.killing import Death, live
from tests.activities import test_random_programs as programs
from tests.activities.test_random_programs import ID, Author, Block, Operation, Played, World, play_block, read

Script: TypeAlias = Callable[[Engine, Handle[Any]], Awaitable[None]]

COMMANDS = ("cancel", "pause", "pause and cancel", "cancel at replay")


@attrs.define
class SagaAuthor(Author):
    """Draws programs with sagas in them."""

    def operation(self, depth: int) -> Operation:
        if depth and self.draw.random() < 0.25:
            return ["saga", self.draw.choice((0, 0, 1)), self.block(depth - 1)]
        return Author.operation(self, depth)


@attrs.define
class CommandedWorld(World):
    """A world in which runs are given up: what they see while they unwind is seen by nobody.

    Attributes:
        run: the run under way.
        timed: whether cancel scopes of the program's own are in it.
    """

    run: Run | None = None
    timed: bool = False

    def see(self, what: str) -> None:
        if self.run is None or not self.run.fenced:
            World.see(self, what)


def _world() -> CommandedWorld:
    world = programs.WORLD
    assert isinstance(world, CommandedWorld)
    return world


@activity(name="play", restart=Restart(3, 60, initial=0.2, jitter=0))
async def play(ctx: Context, program: Block) -> dict[str, Any]:
    world = _world()
    world.run = ctx._run
    world.seen.append((ctx.run_number, []))
    shared: list[str] = []
    try:
        result = await play_block(ctx, program, "", shared)
    finally:
        world.see(f"shared {sorted(shared) if 'nursery' in json.dumps(program) else shared}")
    return {"result": result, "shared": shared}


async def play_saga(ctx: Context, place: str, shared: list[str], seconds: float, block: Block) -> list[Any]:
    await ctx.step(programs.work, place, 0, 0, "", name="reserve")
    shared.append(f"{place} reserved")
    try:
        return await play_block(ctx, block, f"{place}g", shared)
    except trio.Cancelled:
        # (8) No cleanup is entered by a cancel that is not recorded.
        run = ctx._run
        if not (run.fenced or run.cancelling is not None or ctx._is_within_cancelled or _world().timed):
            programs.WORLD.faults.append(f"{place} was cancelled by nobody")
        raise
    finally:
        async with ctx.cleanup():
            programs.WORLD.see(f"{place} cleans up")
            await ctx.step(programs.work, place, 0, seconds, "", name="release")
        shared.append(f"{place} released")


programs.OPERATIONS["saga"] = play_saga


# ---------------------------------------------------------------------------------------------------- one run


async def commanded(
    folder: Path, program: Block, lives: list[tuple[Death, Script | None]], *, by_record: bool, downtime: float
) -> Played:
    """Play a program over these lives, each with what is commanded in it; then until before its end is recorded, and
    then to its end."""
    text = json.dumps(program)
    world = programs.WORLD = CommandedWorld(folder / "it.db", by_record)
    world.timed = "within" in text or "nursery" in text
    ends = []
    replayed_from = 0
    everything = [*lives, (Death(terminal=True), None), (Death(), None)]
    for number, (death, script) in enumerate(everything):
        death.terminal = death.terminal or number < len(lives)
        world.death, world.run = death, None
        if number == len(everything) - 1:
            replayed_from = len(world.effects)
        with trio.fail_after(10_000):
            body = functools.partial(one_life, program, script)
            ends.append(await live(body, str(world.journal), play, death=death))
        if number < len(lives):
            await trio.sleep(downtime)
    if world.effects[replayed_from:]:
        world.faults.append(f"the replay did {world.effects[replayed_from:]}")
    records = read(world.journal)
    for suffix in ("", "-wal", "-shm", ".lock"):
        Path(f"{world.journal}{suffix}").unlink(missing_ok=True)  # noqa: ASYNC240  (nothing else runs here)
    return Played(world, records, ends, len(everything) + 1, "nursery" in text)


async def one_life(program: Block, script: Script | None, engine: Engine) -> ActivityStatus:
    handle = await engine.start(play, program, id=ID)
    if await handle.status() is ActivityStatus.PAUSED:
        # The life before ended while it was.
        await handle.resume()
    async with trio.open_nursery() as nursery:
        if script is not None:
            nursery.start_soon(_commands, script, engine, handle)
        status = await programs.ended(handle)
        nursery.cancel_scope.cancel()
    return status


async def _commands(script: Script, engine: Engine, handle: Handle[Any]) -> None:
    # It may have ended, or be cancelled already.
    with contextlib.suppress(CommandDeniedError):
        await script(engine, handle)


async def reaches(engine: Engine, seq: int) -> None:
    """Wait until a record is durable."""
    writer: Any = engine._journal._writer
    reached, tell = trio.Event(), writer.on_durable

    def durable(last: int) -> None:
        if tell is not None:
            tell(last)
        if last >= seq:
            reached.set()

    writer.on_durable = durable
    if writer.durable_seq < seq:
        await reached.wait()


def script_of(command: str, seq: int, pause: float, ticks: int) -> Script:
    """What is commanded, and when."""

    async def script(engine: Engine, handle: Handle[Any]) -> None:
        if command != "cancel at replay":
            await reaches(engine, seq)
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        if command.startswith("pause"):
            await handle.pause()
            await trio.sleep(pause)
        if "cancel" in command:
            await handle.cancel()
        else:
            await handle.resume()

    return script


# ---------------------------------------------------------------------------------------------------- the oracles


def faults_of(run: Played) -> Iterator[str]:
    """Everything that is wrong with a run, whatever the program and the command."""
    yield from run.world.faults
    yield from ends_once(run)
    yield from programs.replay_adds_nothing(run)
    yield from programs.is_given_again(run)
    yield from programs.keys_are_kept(run)
    yield from programs.records_are_one_each(run)
    yield from is_released(run)


def ends_once(run: Played) -> Iterator[str]:
    """(1) It ends in exactly one terminal record, as cancelled if that was asked for, and is never blocked."""
    kinds = Counter(record["kind"] for record in run.records)
    if kinds["activity.completed"] + kinds["activity.failed"] + kinds["activity.cancelled"] != 1:
        yield f"it ended {kinds}"
    if kinds["activity.cancelling"] and kinds["activity.completed"]:
        yield "it was cancelled, and completed"
    for record in run.records:
        if record["kind"] == "activity.blocked":
            yield f"it was blocked: {record['facts']}"


def is_released(run: Played) -> Iterator[str]:
    """(7) What is recorded as reserved is recorded as released, and nothing else is."""
    places: dict[str, Counter[str]] = {"reserve": Counter(), "release": Counter()}
    for record in run.records:
        name = str(record["path"]).rpartition("/")[2].partition("#")[0]
        if record["kind"] == "step.completed" and name in places:
            places[name][json.loads(record["data"])["args"][0]] += 1
    if places["reserve"] != places["release"]:
        yield f"reserved {places['reserve']}, released {places['release']}"


# ---------------------------------------------------------------------------------------------------- hunting


@attrs.define
class Hunt:
    """What was tried and found so far.

    Attributes:
        most: how many commands to one program are tried.
        commands: how many were given.
        kills: how many lives were ended at a record.
        faults: what was found.
    """

    most: int
    commands: int = 0
    kills: int = 0
    faults: list[str] = attrs.field(factory=list)

    async def program(self, folder: Path, seed: int) -> None:
        """Try one program, with a command at each of its records."""
        draw = random.Random(seed)
        program = SagaAuthor(draw, timing=draw.random() < 0.2).program()
        by_record = draw.random() < 0.6
        whole = await commanded(folder, program, [], by_record=by_record, downtime=0)
        self.note(f"seed {seed}", faults_of(whole))
        boundaries = range(whole.span.start + 2, whole.span.stop)
        for seq in sorted(draw.sample(boundaries, min(self.most, len(boundaries)))):
            command = draw.choice(COMMANDS)
            script = script_of(command, seq, draw.choice((0, 0.7, 5)), draw.randint(0, 3))
            lives: list[tuple[Death, Script | None]] = []
            if command == "cancel at replay":
                lives.append((Death(after=seq, told=draw.random() < 0.5), None))
            first = Death()
            if draw.random() < AGAIN:
                # Some records after the command, which are two or three.
                beyond = OPENING if lives else 0
                first = Death(after=seq + beyond + 2 + draw.randint(0, 6), told=draw.random() < 0.5)
            lives.append((first, script))
            downtime = draw.choice((0.0, 0.0, 3.0))
            run = await commanded(folder, program, lives, by_record=by_record, downtime=downtime)
            self.commands += 1
            self.kills += sum(death.dead for death, _ in lives)
            deaths = [str(death) for death, _ in lives if death.dead]
            self.note(f"seed {seed}, {command} at {seq}, killed at {deaths}", faults_of(run))

    def note(self, what: str, faults: Iterable[str]) -> None:
        self.faults += [f"{what}: {fault}" for fault in faults]


def hunted(folder: Path, seeds: Iterable[int], *, most: int, seconds: float = math.inf) -> Hunt:
    """Try the programs of these seeds, until a time is over or a fault is found."""
    hunt = Hunt(most)
    until = time.monotonic() + seconds
    for seed in seeds:
        trio.run(hunt.program, folder, seed, clock=trio.testing.MockClock(autojump_threshold=0))
        if hunt.faults or time.monotonic() > until:
            break
    return hunt


OPEN = pytest.mark.xfail(
    strict=False, reason="in some programs a cancel that meets the replay of a life killed twice comes to a branch late"
)
"""What is known to be wrong, and found by these tests; they are to hold without this mark."""


@OPEN
@pytest.mark.long
@pytest.mark.parametrize("first", [0, 1000])
def test_a_few_programs_are_right_after_every_command(tmp_path: Path, first: int) -> None:
    hunt = hunted(tmp_path, range(first, first + 100), most=15, seconds=6)
    assert not hunt.faults, "\n".join(hunt.faults)
    assert hunt.commands


FIRST = int(os.environ.get("PLAYBILL_SEED", "2000"))
PROGRAMS = int(os.environ.get("PLAYBILL_PROGRAMS", "150"))


@OPEN
@pytest.mark.long
@pytest.mark.parametrize("seed", range(FIRST, FIRST + PROGRAMS))
def test_a_program_is_right_after_every_command(tmp_path: Path, seed: int) -> None:
    hunt = hunted(tmp_path, [seed], most=200)
    assert not hunt.faults, "\n".join(hunt.faults)
