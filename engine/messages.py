"""What is said to an engine and by it: immutable values, and the form of the texts that name things.

A `Command` asks for something, an `Event` tells that something happened, a `Request` is a message that wants an
answer. None of them does anything by itself. An event is made by the engine alone and is not checked again; a command
comes from outside, and is checked where it is made, so that the mistake shows on the line that made it.

Ids, names and `by` are 1 to 255 bytes of UTF-8 without control characters; an activity's id does not begin with `/`,
since those streams are the engine's own, and a name holds none of `/ # [ ]`, which build the paths of calls.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ForwardRef, Generic, Protocol, TypeVar, get_args, get_origin

import attrs
from uuid_utils import uuid7

from .errors import DefinitionError, PayloadError

D_co = TypeVar("D_co", covariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class ActivityStatus(StrEnum):
    """Where an activity stands. It has ended when it is `completed`, `failed` or `cancelled`."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    BLOCKED = "blocked"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


# ------------------------------------------------------------------------------------------- ids, names and who asks

LONGEST = 255  # bytes of UTF-8

# Control characters are Unicode's category Cc. Surrogates have no UTF-8, so no journal could hold them.
_REFUSED = r"\x00-\x1f\x7f-\x9f\ud800-\udfff"
_TEXT = re.compile(rf"[^{_REFUSED}]{{1,{LONGEST}}}").fullmatch
_ID = re.compile(rf"[^/{_REFUSED}][^{_REFUSED}]{{0,{LONGEST - 1}}}").fullmatch
_NAME = re.compile(rf"[^/#\[\]{_REFUSED}]{{1,{LONGEST}}}").fullmatch


def new_id() -> str:
    """A new id: a UUID of version 7 (RFC 9562), as text. Ids made later sort later, which keeps the indexes dense."""
    return str(uuid7())


def check_id(text: str) -> None:
    """Refuses a text that cannot be an activity's or an event's id.

    Raises:
        PayloadError: it is not of the form that this module's docstring gives; `path` is `id`.
    """
    if not isinstance(text, str) or not _ID(text) or not _fits(text):
        raise PayloadError("id", _fault(text, first="/"))


def check_name(text: str) -> None:
    """Refuses a text that cannot name an activity, a step, a branch, a subscriber, a promise or a note.

    Raises:
        DefinitionError: it is not of the form that this module's docstring gives.
    """
    if not isinstance(text, str) or not _NAME(text) or not _fits(text):
        raise DefinitionError(f"the name {_shown(text)} cannot be used: {_fault(text, anywhere='/#[]')}")


def check_by(text: str) -> None:
    """Refuses a text that cannot say who asked.

    Raises:
        PayloadError: it is not of the form that this module's docstring gives; `path` is `by`.
    """
    if not isinstance(text, str) or not _TEXT(text) or not _fits(text):
        raise PayloadError("by", _fault(text))


def check_message_id(text: str) -> None:
    """Refuses a text that cannot be a message's id.

    Raises:
        PayloadError: it is not of the form that this module's docstring gives; `path` is `message_id`.
    """
    if not isinstance(text, str) or not _TEXT(text) or not _fits(text):
        raise PayloadError("message_id", _fault(text))


def _fits(text: str) -> bool:
    return text.isascii() or len(text.encode()) <= LONGEST


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _fault(text: object, *, first: str = "", anywhere: str = "") -> str:
    """What is wrong with a text that one of the patterns above refused, and what to do."""
    if not isinstance(text, str):
        return f"it is {_shown(text)}, a {type(text).__name__}; give a str"
    if not text:
        return f"it is empty; give 1 to {LONGEST} bytes of UTF-8"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return f"{_shown(text)} holds a lone surrogate, which UTF-8 cannot hold; decode the bytes it came from properly"
    if re.search(f"[{_REFUSED}]", text):
        return f"{_shown(text)} holds a control character; leave it out"
    if anywhere and (found := [character for character in anywhere if character in text]):
        return f"it holds {' '.join(found)}; leave out {' '.join(anywhere)}, which build the paths of calls"
    if first and text.startswith(first):
        return f"{_shown(text)} begins with {first}, as the engine's own streams do; begin it with something else"
    return f"{_shown(text)} is {len(text.encode())} bytes of UTF-8; at most {LONGEST} are allowed"


# ------------------------------------------------------------------------------------------------------------ events


@attrs.frozen(kw_only=True)
class Event(Generic[D_co]):
    """An immutable fact, published on a topic by an activity or from outside.

    Two events are equal when all of their fields are; an event is hashed by its id, so that it can be a key whatever
    its data is.
    """

    id: str
    """A UUIDv7, or what `publish(…, id=)` was given."""
    topic: str
    """The topic it was published on, as `orders.eu.paid`."""
    data: D_co
    """What it says."""
    at: datetime
    """When it was recorded: aware, UTC."""
    source: str
    """Where it comes from: the id of the activity that emitted it, or whoever published it."""
    cause: str | None = None
    """The id of what it follows from, where something did."""
    key: str | None = None
    """The business key: events of one key are handled in order."""
    headers: Mapping[str, str] = attrs.field(factory=lambda: MappingProxyType({}))
    """What was said about it beside its data."""
    seq: int = 0
    """Its place in the journal, from 1; 0 while it has none."""

    def __hash__(self) -> int:
        return hash(self.id)


