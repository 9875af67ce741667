"""The calls of a supervisor's ref, done in the tasks of their callers. Whoever has waited looks again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ..errors import ChildNotFoundError, ChildRunningError, ChildSpecError
from ._child import Child, Phase
from ._run import ask_to_stop, spawn, start
from .children import ChildCounts, ChildInfo
from .ref import Ref
from .specification import AnySpec, ChildSpec

if TYPE_CHECKING:
    from ._family import Family
    from .supervisor_ref import SupervisorRef


async def start_child(family: Family, spec: AnySpec) -> Ref[Any] | SupervisorRef:
    family.plan.check_child(spec)
    await family.served()
    child = family.add(spec)
    await start(family, child, forget=True)
    await trio.lowlevel.cancel_shielded_checkpoint()
    return child.ref


def start_child_soon(family: Family, spec: ChildSpec[Any], keep: bool) -> Ref[Any]:
    family.plan.check_child(spec)
    if not isinstance(spec, ChildSpec) or spec.announces:
        raise ChildSpecError(f"child {spec.id!r} says itself when it is ready; start it with start_child")
    if not family.serving:
        raise family.ended_error()
    child = family.add(spec, keep=keep)
    spawn(family, child, Phase.RUNNING)
    ref = child.ref
    assert isinstance(ref, Ref)
    return ref


async def terminate_child(family: Family, id: str) -> None:
    child = await _found(family, id)
    while child.start is not None:
        await child.start.settled.wait()
        child = await _found(family, id)
    if child.phase is Phase.DUE:
        family.lay_down(child)
    if child.phase is Phase.STOPPED:
        await trio.lowlevel.checkpoint()
        return
    child.final = True
    ask_to_stop(family, child)
    await child.ended()


async def restart_child(family: Family, id: str) -> Ref[Any] | SupervisorRef:
    child = await _stopped_child(family, id)
    await start(family, child, forget=False)
    await trio.lowlevel.cancel_shielded_checkpoint()
    return child.ref


async def delete_child(family: Family, id: str) -> None:
    family.forget(await _stopped_child(family, id))
    await trio.lowlevel.cancel_shielded_checkpoint()


async def _found(family: Family, id: str) -> Child:
    await family.served()
    child = family.children.get(id)
    if child is None:
        raise ChildNotFoundError(id)
    return child


async def _stopped_child(family: Family, id: str) -> Child:
    """The child, if it is stopped; one that is being stopped is waited for."""
    while True:
        child = await _found(family, id)
        if child.phase is Phase.STOPPED:
            return child
        if child.phase is not Phase.STOPPING:
            raise ChildRunningError(id)
        await child.ended()


def which_children(family: Family) -> tuple[ChildInfo, ...]:
    return tuple(child.info() for child in family.children.values())


def count_children(family: Family) -> ChildCounts:
    children = family.children.values()
    supervisors = sum(child.family is not None for child in children)
    down = (Phase.RESTARTING, Phase.DUE, Phase.STOPPED)
    active = sum(child.phase not in down for child in children)
    return ChildCounts(len(children), active, supervisors, len(children) - supervisors)
