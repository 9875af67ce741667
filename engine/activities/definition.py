"""What a user defines: activities and steps.

A decorator only describes. It registers nothing, looks at nothing but the function, and leaves it callable: `await
charge(card, 12)` is a plain call. Annotations are resolved when a definition is first used, so that a class may be
defined further down. Any function can be a step without a decorator; `step_for` makes the description then.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from engine.codec import codec_for
from engine.errors import DefinitionError
from engine.journal.log import quoted
from engine.messages import check_name
from engine.policies import Restart, Retry
from engine.signatures import Signature, enclosing_locals

if TYPE_CHECKING:
    from engine.activities.context import Context

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class Running(Coroutine[Any, Any, R_co]):
    """What calling an activity gives: an ordinary coroutine at run time. It is a type of its own so that type checkers
    refuse an undecorated function where an activity is asked for."""


class Activity(Generic[P, R_co]):
    """An activity's definition, made by `@activity`."""

    def __init__(
        self,
        function: Callable[..., Coroutine[Any, Any, R_co]],
        *,
        name: str | None = None,
        version: str = "1",
        timeout: float | None = None,
        restart: Restart | None = None,
        fatal: Sequence[type[Exception]] = (),
        limits: Sequence[object] = (),
        locals: Callable[[], Mapping[str, object]] | None = None,
    ) -> None:
        if isinstance(function, Activity | Step) or not inspect.iscoroutinefunction(function):
            raise DefinitionError(
                f"{described(function)}: an activity is an `async def` function that takes a Context first"
            )
        if not _takes_context(function):
            raise DefinitionError(f"{described(function)}: an activity's first parameter is its Context")
        _not_yet(described(function), limits=tuple(limits) or None)
        if timeout is not None:
            check_timeout(described(function), timeout)
        self.function = function
        self.timeout = timeout
        self._name = name if name is not None else function.__qualname__
        check_name(self._name)
        self._version = version
        self.restart = restart if restart is not None else Restart()
        # `Retry` checks and keeps exception classes already; there is no second way to do it.
        self.fatal = tuple(Retry(give_up_on=fatal).give_up_on)
        self.signature = Signature.of(function, skip=1, locals=locals)
        functools.update_wrapper(self, function)

    @property
    def name(self) -> str:
        """The name under which it is recorded and started."""
        return self._name

    @property
    def version(self) -> str:
        """The version that is recorded with each start."""
        return self._version

    def __call__(self, ctx: Context, /, *args: P.args, **kwargs: P.kwargs) -> Running[R_co]:
        """A plain call of the function, without an engine."""
        return cast("Running[R_co]", self.function(ctx, *args, **kwargs))

    def classes_in_reach(self) -> Iterator[type]:
        """The classes that the function names in an enclosing function, or in its options: by them a recorded exception
        is rebuilt whose class is local to a function, and so cannot be imported."""
        yield from self.fatal
        for cell in self.function.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:
                continue
            if isinstance(held, type):
                yield held

    def find_class(self, name: str) -> type | None:
        """A class local to a function, by its module and qualified name, where the activity's code refers to it."""
        return next(
            (found for found in self.classes_in_reach() if f"{found.__module__}.{found.__qualname__}" == name), None
        )

    def __repr__(self) -> str:
        return f"<activity {self._name!r} of {described(self.function)}>"


