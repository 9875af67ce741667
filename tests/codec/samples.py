"""Values of all sorts, and the classes they are of: what the tests of the codec are done with."""

from __future__ import annotations

import abc
import collections
import enum
import types
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, NamedTuple, NewType, NotRequired, Optional, Required, Self, TypedDict, TypeVar
from uuid import UUID

import attrs
import trio

T = TypeVar("T")
U = TypeVar("U")
Bounded = TypeVar("Bounded", bound=int)
Chosen = TypeVar("Chosen", int, str)
UserId = NewType("UserId", str)
MaybeId = NewType("MaybeId", Optional[int])  # type: ignore[valid-newtype]  # noqa: UP045


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Mood(enum.StrEnum):
    GLAD = "glad"


class Mixed(enum.Enum):
    NOTHING = None
    ONE = 1
    HALF = 0.5
    TEXT = "1"


class Odd(enum.Enum):
    PAIR = (1, 2)
    PRICE = Decimal("1.5")
    LISTED = [1]  # noqa: RUF012


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Loud(enum.Enum):
    YES = "yes"

    @classmethod
    def _missing_(cls, value: object) -> Loud | None:
        return cls.YES if value == "YES" else None


@attrs.frozen
class Line:
    sku: str
    quantity: int
    price: Decimal


@attrs.define
class Order:
    id: str
    lines: list[Line]
    placed: datetime
    note: str | None = None
    tags: dict[str, str] = attrs.field(factory=dict)


@dataclass
class Card:
    number: str


@dataclass
class Account:
    number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: int
    y: int = 0


@dataclass
class Special(Card):
    limit: int = 0


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)
    parent_name: str | None = None


@dataclass
class Linked:
    value: int
    next: Linked | None = None


@dataclass
class Ping:
    pong: Pong | None = None


@dataclass
class Pong:
    ping: Ping | None = None
    anything: Any = None


@dataclass
class Selfish:
    others: list[Self] = field(default_factory=list)
    best: Self | None = None


@dataclass
class Box(Generic[T]):
    content: T


@attrs.frozen
class Pair(Generic[T, U]):
    left: T
    right: list[U]


@dataclass
class Labelled(Box[list[T]], Generic[T]):
    label: T


@dataclass
class IntBox(Box[int]):
    extra: str = ""


@attrs.define
class Private:
    _secret: int
    __hidden: int
    cl: int = 1
    converter: int = 2
    attrs: int = 3
    typevar_map: int = 4


@attrs.define
class Counted:
    name: str
    count: int = attrs.field(init=False, default=0)


@dataclass(frozen=True)
class Derived:
    name: str
    length: int = field(init=False)
    pattern: types.SimpleNamespace = field(init=False)
    cache: types.SimpleNamespace = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.name))
        object.__setattr__(self, "pattern", types.SimpleNamespace())
        object.__setattr__(self, "cache", types.SimpleNamespace())


@dataclass
class Seeded:
    value: int
    seed: InitVar[int]


@attrs.define(init=False)
class OwnInit:
    width: int

    def __init__(self, side: int = 0, other: int = 0) -> None:
        self.width = side + other


@dataclass
class Shape(abc.ABC):
    name: str

    @abc.abstractmethod
    def area(self) -> float: ...


@attrs.define
class Checked:
    amount: int = attrs.field(validator=attrs.validators.gt(0))


@attrs.define
class Converted:
    path: Path = attrs.field(converter=Path)


@dataclass
class Unsupported:
    name: str
    lock: trio.Lock


class Named(NamedTuple):
    x: int
    when: date
    label: str = "none"


class Several(NamedTuple, Generic[T]):
    items: list[T]


class Keyed(TypedDict, Generic[T]):
    key: T


@dataclass
class Selves:
    self: int
    other: int = 1


Untyped = collections.namedtuple("Untyped", ["a", "b"])


class Movie(TypedDict):
    name: str
    year: NotRequired[int]


class Partial(TypedDict, total=False):
    name: Required[str]
    price: Decimal


class Nickname(str):
    __slots__ = ()


UTC_INSTANT = datetime(2026, 11, 23, 18, 55, 19, 123456, tzinfo=UTC)
ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
ORDER = Order("o-1", [Line("a", 2, Decimal("1.50")), Line("b", 1, Decimal("0.10"))], UTC_INSTANT, tags={"x": "y"})
