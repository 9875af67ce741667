"""The top supervisor: starting, stopping, ends, intensity, and what leaves the block."""

from __future__ import annotations

import contextvars
import math
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.actors import (
    Backoff,
    ChildSpec,
    ChildState,
    Down,
    EndReason,
    Intensity,
    Mailbox,
    RestartType,
    SupervisionEvent,
    Supervisor,
    SupervisorSpec,
    open_supervisor,
    watch,
)
from engine.errors import ActorCrashedError, ActorStoppedError, ChildStartError, RestartIntensityError

PERMANENT, TRANSIENT, TEMPORARY = RestartType.PERMANENT, RestartType.TRANSIENT, RestartType.TEMPORARY


class BrokenError(Exception):
    pass


def states(supervisor: Any) -> dict[str, str]:
    return {child.id: child.state for child in supervisor.which_children()}


async def fail() -> None:
    raise BrokenError


# ------------------------------------------------------------------------------------------------ start


async def test_children_start_in_order_each_ready_before_the_next(puppet: Any, autojump_clock: MockClock) -> None:
    async def prepare() -> None:
        await trio.sleep(1)
        puppet.log.append("ready")

    children = [puppet.slow("a", prepare), puppet.slow("b", prepare)]
    async with open_supervisor(children=children):
        assert puppet.log[:2] == ["a prepares", "ready"]
        assert puppet.log.index("b prepares") > 1
        assert trio.current_time() == pytest.approx(2)


async def test_an_actor_without_task_status_is_ready_as_soon_as_it_is_spawned(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        await supervisor.start_child(puppet.spec("a"))
        assert states(supervisor) == {"a": "running"}


async def test_a_child_of_the_list_that_fails_to_start_stops_those_before_it_in_reverse(puppet: Any) -> None:
    children = [puppet.spec("a"), puppet.spec("b"), puppet.slow("c", fail), puppet.spec("d")]
    with pytest.raises(ChildStartError) as caught:
        async with open_supervisor(children=children):
            puppet.log.append("the block begins")
    assert caught.value.child == "c"
    assert isinstance(caught.value.__cause__, BrokenError)
    assert [line for line in puppet.log if "returns" in line] == ["b returns", "a returns"]
    assert "d begins" not in puppet.log
    assert "the block begins" not in puppet.log


async def test_a_child_of_the_list_that_returns_before_it_is_ready_is_kept_stopped(puppet: Any) -> None:
    async def ignore() -> bool:
        return False

    children = [puppet.slow("a", ignore), puppet.slow("b", ignore, restart=TEMPORARY), puppet.spec("c")]
    async with open_supervisor(children=children) as supervisor:
        assert states(supervisor) == {"a": "stopped", "c": "running"}


async def test_saying_twice_that_it_is_ready_is_the_actor_s_mistake() -> None:
    async def actor(mailbox: Mailbox[Any], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        task_status.started()

    events: list[SupervisionEvent] = []
    async with open_supervisor(on_event=events.append) as supervisor:
        await supervisor.start_child(ChildSpec("a", actor, restart=TEMPORARY))
        await wait_all_tasks_blocked()
    assert [type(event.error) for event in events] == [RuntimeError]


async def test_cancelling_the_opening_stops_what_was_started(puppet: Any) -> None:
    children = [puppet.spec("a"), puppet.slow("b", trio.sleep_forever, shutdown=0)]
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await wait_all_tasks_blocked()
                scope.cancel()

            nursery.start_soon(cancel)
            async with open_supervisor(children=children):
                puppet.log.append("the block begins")
    assert scope.cancelled_caught
    assert puppet.log[-1] == "a returns"
    assert len(puppet.log) == 3


async def test_a_run_begins_with_the_context_of_the_tree_and_not_of_whoever_started_it() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    async def actor(mailbox: Mailbox[Any]) -> None:
        seen.append(variable.get())
        variable.set("by the actor")
        if len(seen) < 3:
            raise BrokenError
        await mailbox.stopping.wait()

    variable.set("at opening")
    async with open_supervisor(intensity=Intensity(5)) as supervisor:
        variable.set("by the caller")
        await supervisor.start_child(ChildSpec("a", actor))
        await wait_all_tasks_blocked()
    assert seen == ["at opening"] * 3


# ------------------------------------------------------------------------------------------------ stop


async def test_leaving_the_block_stops_the_children_in_reverse_each_gone_before_the_next_is_asked(
    autojump_clock: MockClock,
) -> None:
    log: list[str] = []

    async def actor(mailbox: Mailbox[Any], name: str) -> None:
        await mailbox.stopping.wait()
        log.append(f"{name} is asked")
        await trio.sleep(1)
        log.append(f"{name} is gone")

    async with open_supervisor(children=[ChildSpec(name, actor, name) for name in "abc"]):
        pass
    assert log == [f"{name} is {what}" for name in "cba" for what in ("asked", "gone")]


@pytest.mark.parametrize(
    ("shutdown", "takes", "reason"),
    [
        (5.0, 3.0, "shutdown"),
        (5.0, 7.0, "killed"),
        (0, 3.0, "killed"),
        (math.inf, 1e6, "shutdown"),
    ],
)
async def test_an_actor_that_is_stopped_has_its_allowance_and_is_then_cancelled(
    shutdown: float, takes: float, reason: str, autojump_clock: MockClock
) -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(takes)

    async with open_supervisor(children=[ChildSpec("a", actor, shutdown=shutdown)]) as supervisor:
        downs = watch(supervisor.which_children()[0].ref)
        await wait_all_tasks_blocked()
    assert trio.current_time() == pytest.approx(min(shutdown, takes))
    with downs:
        assert (await downs.receive()).reason == reason


@pytest.mark.parametrize("shutdown", [1.0, 0])
async def test_what_an_actor_raises_while_it_is_stopped_changes_nothing(
    shutdown: float, autojump_clock: MockClock
) -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise BrokenError

    events: list[Any] = []
    async with open_supervisor(on_event=events.append) as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor, shutdown=shutdown))
        downs = watch(ref)
    with downs:
        assert await downs.receive() == Down(ref, EndReason.KILLED, None)
    assert events == []


