"""A context for plain calls: what a user sees of an activity without an engine."""

from __future__ import annotations

import datetime as dt
import functools
import time
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from engine import (
    ActivityCancelledError,
    Child,
    Context,
    DefinitionError,
    FakeContextError,
    PayloadError,
    Request,
    TopicError,
    activity,
    current_step,
    step,
)
from engine.testing import FakeContext, fake_context
from engine.testing.clock import EPOCH
from engine.testing.context import FakeChild

DAY = 86_400.0


@attrs.frozen
class Approval:
    by: str


@attrs.frozen
class Balance(Request[int]):
    account: str


class CardDeclinedError(Exception):
    pass


@step(name="charge")
async def charge(card: str, cents: int) -> tuple[str, int]:
    return card, cents


@step(name="key")
async def key() -> str:
    return current_step().idempotency_key


def plain(number: int) -> int:
    return 2 * number


@activity(name="pay")
async def pay(ctx: Context, card: str) -> tuple[str, int]:
    try:
        return await ctx.step(charge, card, 12)
    except CardDeclinedError:
        return await ctx.step(charge, "cash", 12)


# ---------------------------------------------------------------------------------------------------- steps


async def test_a_step_is_a_plain_call() -> None:
    context = fake_context()
    assert await pay(context, "visa") == ("visa", 12)
    assert context.asked == ["charge"]


async def test_the_test_says_what_comes_of_a_step_by_its_name_or_by_its_path() -> None:
    assert await pay(fake_context(results={"charge": ("gift", 0)}), "visa") == ("gift", 0)
    context = fake_context(results={"charge": CardDeclinedError("visa"), "charge#2": ("cash", 12)})
    assert await pay(context, "visa") == ("cash", 12)
    assert context.asked == ["charge", "charge#2"]


async def test_none_is_a_result() -> None:
    assert await fake_context(results={"charge": None}).step(charge, "visa", 1) is None


async def test_a_step_knows_where_it_is() -> None:
    context = fake_context()
    assert [await context.step(key), await context.step(key)] == ["fake/0/key", "fake/0/key#2"]


async def test_a_plain_function_and_a_lambda_are_steps_too() -> None:
    context = fake_context()
    assert await context.step(plain, 4) == 8
    assert await context.step(lambda: plain(5)) == 10
    assert await context.step(functools.partial(plain, 6), name="bound") == 12
    assert context.asked == ["plain", "<lambda>", "bound"]


async def test_what_no_engine_could_record_is_refused() -> None:
    with pytest.raises(PayloadError):
        await fake_context().step(plain, object())  # type: ignore[arg-type]
    with pytest.raises(PayloadError):
        await fake_context().step(lambda: object())


async def test_a_result_comes_as_it_would_come_from_a_journal() -> None:
    held = [1, 2]

    async def twice() -> tuple[list[int], ...]:
        return held, held

    one, other = await fake_context().step(twice)
    assert (one, other) == (held, held)
    assert one is not held
    assert one is not other


# ---------------------------------------------------------------------------------------------------- waiting


async def test_a_wait_takes_no_time_and_is_seen_by_now() -> None:
    context = fake_context()
    assert context.now() == EPOCH
    await context.sleep(DAY)
    assert context.now() == EPOCH + dt.timedelta(days=1)
    await context.sleep_until(EPOCH + dt.timedelta(days=3))
    await context.sleep_until(EPOCH)
    assert context.now() == EPOCH + dt.timedelta(days=3)


async def test_messages_are_received_in_their_order_by_their_type() -> None:
    context = fake_context(messages=[Approval("ann"), Balance("a"), Approval("bob")])
    assert await context.receive(Balance) == Balance("a")
    assert await context.receive(Approval, where=lambda approval: approval.by == "bob") == Approval("bob")
    assert await context.receive(Balance, Approval) == Approval("ann")
    assert await context.receive(Approval, timeout=DAY) is None
    assert context.now() == EPOCH + dt.timedelta(days=1)


async def test_a_message_that_the_test_does_not_give_is_named() -> None:
    with pytest.raises(FakeContextError, match=r"'receive'.*no Approval is left.*messages=") as caught:
        await fake_context(messages=[Balance("a")]).receive(Approval)
    assert caught.value.path == "receive"


async def test_answers_and_messages_are_kept_for_the_test() -> None:
    context = fake_context(results={"ask": 3})
    await context.reply(Balance("a"), 7)
    await context.send("other", Approval("ann"))
    assert await context.ask("other", Balance("b")) == 3
    assert context.replied == [(Balance("a"), 7)]
    assert context.sent == [("other", Approval("ann")), ("other", Balance("b"))]


