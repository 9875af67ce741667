"""A replay that runs no step and writes nothing, and tells whether today's code fits what is recorded."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine import ActivityStatus, Context, Engine, Restart, Retry, activity, step
from engine.activities.checking import Finding, check
from engine.journal.records import COLUMNS, StoredRecord
from engine.testing.killing import Death, live
from tests.activities import test_random_programs as random_programs
from tests.activities.stage import Stage

FITS = Finding(verdict="fits")


def records_of(stage: Stage, id: str = "it") -> list[StoredRecord]:
    with closing(sqlite3.connect(stage.journal)) as connection:
        rows = connection.execute(f"SELECT {COLUMNS} FROM records WHERE stream = ? ORDER BY seq", (id,))
        return [StoredRecord.of(row) for row in rows]


class BoomError(Exception):
    pass


STEPS: list[str] = []


async def work(name: str) -> str:
    STEPS.append(name)
    await trio.sleep(len(name))
    if name.startswith("boom"):
        raise BoomError(name)
    return name


async def branch(ctx: Context, name: str) -> str:
    await ctx.step(work, name, name="first")
    await ctx.sleep(1)
    return await ctx.step(work, name, name="second")


@activity(name="everything", restart=Restart(2, 60, jitter=0))
async def everything(ctx: Context) -> list[Any]:
    shared: list[Any] = [await ctx.step(work, "a")]
    shared += await ctx.map(work, ["b", "cc"])
    shared += await ctx.map(branch, ["d", "ee"], limit=1)
    try:
        await ctx.gather(lambda ctx: branch(ctx, "f"), lambda ctx: branch(ctx, "boom"))
    except BoomError:
        shared.append("boom")
    shared += list(await ctx.race(slow=lambda ctx: branch(ctx, "slow"), g=lambda ctx: branch(ctx, "g")))
    with trio.move_on_after(2):
        await ctx.step(work, "too long")
    with pytest.raises(BoomError):
        await ctx.step(work, "boom", retry=Retry(2, 1, jitter=0))
    await ctx.emit("done", shared)
    if ctx.patched("new"):
        shared.append(str(ctx.uuid()))
    if ctx.run_number == 1:
        raise BoomError("a bug")
    return [ctx.now().isoformat(), *map(str, shared)]


async def test_code_that_was_not_changed_fits_at_every_record(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.played(everything)
    whole = records_of(stage)
    STEPS.clear()
    for length in range(2, len(whole) + 1):
        found = await check(everything, whole[:length])
        assert found == FITS, f"{found} after {whole[length - 1]}"
    assert STEPS == []


async def test_code_that_was_not_changed_fits_after_every_kill(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    death = Death(at=("step.completed", "map#2[1]/first"))
    await stage.status(everything, death=death)
    assert await check(everything, records_of(stage)) == FITS


async def two(ctx: Context, names: Sequence[str]) -> str:
    for name in names:
        await ctx.step(work, name, name=name)
    return "done"


def version_of(names: Sequence[str], result: Any = "done", error: str = "") -> Any:
    @activity(name="changing", fatal=(LookupError,))
    async def changing(ctx: Context) -> Any:
        for name in names:
            await ctx.step(work, name, name=name)
        if error:
            raise LookupError(error) if error == "lookup" else KeyError(error) if error == "key" else OSError(error)
        return result

    return changing


@pytest.mark.parametrize(
    ("names", "recorded", "asked"),
    [
        ("axb", "step b", "step x"),
        ("b", "step a", "step b"),
        ("a", "step b", "nothing"),
        ("ba", "step a", "step b"),
    ],
)
async def test_code_that_was_changed_diverges_where_it_does(
    stage: Stage, autojump_clock: trio.testing.MockClock, names: str, recorded: str, asked: str
) -> None:
    await stage.killed(version_of("abc"), at=("step.completed", "b"))
    assert await check(version_of(names), records_of(stage)) == Finding(
        verdict="diverges", recorded=recorded, asked=asked
    )


async def test_code_that_was_changed_further_on_fits(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.killed(version_of("abc"), at=("step.completed", "b"))
    assert await check(version_of("abxyz"), records_of(stage)) == FITS
    assert await check(version_of("ab", error="os"), records_of(stage)) == FITS


async def test_other_arguments_diverge(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    given = "one"

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(work, given, name="work")
        await ctx.sleep(1)

    await stage.killed(a, at=("timer.set", "sleep"))
    given = "other"
    found = await check(a, records_of(stage))
    assert found == Finding(verdict="diverges", recorded="step work", asked="step work with other arguments")


async def test_what_has_ended_must_end_so_again(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.played(version_of("ab"))
    whole = records_of(stage)
    assert await check(version_of("ab"), whole) == FITS
    more = await check(version_of("abc"), whole)
    assert more == Finding(verdict="diverges", recorded="activity.completed", asked="step c")
    other = await check(version_of("ab", result="other"), whole)
    assert other == Finding(
        verdict="diverges", recorded='activity.completed with "done"', asked='activity.completed with "other"'
    )
    failed = await check(version_of("ab", error="lookup"), whole)
    assert failed.asked == "activity.failed with builtins.LookupError"


async def test_what_has_failed_must_fail_so_again(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.status(version_of("ab", error="lookup"))
    whole = records_of(stage)
    assert whole[-1].kind == "activity.failed"
    assert await check(version_of("ab", error="lookup"), whole) == FITS
    assert await check(version_of("ab", error="key"), whole) == Finding(
        verdict="diverges",
        recorded="activity.failed with builtins.LookupError",
        asked="activity.failed with builtins.KeyError",
    )
    assert not (await check(version_of("ab"), whole)).is_fine


async def test_one_without_a_definition_is_told(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.played(version_of("ab"))
    found = await check(None, records_of(stage))
    assert found == Finding(
        verdict="definition",
        recorded="activity changing",
        asked="nothing: there is no definition of that name",
    )


async def test_arguments_that_the_function_no_longer_takes_are_told(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def before(ctx: Context, number: str) -> None:
        await ctx.sleep(1)

    @activity(name="a")
    async def after(ctx: Context, number: int) -> None:
        await ctx.sleep(1)

    await stage.killed(before, "three", at=("timer.set", "sleep"))
    found = await check(after, records_of(stage))
    assert (found.verdict, found.recorded) == ("arguments", "its arguments")
    assert "number" in found.asked


@pytest.mark.parametrize("looks", [False, True], ids=["once", "again and again"])
async def test_code_that_waits_for_what_does_not_come_is_told(
    stage: Stage, looks: bool, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.activities.checking.LOOKING", 0.1)
    waits = False

    @activity(name="a")
    async def a(ctx: Context) -> None:
        while waits:  # noqa: ASYNC110  (as nobody should, beside a journal)
            await trio.sleep(1 if looks else math.inf)
        await ctx.step(work, "a", name="a")
        await ctx.sleep(1)

    await stage.killed(a, at=("timer.set", "sleep"))
    waits = True
    found = await check(a, records_of(stage))
    assert found == Finding(
        verdict="diverges",
        recorded="step.completed a",
        asked="nothing: the code waits for something that is not in its history",
    )


async def test_one_that_has_only_begun_fits_and_does_not_run(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(work, "a")

    await stage.killed(a, at=("activity.started", None))
    STEPS.clear()
    assert await check(a, records_of(stage)) == FITS
    assert STEPS == []


async def test_nothing_is_written_and_no_lock_is_asked_for(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.played(everything)
    before = hashlib.sha256(stage.journal.read_bytes()).hexdigest()
    await check(everything, records_of(stage))
    assert hashlib.sha256(stage.journal.read_bytes()).hexdigest() == before


@activity(name="compensating")
async def compensating(ctx: Context) -> None:
    await ctx.step(work, "reserve", name="reserve")
    try:
        await ctx.sleep(3_600)
    finally:
        async with ctx.cleanup():
            await ctx.step(work, "release", name="release")


async def test_one_that_was_cancelled_fits_at_every_record(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def cancel(engine: Engine) -> None:
        handle = await engine.start(compensating, id="it")
        await trio.sleep(60)
        await handle.cancel()
        await handle.wait(ActivityStatus.CANCELLED)

    await stage.life(cancel, compensating)
    whole = records_of(stage)
    assert whole[-1].kind == "activity.cancelled"
    STEPS.clear()
    for length in range(2, len(whole) + 1):
        found = await check(compensating, whole[:length])
        assert found == FITS, f"{found} after {whole[length - 1]}"
    assert STEPS == []


async def test_one_that_waits_to_be_resolved_fits(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @step(name="pay", at_most_once=True)
    async def pay() -> None: ...

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.step(pay)

    await stage.killed(a, at=("step.intended", "pay"))
    assert await stage.status(a) is ActivityStatus.BLOCKED
    whole = records_of(stage)
    for length in range(2, len(whole) + 1):
        found = await check(a, whole[:length])
        assert found == FITS, f"{found} after {whole[length - 1]}"


async def _holds_for_a_random_program(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    program = random_programs.Author(draw, draw.random() < 0.4).program()
    world = random_programs.WORLD = random_programs.World(folder / f"{seed}.db", by_record=True)
    play = random_programs.play
    await live(functools.partial(random_programs.one_life, program), str(world.journal), play, death=world.death)
    whole = records_of(Stage(world.journal))
    done = len(world.effects)
    # In what order the tasks of a nursery of its own begin is for Trio to say, so its result may differ.
    is_nursed = "nursery" in json.dumps(program)
    for length in range(2, len(whole) + (not is_nursed)):
        found = await check(play, whole[:length])
        assert found == FITS, f"seed {seed}: {found} after {whole[length - 1]}"
    assert len(world.effects) == done, f"seed {seed}"


@pytest.mark.parametrize("first", [0, 1_000])
def test_a_random_program_fits_at_every_record(tmp_path: Path, first: int) -> None:
    for seed in range(first, first + 20):
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(_holds_for_a_random_program, tmp_path, seed, clock=clock)


@dataclass(frozen=True)
class Word:
    text: str


@activity(name="child")
async def child(ctx: Context, name: str) -> str:
    said = await ctx.receive(Word, timeout=5)
    return await ctx.step(work, f"{name} {said.text if said else 'nothing'}", name="work")


@activity(name="family")
async def family(ctx: Context) -> list[str]:
    first = await ctx.start(child, "first")
    await first.send(Word("hello"))
    second = await ctx.run(child, "second")
    winner, _ = await ctx.race(child=lambda ctx: ctx.run(child, "third"), timer=lambda ctx: ctx.sleep(1))
    late = await ctx.receive(Word, timeout=1)
    await ctx.start(child, "fourth")
    return [await first.result(), second, winner, str(late)]


async def test_children_and_messages_fit_at_every_record(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def body(engine: Engine) -> None:
        handle = await engine.start(family, id="it")
        assert await handle.result() == ["first hello", "second nothing", "timer", "None"]

    await stage.life(body, family, child)
    STEPS.clear()
    for id, definition in {"it": family, "it/child": child, "it/child#2": child}.items():
        whole = records_of(stage, id)
        began = next(index for index, record in enumerate(whole) if record.kind == "activity.started")
        for length in range(began + 1, len(whole) + 1):
            found = await check(definition, whole[:length])
            assert found == FITS, f"{id}: {found} after {whole[length - 1]}"
    assert STEPS == []
