"""Restarts of several children: `rest_for_one` and `one_for_all`, undisturbed, and with something in the middle."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.actors import (
    Backoff,
    ChildSpec,
    DeadLetter,
    Down,
    EndReason,
    Intensity,
    Mailbox,
    RestartType,
    Strategy,
    SupervisionEvent,
    SupervisorSpec,
    open_supervisor,
    watch,
)
from engine.errors import (
    ActorStoppedError,
    ChildRunningError,
    ChildStartError,
    RestartIntensityError,
)

REST, ALL = Strategy.REST_FOR_ONE, Strategy.ONE_FOR_ALL
TRANSIENT, TEMPORARY = RestartType.TRANSIENT, RestartType.TEMPORARY

both = pytest.mark.parametrize("strategy", [REST, ALL])


class BrokenError(Exception):
    pass


def states(supervisor: Any) -> dict[str, str]:
    return {child.id: child.state for child in supervisor.which_children()}


def restarts(supervisor: Any) -> dict[str, int]:
    return {child.id: child.restarts for child in supervisor.which_children()}


async def crash(supervisor: Any, path: str) -> None:
    """Has the actor crash, and waits until all has come to rest."""
    supervisor.registry[path].tell(BrokenError())
    await wait_all_tasks_blocked()


class Nth:
    """What an actor awaits before it is ready: something else at its n-th start than at the others."""

    def __init__(self, *numbers: int, does: Callable[[], Awaitable[object]]) -> None:
        self.starts = 0
        self._numbers = numbers
        self._does = does

    async def __call__(self) -> object:
        self.starts += 1
        if self.starts in self._numbers:
            return await self._does()
        return None


async def fail() -> None:
    raise BrokenError


async def ignore() -> bool:
    return False


# ------------------------------------------------------------------------------------------------ the two strategies


@pytest.mark.parametrize(
    ("strategy", "log"),
    [
        (REST, ["d returns", "c returns", "b begins", "c begins", "d begins"]),
        (ALL, ["d returns", "c returns", "a returns", "a begins", "b begins", "c begins", "d begins"]),
    ],
)
async def test_the_others_are_stopped_in_reverse_and_all_are_started_again_in_order(
    strategy: Strategy, log: list[str], puppet: Any
) -> None:
    async def prepare() -> None: ...

    children = [puppet.slow(name, prepare) for name in "abcd"]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await wait_all_tasks_blocked()
        puppet.log.clear()
        await crash(supervisor, "/b")
        assert [line for line in puppet.log if "prepares" not in line] == log
        assert states(supervisor) == dict.fromkeys("abcd", "running")


@both
async def test_each_is_gone_before_the_next_is_asked_and_ready_before_the_next_is_started(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    async def actor(
        mailbox: Mailbox[Any], name: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        puppet.log.append(f"{name} prepares")
        await trio.sleep(1)
        puppet.log.append(f"{name} is ready")
        task_status.started()
        async for message in mailbox:
            raise message
        puppet.log.append(f"{name} is asked")
        await trio.sleep(1)
        puppet.log.append(f"{name} is gone")

    children = [ChildSpec(name, actor, name) for name in "abc"]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        puppet.log.clear()
        supervisor.registry["/a"].tell(BrokenError())  # type: ignore[union-attr]
        await trio.sleep(10)
        assert puppet.log == [
            *(f"{name} is {what}" for name in "cb" for what in ("asked", "gone")),
            *(f"{name} {what}" for name in "abc" for what in ("prepares", "is ready")),
        ]


@both
async def test_those_stopped_before_are_started_too(strategy: Strategy, puppet: Any) -> None:
    async def once(mailbox: Mailbox[Any]) -> None:
        puppet.log.append("ran")

    children = [puppet.spec("a"), puppet.spec("b"), ChildSpec("c", once, restart=TRANSIENT)]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("b")
        assert states(supervisor) == {"a": "running", "b": "stopped", "c": "stopped"}
        await crash(supervisor, "/a")
        assert states(supervisor) == {"a": "running", "b": "running", "c": "stopped"}
        assert puppet.log.count("ran") == 2


async def test_rest_for_one_leaves_stopped_those_before(puppet: Any) -> None:
    async with open_supervisor(strategy=REST, children=[puppet.spec("a"), puppet.spec("b")]) as supervisor:
        await supervisor.terminate_child("a")
        await crash(supervisor, "/b")
        assert states(supervisor) == {"a": "stopped", "b": "running"}


@both
async def test_temporary_ones_are_stopped_and_left_out(strategy: Strategy, puppet: Any) -> None:
    children = [puppet.spec("a"), puppet.spec("b", restart=TEMPORARY), puppet.spec("c")]
    letters: list[DeadLetter] = []
    async with open_supervisor(strategy=strategy, children=children, on_dead_letter=letters.append) as supervisor:
        await wait_all_tasks_blocked()
        supervisor.registry["/b"].tell("waits")  # type: ignore[union-attr]
        supervisor.registry["/b"].tell("waits")  # type: ignore[union-attr]
        with watch(supervisor.registry["/b"]) as downs:
            await crash(supervisor, "/a")
            assert [down.reason async for down in downs] == [EndReason.SHUTDOWN]
        assert states(supervisor) == {"a": "running", "c": "running"}
        assert list(supervisor.registry) == ["/a", "/c"]
        assert [letter.path for letter in letters] == ["/b"] * len(letters)


@both
async def test_the_crash_of_a_temporary_child_is_no_restart(strategy: Strategy, puppet: Any) -> None:
    children = [puppet.spec("a", restart=TEMPORARY), puppet.spec("b")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await crash(supervisor, "/a")
        assert restarts(supervisor) == {"b": 0}


@both
async def test_a_transient_child_that_returns_leaves_the_others_alone(strategy: Strategy, puppet: Any) -> None:
    async def once(mailbox: Mailbox[Any]) -> None:
        await mailbox.receive()

    children = [ChildSpec("a", once, restart=TRANSIENT), puppet.spec("b")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        supervisor.registry["/a"].tell("go")  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "stopped", "b": "running"}
        assert restarts(supervisor) == {"a": 0, "b": 0}


@both
async def test_a_permanent_child_that_returns_takes_its_group_with_it(strategy: Strategy, puppet: Any) -> None:
    async def once(mailbox: Mailbox[Any]) -> None:
        await mailbox.receive()

    async with open_supervisor(strategy=strategy, children=[ChildSpec("a", once), puppet.spec("b")]) as supervisor:
        supervisor.registry["/a"].tell("go")  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        assert restarts(supervisor) == {"a": 1, "b": 1}


async def test_children_that_were_added_are_restarted_in_the_order_in_which_they_were(puppet: Any) -> None:
    async with open_supervisor(strategy=REST, children=[puppet.spec("a")]) as supervisor:
        for name in "cb":
            await supervisor.start_child(puppet.spec(name))
        await wait_all_tasks_blocked()
        await crash(supervisor, "/c")
        assert restarts(supervisor) == {"a": 0, "c": 1, "b": 1}
        assert [child.id for child in supervisor.which_children()] == ["a", "c", "b"]


@both
async def test_one_that_does_not_end_in_its_allowance_is_cancelled(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a"), puppet.spec("b", shutdown=3)]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        supervisor.registry["/b"].tell(trio.sleep_forever)  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        with watch(supervisor.registry["/b"]) as downs:
            supervisor.registry["/a"].tell(BrokenError())  # type: ignore[union-attr]
            assert (await downs.receive()).reason is EndReason.KILLED
            assert trio.current_time() == pytest.approx(3)
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "running", "b": "running"}


@both
async def test_after_it_the_children_are_stopped_in_reverse_as_before(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a"), puppet.slow("b", trio.lowlevel.checkpoint), ChildSpec("c", lingering(3, puppet), "c")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await wait_all_tasks_blocked()
        supervisor.registry["/a"].tell(BrokenError())  # type: ignore[union-attr]
        await trio.sleep(5)
        puppet.log.clear()
    assert puppet.log == ["c is gone", "b returns", "a returns"]


@both
async def test_messages_survive_the_restart_of_a_sibling_in_order(strategy: Strategy) -> None:
    taken: dict[str, list[object]] = {"a": [], "b": []}

    async def actor(mailbox: Mailbox[Any], name: str) -> None:
        async for message in mailbox:
            if isinstance(message, Exception):
                raise message
            if callable(message):
                await message()
            else:
                taken[name].append(message)
                mailbox.reply(message)

    letters: list[DeadLetter] = []
    children = [ChildSpec(name, actor, name) for name in "ab"]
    async with open_supervisor(strategy=strategy, children=children, on_dead_letter=letters.append) as supervisor:
        a: Any = supervisor.registry["/a"]
        b: Any = supervisor.registry["/b"]
        stop = trio.Event()
        b.tell(stop.wait)
        await wait_all_tasks_blocked()
        b.tell(1)
        a.tell(BrokenError())
        a.tell(2)
        await wait_all_tasks_blocked()
        b.tell(3)
        stop.set()
        assert await b.ask(4) == 4
        assert await a.ask(5) == 5
        assert taken == {"a": [2, 5], "b": [1, 3, 4]}
        assert letters == []


@both
async def test_messages_for_a_stopped_one_wait_from_the_moment_in_which_it_is_to_be_started_again(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    letters: list[DeadLetter] = []
    children = [puppet.spec("a", backoff=Backoff(10, jitter=0)), puppet.spec("b")]
    async with open_supervisor(strategy=strategy, children=children, on_dead_letter=letters.append) as supervisor:
        b: Any = supervisor.registry["/b"]
        await supervisor.terminate_child("b")
        b.tell("too early")
        await crash(supervisor, "/a")
        b.tell("in time")
        with watch(b) as downs:
            await trio.sleep(11)
            with pytest.raises(trio.WouldBlock):
                downs.receive_nowait()  # it was not `gone`: it was to come back
        assert "b got in time" in puppet.log
        assert [letter.message for letter in letters] == ["too early"]


@both
async def test_refs_stay_good_over_the_restart_of_a_sibling(strategy: Strategy, puppet: Any) -> None:
    async with open_supervisor(strategy=strategy, children=[puppet.spec("a"), puppet.spec("b")]) as supervisor:
        before = dict(supervisor.registry)
        await crash(supervisor, "/a")
        assert dict(supervisor.registry) == before
        b: Any = before["/b"]
        assert await b.ask(puppet.Ask()) == "b"


@both
async def test_supervisors_are_stopped_and_started_with_their_siblings(strategy: Strategy, puppet: Any) -> None:
    below = SupervisorSpec("s", children=[puppet.spec("b")])
    letters: list[DeadLetter] = []
    async with open_supervisor(
        strategy=strategy, children=[puppet.spec("a"), below], on_dead_letter=letters.append
    ) as supervisor:
        await wait_all_tasks_blocked()
        ref: Any = supervisor.registry["/s"]
        b: Any = supervisor.registry["/s/b"]
        await ref.start_child(puppet.spec("added"))
        await crash(supervisor, "/a")
        assert states(ref) == {"b": "running"}
        assert await b.ask(puppet.Ask()) == "b"
        assert puppet.log.count("b begins") == 2
        assert letters == []


@both
async def test_a_supervisor_that_gives_up_takes_its_group_with_it(strategy: Strategy, puppet: Any) -> None:
    below = SupervisorSpec("s", intensity=Intensity(0), children=[puppet.spec("b")])
    async with open_supervisor(strategy=strategy, children=[below, puppet.spec("a")]) as supervisor:
        await crash(supervisor, "/s/b")
        assert restarts(supervisor) == {"s": 1, "a": 1}


@both
async def test_below_the_top_it_is_the_same(strategy: Strategy, puppet: Any) -> None:
    children = [SupervisorSpec("s", strategy=strategy, children=[puppet.spec("a"), puppet.spec("b")])]
    async with open_supervisor(children=children) as supervisor:
        await crash(supervisor, "/s/a")
        assert restarts(supervisor.registry["/s"]) == {"a": 1, "b": 1}
        assert restarts(supervisor) == {"s": 0}


@both
async def test_the_events_are_the_crash_and_then_each_restart(strategy: Strategy, puppet: Any) -> None:
    events: list[SupervisionEvent] = []
    error = BrokenError()
    async with open_supervisor(
        strategy=strategy, children=[puppet.spec("a"), puppet.spec("b")], on_event=events.append
    ) as supervisor:
        supervisor.registry["/a"].tell(error)  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
    assert events == [
        SupervisionEvent("crashed", "/a", "a", error, 0),
        SupervisionEvent("restarted", "/a", "a", None, 1),
        SupervisionEvent("restarted", "/b", "b", None, 1),
    ]


@both
async def test_a_sibling_s_end_is_told_to_its_watchers_once(strategy: Strategy, puppet: Any) -> None:
    async with open_supervisor(strategy=strategy, children=[puppet.spec("a"), puppet.spec("b")]) as supervisor:
        b = supervisor.registry["/b"]
        downs = watch(b)
        await crash(supervisor, "/a")
    with downs:
        assert [down async for down in downs] == [Down(b, EndReason.SHUTDOWN, None)] * 2


# ------------------------------------------------------------------------------------------------ intensity


@both
async def test_a_restart_of_several_counts_once_against_the_intensity(strategy: Strategy, puppet: Any) -> None:
    children = [puppet.spec(name) for name in "abc"]
    async with open_supervisor(strategy=strategy, intensity=Intensity(2), children=children) as supervisor:
        await crash(supervisor, "/a")
        await crash(supervisor, "/a")
        assert restarts(supervisor) == dict.fromkeys("abc", 2)


@both
async def test_one_restart_too_many_stops_all_in_reverse(strategy: Strategy, puppet: Any) -> None:
    children = [puppet.spec(name) for name in "abc"]
    error = BrokenError()
    with pytest.raises(RestartIntensityError) as caught:
        await puppet.supervise(("/b", error), strategy=strategy, intensity=Intensity(0), children=children)
    assert caught.value.child == "b"
    assert caught.value.__cause__ is error
    assert puppet.log[3:] == ["c returns", "a returns"]


@both
async def test_crashes_of_the_same_moment_are_one_restart_if_one_group_holds_both(
    strategy: Strategy, puppet: Any
) -> None:
    go = trio.Event()

    async def actor(mailbox: Mailbox[Any], name: str) -> None:
        puppet.log.append(f"{name} begins")
        if not go.is_set():
            await go.wait()
            raise BrokenError
        await mailbox.stopping.wait()

    children = [ChildSpec(name, actor, name) for name in "ab"]
    intensity = Intensity(1 if strategy is ALL else 2)  # as OTP's: b's crash may come first, and is a group of its own
    async with open_supervisor(strategy=strategy, intensity=intensity, children=children) as supervisor:
        await wait_all_tasks_blocked()
        go.set()
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "running", "b": "running"}


# ------------------------------------------------------------------------------------------------ failing to start


@both
async def test_failing_to_start_in_it_is_a_further_restart_which_is_tried_at_once(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    prepare = Nth(2, 3, does=fail)
    children = [puppet.spec("a"), puppet.slow("b", prepare), puppet.spec("c")]
    async with open_supervisor(strategy=strategy, intensity=Intensity(3), children=children) as supervisor:
        await wait_all_tasks_blocked()
        await crash(supervisor, "/a")
        assert prepare.starts == 4
        assert trio.current_time() == pytest.approx(0, abs=0.1)
        assert states(supervisor) == dict.fromkeys("abc", "running")
        # Those before the one that failed are left alone by rest_for_one; those after it had not been started.
        assert restarts(supervisor) == {"a": 1 if strategy is REST else 3, "b": 3, "c": 1}


@both
async def test_failing_to_start_in_it_can_be_one_too_many(strategy: Strategy, puppet: Any) -> None:
    prepare = Nth(2, 3, does=fail)
    children = [puppet.spec("a"), puppet.slow("b", prepare), puppet.spec("c")]
    with pytest.raises(RestartIntensityError) as caught:
        await puppet.supervise(("/a", BrokenError()), strategy=strategy, intensity=Intensity(2), children=children)
    assert caught.value.child == "b"
    assert prepare.starts == 3
    assert puppet.log.count("c begins") == 1


@both
async def test_calls_are_served_while_it_fails_again_and_again(strategy: Strategy, puppet: Any) -> None:
    prepare = Nth(*range(2, 10_000), does=fail)
    async with open_supervisor(strategy=strategy, intensity=Intensity(math.inf)) as supervisor:
        ref = await supervisor.start_child(puppet.slow("a", prepare))
        ref.tell(BrokenError())
        while prepare.starts < 10:
            await trio.lowlevel.checkpoint()
        assert states(supervisor) == {"a": "restarting"}
        await supervisor.start_child(puppet.spec("b"))
        await supervisor.terminate_child("a")
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "stopped", "b": "running"}


@both
async def test_one_that_returns_before_it_is_ready_in_it_is_kept_stopped_and_the_next_is_started(
    strategy: Strategy, puppet: Any
) -> None:
    children = [puppet.spec("a"), puppet.slow("b", Nth(2, does=ignore)), puppet.spec("c")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await crash(supervisor, "/a")
        assert states(supervisor) == {"a": "running", "b": "stopped", "c": "running"}


# ------------------------------------------------------------------------------------------------ backoff


@both
async def test_the_others_are_stopped_at_once_and_wait_for_the_backoff(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a", backoff=Backoff(10, jitter=0)), puppet.spec("b")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await wait_all_tasks_blocked()
        supervisor.registry["/a"].tell(BrokenError())  # type: ignore[union-attr]
        await trio.sleep(9)
        assert states(supervisor) == {"a": "restarting", "b": "restarting"}
        assert puppet.log[2:] == ["b returns"]
        assert supervisor.count_children().active == 0
        await supervisor.start_child(puppet.spec("c"))  # calls are served
        await trio.sleep(2)
        assert states(supervisor) == dict.fromkeys("abc", "running")
        assert restarts(supervisor) == {"a": 1, "b": 1, "c": 0}


@both
async def test_stopping_does_not_wait_for_the_backoff_of_a_group(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a", backoff=Backoff(10, jitter=0)), puppet.spec("b")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await crash(supervisor, "/a")
    assert trio.current_time() == pytest.approx(0, abs=0.1)
    assert puppet.log.count("b begins") == 1


@both
async def test_terminating_the_one_with_the_backoff_starts_the_others_at_once(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a", backoff=Backoff(10, jitter=0)), puppet.spec("b")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await crash(supervisor, "/a")
        await supervisor.terminate_child("a")
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "stopped", "b": "running"}
        assert trio.current_time() == pytest.approx(0, abs=0.1)


@both
async def test_one_that_was_terminated_before_its_turn_is_gone_to_who_watches_it_then(
    puppet: Any, strategy: Strategy, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a", backoff=Backoff(10, jitter=0)), puppet.spec("b")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await crash(supervisor, "/a")
        await supervisor.terminate_child("b")
        with watch(supervisor.registry["/b"]) as downs:
            assert downs.receive_nowait().reason is EndReason.GONE
        with watch(supervisor.registry["/a"]) as downs, pytest.raises(trio.WouldBlock):
            downs.receive_nowait()  # it comes back


@both
async def test_each_failing_start_waits_for_the_next_backoff(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    prepare = Nth(2, 3, does=fail)
    children = [puppet.slow("a", prepare, backoff=Backoff(1, factor=3, jitter=0)), puppet.spec("b")]
    async with open_supervisor(strategy=strategy, intensity=Intensity(3), children=children) as supervisor:
        ref: Any = supervisor.registry["/a"]
        ref.tell(BrokenError())
        assert await ref.ask(puppet.Ask(), timeout=None) == "a"
        assert trio.current_time() == pytest.approx(1 + 3 + 9)


@both
async def test_a_sibling_is_not_held_up_by_its_own_backoff(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a"), puppet.spec("b", backoff=Backoff(10, jitter=0))]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await wait_all_tasks_blocked()
        await crash(supervisor, "/a")
        assert states(supervisor) == {"a": "running", "b": "running"}
        assert trio.current_time() == pytest.approx(0, abs=0.1)


# ------------------------------------------------------------------------------------------------ in the middle of it


def lingering(seconds: float, puppet: Any) -> Callable[..., Any]:
    """An actor that takes that long to stop."""

    async def actor(mailbox: Mailbox[Any], name: str) -> None:
        puppet.log.append(f"{name} begins")
        await mailbox.stopping.wait()
        await trio.sleep(seconds)
        puppet.log.append(f"{name} is gone")

    return actor


@both
async def test_a_child_terminated_while_it_stops_for_a_sibling_stays_stopped(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a"), ChildSpec("b", lingering(3, puppet), "b"), puppet.spec("c")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await wait_all_tasks_blocked()
        await crash(supervisor, "/a")
        await supervisor.terminate_child("b")
        assert trio.current_time() == pytest.approx(3)
        assert states(supervisor)["b"] == "stopped"
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "running", "b": "stopped", "c": "running"}


@both
async def test_a_child_terminated_before_its_turn_stays_stopped_and_its_messages_are_dead_letters(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a"), ChildSpec("b", lingering(3, puppet), "b"), puppet.spec("c")]
    letters: list[DeadLetter] = []
    async with open_supervisor(strategy=strategy, children=children, on_dead_letter=letters.append) as supervisor:
        await wait_all_tasks_blocked()
        await crash(supervisor, "/a")
        supervisor.registry["/c"].tell("waits")  # type: ignore[union-attr]
        await supervisor.terminate_child("c")
        assert trio.current_time() == pytest.approx(0, abs=0.1)
        assert letters == [DeadLetter("/c", "waits", "stopped")]
        await trio.sleep(5)
        assert states(supervisor) == {"a": "running", "b": "running", "c": "stopped"}


@both
async def test_a_child_that_is_terminated_when_its_sibling_crashes_stays_stopped(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a"), ChildSpec("b", lingering(3, puppet), "b")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor, trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        nursery.start_soon(supervisor.terminate_child, "b")
        await wait_all_tasks_blocked()
        supervisor.registry["/a"].tell(BrokenError())  # type: ignore[union-attr]
        await trio.sleep(2)
        assert puppet.log.count("a begins") == 1  # each is gone before the first is started
        await trio.sleep(2)
        assert states(supervisor) == {"a": "running", "b": "stopped"}


@both
@pytest.mark.parametrize("call", ["restart_child", "delete_child"])
async def test_a_child_whose_turn_has_not_come_counts_as_restarting(
    strategy: Strategy, call: str, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a", backoff=Backoff(10, jitter=0)), puppet.spec("b")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("b")
        await crash(supervisor, "/a")
        assert states(supervisor) == {"a": "restarting", "b": "restarting"}
        for id in "ab":
            with pytest.raises(ChildRunningError):
                await getattr(supervisor, call)(id)


@both
async def test_a_child_that_is_being_started_when_its_sibling_crashes_is_started_again_and_its_caller_waits(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    prepare = Nth(1, does=trio.sleep_forever)
    refs: list[Any] = []

    async def start(supervisor: Any) -> None:
        refs.append(await supervisor.start_child(puppet.slow("b", prepare, shutdown=2)))

    async with (
        open_supervisor(strategy=strategy, children=[puppet.spec("a")]) as supervisor,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(start, supervisor)
        await wait_all_tasks_blocked()
        await crash(supervisor, "/a")
        await trio.sleep(3)
        assert prepare.starts == 2
        assert await refs[0].ask(puppet.Ask()) == "b"
        assert restarts(supervisor) == {"a": 1, "b": 0}


@both
async def test_a_start_that_is_cancelled_before_its_turn_comes_again_keeps_nothing(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a", backoff=Backoff(10, jitter=0))]
    async with open_supervisor(strategy=strategy, children=children) as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start_child, puppet.slow("b", trio.sleep_forever, shutdown=2))
        await wait_all_tasks_blocked()
        supervisor.registry["/a"].tell(BrokenError())  # type: ignore[union-attr]
        await trio.sleep(3)
        assert states(supervisor) == {"a": "restarting", "b": "restarting"}
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        assert states(supervisor) == {"a": "running"}
    assert puppet.log.count("b prepares") == 1


@both
async def test_a_start_that_is_cancelled_while_the_child_stops_for_a_sibling_keeps_nothing(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    async with open_supervisor(strategy=strategy, children=[puppet.spec("a")]) as supervisor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.start_child, puppet.slow("b", trio.sleep_forever))
            await wait_all_tasks_blocked()
            await crash(supervisor, "/a")
            nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "running"}


@both
async def test_a_start_fails_by_itself_though_a_sibling_is_being_restarted(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    go = trio.Event()

    async def prepare() -> None:
        await go.wait()
        raise BrokenError

    async with open_supervisor(strategy=strategy, children=[puppet.spec("a")]) as supervisor:

        async def start() -> None:
            with pytest.raises(ChildStartError):
                await supervisor.start_child(puppet.slow("b", prepare))

        async def start_another() -> None:
            await supervisor.start_child(ChildSpec("c", lingering(3, puppet), "c"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await wait_all_tasks_blocked()
            nursery.start_soon(start_another)
            await wait_all_tasks_blocked()
            await crash(supervisor, "/a")  # c is asked to stop first, and takes its time
            go.set()
            await wait_all_tasks_blocked()
            assert states(supervisor) == {"a": "restarting", "c": "running"}
        await trio.sleep(5)
        assert states(supervisor) == {"a": "running", "c": "running"}


@both
async def test_a_close_while_the_others_are_stopped_stops_what_is_left_and_starts_nothing(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [ChildSpec("0", lingering(1, puppet), "0"), puppet.spec("a"), ChildSpec("b", lingering(3, puppet), "b")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await wait_all_tasks_blocked()
        await crash(supervisor, "/a")
    assert trio.current_time() == pytest.approx(4)
    assert puppet.log[3:] == ["b is gone", "0 is gone"]


@both
async def test_a_close_while_one_is_started_again_asks_it_to_stop(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec("a"), puppet.slow("b", Nth(2, does=trio.sleep_forever), shutdown=2), puppet.spec("c")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await wait_all_tasks_blocked()
        await crash(supervisor, "/a")
        assert states(supervisor) == {"a": "running", "b": "restarting", "c": "restarting"}
    assert trio.current_time() == pytest.approx(2)
    assert puppet.log.count("c begins") == 1
    assert puppet.log[-1] == "a returns"


@both
async def test_a_close_settles_a_start_whose_turn_had_not_come_again(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    errors: list[Exception] = []

    async def start(supervisor: Any) -> None:
        try:
            await supervisor.start_child(puppet.slow("b", trio.sleep_forever, shutdown=0))
        except ActorStoppedError as error:
            errors.append(error)

    children = [puppet.spec("a", backoff=Backoff(10, jitter=0))]
    async with trio.open_nursery() as nursery, open_supervisor(strategy=strategy, children=children) as supervisor:
        nursery.start_soon(start, supervisor)
        await wait_all_tasks_blocked()
        await crash(supervisor, "/a")
    assert len(errors) == 1
    assert trio.current_time() == pytest.approx(0, abs=0.1)


@both
async def test_an_ask_of_one_whose_turn_has_not_come_fails_when_the_supervisor_ends(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    errors: list[Exception] = []

    async def ask(ref: Any) -> None:
        try:
            await ref.ask(puppet.Ask(), timeout=None)
        except ActorStoppedError as error:
            errors.append(error)

    children = [puppet.spec("a", backoff=Backoff(10, jitter=0)), ChildSpec("b", lingering(0, puppet), "b")]
    async with trio.open_nursery() as nursery, open_supervisor(strategy=strategy, children=children) as supervisor:
        await crash(supervisor, "/a")
        for path in ("/a", "/b"):
            nursery.start_soon(ask, supervisor.registry[path])
        await wait_all_tasks_blocked()
    assert len(errors) == 2


@both
async def test_another_crash_while_one_is_started_again_restarts_all_of_the_group_once_more(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    async def prepare() -> None:
        await trio.sleep(2)

    children = [puppet.spec("a"), puppet.slow("b", prepare)]
    async with open_supervisor(strategy=strategy, intensity=Intensity(2), children=children) as supervisor:
        await crash(supervisor, "/a")
        await trio.sleep(1)
        await crash(supervisor, "/a")
        await trio.sleep(10)
        assert states(supervisor) == {"a": "running", "b": "running"}
        assert restarts(supervisor) == {"a": 2, "b": 2}


@both
async def test_another_crash_in_the_middle_can_be_one_too_many(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    async def prepare() -> None:
        await trio.sleep(2)

    async def block() -> None:
        children = [puppet.spec("a"), puppet.slow("b", prepare)]
        async with open_supervisor(strategy=strategy, children=children) as supervisor:
            await crash(supervisor, "/a")
            await trio.sleep(1)
            await crash(supervisor, "/a")
            await trio.sleep_forever()

    with pytest.raises(RestartIntensityError):
        await block()


async def test_a_crash_before_the_group_makes_it_larger(puppet: Any, autojump_clock: MockClock) -> None:
    children = [
        puppet.spec("a"),
        puppet.spec("b"),
        ChildSpec("c", lingering(3, puppet), "c"),
        ChildSpec("d", lingering(3, puppet), "d"),
    ]
    async with open_supervisor(strategy=REST, intensity=Intensity(2), children=children) as supervisor:
        await wait_all_tasks_blocked()
        await crash(supervisor, "/b")
        await crash(supervisor, "/a")
        await trio.sleep(10)
        assert restarts(supervisor) == dict.fromkeys("abcd", 1)
        assert puppet.log[4:6] == ["d is gone", "c is gone"]
        assert sorted(puppet.log[6:]) == ["a begins", "b begins", "c begins", "d begins"]


@both
async def test_what_a_marked_child_does_by_itself_is_no_restart_more(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    async def crashing_when_asked(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        raise BrokenError

    children = [
        puppet.spec("a"),
        puppet.spec("b"),
        ChildSpec("c", crashing_when_asked),
        ChildSpec("d", lingering(3, puppet), "d"),
    ]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        await wait_all_tasks_blocked()
        await crash(supervisor, "/a")
        await crash(supervisor, "/b")  # while d takes its time
        await trio.sleep(5)
        assert restarts(supervisor) == dict.fromkeys("abcd", 1)


@both
async def test_a_supervisor_cancelled_in_the_middle_of_it_leaves_nothing(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    async def stubborn(mailbox: Mailbox[Any]) -> None:
        await trio.sleep_forever()

    children = [puppet.spec("a"), ChildSpec("b", stubborn, shutdown=math.inf), puppet.spec("c")]
    below = SupervisorSpec("s", strategy=strategy, children=children, shutdown=3)
    async with open_supervisor(children=[below]) as supervisor:
        await wait_all_tasks_blocked()
        await crash(supervisor, "/s/a")
        assert states(supervisor.registry["/s"]) == {"a": "restarting", "b": "running", "c": "restarting"}
        await supervisor.terminate_child("s")
        assert trio.current_time() == pytest.approx(3)
        assert states(supervisor) == {"s": "stopped"}
        assert states(supervisor.registry["/s"]) == dict.fromkeys("abc", "stopped")
        await supervisor.restart_child("s")
        assert states(supervisor.registry["/s"]) == dict.fromkeys("abc", "running")


@both
async def test_a_call_to_a_supervisor_below_waits_while_that_is_restarted_for_a_sibling(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    below = SupervisorSpec("s", children=[ChildSpec("b", lingering(3, puppet), "b")])
    async with open_supervisor(strategy=strategy, children=[puppet.spec("a"), below]) as supervisor:
        await wait_all_tasks_blocked()
        await crash(supervisor, "/a")
        ref: Any = supervisor.registry["/s"]
        with pytest.raises(ActorStoppedError):
            ref.start_child_soon(puppet.spec("soon"))
        await ref.start_child(puppet.spec("c"))
        assert trio.current_time() == pytest.approx(3)
        assert states(ref) == {"b": "running", "c": "running"}


async def test_a_call_to_a_temporary_supervisor_that_is_stopped_for_a_sibling_fails(
    puppet: Any, autojump_clock: MockClock
) -> None:
    below = SupervisorSpec("s", restart=TEMPORARY, children=[ChildSpec("b", lingering(3, puppet), "b")])
    async with open_supervisor(strategy=ALL, children=[puppet.spec("a"), below]) as supervisor:
        await wait_all_tasks_blocked()
        await crash(supervisor, "/a")
        ref: Any = supervisor.registry["/s"]
        with pytest.raises(ActorStoppedError):
            await ref.start_child(puppet.spec("c"))


# ------------------------------------------------------------------------------------------------ while the list starts


@both
async def test_a_crash_while_the_list_is_started_is_followed_when_it_has_been(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    runs = 0

    async def crashing_once(mailbox: Mailbox[Any]) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise BrokenError
        await mailbox.stopping.wait()

    async def prepare() -> None:
        await trio.sleep(1)

    children = [ChildSpec("a", crashing_once), puppet.slow("b", prepare), puppet.spec("c")]
    async with open_supervisor(strategy=strategy, children=children) as supervisor:
        assert trio.current_time() == pytest.approx(1)
        assert states(supervisor)["a"] == "restarting"
        await trio.sleep(5)
        assert states(supervisor) == dict.fromkeys("abc", "running")
        assert restarts(supervisor) == dict.fromkeys("abc", 1)
        assert puppet.log.count("b begins") == 2


async def test_crashes_while_the_list_is_started_are_one_restart_if_one_group_holds_them(
    puppet: Any, autojump_clock: MockClock
) -> None:
    def crashing_once(after: float) -> Callable[..., Any]:
        runs = 0

        async def actor(mailbox: Mailbox[Any]) -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                await trio.sleep(after)
                raise BrokenError
            await mailbox.stopping.wait()

        return actor

    async def prepare() -> None:
        await trio.sleep(1)

    children = [
        ChildSpec("a", crashing_once(0)),
        puppet.slow("b", prepare),
        ChildSpec("c", crashing_once(0.5)),
        puppet.slow("d", prepare),
    ]
    async with open_supervisor(strategy=ALL, intensity=Intensity(1), children=children) as supervisor:
        await trio.sleep(10)
        assert restarts(supervisor) == dict.fromkeys("abcd", 1)


@both
async def test_a_crash_while_the_list_is_started_does_not_hide_that_it_fails_to(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    async def crashing(mailbox: Mailbox[Any]) -> None:
        raise BrokenError

    async def prepare() -> None:
        await trio.sleep(1)
        raise BrokenError

    with pytest.raises(ChildStartError) as caught:
        async with open_supervisor(
            strategy=strategy, children=[ChildSpec("a", crashing), puppet.slow("b", prepare), puppet.spec("c")]
        ):
            puppet.log.append("the block begins")
    assert caught.value.child == "b"
    assert puppet.log == ["b prepares"]


@both
async def test_giving_up_before_all_of_the_list_has_started_does_not_wait_for_it(
    strategy: Strategy, puppet: Any, autojump_clock: MockClock
) -> None:
    async def crashing(mailbox: Mailbox[Any]) -> None:
        raise BrokenError

    children = [ChildSpec("a", crashing), puppet.slow("b", trio.sleep_forever, shutdown=0), puppet.spec("c")]
    with pytest.raises(RestartIntensityError):
        async with open_supervisor(strategy=strategy, intensity=Intensity(0), children=children):
            puppet.log.append("the block begins")
    assert puppet.log == ["b prepares"]


async def test_a_child_of_the_list_that_a_call_started_before_its_turn_is_not_started_twice(
    puppet: Any, autojump_clock: MockClock
) -> None:
    async def prepare() -> None:
        await trio.sleep(1)

    async def take_longer() -> None:
        await trio.sleep(2)

    children = [puppet.slow("a", prepare), puppet.spec("b"), puppet.slow("c", take_longer), puppet.spec("d")]
    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start_child, SupervisorSpec("s", children=children))
        await wait_all_tasks_blocked()
        below: Any = supervisor.registry["/s"]
        await below.restart_child("b")
        nursery.start_soon(below.restart_child, "c")
        await wait_all_tasks_blocked()
        await below.delete_child("d")
        await trio.sleep(3)
        assert states(below) == dict.fromkeys("abc", "running")
        assert [line for line in puppet.log if "begins" in line] == ["b begins", "a begins", "c begins"]
