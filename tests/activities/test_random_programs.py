"""Random programs, killed at each of their records: what an activity may rely on, tried where nobody thought of it.

A program is a tree of operations, drawn from a seed and given to one activity as its argument, which plays it. It runs
once without a fault, then once for each record, killed there (and in two of five runs a second time, some records into
the next life). In every run the last life but one is ended just before the activity's end is recorded, so that the last
one is a replay of everything.

The *world* outlives the engines: it holds what steps did, and what the program saw, in which order. The oracles are
functions over it and the records of the journal; each says what it holds. A failure names the seed and the kill:
`PLAYBILL_SEED=<seed> PLAYBILL_PROGRAMS=1 pytest -m long` plays it again.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import math
import os
import random
import re
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from engine import (
    ActivityEndedError,
    ActivityFailedError,
    ActivityStatus,
    Context,
    Engine,
    Restart,
    Retry,
    StepInterruptedError,
    activity,
    current_step,
    step,
)
from engine.testing.everywhere import AGAIN, OPENING
from engine.testing.killing import Death, live

ID = "it"
DOWNTIMES = (0.0, 0.0, 3.0)
Operation = list[Any]
Block = list[Operation]

# ---------------------------------------------------------------------------------------------------- programs


@attrs.define
class Author:
    """Draws programs.

    Attributes:
        draw: where the choices come from.
        timing: whether cancel scopes of the program's own are among them.
        others: whether messages and children are among them.
    """

    draw: random.Random
    timing: bool
    others: bool = False

    def program(self) -> Block:
        return self.block(self.draw.choice((1, 2, 2, 3, 3)))

    def block(self, depth: int) -> Block:
        return [self.operation(depth) for _ in range(self.draw.randint(1, 3))]

    def operation(self, depth: int) -> Operation:
        simple = ["step", "step", "step", "drawn", "sleep", "until", "emit", "note", "patched", "plain", "once"]
        nesting = ["map", "map", "gather", "race", "race", "try", "swallow"] + (
            ["within", "nursery"] if self.timing else []
        )
        if self.others:
            simple += ["receive", "receive", "child"]
        kind = self.draw.choice(simple + nesting if depth else simple)
        match kind:
            case "step" | "drawn":
                return [kind, *self.step()]
            case "sleep" | "until":
                return [kind, self.draw.choice((0.5, 1, 2))]
            case "emit" | "note":
                return [kind]
            case "receive":
                return [kind, self.draw.choice(("A", "B", "AB")), self.draw.choice((1, 3, 5))]
            case "child":
                return [kind, self.draw.choice((0, 0, 0, 99)), self.draw.choice((0, 1, 4))]
            case "patched" | "once":
                return [kind, *self.step()]
            case "plain":
                return [kind, self.draw.choice((None, 1, 2)), [self.step() for _ in range(self.draw.randint(1, 3))]]
            case "map" | "nursery":
                blocks = [self.block(depth - 1) for _ in range(self.draw.randint(1, 3))]
                return [kind, self.draw.choice((None, 1, 2)), blocks]
            case "gather" | "race":
                return [kind, [self.block(depth - 1) for _ in range(self.draw.randint(1 + (kind == "race"), 3))]]
            case "try":
                return [kind, self.block(depth - 1), self.block(depth - 1)]
            case "swallow":
                return [kind, self.block(depth - 1)]
            case _:
                return ["within", self.draw.choice((0.5, 1, 1.5, 2)), self.block(depth - 1)]

    def step(self) -> list[Any]:
        """How often it fails, how often it is tried, how long it takes."""
        return [self.draw.choice((0, 0, 0, 1, 2)), self.draw.randint(1, 3), self.draw.choice((0, 0, 1))]


# ---------------------------------------------------------------------------------------------------- the world


@attrs.define
class World:
    """What is there whatever becomes of an engine.

    Attributes:
        journal: the file.
        by_record: whether a step's failures are counted by what is recorded of them; by its calls otherwise.
        death: the end of the life under way.
        effects: what steps did: key, arguments, attempt.
        seen: what the program saw, in order, for each life and run of its function.
        faults: what must not happen, and happened.
        others: whether messages are sent.
        began: when the first life began.
    """

    journal: Path
    by_record: bool
    others: bool = False
    began: float = 0.0
    death: Death = attrs.field(factory=Death)
    effects: list[tuple[str, str, int]] = attrs.field(factory=list)
    seen: list[tuple[int, list[str]]] = attrs.field(factory=list)
    faults: list[str] = attrs.field(factory=list)

    def see(self, what: str) -> None:
        if not self.death.dead:
            self.seen[-1][1].append(what)

    def failures_of(self, path: str, key: str) -> int:
        """How often the step of this key failed before, as far as it decides whether it fails again."""
        if self.by_record:
            return sum(record["kind"] == "step.failed" and record["path"] == path for record in read(self.journal))
        return sum(effect[0] == key for effect in self.effects) - 1


class BoomError(Exception):
    """What a step fails with."""


WORLD: World


@step
async def work(place: str, fails: int, seconds: float, drawn: str) -> str:
    info = current_step()
    if WORLD.death.dead:
        WORLD.faults.append(f"{info.path} began after the kill")
        return place
    WORLD.effects.append((info.idempotency_key, f"{place} {fails} {seconds} {drawn}", info.attempt))
    fails_now = fails > 0 and WORLD.failures_of(info.path, info.idempotency_key) < fails
    if seconds:
        await trio.sleep(seconds)
    if fails_now:
        raise BoomError(place)
    return place


@step(at_most_once=True)
async def pay(place: str, fails: int, seconds: float) -> str:
    return await work(place, fails, seconds, "")


async def plain_work(given: list[Any]) -> str:
    return await work(*given)


# ---------------------------------------------------------------------------------------------------- the player


@activity(name="play", restart=Restart(3, 60, initial=0.2, jitter=0))
async def play(ctx: Context, program: Block) -> dict[str, Any]:
    WORLD.seen.append((ctx.run_number, []))
    shared: list[str] = []
    result = await play_block(ctx, program, "", shared)
    return {"result": result, "shared": shared}


@attrs.frozen
class A:
    """A message."""

    number: int


@attrs.frozen
class B:
    """Another."""

    number: int


SCRIPT = ((1.0, A(1)), (1.0, B(2)), (3.0, A(3)))
"""When which message is sent: where no engine runs then, as soon as one does."""


@activity(name="playlet", restart=Restart(0))
async def playlet(ctx: Context, place: str, fails: int, seconds: float) -> str:
    """What a program has for a child; it fails always, or never."""
    await ctx.sleep(seconds)
    return await ctx.step(work, place, fails, 0, "child")


async def play_block(ctx: Context, block: Block, place: str, shared: list[str]) -> list[Any]:
    return [await play_one(ctx, operation, f"{place}{index}", shared) for index, operation in enumerate(block)]


async def play_one(ctx: Context, operation: Operation, place: str, shared: list[str]) -> Any:
    """One operation; everything that comes of it is seen, and what was given is put into the list that all share."""
    WORLD.see(f"{place} asked")
    try:
        value = await OPERATIONS[operation[0]](ctx, place, shared, *operation[1:])
    except Exception as error:
        WORLD.see(f"{place} raised {type(error).__name__} {error}")
        shared.append(f"{place}!")
        raise
    except BaseException:
        WORLD.see(f"{place} cancelled")
        shared.append(f"{place}-")
        raise
    WORLD.see(f"{place} given {value} at {ctx.now()}")
    shared.append(place)
    return value


async def play_step(ctx: Context, place: str, shared: list[str], fails: int, attempts: int, seconds: float) -> str:
    return await ctx.step(work, place, fails, seconds, "", retry=Retry(attempts, 0.3, jitter=0))


async def play_drawn(ctx: Context, place: str, shared: list[str], fails: int, attempts: int, seconds: float) -> str:
    drawn = f"{ctx.random().random()} {ctx.uuid()} {ctx.now()}"
    WORLD.see(f"{place} drew {drawn}")
    return await ctx.step(work, place, fails, seconds, drawn, retry=Retry(attempts, 0.3, jitter=0))


async def play_sleep(ctx: Context, place: str, shared: list[str], seconds: float) -> None:
    await ctx.sleep(seconds)


async def play_until(ctx: Context, place: str, shared: list[str], seconds: float) -> None:
    await ctx.sleep_until(ctx.now() + dt.timedelta(seconds=seconds))


async def play_note(ctx: Context, place: str, shared: list[str]) -> None:
    await ctx.note("place", place)


async def play_patched(ctx: Context, place: str, shared: list[str], fails: int, attempts: int, seconds: float) -> bool:
    new = ctx.patched("change")
    if new:
        await play_step(ctx, place, shared, fails, attempts, seconds)
    return new


async def play_once(ctx: Context, place: str, shared: list[str], fails: int, attempts: int, seconds: float) -> str:
    """What may have been done is not done again; somebody is told."""
    try:
        return await ctx.step(pay, place, fails, seconds)
    except StepInterruptedError as error:
        return await ctx.step(work, f"{place} {error.path}", 0, 0, "")


async def play_receive(ctx: Context, place: str, shared: list[str], types: str, timeout: float) -> str:
    if types == "AB":
        return str(await ctx.receive(A, B, timeout=timeout))
    return str(await ctx.receive(A, timeout=timeout) if types == "A" else await ctx.receive(B, timeout=timeout))


async def play_child(ctx: Context, place: str, shared: list[str], fails: int, seconds: float) -> str:
    return await ctx.run(playlet, place, fails, seconds)


async def play_emit(ctx: Context, place: str, shared: list[str]) -> None:
    await ctx.emit("it.happened", place)


async def play_plain(
    ctx: Context, place: str, shared: list[str], limit: int | None, steps: list[list[Any]]
) -> list[str]:
    items = [[f"{place}[{index}]", fails, seconds, ""] for index, (fails, _, seconds) in enumerate(steps)]
    return await ctx.map(step(retry=Retry(steps[0][1], 0.3, jitter=0))(plain_work), items, limit=limit)


async def play_map(
    ctx: Context, place: str, shared: list[str], limit: int | None, blocks: list[Block]
) -> list[list[Any]]:
    async def branch(ctx: Context, index: int) -> list[Any]:
        WORLD.see(f"{place}[{index}] entered")
        shared.append(f"{place}[{index}]")
        return await play_block(ctx, blocks[index], f"{place}[{index}]/", shared)

    return await ctx.map(branch, range(len(blocks)), limit=limit)


def branch_of(place: str, shared: list[str], label: str, block: Block) -> Any:
    async def branch(ctx: Context) -> list[Any]:
        WORLD.see(f"{place}[{label}] entered")
        shared.append(f"{place}[{label}]")
        return await play_block(ctx, block, f"{place}[{label}]/", shared)

    return branch


async def play_gather(ctx: Context, place: str, shared: list[str], blocks: list[Block]) -> list[Any]:
    given = await ctx.gather(*(branch_of(place, shared, str(index), block) for index, block in enumerate(blocks)))
    return list(given)


async def play_race(ctx: Context, place: str, shared: list[str], blocks: list[Block]) -> list[Any]:
    branches = {f"r{index}": branch_of(place, shared, f"r{index}", block) for index, block in enumerate(blocks)}
    return list(await ctx.race(**branches))


async def play_nursery(ctx: Context, place: str, shared: list[str], limit: int | None, blocks: list[Block]) -> None:
    """Tasks of the program's own; what they share with others is not promised, so it is not looked at."""
    async with trio.open_nursery() as nursery:
        for index, block in enumerate(blocks):
            nursery.start_soon(play_block, ctx.branch(f"b{index}"), block, f"{place}b{index}/", shared)