async def test_who_asked_the_child_that_failed_once_too_often_does_not_wait_for_its_siblings_ends(
    puppet: Any, autojump_clock: MockClock
) -> None:
    answered_after: list[float] = []

    async def ask(supervisor: Any) -> None:
        supervisor.registry["/a"].tell(BrokenError())
        with pytest.raises(ActorStoppedError):
            await supervisor.registry["/a"].ask(puppet.Ask(), timeout=None)
        answered_after.append(trio.current_time())

    async def take_its_time(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(4)

    async def supervised() -> None:
        children = [puppet.spec("a"), ChildSpec("slow", take_its_time)]
        async with open_supervisor(intensity=Intensity(0), children=children) as supervisor:
            nursery.start_soon(ask, supervisor)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(RestartIntensityError):
            await supervised()
    assert answered_after == [0]


async def test_what_an_actor_raises_while_it_is_terminated_does_not_restart_it(autojump_clock: MockClock) -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        raise BrokenError

    events: list[Any] = []
    async with open_supervisor(children=[ChildSpec("a", actor)], on_event=events.append) as supervisor:
        await supervisor.terminate_child("a")
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "stopped"}
    assert events == []


async def test_cancelling_around_the_block_stops_the_children_with_their_allowances(
    puppet: Any, autojump_clock: MockClock
) -> None:
    async def actor(mailbox: Mailbox[Any], name: str) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(2)
        puppet.log.append(name)

    with trio.move_on_after(10) as scope:
        async with open_supervisor(children=[ChildSpec(name, actor, name) for name in "ab"]):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert puppet.log == ["b", "a"]
    assert trio.current_time() == pytest.approx(14)


async def test_a_child_that_crashes_while_the_supervisor_stops_is_not_restarted(autojump_clock: MockClock) -> None:
    runs = 0

    async def crashing(mailbox: Mailbox[Any]) -> None:
        nonlocal runs
        runs += 1
        await trio.sleep(1)
        raise BrokenError

    async def lingering(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(3)

    async with open_supervisor(children=[ChildSpec("a", crashing), ChildSpec("b", lingering)]):
        await wait_all_tasks_blocked()
    assert runs == 1


async def test_stopping_does_not_wait_for_a_backoff(autojump_clock: MockClock) -> None:
    async def crashing(mailbox: Mailbox[Any]) -> None:
        raise BrokenError

    async with open_supervisor() as supervisor:
        await supervisor.start_child(ChildSpec("a", crashing, backoff=Backoff(20, jitter=0)))
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "restarting"}
    assert trio.current_time() == pytest.approx(0, abs=0.1)


