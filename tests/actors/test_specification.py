"""Specifications are checked where they are made."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

from engine.actors import (
    AutoShutdown,
    Backoff,
    ChildSpec,
    Intensity,
    Mailbox,
    Overflow,
    RestartType,
    Strategy,
    SupervisorSpec,
    open_supervisor,
)
from engine.errors import ChildSpecError


async def actor(mailbox: Mailbox[Any], *args: object) -> None:
    async for _ in mailbox:
        pass


async def announcing(mailbox: Mailbox[Any], *, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> None:
        await function(*args, **kwargs)

    return wrapper


class Worker:
    async def run(self, mailbox: Mailbox[Any]) -> None: ...

    async def run_announcing(self, mailbox: Mailbox[Any], task_status: trio.TaskStatus[None]) -> None: ...

    async def __call__(self, mailbox: Mailbox[Any], *, task_status: trio.TaskStatus[None]) -> None: ...


def child(**options: Any) -> ChildSpec[Any]:
    return ChildSpec("a", actor, **options)


def supervisor(**options: Any) -> SupervisorSpec:
    return SupervisorSpec("s", **options)


def test_a_child_s_options_have_the_documented_defaults() -> None:
    spec = ChildSpec("a", actor, 1, 2)
    assert (spec.id, spec.actor, spec.args) == ("a", actor, (1, 2))
    assert (spec.restart, spec.shutdown, spec.significant) == (RestartType.PERMANENT, 5.0, False)
    assert (spec.capacity, spec.overflow, spec.backoff) == (1024, Overflow.WAIT, None)


def test_a_supervisor_s_options_have_the_documented_defaults() -> None:
    spec = SupervisorSpec("s")
    assert (spec.id, spec.strategy, spec.intensity) == ("s", Strategy.ONE_FOR_ONE, Intensity(1, within=5.0))
    assert (spec.children, spec.auto_shutdown, spec.restart) == ((), AutoShutdown.NEVER, RestartType.PERMANENT)
    assert (spec.shutdown, spec.significant, spec.backoff) == (math.inf, False, None)


def test_a_backoff_has_the_documented_defaults() -> None:
    assert Backoff() == Backoff(0.1, factor=2.0, maximum=30.0, jitter=0.1)


@pytest.mark.parametrize("made", [child(), supervisor(), Intensity(), Backoff()])
def test_a_specification_cannot_be_changed(made: Any) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.shutdown = 1


def test_enums_may_be_given_as_their_text() -> None:
    spec: Any = child(restart="transient", overflow="drop_oldest")
    assert spec.restart is RestartType.TRANSIENT
    assert spec.overflow is Overflow.DROP_OLDEST


@pytest.mark.parametrize(
    "options",
    [
        {"restart": "sometimes"},
        {"restart": None},
        {"shutdown": -1},
        {"shutdown": math.nan},
        {"shutdown": "5"},
        {"shutdown": True},
        {"shutdown": None},
        {"significant": 1},
        {"significant": True},
        {"significant": True, "restart": "permanent"},
        {"capacity": 0},
        {"capacity": 1.5},
        {"capacity": True},
        {"overflow": "explode"},
        {"backoff": 0.1},
    ],
    ids=str,
)
def test_a_child_s_bad_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ChildSpecError):
        child(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"restart": "sometimes"},
        {"shutdown": -1},
        {"strategy": "one_for_two"},
        {"auto_shutdown": True},
        {"intensity": 3},
        {"significant": True},
        {"backoff": 1},
        {"children": [actor]},
        {"children": None},
        {"children": [child(), child()]},
        {"children": [child(significant=True, restart=RestartType.TRANSIENT)]},
    ],
    ids=str,
)
def test_a_supervisor_s_bad_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ChildSpecError):
        supervisor(**options)


def test_a_child_that_is_significant_and_permanent_is_refused() -> None:
    with pytest.raises(ChildSpecError, match="significant and permanent"):
        child(significant=True)


def test_a_significant_child_is_refused_in_a_list_where_it_means_nothing() -> None:
    with pytest.raises(ChildSpecError, match="means nothing"):
        supervisor(children=[child(significant=True, restart=RestartType.TRANSIENT)])


def test_two_children_of_one_id_in_a_list_are_refused() -> None:
    with pytest.raises(ChildSpecError, match="two children of the id 'a'"):
        supervisor(children=[child(), child()])


@pytest.mark.parametrize("auto_shutdown", [AutoShutdown.ANY_SIGNIFICANT, AutoShutdown.ALL_SIGNIFICANT])
@pytest.mark.parametrize("restart", [RestartType.TRANSIENT, RestartType.TEMPORARY])
def test_a_significant_child_is_taken_where_it_means_something(
    auto_shutdown: AutoShutdown, restart: RestartType
) -> None:
    significant = child(significant=True, restart=restart)
    assert supervisor(auto_shutdown=auto_shutdown, children=[significant]).children == (significant,)


@pytest.mark.parametrize("id", ["", "a\n", "x" * 256, "ü" * 128, "\ud800", "/a", 3, None])
def test_an_id_that_cannot_be_one_is_refused(id: Any) -> None:
    with pytest.raises(ChildSpecError):
        ChildSpec(id, actor)
    with pytest.raises(ChildSpecError):
        SupervisorSpec(id)


@pytest.mark.parametrize("id", ["a", "x" * 255, "order-1/pack[3]", "ä ö"])
def test_an_id_of_1_to_255_bytes_is_taken(id: str) -> None:
    assert ChildSpec(id, actor).id == id


def test_an_actor_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ChildSpecError, match="async function"):
        ChildSpec("a", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("restarts", [-1, math.nan, "1", True, None])
def test_an_intensity_s_bad_restarts_are_refused(restarts: Any) -> None:
    with pytest.raises(ChildSpecError):
        Intensity(restarts)


@pytest.mark.parametrize("within", [0, -1, math.nan, None])
def test_an_intensity_s_bad_window_is_refused(within: Any) -> None:
    with pytest.raises(ChildSpecError):
        Intensity(1, within=within)


@pytest.mark.parametrize(
    "options", [{"initial": -1}, {"factor": 0.5}, {"maximum": math.nan}, {"jitter": 1.1}, {"jitter": -0.1}], ids=str
)
def test_a_backoff_s_bad_option_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ChildSpecError):
        Backoff(**options)


def test_an_error_says_what_was_wrong_where_and_what_to_do() -> None:
    with pytest.raises(ChildSpecError, match=r"^shutdown of a is -1; give a number at least 0$"):
        child(shutdown=-1)
    with pytest.raises(ChildSpecError, match="'permanent', 'transient', 'temporary'"):
        child(restart="often")


def test_a_spec_error_is_a_value_error() -> None:
    assert issubclass(ChildSpecError, ValueError)


@pytest.mark.parametrize(
    ("function", "announces"),
    [
        (actor, False),
        (announcing, True),
        (decorated(announcing), True),
        (decorated(actor), False),
        (functools.partial(announcing), True),
        (functools.partial(actor), False),
        (Worker().run, False),
        (Worker().run_announcing, True),
        (Worker(), True),
        (print, False),
    ],
)
def test_an_actor_with_a_task_status_keyword_is_known(function: Any, announces: bool) -> None:
    assert ChildSpec("a", function).announces is announces


def test_a_bad_value_is_refused_before_the_block_is_entered() -> None:
    with pytest.raises(ChildSpecError):
        open_supervisor(children=[child(), child()])
    with pytest.raises(ChildSpecError):
        open_supervisor(intensity=5)  # type: ignore[arg-type]
    with pytest.raises(ChildSpecError):
        open_supervisor(on_dead_letter="print")  # type: ignore[arg-type]
    with pytest.raises(ChildSpecError):
        open_supervisor(on_event=42)  # type: ignore[arg-type]
