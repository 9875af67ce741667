"""What blocks the loop, or ignores being cancelled, is found with its path and its stack.

Nothing here waits for time to pass: what blocks goes on when the watchdog's line is in the log, and what ignores being
cancelled ends when it was found.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
import trio.testing

from engine import Context, Engine, Event, Settings, activity, subscriber, watchdog
from engine.actors import ChildSpec, Mailbox, Supervisor, SupervisorRef, open_supervisor
from engine.watchdog import Found, path_of, watch_stopping, watching

PATIENCE = 60.0
"""Seconds after which a test gives up; none of them takes that long."""


class Line(logging.Handler):
    """Waits for the watchdog's line in the log, and blocks the calling thread until it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.there = threading.Event()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
        self.there.set()

    def block_until_it_is_there(self) -> None:
        assert self.there.wait(PATIENCE), "the watchdog found nothing"


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    watchdog.logger.addHandler(line)
    yield line
    watchdog.logger.removeHandler(line)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal.db")


def records(path: str, kind: str) -> list[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Stream, name, facts and data of the records of a kind."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT stream, name, facts, data FROM records WHERE kind = ?", (kind,)).fetchall()
    return [(stream, name, orjson.loads(facts), orjson.loads(data)) for stream, name, facts, data in rows]


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 -- what is waited for is told by no event, only by the journal
            await trio.sleep(0.01)


class Told:
    """What the loop was told."""

    def __init__(self) -> None:
        self.found: list[Found] = []
        self._any = trio.Event()

    def __call__(self, found: Found) -> None:
        self.found.append(found)
        self._any.set()

    async def one(self) -> Found:
        with trio.fail_after(PATIENCE):
            await self._any.wait()
        (found,) = self.found
        return found


# ------------------------------------------------------------------------------------------------ blocking


async def test_an_actor_that_blocks_is_logged_while_it_does_and_told_when_it_goes_on(line: Line) -> None:
    async def block(mailbox: Mailbox[Any]) -> None:
        line.block_until_it_is_there()
        await mailbox.stopping.wait()

    told = Told()
    with watching(0.02, told):
        async with open_supervisor() as supervisor:
            await supervisor.start_child(ChildSpec("culprit", block))
            found = await told.one()
    assert (found.what, found.path, found.task) == ("stalled", "/culprit", "/culprit")
    assert "line.block_until_it_is_there()" in found.stack
    assert "unrolled_run" not in found.stack  # Trio's own frames say nothing
    assert found.seconds > 0
    assert line.text.startswith("/culprit has kept the loop for ")
    assert "line.block_until_it_is_there()" in line.text


