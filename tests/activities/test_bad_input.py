"""Bad input and faults: each has its named error or state, loses nothing, and repeats nothing.

An activity that swallows its cancellation, forgets an `await`, uses its context from two tasks or kills the process
each time is tried among the programs, by the numbers 26, 25, 24 and 10.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
import socket
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import pytest
import trio
import trio.testing

from engine import (
    ActivityFailedError,
    ActivityStatus,
    Context,
    Engine,
    IdConflictError,
    PayloadError,
    Restart,
    Retry,
    Settings,
    activity,
    step,
)
from engine.testing import crash_everywhere
from engine.testing.clock import TrioTime
from engine.testing.killing import Death
from tests.activities.stage import Stage

SETTINGS = Settings(max_payload=1_000)


def cycle() -> list[Any]:
    """A list that holds itself."""
    values: list[Any] = []
    values.append(values)
    return values


def deep() -> list[Any]:
    """A list in a list, and so on, deeper than Python calls itself."""
    values: list[Any] = []
    for _ in range(100_000):
        values = [values]
    return values


def closed_socket() -> socket.socket:
    """A socket that needs no closing."""
    made = socket.socket()
    made.close()
    return made


UNFIT: dict[str, Callable[[], Any]] = {
    "generator": lambda: (number for number in range(3)),
    "lambda": lambda: lambda: None,
    "socket": closed_socket,
    "NaN": lambda: math.nan,
    "infinity": lambda: [math.inf],
    "cycle": cycle,
    "lone surrogate": lambda: "\ud800",
    "lone surrogate in a key": lambda: {"\udfff": 1},
    "too large": lambda: "x" * 2_000,
    "too deep": deep,
    "bytes that are no text": lambda: {b"\xff": 1},
    "object": object,
}


# ---------------------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize("made", UNFIT.values(), ids=UNFIT.keys())
async def test_a_result_of_a_step_that_no_journal_takes_is_a_final_failure(
    stage: Stage, made: Callable[[], Any]
) -> None:
    async def give() -> Any:
        stage.done.append("given")
        return made()

    @activity(name="a", restart=Restart(3, 60, initial=0.01))
    async def a(ctx: Context) -> None:
        await ctx.step(give, name="give", retry=Retry(3, 0.01))

    assert await stage.status(a, settings=SETTINGS) is ActivityStatus.FAILED
    assert stage.done == ["given"]
    assert stage.story() == ["step.failed give", "activity.failed"]
    failed = stage.records("step.failed")[0]
    assert failed["facts"]["final"] is True
    assert failed["facts"]["error"] == "engine.errors.PayloadError"
    assert "result" in failed["data"]["error"]["message"]


@pytest.mark.parametrize("made", UNFIT.values(), ids=UNFIT.keys())
async def test_a_result_of_an_activity_that_no_journal_takes_fails_it(stage: Stage, made: Callable[[], Any]) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> Any:
        return made()

    with pytest.raises(ActivityFailedError, match="PayloadError") as failed:
        await stage.played(a, settings=SETTINGS)
    assert isinstance(failed.value.__cause__, PayloadError)
    assert stage.records("activity.failed")[0]["facts"]["why"] == "payload"


@pytest.mark.parametrize("made", UNFIT.values(), ids=UNFIT.keys())
async def test_an_argument_that_no_journal_takes_is_refused_before_anything_is_recorded(
    stage: Stage, made: Callable[[], Any]
) -> None:
    async def take(value: Any) -> None:
        stage.done.append("taken")

    @activity(name="a")
    async def a(ctx: Context) -> str:
        for call in (ctx.step(take, made()), ctx.emit("topic", made()), ctx.note("note", made())):
            with pytest.raises(PayloadError):
                await call
        return "went on"

    @activity(name="b")
    async def b(ctx: Context, value: Any) -> None: ...

    async def body(engine: Engine) -> None:
        with pytest.raises(PayloadError):
            await engine.start(b, made(), id="it")
        with pytest.raises(PayloadError):
            await engine.publish("topic", made())

    await stage.life(body, b, settings=SETTINGS)
    assert stage.records() == []
    assert await stage.played(a, settings=SETTINGS) == "went on"
    assert stage.story() == ["activity.completed"]
    assert stage.done == []


@attrs.frozen
class Line:
    price: int


@attrs.frozen
class Order:
    lines: list[Line]


@step(name="take")
async def take_order(order: Order) -> None: ...


@activity(name="order")
async def take(ctx: Context, order: Order) -> None:
    await ctx.step(take_order, order)


@pytest.mark.parametrize("wrong", ["3", 3.5, None, [3]])
async def test_an_argument_that_does_not_fit_its_annotation_is_named_by_its_path(stage: Stage, wrong: Any) -> None:
    order = Order([Line(1), Line(wrong)])

    async def body(engine: Engine) -> None:
        with pytest.raises(PayloadError) as refused:
            await engine.start(take, order, id="it")
        assert refused.value.path == "order.lines[1].price"

    await stage.life(body, take)
    assert stage.records() == []


async def test_too_many_and_too_few_arguments_are_refused(stage: Stage) -> None:
    async def body(engine: Engine) -> None:
        for args in ((), (Order([]), 2)):
            with pytest.raises(PayloadError):
                await engine.start(take, *args, id="it")

    await stage.life(body, take)
    assert stage.records() == []


# ---------------------------------------------------------------------------------------------------- ids


@activity(name="greet")
async def greet(ctx: Context, name: str) -> str:
    return f"hello {name}"


NO_TEXT_OF_AN_ID = ["", "x" * 256, "ä" * 128, "a\nb", "a\x00b", "\x7f", "\ud800", 3]


@pytest.mark.parametrize("id", [*NO_TEXT_OF_AN_ID, "/engine"])
async def test_what_is_no_id_is_refused_and_nothing_is_recorded(stage: Stage, id: Any) -> None:
    async def body(engine: Engine) -> None:
        before = engine._journal.last_seq
        with pytest.raises(PayloadError):
            await engine.start(greet, "x", id=id)
        assert engine._journal.last_seq == before

    await stage.life(body, greet)


@pytest.mark.parametrize("option", ["by", "key"])
@pytest.mark.parametrize("text", NO_TEXT_OF_AN_ID)
async def test_what_names_nobody_and_nothing_is_refused_and_nothing_is_recorded(
    stage: Stage, option: str, text: Any
) -> None:
    async def body(engine: Engine) -> None:
        with pytest.raises(PayloadError):
            await engine.start(greet, "x", id="it", **{option: text})

    await stage.life(body, greet)
    assert stage.records() == []


@pytest.mark.parametrize("id", ["x" * 255, "ä" * 127, "an id with spaces", "a/b", "☃"])
async def test_what_looks_odd_and_is_an_id_is_taken(stage: Stage, id: str) -> None:
    assert await stage.played(greet, "x", id=id) == "hello x"


async def test_one_id_is_one_activity(stage: Stage) -> None:
    async def body(engine: Engine) -> None:
        handle = await engine.start(greet, "x", id="it")
        assert (await engine.start(greet, "x", id="it")).id == handle.id
        with pytest.raises(IdConflictError) as conflict:
            await engine.start(greet, "y", id="it")
        assert conflict.value.id == "it"
        with pytest.raises(IdConflictError):
            await engine.start(greet, "x", id="it", if_exists="fail")
        assert await handle.result() == "hello x"
        with pytest.raises(IdConflictError):
            await engine.start(greet, "y", id="it")

    await stage.life(body, greet)
    assert [record["kind"] for record in stage.records()].count("activity.started") == 1
    # In the next process too.
    assert await stage.played(greet, "x") == "hello x"


# ---------------------------------------------------------------------------------------------------- clocks


@attrs.define
class SetClock(TrioTime):
    """A clock that somebody sets."""

    by: dt.timedelta = dt.timedelta(0)

    def now(self) -> dt.datetime:
        return super().now() + self.by


@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("down", [False, True], ids=["live", "down"])
async def test_a_clock_that_jumps_an_hour_loses_nothing_and_holds_nobody_up(
    stage: Stage, hours: int, down: bool, autojump_clock: trio.testing.MockClock
) -> None:
    clock = SetClock()
    tries: list[int] = []

    async def fail_once() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("once")
        return "done"

    @activity(name="a")
    async def a(ctx: Context) -> str:
        await ctx.sleep(10)
        if not down:
            clock.by = dt.timedelta(hours=hours)
        await ctx.sleep(10)
        return await ctx.step(fail_once, name="try", retry=Retry(2, 5, jitter=0))

    if down:
        await stage.killed(a, at=("timer.set", "sleep#2"), clock=clock)
        clock.by = dt.timedelta(hours=hours)
    began = trio.current_time()
    assert await stage.played(a, clock=clock) == "done"
    assert trio.current_time() - began <= 25
    kinds = [record["kind"] for record in stage.records()]
    assert kinds.count("timer.fired") == 2
    assert kinds[-1] == "activity.completed"
    # It is recorded as the clock gave it.
    instants = [record["at"] for record in stage.records()]
    assert (instants != sorted(instants)) is (hours < 0)


# ---------------------------------------------------------------------------------------------------- exceptions


class UnspeakableError(Exception):
    """One that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no text either")


