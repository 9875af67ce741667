"""Random trees, to which random things are done, and a model that says what is to come of it."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.actors import (
    AutoShutdown,
    Backoff,
    ChildCounts,
    ChildSpec,
    Intensity,
    Mailbox,
    RestartType,
    Strategy,
    SupervisorSpec,
    open_supervisor,
)
from engine.errors import PlaybillError, RestartIntensityError
from tests.actors.supervision_model import FAILED, GAVE_UP, IGNORED, READY, RUNNING, Below, Model, Node, Worker

HANGS = "hangs"
"""A start of which the test says later what becomes of it."""

# ------------------------------------------------------------------------------------------------ trees and programs

restart_types = st.sampled_from(RestartType)


@st.composite
def workers(draw: st.DrawFn, auto_shutdown: AutoShutdown, number: int = 0) -> Worker:
    restart = draw(restart_types)
    may_be_significant = auto_shutdown is not AutoShutdown.NEVER and restart is not RestartType.PERMANENT
    return Worker(
        restart=restart,
        significant=may_be_significant and draw(st.booleans()),
        announces=draw(st.sampled_from([True, True, False])),
        # No two backoffs end at the same instant: whose restart comes first would be the scheduler's whim.
        delay=draw(st.sampled_from([0.0, 0.0, 0.0, 10 + number + draw(st.integers(1, 997)) / 1000])),
        shutdown=draw(st.sampled_from([5.0, 0.0])),
    )


@st.composite
def supervisors(draw: st.DrawFn, depth: int, above: AutoShutdown = AutoShutdown.NEVER) -> Below:
    auto_shutdown = draw(st.sampled_from([AutoShutdown.NEVER, *AutoShutdown]))
    restart = draw(restart_types)
    may_be_significant = above is not AutoShutdown.NEVER and restart is not RestartType.PERMANENT
    children: list[tuple[str, Worker | Below]] = []
    for number in range(draw(st.integers(0 if depth else 1, 4))):
        if depth and draw(st.integers(0, 2)) == 0:
            children.append((f"s{number}", draw(supervisors(depth - 1, auto_shutdown))))
        else:
            children.append((f"w{number}", draw(workers(auto_shutdown, number))))
    return Below(
        strategy=draw(st.sampled_from(Strategy)),
        auto_shutdown=auto_shutdown,
        restarts=draw(st.sampled_from([0, 1, 2, 3, 100])),
        within=draw(st.sampled_from([5.0, 100.0])),
        children=tuple(children),
        restart=restart,
        significant=may_be_significant and draw(st.booleans()),
    )


Deed = tuple[str, int, int]
DEEDS = (
    *("crash", "crash", "crash", "return", "script", "start", "start_slowly", "terminate", "restart", "delete"),
    *("wait", "disturb", "disturb"),
)
deeds = st.tuples(st.sampled_from(DEEDS), st.integers(0, 63), st.integers(0, 63))


# ------------------------------------------------------------------------------------------------ the real tree


class BrokenError(Exception):
    pass


class Stage:
    """The actors of a tree, and what the test tells them."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.outcomes: dict[str, deque[str]] = defaultdict(deque)
        self.releases: dict[str, Callable[[str], None]] = {}
        """By path, for the starts that hang."""

    def spec(self, id: str, shape: Worker | Below, above: str) -> ChildSpec[Any] | SupervisorSpec:
        path = f"{above.rstrip('/')}/{id}"
        options: dict[str, Any] = {"restart": shape.restart, "significant": shape.significant}
        if shape.delay:
            options["backoff"] = Backoff(shape.delay, factor=1, maximum=shape.delay, jitter=0)
        if isinstance(shape, Worker):
            actor = self._announcing if shape.announces else self._act
            return ChildSpec(id, actor, path, shutdown=shape.shutdown, **options)
        return SupervisorSpec(id, **options, **self.options(shape, path))

    def options(self, shape: Below, path: str) -> dict[str, Any]:
        return {
            "strategy": shape.strategy,
            "auto_shutdown": shape.auto_shutdown,
            "intensity": Intensity(shape.restarts, within=shape.within),
            "children": [self.spec(id, child, path) for id, child in shape.children],
        }

    async def _act(self, mailbox: Mailbox[Any], path: str) -> None:
        self.runs[path] += 1
        await self._obey(mailbox)

    async def _obey(self, mailbox: Mailbox[Any]) -> None:
        async for message in mailbox:
            if message == "crash":
                raise BrokenError
            return

    async def _announcing(
        self, mailbox: Mailbox[Any], path: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.runs[path] += 1
        outcomes = self.outcomes[path]
        outcome = outcomes.popleft() if outcomes else READY
        if outcome == HANGS:
            outcome = await self._hang(mailbox, path)
        if outcome == FAILED:
            raise BrokenError
        if outcome == IGNORED:
            return
        task_status.started()
        await self._obey(mailbox)

    async def _hang(self, mailbox: Mailbox[Any], path: str) -> str:
        """Waits until the test says what becomes of the start, or the actor is stopped."""
        outcomes: list[str] = []

        def release(outcome: str) -> None:
            outcomes.append(outcome)
            scope.cancel()

        self.releases[path] = release
        with trio.CancelScope() as scope:
            await mailbox.stopping.wait()
        del self.releases[path]
        return outcomes[0] if outcomes else IGNORED


class Play:
    """A real tree and its model, to which the same is done. Each deed is done to the model first."""

    def __init__(self, shape: Below, clock: MockClock) -> None:
        self.model = Model(shape)
        self.stage = Stage()
        self.clock = clock
        self.added = 0
        self.top: Any = None

    def real(self, node: Node) -> Any:
        return self.top if node.parent is None else self.top.registry[node.path]

    @staticmethod
    def pick(nodes: list[Node], number: int) -> Node | None:
        nodes.sort(key=lambda node: node.path)
        return nodes[number % len(nodes)] if nodes else None

    async def do(self, deed: Deed) -> None:
        name, first, second = deed
        await getattr(self, f"_{name}")(first, second)
        await wait_all_tasks_blocked()
        self.check()

    def check(self) -> None:
        """Whether the tree is as the model says."""
        assert self.model.over is None, "the block should have been cancelled"
        assert self.stage.runs == self.model.runs
        names = set()
        for supervisor in self.model.supervisors():
            ref = self.real(supervisor)
            shown = [(child.id, child.state.value, child.restarts) for child in ref.which_children()]
            assert shown == [(child.id, child.state, child.restarts) for child in supervisor.children]
            assert ref.count_children() == counts(supervisor)
            names |= {child.path for child in supervisor.children}
        assert names <= set(self.top.registry)

    # ---------------------------------------------------------------------------------------- what actors do

    async def _crash(self, first: int, second: int) -> None:
        self._tell(first, "crash", "crashed")

    async def _return(self, first: int, second: int) -> None:
        self._tell(first, "return", "normal")

    def _tell(self, number: int, message: str, reason: str) -> None:
        worker = self.pick(list(self.model.workers()), number)
        if worker is not None:
            ref = self.real(worker)
            self.model.ends(worker, reason)
            ref.tell(message)

    async def _script(self, first: int, second: int) -> None:
        """Says what becomes of an actor's next starts."""
        worker = self.pick([node for node in self.model.workers() if node.shape.announces], first)  # type: ignore[union-attr]
        if worker is not None:
            outcomes = [[FAILED], [IGNORED], [FAILED, FAILED], [READY, FAILED], [FAILED, IGNORED]][second % 5]
            self.model.outcomes[worker.path].extend(outcomes)
            self.stage.outcomes[worker.path].extend(outcomes)

    async def _wait(self, first: int, second: int) -> None:
        """Waits until the next backoff is over, or for a while."""
        instant = self.model.next_instant()
        if instant is None:
            instant = self.model.now + 7
        self.clock.jump(instant - self.model.now + 1e-6)
        self.model.advance(instant + 1e-6)

    # ---------------------------------------------------------------------------------------- calls

    async def _called(self, expected: str, call: Awaitable[object]) -> None:
        raised = ""
        try:
            await call
        except PlaybillError as error:
            raised = type(error).__name__
        assert raised == expected

    def _new(self, supervisor: Node, number: int) -> tuple[str, Worker | Below]:
        """A child to be added, or one of an id that is taken."""
        if number % 5 == 0 and supervisor.children:
            return supervisor.children[0].id, Worker()
        self.added += 1
        if number % 5 == 1:
            children = (("a", Worker(announces=True)), ("b", Worker()))
            return f"x{self.added}", Below(children=children, strategy=list(Strategy)[number % 3])
        return f"x{self.added}", Worker(restart=list(RestartType)[number % 3], announces=number % 2 == 0)

    async def _start(self, first: int, second: int) -> None:
        supervisor = self.pick(list(self.model.supervisors()), first)
        assert supervisor is not None
        id, shape = self._new(supervisor, second)
        ref = self.real(supervisor)
        expected = self.model.start_child(supervisor, id, shape)
        await self._called(expected, ref.start_child(self.stage.spec(id, shape, supervisor.path)))

    async def _terminate(self, first: int, second: int) -> None:
        await self._call_about(first, second, "terminate_child")

    async def _restart(self, first: int, second: int) -> None:
        await self._call_about(first, second, "restart_child")

    async def _delete(self, first: int, second: int) -> None:
        await self._call_about(first, second, "delete_child")

    async def _call_about(self, first: int, second: int, call: str) -> None:
        supervisor = self.pick(list(self.model.supervisors()), first)
        assert supervisor is not None
        child = self.pick(list(supervisor.children), second)
        id = "nobody" if child is None or second == 63 else child.id
        ref = self.real(supervisor)
        expected = getattr(self.model, call)(supervisor, id)
        await self._called(expected, getattr(ref, call)(id))

    # ---------------------------------------------------------------------------------------- in the middle of a start

    async def _start_slowly(self, first: int, second: int) -> None:
        """A start that is cancelled, fails or succeeds, perhaps after a sibling crashed in the middle of it."""
        supervisor = self.pick(list(self.model.supervisors()), first)
        assert supervisor is not None
        self.added += 1
        id, shape = f"x{self.added}", Worker(restart=list(RestartType)[second % 2], announces=True)
        path = f"{supervisor.path.rstrip('/')}/{id}"
        self.stage.outcomes[path].append(HANGS)
        ref = self.real(supervisor)
        spec = self.stage.spec(id, shape, supervisor.path)
        async with trio.open_nursery() as nursery:
            if second % 3 == 0:
                nursery.start_soon(ref.start_child, spec)
                await wait_all_tasks_blocked()
                self.model.runs[path] += 1
                nursery.cancel_scope.cancel()
            elif second % 3 == 1:
                self.model.outcomes[path].append(FAILED)
                expected = self.model.start_child(supervisor, id, shape)
                nursery.start_soon(self._called, expected, ref.start_child(spec))
                await wait_all_tasks_blocked()
                self.stage.releases[path](FAILED)
            else:
                crashing = self._restartable(supervisor, second)
                expected = self.model.start_child(supervisor, id, shape)
                nursery.start_soon(self._called, expected, ref.start_child(spec))
                await wait_all_tasks_blocked()
                if crashing is not None:
                    real = self.real(crashing)
                    self.model.ends(crashing, "crashed")
                    supervisor.children[-1].restarts = 0  # it had never been ready
                    real.tell("crash")
                    await wait_all_tasks_blocked()
                if path in self.stage.releases:
                    self.stage.releases[path](READY)

    def _quiet(self, supervisor: Node) -> bool:
        """Whether all of its children can be restarted without anything special."""
        below = [node for node in supervisor.children if not node.is_worker]
        return (
            not any(node.state == "restarting" for node in supervisor.children)
            and not any(
                outcomes and path.startswith(supervisor.path.rstrip("/") + "/")
                for path, outcomes in self.model.outcomes.items()
            )
            and all(self._quiet(node) for node in below)
        )

    def _restartable(self, supervisor: Node, number: int) -> Node | None:
        """A child that can crash without a backoff and without the supervisor giving up."""
        if not self._quiet(supervisor) or not self.model.admits(supervisor):
            return None
        return self.pick(
            [
                child
                for child in supervisor.children
                if child.is_worker and child.state == RUNNING and not child.is_temporary and not child.shape.delay
            ],
            number,
        )

    async def _disturb(self, first: int, second: int) -> None:
        """A restart of several, in which one takes its time; in the middle of it something else happens."""
        groups = [node for node in self.model.supervisors() if node.below.strategy is not Strategy.ONE_FOR_ONE]
        supervisor = self.pick(groups, first)
        crashing = None if supervisor is None else self._restartable(supervisor, second)
        if supervisor is None or crashing is None:
            return
        group = [node for node in self.model.group(supervisor, crashing) if not node.is_temporary]
        slow = self.pick(
            [node for node in group if isinstance(node.shape, Worker) and node.shape.announces], second // 4
        )
        if slow is None:
            return
        after = group[group.index(slow) + 1 :]
        self.stage.outcomes[slow.path].append(HANGS)
        self.real(crashing).tell("crash")
        await wait_all_tasks_blocked()
        shown = {child.id: child.state.value for child in self.real(supervisor).which_children()}
        assert {shown[node.id] for node in [slow, *after]} == {"restarting"}
        middle = (self._succeed, self._fail, self._terminate_it, self._terminate_later, self._refuse, self._crash_again)
        await middle[second % 6](supervisor, crashing, slow, after)

    async def _succeed(self, supervisor: Node, crashing: Node, slow: Node, after: list[Node]) -> None:
        self.model.ends(crashing, "crashed")
        self.stage.releases[slow.path](READY)

    async def _fail(self, supervisor: Node, crashing: Node, slow: Node, after: list[Node]) -> None:
        self.model.outcomes[slow.path].append(FAILED)
        self.model.ends(crashing, "crashed")
        self.stage.releases[slow.path](FAILED)

    async def _terminate_it(self, supervisor: Node, crashing: Node, slow: Node, after: list[Node]) -> None:
        self.model.ends(crashing, "crashed")
        await self._called(
            self.model.terminate_child(supervisor, slow.id), self.real(supervisor).terminate_child(slow.id)
        )

    async def _terminate_later(self, supervisor: Node, crashing: Node, slow: Node, after: list[Node]) -> None:
        self.model.ends(crashing, "crashed")
        later = self.pick([node for node in after if node.is_worker], 0)
        if later is not None:
            self.model.terminate_child(supervisor, later.id)
            self.model.runs[later.path] -= 1  # its turn had not come
            await self.real(supervisor).terminate_child(later.id)
        self.stage.releases[slow.path](READY)

    async def _refuse(self, supervisor: Node, crashing: Node, slow: Node, after: list[Node]) -> None:
        self.model.ends(crashing, "crashed")
        ref = self.real(supervisor)
        for node in [slow, *after]:
            await self._called("ChildRunningError", ref.restart_child(node.id))
            await self._called("ChildRunningError", ref.delete_child(node.id))
        self.stage.releases[slow.path](READY)

    async def _crash_again(self, supervisor: Node, crashing: Node, slow: Node, after: list[Node]) -> None:
        """Another crash, before or in the group: it is followed when the slow one is ready, or at once if too many."""
        self.model.ends(crashing, "crashed")
        again = [
            child
            for child in supervisor.children[: supervisor.children.index(slow)]
            if child.is_worker and child.state == RUNNING and not child.is_temporary and not child.shape.delay
        ]
        another = self.pick(again, 0)
        if another is not None:
            real = self.real(another)
            self.model.ends(another, "crashed")
            real.tell("crash")
            await wait_all_tasks_blocked()
        if slow.path in self.stage.releases:
            self.stage.releases[slow.path](READY)
        await wait_all_tasks_blocked()
        self._adopt_counts()

    def _adopt_counts(self) -> None:
        """Those after the slow one were started once for both restarts, and not once for each as in the model."""
        self.model.runs = Counter(self.stage.runs)
        for supervisor in self.model.supervisors():
            for child in self.real(supervisor).which_children():
                node = supervisor.find(child.id)
                assert node is not None
                node.restarts = child.restarts


def counts(supervisor: Node) -> ChildCounts:
    children = supervisor.children
    return ChildCounts(
        specs=len(children),
        active=sum(child.state == RUNNING for child in children),
        supervisors=sum(not child.is_worker for child in children),
        workers=sum(child.is_worker for child in children),
    )


# ------------------------------------------------------------------------------------------------ the play


async def play(shape: Below, program: list[Deed], clock: MockClock) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    performance = Play(shape, clock)
    model, finished, raised = performance.model, False, None
    try:
        async with open_supervisor(**performance.stage.options(shape, "/")) as performance.top:
            await wait_all_tasks_blocked()
            performance.check()
            for deed in program:
                await performance.do(deed)
            finished = True
    except RestartIntensityError:
        raised = GAVE_UP
    assert finished is (model.over is None)
    assert raised == (GAVE_UP if model.over == GAVE_UP else None)
    assert dict(performance.top.registry) == {}
    assert trio.lowlevel.current_statistics().tasks_living == tasks


def perform(shape: Below, program: list[Deed]) -> None:
    clock = MockClock()
    trio.run(play, shape, program, clock, clock=clock)


@st.composite
def trees(draw: st.DrawFn) -> Below:
    """With top supervisors that bear more than those below: else there is little to see."""
    return attrs.evolve(
        draw(supervisors(depth=2)), restarts=draw(st.sampled_from([1, 5, 100, 100])), restart=RestartType.PERMANENT
    )


thorough = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], print_blob=True
)


@given(trees(), st.lists(deeds, min_size=5, max_size=30))
@settings(thorough, max_examples=150)
def test_random_trees_do_what_the_model_does(shape: Below, program: list[Deed]) -> None:
    perform(shape, program)


@pytest.mark.long
@given(trees(), st.lists(deeds, min_size=20, max_size=80))
@settings(thorough, max_examples=2000)
def test_many_random_trees_do_what_the_model_does(shape: Below, program: list[Deed]) -> None:
    perform(shape, program)