async def test_a_task_in_an_actor_s_nursery_counts_as_that_actor_s(line: Line) -> None:
    async def block() -> None:
        line.block_until_it_is_there()

    async def have_others_block(mailbox: Mailbox[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(block, name="a part of it")
        await mailbox.stopping.wait()

    told = Told()
    with watching(0.02, told):
        async with open_supervisor() as supervisor:
            await supervisor.start_child(ChildSpec("culprit", have_others_block))
            found = await told.one()
    assert (found.path, found.task) == ("/culprit", "a part of it")


async def test_a_task_that_is_no_actor_s_is_found_without_a_path(line: Line) -> None:
    told = Told()
    with watching(0.02, told):
        line.block_until_it_is_there()
        assert (await told.one()).path is None


async def test_a_loop_that_is_only_idle_is_not_reported() -> None:
    told = Told()
    answers = 0

    class Counting(watchdog._Watchdog):
        def _look(self, asked: float) -> None:
            raise AssertionError("the loop was taken for a blocked one")

    def answered() -> None:
        nonlocal answers
        answers += 1

    thread = Counting(2 * PATIENCE, told)
    thread._half = 0.001
    thread._answered = _Answers(answered)
    thread.start()
    await until(lambda: answers >= 3)
    thread.end()
    assert not thread.is_alive()


class _Answers(threading.Event):
    """Counts the loop's answers, and waits for each as long as it takes."""

    def __init__(self, answered: Callable[[], None]) -> None:
        super().__init__()
        self._told = answered

    def set(self) -> None:
        self._told()
        super().set()

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(PATIENCE)


async def test_nothing_is_watched_where_nothing_is_to_be() -> None:
    before = threading.active_count()
    with watching(math.inf, Told()):
        assert threading.active_count() == before


async def test_the_thread_is_gone_with_the_block() -> None:
    with watching(1.0, Told()):
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "playbill-watchdog"]
    assert not thread.is_alive()


async def test_the_main_task_has_no_path() -> None:
    assert path_of(trio.lowlevel.current_task()) is None


# ------------------------------------------------------------------------------------------------ ignoring


@contextlib.asynccontextmanager
async def one_actor(
    act: Callable[[Mailbox[Any]], Coroutine[Any, Any, None]], found: Callable[[Found], None], **options: Any
) -> AsyncIterator[Supervisor]:
    """A watched tree of one actor, `/deaf`, with an allowance of three seconds."""
    async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
        nursery.start_soon(functools.partial(watch_stopping, supervisor, found, **options))
        await supervisor.start_child(ChildSpec("deaf", act, shutdown=3.0))
        yield supervisor


async def go_on(mailbox: Mailbox[Any]) -> None:
    """For 20 seconds after it was asked to end, whether it is cancelled or not."""
    await mailbox.stopping.wait()
    with trio.CancelScope(shield=True):
        await trio.sleep(20)


async def test_an_actor_that_ignores_being_cancelled_is_found_after_its_allowance(
    autojump_clock: trio.testing.MockClock, line: Line
) -> None:
    end, told = trio.Event(), Told()

    async def go_on_until_it_is_found(mailbox: Mailbox[Any]) -> None:
        with trio.CancelScope(shield=True):
            await end.wait()

    def found(overdue: Found) -> None:
        told(overdue)
        end.set()

    async with one_actor(go_on_until_it_is_found, found):
        pass
    overdue = await told.one()
    assert (overdue.what, overdue.path) == ("overdue", "/deaf")
    assert "await end.wait()" in overdue.stack
    assert 3.0 <= trio.current_time() <= 3.0 + 2 * watchdog.GRACE
    assert line.text.startswith("/deaf was cancelled, and goes on ")


async def test_each_run_that_ignores_being_cancelled_is_found_once_while_its_tree_lives_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    found: list[Found] = []
    async with one_actor(go_on, found.append) as supervisor:
        for number in (1, 2):
            await trio.sleep(100)
            await supervisor.terminate_child("deaf")
            assert len(found) == number
            assert 0 <= found[-1].seconds - watchdog.GRACE <= watchdog.GRACE
            await supervisor.restart_child("deaf")


async def test_one_that_was_cancelled_before_its_allowance_is_found_by_then(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told = Told()
    async with one_actor(go_on, told, due=lambda run: run.asked) as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.terminate_child, "deaf")
        await told.one()
        assert trio.current_time() <= 2 * watchdog.GRACE


async def test_an_actor_that_ends_within_its_allowance_is_not_reported(autojump_clock: trio.testing.MockClock) -> None:
    async def take_its_time(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(2.9)

    told = Told()
    async with one_actor(take_its_time, told):
        pass
    assert told.found == []


# ------------------------------------------------------------------------------------------------ in an engine


def handled_by(name: str, handle: Callable[[], None]) -> Any:
    @subscriber("numbers", name=name)
    async def listener(event: Event[int]) -> None:
        handle()

    return listener


async def test_a_subscriber_that_blocks_is_a_record_in_its_own_stream(path: str, line: Line) -> None:
    listener = handled_by("listener", line.block_until_it_is_there)
    async with Engine.open(path, listener, settings=Settings(stall_after=0.02)) as engine:
        await engine.publish("numbers", 1)
        await until(lambda: records(path, "actor.stalled"))
    ((stream, name, facts, data),) = records(path, "actor.stalled")
    assert stream == name == "/subscribers/listener"
    assert facts["seconds"] > 0
    assert facts["task"]
    assert "block_until_it_is_there" in data["stack"]


async def test_an_activity_that_blocks_is_a_record_of_the_engine_s(path: str, line: Line) -> None:
    @activity(name="blocking")
    async def blocking(ctx: Context) -> None:
        line.block_until_it_is_there()

    async with Engine.open(path, blocking, settings=Settings(stall_after=0.02)) as engine:
        await (await engine.start(blocking, id="b-1")).result()
        await until(lambda: records(path, "actor.stalled"))
    ((stream, name, _, data),) = records(path, "actor.stalled")
    assert (stream, name) == ("/engine", "/activities/b-1")
    assert "in blocking" in data["stack"]


async def test_a_task_whose_name_is_no_unicode_is_recorded_all_the_same(path: str, line: Line) -> None:
    async def block() -> None:
        line.block_until_it_is_there()

    @activity(name="blocking")
    async def blocking(ctx: Context) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(block, name="\udcff")

    async with Engine.open(path, blocking, settings=Settings(stall_after=0.02)) as engine:
        await (await engine.start(blocking, id="b-1")).result()
        await until(lambda: records(path, "actor.stalled"))
    ((_, name, facts, _),) = records(path, "actor.stalled")
    assert (name, facts["task"]) == ("/activities/b-1", "\\udcff")


async def test_what_blocks_and_is_no_actor_is_not_recorded(path: str, line: Line) -> None:
    async with Engine.open(path, settings=Settings(stall_after=0.02)):
        line.block_until_it_is_there()
    assert records(path, "actor.stalled") == []


async def test_an_activity_that_ignores_the_engine_s_end_is_a_record(
    path: str, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "GRACE", 0.01)
    runs = trio.Event()

    @activity(name="deaf")
    async def deaf(ctx: Context) -> None:
        with trio.CancelScope(shield=True):
            runs.set()
            await until(line.there.is_set)

    async with Engine.open(path, deaf, settings=Settings(drain_within=0.0, stall_after=math.inf)) as engine:
        await engine.start(deaf, id="d-1")
        await runs.wait()
    ((stream, name, facts, data),) = records(path, "actor.overdue")
    assert (stream, name, facts["task"]) == ("/engine", "/activities/d-1", "/activities/d-1")
    assert "await until(line.there.is_set)" in data["stack"]
    with closing(sqlite3.connect(path)) as connection:
        (last,) = connection.execute("SELECT kind FROM records ORDER BY seq DESC LIMIT 1").fetchone()
    assert last == "engine.closed"


async def test_a_subscriber_that_ignores_its_end_in_a_living_engine_is_a_record(
    path: str, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "GRACE", 0.01)
    runs = trio.Event()

    @subscriber("numbers", name="deaf")
    async def deaf(event: Event[int]) -> None:
        with trio.CancelScope(shield=True):
            runs.set()
            await until(line.there.is_set)

    monkeypatch.setattr("engine.runtime.open_supervisor", kept := _Kept())
    async with Engine.open(path, deaf, settings=Settings(drain_within=0.0, stall_after=math.inf)) as engine:
        await engine.publish("numbers", 1)
        await runs.wait()
        subscribers = kept.root.registry["/subscribers"]
        assert isinstance(subscribers, SupervisorRef)
        await subscribers.terminate_child("deaf")
        await until(lambda: records(path, "actor.overdue"))
        await engine.publish("numbers", 2)
    ((stream, name, _, _),) = records(path, "actor.overdue")
    assert stream == name == "/subscribers/deaf"


class _Kept:
    """Opens supervisors, and keeps the last one: what an engine's tree is."""

    root: Supervisor

    @contextlib.asynccontextmanager
    async def __call__(self, **options: Any) -> AsyncIterator[Supervisor]:
        async with open_supervisor(**options) as self.root:
            yield self.root


async def test_a_cancelled_block_s_end_is_watched_too(path: str, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE", 0.01)

    async def go_on() -> None:
        with trio.CancelScope(shield=True):
            await until(line.there.is_set)

    @subscriber("numbers", name="deaf")
    async def deaf(event: Event[int]) -> None:
        scope.cancel()
        await go_on()

    with trio.CancelScope() as scope:
        async with Engine.open(path, deaf, settings=Settings(drain_within=0.0, stall_after=math.inf)) as engine:
            await engine.publish("numbers", 1)
            await trio.sleep_forever()
    ((stream, _, _, data),) = records(path, "actor.overdue")
    assert stream == "/subscribers/deaf"
    assert "go_on" in data["stack"]