async def test_stopping_does_not_wait_for_children_that_are_being_started(
    puppet: Any, autojump_clock: MockClock
) -> None:
    errors: list[Exception] = []

    async def start(supervisor: Supervisor) -> None:
        try:
            await supervisor.start_child(puppet.slow("slow", trio.sleep_forever, shutdown=2))
        except ActorStoppedError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
        nursery.start_soon(start, supervisor)
        await wait_all_tasks_blocked()
    assert len(errors) == 1
    assert trio.current_time() == pytest.approx(2)


# ------------------------------------------------------------------------------------------------ ends


@pytest.mark.parametrize(
    ("restart", "crashes", "state", "runs"),
    [
        (PERMANENT, False, "running", 2),
        (PERMANENT, True, "running", 2),
        (TRANSIENT, False, "stopped", 1),
        (TRANSIENT, True, "running", 2),
        (TEMPORARY, False, None, 1),
        (TEMPORARY, True, None, 1),
    ],
)
async def test_whether_a_child_that_ended_is_restarted(
    restart: RestartType, crashes: bool, state: str | None, runs: int
) -> None:
    ran = 0

    async def actor(mailbox: Mailbox[Any]) -> None:
        nonlocal ran
        ran += 1
        if ran == 1:
            if crashes:
                raise BrokenError
            return
        await mailbox.stopping.wait()

    async with open_supervisor() as supervisor:
        await supervisor.start_child(ChildSpec("a", actor, restart=restart))
        await wait_all_tasks_blocked()
        assert states(supervisor).get("a") == state
        assert ran == runs
        assert ("/a" in supervisor.registry) is (state is not None)


async def test_one_for_one_leaves_the_others_alone(puppet: Any) -> None:
    async with open_supervisor(children=[puppet.spec(name) for name in "abc"]) as supervisor:
        await wait_all_tasks_blocked()
        supervisor.registry["/b"].tell(BrokenError())  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        assert sorted(puppet.log) == ["a begins", "b begins", "b begins", "c begins"]
        assert [child.restarts for child in supervisor.which_children()] == [0, 1, 0]


async def test_a_group_of_exceptions_is_a_crash_too() -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(fail)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor, restart=TEMPORARY))
        with watch(ref) as downs:
            down = await downs.receive()
    assert down.reason is EndReason.CRASHED
    assert isinstance(down.error, ExceptionGroup)


async def test_an_actor_called_with_the_wrong_arguments_crashes() -> None:
    async def actor(mailbox: Mailbox[Any]) -> None: ...

    events: list[SupervisionEvent] = []
    async with open_supervisor(on_event=events.append) as supervisor:
        await supervisor.start_child(ChildSpec("a", actor, 1, restart=TEMPORARY))  # type: ignore[arg-type]
        await wait_all_tasks_blocked()
    assert [type(event.error) for event in events] == [TypeError]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_is_no_exception_passes_through_and_stops_the_rest(error: type[BaseException], puppet: Any) -> None:
    with pytest.raises(error):
        await puppet.supervise(("/b", error()), children=[puppet.spec("a"), puppet.spec("b")])
    assert "a is cancelled" in puppet.log