# ---------------------------------------------------------------------------------------------------------- commands


def _arguments(args: Sequence[Any]) -> Sequence[Any]:
    if isinstance(args, str | bytes | Mapping) or not isinstance(args, Sequence):
        raise PayloadError("args", f"{_shown(args)} is no sequence of arguments; give a list, also for a single one")
    return tuple(args)


def _tags(tags: Mapping[str, str] | None) -> Mapping[str, str]:
    if tags is None:
        return MappingProxyType({})
    if not isinstance(tags, Mapping) or not all(isinstance(text, str) for pair in tags.items() for text in pair):
        raise PayloadError("tags", f"{_shown(tags)} is no mapping of texts to texts")
    return MappingProxyType(dict(tags))


def _check_target(id: str, kind: str) -> None:
    if kind == "start":
        check_id(id)
    elif not isinstance(id, str) or not _TEXT(id) or not _fits(id):  # may be one of the engine's own: `/subscribers/x`
        raise PayloadError("id", _fault(id))


@attrs.frozen
class Command:
    """A request to do something, as it came from outside; recorded before it is obeyed, and also when it is refused.

    Args:
        activity: the name of the activity to start; a `start` needs one.
        args: its arguments, or those of another kind of command. Kept as a tuple.
        kind: `start`, `send`, `cancel`, `terminate`, `pause`, `resume`, `retry`, `fork`, `resolve`, …
        id: the id that the activity is to have, or has. Without one a `start` is given a new one.
        by: who asks.
        reason: why.
        key: the business key.
        priority: a higher one goes first where a limit makes commands wait.
        tags: what the activity can be found by. Kept as a mapping that cannot be changed, empty where there are none.

    Raises:
        PayloadError: the id, `by`, arguments or tags are not of the form that this module's docstring gives, or a
            `start` names no activity.
        DefinitionError: the activity's name, or the kind, is not of that form.
    """

    activity: str | None = None
    args: Sequence[Any] = attrs.field(default=(), converter=_arguments)
    kind: str = attrs.field(default="start", kw_only=True)
    id: str | None = attrs.field(default=None, kw_only=True)
    by: str | None = attrs.field(default=None, kw_only=True)
    reason: str | None = attrs.field(default=None, kw_only=True)
    key: str | None = attrs.field(default=None, kw_only=True)
    priority: int = attrs.field(default=0, kw_only=True)
    tags: Mapping[str, str] = attrs.field(default=None, converter=_tags, kw_only=True)

    def __attrs_post_init__(self) -> None:
        check_name(self.kind)
        if self.activity is not None:
            check_name(self.activity)
        elif self.kind == "start":
            raise PayloadError("activity", "a command that starts names the activity to start")
        if self.id is not None:
            _check_target(self.id, self.kind)
        if self.by is not None:
            check_by(self.by)
        if type(self.priority) is not int:
            raise PayloadError("priority", f"{_shown(self.priority)} is no int")


# ---------------------------------------------------------------------------------------------------------- requests


class Asks(Protocol[R_co]):
    """What `ask` takes: whatever derives from `Request`. Covariant, so that `print(await ref.ask(m))` is inferred."""

    def __answer__(self) -> R_co: ...


class Request(Generic[R]):
    """Base of a message that is answered by an R: `class Balance(Request[int])`.

    It holds nothing and does nothing: it tells `ask` what comes back, and `reply` what to take. Invariant, so that
    type checkers refuse a `reply` of another type.
    """

    __slots__ = ()

    def __answer__(self) -> R:
        raise NotImplementedError("a request tells the type of its answer; the answer is what the actor replies")


def answer_annotation(request: type) -> Any:
    """What a request class says of its answer: the R of `Request[R]`, as annotated; `Any` where it says nothing.

    A text in place of a class (`Request["Receipt"]`) is looked up in the module of the class that says it.
    """
    return _answer(request, {})


def _answer(cls: Any, known: dict[Any, Any]) -> Any:
    origin = get_origin(cls) or cls
    if origin is Request:
        said = get_args(cls)[0] if get_args(cls) else Any
        return Any if isinstance(said, TypeVar) and said not in known else known.get(said, said)
    if not (isinstance(origin, type) and issubclass(origin, Request)):
        return None
    parameters = getattr(origin, "__parameters__", ())
    given = [known.get(argument, argument) for argument in get_args(cls)]
    bound = dict(zip(parameters, given, strict=False))
    for base in origin.__dict__.get("__orig_bases__", origin.__bases__):
        found = _answer(base, bound)
        if found is not None:
            return _looked_up(found, origin)
    return None


def _looked_up(annotation: Any, cls: type) -> Any:
    if not isinstance(annotation, str | ForwardRef):
        return annotation
    text = annotation if isinstance(annotation, str) else annotation.__forward_arg__
    try:
        return eval(text, dict(vars(sys.modules[cls.__module__])))
    except Exception as error:  # an annotation is the user's code, and may raise anything
        raise DefinitionError(f"{cls.__qualname__} answers with {text!r}, which cannot be resolved: {error}") from error
