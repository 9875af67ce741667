"""Ctrl-C comes between any two lines of a task that is not protected from it: no task is left to be woken twice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

import engine
from engine.actors import ChildSpec, Mailbox, open_supervisor

WAIT = "wait_task_rescheduled"
"""Whoever calls this has told somebody else about the task before. Raised in between, a KeyboardInterrupt leaves the
other with a task to wake that waits for something else by then: Trio ends of that with an internal error."""


def functions_that_wait() -> Iterator[tuple[str, ast.AsyncFunctionDef]]:
    for path in sorted(Path(engine.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef) and any(
                isinstance(inner, ast.Attribute) and inner.attr == WAIT for inner in ast.walk(node)
            ):
                yield f"{path.name}:{node.name}", node


def test_every_function_that_hands_its_task_to_others_is_protected_from_ctrl_c() -> None:
    found = dict(functions_that_wait())
    assert len(found) > 8
    bare = [
        name
        for name, node in found.items()
        if not any(ast.unparse(decorator) == "trio.lowlevel.enable_ki_protection" for decorator in node.decorator_list)
    ]
    assert bare == []


async def test_an_actors_own_code_is_ended_by_ctrl_c_though_its_supervisor_is_protected() -> None:
    protected: list[bool] = []

    async def actor(mailbox: Mailbox[str]) -> None:
        protected.append(trio.lowlevel.currently_ki_protected())
        async for _ in mailbox:
            protected.append(trio.lowlevel.currently_ki_protected())

    async with open_supervisor(children=[ChildSpec("actor", actor)]) as supervisor:
        ref = await supervisor.start_child(ChildSpec("another", actor))
        await ref.send("a message")
        await trio.testing.wait_all_tasks_blocked()
    assert protected == [False, False, False]


async def test_a_ctrl_c_in_an_actor_ends_the_supervisor_and_comes_out() -> None:
    async def actor(mailbox: Mailbox[str]) -> None:
        raise KeyboardInterrupt

    async def supervised() -> None:
        async with open_supervisor() as supervisor:
            supervisor.start_child_soon(ChildSpec("actor", actor))
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        await supervised()