async def test_an_exception_that_cannot_be_shown_is_a_failure_like_any_other(stage: Stage) -> None:
    async def fail() -> None:
        stage.done.append("tried")
        raise UnspeakableError

    @activity(name="a", restart=Restart(1, 60, initial=0.01))
    async def a(ctx: Context, caught: bool) -> str:
        if not caught:
            await ctx.step(fail, name="fail", retry=Retry(2, 0.01))
        try:
            await ctx.step(fail, name="fail", retry=Retry(2, 0.01))
        except UnspeakableError:
            return "caught"
        return "nothing"

    assert await stage.played(a, True, id="caught") == "caught"
    assert await stage.status(a, False) is ActivityStatus.FAILED
    assert stage.records("activity.failed")[0]["facts"]["error"].endswith("UnspeakableError")
    assert stage.done == ["tried"] * 6


async def test_an_exception_that_leaves_the_function_and_cannot_be_shown_fails_it(stage: Stage) -> None:
    @activity(name="a", fatal=(UnspeakableError,))
    async def a(ctx: Context) -> None:
        raise UnspeakableError

    assert await stage.status(a) is ActivityStatus.FAILED


# ---------------------------------------------------------------------------------------------------- types


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: float


@attrs.frozen
class Everything:
    pair: tuple[int, str]
    many: tuple[int, ...]
    amount: Decimal
    aware: dt.datetime
    naive: dt.datetime
    day: dt.date
    length: dt.timedelta
    colour: Colour
    level: Level
    either: int | str
    other: int | str
    nothing: str | None
    point: Point
    raw: bytes
    id: UUID
    group: frozenset[int]
    by_day: dict[dt.date, Decimal]
    whole: float
    huge: int