async def test_an_answer_that_the_test_does_not_give_is_named() -> None:
    with pytest.raises(FakeContextError, match="there is no 'other' to answer; give the answer"):
        await fake_context().ask("other", Balance("a"))


# ---------------------------------------------------------------------------------------------------- branches


async def wait_and_say(seconds: float, what: str, ctx: Context) -> str:
    await ctx.sleep(seconds)
    return await ctx.step(say, what)


@step(name="say")
async def say(what: str) -> str:
    return what


async def test_the_items_of_a_map_are_steps_branches_or_children() -> None:
    async def branch(ctx: Context, number: int) -> int:
        return await ctx.step(plain, number) + 1

    @activity(name="child")
    async def child(ctx: Context, number: int) -> int:
        return await ctx.step(plain, number) + 2

    context = fake_context(results={"map#2[1]/plain": 100})
    assert await context.map(plain, [1, 2]) == [2, 4]
    assert await context.map(branch, [1, 2], limit=1) == [3, 101]
    assert await context.map(child, [1]) == [4]  # type: ignore[arg-type]
    assert await context.map(plain, []) == []
    assert context.asked[:5] == ["map", "map[0]/plain", "map[1]/plain", "map#2", "map#2[0]/plain"]


async def test_what_is_gathered_comes_in_order() -> None:
    context = fake_context()
    late, early = functools.partial(wait_and_say, 2, "late"), functools.partial(wait_and_say, 1, "early")
    assert await context.gather(late, early) == ("late", "early")
    assert context.asked[-2:] == ["gather[1]/say", "gather[0]/say"]
    assert context.now() == EPOCH + dt.timedelta(seconds=2)


async def test_the_first_error_of_a_gather_is_raised_itself_and_ends_the_others() -> None:
    async def fail(ctx: Context) -> str:
        await ctx.sleep(1)
        raise CardDeclinedError

    context = fake_context()
    with pytest.raises(CardDeclinedError):
        await context.gather(functools.partial(wait_and_say, 2, "late"), fail)
    assert "gather[0]/say" not in context.asked


async def test_the_one_that_is_due_first_wins_a_race() -> None:
    context = fake_context()
    late, early = functools.partial(wait_and_say, 2, "late"), functools.partial(wait_and_say, 1, "early")
    assert await context.race(late=late, early=early) == ("early", "early")
    assert context.asked == ["race", "race[late]/sleep", "race[early]/sleep", "race[early]/say"]


async def test_a_message_that_is_there_wins_against_any_wait() -> None:
    async def approved(ctx: Context) -> str:
        return (await ctx.receive(Approval)).by  # type: ignore[attr-defined,no-any-return]

    too_late = functools.partial(wait_and_say, 1, "nobody")
    assert await fake_context(messages=[Approval("ann")]).race(yes=approved, no=too_late) == ("yes", "ann")
    assert await fake_context().race(yes=approved, no=too_late) == ("no", "nobody")


async def test_branches_that_all_wait_for_what_never_comes_are_named() -> None:
    async def approved(ctx: Context) -> str:
        return (await ctx.receive(Approval)).by  # type: ignore[attr-defined,no-any-return]

    with pytest.raises(FakeContextError, match=r"'gather\[0\]/receive'"):
        await fake_context().gather(approved, functools.partial(wait_and_say, 1, "x"), approved)


async def test_a_step_that_waits_for_something_real_is_not_overtaken() -> None:
    async def work(ctx: Context) -> str:
        return await ctx.step(real_work)

    async def real_work() -> str:
        await trio.sleep(0.02)
        return "done"

    assert await fake_context().race(late=functools.partial(wait_and_say, 1, "late"), work=work) == ("work", "done")


async def test_forks_may_stand_in_forks() -> None:
    async def inner(number: int, ctx: Context) -> list[str]:
        assert isinstance(ctx, FakeContext)
        return list(await ctx.gather(*(functools.partial(wait_and_say, number + n, f"{number}{n}") for n in range(2))))

    began = time.perf_counter()
    assert await fake_context().gather(functools.partial(inner, 1), functools.partial(inner, 2)) == (
        ["10", "11"],
        ["20", "21"],
    )
    assert time.perf_counter() - began < 60


# ---------------------------------------------------------------------------------------------------- the rest


async def test_events_and_notes_are_kept_for_the_test() -> None:
    context = fake_context()
    event = await context.emit("orders.eu.paid", Approval("ann"), key="k", headers={"a": "b"})
    await context.note("progress", [1, 2])
    assert context.emitted == [event]
    assert (event.topic, event.data, event.key, dict(event.headers), event.seq) == (
        "orders.eu.paid",
        Approval("ann"),
        "k",
        {"a": "b"},
        1,
    )
    assert context.noted == {"progress": [1, 2]}


