"""`playbill tree` tells of the supervision tree from outside, also while its engine lives."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import Result

from engine import Context, Engine, Event, activity, subscriber
from engine.actors import Backoff
from engine.cli.tree import TreeRow, changes, is_owned
from engine.errors import RestartIntensityError
from engine.subscribers import subscription

Playbill = Callable[..., Result]


@activity(name="tell")
async def tell(ctx: Context, number: int) -> None:
    await ctx.emit("numbers.told", number)


@activity(name="sleep")
async def sleep(ctx: Context) -> None:
    await ctx.sleep(600)


runs = 0


async def first() -> None: ...


async def second() -> None: ...


@activity(name="drift")
async def drift(ctx: Context) -> None:
    """Asks for another step in each run, which no history fits."""
    global runs
    runs += 1
    await ctx.step(first if runs == 1 else second)
    if runs == 1:
        raise ValueError("run it again")


@subscriber("numbers.#", name="listener")
async def listen(event: Event[int]) -> None: ...


@subscriber("numbers.told", "other.*", name="second")
async def listen_too(event: Event[int]) -> None: ...


DEFINITIONS = (tell, sleep, drift, listen, listen_too)


def tree(playbill: Playbill) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The engine, and the nodes by their paths."""
    result = playbill("tree", "--journal", "j.db", "--json")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    return shown["engine"], {node["path"]: node for node in shown["tree"]}


def shown_lines(playbill: Playbill) -> dict[str, str]:
    """What stands beside each path for people, in one space where there are several."""
    result = playbill("tree", "--journal", "j.db")
    assert result.exit_code == 0, result.stderr
    lines = [" ".join(line.split()).partition(" ") for line in result.stdout.splitlines()]
    return {path: rest for path, _, rest in lines}


def cursor_of(name: str) -> int:
    with closing(sqlite3.connect("file:j.db?mode=ro", uri=True)) as database:
        (cursor,) = database.execute("SELECT cursor FROM subscriptions WHERE name = ?", (name,)).fetchone()
        return int(cursor)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110 -- what is waited for is told by no event, only by the journal
            await trio.sleep(0.01)


async def test_a_live_engine_s_tree_is_told_and_nothing_of_it_is_disturbed(playbill: Playbill) -> None:
    async with Engine.open("j.db", *DEFINITIONS) as engine:
        for number in range(5):
            await engine.run(tell, number)
        for number in range(3):
            await engine.start(sleep, id=f"sleep-{number}")
        await until(lambda: cursor_of("listener") > 0)
        owner, nodes = tree(playbill)
        assert (owner["alive"], owner["pid"], owner["closed"]) == (True, os.getpid(), None)
        subscribers = ["/subscribers", "/subscribers/listener", "/subscribers/second"]
        assert list(nodes) == ["/", "/activities", *subscribers, "/timers", "/bridges", "/gateway"]
        assert {nodes[path]["state"] for path in nodes if path not in subscribers} == {"running"}
        assert nodes["/subscribers/listener"]["state"] == "running"
        assert sum(nodes["/activities"]["activities"].values()) == 3
        listener = nodes["/subscribers/listener"]
        assert listener["cursor"] == cursor_of("listener")
        assert listener["patterns"] == ["numbers.#"]
        assert [listener[what] for what in ("crashes", "restarts", "escalations")] == [0, 0, 0]
        lines = shown_lines(playbill)
        assert lines["/"].startswith(f"running process {os.getpid()} of ")
        assert lines["/activities"].startswith("running 3 running")
        assert lines["/subscribers/listener"].startswith("running numbers.# ")
        # It goes on, and still owns the journal.
        await engine.run(tell, 6)
        assert tree(playbill)[0]["alive"] is True


async def test_after_the_engine_closed_its_tree_is_told_as_the_last(playbill: Playbill) -> None:
    async with Engine.open("j.db", *DEFINITIONS) as engine:
        await engine.start(sleep)
    owner, nodes = tree(playbill)
    assert owner["alive"] is False
    assert owner["closed"] is not None
    assert sum(nodes["/activities"]["activities"].values()) == 1
    assert {node["state"] for node in nodes.values()} == {"stopped"}
    lines = shown_lines(playbill)
    assert lines["/"].startswith("stopped no owner; closed ")
    assert lines["/activities"].startswith("stopped 1 to be resumed")