class Step(Generic[P, R_co]):
    """A step's definition, made by `@step`, or by `step_for` from any function."""

    def __init__(
        self,
        function: Callable[..., R_co],
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = None,
        at_most_once: bool = False,
        process: bool = False,
        record_arguments: bool = True,
        limits: Sequence[object] = (),
        locals: Callable[[], Mapping[str, object]] | None = None,
        signature: Signature | None = None,
    ) -> None:
        if isinstance(function, Activity | Step) or not callable(function):
            raise DefinitionError(f"{described(function)}: a step is a function")
        _not_yet(described(function), limits=tuple(limits) or None)
        if timeout is not None:
            check_timeout(described(function), timeout)
        self.function = function
        self._name = name if name is not None else _name_of(function)
        if self._name is not None:
            check_name(self._name)
        self.retry = retry if retry is not None else Retry()
        if not isinstance(self.retry, Retry):
            raise DefinitionError(f"{described(function)}: retry={retry!r}: give a Retry, as in retry=Retry(3)")
        self.timeout = timeout
        self.at_most_once = at_most_once
        self.check_retry(self.retry)
        self.record_arguments = record_arguments
        self.signature = signature if signature is not None else Signature.of(function, skip=0, locals=locals)
        self.is_async = _is_async(function)
        self.is_method = False
        self.process = process
        if process and self.is_async:
            raise DefinitionError(f"{described(function)}: what runs in a process is a plain function, not `async def`")
        self._bound_signature: Signature | None = None
        if hasattr(function, "__name__"):
            functools.update_wrapper(self, function)

    @property
    def name(self) -> str:
        """The name that stands in its calls' paths.

        Raises:
            DefinitionError: the callable has no name of its own.
        """
        if self._name is None:
            raise DefinitionError(f"{described(self.function)} has no name; give one with name=")
        return self._name

    def check_retry(self, retry: Retry) -> None:
        """Refuse more than one attempt at what is to be done at most once.

        Raises:
            DefinitionError: the policy has more.
        """
        if self.at_most_once and retry.attempts > 1:
            raise DefinitionError(
                f"{described(self.function)}: at_most_once has one attempt; leave out Retry(attempts={retry.attempts})"
            )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """A plain call of the function, without an engine."""
        return self.function(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type, /) -> Step[P, R_co]: ...
    @overload
    def __get__(self: Step[Concatenate[T, Q], R], instance: T, owner: type | None = None, /) -> Step[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        if instance is None:
            return self
        if self._bound_signature is None:
            self._bound_signature = Signature.of(self.function, skip=1)
        bound: Step[..., Any] = Step(
            functools.partial(self.function, instance),
            name=self._name,
            retry=self.retry,
            timeout=self.timeout,
            at_most_once=self.at_most_once,
            process=self.process,
            record_arguments=self.record_arguments,
            signature=self._bound_signature,
        )
        bound.is_async = self.is_async
        bound.is_method = True
        return bound

    def encode_bound(self) -> str:
        """The arguments that a partial holds already, as JSON text; empty where there are none. They belong to the
        call's digest as those that are given do."""
        if not isinstance(self.function, functools.partial) or self.signature is self._bound_signature:
            return ""
        return _bound_text(self.function)

    def __repr__(self) -> str:
        return f"<step {self._name!r} of {described(self.function)}>"


def _bound_text(function: functools.partial[Any]) -> str:
    """A partial's own arguments. One that cannot be encoded (an instance that a method is bound to) is left out."""
    held: list[str] = []
    for key, value in [("", value) for value in function.args] + sorted(function.keywords.items()):
        try:
            held.append(f"[{quoted(key)},{codec_for(type(value)).encode(value)}]")
        except (ValueError, DefinitionError):
            held.append(f"[{quoted(key)}]")
    return f"[{','.join(held)}]"


class _DecoratesActivity(Protocol):
    def __call__(self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...


class _DecoratesStep(Protocol):
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...


@overload
def activity(function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
@overload
def activity(
    *,
    name: str | None = None,
    version: str = "1",
    timeout: float | None = None,
    restart: Restart = ...,
    fatal: Sequence[type[Exception]] = (),
    limits: Sequence[object] = (),
) -> _DecoratesActivity: ...
def activity(function: Any = None, /, **options: Any) -> Any:
    """Describe an `async def` function as an activity: `@activity`, or `@activity(name="orders.fulfil", ...)`.

    Args:
        name: the name under which it is recorded and started; the function's qualified name, unless given.
        version: recorded with each start, for readers.
        timeout: seconds that the activity has from when it first runs, whatever becomes of it: restarts, pauses and the
            time in which no engine runs count. When they are over it is cancelled, and fails with
            `ActivityTimeoutError`.
        restart: how often the function is run again after an exception left it.
        fatal: exceptions after which it is never run again.

    Raises:
        DefinitionError: it is no coroutine function, has no Context, or an option is wrong.
    """
    locals = enclosing_locals(1)
    if function is not None:
        return Activity(function, locals=locals)
    return lambda function: Activity(function, locals=locals, **options)


@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: float | None = None,
    at_most_once: bool = False,
    process: bool = False,
    record_arguments: bool = True,
    limits: Sequence[object] = (),
) -> _DecoratesStep: ...
def step(function: Any = None, /, **options: Any) -> Any:
    """Describe a function as a step: `@step`, or `@step(retry=Retry(5), timeout=10)`.

    A coroutine function runs in the loop, a plain one in a worker thread. It is done at least once and recorded exactly
    once; `current_step().idempotency_key` is the same for every attempt, to be passed on to the outside.

    Args:
        name: the name in its calls' paths; the function's qualified name, unless given.
        retry: how often it is tried; once, unless given.
        timeout: seconds that an attempt may take. A thread is waited for all the same.
        at_most_once: whether it must never be done twice. Its intent is recorded before its only attempt; where the
            process ends between the two, nobody knows whether it took effect, and the call raises
            `StepInterruptedError`. Where that leaves the activity, it is blocked until `resolve` settles the step.
        process: whether it runs in a worker process, which a timeout and a cancel kill, and which ends with the engine.
            The function must be a plain one that its module has by its name.
        record_arguments: whether the arguments are recorded; a digest of them is, if not.

    Raises:
        DefinitionError: it is no function, or an option is wrong.
    """
    locals = enclosing_locals(1)
    if function is not None:
        return Step(function, locals=locals)
    return lambda function: Step(function, locals=locals, **options)


_steps: dict[Any, Step[..., Any]] = {}
"""The descriptions of undecorated functions, so that each is looked at once. Only of those that a module holds, since a
description holds its function: a function made in passing must go when nobody else has it."""


def step_for(function: Callable[..., Any]) -> Step[..., Any]:
    """The description of what was given to `ctx.step` or `ctx.map`: the function's own, or a default one.

    Raises:
        DefinitionError: it is no function.
    """
    if type(function) is Step:
        return function
    if isinstance(function, Activity):
        raise DefinitionError(f"{function!r} is an activity; run it with ctx.run, or start it with ctx.start")
    if inspect.iscoroutine(function):
        function.close()
        raise DefinitionError("ctx.step was given a coroutine; give it the function, and its arguments after it")
    if isinstance(function, functools.partial) and isinstance(function.func, Step):
        return _partial_of(function, function.func)
    if not isinstance(function, types.FunctionType):
        return Step(function)
    known = _steps.get(function)
    if known is None:
        known = Step(function)
        if getattr(sys.modules.get(function.__module__), function.__name__, None) is function:
            _steps[function] = known
    return known


def _partial_of(function: functools.partial[Any], inner: Step[..., Any]) -> Step[..., Any]:
    """A partial of a step keeps the step's name and options."""
    raw = functools.partial(inner.function, *function.args, **function.keywords)
    described: Step[..., Any] = Step(
        raw,
        name=inner.name,
        retry=inner.retry,
        timeout=inner.timeout,
        at_most_once=inner.at_most_once,
        process=inner.process,
        record_arguments=inner.record_arguments,
    )
    return described


def takes_context(function: Callable[..., Any]) -> bool:
    """Whether the function's first parameter is annotated as a Context, which makes a branch of it in `ctx.map`."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    if not parameters:
        return False
    annotation = parameters[0].annotation
    if isinstance(annotation, str):
        return annotation.strip("\"'").rpartition(".")[2] == "Context"
    return getattr(annotation, "__module__", "") == "engine.activities.context" and annotation.__name__ == "Context"


def check_timeout(where: str, timeout: float) -> None:
    """Refuse a timeout that is no number of seconds.

    Raises:
        DefinitionError: it is none.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise DefinitionError(f"{where}: timeout={timeout!r}: give seconds above 0, or None")


def source_digest(function: Callable[..., Any]) -> str | None:
    """SHA-256 of the function's source text, where it can be read."""
    try:
        return hashlib.sha256(inspect.getsource(inspect.unwrap(function)).encode()).hexdigest()
    except (OSError, TypeError):
        return None


def described(function: object) -> str:
    """Where a function was defined, for error texts."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(function)


def _takes_context(function: Callable[..., Any]) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    if not parameters or parameters[0].kind not in positional:
        return False
    annotation = parameters[0].annotation
    return annotation is inspect.Parameter.empty or takes_context(function)


def _name_of(function: Callable[..., Any]) -> str | None:
    while isinstance(function, functools.partial):
        function = function.func
    if getattr(function, "__name__", None) == "<lambda>":
        return "<lambda>"
    return getattr(function, "__qualname__", None)


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _not_yet(where: str, **options: object) -> None:
    """Refuse the options that this version does not keep, rather than accept them and do nothing."""
    for option, value in options.items():
        if value:
            raise DefinitionError(
                f"{where}: {option}={value!r} is not there yet in this version of Playbill; leave it out"
            )