async def play_try(ctx: Context, place: str, shared: list[str], block: Block, handler: Block) -> list[Any]:
    try:
        return await play_block(ctx, block, f"{place}t", shared)
    except (BoomError, BaseExceptionGroup) as error:
        if isinstance(error, BaseExceptionGroup) and error.split(trio.Cancelled)[0] is not None:
            raise
        return await play_block(ctx, handler, f"{place}h", shared)


async def play_swallow(ctx: Context, place: str, shared: list[str], block: Block) -> list[Any] | None:
    try:
        return await play_block(ctx, block, f"{place}s", shared)
    except BaseException:
        return None


async def play_within(ctx: Context, place: str, shared: list[str], seconds: float, block: Block) -> bool:
    with trio.move_on_after(seconds) as scope:
        await play_block(ctx, block, f"{place}w", shared)
    return scope.cancelled_caught


OPERATIONS: dict[str, Any] = {
    "step": play_step,
    "drawn": play_drawn,
    "sleep": play_sleep,
    "until": play_until,
    "note": play_note,
    "patched": play_patched,
    "once": play_once,
    "receive": play_receive,
    "child": play_child,
    "emit": play_emit,
    "plain": play_plain,
    "map": play_map,
    "gather": play_gather,
    "race": play_race,
    "nursery": play_nursery,
    "try": play_try,
    "swallow": play_swallow,
    "within": play_within,
}


