"""A context for calling an activity's function without an engine.

Nothing is recorded, nothing is tried again, no wait takes any time. Steps are plain calls of their functions, unless
the test says what comes of them. Branches begin one after another, each running until it waits; of those that wait the
one that is due first goes on first.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import math
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NoReturn

import trio

from engine.activities import Activity, Child, Context
from engine.activities.definition import step_for, takes_context
from engine.activities.paths import branch_path
from engine.codec import codec_for
from engine.errors import ActivityCancelledError, DefinitionError, FakeContextError, PayloadError
from engine.messages import Event, Request, check_by, check_name
from engine.policies import Retry
from engine.testing.play import ID, Place, Play
from engine.topics import check_published

_Function = Callable[[Context], Awaitable[Any]]


def fake_context(*, results: Mapping[str, object] | None = None, messages: Sequence[object] = ()) -> FakeContext:
    """A context for a plain call of an activity's function: `await fulfil(fake_context(), order)`.

    Steps are called, children run, waits are over at once; what was asked can be seen in the context afterwards.

    Args:
        results: what comes of calls, by their path (`charge#2`, `map[0]/pack`) or by their name; of steps, children and
            asks what they return, or an exception that they raise, in place of running anything; of `ctx.patched` the
            answer. By a name all calls of that name have it.
        messages: what `ctx.receive` takes, in order.

    Returns:
        The context, for one call.

    Raises:
        FakeContextError: not here, but by its calls: the activity waits for what `messages` do not hold, asks for an
            answer that `results` do not hold, or does what only an engine can.
    """
    return FakeContext(Play(dict(results or {}), list(messages)), "")


class FakeContext(Context):
    """A context that has no engine; made by `fake_context`.

    Attributes:
        asked: the paths of its calls, in order.
        emitted: the events that were published.
        sent: the messages that were sent, each with the id that it was sent to.
        replied: the answers that were given, each with its request.
        noted: the notes, by name; the last of each.
    """

    def __init__(self, play: Play, scope: str) -> None:
        # No run stands behind it: every call is one of this class.
        self._place = Place(play, scope)
        self.asked = play.asked
        self.emitted = play.emitted
        self.sent = play.sent
        self.replied = play.replied
        self.noted = play.noted

    # ------------------------------------------------------------------------------------------------ what it is

    @property
    def id(self) -> str:
        return ID

    @property
    def name(self) -> str:
        return ID

    @property
    def run_number(self) -> int:
        return 1

    @property
    def replaying(self) -> bool:
        return False

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        return logging.LoggerAdapter(logging.getLogger(f"playbill.activity.{ID}"), {"activity": ID})

    # ------------------------------------------------------------------------------------------------ steps

    async def step(  # type: ignore[override]  # it takes what both signatures take
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = None,
    ) -> Any:
        step = step_for(function)
        if name is not None:
            check_name(name)
        return await self._place.call(step, args, name or step.name)

    # ------------------------------------------------------------------------------------------------ branches

    async def map(
        self, function: Callable[..., Any], items: Iterable[Any], /, *, limit: int | None = None
    ) -> list[Any]:
        if limit is not None and limit < 1:
            raise DefinitionError(f"map(limit={limit!r}): give a whole number of at least 1, or None")
        path = self._place.next("map")
        functions = [self._applied(function, item, branch_path(path, str(index))) for index, item in enumerate(items)]
        return [end.value for end in await self._place.fork(functions, limit=limit)]

    async def gather(self, *functions: _Function) -> Any:
        path = self._place.next("gather")
        begun = [self._begun(function, branch_path(path, str(index))) for index, function in enumerate(functions)]
        return tuple(end.value for end in await self._place.fork(begun))

    async def race(self, **functions: _Function) -> Any:
        if not functions:
            raise DefinitionError("race() needs a function: give each by a name, as race(paid=wait_for_payment)")
        path = self._place.next("race")
        begun = [self._begun(function, branch_path(path, name)) for name, function in functions.items()]
        (end,) = await self._place.fork(begun, first=True)
        return list(functions)[end.index], end.value

    def _begun(self, function: _Function, path: str) -> Callable[[], Awaitable[Any]]:
        """What a branch runs."""
        return lambda: function(FakeContext(self._place.play, path))

    def _applied(self, function: Callable[..., Any], item: Any, path: str) -> Callable[[], Awaitable[Any]]:
        """What a branch of a map runs."""
        if isinstance(function, Activity):
            return self._begun(lambda context: function.function(context, item), path)
        if takes_context(function):
            return self._begun(lambda context: function(context, item), path)
        step, place = step_for(function), Place(self._place.play, path)
        return lambda: place.call(step, (item,), step.name)

    def branch(self, name: str, /) -> FakeContext:
        check_name(name)
        return FakeContext(self._place.play, self._place.next(name))

    # ------------------------------------------------------------------------------------------------ waiting

    async def sleep(self, seconds: float, /) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
            raise PayloadError("seconds", f"{seconds!r} is no number of seconds")
        waits = self._place.play.waits
        await waits.until(waits.now + dt.timedelta(seconds=max(0.0, seconds)), self._place.next("sleep"), "")

    async def sleep_until(self, instant: dt.datetime, /) -> None:
        if instant.utcoffset() is None:
            raise PayloadError("instant", f"{instant.isoformat()} is naive; give an aware one")
        await self._place.play.waits.until(instant.astimezone(dt.UTC), self._place.next("sleep_until"), "")

    async def receive(
        self, *types: type, where: Callable[[Any], bool] | None = None, timeout: float | None = None
    ) -> Any:
        play, path = self._place.play, self._place.next("receive")
        for index, message in enumerate(play.messages):
            if isinstance(message, types) and (where is None or where(message)):
                await trio.lowlevel.checkpoint()
                return play.messages.pop(index)
        due = None if timeout is None else play.waits.now + dt.timedelta(seconds=timeout)
        wanted = " or ".join(type.__qualname__ for type in types)
        await play.waits.until(due, path, f"no {wanted} is left to be received; give one in messages=")
        return None

    # ------------------------------------------------------------------------------------------------ messages

    async def reply(self, message: Request[Any], value: Any, /) -> None:
        await trio.lowlevel.checkpoint()
        self._place.next("reply")
        self.replied.append((message, value))

    async def send(self, id: str, message: object, /) -> None:
        await trio.lowlevel.checkpoint()
        self._place.next("send")
        self.sent.append((id, message))

    async def ask(self, id: str, message: Any, /, *, timeout: float | None = 5.0) -> Any:
        await trio.lowlevel.checkpoint()
        path = self._place.next("ask")
        self.sent.append((id, message))
        if not self._place.is_given(path, "ask"):
            raise FakeContextError(path, f"there is no {id!r} to answer; give the answer, as results={{{path!r}: 3}}")
        return self._place.given(path, "ask")

    async def emit(
        self, topic: str, data: object, /, *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Event[Any]:
        check_published(topic)
        if key is not None:
            check_by(key)
        codec = codec_for(type(data))
        copy = codec.decode(codec.encode(data, "data"))
        await trio.lowlevel.checkpoint()
        event: Event[Any] = Event(
            id=f"{ID}/{self._place.next('emit')}",
            topic=topic,
            data=copy,
            at=self.now(),
            source=ID,
            cause=None,
            key=key,
            headers=MappingProxyType(dict(headers or {})),
            seq=len(self.emitted) + 1,
        )
        self.emitted.append(event)
        return event

    async def note(self, name: str, value: object, /) -> None:
        check_name(name)
        codec = codec_for(type(value))
        self.noted[name] = codec.decode(codec.encode(value, "value"))
        await trio.lowlevel.checkpoint()
        self._place.next("note")

    # ------------------------------------------------------------------------------------------------ children

    async def run(  # type: ignore[override]  # it takes what the other takes
        self, activity: Any, /, *args: Any, **options: Any
    ) -> Any:
        if not isinstance(activity, Activity):
            raise DefinitionError(f"{activity!r} is no activity; decorate it with @activity")
        await trio.lowlevel.checkpoint()
        path = self._place.next(activity.name)
        if self._place.is_given(path, activity.name):
            return self._place.given(path, activity.name)
        return await activity.function(FakeContext(self._place.play, path), *args)

    async def start(  # type: ignore[override]  # it takes what the other takes
        self,
        activity: Any,
        /,
        *args: Any,
        id: str | None = None,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, str] | None = None,
        on_parent_end: Literal["cancel", "abandon", "wait"] = "cancel",
    ) -> Any:
        if not isinstance(activity, Activity):
            raise DefinitionError(f"{activity!r} is no activity; decorate it with @activity")
        await trio.lowlevel.checkpoint()
        path = self._place.next(activity.name)
        return FakeChild(self, path, id if id is not None else f"{ID}/{path}", activity, args)

    async def continue_as_new(  # type: ignore[override]  # it takes what the other takes
        self, activity: Any, /, *args: Any
    ) -> NoReturn:
        self._place.only_an_engine("continue_as_new", "begins the activity's next generation")

    async def promise(self, type: Any, name: str, /) -> Any:
        self._place.only_an_engine("promise", "hands out a token that somebody outside settles")

    async def transaction(self, source: Any, function: Any, /, *args: Any, name: str | None = None) -> Any:
        self._place.only_an_engine("transaction", "records in two databases at once")

    # ------------------------------------------------------------------------------------------------ the rest

    def now(self) -> dt.datetime:
        return self._place.play.waits.now

    def random(self) -> random.Random:
        return random.Random(self._place.draw("random"))

    def uuid(self) -> uuid.UUID:
        drawn = bytearray(self._place.draw("uuid")[:16])
        drawn[6] = drawn[6] & 0x0F | 0x80
        drawn[8] = drawn[8] & 0x3F | 0x80
        return uuid.UUID(bytes=bytes(drawn))

    def patched(self, name: str, /) -> bool:
        check_name(name)
        return bool(self._place.play.results.get(name, True))

    @contextlib.asynccontextmanager
    async def cleanup(self, *, within: float | None = 30.0) -> AsyncIterator[None]:
        self._place.next("cleanup")
        with trio.CancelScope(shield=True):
            yield


class FakeChild(Child[Any]):
    """What `ctx.start` gives without an engine: a child that runs when its result is asked for, and only once."""

    def __init__(
        self, context: FakeContext, path: str, id: str, activity: Activity[..., Any], args: Sequence[Any]
    ) -> None:
        self._fake = context
        self._path = path
        self._id = id
        self._activity = activity
        self._args = args
        self._ended: tuple[Any, Exception | None] | None = None

    async def send(self, message: object, /) -> None:
        await self._fake.send(self._id, message)

    async def ask(self, message: Any, /, *, timeout: float | None = 5.0) -> Any:
        return await self._fake.ask(self._id, message, timeout=timeout)

    async def result(self, *, timeout: float | None = None) -> Any:
        place = self._fake._place
        await trio.lowlevel.checkpoint()
        place.next("result")
        if self._ended is None:
            self._ended = await self._run_once()
        value, error = self._ended
        if error is not None:
            raise error
        return value

    async def _run_once(self) -> tuple[Any, Exception | None]:
        place, name = self._fake._place, self._activity.name
        try:
            if place.is_given(self._path, name):
                return place.given(self._path, name), None
            return await self._activity.function(FakeContext(place.play, self._path), *self._args), None
        except Exception as error:  # the edge where user code runs: the error belongs to whoever asks for the result
            return None, error

    async def cancel(self, *, reason: str | None = None) -> None:
        await trio.lowlevel.checkpoint()
        self._fake._place.next("cancel")
        if self._ended is None:
            self._ended = None, ActivityCancelledError(self._id, reason=reason)
