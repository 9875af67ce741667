"""What each command does in each status, walked through the table that the engine reads; and commands to many."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine import (
    ActivityFilter,
    ActivityNotFoundError,
    ActivityStatus,
    CommandDeniedError,
    Context,
    Engine,
    Restart,
    Settings,
    activity,
    step,
)
from engine.activities.permitted import KEPT, REFUSED, SAME, TABLE
from tests.activities.stage import Stage

OVER = (ActivityStatus.COMPLETED, ActivityStatus.FAILED, ActivityStatus.CANCELLED, ActivityStatus.BLOCKED)
ONE_AT_A_TIME = Settings(max_running=1, drain_within=0)
CONTROLLED = ("cancel", "terminate", "pause", "resume")


@step(name="work")
async def work(seconds: float) -> None:
    await trio.sleep(seconds)


@activity(name="stands", restart=Restart(0))
async def stands(ctx: Context, how: str) -> None:
    """Comes to stand in the status that is wanted, and stays there for long."""
    if how == "failed":
        raise ValueError
    if how == "completed":
        return
    if how == "blocked":
        # No journal knows of this: at each run it asks for something else.
        await ctx.step(work, 0, name=f"asked-{trio.current_time():.0f}")
    try:
        await ctx.sleep(1000)
    finally:
        async with ctx.cleanup(within=None):
            await ctx.step(work, 500 if how == "cancelling" else 1)


async def brought_to(status: ActivityStatus, stage: Stage) -> None:
    """One life, or two, after which the activity `it` stands in a status."""

    async def first(engine: Engine) -> None:
        if status is ActivityStatus.PENDING:
            await engine.start(stands, "running", id="other")
        handle = await engine.start(stands, str(status), id="it")
        await trio.sleep(1)
        match status:
            case ActivityStatus.PAUSED:
                await handle.pause()
            case ActivityStatus.CANCELLING | ActivityStatus.CANCELLED:
                await handle.cancel()
        await trio.sleep(5)

    async def second(engine: Engine) -> None:
        await trio.sleep(1)

    await stage.life(first, stands, settings=ONE_AT_A_TIME)
    if status is ActivityStatus.BLOCKED:
        await stage.life(second, stands, settings=ONE_AT_A_TIME)


def cells() -> list[Any]:
    # Nothing is parked yet.
    return [
        pytest.param(command, status, id=f"{command}-{status}")
        for command in CONTROLLED
        for status in ActivityStatus
        if status is not ActivityStatus.WAITING
    ]


@pytest.mark.parametrize("owned", ["by an engine", "by nobody"])
@pytest.mark.parametrize(("command", "status"), cells())
async def test_a_command_does_what_the_table_says(
    stage: Stage, autojump_clock: trio.testing.MockClock, command: str, status: ActivityStatus, owned: str
) -> None:
    await brought_to(status, stage)
    effect = TABLE[command][status]

    async def give(engine: Engine) -> ActivityStatus:
        handle = engine.handle("it")
        await trio.sleep(1)
        assert await handle.status() is status
        if effect == REFUSED:
            with pytest.raises(CommandDeniedError, match=str(status)):
                await getattr(handle, command)(by="alice", reason="to see")
        else:
            await getattr(handle, command)(by="alice", reason="to see")
        return await handle.status()

    if owned == "by an engine":
        after = await stage.life(give, stands, settings=ONE_AT_A_TIME)
    else:
        async with Engine.open_idle(str(stage.journal)) as engine:
            after = await give(engine)
    (*_, recorded) = stage.records("command.accepted", "command.denied")
    assert recorded["kind"] == ("command.denied" if effect == REFUSED else "command.accepted")
    assert (recorded["facts"]["command"], recorded["by"], recorded["data"]) == (command, "alice", {"reason": "to see"})
    following = [record["kind"] for record in stage.records() if record["seq"] > recorded["seq"]]
    match effect:
        case "goes on" | "tried again":
            assert after is ActivityStatus.RUNNING
            assert following[0] == "activity.resumed"
        case str() if effect == KEPT:
            assert after is status
            assert following == ["activity.cancelling"]
        case str() if effect in (REFUSED, SAME):
            assert after is status
            assert [kind for kind in following if kind.startswith("activity.")] == []
        case _:
            assert after == effect
            assert following[0] == f"activity.{effect}"


async def test_a_command_to_an_id_that_there_is_not_is_refused_and_recorded(stage: Stage) -> None:
    async def body(engine: Engine) -> None:
        for command in CONTROLLED:
            with pytest.raises(ActivityNotFoundError):
                await getattr(engine, command)("nobody", by="alice")

    await stage.life(body, stands)
    denied = [record for record in stage.records(id="/engine") if record["kind"] == "command.denied"]
    assert [record["facts"]["command"] for record in denied] == list(CONTROLLED)
    assert {record["facts"]["target"] for record in denied} == {"nobody"}


async def test_a_blocked_one_that_was_cancelled_is_cancelled_when_it_runs_again(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="stands", restart=Restart(0))
    async def mended(ctx: Context, how: str) -> None:
        await ctx.step(work, 0, name="asked-0")
        await ctx.sleep(1000)

    async def cancel(engine: Engine) -> None:
        for _ in range(2):
            await engine.cancel("it")

    async def resume(engine: Engine) -> ActivityStatus:
        await engine.resume("it")
        return await engine.handle("it").wait(*OVER)

    await brought_to(ActivityStatus.BLOCKED, stage)
    await stage.life(cancel, stands)
    assert await stage.life(resume, mended) is ActivityStatus.CANCELLED
    # The first one counts.
    (cancelling,) = stage.records("activity.cancelling")
    assert cancelling["facts"]["kept"] is True


async def test_authorize_is_asked_for_every_command(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    asked: list[tuple[str, str | None]] = []

    def authorize(command: Any) -> bool | str:
        asked.append((command.kind, command.id))
        return command.kind == "start" or "only the owner may"

    async def body(engine: Engine) -> None:
        await engine.start(stands, "running", id="it")
        for command in CONTROLLED:
            with pytest.raises(CommandDeniedError, match="only the owner may"):
                await getattr(engine, command)("it")
        with pytest.raises(CommandDeniedError, match="only the owner may"):
            await engine.cancel(ActivityFilter())

    async with Engine.open(str(stage.journal), stands, authorize=authorize) as engine:
        await body(engine)
    assert asked == [("start", "it"), *((command, "it") for command in CONTROLLED), ("cancel", None)]


# ---------------------------------------------------------------------------------------------------- many


async def test_a_command_to_many_is_one_record_and_reaches_those_that_take_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> None:
        for number in range(5):
            await engine.start(stands, "running", id=f"a{number}", tags={"side": "odd" if number % 2 else "even"})
        await engine.start(stands, "completed", id="done", tags={"side": "even"})
        await trio.sleep(1)
        assert await engine.pause(ActivityFilter(tag=("side", "even")), by="alice", reason="recall") == 3
        statuses = [str(await engine.handle(f"a{number}").status()) for number in range(5)]
        assert statuses == ["paused", "running", "paused", "running", "paused"]
        assert await engine.cancel(ActivityFilter(status="paused")) == 3
        assert await engine.terminate(ActivityFilter(name="stands", status=["running", "cancelling"])) == 5
        assert await engine.resume(ActivityFilter(name="nothing")) == 0

    await stage.life(body, stands)
    commands = [record for record in stage.records(id="/engine") if record["kind"] == "command.accepted"]
    assert [command["facts"]["command"] for command in commands] == ["pause", "cancel", "terminate", "resume"]
    assert (commands[0]["by"], commands[0]["data"]) == ("alice", {"reason": "recall"})
    assert commands[0]["facts"]["selected"] == {"tag": ["side", "even"]}
    (paused,) = stage.records("activity.paused", id="a0")
    assert paused["facts"]["command"] == commands[0]["seq"]
    assert stage.records("command.denied", id="done") == []
