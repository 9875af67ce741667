"""What a user defines: subscribers.

    @subscriber("orders.*.paid", name="mailer", retry=Retry(5), timeout=30)
    async def send_mail(event: Event[Paid]) -> None: ...

The decorator only describes. It registers nothing, and leaves the function callable. The annotation of the handler's
parameter says of what type the events' data is; it is resolved when the subscriber is first used, so that the class may
be defined further down, or stand in the function around.

| the parameter's annotation | what `event.data` is |
|---|---|
| `Event[Paid]` | a `Paid` |
| `Event`, `Any`, none | what JSON holds |
| anything else | refused |
"""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import math
import sys
import typing
from collections import ChainMap
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import FunctionType
from typing import Any, Generic, Literal, NoReturn, Protocol, TypeAlias, TypeVar, cast, get_args, get_origin, overload

import orjson

from engine.codec import ValueCodec, codec_for, may_hold_large_int, parse_exactly, refuse
from engine.errors import DefinitionError, PayloadError
from engine.journal import StoredRecord
from engine.journal.events import event_of
from engine.messages import Event, check_name
from engine.policies import Retry
from engine.signatures import Locals, enclosing_locals
from engine.topics import TopicPattern

D = TypeVar("D")
M_contra = TypeVar("M_contra", contravariant=True)

Start: TypeAlias = Literal["now", "beginning"] | int | dt.datetime
"""Where a subscriber begins when it is attached for the first time: with what comes from now on, with the first event
of all, with the first at or after a seq, or with the first at or after an instant."""

FIVE_ATTEMPTS = Retry(5)
"""How often an event is tried unless a subscriber says otherwise."""


class _Definition:
    """What subscribers of every form have in common: a function, and how it is to be given events."""

    def __init__(
        self,
        function: Callable[..., Any],
        *patterns: str,
        name: str | None = None,
        retry: Retry = FIVE_ATTEMPTS,
        timeout: float | None = None,
        where: Callable[[Event[Any]], bool] | None = None,
        start: Start = "now",
        locals: Locals | None = None,
    ) -> None:
        where_defined = described(function)
        if isinstance(function, _Definition) or not callable(function):
            raise DefinitionError(f"{where_defined}: a subscriber is a function that takes an event")
        self.function = function
        named = name if name is not None else getattr(function, "__qualname__", None)
        if named is None:
            raise DefinitionError(f"{where_defined} has no name; give one with name=")
        check_name(named)
        self._name: str = named
        self._patterns = tuple(dict.fromkeys(TopicPattern(pattern) for pattern in patterns))
        self.retry = retry
        self.timeout = timeout
        self.where = where
        self.start = start
        self.is_async = _is_async(function)
        self._locals = locals
        self._codec: ValueCodec | None = None
        if hasattr(function, "__name__"):
            functools.update_wrapper(cast("Callable[..., Any]", self), function)

    @property
    def name(self) -> str:
        """The name under which its cursor is kept."""
        return self._name

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of the topics that it is given, each once."""
        return tuple(pattern.pattern for pattern in self._patterns)

    @property
    def topic_patterns(self) -> tuple[TopicPattern, ...]:
        """The same, compiled."""
        return self._patterns

    @property
    def is_of_the_system(self) -> bool:
        """Whether it is given what the engine tells of its own doings: a pattern's first word is `playbill`."""
        return any(pattern.is_of_the_system for pattern in self._patterns)

    def __repr__(self) -> str:
        return f"<subscriber {self._name!r} of {described(self.function)}>"


class Subscriber(_Definition, Generic[D]):
    """A subscriber's definition, made by `@subscriber`."""

    async def __call__(self, event: Event[D], /) -> None:
        """A plain call of the handler, without an engine: of a plain function too, and then in this very thread."""
        value = self.function(event)
        if inspect.isawaitable(value):
            await value

    @property
    def codec(self) -> ValueCodec:
        """The codec of the events' data.

        Raises:
            DefinitionError: the annotation cannot be resolved, or is not that of an event.
        """
        if self._codec is None:
            self._codec = _data_codec(self.function, self._locals)
            self._locals = None  # its frame holds on to all that stands in it
        return self._codec

    def event_of(self, record: StoredRecord) -> Event[D]:
        """The event as the handler is given it, with its data decoded anew.

        Raises:
            PayloadError: the data is not of the annotated type, or was erased.
        """
        if record.data is None:
            raise PayloadError("data", "it was erased")
        return event_of(record, data=self._data(record.data))

    def _data(self, text: str) -> Any:
        codec = self.codec
        if not (codec.is_loose and may_hold_large_int(text)):
            try:
                return codec.read_tree(orjson.loads(text)["data"])
            except Exception:  # constructors are the user's code; the careful way tells what it was
                pass
        tree = parse_exactly(text)["data"]
        refuse(codec.faults_in(tree, "data"))
        return codec.read_tree(tree)


