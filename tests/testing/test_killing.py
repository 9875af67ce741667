"""Killing an engine at a record of its journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import Context, activity, current_step, step
from engine.testing.killing import Death
from tests.activities.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "it.db")


@activity(name="good")
async def good(ctx: Context, number: int) -> int:
    return number


@pytest.mark.parametrize("told", [False, True])
async def test_nothing_after_the_end_of_a_life_is_recorded_or_done(stage: Stage, told: bool) -> None:
    @step(name="again")
    async def again(number: int) -> int:
        stage.done.append(current_step().path)
        return number

    @activity(name="a")
    async def a(ctx: Context) -> int:
        try:
            return sum([await ctx.step(again, number) for number in range(3)])
        finally:
            await ctx.step(again, 9)

    await stage.killed(a, at=("step.completed", "again#2"), told=told)
    assert stage.story() == ["step.completed again", "step.completed again#2"]
    assert stage.done == ["again", "again#2"] + (["again#3"] if told else [])
    kinds = [record["kind"] for record in stage.records(id="/engine")]
    assert kinds == ["journal.created", "engine.opened", "definition.registered"]


async def test_a_start_is_not_parted_from_its_command(stage: Stage) -> None:
    death = Death(after=4)
    assert await stage.status(good, 1, death=death) is None
    assert death.dead
    assert [record["kind"] for record in stage.records()] == ["command.accepted", "activity.started"]
