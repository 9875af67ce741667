"""At most so many activities run at a time; the others wait in the journal, the best of them next."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine import ActivityStatus, Context, Engine, IdConflictError, Settings, activity, step
from engine.testing.killing import Death
from tests.activities.stage import Stage

TWO = Settings(max_running=2)


class Yard:
    """Where activities work until they are let go, and note who came in."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.inside = 0
        self.most = 0
        self.gate = trio.Event()

    async def work(self, id: str) -> None:
        self.came.append(id)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.gate.wait()
            await trio.lowlevel.checkpoint()
        finally:
            self.inside -= 1


YARD: Yard


@pytest.fixture(autouse=True)
def _new_yard() -> None:
    global YARD
    YARD = Yard()


@activity(name="digs")
async def digs(ctx: Context) -> str:
    await ctx.step(_named(ctx.id))
    return ctx.id


def _named(id: str) -> Any:
    async def work() -> None:
        await YARD.work(id)

    return step(name="work")(work)


async def statuses(engine: Engine, *ids: str) -> list[str]:
    return [str(await engine.handle(id).status()) for id in ids]


async def test_more_than_may_run_wait_and_none_is_lost(stage: Stage) -> None:
    async def body(engine: Engine) -> list[str]:
        handles = [await engine.start(digs, id=id) for id in "abcde"]
        await trio.testing.wait_all_tasks_blocked()
        assert await statuses(engine, *"abcde") == ["running", "running", "pending", "pending", "pending"]
        assert len(engine._activities.live) == 2
        YARD.gate.set()
        return [await handle.result() for handle in handles]

    assert await stage.life(body, digs, settings=TWO) == list("abcde")
    assert YARD.most == 2
    assert sorted(YARD.came) == list("abcde")


async def test_the_higher_priority_goes_first_then_who_was_asked_for_first(stage: Stage) -> None:
    async def body(engine: Engine) -> None:
        priorities = [("a", 0), ("b", 0), ("c", 1), ("d", 7), ("e", 1)]
        handles = [await engine.start(digs, id=id, priority=priority) for id, priority in priorities]
        await trio.testing.wait_all_tasks_blocked()
        YARD.gate.set()
        for handle in handles:
            await handle.result()

    await stage.life(body, digs, settings=Settings(max_running=1))
    assert YARD.came == list("adceb")


async def test_no_more_run_after_a_restart_than_before_it(stage: Stage) -> None:
    async def first(engine: Engine) -> None:
        for id in "abcde":
            await engine.start(digs, id=id)
        await trio.testing.wait_all_tasks_blocked()

    async def second(engine: Engine) -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert len(engine._activities.live) == 2
        # Those that had begun are `running`, as far as they are recorded, and wait for nobody who came later.
        assert await statuses(engine, *"abcde") == ["running", "running", "pending", "pending", "pending"]
        YARD.gate.set()
        for id in "abcde":
            await engine.handle(id).result()

    await stage.life(first, digs, settings=Settings(max_running=2, drain_within=0))
    YARD.came.clear()
    await stage.life(second, digs, settings=TWO)
    assert sorted(YARD.came[:2]) == ["a", "b"]
    assert YARD.most == 2


async def test_those_that_an_engine_with_more_places_left_wait_for_theirs(stage: Stage) -> None:
    async def first(engine: Engine) -> None:
        for id in "abcde":
            await engine.start(digs, id=id, priority=1 if id == "e" else 0)
        await trio.testing.wait_all_tasks_blocked()

    async def second(engine: Engine) -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert len(engine._activities.live) == 2
        YARD.gate.set()
        for id in "abcde":
            await engine.handle(id).result()

    await stage.life(first, digs, settings=Settings(drain_within=0))
    YARD.came.clear()
    YARD.most = 0
    await stage.life(second, digs, settings=TWO)
    # Those that are taken on together begin in any order.
    assert sorted(YARD.came[:2]) == ["a", "e"]
    assert sorted(YARD.came[2:]) == ["b", "c", "d"]
    assert YARD.most == 2


async def test_one_that_is_pending_is_known_by_its_id(stage: Stage) -> None:
    async def body(engine: Engine) -> None:
        await engine.start(digs, id="a")
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(lambda: engine.start(digs, id="a"))
                    nursery.start_soon(lambda: engine.start(digs, id="b"))
        await trio.testing.wait_all_tasks_blocked()
        assert await statuses(engine, "a", "b") == ["running", "pending"]
        with pytest.raises(IdConflictError):
            await engine.start(other, id="b")
        YARD.gate.set()
        assert await engine.handle("b").result() == "b"

    await stage.life(body, digs, other, settings=Settings(max_running=1))
    assert [record["kind"] for record in stage.records(id="b")].count("command.accepted") == 1


@activity(name="other")
async def other(ctx: Context) -> None:
    pass


async def test_one_that_is_pending_survives_a_kill(stage: Stage) -> None:
    async def first(engine: Engine) -> None:
        await engine.start(digs, id="a")
        await engine.start(digs, id="b")
        await trio.sleep_forever()

    async def second(engine: Engine) -> str:
        YARD.gate.set()
        found: str = await engine.handle("b").result()
        return found

    death = Death(after=6)  # the records before: three of the engine's, the command and the start of `a`
    await stage.life(first, digs, settings=Settings(max_running=1), death=death)
    assert death.dead
    assert [record["kind"] for record in stage.records(id="b")] == ["command.accepted"]
    assert await stage.life(second, digs, settings=Settings(max_running=1)) == "b"


async def test_a_place_is_free_when_one_is_blocked_and_taken_when_it_is_resumed(stage: Stage) -> None:
    @activity(name="digs")
    async def changed(ctx: Context) -> str:
        await ctx.sleep(1)
        return ctx.id

    async def first(engine: Engine) -> None:
        await engine.start(digs, id="a")
        await engine.start(digs, id="b")
        await trio.sleep_forever()

    async def blocked(engine: Engine) -> None:
        assert await engine.handle("a").wait(ActivityStatus.BLOCKED)
        await engine.handle("b").wait(ActivityStatus.COMPLETED, ActivityStatus.BLOCKED)

    async def second(engine: Engine) -> None:
        await engine.start(digs, id="c")
        await trio.testing.wait_all_tasks_blocked()
        await engine.resume("a")
        await trio.testing.wait_all_tasks_blocked()
        assert len(engine._activities.live) == 1
        YARD.gate.set()
        assert await engine.handle("a").result() == "a"
        assert await engine.handle("c").result() == "c"

    one = Settings(max_running=1)
    YARD.gate.set()
    await stage.life(first, digs, settings=one, death=Death(at=("step.completed", "work")))
    await stage.life(blocked, changed, settings=one)
    YARD.gate = trio.Event()
    YARD.most = 0
    await stage.life(second, digs, settings=one)
    assert YARD.most == 1