# ---------------------------------------------------------------------------------------------------- one run


@attrs.frozen
class Played:
    """How one run ended."""

    world: World
    records: list[dict[str, Any]]
    ends: list[Any]
    lives: int
    nursed: bool

    @property
    def span(self) -> range:
        """The records of the activity."""
        return range(self.records[0]["seq"], self.records[-1]["seq"] + 1)


async def played(folder: Path, program: Block, deaths: list[Death], *, by_record: bool, downtime: float) -> Played:
    """Play a program, killed by each of these in turn, then before its end is recorded, and then to its end."""
    global WORLD
    others = any(f'"{kind}"' in json.dumps(program) for kind in ("receive", "child"))
    world = WORLD = World(folder / "it.db", by_record, others, trio.current_time())
    ends = []
    replayed_from = 0
    for death in deaths:
        death.terminal, death.stream = True, ID
    everything = [*deaths, Death(terminal=True, stream=ID), Death()]
    for number, death in enumerate(everything):
        world.death = death
        if death is everything[-1]:
            replayed_from = len(world.effects)
        with trio.fail_after(10_000):
            body = functools.partial(one_life, program)
            ends.append(await live(body, str(world.journal), play, playlet, death=death))
        if number < len(deaths):
            await trio.sleep(downtime)
    if world.effects[replayed_from:]:
        world.faults.append(f"the replay did {world.effects[replayed_from:]}")
    records = read(world.journal)
    for suffix in ("", "-wal", "-shm", ".lock"):
        Path(f"{world.journal}{suffix}").unlink(missing_ok=True)  # noqa: ASYNC240  (nothing else runs here)
    return Played(world, records, ends, len(everything), "nursery" in json.dumps(program))


