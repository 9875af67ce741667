"""The actor that all tests of the room use: it does what it is told, and writes down what it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from engine.actors import ChildSpec, Mailbox, Request, open_supervisor


class Ask(Request[str]):
    """Answered with the actor's name."""


class Puppet:
    """Actors that do what their messages say. An exception is raised, a function called, the rest written down."""

    Ask = Ask

    def __init__(self) -> None:
        self.log: list[str] = []

    def spec(self, name: str = "a", **options: Any) -> ChildSpec[Any]:
        """A child that is ready when it is spawned."""
        return ChildSpec(name, self.act, name, **options)

    def slow(self, name: str, prepare: Callable[[], Any], **options: Any) -> ChildSpec[Any]:
        """A child that is ready when it has called and awaited `prepare`."""
        return ChildSpec(name, self.act_when_prepared, name, prepare, **options)

    async def supervise(self, *told: tuple[str, object], **options: Any) -> None:
        """A block that tells the actors of these paths these messages, one after the other, and then never ends."""
        async with open_supervisor(**options) as supervisor:
            await wait_all_tasks_blocked()
            for path, message in told:
                ref: Any = supervisor.registry[path]
                ref.tell(message)
            await trio.sleep_forever()

    async def act(self, mailbox: Mailbox[Any], name: str) -> None:
        self.log.append(f"{name} begins")
        try:
            async for message in mailbox:
                await self._obey(mailbox, name, message)
        except trio.Cancelled:
            self.log.append(f"{name} is cancelled")
            raise
        self.log.append(f"{name} returns")

    async def act_when_prepared(
        self,
        mailbox: Mailbox[Any],
        name: str,
        prepare: Callable[[], Any],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self.log.append(f"{name} prepares")
        ready = await prepare()
        if ready is False:
            return
        task_status.started()
        await self.act(mailbox, name)

    async def _obey(self, mailbox: Mailbox[Any], name: str, message: object) -> None:
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, Ask):
            mailbox.reply(name)
        elif callable(message):
            await message()
        else:
            self.log.append(f"{name} got {message}")


@pytest.fixture
def puppet() -> Puppet:
    return Puppet()
