"""A small model of a supervision tree, at rest after each thing that is done to it.

It is written from the design and from OTP's page on `supervisor`, not from the code: no tasks, no phases, no waits; a
restart is a few lists walked up and down. What takes time, a backoff, is an instant at which somebody calls `advance`.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator

import attrs

from engine.actors import AutoShutdown, RestartType, Strategy

READY, FAILED, IGNORED = "ready", "failed", "ignored"
RUNNING, RESTARTING, STOPPED = "running", "restarting", "stopped"
GAVE_UP, SHUT_DOWN = "gave up", "shut down"

PERMANENT, TRANSIENT, TEMPORARY = RestartType.PERMANENT, RestartType.TRANSIENT, RestartType.TEMPORARY


@attrs.frozen(eq=False)
class Worker:
    """What an actor is to be."""

    restart: RestartType = PERMANENT
    significant: bool = False
    announces: bool = False
    delay: float = 0.0
    """Its backoff, the same before each restart; 0 for none."""
    shutdown: float = 5.0


@attrs.frozen(eq=False)
class Below:
    """What a supervisor is to be."""

    strategy: Strategy = Strategy.ONE_FOR_ONE
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER
    restarts: int = 1
    within: float = 100.0
    children: tuple[tuple[str, Worker | Below], ...] = ()
    restart: RestartType = PERMANENT
    significant: bool = False
    delay: float = 0.0


class Node:
    """One child, or the top supervisor."""

    def __init__(self, id: str, shape: Worker | Below, parent: Node | None) -> None:
        self.id = id
        self.shape = shape
        self.parent = parent
        self.path: str = f"{parent.path.rstrip('/')}/{id}" if parent is not None else "/"
        self.state = STOPPED
        self.restarts = 0
        self.due = 0.0
        self.children: list[Node] = []
        self.instants: list[float] = []
        self.generation = 0

    @property
    def below(self) -> Below:
        assert isinstance(self.shape, Below)
        return self.shape

    @property
    def is_worker(self) -> bool:
        return isinstance(self.shape, Worker)

    @property
    def is_temporary(self) -> bool:
        return self.shape.restart is TEMPORARY

    def find(self, id: str) -> Node | None:
        return next((child for child in self.children if child.id == id), None)


class Model:
    """The tree."""

    def __init__(self, top: Below) -> None:
        self.now = 0.0
        self.over: str | None = None
        """How the top supervisor ended by itself."""
        self.runs: Counter[str] = Counter()
        """How many runs each actor has begun."""
        self.outcomes: dict[str, deque[str]] = defaultdict(deque)
        """What becomes of the next starts of actors that say when they are ready."""
        self.top = Node("", top, None)
        self.start(self.top)

    # ---------------------------------------------------------------------------------------- looking

    def supervisors(self) -> Iterator[Node]:
        """Those that run."""
        waiting = [self.top]
        while waiting:
            node = waiting.pop()
            if not node.is_worker and node.state == RUNNING:
                yield node
                waiting.extend(node.children)

    def workers(self) -> Iterator[Node]:
        """Those that run."""
        for supervisor in self.supervisors():
            yield from (child for child in supervisor.children if child.is_worker and child.state == RUNNING)

    def admits(self, supervisor: Node) -> bool:
        """Whether one more restart is borne."""
        recent = [instant for instant in supervisor.instants if self.now - instant <= supervisor.below.within]
        return len(recent) + 1 <= supervisor.below.restarts

    def group(self, supervisor: Node, child: Node) -> list[Node]:
        """Who is restarted with a child."""
        children = supervisor.children
        match supervisor.below.strategy:
            case Strategy.ONE_FOR_ONE:
                return [child]
            case Strategy.REST_FOR_ONE:
                return children[children.index(child) :]
            case Strategy.ONE_FOR_ALL:
                return list(children)

    def next_instant(self) -> float | None:
        """When a backoff is over, the next one."""
        instants = []
        for supervisor in self.supervisors():
            dues = [child.due for child in supervisor.children if child.state == RESTARTING]
            if dues:
                instants.append(min(dues) if supervisor.below.strategy is Strategy.ONE_FOR_ONE else max(dues))
        return min(instants, default=None)

    # ---------------------------------------------------------------------------------------- starting and stopping

    def start(self, node: Node) -> str:
        if isinstance(node.shape, Worker):
            self.runs[node.path] += 1
            outcomes = self.outcomes[node.path]
            outcome = outcomes.popleft() if node.shape.announces and outcomes else READY
            node.state = RUNNING if outcome == READY else STOPPED
            return outcome
        node.generation += 1
        node.instants = []
        known = {child.id: child for child in node.children}
        node.children = []
        for id, shape in node.shape.children:
            child = known.get(id)
            if child is None or child.shape is not shape:
                child = Node(id, shape, node)
            node.children.append(child)
        for child in list(node.children):
            outcome = self.start(child)
            if outcome == FAILED:
                self.stop(node)
                return FAILED
            if outcome == IGNORED and child.is_temporary:
                node.children.remove(child)
        node.state = RUNNING
        return READY

    def stop(self, node: Node) -> None:
        for child in reversed(node.children):
            self.stop(child)
        node.state = STOPPED

    # ---------------------------------------------------------------------------------------- ends and restarts

    def ends(self, child: Node, reason: str) -> None:
        """A child ends by itself: `normal`, `crashed` or `shutdown`."""
        supervisor = child.parent
        assert supervisor is not None
        child.state = STOPPED
        if child.shape.restart is PERMANENT or (child.shape.restart is TRANSIENT and reason == "crashed"):
            self.restart(supervisor, child)
            return
        if child.is_temporary:
            supervisor.children.remove(child)
        if child.shape.significant:
            left = any(other.shape.significant and other.state != STOPPED for other in supervisor.children)
            rule = supervisor.below.auto_shutdown
            if rule is AutoShutdown.ANY_SIGNIFICANT or (rule is AutoShutdown.ALL_SIGNIFICANT and not left):
                self.leave(supervisor, SHUT_DOWN)

    def leave(self, supervisor: Node, how: str) -> None:
        """A supervisor ends by itself."""
        self.stop(supervisor)
        if supervisor.parent is None:
            self.over = how
        else:
            self.ends(supervisor, "shutdown")

    def restart(self, supervisor: Node, child: Node) -> None:
        if not self.admits(supervisor):
            self.leave(supervisor, GAVE_UP)
            return
        supervisor.instants.append(self.now)
        child.state = RESTARTING
        child.restarts += 1
        child.due = self.now + child.shape.delay
        for other in reversed(self.group(supervisor, child)):
            if other is child or other.state == RESTARTING:
                continue
            self.stop(other)
            if other.is_temporary:
                supervisor.children.remove(other)
            else:
                other.state = RESTARTING
                other.restarts += 1
                other.due = self.now
        self.resume(supervisor)

    def resume(self, supervisor: Node) -> None:
        """Starts what is due: under `one_for_one` each by itself, else all when the last backoff is over."""
        generation = supervisor.generation
        due = [child for child in supervisor.children if child.state == RESTARTING]
        if supervisor.below.strategy is Strategy.ONE_FOR_ONE:
            due = [child for child in due if child.due <= self.now]
        elif any(child.due > self.now for child in due):
            return
        for child in due:
            if self.start(child) == FAILED:
                self.restart(supervisor, child)
                return
            if supervisor.generation != generation:
                return

    def advance(self, instant: float) -> None:
        """Time passes, and the backoff that was over next is."""
        self.now = instant
        for supervisor in list(self.supervisors()):
            self.resume(supervisor)

    # ---------------------------------------------------------------------------------------- calls

    def start_child(self, supervisor: Node, id: str, shape: Worker | Below) -> str:
        if supervisor.find(id) is not None:
            return "ChildExistsError"
        child = Node(id, shape, supervisor)
        supervisor.children.append(child)
        outcome = self.start(child)
        if outcome == FAILED or (outcome == IGNORED and child.is_temporary):
            supervisor.children.remove(child)
        return "ChildStartError" if outcome == FAILED else ""

    def terminate_child(self, supervisor: Node, id: str) -> str:
        child = supervisor.find(id)
        if child is None:
            return "ChildNotFoundError"
        if child.state == STOPPED:
            return ""
        self.stop(child)
        if child.is_temporary:
            supervisor.children.remove(child)
        self.resume(supervisor)
        return ""

    def restart_child(self, supervisor: Node, id: str) -> str:
        child = supervisor.find(id)
        if child is None:
            return "ChildNotFoundError"
        if child.state != STOPPED:
            return "ChildRunningError"
        return "ChildStartError" if self.start(child) == FAILED else ""

    def delete_child(self, supervisor: Node, id: str) -> str:
        child = supervisor.find(id)
        if child is None:
            return "ChildNotFoundError"
        if child.state != STOPPED:
            return "ChildRunningError"
        supervisor.children.remove(child)
        return ""
