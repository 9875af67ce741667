"""A supervisor's ref: the calls by which its children are managed.

OTP's supervisor serves one call at a time. Here calls about one child wait for one another, those about different
children do not: a child that takes its time to start or to stop keeps nobody else waiting. What the calls need not wait
for happens before they return to the caller's task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from . import _calls
from .children import ChildCounts, ChildInfo

if TYPE_CHECKING:
    from ._family import Family
    from .ref import Ref
    from .specification import AnySpec, ChildSpec, SupervisorSpec
    from .watching import Life

M = TypeVar("M")


class SupervisorRef:
    """The address of a supervisor. Stays good over restarts: a call waits while the supervisor is restarting."""

    __slots__ = ("__weakref__", "_family", "_life")

    def __init__(self, family: Family, life: Life) -> None:
        self._family = family
        self._life = life

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    @property
    def path(self) -> str:
        """The supervisor's path, as `/subscribers`; the top one's is `/`."""
        return self._family.path

    @overload
    async def start_child(self, spec: ChildSpec[M], /) -> Ref[M]: ...
    @overload
    async def start_child(self, spec: SupervisorSpec, /) -> SupervisorRef: ...
    async def start_child(self, spec: AnySpec, /) -> Ref[Any] | SupervisorRef:
        """Adds a child and starts it; returns when it is ready.

        A checkpoint. Cancelled before the child is ready, the child is cancelled, and its specification not kept. A
        child that returns before it is ready is OTP's `ignore`: its specification is kept, stopped. A child that is
        stopped before it is ready, for the restart of a sibling, is started again with the others, and waited for.

        Args:
            spec: the child. A supervisor that is restarted does not bring back children added by this call.

        Returns:
            Its ref.

        Raises:
            ChildExistsError: the id is taken, by a child that runs or not.
            ChildStartError: it raised before it was ready, `__cause__` is what; its specification is not kept.
            ChildSpecError: it cannot be a child of this supervisor.
            ActorStoppedError: the supervisor has ended, or ended before the child was ready.
        """
        return await _calls.start_child(self._family, spec)

    def start_child_soon(self, spec: ChildSpec[M], /, *, keep: bool = True) -> Ref[M]:
        """Adds a child and spawns it, without waiting: for callers that start many. Call it from any task.

        No checkpoint. The actor begins to run when the scheduler next comes by.

        Args:
            spec: the child; an actor without a `task_status`, since nobody waits for it to be ready.
            keep: with False the specification goes, as a temporary child's does, when the child ends for good: it
                returned and is not restarted, or was terminated. It is restarted as its restart type says all the same.
                For children of which there are many, each of them once.

        Returns:
            Its ref.

        Raises:
            ChildExistsError: the id is taken, by a child that runs or not.
            ChildSpecError: it cannot be a child of this supervisor, or says itself when it is ready.
            ActorStoppedError: the supervisor has ended, or is restarting just now.
        """
        return _calls.start_child_soon(self._family, spec, keep)

    async def terminate_child(self, id: str, /) -> None:
        """Stops a child; returns when it is gone. Its specification stays, unless it is temporary.

        A checkpoint. A child that is restarting is not restarted any more, and those that were to be restarted with it
        are without it; one that is stopped is no error; one that is being started is waited for first. Cancelled, the
        stopping goes on. Messages that wait for the child become dead letters.

        Args:
            id: the child's id.

        Raises:
            ChildNotFoundError: there is no child of this id.
            ActorStoppedError: the supervisor has ended.
        """
        await _calls.terminate_child(self._family, id)

    async def restart_child(self, id: str, /) -> Ref[Any] | SupervisorRef:
        """Starts a child that is stopped; returns when it is ready. Its refs are good again.

        A checkpoint. Cancelled before the child is ready, the child is cancelled, and its specification kept.

        Args:
            id: the child's id.

        Returns:
            Its ref.

        Raises:
            ChildNotFoundError: there is no child of this id.
            ChildRunningError: it runs, or is restarting.
            ChildStartError: it raised before it was ready, `__cause__` is what; its specification is kept.
            ActorStoppedError: the supervisor has ended, or ended before the child was ready.
        """
        return await _calls.restart_child(self._family, id)

    async def delete_child(self, id: str, /) -> None:
        """Takes away the specification of a child that is stopped. A checkpoint.

        Args:
            id: the child's id.

        Raises:
            ChildNotFoundError: there is no child of this id.
            ChildRunningError: it runs, or is restarting.
            ActorStoppedError: the supervisor has ended.
        """
        await _calls.delete_child(self._family, id)

    def which_children(self) -> Sequence[ChildInfo]:
        """The children in the order in which they were started. Never waits."""
        return _calls.which_children(self._family)

    def count_children(self) -> ChildCounts:
        """How many children there are. Never waits."""
        return _calls.count_children(self._family)