async def one_life(program: Block, engine: Engine) -> tuple[ActivityStatus, Any]:
    handle = await engine.start(play, program, id=ID)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, handle)
        status = await ended(handle)
        nursery.cancel_scope.cancel()
    if status is ActivityStatus.COMPLETED:
        return status, await handle.result()
    try:
        await handle.result(timeout=1)
    except ActivityFailedError as error:
        return status, (error.type, error.message)
    except TimeoutError:
        return status, None
    raise AssertionError("unreachable")


async def send_all(handle: Any) -> None:
    """The fixed script of messages; what was sent before is not sent again."""
    for at, message in SCRIPT if WORLD.others else ():
        await trio.sleep_until(WORLD.began + at)
        with suppress(ActivityEndedError):
            await handle.send(message, message_id=str(message.number))


async def ended(handle: Any) -> ActivityStatus:
    found: ActivityStatus = await handle.wait(
        ActivityStatus.COMPLETED, ActivityStatus.FAILED, ActivityStatus.CANCELLED, ActivityStatus.BLOCKED
    )
    return found


def read(journal: Path) -> list[dict[str, Any]]:
    connection = sqlite3.connect(journal)
    connection.row_factory = sqlite3.Row
    try:
        rows = connection.execute(
            "SELECT seq, kind, path, run, facts, data FROM records WHERE stream = ? ORDER BY seq", (ID,)
        )
        return [{**row, "facts": json.loads(row["facts"])} for row in rows]
    finally:
        connection.close()


# ---------------------------------------------------------------------------------------------------- the oracles


def faults_of(run: Played) -> Iterator[str]:
    """Everything that is wrong with a run, whatever the program."""
    yield from run.world.faults
    yield from ends_once(run)
    yield from replay_adds_nothing(run)
    yield from is_given_again(run)
    yield from keys_are_kept(run)
    yield from records_are_one_each(run)
    yield from messages_are_taken_once(run)
    yield from losers_give_back(run)


def ends_once(run: Played) -> Iterator[str]:
    """(1) It ends in exactly one terminal record, and is never blocked."""
    kinds = Counter(record["kind"] for record in run.records)
    if kinds["activity.completed"] + kinds["activity.failed"] != 1:
        yield f"it ended {kinds}"
    if kinds["activity.blocked"]:
        blocked = next(record for record in run.records if record["kind"] == "activity.blocked")
        yield f"it was blocked: {blocked['facts']}"