class BatchSubscriber(_Definition, Generic[D]):
    """The definition of a subscriber that is handed lists of events. This version makes none."""

    async def __call__(self, events: list[Event[D]], /) -> None:
        """A plain call of the handler, without an engine."""
        value = self.function(events)
        if inspect.isawaitable(value):
            await value


# ------------------------------------------------------------------------------------------------ the decorator


class _Batch(Protocol):
    @property
    def size(self) -> int: ...
    @property
    def within(self) -> float: ...


class _Handler(Protocol):
    @overload
    def __call__(self, function: Callable[[Event[D]], Coroutine[Any, Any, None]], /) -> Subscriber[D]: ...
    @overload
    def __call__(self, function: Callable[[Event[D]], None], /) -> Subscriber[D]: ...


class _BatchHandler(Protocol):
    @overload
    def __call__(self, function: Callable[[list[Event[D]]], Coroutine[Any, Any, None]], /) -> BatchSubscriber[D]: ...
    @overload
    def __call__(self, function: Callable[[list[Event[D]]], None], /) -> BatchSubscriber[D]: ...


class _Starter(Protocol[M_contra]):
    def __call__(self, function: Callable[[Event[D]], M_contra], /) -> Subscriber[D]: ...


@overload
def subscriber(
    *patterns: str,
    name: str | None = None,
    retry: Retry = ...,
    timeout: float | None = None,
    where: Callable[[Event[Any]], bool] | None = None,
    key: Callable[[Event[Any]], str | None] | None = None,
    concurrency: int = 1,
    rate: object | None = None,
    start: Start = "now",
    batch: None = None,
    starts: None = None,
) -> _Handler: ...
@overload
def subscriber(
    *patterns: str,
    name: str | None = None,
    retry: Retry = ...,
    timeout: float | None = None,
    where: Callable[[Event[Any]], bool] | None = None,
    key: Callable[[Event[Any]], str | None] | None = None,
    concurrency: int = 1,
    rate: object | None = None,
    start: Start = "now",
    batch: _Batch,
    starts: None = None,
) -> _BatchHandler: ...
@overload
def subscriber(
    *patterns: str,
    name: str | None = None,
    retry: Retry = ...,
    timeout: float | None = None,
    where: Callable[[Event[Any]], bool] | None = None,
    key: Callable[[Event[Any]], str | None] | None = None,
    concurrency: int = 1,
    rate: object | None = None,
    start: Start = "now",
    starts: Callable[[Any, M_contra], Any],
) -> _Starter[M_contra]: ...
def subscriber(
    *patterns: str,
    name: str | None = None,
    retry: Retry = FIVE_ATTEMPTS,
    timeout: float | None = None,
    where: Callable[[Event[Any]], bool] | None = None,
    key: Any = None,
    concurrency: int = 1,
    rate: object | None = None,
    start: Start = "now",
    batch: Any = None,
    starts: Any = None,
) -> Any:
    """Describe a function as a subscriber: `@subscriber("orders.*.paid", name="mailer")`.

    It is given every matching event at least once, one after another, in the journal's order; a coroutine function in
    the loop, a plain one in a worker thread. How far it got is durable: after a crash it goes on behind the last event
    that is recorded as handled, and is given again those that it handled since (at most 256).

    Args:
        patterns: the topics, as `orders.*.paid`. Changed later, the subscriber goes on from where it was.
        name: the name under which its cursor is kept; the function's qualified name, unless given.
        retry: how often an event is tried, and the waits between; the next event waits meanwhile. After the last
            attempt the event is a dead letter.
        timeout: seconds that an attempt may take. A thread is waited for all the same, and what came of it counts.
        where: a predicate over the event; one of which it is false is passed over. It is called in the loop, and what
            it raises is a failed attempt.
        start: where it begins when it is attached for the first time; later it goes on from its cursor.
        key, concurrency, rate, batch, starts: not in this version.

    Raises:
        DefinitionError: it is no function, or an option is wrong or not there yet.
        TopicError: a pattern is not one.
    """
    locals = enclosing_locals(1)
    _refuse_what_is_missing(
        key=key, concurrency=None if concurrency == 1 else concurrency, rate=rate, batch=batch, starts=starts
    )
    _check_options(patterns, retry=retry, timeout=timeout, where=where, start=start)

    def describe(function: Callable[..., Any]) -> Subscriber[Any]:
        return Subscriber(
            function, *patterns, name=name, retry=retry, timeout=timeout, where=where, start=start, locals=locals
        )

    return describe


