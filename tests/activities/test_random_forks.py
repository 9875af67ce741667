"""Random programs, forked at each of their calls, and retried where they failed.

What a fork, or a retry, goes on with is a history that no run has made in one piece. So each is run to just before its
end is recorded, and then replayed whole: it must fit the code, never be blocked, do nothing a second time, and record
nothing more. A failure names its seed: `PLAYBILL_SEED=<seed> PLAYBILL_PROGRAMS=1 pytest -m long` plays it again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from engine import ActivityStatus, CommandDeniedError, Engine
from engine.activities.copying import forkable
from engine.activities.paths import is_within
from engine.audit import Ledger
from engine.journal import StoredRecord
from engine.testing.killing import Death, live
from tests.activities import test_random_programs as programs
from tests.activities.test_random_programs import FIRST, ID, PROGRAMS, Author, World, ended, one_life, play

TERMINAL = ("activity.completed", "activity.failed", "activity.cancelled")


@attrs.define
class Trial:
    """One program, and what was found of its forks.

    Attributes:
        journal: the file.
        seed: what it was drawn from.
        forks: how many there were.
        retries: how many there were.
        faults: what is wrong.
    """

    journal: Path
    seed: int
    forks: int = 0
    retries: int = 0
    faults: list[str] = attrs.field(factory=list)

    async def played(self, *, most: int) -> None:
        """Play the program, and fork it at its calls, at most so many."""
        draw = random.Random(self.seed)
        # Tasks of a program's own are left out: what of them ran beside a call, and what followed it, is not recorded.
        program = Author(draw, timing=False).program()
        programs.WORLD = World(self.journal, by_record=False)
        await self.live(lambda engine: one_life(program, engine))
        records = self.records(ID)
        # Within a branch that lost nothing is done anew: it loses again.
        lost = [
            record.path
            for record in records
            if record.kind == "branch.ended" and record.facts["outcome"] in ("cancelled", "late")
        ]
        paths = [
            path
            for path in forkable(records[1:])
            if not any(branch is not None and is_within(path, branch) for branch in lost)
        ]
        failed = records[-1].kind == "activity.failed"
        for number, path in enumerate(draw.sample(paths, min(most, len(paths)))):
            await self.forked(path, f"fork-{number}")
        if failed:
            await self.retried()
        with Ledger.open(self.journal) as ledger:
            self.faults += [str(problem) for problem in ledger.verify().problems]

    async def live(self, body: Callable[[Engine], Awaitable[Any]], *, terminal: bool = False) -> None:
        death = programs.WORLD.death = Death(terminal=terminal)
        with trio.fail_after(100_000):
            await live(body, str(self.journal), play, death=death)

    async def forked(self, path: str, id: str) -> None:
        self.forks += 1

        async def fork(engine: Engine) -> ActivityStatus:
            return await ended(await engine.fork(ID, at=path, new_id=id))

        await self.ends(fork, id, f"forked at {path}")
        taken_over = {
            f"{id}/0/{record.path}"
            for record in self.records(id)
            if record.kind == "step.completed" and "copied" in record.facts
        }
        for key, _, _ in programs.WORLD.effects:
            if key in taken_over:
                self.faults.append(f"forked at {path}: {key} was done though it was taken over")

    async def retried(self) -> None:
        self.retries += 1

        async def retry(engine: Engine) -> ActivityStatus | None:
            handle = engine.handle(ID)
            try:
                await handle.retry()
            except CommandDeniedError as denied:
                at = denied.reason.rpartition("fork it at ")[2]
                return await ended(await engine.fork(ID, at=at, new_id="instead"))
            return await ended(handle)

        await self.ends(retry, ID, "retried")

    async def ends(self, body: Callable[[Engine], Awaitable[Any]], id: str, what: str) -> None:
        """Run to just before the end, and then replay it whole."""
        await self.live(body, terminal=True)
        before = self.records(id)
        if before[-1].kind == "command.denied" or self.records("instead"):
            return
        if before[-1].kind == "activity.blocked":
            self.faults.append(f"{what}: it was blocked: {before[-1].facts}")
            return
        effects = len(programs.WORLD.effects)
        await self.live(lambda engine: ended(engine.handle(id)))
        after = self.records(id)[len(before) :]
        kinds = [record.kind for record in after]
        if kinds[:1] != ["activity.resumed"] or len(kinds) != 2 or kinds[1] not in TERMINAL:
            self.faults.append(f"{what}: the replay recorded {[(one.kind, one.path, one.facts) for one in after]}")
        if programs.WORLD.effects[effects:]:
            self.faults.append(f"{what}: the replay did {programs.WORLD.effects[effects:]}")

    def records(self, id: str) -> list[StoredRecord]:
        with Ledger.open(self.journal) as ledger:
            return [
                StoredRecord(one.seq, one.stream, one.kind, one.name, one.path, one.run, "", one.by, one.facts, None)
                for one in ledger.reader.records("stream = ?", (id,))
            ]


def tried(folder: Path, seed: int, *, most: int) -> Trial:
    trial = Trial(folder / f"{seed}.db", seed)

    async def played() -> None:
        await trial.played(most=most)

    trio.run(played, clock=trio.testing.MockClock(autojump_threshold=0))
    return trial


def test_a_few_programs_end_and_replay_when_they_are_forked_or_retried(tmp_path: Path) -> None:
    forks = retries = 0
    until = time.monotonic() + 6
    for seed in range(200):
        trial = tried(tmp_path, seed, most=4)
        assert not trial.faults, f"seed {seed}: " + "\n".join(trial.faults)
        forks += trial.forks
        retries += trial.retries
        if time.monotonic() > until:
            break
    assert forks
    assert retries


@pytest.mark.long
@pytest.mark.parametrize("seed", range(FIRST, FIRST + PROGRAMS))
def test_a_program_ends_and_replays_when_it_is_forked_anywhere(tmp_path: Path, seed: int) -> None:
    trial = tried(tmp_path, seed, most=1_000)
    assert not trial.faults, "\n".join(trial.faults)
