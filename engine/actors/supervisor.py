"""The top supervisor: a block of Trio code whose children are supervised.

    async with open_supervisor(children=[ChildSpec("counter", counter, 0)]) as supervisor:
        ...

Two tasks: the block is the caller's own, the supervisor is a task beside it that is shielded from what cancels the
block. So a cancelled block, too, has its children stopped in order and with their allowances. Whichever ends first ends
the other: the block asks the supervisor to end, a supervisor that gave up or shut down cancels the block.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio

from ..alone import alone
from ..errors import ChildStartError, RestartIntensityError
from ._family import Family
from ._timeouts import Timeouts
from ._tree import Tree
from .children import Stopping
from .dead_letters import DeadLetter
from .events import SupervisionEvent
from .ref import Ref
from .specification import AutoShutdown, ChildSpec, Intensity, Plan, Strategy, SupervisorSpec, check_hook
from .supervisor_ref import SupervisorRef
from .watching import EndReason, Life


class Supervisor(SupervisorRef):
    """The top supervisor, as the block has it."""

    __slots__ = ("_tree",)

    def __init__(self, family: Family, life: Life, tree: Tree) -> None:
        super().__init__(family, life)
        self._tree = tree

    @property
    def registry(self) -> Mapping[str, Ref[Any] | SupervisorRef]:
        """All actors and supervisors below this one by their paths, as `/subscribers/mailer`; a live view.

        A name is there as long as the specification is, whether the actor runs or not.
        """
        return self._tree.registry

    def stopping(self) -> Sequence[Stopping]:
        """The runs anywhere below this supervisor that were asked to end and have not, in the order in which they were
        asked. Never waits.

        One whose `due` has passed was cancelled, and does not heed that.
        """
        return self._tree.stopping()

    async def wait_stopping(self) -> None:
        """Waits until some run below this supervisor is being stopped. A checkpoint.

        Returns at once while one is. By the time the caller's task goes on it may have ended: look with `stopping`.
        Cancelling has no effect but to end the wait.

        Raises:
            ActorStoppedError: the supervisor has ended.
        """
        await self._tree.wait_stopping()


def open_supervisor(
    *,
    strategy: Strategy = Strategy.ONE_FOR_ONE,
    intensity: Intensity = Intensity(),  # noqa: B008  (frozen)
    children: Sequence[ChildSpec[Any] | SupervisorSpec] = (),
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
    on_dead_letter: Callable[[DeadLetter], None] | None = None,
    on_event: Callable[[SupervisionEvent], None] | None = None,
) -> AbstractAsyncContextManager[Supervisor]:
    """A supervisor around a block.

    Entering the block starts the children in order, each ready before the next. Leaving it, by its end, an exception or
    a cancellation, stops them in reverse, each gone before the next is asked, and waits for that.

    Args:
        strategy: which children are restarted when one is to be.
        intensity: how many restarts are borne before the supervisor gives up.
        children: what is started first.
        auto_shutdown: whether the block ends with its significant children: it is cancelled then, and left without an
            error.
        on_dead_letter: called with each message that reaches nobody, anywhere in the tree; must not wait. What it
            raises is logged.
        on_event: called with each crash, restart and escalation anywhere in the tree, at once, in the task in which it
            came about; must not wait. What it raises is logged.

    Returns:
        An async context manager that gives the supervisor.

    Raises:
        ChildSpecError: at once, if a value cannot be used.
        ChildStartError: on entering, if a child failed to start; those started before it have been stopped.
        RestartIntensityError: on leaving, if there were more restarts than the intensity bears; the block was
            cancelled. `__cause__` is the last crash, or the error of the supervisor below. What the block itself raised
            after that is its `__context__`.
    """
    plan = Plan.checked("the supervisor", strategy, intensity, children, auto_shutdown)
    check_hook("on_dead_letter", on_dead_letter)
    check_hook("on_event", on_event)
    return _opened(plan, on_dead_letter, on_event)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _opened(
    plan: Plan,
    on_dead_letter: Callable[[DeadLetter], None] | None,
    on_event: Callable[[SupervisionEvent], None] | None,
) -> AsyncIterator[Supervisor]:
    tree = Tree(on_dead_letter, on_event)
    family = Family(tree, plan, "", None)
    family.prepare()
    life = Life()
    supervisor = life.ref = Supervisor(family, life, tree)
    task = _Top(family, life)
    raised: BaseException | None = None
    with alone():
        async with trio.open_nursery() as nursery:
            start_soon: Callable[..., None] = nursery.start_soon  # mypy cannot see through two variadic calls
            tree.timeouts = Timeouts(functools.partial(tree.context.run, start_soon))
            nursery.start_soon(task.run, name="the supervisor /")
            try:
                await task.opened.wait()
                if task.failure is None:
                    with family.block:
                        yield supervisor
            except BaseException as error:  # the user's block; whatever it is comes out below, past the nursery
                if _holds_cancelled(error):
                    raise
                raised = error
            finally:
                family.close(final=True)
                with trio.CancelScope(shield=True):
                    await task.ended.wait()
                tree.close()
                task.raise_failure()
    if raised is not None:
        try:
            raise raised
        finally:
            del raised  # its traceback holds this frame


def _holds_cancelled(error: BaseException) -> bool:
    """Whether it belongs to a cancel scope in whole or in part, perhaps the nursery's, which then must see it."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(trio.Cancelled) is not None
    return isinstance(error, trio.Cancelled)


class _Top:
    """The task of the top supervisor, and how it ended."""

    def __init__(self, family: Family, life: Life) -> None:
        self.opened = trio.Event()
        """The children of the list are ready; or it ended before."""
        self.ended = trio.Event()
        self.failure: ChildStartError | RestartIntensityError | None = None
        self._family = family
        self._life = life

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        try:
            with trio.CancelScope(shield=True):
                self.failure = await self._family.live(self.opened.set)
        except ChildStartError as error:
            self.failure = error
        finally:
            self._family.bury()
            self._life.announce(EndReason.SHUTDOWN, self.failure)
            self._life.finish()
            self.opened.set()
            self.ended.set()

    def raise_failure(self) -> None:
        failure, self.failure = self.failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # its traceback holds this frame