async def test_blocked_activities_are_counted_apart(playbill: Playbill) -> None:
    global runs
    runs = 0
    async with Engine.open("j.db", *DEFINITIONS) as engine:
        await engine.start(drift, id="drift-1")
        await engine.start(sleep)
        await until(lambda: tree(playbill)[1]["/activities"]["activities"].get("blocked") == 1)
        assert shown_lines(playbill)["/activities"].startswith("running 1 running, 1 blocked")


class Crashing:
    """Makes the actor of a subscriber crash so many times, as a fault of Playbill's own would."""

    def __init__(self, name: str, times: int) -> None:
        self._name = name
        self._left = times
        self._real = subscription.Subscription._handle_next

    async def __call__(self, subscribed: subscription.Subscription, channel: Any) -> bool:
        if subscribed.subscriber.name == self._name and self._left:
            self._left -= 1
            raise ZeroDivisionError("a fault")
        return await self._real(subscribed, channel)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            subscription.Subscription, "_handle_next", lambda subscribed, channel: self(subscribed, channel)
        )


async def test_crashes_and_restarts_are_counted_for_whom_they_befell(
    playbill: Playbill, monkeypatch: pytest.MonkeyPatch
) -> None:
    Crashing("second", 2).install(monkeypatch)
    async with Engine.open("j.db", *DEFINITIONS):
        await until(lambda: tree(playbill)[1]["/subscribers/second"]["restarts"] == 2)
        _, nodes = tree(playbill)
        counted = {path: (node["crashes"], node["restarts"], node["escalations"]) for path, node in nodes.items()}
        assert counted.pop("/subscribers/second") == (2, 2, 0)
        assert set(counted.values()) == {(0, 0, 0)}
    async with Engine.open("j.db", *DEFINITIONS):
        assert tree(playbill)[1]["/subscribers/second"]["crashes"] == 0


