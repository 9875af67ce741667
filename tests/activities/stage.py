"""What the tests of the activities share: one journal over several lives, and what was done in them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import trio
import trio.testing

from engine import ActivityStatus, Engine
from engine.testing.killing import Death, live

ENDED = (ActivityStatus.COMPLETED, ActivityStatus.FAILED, ActivityStatus.CANCELLED, ActivityStatus.BLOCKED)


@attrs.define
class Stage:
    """One journal, and the lives of engines on it. The activity's id is `it`, unless given.

    Attributes:
        journal: the file.
        done: what steps did, in order; there for the tests' own steps to append to.
    """

    journal: Path
    done: list[Any] = attrs.field(factory=list)

    async def life(self, body: Callable[[Engine], Awaitable[Any]], *definitions: Any, **options: Any) -> Any:
        """One life, in which the body is called with the engine."""
        options.setdefault("death", Death())
        # An activity that hangs fails its test; under a mock clock the time is over at once. Without one it is so long
        # that no machine is too slow.
        is_mock = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
        with trio.fail_after(1_000_000 if is_mock else 600):
            return await live(body, str(self.journal), *definitions, **options)

    async def played(self, activity: Any, *args: Any, id: str = "it", **options: Any) -> Any:
        """One life, in which the activity is started, unless it was before, and comes to its end.

        Returns:
            Its result. `None`, too, where the engine died before.
        """

        async def body(engine: Engine) -> Any:
            handle = await engine.start(activity, *args, id=id)
            assert await handle.wait(*ENDED) is not ActivityStatus.BLOCKED, self.records("activity.blocked", id=id)
            return await handle.result()

        return await self.life(body, activity, **options)

    async def status(self, activity: Any, *args: Any, id: str = "it", **options: Any) -> ActivityStatus:
        """One life, in which the activity is started, unless it was before, and comes to its end; returns which."""

        async def body(engine: Engine) -> ActivityStatus:
            return await (await engine.start(activity, *args, id=id)).wait(*ENDED)

        found: ActivityStatus = await self.life(body, activity, **options)
        return found

    async def killed(
        self, activity: Any, *args: Any, at: tuple[str, str | None], told: bool = False, **more: Any
    ) -> None:
        """One life that ends with a record of this kind and path, durable, and acted upon if `told`."""
        death = Death(at=at, told=told)
        await self.status(activity, *args, death=death, **more)
        assert death.dead, f"there was no {at}"

    def records(self, *kinds: str, id: str = "it") -> list[dict[str, Any]]:
        """The activity's records, of these kinds if any are given."""
        with closing(sqlite3.connect(self.journal)) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute("SELECT * FROM records WHERE stream = ? ORDER BY seq", (id,)).fetchall()
        return [
            {**row, "facts": json.loads(row["facts"]), "data": json.loads(row["data"] or "null")}
            for row in rows
            if not kinds or row["kind"] in kinds
        ]

    def story(self, id: str = "it") -> list[str]:
        """The activity's records after its start, each as its kind and path."""
        return [f"{record['kind']} {record['path'] or ''}".strip() for record in self.records(id=id)[2:]]
