"""The children of one supervisor, and the task that owns them.

A supervisor is a task (`live`) with a nursery. It starts the children of its list, says that it is ready, waits until
it is to end, and stops its children in reverse. In between it does the restarts of several children at once (`_group`).
Whatever else follows the end of a child follows in the task of that child (`_end`), and what callers ask for happens in
theirs (`_calls`). Whoever has waited looks again.

The supervisor ends because it was asked to (`close`), because a restart was one too many, or with its significant
children, and then whether it comes back is for its own supervisor to say. Until that is known the inboxes below stay
open: their messages survive a restart. They are closed (`retire`) when the end is for good.

A `Family` outlives the runs of its supervisor: the children of the list are the same objects in each of them, so that
refs and inboxes stay.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..alone import alone
from ..errors import ActorStoppedError, ChildExistsError, ChildStartError, RestartIntensityError
from . import _end, _group, _run
from ._child import Child, Phase
from ._tree import Tree
from .restarts import RestartWindow
from .specification import AnySpec, Plan, SupervisorSpec
from .supervisor_ref import SupervisorRef
from .watching import EndReason


class Family:
    """The children of one supervisor. The rules stand in the module's docstring."""

    nursery: trio.Nursery

    def __init__(self, tree: Tree, plan: Plan, prefix: str, parent: Family | None) -> None:
        self.tree = tree
        self.plan = plan
        self.path = prefix or "/"
        self.itself: Child | None = None
        """The supervisor as its own supervisor's child; None for the top one."""
        self.block = trio.CancelScope()
        """Around the block of the top supervisor; cancelled when the supervisor ends by itself."""
        self.children: dict[str, Child] = {}
        """In the order in which they are started."""
        self.serving = False
        self.failure: RestartIntensityError | None = None
        self.starting: Child | None = None
        """The child that the supervisor's task waits for to be ready."""
        self.opening: Child | None = None
        """The child of the list that it is starting; if that fails, so does the supervisor."""
        self._prefix = prefix
        self._parent = parent
        self._changed: trio.Event | None = None
        """Set when it begins to serve, or will not any more; for calls that wait for it."""
        self.prepare()

    def prepare(self) -> None:
        """A run is about to be spawned; from now on it can be closed."""
        self.window = RestartWindow(self.plan.intensity)
        self.closed = False
        """The run is to end."""
        self.final = False
        """It is to end for good, as far as is known."""
        self.listed = False
        """All children of the list have been started."""
        self.ended_significant = False
        """A significant child has ended before they were."""
        self.marked = False
        """Children were marked for a restart, and the supervisor's task has not looked at them."""
        self._woken: trio.Event | None = None

    # -------------------------------------------------------------------------------------------- the supervisor's task

    @trio.lowlevel.enable_ki_protection  # half a bookkeeping leaves somebody waiting for a child that is gone
    async def live(self, ready: Callable[[], None]) -> RestartIntensityError | None:
        """One run of the supervisor.

        Args:
            ready: called when all children of the list are ready.

        Returns:
            Why it gave up, or None if it was asked to end or shut down with its significant children.

        Raises:
            ChildStartError: a child of the list failed to start; those started before it have been stopped.
        """
        failed: ChildStartError | None = None
        try:
            with alone():
                async with trio.open_nursery() as self.nursery:
                    self._gather()
                    self.serving = not self.closed
                    self._change()
                    try:
                        failed = await self._start_list()
                        if failed is None and not self.closed:
                            self.listed = True
                            ready()
                            _end.look_back(self)
                            await _group.serve(self)
                    finally:
                        # A Ctrl-C in the task of a child cancels the nursery too; it takes nobody in from here on.
                        self.close(final=self.itself is None)
                    await self._stop_children()
            if failed is not None:
                raise failed
            return self.failure
        finally:
            self.serving = False
            self.failure = None
            del failed  # its traceback holds this frame

    def _gather(self) -> None:
        """The children of the list, and no others: those that are known already, and new ones."""
        listed = {spec.id: spec for spec in self.plan.children}
        known: dict[str, Child] = {}
        for id, child in self.children.items():
            if listed.get(id) is child.spec:
                known[id] = child
            else:
                self._bury(child)
        self.children = {}
        for id, spec in listed.items():
            if id in known:
                self.children[id] = known[id]
            else:
                self.add(spec)

    async def _start_list(self) -> ChildStartError | None:
        for child in list(self.children.values()):
            _group.mark_due(self)
            self.starting = child
            try:
                if child.start is not None:  # `restart_child` came first; it is its caller who is told if that fails
                    await child.start.settled.wait()
                elif child.phase is Phase.STOPPED and not self.closed and self.children.get(child.spec.id) is child:
                    self.opening = child
                    await _run.start(self, child, forget=False)
            except ChildStartError as error:
                return error
            except ActorStoppedError:
                break
            finally:
                self.starting = self.opening = None
        return None

    async def _stop_children(self) -> None:
        for child in reversed(list(self.children.values())):
            if child.phase is not Phase.STOPPED:
                _run.ask_to_stop(self, child)
                await child.ended()

    def close(self, *, final: bool) -> None:
        """Asks the supervisor to end; `final` if it is not to come back."""
        self.final = self.final or final
        self.serving = False
        if self.closed:
            return
        self.closed = True
        for child in list(self.children.values()):
            if child.phase is Phase.DUE:
                self.lay_down(child)
        if self.starting is not None and self.starting.phase is not Phase.STOPPED:
            _run.ask_to_stop(self, self.starting)
        self.wake()

    def retire(self) -> None:
        """The supervisor is stopped, and is not to come back by itself: messages below it are given up.

        The children of the list stay known, since `restart_child` may bring the supervisor back.
        """
        listed = {spec.id: spec for spec in self.plan.children}
        for child in list(self.children.values()):
            if listed.get(child.spec.id) is child.spec:
                child.retire()
            else:
                self.forget(child)
        self._change()

    def bury(self) -> None:
        """The supervisor's specification has gone, and with it all below."""
        for child in list(self.children.values()):
            self.forget(child)
        self._change()

    async def woken(self) -> None:
        """Waits until there is something to do for the supervisor's task."""
        woken = self._woken = trio.Event()
        await woken.wait()

    def wake(self) -> None:
        """There is something to do for the supervisor's task; if it does not wait, it looks by itself."""
        if self._woken is not None:
            self._woken.set()

    # -------------------------------------------------------------------------------------------- the children

    def add(self, spec: AnySpec, *, keep: bool = True) -> Child:
        """Takes a specification in; nothing is started.

        Raises:
            ChildExistsError: its id or its path is taken.
        """
        id = spec.id
        path = f"{self._prefix}/{id}"
        names = self.tree.names
        if id in self.children or path in names:
            raise ChildExistsError(id)
        family = None
        if isinstance(spec, SupervisorSpec):
            plan = Plan(spec.strategy, spec.intensity, tuple(spec.children), spec.auto_shutdown)
            family = Family(self.tree, plan, path, self)
        child = Child(spec, path, self.tree, family, keep=keep)
        if family is not None:
            family.itself = child
            child.ref = SupervisorRef(family, child)
        self.children[id] = child
        names[path] = child.ref
        return child

    def forget(self, child: Child) -> None:
        """Takes the specification of a child that is stopped away."""
        del self.children[child.spec.id]
        self._bury(child)

    def _bury(self, child: Child) -> None:
        del self.tree.names[child.path]
        child.retire()
        child.finish()
        if child.family is not None:
            child.family.bury()
        if not child.keep:
            # Of these there are many: without the cycle of child and ref they go at once, not with the collector.
            del child.ref

    def ended(self, child: Child, reason: EndReason, error: Exception | None) -> None:
        """A child's run has ended."""
        _end.ended(self, child, reason, error)

    def lay_down(self, child: Child) -> None:
        """A child that is due is not started any more."""
        _end.lay_down(self, child)

    # -------------------------------------------------------------------------------------------- who may call

    def _change(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    def _is_over(self) -> bool:
        """Whether it is certain that the supervisor serves no more, unless somebody restarts it."""
        if self.serving:
            return False
        itself, parent = self.itself, self._parent
        if itself is None or parent is None or itself.over:
            return True
        if itself.phase not in (Phase.STOPPED, Phase.STOPPING):
            return False
        if itself.comes_back:
            return parent._is_over()
        return itself.final or parent.serving or parent._is_over()

    async def served(self) -> None:
        """Waits until calls are served. A checkpoint if it has to wait, else a cancel point.

        Raises:
            ActorStoppedError: they are not served any more.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.serving:
            if self._is_over():
                raise self.ended_error()
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()

    def ended_error(self) -> ActorStoppedError:
        return ActorStoppedError(f"the supervisor {self.path} has ended, or is ending")
