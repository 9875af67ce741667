"""The engine's own tree: what is recorded of its actors' failures, and what becomes of it when its root gives up."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from engine import ActivityStatus, Context, Engine, Event, RestartIntensityError, activity, subscriber
from engine.audit import Ledger
from engine.subscribers import subscription

TREE = ["/activities", "/subscribers", "/timers", "/bridges", "/gateway"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal.db")


@activity(name="waiting")
async def waiting(ctx: Context) -> str:
    await ctx.sleep(3600)
    return "woken"


@subscriber("numbers", name="listener")
async def listener(event: Event[int]) -> None: ...


def crashing(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    """Makes subscribers' actors crash so many times, as a fault of Playbill's own would; at once one after another."""
    left = times
    real = subscription.Subscription._handle_next

    async def handle_or_crash(subscribed: subscription.Subscription, channel: Any) -> bool:
        nonlocal left
        if left:
            left -= 1
            raise ZeroDivisionError("a fault")
        return await real(subscribed, channel)

    monkeypatch.setattr(subscription.Subscription, "_handle_next", handle_or_crash)
    monkeypatch.setattr("engine.subscribers.subscriptions.RESTARTS", None)


async def open_and_wait(path: str) -> None:
    """An engine with an activity that waits, until it ends by itself."""
    async with Engine.open(path, waiting, listener) as engine:
        await engine.start(waiting, id="w-1")
        await trio.sleep_forever()


async def open_and_fail(path: str) -> None:
    """An engine whose block raises on being cancelled."""
    async with Engine.open(path, listener):
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("the block's own")


def records(path: str, *kinds: str) -> list[tuple[str, str, str | None, dict[str, Any], Any]]:
    """Stream, kind, name, facts and data of the records of these kinds, or of all."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT stream, kind, name, facts, data FROM records ORDER BY seq").fetchall()
    return [
        (stream, kind, name, orjson.loads(facts), None if data is None else orjson.loads(data))
        for stream, kind, name, facts, data in rows
        if not kinds or kind in kinds
    ]


async def test_a_crash_is_recorded_with_who_why_and_traceback_and_the_restart_after_it(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing(monkeypatch, 1)
    handled = trio.Event()

    @subscriber("numbers", name="mailer")
    async def mailer(event: Event[int]) -> None:
        handled.set()

    async with Engine.open(path, mailer) as engine:
        await engine.publish("numbers", 1)
        with trio.fail_after(30):
            await handled.wait()
    crashed, restarted = records(path, "actor.crashed", "actor.restarted")
    stream, kind, name, facts, data = crashed
    assert (stream, kind, name) == ("/subscribers/mailer", "actor.crashed", "/subscribers/mailer")
    assert facts == {"restarts": 0, "error": "builtins.ZeroDivisionError"}
    assert data["error"]["message"] == "a fault"
    assert 'raise ZeroDivisionError("a fault")' in data["error"]["traceback"]
    assert restarted == ("/subscribers/mailer", "actor.restarted", "/subscribers/mailer", {"restarts": 1}, None)


async def test_the_root_that_gives_up_ends_the_block_with_the_child_that_failed(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing(monkeypatch, 1_000)
    with pytest.raises(RestartIntensityError) as caught, trio.fail_after(30):
        await open_and_wait(path)
    assert caught.value.child == "subscribers"
    below = caught.value.__cause__
    assert isinstance(below, RestartIntensityError)
    assert below.child == "listener"
    assert isinstance(below.__cause__, ZeroDivisionError)


async def test_the_root_that_gives_up_leaves_escalations_on_record_with_their_tracebacks(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing(monkeypatch, 1_000)
    with pytest.raises(RestartIntensityError), trio.fail_after(30):
        await open_and_wait(path)
    below, above = records(path, "supervisor.escalated")
    assert below[:3] == ("/engine", "supervisor.escalated", "/subscribers")
    assert below[3] == {"child": "listener", "restarts": 10, "error": "builtins.ZeroDivisionError"}
    assert 'raise ZeroDivisionError("a fault")' in below[4]["error"]["traceback"]
    assert above[2] == "/"
    assert above[3]["child"] == "subscribers"
    assert above[3]["error"].endswith(".RestartIntensityError")


async def test_the_root_that_gives_up_parks_everything_and_closes_the_journal(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crashing(patch, 1_000)
        with pytest.raises(RestartIntensityError), trio.fail_after(30):
            await open_and_wait(path)
    assert records(path)[-1][1] == "engine.closed"
    assert records(path)[-1][3] == {"running": 1}
    with Ledger.open(path) as ledger:
        assert ledger.verify().ok
    async with Engine.open(path, waiting, listener) as engine:
        assert await engine.handle("w-1").status() is ActivityStatus.RUNNING
    resumed = [facts for *_, facts, _ in records(path, "activity.resumed")]
    assert [facts["clean"] for facts in resumed] == [True]


async def test_an_error_of_the_block_s_own_is_not_hidden_by_the_root_s_end(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing(monkeypatch, 1_000)
    with pytest.raises(RestartIntensityError) as caught, trio.fail_after(30):
        await open_and_fail(path)
    assert isinstance(caught.value.__context__, KeyError)


async def test_the_tree_has_a_supervisor_for_each_room(path: str) -> None:
    async with Engine.open(path, listener):
        names = {task.name for task in tasks()}
    assert names >= {*TREE, "/subscribers/listener"}


def tasks() -> list[trio.lowlevel.Task]:
    """All tasks of this run."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    waiting, found = [root], []
    while waiting:
        found.append(waiting.pop())
        waiting.extend(task for nursery in found[-1].child_nurseries for task in nursery.child_tasks)
    return found
