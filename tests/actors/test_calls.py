"""The calls by which children are managed, and what they see."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from engine.actors import (
    Backoff,
    ChildCounts,
    ChildInfo,
    ChildKind,
    ChildSpec,
    ChildState,
    DeadLetter,
    Mailbox,
    RestartType,
    Supervisor,
    SupervisorSpec,
    open_supervisor,
)
from engine.errors import (
    ActorStoppedError,
    ChildExistsError,
    ChildNotFoundError,
    ChildRunningError,
    ChildSpecError,
    ChildStartError,
)

PERMANENT, TRANSIENT, TEMPORARY = RestartType.PERMANENT, RestartType.TRANSIENT, RestartType.TEMPORARY


class BrokenError(Exception):
    pass


async def fail() -> None:
    raise BrokenError


def states(supervisor: Any) -> dict[str, str]:
    return {child.id: child.state for child in supervisor.which_children()}


# ------------------------------------------------------------------------------------------------ start_child


async def test_start_child_returns_when_the_child_is_ready(puppet: Any, autojump_clock: MockClock) -> None:
    async def prepare() -> None:
        await trio.sleep(3)

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(puppet.slow("a", prepare))
        assert trio.current_time() == pytest.approx(3)
        assert ref.path == "/a"


async def test_start_child_refuses_an_id_that_is_taken_by_a_running_child_or_a_stopped_one(puppet: Any) -> None:
    async with open_supervisor(children=[puppet.spec("a")]) as supervisor:
        with pytest.raises(ChildExistsError) as caught:
            await supervisor.start_child(puppet.spec("a"))
        assert caught.value.child == "a"
        await supervisor.terminate_child("a")
        with pytest.raises(ChildExistsError):
            await supervisor.start_child(puppet.spec("a"))


async def test_start_child_refuses_a_path_that_is_taken(puppet: Any) -> None:
    children = [SupervisorSpec("a", children=[puppet.spec("b")])]
    async with open_supervisor(children=children) as supervisor:
        with pytest.raises(ChildExistsError):
            await supervisor.start_child(puppet.spec("a/b"))


async def test_a_child_that_fails_to_start_is_not_kept(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(ChildStartError) as caught:
            await supervisor.start_child(puppet.slow("a", fail))
        assert caught.value.child == "a"
        assert isinstance(caught.value.__cause__, BrokenError)
        assert supervisor.which_children() == ()
        assert dict(supervisor.registry) == {}
        await supervisor.start_child(puppet.spec("a"))


@pytest.mark.parametrize(("restart", "kept"), [(PERMANENT, True), (TRANSIENT, True), (TEMPORARY, False)])
async def test_a_child_that_returns_before_it_is_ready_is_kept_unless_temporary(
    puppet: Any, restart: RestartType, kept: bool
) -> None:
    async def ignore() -> bool:
        return False

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(puppet.slow("a", ignore, restart=restart))
        assert ref.path == "/a"
        assert states(supervisor) == ({"a": "stopped"} if kept else {})


async def test_a_cancelled_start_cancels_the_child_and_keeps_nothing(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.start_child, puppet.slow("a", trio.sleep_forever))
            await wait_all_tasks_blocked()
            assert states(supervisor) == {"a": "running"}
            nursery.cancel_scope.cancel()
        assert supervisor.which_children() == ()
        await supervisor.start_child(puppet.spec("a"))


async def test_a_start_that_is_cancelled_as_the_child_gets_ready_keeps_nothing_either(puppet: Any) -> None:
    async def actor(
        mailbox: Mailbox[Any], scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await wait_all_tasks_blocked()
        scope.cancel()
        task_status.started()
        await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        with trio.CancelScope() as scope:
            await supervisor.start_child(ChildSpec("a", actor, scope))
        assert scope.cancelled_caught
        assert supervisor.which_children() == ()


async def test_a_start_that_is_cancelled_beforehand_starts_nothing(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        with trio.CancelScope() as scope:
            scope.cancel()
            await supervisor.start_child(puppet.spec("a"))
        assert supervisor.which_children() == ()
        assert puppet.log == []


async def test_a_slow_start_keeps_nobody_else_waiting(puppet: Any) -> None:
    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start_child, puppet.slow("slow", trio.sleep_forever))
        await wait_all_tasks_blocked()
        await supervisor.start_child(puppet.spec("b"))
        await supervisor.terminate_child("b")
        await supervisor.delete_child("b")
        nursery.cancel_scope.cancel()


async def test_an_actor_may_start_children_of_its_own_supervisor_before_it_is_ready(puppet: Any) -> None:
    async with open_supervisor() as supervisor:

        async def prepare() -> None:
            await supervisor.start_child(puppet.spec("b"))

        await supervisor.start_child(puppet.slow("a", prepare))
        assert states(supervisor) == {"a": "running", "b": "running"}


@pytest.mark.parametrize("spec", [None, "a", 3])
async def test_what_is_no_specification_is_refused(spec: Any) -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(ChildSpecError):
            await supervisor.start_child(spec)
        with pytest.raises(ChildSpecError):
            supervisor.start_child_soon(spec)


async def test_a_significant_child_is_refused_where_it_means_nothing(puppet: Any) -> None:
    spec = puppet.spec("a", significant=True, restart=TRANSIENT)
    async with open_supervisor() as supervisor:
        with pytest.raises(ChildSpecError):
            await supervisor.start_child(spec)


# ------------------------------------------------------------------------------------------------ terminate_child


async def test_terminate_child_returns_when_the_child_is_gone(autojump_clock: MockClock) -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(3)

    async with open_supervisor(children=[ChildSpec("a", actor)]) as supervisor:
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("a")
        assert trio.current_time() == pytest.approx(3)
        assert states(supervisor) == {"a": "stopped"}
        assert "/a" in supervisor.registry


async def test_terminating_a_temporary_child_takes_its_specification_away(puppet: Any) -> None:
    async with open_supervisor(children=[puppet.spec("a", restart=TEMPORARY)]) as supervisor:
        await supervisor.terminate_child("a")
        assert supervisor.which_children() == ()
        assert dict(supervisor.registry) == {}


async def test_terminating_a_stopped_child_is_no_error(puppet: Any) -> None:
    async with open_supervisor(children=[puppet.spec("a")]) as supervisor:
        await supervisor.terminate_child("a")
        with assert_checkpoints():
            await supervisor.terminate_child("a")


async def test_terminating_a_restarting_child_ends_its_restarts(puppet: Any, autojump_clock: MockClock) -> None:
    async with open_supervisor(children=[puppet.spec("a", backoff=Backoff(10, jitter=0))]) as supervisor:
        supervisor.registry["/a"].tell(BrokenError())  # type: ignore[union-attr]
        await trio.sleep(1)
        await supervisor.terminate_child("a")
        assert trio.current_time() == pytest.approx(1)
        assert states(supervisor) == {"a": "stopped"}
        await trio.sleep(100)
        assert puppet.log == ["a begins"]


async def test_terminating_a_child_that_is_being_restarted_and_not_ready_stops_it(
    puppet: Any, autojump_clock: MockClock
) -> None:
    tries = 0

    async def prepare() -> None:
        nonlocal tries
        tries += 1
        if tries > 1:
            await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(puppet.slow("a", prepare, shutdown=2))
        ref.tell(BrokenError())
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"a": "restarting"}
        await supervisor.terminate_child("a")
        assert trio.current_time() == pytest.approx(2)


async def test_a_cancelled_terminate_goes_on_stopping(autojump_clock: MockClock) -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(3)

    async with open_supervisor(children=[ChildSpec("a", actor)]) as supervisor:
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await supervisor.terminate_child("a")
        assert states(supervisor) == {"a": "running"}
        await trio.sleep(2.5)
        assert states(supervisor) == {"a": "stopped"}


async def test_several_may_terminate_one_child(autojump_clock: MockClock) -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(3)

    async with open_supervisor(children=[ChildSpec("a", actor)]) as supervisor, trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(supervisor.terminate_child, "a")
    assert trio.current_time() == pytest.approx(3)


async def test_children_are_terminated_side_by_side(autojump_clock: MockClock) -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(3)

    async with open_supervisor(children=[ChildSpec(id, actor) for id in "abcdef"]) as supervisor:
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for id in "abcdef":
                nursery.start_soon(supervisor.terminate_child, id)
        assert trio.current_time() == pytest.approx(3)


async def test_terminating_a_child_that_is_being_started_waits_for_that_first(
    puppet: Any, autojump_clock: MockClock
) -> None:
    async def prepare() -> None:
        await trio.sleep(3)

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start_child, puppet.slow("a", prepare))
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("a")
        assert puppet.log == ["a prepares", "a begins", "a returns"]
        assert states(supervisor) == {"a": "stopped"}


async def test_an_actor_that_terminates_itself_is_cancelled_after_its_allowance(autojump_clock: MockClock) -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        await mailbox.receive()
        await supervisor.terminate_child("a")

    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor, shutdown=2))
        ref.tell("go")
        await trio.sleep(3)
        assert states(supervisor) == {"a": "stopped"}


async def test_messages_that_wait_do_not_survive_terminate_child() -> None:
    taken: list[object] = []

    async def actor(mailbox: Mailbox[Any]) -> None:
        async for message in mailbox:
            taken.append(message)

    letters: list[DeadLetter] = []
    async with open_supervisor(on_dead_letter=letters.append) as supervisor:
        ref = await supervisor.start_child(ChildSpec("a", actor))
        await wait_all_tasks_blocked()
        ref.tell(1)
        await supervisor.terminate_child("a")
        ref.tell(2)
        await supervisor.restart_child("a")
        ref.tell(3)
        await wait_all_tasks_blocked()
    assert taken == [3]
    assert [letter.message for letter in letters] == [1, 2]


# ------------------------------------------------------------------------------------------------ restart, delete


async def test_a_ref_is_good_again_after_restart_child(puppet: Any) -> None:
    async with open_supervisor(children=[puppet.spec("a")]) as supervisor:
        ref: Any = supervisor.registry["/a"]
        await supervisor.terminate_child("a")
        again: Any = await supervisor.restart_child("a")
        assert again is ref
        assert await ref.ask(puppet.Ask()) == "a"


async def test_restart_child_starts_one_that_had_returned(puppet: Any) -> None:
    async def once(mailbox: Mailbox[Any]) -> None:
        puppet.log.append("ran")

    async with open_supervisor() as supervisor:
        await supervisor.start_child(ChildSpec("a", once, restart=TRANSIENT))
        await wait_all_tasks_blocked()
        await supervisor.restart_child("a")
        await wait_all_tasks_blocked()
        assert puppet.log == ["ran", "ran"]


async def test_a_child_that_fails_to_start_in_restart_child_is_kept(puppet: Any) -> None:
    tries = 0

    async def prepare() -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            raise BrokenError

    async with open_supervisor(children=[puppet.slow("a", prepare)]) as supervisor:
        await supervisor.terminate_child("a")
        with pytest.raises(ChildStartError):
            await supervisor.restart_child("a")
        assert states(supervisor) == {"a": "stopped"}
        await supervisor.restart_child("a")
        assert states(supervisor) == {"a": "running"}


async def test_a_cancelled_restart_child_keeps_the_specification(puppet: Any) -> None:
    tries = 0

    async def prepare() -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            await trio.sleep_forever()

    async with open_supervisor(children=[puppet.slow("a", prepare)]) as supervisor:
        await supervisor.terminate_child("a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.restart_child, "a")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert states(supervisor) == {"a": "stopped"}
        await supervisor.restart_child("a")


async def test_restart_child_waits_for_a_child_that_is_being_terminated(autojump_clock: MockClock) -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()
        await trio.sleep(3)

    async with open_supervisor(children=[ChildSpec("a", actor)]) as supervisor, trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        nursery.start_soon(supervisor.terminate_child, "a")
        await wait_all_tasks_blocked()
        await supervisor.restart_child("a")
        assert trio.current_time() == pytest.approx(3)
        assert states(supervisor) == {"a": "running"}


@pytest.mark.parametrize("call", ["restart_child", "delete_child"])
async def test_a_running_or_restarting_child_is_neither_restarted_nor_deleted(
    puppet: Any, call: str, autojump_clock: MockClock
) -> None:
    async with open_supervisor(children=[puppet.spec("a", backoff=Backoff(10))]) as supervisor:
        with pytest.raises(ChildRunningError) as caught:
            await getattr(supervisor, call)("a")
        assert caught.value.child == "a"
        supervisor.registry["/a"].tell(BrokenError())  # type: ignore[union-attr]
        await trio.sleep(1)
        assert states(supervisor) == {"a": "restarting"}
        with pytest.raises(ChildRunningError):
            await getattr(supervisor, call)("a")


@pytest.mark.parametrize("call", ["terminate_child", "restart_child", "delete_child"])
async def test_a_child_that_is_not_there_is_an_error(call: str) -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(ChildNotFoundError) as caught:
            await getattr(supervisor, call)("a")
        assert caught.value.child == "a"


async def test_delete_child_takes_the_specification_and_the_name_away(puppet: Any) -> None:
    async with open_supervisor(children=[puppet.spec("a")]) as supervisor:
        old: Any = supervisor.registry["/a"]
        await supervisor.terminate_child("a")
        with assert_checkpoints():
            await supervisor.delete_child("a")
        assert supervisor.which_children() == ()
        assert dict(supervisor.registry) == {}
        new: Any = await supervisor.start_child(puppet.spec("a"))
        assert new is not old
        with pytest.raises(ActorStoppedError):
            await old.ask(puppet.Ask())


# ------------------------------------------------------------------------------------------------ what is shown


async def test_which_children_shows_them_in_start_order(puppet: Any) -> None:
    async with open_supervisor(children=[puppet.spec("b"), SupervisorSpec("s")]) as supervisor:
        await supervisor.start_child(puppet.spec("a"))
        await supervisor.terminate_child("b")
        registry = supervisor.registry
        assert supervisor.which_children() == (
            ChildInfo("b", registry["/b"], ChildKind.WORKER, ChildState.STOPPED, 0),
            ChildInfo("s", registry["/s"], ChildKind.SUPERVISOR, ChildState.RUNNING, 0),
            ChildInfo("a", registry["/a"], ChildKind.WORKER, ChildState.RUNNING, 0),
        )


async def test_count_children_counts_specifications_and_those_that_run(puppet: Any) -> None:
    children = [puppet.spec("a"), puppet.spec("b"), puppet.spec("c", backoff=Backoff(10)), SupervisorSpec("s")]
    async with open_supervisor(children=children) as supervisor:
        await supervisor.terminate_child("a")
        supervisor.registry["/c"].tell(BrokenError())  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        assert supervisor.count_children() == ChildCounts(specs=4, active=2, supervisors=1, workers=3)


async def test_the_registry_has_every_path_but_the_top_s(puppet: Any) -> None:
    children = [puppet.spec("a"), SupervisorSpec("s", children=[puppet.spec("b")])]
    async with open_supervisor(children=children) as supervisor:
        assert list(supervisor.registry) == ["/a", "/s", "/s/b"]
        assert all(ref.path == path for path, ref in supervisor.registry.items())
        assert supervisor.path == "/"
        with pytest.raises(TypeError):
            supervisor.registry["/x"] = supervisor  # type: ignore[index]


# ------------------------------------------------------------------------------------------------ start_child_soon


async def test_start_child_soon_spawns_without_a_checkpoint(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        ref = supervisor.start_child_soon(puppet.spec("a"))
        assert states(supervisor) == {"a": "running"}
        assert puppet.log == []
        assert await ref.ask(puppet.Ask()) == "a"


async def test_start_child_soon_refuses_what_it_cannot_do(puppet: Any) -> None:
    async def prepare() -> None: ...

    async with open_supervisor(children=[puppet.spec("a")]) as supervisor:
        with pytest.raises(ChildExistsError):
            supervisor.start_child_soon(puppet.spec("a"))
        with pytest.raises(ChildSpecError, match="start_child"):
            supervisor.start_child_soon(puppet.slow("b", prepare))
        with pytest.raises(ChildSpecError):
            supervisor.start_child_soon(SupervisorSpec("s"))  # type: ignore[arg-type]
        assert states(supervisor) == {"a": "running"}


@pytest.mark.parametrize(("keep", "left"), [(True, {"a": "stopped"}), (False, {})])
async def test_a_child_that_is_not_kept_goes_when_it_has_returned(keep: bool, left: dict[str, str]) -> None:
    async def once(mailbox: Mailbox[Any]) -> None: ...

    async with open_supervisor() as supervisor:
        supervisor.start_child_soon(ChildSpec("a", once, restart=TRANSIENT), keep=keep)
        await wait_all_tasks_blocked()
        assert states(supervisor) == left
        assert list(supervisor.registry) == [f"/{id}" for id in left]


async def test_a_child_that_is_not_kept_is_restarted_all_the_same(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        ref = supervisor.start_child_soon(puppet.spec("a", restart=TRANSIENT), keep=False)
        ref.tell(BrokenError())
        assert await ref.ask(puppet.Ask()) == "a"
        assert supervisor.which_children()[0].restarts == 1


async def test_a_child_that_is_not_kept_goes_when_it_is_terminated(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        supervisor.start_child_soon(puppet.spec("a"), keep=False)
        await supervisor.terminate_child("a")
        assert supervisor.which_children() == ()


async def test_start_child_soon_can_be_called_from_an_actor_of_the_tree(puppet: Any) -> None:
    async with open_supervisor(children=[SupervisorSpec("s")]) as supervisor:
        below: Any = supervisor.registry["/s"]

        async def starter(mailbox: Mailbox[Any]) -> None:
            below.start_child_soon(puppet.spec("a"))
            await mailbox.stopping.wait()

        supervisor.start_child_soon(ChildSpec("starter", starter))
        await wait_all_tasks_blocked()
        assert puppet.log == ["a begins"]


async def test_calls_fail_while_the_supervisor_is_ending(puppet: Any, autojump_clock: MockClock) -> None:
    errors: list[type[Exception]] = []

    async def actor(mailbox: Mailbox[Any], supervisor: Supervisor) -> None:
        await mailbox.stopping.wait()
        for call in (supervisor.start_child(puppet.spec("b")), supervisor.terminate_child("a")):
            try:
                await call
            except ActorStoppedError as error:
                errors.append(type(error))
        try:
            supervisor.start_child_soon(puppet.spec("b"))
        except ActorStoppedError as error:
            errors.append(type(error))

    async with open_supervisor() as supervisor:
        await supervisor.start_child(ChildSpec("a", actor, supervisor))
        await wait_all_tasks_blocked()
    assert errors == [ActorStoppedError] * 3
