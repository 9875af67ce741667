"""Asks: messages that are answered, or are not."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
import trio.testing

from engine import (
    ActivityEndedError,
    ActivityFailedError,
    ActivityNotFoundError,
    AskTimeoutError,
    Context,
    DefinitionError,
    Engine,
    PlaybillError,
    Request,
    Restart,
    activity,
    step,
)
from engine.testing import crash_everywhere
from tests.activities.stage import Stage


@attrs.frozen
class Balance(Request[int]):
    account: str


@step(name="say")
async def say(what: str) -> str:
    return what


@activity(name="account")
async def account(ctx: Context, balance: int, answers: int) -> None:
    for _ in range(answers):
        question = await ctx.receive(Balance)
        await ctx.reply(question, balance)


@activity(name="silent")
async def silent(ctx: Context) -> None:
    await ctx.receive(Balance)


@activity(name="asking")
async def asking(ctx: Context, id: str, seconds: float) -> str:
    try:
        return str(await ctx.ask(id, Balance("x"), timeout=seconds))
    except AskTimeoutError:
        return await ctx.step(say, "too late")
    except ActivityNotFoundError as error:
        return await ctx.step(say, f"there is no {error.id}")
    except ActivityEndedError as error:
        return await ctx.step(say, str(error))


async def test_an_ask_from_outside_is_answered(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    async def body(engine: Engine) -> list[int]:
        handle = await engine.start(account, 12, 2, id="it")
        answers = [await handle.ask(Balance("x"), by="alice"), await engine.ask("it", Balance("y"))]
        await handle.result()
        return answers

    assert await stage.life(body, account) == [12, 12]
    assert stage.story()[:5] == [
        "command.accepted",
        "message.received",
        "message.taken receive",
        "message.replied reply",
        "command.accepted",
    ]


async def test_an_ask_is_over_when_its_time_is(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    @activity(name="deaf")
    async def deaf(ctx: Context) -> None:
        await ctx.sleep(100)

    async def body(engine: Engine) -> None:
        handle = await engine.start(deaf, id="it")
        with pytest.raises(AskTimeoutError, match="after 3 s"):
            await handle.ask(Balance("x"), timeout=3)

    await stage.life(body, deaf)


async def test_whoever_asks_one_that_ends_without_answering_is_told_so(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async def body(engine: Engine) -> None:
        handle = await engine.start(silent, id="it")
        with pytest.raises(ActivityEndedError, match="is completed, and has not answered"):
            await handle.ask(Balance("x"), timeout=None)
        with pytest.raises(ActivityEndedError, match=r"is completed$"):
            await handle.ask(Balance("x"))
        with pytest.raises(ActivityNotFoundError):
            await engine.ask("nobody", Balance("x"))

    await stage.life(body, silent)


async def test_only_requests_are_asked(stage: Stage) -> None:
    async def body(engine: Engine) -> None:
        with pytest.raises(DefinitionError, match="no Request"):
            await engine.ask("it", "how much?")  # type: ignore[arg-type]

    await stage.life(body, silent)


async def test_an_activity_asks_another_and_is_answered_once_after_every_kill(
    autojump_clock: trio.testing.MockClock,
) -> None:
    @activity(name="both")
    async def both(ctx: Context) -> list[Any]:
        child = await ctx.start(account, 7, 2, on_parent_end="wait")
        return [await ctx.ask(child.id, Balance("x"), timeout=None), await child.ask(Balance("y"), timeout=50)]

    assert (await crash_everywhere(both, definitions=[account])).result == [7, 7]


@pytest.mark.parametrize(
    ("other", "result"),
    [
        (silent, "activity 'crash-everywhere/silent' is completed, and has not answered"),
        (None, "there is no nobody"),
    ],
)
async def test_what_comes_of_an_ask_is_the_same_after_every_kill(
    other: Any, result: str, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="outer")
    async def outer(ctx: Context) -> str:
        id = "nobody" if other is None else (await ctx.start(other, on_parent_end="wait")).id
        return await ctx.run(asking, id, 20)

    assert (await crash_everywhere(outer, definitions=[asking, silent])).result == result


async def test_an_ask_of_an_activity_is_over_when_its_time_is(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="slow_account")
    async def slow_account(ctx: Context) -> None:
        question = await ctx.receive(Balance)
        await ctx.sleep(10)
        await ctx.reply(question, 3)

    async def body(engine: Engine) -> list[str]:
        slow = await engine.start(slow_account, id="slow")
        late = await engine.run(asking, "slow", 5, id="it")
        await slow.result()
        return [late, await engine.run(asking, "slow", 5)]

    assert await stage.life(body, slow_account, asking) == ["too late", "activity 'slow' is completed"]


@pytest.mark.parametrize("wrong", ["another", "twice", "unencodable"])
async def test_a_reply_that_answers_nothing_is_refused(
    stage: Stage, wrong: str, autojump_clock: trio.testing.MockClock
) -> None:
    @activity(name="answering", restart=Restart(0))
    async def answering(ctx: Context) -> None:
        question = await ctx.receive(Balance)
        if wrong == "another":
            await ctx.reply(Balance(question.account), 1)
        await ctx.reply(question, object() if wrong == "unencodable" else 1)  # type: ignore[arg-type]
        await ctx.reply(question, 2)

    async def body(engine: Engine) -> None:
        handle = await engine.start(answering, id="it")
        await handle.send(Balance("x"))
        with pytest.raises(ActivityFailedError) as caught:
            await handle.result()
        assert isinstance(caught.value.__cause__, PlaybillError)

    await stage.life(body, answering)
