"""Supervisors below supervisors: giving up, coming back, and the refs and messages meanwhile."""

from __future__ import annotations

import math
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
    Ref,
    RestartType,
    SupervisionEvent,
    SupervisorSpec,
    open_supervisor,
    watch,
)
from engine.errors import ActorStoppedError, ChildStartError, RestartIntensityError

TRANSIENT, TEMPORARY = RestartType.TRANSIENT, RestartType.TEMPORARY


class BrokenError(Exception):
    pass


def states(supervisor: Any) -> dict[str, str]:
    return {child.id: child.state for child in supervisor.which_children()}


def below(*children: Any, **options: Any) -> SupervisorSpec:
    return SupervisorSpec("s", intensity=options.pop("intensity", Intensity(0)), children=children, **options)


async def test_a_supervisor_s_ref_takes_a_supervisor_s_calls(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        ref = await supervisor.start_child(SupervisorSpec("s", children=[puppet.spec("a")]))
        assert ref is supervisor.registry["/s"]
        assert (await ref.start_child(puppet.spec("b"))).path == "/s/b"
        await ref.terminate_child("a")
        await ref.restart_child("a")
        assert states(ref) == {"a": "running", "b": "running"}


async def test_trees_are_stopped_in_reverse_and_in_depth(puppet: Any) -> None:
    children = [puppet.spec("a"), SupervisorSpec("s", children=[puppet.spec("b"), puppet.spec("c")]), puppet.spec("d")]
    async with open_supervisor(children=children):
        await wait_all_tasks_blocked()
    assert puppet.log[4:] == ["d returns", "c returns", "b returns", "a returns"]


async def test_a_supervisor_that_gives_up_is_restarted_with_the_children_of_its_list_only(puppet: Any) -> None:
    async with open_supervisor(children=[below(puppet.spec("a"), puppet.spec("b"))]) as supervisor:
        ref: Any = supervisor.registry["/s"]
        await ref.start_child(puppet.spec("added"))
        await ref.terminate_child("b")
        await ref.delete_child("b")
        supervisor.registry["/s/a"].tell(BrokenError())  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        assert states(ref) == {"a": "running", "b": "running"}
        assert supervisor.which_children()[0].restarts == 1
        assert list(supervisor.registry) == ["/s", "/s/a", "/s/b"]


async def test_a_supervisor_that_is_restarted_counts_its_restarts_anew(puppet: Any) -> None:
    events: list[SupervisionEvent] = []
    child = SupervisorSpec("s", intensity=Intensity(2), children=[puppet.spec("a")])
    async with open_supervisor(children=[child], on_event=events.append) as supervisor:
        for _ in range(5):  # two that are borne, one too many, two that are borne again
            supervisor.registry["/s/a"].tell(BrokenError())  # type: ignore[union-attr]
            await wait_all_tasks_blocked()
        assert states(supervisor) == {"s": "running"}
    assert [event.path for event in events if event.what == "escalated"] == ["/s"]


@pytest.mark.parametrize(("restart", "left"), [(TRANSIENT, {"s": "stopped"}), (TEMPORARY, {})])
async def test_giving_up_is_a_shutdown_after_which_only_a_permanent_supervisor_is_restarted(
    puppet: Any, restart: RestartType, left: dict[str, str]
) -> None:
    letters: list[DeadLetter] = []
    children = [below(puppet.spec("a"), puppet.spec("b"), restart=restart)]
    async with open_supervisor(children=children, on_dead_letter=letters.append) as supervisor:
        ref: Any = supervisor.registry["/s"]
        supervisor.registry["/s/a"].tell(BrokenError())  # type: ignore[union-attr]
        supervisor.registry["/s/a"].tell("left behind")  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        assert states(supervisor) == left
        assert letters == [DeadLetter("/s/a", "left behind", "stopped")]
        with pytest.raises(ActorStoppedError):
            await ref.start_child(puppet.spec("c"))
        with pytest.raises(ActorStoppedError):
            ref.start_child_soon(puppet.spec("c"))


async def test_messages_survive_the_restart_of_a_supervisor_above() -> None:
    taken: list[object] = []

    async def actor(mailbox: Mailbox[Any]) -> None:
        async for message in mailbox:
            if isinstance(message, Exception):
                raise message
            mailbox.reply(message)
            taken.append(message)

    letters: list[DeadLetter] = []
    children = [below(ChildSpec("a", actor), ChildSpec("b", actor))]
    async with open_supervisor(children=children, on_dead_letter=letters.append) as supervisor:
        a: Any = supervisor.registry["/s/a"]
        b: Any = supervisor.registry["/s/b"]
        added: Any = await supervisor.registry["/s"].start_child(ChildSpec("added", actor))  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        a.tell(BrokenError())
        a.tell(1)
        assert await a.ask(2) == 2
        assert await b.ask(3) == 3
        assert taken == [1, 2, 3]
        added.tell(4)
        assert [letter.message for letter in letters] == [4]


async def test_messages_for_a_child_that_was_added_are_dead_letters_when_its_supervisor_is_restarted() -> None:
    async def actor(mailbox: Mailbox[Any]) -> None:
        await mailbox.receive()
        raise BrokenError

    async def idle(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()

    letters: list[DeadLetter] = []
    async with open_supervisor(children=[below(ChildSpec("a", actor))], on_dead_letter=letters.append) as supervisor:
        ref: Any = supervisor.registry["/s"]
        added = await ref.start_child(ChildSpec("added", idle))
        added.tell("waits")
        supervisor.registry["/s/a"].tell("go")  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        assert letters == [DeadLetter("/s/added", "waits", "stopped")]


async def test_a_supervisor_that_gives_up_once_too_often_takes_its_own_supervisor_down(puppet: Any) -> None:
    error = BrokenError()
    children = [SupervisorSpec("outer", intensity=Intensity(0), children=[below(puppet.spec("a"))])]
    with pytest.raises(RestartIntensityError) as caught:
        await puppet.supervise(("/outer/s/a", error), intensity=Intensity(0), children=children)
    chain: list[Any] = [caught.value]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    assert [getattr(link, "child", link) for link in chain] == ["outer", "s", "a", error]


async def test_a_restarted_supervisor_counts_restarts_anew(puppet: Any) -> None:
    children = [below(puppet.spec("a"), intensity=Intensity(1))]
    async with open_supervisor(intensity=Intensity(5), children=children) as supervisor:
        ref: Any = supervisor.registry["/s/a"]
        for _ in range(5):
            ref.tell(BrokenError())
            assert await ref.ask(puppet.Ask()) == "a"
        assert supervisor.which_children()[0].restarts == 2


async def test_a_supervisor_waits_for_its_backoff_and_calls_wait_for_it(puppet: Any, autojump_clock: MockClock) -> None:
    children = [below(puppet.spec("a"), backoff=Backoff(10, jitter=0))]
    async with open_supervisor(children=children) as supervisor:
        ref: Any = supervisor.registry["/s"]
        supervisor.registry["/s/a"].tell(BrokenError())  # type: ignore[union-attr]
        await trio.sleep(1)
        assert states(supervisor) == {"s": "restarting"}
        with pytest.raises(ActorStoppedError):
            ref.start_child_soon(puppet.spec("soon"))
        await ref.start_child(puppet.spec("b"))
        assert trio.current_time() == pytest.approx(10)
        assert states(ref) == {"a": "running", "b": "running"}


async def test_a_call_that_waits_for_a_restart_fails_when_the_supervisor_is_stopped_instead(
    puppet: Any, autojump_clock: MockClock
) -> None:
    errors: list[Exception] = []
    children = [below(puppet.spec("a"), backoff=Backoff(10, jitter=0))]
    async with open_supervisor(children=children) as supervisor, trio.open_nursery() as nursery:
        ref: Any = supervisor.registry["/s"]

        async def call() -> None:
            try:
                await ref.start_child(puppet.spec("b"))
            except ActorStoppedError as error:
                errors.append(error)

        supervisor.registry["/s/a"].tell(BrokenError())  # type: ignore[union-attr]
        await trio.sleep(1)
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("s")
        await wait_all_tasks_blocked()
        assert len(errors) == 1


async def test_stopping_a_supervisor_for_good_does_not_wait_for_asks_of_what_is_stopped_already(
    autojump_clock: MockClock,
) -> None:
    async def silent(mailbox: Mailbox[Any]) -> None:
        await mailbox.stopping.wait()

    errors: list[Exception] = []

    async def asking(mailbox: Mailbox[Ref[Any]]) -> None:
        ref = await mailbox.receive()
        try:
            await ref.ask(1, timeout=None)
        except ActorStoppedError as error:
            errors.append(error)

    children = [below(ChildSpec("asking", asking, restart=TEMPORARY), ChildSpec("silent", silent))]
    async with open_supervisor(children=children) as supervisor:
        supervisor.registry["/s/asking"].tell(supervisor.registry["/s/silent"])  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("s")
        assert trio.current_time() == pytest.approx(0, abs=0.01)
        assert len(errors) == 1


async def test_a_terminated_supervisor_comes_back_with_the_same_refs(puppet: Any) -> None:
    letters: list[DeadLetter] = []
    async with open_supervisor(children=[below(puppet.spec("a"))], on_dead_letter=letters.append) as supervisor:
        ref: Any = supervisor.registry["/s"]
        a: Any = supervisor.registry["/s/a"]
        await ref.start_child(puppet.spec("added"))
        await supervisor.terminate_child("s")
        assert list(supervisor.registry) == ["/s", "/s/a"]
        a.tell("nobody is there")
        assert [letter.message for letter in letters] == ["nobody is there"]
        assert await supervisor.restart_child("s") is ref
        assert await a.ask(puppet.Ask()) == "a"


async def test_deleting_a_supervisor_takes_all_names_below_away(puppet: Any) -> None:
    children = [SupervisorSpec("outer", children=[below(puppet.spec("a"))])]
    async with open_supervisor(children=children) as supervisor:
        a: Any = supervisor.registry["/outer/s/a"]
        await supervisor.terminate_child("outer")
        await supervisor.delete_child("outer")
        assert dict(supervisor.registry) == {}
        with pytest.raises(ActorStoppedError):
            await a.ask(puppet.Ask())


async def test_a_supervisor_whose_allowance_is_over_has_all_below_it_cancelled(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def stubborn(mailbox: Mailbox[Any], name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)

    spec = ChildSpec("a", stubborn, "a", shutdown=math.inf)
    inner = SupervisorSpec("inner", children=[ChildSpec("b", stubborn, "b", shutdown=math.inf)])
    async with open_supervisor(children=[below(spec, inner, shutdown=3)]) as supervisor:
        downs = watch(supervisor.registry["/s"])
        b_downs = watch(supervisor.registry["/s/inner/b"])
        await wait_all_tasks_blocked()
        await supervisor.terminate_child("s")
        assert trio.current_time() == pytest.approx(3)
        assert sorted(ended) == ["a", "b"]
        assert states(supervisor) == {"s": "stopped"}
        await supervisor.restart_child("s")
        await supervisor.terminate_child("s")
    with downs, b_downs:
        assert [down.reason async for down in downs] == [EndReason.KILLED] * 2
        assert [down.reason async for down in b_downs] == [EndReason.KILLED] * 2


async def test_an_actor_that_raises_when_all_is_cancelled_is_not_restarted_for_ever(puppet: Any) -> None:
    runs = 0

    async def actor(mailbox: Mailbox[Any]) -> None:
        nonlocal runs
        runs += 1
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise BrokenError from None

    children = [ChildSpec("a", actor, shutdown=math.inf), puppet.spec("b")]
    with pytest.raises(KeyboardInterrupt):
        await puppet.supervise(("/b", KeyboardInterrupt()), intensity=Intensity(math.inf), children=children)
    assert runs == 1


async def test_a_supervisor_whose_child_fails_to_start_fails_to_start(puppet: Any) -> None:
    async def fail() -> None:
        raise BrokenError

    async with open_supervisor() as supervisor:
        with pytest.raises(ChildStartError) as caught:
            await supervisor.start_child(below(puppet.spec("a"), puppet.slow("b", fail)))
        assert caught.value.child == "s"
        cause = caught.value.__cause__
        assert isinstance(cause, ChildStartError)
        assert cause.child == "b"
        assert isinstance(cause.__cause__, BrokenError)
        assert supervisor.which_children() == ()
        assert dict(supervisor.registry) == {}
        assert sorted(puppet.log[:2]) == ["a begins", "b prepares"]
        assert puppet.log[2:] == ["a returns"]


async def test_a_supervisor_that_fails_to_start_in_a_restart_is_restarted_again(puppet: Any) -> None:
    tries = 0

    async def prepare() -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            raise BrokenError

    events: list[SupervisionEvent] = []
    children = [below(puppet.slow("a", prepare))]
    async with open_supervisor(intensity=Intensity(2), children=children, on_event=events.append) as supervisor:
        a: Any = supervisor.registry["/s/a"]
        a.tell(BrokenError())
        assert await a.ask(puppet.Ask()) == "a"
        assert tries == 3
        assert supervisor.which_children()[0].restarts == 2


async def test_stopping_a_supervisor_that_is_still_starting_its_children(
    puppet: Any, autojump_clock: MockClock
) -> None:
    tries = 0

    async def prepare() -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            await trio.sleep_forever()

    children = [below(puppet.spec("b"), puppet.slow("a", prepare, shutdown=2))]
    async with open_supervisor(children=children) as supervisor:
        supervisor.registry["/s/a"].tell(BrokenError())  # type: ignore[union-attr]
        await wait_all_tasks_blocked()
        assert states(supervisor) == {"s": "restarting"}
        await supervisor.terminate_child("s")
        assert trio.current_time() == pytest.approx(2)
        assert states(supervisor) == {"s": "stopped"}
        assert puppet.log[-1] == "b returns"


async def test_a_supervisor_that_is_stopped_as_soon_as_it_is_spawned_stops(puppet: Any) -> None:
    outcomes: list[object] = []

    async def start(supervisor: Any) -> None:
        try:
            outcomes.append(await supervisor.start_child(below(puppet.spec("a"))))
        except ActorStoppedError as error:
            outcomes.append(error)

    for _ in range(20):  # whether its task has begun by then is the scheduler's whim
        async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
            nursery.start_soon(start, supervisor)
            while "/s" not in supervisor.registry:
                await trio.lowlevel.checkpoint()
    assert len(outcomes) == 20
    assert puppet.log.count("a begins") == puppet.log.count("a returns")


async def test_giving_up_before_all_of_the_list_has_started_does_not_enter_the_block(puppet: Any) -> None:
    async def crashing(mailbox: Mailbox[Any]) -> None:
        raise BrokenError

    children = [ChildSpec("a", crashing), puppet.slow("b", trio.sleep_forever, shutdown=0), puppet.spec("c")]
    with pytest.raises(RestartIntensityError):
        async with open_supervisor(intensity=Intensity(0), children=children):
            puppet.log.append("the block begins")
    assert puppet.log == ["b prepares"]


async def test_watching_a_supervisor_tells_why_it_gave_up(puppet: Any) -> None:
    async with open_supervisor(children=[below(puppet.spec("a"))]) as supervisor:
        ref = supervisor.registry["/s"]
        with watch(ref) as downs:
            supervisor.registry["/s/a"].tell(BrokenError())  # type: ignore[union-attr]
            down = await downs.receive()
    assert (down.ref, down.reason) == (ref, EndReason.SHUTDOWN)
    assert isinstance(down.error, RestartIntensityError)


async def test_the_top_supervisor_can_be_watched(puppet: Any) -> None:
    async with open_supervisor() as supervisor:
        downs = watch(supervisor)
    with downs:
        assert [down async for down in downs] == [Down(supervisor, EndReason.SHUTDOWN, None)]