async def test_what_is_no_exception_passes_through_a_supervisor_below(puppet: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        await puppet.supervise(
            ("/s/a", KeyboardInterrupt()), children=[SupervisorSpec("s", children=[puppet.spec("a")])]
        )


# ------------------------------------------------------------------------------------------------ intensity


async def test_more_restarts_than_the_intensity_allows_cancel_the_block(puppet: Any, autojump_clock: MockClock) -> None:
    error = BrokenError("the last")
    with pytest.raises(RestartIntensityError) as caught:
        await puppet.supervise(
            ("/a", BrokenError()),
            ("/a", BrokenError()),
            ("/a", error),
            intensity=Intensity(2, within=5),
            children=[puppet.spec("a")],
        )
    assert caught.value.child == "a"
    assert caught.value.__cause__ is error
    assert puppet.log.count("a begins") == 3


async def test_restarts_that_lie_further_apart_are_borne(puppet: Any, autojump_clock: MockClock) -> None:
    async with open_supervisor(children=[puppet.spec("a")]) as supervisor:
        ref: Any = supervisor.registry["/a"]
        for _ in range(5):
            ref.tell(BrokenError())
            await trio.sleep(5.1)
        assert states(supervisor) == {"a": "running"}


async def test_an_infinite_intensity_bears_anything(puppet: Any) -> None:
    async with open_supervisor(intensity=Intensity(math.inf), children=[puppet.spec("a")]) as supervisor:
        ref: Any = supervisor.registry["/a"]
        for _ in range(200):
            ref.tell(BrokenError())
        assert await ref.ask(puppet.Ask()) == "a"


async def test_a_supervisor_that_gives_up_stops_the_others_in_reverse_while_the_block_still_ends(
    puppet: Any, autojump_clock: MockClock
) -> None:
    children = [puppet.spec(name) for name in "abc"]

    async def block() -> None:
        async with open_supervisor(intensity=Intensity(0), children=children) as supervisor:
            await wait_all_tasks_blocked()
            supervisor.registry["/b"].tell(BrokenError())  # type: ignore[union-attr]
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                puppet.log.append("the block ends")

    with pytest.raises(RestartIntensityError):
        await block()
    assert puppet.log[3:] == ["c returns", "a returns", "the block ends"]


async def test_a_block_that_does_not_notice_raises_the_error_all_the_same(puppet: Any) -> None:
    async def block() -> None:
        async with open_supervisor(intensity=Intensity(0), children=[puppet.spec("a")]) as supervisor:
            supervisor.registry["/a"].tell(BrokenError())  # type: ignore[union-attr]
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()

    with pytest.raises(RestartIntensityError):
        await block()


async def test_a_cancellation_that_comes_while_it_gives_up_does_not_hide_the_error(
    puppet: Any, autojump_clock: MockClock
) -> None:
    async def lingering(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(3)

    children = [puppet.spec("a"), ChildSpec("b", lingering)]
    with pytest.raises(RestartIntensityError), trio.move_on_after(1):
        await puppet.supervise(("/a", BrokenError()), intensity=Intensity(0), children=children)
    assert trio.current_time() == pytest.approx(3)


async def test_what_the_block_raises_because_of_it_is_the_context(puppet: Any) -> None:
    async def block() -> None:
        async with open_supervisor(intensity=Intensity(0), children=[puppet.spec("a")]) as supervisor:
            ref: Any = supervisor.registry["/a"]
            await ref.ask(BrokenError(), timeout=None)

    with pytest.raises(RestartIntensityError) as caught:
        await block()
    assert isinstance(caught.value.__context__, ActorCrashedError)


async def test_failing_to_start_in_a_restart_is_a_further_restart(puppet: Any) -> None:
    tries = 0

    async def prepare() -> None:
        nonlocal tries
        tries += 1
        if tries in (2, 3):
            raise BrokenError

    async with open_supervisor(intensity=Intensity(3), children=[puppet.slow("a", prepare)]) as supervisor:
        ref: Any = supervisor.registry["/a"]
        ref.tell(BrokenError())
        assert await ref.ask(puppet.Ask()) == "a"
        assert tries == 4
        assert supervisor.which_children()[0].restarts == 3


async def test_failing_to_start_in_a_restart_can_be_one_too_many(puppet: Any) -> None:
    tries = 0

    async def prepare() -> None:
        nonlocal tries
        tries += 1
        if tries > 1:
            raise BrokenError

    with pytest.raises(RestartIntensityError):
        await puppet.supervise(("/a", BrokenError()), intensity=Intensity(3), children=[puppet.slow("a", prepare)])
    assert tries == 4


async def test_calls_are_served_while_a_restart_fails_again_and_again(puppet: Any) -> None:
    tries = 0

    async def prepare() -> None:
        nonlocal tries
        tries += 1
        if tries > 1:
            raise BrokenError

    async with open_supervisor(intensity=Intensity(math.inf)) as supervisor:
        ref = await supervisor.start_child(puppet.slow("a", prepare))
        ref.tell(BrokenError())
        while tries < 10:
            await trio.lowlevel.checkpoint()
        assert states(supervisor) == {"a": "restarting"}
        await supervisor.start_child(puppet.spec("b"))
        await supervisor.terminate_child("a")
        assert states(supervisor) == {"a": "stopped", "b": "running"}


async def test_a_child_that_returns_before_it_is_ready_in_a_restart_is_kept_stopped(puppet: Any) -> None:
    tries = 0

    async def prepare() -> bool:
        nonlocal tries
        tries += 1
        return tries == 1

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(puppet.slow("a", prepare))
        ref.tell(BrokenError())
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "stopped"}
        assert tries == 2


# ------------------------------------------------------------------------------------------------ backoff


async def test_restart_n_waits_and_the_supervisor_goes_on_serving(autojump_clock: MockClock) -> None:
    begun: list[float] = []

    async def actor(mailbox: Mailbox[Any]) -> None:
        begun.append(trio.current_time())
        raise BrokenError

    async with open_supervisor(intensity=Intensity(math.inf)) as supervisor:
        await supervisor.start_child(ChildSpec("a", actor, backoff=Backoff(1, factor=2, maximum=5, jitter=0)))
        await trio.sleep(0.5)
        assert states(supervisor) == {"a": "restarting"}
        await supervisor.start_child(ChildSpec("b", actor, restart=TEMPORARY))
        await trio.sleep(17)
    assert begun[0] == 0
    assert [begun[index] for index in (2, 3, 4, 5)] == pytest.approx([1, 3, 7, 12])


async def test_backoff_begins_again_once_a_child_has_run_for_the_maximum(autojump_clock: MockClock) -> None:
    begun: list[float] = []

    async def actor(mailbox: Mailbox[Any]) -> None:
        begun.append(trio.current_time())
        if len(begun) == 3:
            await trio.sleep(5)
        raise BrokenError

    async with open_supervisor(intensity=Intensity(math.inf)) as supervisor:
        await supervisor.start_child(ChildSpec("a", actor, backoff=Backoff(1, factor=2, maximum=5, jitter=0)))
        await trio.sleep(11.5)
    assert begun == pytest.approx([0, 1, 3, 9, 11])


async def test_backoff_begins_again_after_restart_child(autojump_clock: MockClock) -> None:
    begun: list[float] = []

    async def actor(mailbox: Mailbox[Any]) -> None:
        begun.append(trio.current_time())
        raise BrokenError

    async with open_supervisor(intensity=Intensity(math.inf)) as supervisor:
        await supervisor.start_child(ChildSpec("a", actor, backoff=Backoff(1, factor=10, maximum=100, jitter=0)))
        await trio.sleep(12)
        await supervisor.terminate_child("a")
        await supervisor.restart_child("a")
        await trio.sleep(2)
    assert begun == pytest.approx([0, 1, 11, 12, 13])


async def test_a_child_that_comes_back_after_its_backoff_runs(puppet: Any, autojump_clock: MockClock) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(puppet.spec("a", backoff=Backoff(1, jitter=0)))
        ref.tell(BrokenError())
        await trio.sleep(2)
        assert states(supervisor) == {"a": ChildState.RUNNING}
        assert await ref.ask(puppet.Ask()) == "a"


# ------------------------------------------------------------------------------------------------ the block


async def test_an_exception_of_the_block_comes_out_as_itself(puppet: Any) -> None:
    error = BrokenError()

    async def block() -> None:
        async with open_supervisor(children=[puppet.spec("a")]):
            await wait_all_tasks_blocked()
            raise error

    with pytest.raises(BrokenError) as caught:
        await block()
    assert caught.value is error
    assert error.__cause__ is None
    assert puppet.log == ["a begins", "a returns"]


async def test_a_group_that_the_block_raises_comes_out_as_itself() -> None:
    group = ExceptionGroup("of the block", [BrokenError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor():
            raise group
    assert caught.value is group


async def test_an_exception_of_the_block_that_came_first_wins(puppet: Any) -> None:
    async def block() -> None:
        async with open_supervisor(intensity=Intensity(0), children=[puppet.spec("a")]) as supervisor:
            supervisor.registry["/a"].tell(BrokenError("of the child"))  # type: ignore[union-attr]
            raise BrokenError("of the block")

    with pytest.raises(BrokenError, match="of the block"):
        await block()


async def test_after_the_block_the_supervisor_serves_no_more(puppet: Any) -> None:
    async with open_supervisor(children=[puppet.spec("a")]) as supervisor:
        pass
    with pytest.raises(ActorStoppedError):
        await supervisor.start_child(puppet.spec("b"))
    with pytest.raises(ActorStoppedError):
        await supervisor.terminate_child("a")
    with pytest.raises(ActorStoppedError):
        await supervisor.restart_child("a")
    with pytest.raises(ActorStoppedError):
        await supervisor.delete_child("a")
    with pytest.raises(ActorStoppedError):
        supervisor.start_child_soon(puppet.spec("b"))
    assert supervisor.which_children() == ()
    assert dict(supervisor.registry) == {}


async def test_supervisors_nest_as_blocks(puppet: Any) -> None:
    async with open_supervisor(children=[puppet.spec("a")]), open_supervisor(children=[puppet.spec("b")]):
        await wait_all_tasks_blocked()
    assert puppet.log == ["a begins", "b begins", "b returns", "a returns"]
