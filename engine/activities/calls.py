"""Calls on a context that nobody awaits: `ctx.emit(...)` alone does nothing, and Python would say so in a warning.

So what a call gives is an awaitable that knows where it was made: one that is dropped without having been awaited makes
the run fail, with an error that says which call it was and where. No restart would cure it. The path of a call is taken
when it is awaited.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Generator
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from engine.activities.run import Run

C = TypeVar("C", bound=type)


Site = tuple[str, CodeType, int]
"""Where a call was made: the call's name, the caller's code, and the instruction in it. One is made for each call."""


def described(site: Site) -> str:
    """Where a call was made, for an error's text."""
    name, code, instruction = site
    lines = (line for start, end, line in code.co_lines() if start <= instruction < end)
    return f"{name} in {code.co_qualname}, {code.co_filename}:{next(lines, None)}"


class Call(Coroutine[Any, Any, Any]):
    """A call on a context, to be awaited once."""

    __slots__ = ("_coroutine", "_run", "_site")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], run: Run, site: Site) -> None:
        self._coroutine = coroutine
        # Until it is awaited.
        self._run: Run | None = run
        self._site = site

    def __await__(self) -> Generator[Any, Any, Any]:
        self._run = None
        return self._coroutine.__await__()

    # Whoever drives it by hand, as Trio does a task, awaits it too.

    def send(self, value: Any) -> Any:
        self._run = None
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        self._run = None
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._run = None
        self._coroutine.close()

    def __del__(self) -> None:
        if self._run is not None:
            self._coroutine.close()
            self._run.forgotten(self._site)


def awaitable(called: str) -> Callable[[C], C]:
    """Decorate a class whose public coroutine methods are calls. Its instances have the `_run` that they belong to.

    Args:
        called: what an instance is called in an error's text.
    """

    def decorate(cls: C) -> C:
        for name, method in list(vars(cls).items()):
            if not name.startswith("_") and inspect.iscoroutinefunction(method):
                setattr(cls, name, _called(f"{called}.{name}", method))
        return cls

    return decorate


def _called(name: str, method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Call]:
    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Call:
        caller = sys._getframe(1)
        return Call(method(self, *args, **kwargs), self._run, (name, caller.f_code, caller.f_lasti))

    return called
