"""What is to be supervised, and how: the specifications of children and supervisors.

Every class here is frozen and checked where it is made, so that a mistake shows on the line that made it and nothing is
started. Enums may be given as their text (`restart="transient"`).

Pairs that are refused:

| pair | why |
|---|---|
| `significant=True` with `restart=PERMANENT` | a permanent child is always restarted: its end never stands |
| `significant=True` under a supervisor whose `auto_shutdown` is `NEVER` | its end would mean nothing |
| two children of one id in one list | the second could not be told from the first |
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple

import attrs

from ..errors import ChildSpecError, PayloadError
from ..messages import check_id

if TYPE_CHECKING:
    from .mailbox import Mailbox

M = TypeVar("M")
E = TypeVar("E", bound=StrEnum)
Ts = TypeVarTuple("Ts")


class Strategy(StrEnum):
    """Which children are restarted when one of them is to be.

    The others are stopped in reverse, each gone before the next is asked; then all are started again in order, each
    ready before the next, those that had been stopped before too. Temporary ones are stopped, and not started again.
    All of that is one restart.
    """

    ONE_FOR_ONE = "one_for_one"
    """That one."""
    REST_FOR_ONE = "rest_for_one"
    """That one and those after it, in the order of `which_children`."""
    ONE_FOR_ALL = "one_for_all"
    """All of them."""


class RestartType(StrEnum):
    """Whether a child that ended by itself is restarted."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """After a crash; else its specification stays, stopped."""
    TEMPORARY = "temporary"
    """Never; its specification goes with it."""


class AutoShutdown(StrEnum):
    """Whether the end of significant children ends their supervisor.

    What counts is an end by itself that is not followed by a restart: of a transient child that returned, of a
    temporary one that returned or crashed. Being stopped, by `terminate_child` or for a sibling, does not count.
    """

    NEVER = "never"
    """It does not, and no child may be significant."""
    ANY_SIGNIFICANT = "any_significant"
    """The first such end does."""
    ALL_SIGNIFICANT = "all_significant"
    """The one after which no significant child is left does."""


class Overflow(StrEnum):
    """What becomes of a message for a mailbox that is full."""

    WAIT = "wait"
    """`send` waits for room; `tell` raises `MailboxFullError`."""
    DROP_OLDEST = "drop_oldest"
    """The message that waited longest becomes a dead letter, and this one is taken."""
    DROP_NEWEST = "drop_newest"
    """This message becomes a dead letter."""
    FAIL = "fail"
    """Both raise `MailboxFullError`."""


# ------------------------------------------------------------------------------------------------ checking


# A specification is made for each activity, thousands a second: texts of errors are made only when there is an error.


def _number(
    who: str, what: str, value: float, *, least: float = 0, most: float = math.inf, above: bool = False
) -> None:
    """Refuses what is no number in the range; `above` leaves `least` itself out. NaN is in no range."""
    if not isinstance(value, (int, float)) or value is True or value is False or not least <= value <= most:
        pass
    elif not above or value != least:
        return
    low = f"above {least:g}" if above else f"at least {least:g}"
    high = "" if most == math.inf else f" and at most {most:g}"
    raise ChildSpecError(f"{what} of {who} is {value!r}; give a number {low}{high}")


def _member(who: str, what: str, enum: type[E], value: str) -> E:
    if type(value) is enum:
        return value
    try:
        return enum(value)
    except ValueError:
        choices = ", ".join(repr(member.value) for member in enum)
        raise ChildSpecError(f"{what} of {who} is {value!r}; choose one of {choices}") from None


def _child(id: str, restart: str, shutdown: float, significant: bool, backoff: Backoff | None) -> RestartType:
    """Checks what actors and supervisors have in common as children."""
    try:
        check_id(id)
    except PayloadError as error:
        raise ChildSpecError(f"a child's id cannot be used: {error.why}") from None
    restart = _member(id, "restart", RestartType, restart)
    _number(id, "shutdown", shutdown)
    if backoff is not None and not isinstance(backoff, Backoff):
        raise ChildSpecError(f"backoff of {id} is {backoff!r}; give a Backoff, or None to restart at once")
    if significant is not False:
        _check_significant(id, significant, restart)
    return restart


def _check_significant(id: str, significant: bool, restart: RestartType) -> None:
    if not isinstance(significant, bool):
        raise ChildSpecError(f"significant of {id} is {significant!r}; give True or False")
    if restart is RestartType.PERMANENT:
        raise ChildSpecError(
            f"{id} is significant and permanent, but a permanent child is always restarted and so never ends; "
            f"make it transient or temporary"
        )


def check_hook(what: str, hook: object) -> None:
    """Refuses what cannot be called.

    Raises:
        ChildSpecError: it is neither None nor a function.
    """
    if hook is not None and not callable(hook):
        raise ChildSpecError(f"{what} of the supervisor is {hook!r}; give a function, or None")


def _announces(actor: Callable[..., object]) -> bool:
    """Whether the actor has a `task_status` keyword, by which it says that it is ready."""
    function = getattr(actor, "__func__", actor)
    code = getattr(function, "__code__", None)
    if code is not None and not hasattr(function, "__wrapped__"):  # the common case, forty times as fast
        return "task_status" in code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
    try:
        parameters = inspect.signature(actor).parameters
    except (TypeError, ValueError):  # a callable that does not tell its signature
        return False
    return "task_status" in parameters and parameters["task_status"].kind is not inspect.Parameter.POSITIONAL_ONLY


# ------------------------------------------------------------------------------------------------ options


@attrs.frozen
class Intensity:
    """How many restarts a supervisor bears: more than `restarts` in the last `within` seconds, and it gives up.

    The window slides, as OTP's does: a restart counts for exactly `within` seconds. `Intensity(0)` bears none,
    `Intensity(math.inf)` any number, and then none is remembered.

    Args:
        restarts: how many are borne; 0 or more.
        within: in how many seconds; above 0.

    Raises:
        ChildSpecError: a number is out of range.
    """

    restarts: float = 1
    within: float = attrs.field(default=5.0, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _number("an Intensity", "restarts", self.restarts)
        _number("an Intensity", "within", self.within, above=True)


@attrs.frozen
class Backoff:
    """How long a child waits before each restart: restart n waits `initial * factor ** (n - 1)`, at most `maximum`.

    As given by default: 0.1, 0.2, 0.4, 0.8, 1.6 … 25.6, and from the tenth on 30 seconds, each up to a tenth more or
    less. It begins again at the first once the child has run for `maximum` seconds.

    Args:
        initial: seconds before the first restart.
        factor: by how much each wait is longer than the one before; at least 1.
        maximum: seconds that no wait exceeds.
        jitter: the part by which a wait is made longer or shorter at random, so that those that failed together do
            not come back together; 0 to 1.

    Raises:
        ChildSpecError: a number is out of range.
    """

    initial: float = 0.1
    factor: float = attrs.field(default=2.0, kw_only=True)
    maximum: float = attrs.field(default=30.0, kw_only=True)
    jitter: float = attrs.field(default=0.1, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _number("a Backoff", "initial", self.initial)
        _number("a Backoff", "factor", self.factor, least=1)
        _number("a Backoff", "maximum", self.maximum)
        _number("a Backoff", "jitter", self.jitter, most=1)


# ------------------------------------------------------------------------------------------------ specifications


@attrs.frozen(init=False)
class ChildSpec(Generic[M]):
    """A child that is an actor.

    Args:
        id: what it is called; one of its kind under its supervisor, and the last part of its path.
        actor: the async function that owns the mailbox. If it has a `task_status` keyword it is ready when it calls
            `task_status.started()`; any other is ready as soon as it is spawned.
        args: its arguments after the mailbox; keywords go through `functools.partial`.
        restart: whether it is restarted when it ends by itself.
        shutdown: seconds it is given to end when it is stopped, before it is cancelled. 0 cancels it at once (OTP's
            `brutal_kill`), `math.inf` waits for as long as it takes.
        significant: whether its end can end its supervisor; see `AutoShutdown`.
        capacity: how many messages its mailbox holds; at least 1.
        overflow: what becomes of the message that finds it full.
        backoff: how long it waits before a restart; None restarts it at once. Those that are restarted with it are
            stopped at once, and wait for it.

    Raises:
        ChildSpecError: a value, or a pair of values, cannot be used.
    """

    id: str
    actor: Callable[..., Coroutine[Any, Any, object]]
    args: tuple[Any, ...]
    restart: RestartType
    shutdown: float
    significant: bool
    capacity: int
    overflow: Overflow
    backoff: Backoff | None
    announces: bool = attrs.field(repr=False, eq=False)
    """Whether the actor says itself when it is ready."""

    def __init__(
        self,
        id: str,
        actor: Callable[[Mailbox[M], *Ts], Coroutine[Any, Any, object]],
        /,
        *args: *Ts,
        restart: RestartType = RestartType.PERMANENT,
        shutdown: float = 5.0,
        significant: bool = False,
        capacity: int = 1024,
        overflow: Overflow = Overflow.WAIT,
        backoff: Backoff | None = None,
    ) -> None:
        restart = _child(id, restart, shutdown, significant, backoff)
        if not callable(actor):
            raise ChildSpecError(f"the actor of {id} is {actor!r}; give an async function that takes a mailbox")
        if type(capacity) is not int or capacity < 1:
            raise ChildSpecError(f"capacity of {id} is {capacity!r}; give an int of at least 1")
        overflow = _member(id, "overflow", Overflow, overflow)
        self.__attrs_init__(
            id, actor, args, restart, shutdown, significant, capacity, overflow, backoff, _announces(actor)
        )


@attrs.frozen(init=False)
class SupervisorSpec:
    """A child that is a supervisor, with children of its own.

    When it is restarted it starts the children of this list anew; those that `start_child` had added are gone.

    Args:
        id: what it is called; the part of its children's paths before theirs.
        strategy: which children are restarted when one is to be.
        intensity: how many restarts it bears before it gives up.
        children: what it starts, in this order.
        auto_shutdown: whether it ends with its significant children.
        restart: whether it is restarted when it gave up or shut down. Either is OTP's `shutdown`, no crash: a transient
            one is not restarted.
        shutdown: seconds it is given to stop its children before all that is left of them is cancelled.
        significant: whether its end can end its own supervisor.
        backoff: how long it waits before a restart; None restarts it at once.

    Raises:
        ChildSpecError: a value, or a pair of values, cannot be used.
    """

    id: str
    strategy: Strategy
    intensity: Intensity
    children: Sequence[ChildSpec[Any] | SupervisorSpec]
    auto_shutdown: AutoShutdown
    restart: RestartType
    shutdown: float
    significant: bool
    backoff: Backoff | None

    def __init__(
        self,
        id: str,
        /,
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        intensity: Intensity = Intensity(),
        children: Sequence[ChildSpec[Any] | SupervisorSpec] = (),
        auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
        restart: RestartType = RestartType.PERMANENT,
        shutdown: float = math.inf,
        significant: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        restart = _child(id, restart, shutdown, significant, backoff)
        plan = Plan.checked(id, strategy, intensity, children, auto_shutdown)
        self.__attrs_init__(
            id,
            plan.strategy,
            plan.intensity,
            plan.children,
            plan.auto_shutdown,
            restart,
            shutdown,
            significant,
            backoff,
        )


AnySpec = ChildSpec[Any] | SupervisorSpec


@attrs.frozen
class Plan:
    """What any supervisor is told, the top one too: its options and the children of its list, checked."""

    strategy: Strategy
    intensity: Intensity
    children: tuple[AnySpec, ...]
    auto_shutdown: AutoShutdown

    @classmethod
    def checked(
        cls,
        who: str,
        strategy: Strategy,
        intensity: Intensity,
        children: Sequence[AnySpec],
        auto_shutdown: AutoShutdown,
    ) -> Plan:
        """The plan of these values.

        Raises:
            ChildSpecError: a value, or a pair of values, cannot be used.
        """
        strategy = _member(who, "strategy", Strategy, strategy)
        auto_shutdown = _member(who, "auto_shutdown", AutoShutdown, auto_shutdown)
        if not isinstance(intensity, Intensity):
            raise ChildSpecError(f"intensity of {who} is {intensity!r}; give an Intensity")
        if not isinstance(children, Iterable):
            raise ChildSpecError(f"children of {who} is {children!r}; give a sequence of ChildSpec and SupervisorSpec")
        plan = cls(strategy, intensity, tuple(children), auto_shutdown)
        seen: set[str] = set()
        for child in plan.children:
            plan.check_child(child)
            if child.id in seen:
                raise ChildSpecError(f"{who} has two children of the id {child.id!r}; give each an id of its own")
            seen.add(child.id)
        return plan

    def check_child(self, child: AnySpec) -> None:
        """Refuses a child that cannot be one of such a supervisor.

        Raises:
            ChildSpecError: it is no specification, or it is significant where that means nothing.
        """
        if not isinstance(child, ChildSpec | SupervisorSpec):
            raise ChildSpecError(f"{child!r} is no child; give a ChildSpec or a SupervisorSpec")
        if child.significant and self.auto_shutdown is AutoShutdown.NEVER:
            raise ChildSpecError(
                f"{child.id} is significant under a supervisor whose auto_shutdown is 'never', where that "
                f"means nothing; leave it out"
            )