async def test_an_event_that_an_engine_would_refuse_is_refused() -> None:
    context = fake_context()
    with pytest.raises(TopicError):
        await context.emit("playbill.activities.failed", {})
    assert context.emitted == []


async def test_drawn_values_are_the_same_in_each_run_and_differ_from_call_to_call() -> None:
    one, other = fake_context(), fake_context()
    drawn = [one.random().random(), one.random().random(), one.uuid(), one.uuid()]
    assert drawn == [other.random().random(), other.random().random(), other.uuid(), other.uuid()]
    assert len(set(drawn)) == 4
    assert one.branch("b").uuid() != one.branch("c").uuid()


async def test_a_child_runs_in_a_context_of_its_own() -> None:
    context = fake_context(results={"pay/charge": ("gift", 0)})
    assert await context.run(pay, "visa") == ("gift", 0)
    assert await context.run(pay, "visa") == ("visa", 12)
    assert await fake_context(results={"pay": 5}).run(pay, "visa") == 5
    assert context.asked == ["pay", "pay/charge", "pay#2", "pay#2/charge"]


async def test_a_child_that_is_started_runs_when_its_result_is_asked_for() -> None:
    context = fake_context()
    child = await context.start(pay, "visa")
    assert child.id == "fake/pay"
    assert context.asked == ["pay"]
    await child.send(Approval("ann"))
    assert await child.result() == await child.result() == ("visa", 12)
    assert context.asked == ["pay", "send", "result", "pay/charge", "result#2"]
    assert context.sent == [("fake/pay", Approval("ann"))]


async def test_the_test_says_what_comes_of_a_child_that_is_started() -> None:
    context = fake_context(results={"pay": CardDeclinedError("visa"), "pay#2": 5})
    first, second = await context.start(pay, "visa"), await context.start(pay, "visa", id="mine")
    with pytest.raises(CardDeclinedError):
        await first.result()
    assert (second.id, await second.result()) == ("mine", 5)


async def test_a_child_that_is_cancelled_before_its_result_is_asked_for_does_not_run() -> None:
    context = fake_context()
    child = await context.start(pay, "visa")
    await child.cancel(reason="changed my mind")
    with pytest.raises(ActivityCancelledError, match="changed my mind"):
        await child.result()
    assert context.asked == ["pay", "cancel", "result"]


async def test_a_change_is_there_unless_the_test_says_that_it_is_not() -> None:
    assert fake_context().patched("new") is True
    assert fake_context(results={"new": False}).patched("new") is False


async def test_a_cleanup_goes_on_when_the_call_is_cancelled() -> None:
    context = fake_context()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with context.cleanup():
            assert await context.step(plain, 1) == 2
    assert context.asked == ["cleanup", "plain"]


async def test_what_only_an_engine_does_is_named() -> None:
    for call in (
        fake_context().continue_as_new(pay, "visa"),
        fake_context().promise(int, "token"),
        fake_context().transaction(None, plain),
    ):
        with pytest.raises(FakeContextError, match=r"only an engine .*; run the activity by open_engine"):
            await call


async def test_it_is_a_context_of_an_activity_that_runs_for_the_first_time() -> None:
    context = fake_context()
    context.log.info("hello")
    assert (context.id, context.name, context.run_number, context.replaying) == ("fake", "fake", 1, False)


async def test_wrong_arguments_are_refused_as_in_an_engine() -> None:
    with pytest.raises(PayloadError):
        await fake_context().sleep(float("nan"))
    with pytest.raises(PayloadError, match="naive"):
        await fake_context().sleep_until(dt.datetime(2026, 1, 1))
    with pytest.raises(DefinitionError):
        await fake_context().map(plain, [1], limit=0)
    with pytest.raises(DefinitionError):
        await fake_context().race()
    for call in (fake_context().run(plain, 1), fake_context().start(plain, 1)):
        with pytest.raises(DefinitionError, match="no activity"):
            await call


def test_no_call_of_a_context_is_left_to_an_engine_that_is_not_there() -> None:
    public: set[str] = {name for name in vars(Context) if not name.startswith("_")}
    assert public - set(vars(FakeContext)) == set()
    of_child: set[str] = {name for name in vars(Child) if not name.startswith("_")}
    assert of_child - set(vars(FakeChild)) == {"id"}


@pytest.mark.parametrize("given", [ValueError("no"), KeyError("no")])
async def test_an_exception_among_the_results_is_raised(given: Any) -> None:
    with pytest.raises(type(given)):
        await fake_context(results={"charge": given}).step(charge, "visa", 1)
