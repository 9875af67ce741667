"""Steps in worker processes: what goes over and comes back, and what ends them."""

from __future__ import annotations

import contextlib
import decimal
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from engine import ActivityFailedError, Context, DefinitionError, Engine, Restart, Settings, activity, step
from tests.activities.process_steps import Parcel, Scales, add, climb, die, give, hang, lives, lose, weigh, where
from tests.activities.stage import Stage


async def wait_for_one(folder: Path) -> int:
    """The process that is at work, once it is."""
    while True:
        for file in folder.glob("*.txt"):  # noqa: ASYNC240  (a few files)
            return int(file.stem)
        await trio.sleep(0.01)


@activity(name="several", restart=Restart(0))
async def several(ctx: Context) -> list[Any]:
    """What a process gives back, in one engine, since starting a process takes a while."""
    found: list[Any] = [await ctx.step(where), await ctx.step(where)]
    found.append(await ctx.step(weigh, Parcel(decimal.Decimal("1.5"), (3, "c")), decimal.Decimal("0.25")))
    found.append(await ctx.step(Scales(3).read, 10))
    found.append(await ctx.step(functools.partial(add, 1, times=10), 2))
    found.append(await ctx.map(functools.partial(add, 1), [1, 2]))
    found.append([await ctx.step(die, "exit"), await ctx.step(die, "SystemExit")])
    for function, what in ((lose, "parcel"), (give, "lambda"), (give, "generator")):
        try:
            await ctx.step(function, what)
        except Exception as error:
            found.append([type(error).__name__, str(error), getattr(error, "what", None)])
    found.append(await ctx.step(climb))
    try:
        await ctx.step(functools.partial(add, threading.Lock()), 2)  # type: ignore[arg-type]
    except Exception as error:
        found.append(str(error))
    found[2] = [str(found[2].weight), list(found[2].place)]
    return [list(entry) for entry in found[:2]] + found[2:]


async def test_what_a_process_is_given_and_gives_back(stage: Stage) -> None:
    one, two, weighed, read, added, mapped, died, lost, a_lambda, a_generator, climbed, held = await stage.played(
        several
    )
    assert one[0] == two[0] != os.getpid()
    assert one[1:] == ["where", "it/0/where", 1]
    assert two[1:] == ["where#2", "it/0/where#2", 1]
    assert weighed == ["1.75", [3, "c"]]
    assert (read, added, mapped) == (13, 30, [2, 3])
    assert died == ["second time", "second time"]
    assert lost == ["LostError", "parcel: gone", "parcel"]
    assert a_lambda[0] == a_generator[0] == "PayloadError"
    assert climbed == {"height": 2}
    assert "pickle" in held
    failed = {record["path"]: record for record in stage.records("step.failed")}
    assert "exit code 7" in failed["die"]["data"]["error"]["message"]
    assert "enough" in failed["die#2"]["data"]["error"]["message"]
    # Its effect has happened, so no restart repeats it; what was raised there is told as it was there.
    assert failed["give"]["facts"]["final"] is True
    assert "process_steps.py" in failed["lose"]["data"]["error"]["traceback"]
    assert not lives(one[0])


@pytest.mark.parametrize("how", ["timeout", "cancel", "engine"])
async def test_a_process_is_killed_by_a_timeout_a_cancel_and_the_end_of_the_engine(
    stage: Stage, tmp_path: Path, how: str
) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        # The process is there by then, so that none is too slow for the timeout.
        await ctx.step(where)
        if how == "timeout":
            await ctx.step(hang, str(tmp_path), timeout=1)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ctx.branch("b").step, hang, str(tmp_path))
                stage.done.append(await wait_for_one(tmp_path))
                if how == "cancel":
                    scope.cancel()

    async def body(engine: Engine) -> None:
        handle = await engine.start(a, id="it")
        pid = await wait_for_one(tmp_path)
        assert lives(pid)
        if how == "timeout":
            with pytest.raises(ActivityFailedError, match="took longer than 1 s"):
                await handle.result()
            assert not lives(pid)
        elif how == "cancel":
            await handle.result()
            assert not lives(pid)

    await stage.life(body, a, settings=Settings(drain_within=0.1))
    assert not lives(await wait_for_one(tmp_path))


PROGRAM = """
import sys, trio
from engine import Context, Engine, activity
from tests.activities.process_steps import hang

@activity(name="a")
async def a(ctx: Context, folder: str) -> None:
    await ctx.step(hang, folder)

async def main() -> None:
    async with Engine.open(sys.argv[1] + "/j.db", a) as engine:
        await (await engine.start(a, sys.argv[1])).result()

if __name__ == "__main__":
    trio.run(main)
"""


def test_a_process_ends_when_its_engine_is_killed(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    engine = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=root)
    try:
        until(lambda: list(tmp_path.glob("*.txt")))
    finally:
        engine.kill()
        engine.wait()
    (file,) = tmp_path.glob("*.txt")
    pid = int(file.stem)
    try:
        until(lambda: not lives(pid))
    finally:
        # One that does not end by itself must not go on for ever.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_a_function_that_a_process_cannot_import_is_refused(stage: Stage) -> None:
    @step(name="local", process=True)
    def local() -> None: ...

    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        await ctx.step(local)

    with pytest.raises(ActivityFailedError, match="outside of other functions"):
        await stage.played(a)


def test_a_coroutine_function_is_none_for_a_process() -> None:
    with pytest.raises(DefinitionError, match="plain function"):

        @step(process=True)
        async def wrong() -> None: ...


def test_a_step_for_a_process_stays_callable() -> None:
    assert add(1, 2) == 3
    assert Scales(1).read(2) == 3