def _refuse_what_is_missing(**options: object) -> None:
    """Refuse the options that this version does not keep, rather than accept them and do nothing."""
    for option, value in options.items():
        if value is not None:
            raise DefinitionError(
                f"subscriber({option}={value!r}): {option} is not there yet in this version of Playbill; leave it out"
            )


def _check_options(
    patterns: tuple[object, ...], *, retry: object, timeout: object, where: object, start: object
) -> None:
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise DefinitionError(
            f"subscriber{patterns!r}: give the patterns of topics, as in @subscriber('orders.*.paid')"
        )
    if not isinstance(retry, Retry):
        raise DefinitionError(f"subscriber(retry={retry!r}): give a Retry, as Retry(5)")
    if timeout is not None and (
        isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf
    ):
        raise DefinitionError(f"subscriber(timeout={timeout!r}): give seconds above 0, or None")
    if where is not None and (not callable(where) or _is_async(where)):
        raise DefinitionError(f"subscriber(where={where!r}): give a plain function from the event to a bool")
    _check_start(start)


def _check_start(start: object) -> None:
    if isinstance(start, dt.datetime):
        if start.utcoffset() is None:
            raise DefinitionError(f"subscriber(start={start!r}): a naive instant; give an aware one, with its tzinfo")
    elif isinstance(start, bool) or not (start in ("now", "beginning") or (isinstance(start, int) and start >= 0)):
        raise DefinitionError(f"subscriber(start={start!r}): give 'now', 'beginning', a seq, or an aware datetime")


def definitions(subscribers: Iterable[Subscriber[Any]]) -> dict[str, Subscriber[Any]]:
    """The subscribers by name.

    Raises:
        DefinitionError: two have one name, and so one cursor.
    """
    found: dict[str, Subscriber[Any]] = {}
    for one in subscribers:
        other = found.setdefault(one.name, one)
        if other is not one:
            places = f"{_place(other.function)} and {_place(one.function)}"
            raise DefinitionError(f"two subscribers are named {one.name!r}: {places}; rename one")
    return found


# ------------------------------------------------------------------------------------------------ what Python tells


def described(function: object) -> str:
    """Which function it is, for error texts."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(function)


def _place(function: Callable[..., Any]) -> str:
    """The same, with file and line where Python knows them."""
    code = getattr(_as_written(function), "__code__", None)
    return described(function) + (f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else "")


def _is_async(function: object) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  (it is looked up, not asked for)


def _as_written(function: Any) -> Any:
    """The function whose source holds the annotations."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(inspect.unwrap(function), "__func__", inspect.unwrap(function))
    if not isinstance(function, FunctionType):
        function = getattr(type(function), "__call__", function)  # noqa: B004  (it is looked up, not asked for)
    return inspect.unwrap(function)


def _data_codec(function: Callable[..., Any], locals: Locals | None) -> ValueCodec:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin that does not tell
        return codec_for(Any)
    if not parameters:
        raise DefinitionError(f"{described(function)} takes no event; give it a parameter, as event: Event[Paid]")
    parameter = parameters[0]
    names = _names(function, locals)
    try:
        annotation = _resolved(parameter.annotation, names)
    except Exception as error:  # an annotation that is text is the user's code, and may raise anything
        raise DefinitionError(
            f"{described(function)}: the annotation {parameter.annotation!r} of {parameter.name!r} cannot be resolved "
            f"({error}); define or import the name, not under `if TYPE_CHECKING`"
        ) from error
    if annotation in (inspect.Parameter.empty, Any, object, Event):
        return codec_for(Any)
    if get_origin(annotation) is not Event:
        _refuse_annotation(function, parameter)
    return codec_for(get_args(annotation)[0], lambda: names)


def _refuse_annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> NoReturn:
    raise DefinitionError(
        f"{described(function)}: {parameter.name!r} is annotated {parameter.annotation!r}, but a subscriber is given "
        f"an event; annotate it as Event[…], with the type of the event's data, or not at all"
    )


def _names(function: Callable[..., Any], locals: Locals | None) -> Mapping[str, Any]:
    """The names that the annotation may use, innermost first."""
    written = _as_written(function)
    closure: dict[str, Any] = {}
    cells = getattr(written, "__closure__", None) or ()
    for name, cell in zip(written.__code__.co_freevars if cells else (), cells, strict=True):
        try:
            closure[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    module = sys.modules.get(getattr(written, "__module__", None) or "")
    outer = getattr(written, "__globals__", None) or (vars(module) if module else {})
    return ChainMap(dict(locals()) if locals else {}, closure, outer)


def _resolved(annotation: Any, names: Mapping[str, Any]) -> Any:
    """The annotation with all texts in it replaced by what they name."""
    if annotation is inspect.Parameter.empty:
        return annotation

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    return typing.get_type_hints(holder, globalns={}, localns=dict(names), include_extras=True)["it"]
