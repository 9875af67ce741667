"""The children of one supervisor, and the task that owns them.

A supervisor is a task (`live`) with a nursery. It starts the children of its list, says that it is ready, waits until
it is to end, and stops its children in reverse. In between it does nothing: what follows the end of a child follows at
once, in the task of that child (`_ended`), and what callers ask for happens in theirs. Whoever has waited looks again.

The supervisor ends because it was asked to (`close`), or because a restart was one too many (`_give_up`), and then
whether it comes back is for its own supervisor to say. Until that is known the inboxes below stay open: their messages
survive a restart. They are closed (`retire`) when the end is for good.

A `Family` outlives the runs of its supervisor: the children of the list are the same objects in each of them, so that
refs and inboxes stay.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from ..alone import alone
from ..errors import (
    ActorStoppedError,
    ChildExistsError,
    ChildNotFoundError,
    ChildRunningError,
    ChildSpecError,
    ChildStartError,
    RestartIntensityError,
)
from ._child import Child, Phase, Start
from ._tree import Tree
from .children import ChildCounts, ChildInfo
from .mailbox import Mailbox
from .ref import Ref
from .restarts import Decision, RestartWindow, backoff_delay, decide
from .specification import AnySpec, ChildSpec, Plan, RestartType, SupervisorSpec
from .supervisor_ref import SupervisorRef
from .watching import EndReason


class Readiness:
    """What an actor with a `task_status` keyword is given: a `trio.TaskStatus`."""

    __slots__ = ("_called", "_child", "_family")

    def __init__(self, family: Family, child: Child) -> None:
        self._family = family
        self._child = child
        self._called = False

    def started(self, value: object = None) -> None:
        """Says that the actor is ready. The value goes nowhere: callers get a ref.

        Raises:
            RuntimeError: it has said so before.
        """
        if self._called:
            raise RuntimeError("called 'started' twice in one run of an actor")
        self._called = True
        self._family.is_ready(self._child)


@trio.lowlevel.disable_ki_protection  # what is around it is the supervisor's; the actor's own code ends at a Ctrl-C
async def _perform(
    actor: Callable[..., Awaitable[object]],
    mailbox: Mailbox[Any] | None,
    args: tuple[Any, ...],
    keywords: dict[str, Any],
) -> None:
    await actor(mailbox, *args, **keywords)


class Family:
    """The children of one supervisor. The rules stand in the module's docstring."""

    def __init__(self, tree: Tree, plan: Plan, prefix: str, parent: Family | None) -> None:
        self._tree = tree
        self._plan = plan
        self._prefix = prefix
        self._parent = parent
        self.path = prefix or "/"
        self.itself: Child | None = None
        """The supervisor as its own supervisor's child; None for the top one."""
        self.block = trio.CancelScope()
        """Around the block of the top supervisor; cancelled when it gives up."""
        self._children: dict[str, Child] = {}
        self._window = RestartWindow(plan.intensity)
        self._serving = False
        self._final = False
        """It is ending for good, as far as is known."""
        self._closing: trio.Event
        """Set when the run is to end."""
        self._starting: Child | None = None
        """The child of the list that is being started."""
        self._changed: trio.Event | None = None
        """Set when it begins to serve, or will not any more; for calls that wait for it."""
        self._nursery: trio.Nursery
        self._failure: RestartIntensityError | None = None

    # -------------------------------------------------------------------------------------------- the supervisor's task

    def prepare(self) -> None:
        """A run is about to be spawned; from now on it can be closed."""
        self._window = RestartWindow(self._plan.intensity)
        self._closing = trio.Event()
        self._final = False

    @trio.lowlevel.enable_ki_protection  # half a bookkeeping leaves somebody waiting for a child that is gone
    async def live(self, ready: Callable[[], None]) -> RestartIntensityError | None:
        """One run of the supervisor.

        Args:
            ready: called when all children of the list are ready.

        Returns:
            Why it gave up, or None if it was asked to end.

        Raises:
            ChildStartError: a child of the list failed to start; those started before it have been stopped.
        """
        closing = self._closing
        failed: ChildStartError | None = None
        try:
            with alone():
                async with trio.open_nursery() as self._nursery:
                    self._gather()
                    self._serving = not closing.is_set()
                    self._change()
                    try:
                        failed = await self._start_list(closing)
                        if failed is None and not closing.is_set():
                            ready()
                            await closing.wait()
                    finally:
                        # A Ctrl-C in the task of a child cancels the nursery too; it takes nobody in from here on.
                        self.close(final=self.itself is None)
                    await self._stop_children()
            if failed is not None:
                raise failed
            return self._failure
        finally:
            self._serving = False
            self._failure = None
            del failed  # its traceback holds this frame

    def _gather(self) -> None:
        """The children of the list, and no others: those that are known already, and new ones."""
        listed = {spec.id: spec for spec in self._plan.children}
        known: dict[str, Child] = {}
        for id, child in self._children.items():
            if listed.get(id) is child.spec:
                known[id] = child
            else:
                self._bury(child)
        self._children = {}
        for id, spec in listed.items():
            if id in known:
                self._children[id] = known[id]
            else:
                self._add(spec)

    async def _start_list(self, closing: trio.Event) -> ChildStartError | None:
        for child in list(self._children.values()):
            if closing.is_set():
                break
            self._starting = child
            try:
                await self._start(child, forget=False)
            except ChildStartError as error:
                return error
            except ActorStoppedError:
                break
            finally:
                self._starting = None
        return None

    async def _stop_children(self) -> None:
        for child in reversed(list(self._children.values())):
            if child.phase is not Phase.STOPPED:
                self._ask_to_stop(child)
                await child.ended()

    def close(self, *, final: bool) -> None:
        """Asks the supervisor to end; `final` if it is not to come back."""
        self._final = self._final or final
        self._serving = False
        if not self._closing.is_set():
            self._closing.set()
            if self._starting is not None and self._starting.phase is not Phase.STOPPED:
                self._ask_to_stop(self._starting)

    def retire(self) -> None:
        """The supervisor is stopped, and is not to come back by itself: messages below it are given up.

        The children of the list stay known, since `restart_child` may bring the supervisor back.
        """
        listed = {spec.id: spec for spec in self._plan.children}
        for child in list(self._children.values()):
            if listed.get(child.spec.id) is child.spec:
                child.retire()
            else:
                self._forget(child)
        self._change()

    def bury(self) -> None:
        """The supervisor's specification has gone, and with it all below."""
        for child in list(self._children.values()):
            self._forget(child)
        self._change()

    # -------------------------------------------------------------------------------------------- a child's run

    def _add(self, spec: AnySpec, *, keep: bool = True) -> Child:
        id = spec.id
        path = f"{self._prefix}/{id}"
        names = self._tree.names
        if id in self._children or path in names:
            raise ChildExistsError(id)
        family = None
        if isinstance(spec, SupervisorSpec):
            plan = Plan(spec.strategy, spec.intensity, tuple(spec.children), spec.auto_shutdown)
            family = Family(self._tree, plan, path, self)
        child = Child(spec, path, self._tree, family, keep=keep)
        if family is not None:
            family.itself = child
        self._children[id] = child
        names[path] = child.ref
        return child

    def _forget(self, child: Child) -> None:
        del self._children[child.spec.id]
        self._bury(child)

    def _bury(self, child: Child) -> None:
        del self._tree.names[child.path]
        child.retire()
        child.finish()
        if child.family is not None:
            child.family.bury()
        if not child.keep:
            # Of these there are many: without the cycle of child and ref they go at once, not with the collector.
            del child.ref

    async def _start(self, child: Child, *, forget: bool) -> None:
        """Starts a child that is stopped, and waits until it is ready. No checkpoint if it need not say so.

        Raises:
            ChildStartError: it raised before.
            ActorStoppedError: it was stopped before.
        """
        child.attempts = 0
        if not child.announces:
            self._spawn(child, Phase.RUNNING)
            return
        start = child.start = Start(forget=forget)
        self._spawn(child, Phase.STARTING)
        try:
            await start.settled.wait()
        except trio.Cancelled:
            await self._abandon(child, start)
            raise
        if start.error is not None:
            error, start.error = start.error, None
            try:
                raise ChildStartError(child.spec.id) from error
            finally:
                del error
        if start.stopped:
            raise ActorStoppedError(f"{self.path} was stopped before its child {child.spec.id!r} was ready")

    async def _abandon(self, child: Child, start: Start) -> None:
        """Whoever waited for a child to be ready was cancelled: so is the child, and gone when this returns."""
        if child.phase is Phase.STOPPED:  # it ended at the same moment
            return
        if start.forget:
            child.keep = False
        child.phase = Phase.STOPPING
        child.final = True
        child.scope.cancel()
        with trio.CancelScope(shield=True):
            await child.ended()

    def _spawn(self, child: Child, phase: Phase, delay: float = 0.0) -> None:
        child.phase = phase
        child.stopped = child.final = False
        child.gone = None
        child.waiting = delay > 0
        child.scope = trio.CancelScope()
        if child.inbox is not None:
            child.inbox.open = True
            child.mailbox = Mailbox(child.inbox)
        if child.family is not None:
            child.family.prepare()
        if child.spec.backoff is not None:
            child.since = trio.current_time() if phase is Phase.RUNNING else math.inf
        spawn: Callable[..., None] = self._nursery.start_soon  # mypy cannot see through two variadic calls
        self._tree.context.run(spawn, self._run, child, delay, name=child.path)

    @trio.lowlevel.enable_ki_protection
    async def _run(self, child: Child, delay: float) -> None:
        error: Exception | None = None
        failure: RestartIntensityError | None = None
        try:
            with child.scope:
                if delay:
                    await trio.sleep(delay)
                    self._backoff_is_over(child)
                spec = child.spec
                if child.family is not None:
                    failure = await child.family.live(Readiness(self, child).started)
                elif isinstance(spec, ChildSpec):
                    announcing = {"task_status": Readiness(self, child)} if spec.announces else {}
                    await _perform(spec.actor, child.mailbox, spec.args, announcing)
        except Exception as raised:  # the user's code ran in there: whatever leaves it is a crash
            error = raised
        except BaseException:  # the whole supervisor is being cancelled, or the process interrupted
            self._ended(child, EndReason.KILLED, None)
            raise
        try:
            if child.phase is Phase.STOPPING:
                reason = EndReason.KILLED if child.scope.cancel_called else EndReason.SHUTDOWN
                self._ended(child, reason, None)
            elif error is not None:
                self._ended(child, EndReason.CRASHED, error)
            elif child.family is not None:
                self._ended(child, EndReason.SHUTDOWN, failure)
            else:
                self._ended(child, EndReason.NORMAL, None)
        finally:
            del error, failure  # their tracebacks hold this frame

    def _backoff_is_over(self, child: Child) -> None:
        child.waiting = False
        if not child.announces:
            self._runs_again(child)

    def is_ready(self, child: Child) -> None:
        """A child that says itself when it is ready has said so."""
        start = child.start
        if start is not None and child.phase is Phase.STARTING:
            child.start = None
            start.settled.set()
            child.phase = Phase.RUNNING
            if child.spec.backoff is not None:
                child.since = trio.current_time()
        elif child.phase is Phase.RESTARTING:
            self._runs_again(child)

    def _runs_again(self, child: Child) -> None:
        child.phase = Phase.RUNNING
        if child.spec.backoff is not None:
            child.since = trio.current_time()
        self._tree.report("restarted", child.path, child.spec.id, None, child.restarts)

    def _ask_to_stop(self, child: Child) -> None:
        if child.phase is Phase.STOPPING:
            return
        child.phase = Phase.STOPPING
        if child.mailbox is not None:
            child.mailbox._stop()
        if child.family is not None:
            child.family.close(final=child.final or self._final)
        allowance = child.spec.shutdown
        if child.waiting or allowance == 0:
            child.scope.cancel()
        else:
            child.scope.deadline = trio.current_time() + allowance

    # -------------------------------------------------------------------------------------------- the end of a run

    def _ended(self, child: Child, reason: EndReason, error: Exception | None) -> None:
        """A run has ended. What follows follows at once, and nothing here waits."""
        was, child.phase = child.phase, Phase.STOPPED
        child.stopped = True
        if child.mailbox is not None:
            child.mailbox._end()
            assert child.inbox is not None
            child.inbox.run_ended(error)
            child.mailbox = None  # and with it the message that was in hand
        if not child.waiting:
            child.announce(reason, error)
        if reason is EndReason.CRASHED and child.start is None:
            self._tree.report("crashed", child.path, child.spec.id, error, child.restarts)
        decision = self._decision(child, was, reason, error)
        gone = child.gone
        if decision is Decision.RESTART:
            self._restart(child)
        elif decision is Decision.GIVE_UP:
            self._give_up(child, error)
        self._settle(child, decision, error)
        if gone is not None:
            gone.set()

    def _decision(self, child: Child, was: Phase, reason: EndReason, error: Exception | None) -> Decision:
        kept = Decision.KEEP if child.keep and child.spec.restart is not RestartType.TEMPORARY else Decision.FORGET
        start = child.start
        if start is not None:
            child.start = None
            start.settled.set()
            start.stopped = was is Phase.STOPPING or reason is EndReason.KILLED
            start.error = None if start.stopped else error
            if start.forget and (start.stopped or error is not None):
                return Decision.FORGET
            return kept
        if was is Phase.STOPPING or reason is EndReason.KILLED or not self._serving:
            return kept
        if was is Phase.RESTARTING and reason is EndReason.NORMAL:  # OTP's `ignore`, in a restart
            return kept
        decision = decide(child.spec.restart, reason, self._window, trio.current_time())
        if decision is Decision.RESTART and trio.current_effective_deadline() == -math.inf:
            return kept  # all of this supervisor is cancelled, and so would the next run be, and the one after that
        return kept if decision is Decision.KEEP else decision

    def _settle(self, child: Child, decision: Decision, error: Exception | None) -> None:
        """Gives up what waits for a child that has ended for good."""
        if child.phase is not Phase.STOPPED:
            return
        # A supervisor that is ending, or failing to start, may be restarted; then its children's messages still wait.
        ending = not self._serving or (child is self._starting and error is not None)
        if not ending or self._final or child.final:
            if decision is Decision.FORGET:
                self._forget(child)
            else:
                child.retire()

    def _restart(self, child: Child) -> None:
        backoff = child.spec.backoff
        child.restarts += 1
        delay = 0.0
        if backoff is not None:
            if trio.current_time() - child.since >= backoff.maximum:
                child.attempts = 0
            child.attempts += 1
            delay = backoff_delay(backoff, child.attempts)
        if delay > 0 or child.announces:
            self._spawn(child, Phase.RESTARTING, delay)
        else:
            self._spawn(child, Phase.RUNNING)
            self._runs_again(child)

    def _give_up(self, child: Child, error: Exception | None) -> None:
        failure = self._failure = RestartIntensityError(child.spec.id)
        failure.__cause__ = error
        self._tree.report("escalated", self.path, child.spec.id, error, child.restarts)
        self.close(final=self.itself is None)
        self.block.cancel()

    # -------------------------------------------------------------------------------------------- calls

    def _change(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    def _is_over(self) -> bool:
        """Whether it is certain that the supervisor serves no more, unless somebody restarts it."""
        if self._serving:
            return False
        itself, parent = self.itself, self._parent
        if itself is None or parent is None or itself.over:
            return True
        if itself.phase in (Phase.STOPPED, Phase.STOPPING):
            return itself.final or parent._serving or parent._is_over()
        return False

    async def _served(self) -> None:
        """A checkpoint if it has to wait, else a cancel point."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._serving:
            if self._is_over():
                raise self._ended_error()
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()

    def _ended_error(self) -> ActorStoppedError:
        return ActorStoppedError(f"the supervisor {self.path} has ended, or is ending")

    def _found(self, id: str) -> Child:
        child = self._children.get(id)
        if child is None:
            raise ChildNotFoundError(id)
        return child

    async def start_child(self, spec: AnySpec) -> Ref[Any] | SupervisorRef:
        self._plan.check_child(spec)
        await self._served()
        child = self._add(spec)
        await self._start(child, forget=True)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return child.ref

    def start_child_soon(self, spec: ChildSpec[Any], keep: bool) -> Ref[Any]:
        self._plan.check_child(spec)
        if not isinstance(spec, ChildSpec) or spec.announces:
            raise ChildSpecError(f"child {spec.id!r} says itself when it is ready; start it with start_child")
        if not self._serving:
            raise self._ended_error()
        child = self._add(spec, keep=keep)
        self._spawn(child, Phase.RUNNING)
        ref = child.ref
        assert isinstance(ref, Ref)
        return ref

    async def terminate_child(self, id: str) -> None:
        await self._served()
        child = self._found(id)
        while child.start is not None:
            await child.start.settled.wait()
            await self._served()
            child = self._found(id)
        if child.phase is Phase.STOPPED:
            await trio.lowlevel.checkpoint()
            return
        child.final = True
        self._ask_to_stop(child)
        await child.ended()

    async def restart_child(self, id: str) -> Ref[Any] | SupervisorRef:
        child = await self._stopped_child(id)
        await self._start(child, forget=False)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return child.ref

    async def delete_child(self, id: str) -> None:
        self._forget(await self._stopped_child(id))
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _stopped_child(self, id: str) -> Child:
        """The child, if it is stopped; one that is being stopped is waited for."""
        while True:
            await self._served()
            child = self._found(id)
            if child.phase is Phase.STOPPED:
                return child
            if child.phase is not Phase.STOPPING:
                raise ChildRunningError(id)
            await child.ended()

    def which_children(self) -> tuple[ChildInfo, ...]:
        return tuple(child.info() for child in self._children.values())

    def count_children(self) -> ChildCounts:
        children = self._children.values()
        supervisors = sum(child.family is not None for child in children)
        active = sum(child.phase not in (Phase.RESTARTING, Phase.STOPPED) for child in children)
        return ChildCounts(len(children), active, supervisors, len(children) - supervisors)