THING = Everything(
    pair=(1, "a"),
    many=(1, 2, 3),
    amount=Decimal("12.340"),
    aware=dt.datetime(2026, 3, 29, 2, 30, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    naive=dt.datetime(2026, 3, 29, 2, 30, 0, 1),
    day=dt.date(2026, 3, 29),
    length=dt.timedelta(days=1, microseconds=1),
    colour=Colour.RED,
    level=Level.LOW,
    either=1,
    other="1",
    nothing=None,
    point=Point(1, 2.0),
    raw=b"\x00\xff",
    id=UUID(int=7),
    group=frozenset({3, 1, 2}),
    by_day={dt.date(2026, 1, 1): Decimal("1E+2")},
    whole=1.0,
    huge=2**80,
)


async def pass_on(thing: Everything) -> Everything:
    return thing


def faults_of(thing: Everything) -> list[str]:
    """The fields that are not what was sent, by value or by type."""
    return [
        field.name
        for field in attrs.fields(Everything)
        for sent, came in [(getattr(THING, field.name), getattr(thing, field.name))]
        if sent != came or type(sent) is not type(came) or str(sent) != str(came)
    ]


async def test_types_come_back_as_they_went_in_live_and_after_a_replay() -> None:
    @activity(name="a")
    async def a(ctx: Context, thing: Everything) -> Everything:
        faults = faults_of(thing)
        faults += faults_of(await ctx.step(pass_on, thing))
        (mapped,) = await ctx.map(pass_on, [thing])
        faults += faults_of(mapped)
        assert faults == []
        return thing

    assert faults_of((await crash_everywhere(a, THING)).result) == []


async def test_what_an_activity_returned_is_the_same_in_the_next_process(stage: Stage) -> None:
    @activity(name="a")
    async def a(ctx: Context) -> Everything:
        return await ctx.step(pass_on, THING)

    assert faults_of(await stage.played(a, death=Death())) == []
    assert faults_of(await stage.played(a)) == []
