"""The program that `test_stop` asks to stop: an activity reserves, waits, and releases in a `finally:`.

    python stopping.py JOURNAL WORLD WAY SECONDS

`WAY` says what the program does about a signal: `receives` gets SIGTERM by Trio and cancels the engine's block;
`interrupted` leaves SIGINT to Python, which raises KeyboardInterrupt. Each effect adds a line to the file `WORLD`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import trio

from engine import Context, Engine, activity, current_step

world = Path()


def note(effect: str) -> None:
    with world.open("a", encoding="utf-8") as file:
        file.write(f"{effect} {current_step().idempotency_key}\n")


def reserve() -> None:
    note("reserve")


def release() -> None:
    note("release")


@activity(name="stop.hold")
async def hold(ctx: Context, seconds: float) -> str:
    await ctx.step(reserve)
    try:
        await ctx.sleep(seconds)
    finally:
        await ctx.step(release)
    return "held"


async def run(journal: str, seconds: float) -> None:
    async with Engine.open(journal, hold) as engine:
        handle = await engine.start(hold, seconds, id="hold-1")
        print(await handle.result(), flush=True)


async def run_until_asked(journal: str, seconds: float) -> None:
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:

            async def stop_when_asked() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_when_asked)
            await run(journal, seconds)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    world = Path(sys.argv[2])
    trio.run(run_until_asked if sys.argv[3] == "receives" else run, sys.argv[1], float(sys.argv[4]))
