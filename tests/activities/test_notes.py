"""What an activity leaves word of, and what others read of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

from engine import ActivityFailedError, ActivityNotFoundError, Context, Engine, PayloadError, Restart, activity
from engine.testing import crash_everywhere
from tests.activities.stage import Stage
from tests.activities.test_side_by_side import at_second, everywhere, work


async def notes_of(stage: Stage, id: str = "it") -> Mapping[str, Any]:
    async def body(engine: Engine) -> Mapping[str, Any]:
        return await engine.handle(id).notes()

    found: Mapping[str, Any] = await stage.life(body)
    return found


async def test_the_last_note_of_each_name_is_read(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.note("progress", 1)
        await ctx.note("who", {"name": "Ada", "years": [36]})
        await ctx.note("progress", 2)

    await stage.played(a)
    assert await notes_of(stage) == {"progress": 2, "who": {"name": "Ada", "years": [36]}}
    assert stage.story() == ["note.added note", "note.added note#2", "note.added note#3", "activity.completed"]
    (first, *_) = stage.records("note.added")
    assert (first["name"], first["data"]) == ("progress", {"value": 1})


async def test_notes_of_nobody_are_not_found(stage: Stage) -> None:
    with pytest.raises(ActivityNotFoundError):
        await notes_of(stage, "nobody")


async def test_a_note_is_made_once_whatever_record_kills_the_activity(autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> list[str]:
        await ctx.note("progress", "begun")
        found = await ctx.step(work, 1, "worked")
        await ctx.note("progress", found)
        return [found]

    assert (await crash_everywhere(a)).result == ["worked"]


async def test_another_note_than_the_recorded_one_does_not_fit(stage: Stage) -> None:
    says = ["one"]

    @activity(name="a")
    async def a(ctx: Context) -> None:
        await ctx.note("progress", says[0])
        await ctx.step(work, 0)

    await stage.killed(a, at=("note.added", "note"), told=True)
    says[0] = "other"
    with pytest.raises(AssertionError, match="note with other arguments"):
        await stage.played(a)


async def test_a_failure_of_which_only_a_note_was_made_is_tried_anew(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="a", restart=Restart(1, initial=0.1, jitter=0))
    async def a(ctx: Context) -> str:
        await ctx.note("failed", "not yet")
        try:
            found = await ctx.step(at_second)
        except Exception:
            await ctx.note("failed", "yes")
            raise
        await ctx.note("failed", found)
        return found

    assert set(await everywhere(stage, a)) == {"second time"}
    (crashed,) = stage.records("activity.crashed")
    assert crashed["facts"]["superseded"] == ["at-second", "note#2"]
    assert await notes_of(stage) == {"failed": "second time"}


@pytest.mark.parametrize(("name", "value"), [("a/b", 1), ("", 1), ("a", object())])
async def test_what_is_no_note_is_refused_and_not_recorded(stage: Stage, name: str, value: object) -> None:
    @activity(name="a", restart=Restart(0))
    async def a(ctx: Context) -> None:
        await ctx.note(name, value)

    with pytest.raises(ActivityFailedError) as failed:
        await stage.played(a)
    assert stage.story() == ["activity.failed"]
    assert isinstance(failed.value.__cause__, Exception)
    assert PayloadError.__name__ in failed.value.type or "DefinitionError" in failed.value.type