async def test_a_supervisor_that_gave_up_is_told_with_the_child_that_failed_too_often(
    playbill: Playbill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.subscribers.subscriptions.RESTARTS", None)  # no wait between two restarts
    Crashing("second", 1_000).install(monkeypatch)
    with pytest.raises(RestartIntensityError), trio.fail_after(30):
        async with Engine.open("j.db", *DEFINITIONS):
            await trio.sleep_forever()
    _, nodes = tree(playbill)
    escalations = {path: node["escalations"] for path, node in nodes.items()}
    assert escalations == {
        "/": 1,
        "/activities": 0,
        "/subscribers": 1,
        "/subscribers/listener": 0,
        "/subscribers/second": 1,
        "/timers": 0,
        "/bridges": 0,
        "/gateway": 0,
    }
    assert nodes["/subscribers/second"]["crashes"] == nodes["/subscribers/second"]["restarts"] + 1


async def test_an_actor_that_waits_for_its_restart_is_restarting(
    playbill: Playbill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.subscribers.subscriptions.RESTARTS", Backoff(3600.0, maximum=3600.0))
    Crashing("second", 1).install(monkeypatch)
    async with Engine.open("j.db", *DEFINITIONS):
        await until(lambda: tree(playbill)[1]["/subscribers/second"]["crashes"] == 1)
        assert tree(playbill)[1]["/subscribers/second"]["state"] == "restarting"
        assert tree(playbill)[1]["/subscribers"]["state"] == "running"


async def test_a_subscriber_of_which_nothing_was_recorded_since_the_opening_is_not_said_to_run(
    playbill: Playbill,
) -> None:
    async with Engine.open("j.db", *DEFINITIONS):
        assert tree(playbill)[1]["/subscribers/second"]["state"] == "running"  # since it was attached
    async with Engine.open("j.db", tell):
        assert tree(playbill)[1]["/subscribers/second"]["state"] is None


async def test_the_events_that_wait_for_a_subscriber_are_counted(playbill: Playbill) -> None:
    begun, go_on = trio.Event(), trio.Event()

    @subscriber("numbers.*", "playbill.activities.completed", name="slow")
    async def slow(event: Event[Any]) -> None:
        begun.set()
        await go_on.wait()

    async with Engine.open("j.db", tell, slow) as engine:
        await engine.publish("letters.a", 0)
        for number in range(3):
            await engine.publish("numbers.a", number)
        await engine.run(tell, 1)  # one event of its own, and its end
        await begun.wait()
        assert tree(playbill)[1]["/subscribers/slow"]["waiting"] == 5
        go_on.set()
        await until(lambda: tree(playbill)[1]["/subscribers/slow"]["waiting"] == 0)


@pytest.mark.parametrize(("kind", "column"), [("actor.stalled", "stalls"), ("actor.overdue", "overdue")])
async def test_who_blocked_the_loop_or_ignored_its_end_is_counted(playbill: Playbill, kind: str, column: str) -> None:
    async with Engine.open("j.db", *DEFINITIONS) as engine:
        for stream, path in (
            ("/subscribers/second", "/subscribers/second"),
            ("/engine", "/activities/a"),
            ("/engine", "/activities/b"),
        ):
            seq = engine._journal.append(stream, kind, name=path, facts={"seconds": 2.0, "task": path})
        await engine._journal.durable(seq)
        _, nodes = tree(playbill)
    counted = {path: node[column] for path, node in nodes.items() if node[column]}
    assert counted == {"/subscribers/second": 1, "/activities": 2}
    assert sum(node["stalls"] + node["overdue"] for node in nodes.values()) == 3


# ------------------------------------------------------------------------------------------------ following


async def test_following_shows_the_tree_again_when_it_has_changed(playbill: Playbill) -> None:
    async with Engine.open("j.db", *DEFINITIONS) as engine:
        shown = changes("j.db", lambda: None)
        first = await trio.to_thread.run_sync(next, shown)
        await engine.start(sleep)
        second = await trio.to_thread.run_sync(next, shown)
    third = await trio.to_thread.run_sync(next, shown)
    assert [running(tree) for tree in (first, second, third)] == [0, 1, 1]
    assert [tree.engine.alive for tree in (first, second, third)] == [True, True, False]


def running(shown: TreeRow) -> int:
    (node,) = [node for node in shown.tree if node.path == "/activities"]
    assert node.activities is not None
    return sum(node.activities.values())


async def test_following_shows_a_tree_that_does_not_change_once(playbill: Playbill) -> None:
    async with Engine.open("j.db", *DEFINITIONS):
        pass
    looks = 0

    class EnoughError(Exception):
        """The test has seen enough."""

    def pause() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise EnoughError

    following = changes("j.db", pause)
    next(following)
    with pytest.raises(EnoughError):
        next(following)
    assert looks == 3


# ------------------------------------------------------------------------------------------------ the owner


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, how)
        yield


def test_the_lock_is_what_tells_of_an_owner_and_is_not_taken(folder: Path) -> None:
    journal, lock = folder / "j.db", folder / "j.db.lock"
    assert is_owned(journal) is False
    assert not lock.exists()
    lock.write_text("{}")
    assert is_owned(journal) is False
    with locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
        assert is_owned(journal) is True
    assert is_owned(journal) is False
    with locked(lock, fcntl.LOCK_SH | fcntl.LOCK_NB):  # as another `tree` has it, for a moment
        assert is_owned(journal) is False
    with locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):  # so it was given back
        pass


def test_an_owner_is_found_by_whatever_link_the_journal_is_named(folder: Path) -> None:
    (folder / "link.db").symlink_to("j.db")
    with locked(folder / "j.db.lock", fcntl.LOCK_EX):
        assert is_owned(folder / "link.db") is True


async def test_an_engine_that_was_killed_is_told_as_gone(playbill: Playbill, folder: Path) -> None:
    async with Engine.open("j.db", *DEFINITIONS) as engine:
        await engine.run(tell, 1)
        # What a kill leaves, as of this instant: the file and its WAL.
        for suffix in ("", "-wal", ".lock"):
            (folder / f"killed.db{suffix}").write_bytes((folder / f"j.db{suffix}").read_bytes())
    result = playbill("tree", "--journal", "killed.db")
    assert " ended without closing it" in result.stdout


def test_a_journal_that_is_not_there_is_refused(playbill: Playbill, folder: Path) -> None:
    result = playbill("tree", "--journal", "none.db")
    assert result.exit_code == 2
    assert "there is no journal none.db" in result.stderr
    assert not (folder / "none.db.lock").exists()