def replay_adds_nothing(run: Played) -> Iterator[str]:
    """(2) The last life, which replays everything, does nothing and records nothing but that it resumed and ended."""
    last = max((index for index, record in enumerate(run.records) if record["kind"] == "activity.resumed"), default=0)
    # What others sent it meanwhile is none of its own.
    own = [record for record in run.records[last + 1 :] if record["path"] or record["kind"].startswith("activity.")]
    more = [record["kind"] + " " + (record["path"] or "") for record in own]
    if len(more) != 1:
        yield f"the replay recorded {more}"


def is_given_again(run: Played) -> Iterator[str]:
    """(3, 10) What was seen before a kill is seen again, in the same order, before anything else; so what branches
    share comes out the same, too. The last life, which replays everything, sees nothing else at all."""
    seen = [(number, by_branch(events) if run.nursed else {"": events}) for number, events in run.world.seen]
    most: dict[tuple[int, str], list[str]] = {}
    for number, branches in seen:
        for branch, events in branches.items():
            before = most.get((number, branch), [])
            # A life may end before it has seen again all that was seen before.
            common = min(len(before), len(events))
            if events[:common] != before[:common]:
                differs = next(at for at in range(common) if events[at] != before[at])
                around = slice(max(0, differs - 2), differs + 3)
                yield f"run {number} saw {before[around]}, then {events[around]}"
            most[number, branch] = max(before, events, key=len)
    if len(seen) > 1 and seen[-1] != seen[-2]:
        yield f"the replay saw {run.world.seen[-1][1][-3:]} at the end, not {run.world.seen[-2][1][-3:]}"


def by_branch(events: list[str]) -> dict[str, list[str]]:
    """What each branch saw. In nurseries of the program's own the order of what several see is not promised."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in events:
        found[event.partition(" ")[0].rpartition("/")[0]].append(event)
    return found


PAID = re.compile(r"/pay(#\d+)?$")


def keys_are_kept(run: Played) -> Iterator[str]:
    """(4) One key never has two arguments, nor what is to be done at most once two effects; an attempt after the first
    knows that it is none."""
    args: dict[str, set[str]] = defaultdict(set)
    for key, given, attempt in run.world.effects:
        if args[key] and attempt == 1:
            yield f"{key} was attempted before, and is told that this is its first attempt"
        args[key].add(given)
    for key, given_all in args.items():
        if len(given_all) > 1:
            yield f"{key} had the arguments {given_all}"
    restarts = sum(record["kind"] == "activity.crashed" for record in run.records)
    for key, count in Counter(key for key, _, _ in run.world.effects).items():
        if PAID.search(key) and count > 1:
            yield f"{key} is to be done at most once, and was done {count} times"
        if count > 3 * (restarts + 1) + run.lives - 1 + restarts:
            yield f"{key} was done {count} times in {run.lives} lives with {restarts} restarts"


def records_are_one_each(run: Played) -> Iterator[str]:
    """(4, 5) No step is completed twice, nor an event emitted twice, nor a scope opened or a timer set twice."""
    once = ("step.completed", "event.emitted", "timer.fired", "timer.set", "scope.opened")
    counts = Counter((record["kind"], record["path"]) for record in run.records if record["kind"] in once)
    for (kind, path), count in counts.items():
        if count > 1:
            yield f"{count} {kind} of {path}"
    ends: dict[str, int] = {}
    for record in run.records:
        if record["kind"] == "activity.crashed":
            for path in record["facts"]["superseded"]:
                ends.pop(path, None)
        elif record["kind"] in ("branch.ended", "scope.ended", "call.abandoned"):
            if record["path"] in ends:
                yield f"{record['kind']} of {record['path']} twice, at {ends[record['path']]} and {record['seq']}"
            ends[record["path"]] = record["seq"]


def messages_are_taken_once(run: Played) -> Iterator[str]:
    """(6) A message is taken once more than it is given back, at most."""
    taken = Counter(record["facts"]["message"] for record in run.records if record["kind"] == "message.taken")
    for record in run.records:
        taken.subtract(record["facts"].get("returned", ()))
    for message, count in taken.items():
        if count > 1:
            yield f"message {message} was taken {count} times more than it was given back"


def losers_give_back(run: Played) -> Iterator[str]:
    """(9) A losing branch whose last record is a taking gives the message back."""
    done: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in run.records:
        if record["kind"] == "branch.ended":
            mine = done.pop(record["path"], [])
            lost = record["facts"]["outcome"] in ("cancelled", "late")
            if lost and mine and mine[-1]["kind"] == "message.taken":
                message = mine[-1]["facts"]["message"]
                if message not in record["facts"].get("returned", ()):
                    yield f"{record['path']} lost, and has not given back message {message}"
        elif record["path"] and record["kind"] not in ("scope.ended", "note.added"):
            done[record["facts"].get("scope", "")].append(record)


def is_comparable(program: Block, whole: Played) -> bool:
    """Whether every run must end alike: where branches fail, or time decides, which comes first may rightly differ."""
    decided = any(
        record["kind"] in ("branch.ended", "scope.ended")
        and (record["facts"].get("outcome", "value") != "value" or record["facts"].get("decided"))
        for record in whole.records
    )
    # What a kill interrupts is told to somebody, or not.
    decided = decided or any(record["kind"] == "step.intended" for record in whole.records)
    decided = decided or whole.world.others
    return whole.world.by_record and not decided and "within" not in json.dumps(program)


def comparable_end(run: Played) -> Any:
    status, value = run.ends[-1]
    if status is ActivityStatus.COMPLETED:
        value = (value["result"], sorted(value["shared"]))
    events = sorted(str(record["data"]) for record in run.records if record["kind"] == "event.emitted")
    return status, value, events


# ---------------------------------------------------------------------------------------------------- hunting


@attrs.define
class Hunt:
    """What was tried and found so far.

    Attributes:
        most: how many kills of one program are tried.
        programs: how many programs were tried.
        kills: how many lives were ended at a record.
        faults: what was found.
    """

    most: int = 10**6
    programs: int = 0
    kills: int = 0
    faults: list[str] = attrs.field(factory=list)

    async def program(self, folder: Path, seed: int) -> None:
        """Try one program, killed at each of its records."""
        draw = random.Random(seed)
        timing = draw.random() < 0.4
        program = Author(draw, timing, others=draw.random() < 0.5).program()
        by_record = draw.random() < 0.6
        self.programs += 1
        whole = await played(folder, program, [], by_record=by_record, downtime=0)
        self.note(seed, None, faults_of(whole))
        comparable = is_comparable(program, whole)
        boundaries = range(whole.span.start + 2, whole.span.stop)
        for seq in sorted(draw.sample(boundaries, min(self.most, len(boundaries)))):
            deaths = [Death(after=seq, told=draw.random() < 0.5)]
            if draw.random() < AGAIN:
                deaths.append(Death(after=seq + OPENING + draw.randint(0, 6), told=draw.random() < 0.5))
            downtime = draw.choice(DOWNTIMES)
            run = await played(folder, program, deaths, by_record=by_record, downtime=downtime)
            self.kills += len(deaths)
            faults = list(faults_of(run))
            if comparable and comparable_end(run) != comparable_end(whole):
                faults.append(f"it ended {comparable_end(run)}, not {comparable_end(whole)}")
            self.note(seed, deaths, faults)

    def note(self, seed: int, deaths: list[Death] | None, faults: Any) -> None:
        self.faults += [f"seed {seed}, {deaths}: {fault}" for fault in faults]


def hunted(folder: Path, seeds: Iterable[int], *, most: int, seconds: float = math.inf) -> Hunt:
    """Try the programs of these seeds, until a time is over or a fault is found."""
    hunt = Hunt(most=most)
    until = time.monotonic() + seconds
    for seed in seeds:
        trio.run(hunt.program, folder, seed, clock=trio.testing.MockClock(autojump_threshold=0))
        if hunt.faults or time.monotonic() > until:
            break
    return hunt


@pytest.mark.parametrize("first", [0, 1000])
def test_a_few_programs_are_right_after_every_kill(tmp_path: Path, first: int) -> None:
    hunt = hunted(tmp_path, range(first, first + 100), most=20, seconds=6)
    assert not hunt.faults, "\n".join(hunt.faults)
    assert hunt.kills


FIRST = int(os.environ.get("PLAYBILL_SEED", "2000"))
PROGRAMS = int(os.environ.get("PLAYBILL_PROGRAMS", "150"))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(FIRST, FIRST + PROGRAMS))
def test_a_program_is_right_after_every_kill(tmp_path: Path, seed: int) -> None:
    hunt = hunted(tmp_path, [seed], most=200)
    assert not hunt.faults, "\n".join(hunt.faults)
