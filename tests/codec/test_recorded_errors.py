"""Errors, recorded and made anew."""

from __future__ import annotations

import builtins
import json
import subprocess
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import attrs
import orjson
import pytest
import trio

from engine.codec import codec_for, decode_error, describe_error, encode_error
from engine.errors import PayloadError, StepFailedError
from tests.codec.samples import UTC_INSTANT, Box, Checked, Line


class TwoArgumentsError(Exception):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code
        self.why = why
        self.lock = trio.Lock()
        self._inner = {"at": UTC_INSTANT}
        self.nothing = None


class NotCallingSuperError(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        self.code = code
        self.hint = hint


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class HostileError(Exception):
    def __getattribute__(self, name: str) -> Any:
        if name in ("args", "__dict__", "__notes__", "__cause__", "__traceback__"):
            raise RuntimeError(name)
        return super().__getattribute__(name)


class SlottedError(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


@attrs.frozen
class AttrsError(Exception):
    code: int
    order: Line


@dataclass
class DataError(Exception):
    code: int
    tags: set[str]


class BehindAPropertyError(Exception):
    def __init__(self) -> None:
        self.__dict__["code"] = 7

    @property
    def code(self) -> int:
        return int(self.__dict__["code"])


class FileGoneError(FileNotFoundError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "gone", path)


class OwnGroup(ExceptionGroup[Exception]):
    pass


class Outer:
    class InnerError(Exception):
        pass


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:
        return raised


def chained() -> Exception:
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    error.__cause__.add_note("a note inside")
    error.add_note("a note")
    return error


ERRORS: list[Exception] = [
    ValueError("x"),
    KeyError("missing"),
    TwoArgumentsError(5, "why"),
    NotCallingSuperError(5, hint="x"),
    SlottedError(7),
    AttrsError(1, Line("a", 1, Decimal(1))),
    DataError(1, {"a"}),
    OSError(2, "no such file", "name"),
    FileGoneError("/x"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    SyntaxError("bad", ("f.py", 1, 2, "text", 1, 3)),
    ImportError("no", name="x", path="y"),
    StopIteration(5),
    subprocess.CalledProcessError(3, ["ls", "-l"], b"out"),
    Outer.InnerError("x"),
    chained(),
    PayloadError("a.b", "is wrong", faults=[("a.b", "is wrong"), ("c", "too")]),
    StepFailedError("x.Y", "gone"),
    trio.TooSlowError(),
    ExceptionGroup("several", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])]),
    OwnGroup("own", [ValueError("a")]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_alike(error: Exception) -> None:
    tree = json.loads(json.dumps(encode_error(caught(error))))
    back = decode_error(tree)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert repr(back) == repr(error)
    if not isinstance(error, ExceptionGroup):
        assert back.args == error.args


@pytest.mark.parametrize(
    "error", [*ERRORS, UnprintableError(), HostileError("x"), ValueError(trio.Lock())], ids=lambda e: type(e).__name__
)
def test_an_error_that_came_back_once_comes_back_the_same_again(error: Exception) -> None:
    once = encode_error(decode_error(encode_error(caught(error))))
    again = encode_error(decode_error(once))
    assert {**once, "traceback": ""} == {**again, "traceback": ""}


def test_attributes_that_cannot_be_kept_are_left_out() -> None:
    back = decode_error(encode_error(TwoArgumentsError(5, "why")))
    assert isinstance(back, TwoArgumentsError)
    assert (back.code, back.why, back._inner, back.nothing) == (5, "why", {"at": UTC_INSTANT}, None)
    assert not hasattr(back, "lock")


def test_notes_are_no_attributes() -> None:
    assert encode_error(chained())["attributes"] == {}


def test_notes_causes_and_members_come_back() -> None:
    back = decode_error(encode_error(ExceptionGroup("g", [chained()])))
    assert isinstance(back, ExceptionGroup)
    (member,) = back.exceptions
    assert member.__notes__ == ["a note"]
    assert isinstance(member.__cause__, KeyError)
    assert member.__cause__.__notes__ == ["a note inside"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError(trio.Lock()),
        ValueError("x", object()),
        ValueError("x" * 200_000),
        ValueError("\ud800"),
        HostileError("x"),
    ],
)
def test_an_error_whose_arguments_cannot_be_kept_is_stood_for(error: Exception) -> None:
    back = decode_error(json.loads(json.dumps(encode_error(error), ensure_ascii=False).encode()))
    kind, message = describe_error(error)
    assert isinstance(back, StepFailedError)
    assert (back.type, back.message) == (kind, message)


def test_what_is_no_exception_is_stood_for() -> None:
    for error in (KeyboardInterrupt("x"), SystemExit(3), BaseExceptionGroup("g", [KeyboardInterrupt()])):
        assert not isinstance(
            decode_error(encode_error(error)), BaseExceptionGroup | KeyboardInterrupt | SystemExit
        ) or (isinstance(decode_error(encode_error(error)), ExceptionGroup))
    group = decode_error(encode_error(BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError("v")])))
    assert isinstance(group, ExceptionGroup)
    assert [type(member) for member in group.exceptions] == [StepFailedError, ValueError]


def test_a_class_local_to_a_function_is_asked_for() -> None:
    class LocalError(Exception):
        pass

    tree = encode_error(LocalError("x"))
    assert isinstance(decode_error(tree), StepFailedError)
    assert type(decode_error(tree, lambda name: LocalError if name == tree["type"] else None)) is LocalError


@pytest.mark.parametrize(
    "kind", ["os.system", "builtins.int", "nowhere.Nothing", "x", "", "os.path.join", "builtins.KeyboardInterrupt"]
)
def test_nothing_but_an_exceptions_class_is_ever_called(kind: str) -> None:
    tree = {**encode_error(ValueError("echo")), "type": kind}
    back = decode_error(tree)
    assert isinstance(back, StepFailedError)
    assert back.type == kind


def test_no_init_of_the_users_runs_when_an_error_is_rebuilt() -> None:
    class RegisteringError(Exception):
        made: int = 0

        def __init__(self) -> None:
            type(self).made += 1

    tree = encode_error(RegisteringError())
    assert isinstance(decode_error(tree, lambda _: RegisteringError), RegisteringError)
    assert RegisteringError.made == 1


def test_a_long_message_is_cut_with_a_mark() -> None:
    tree = encode_error(ValueError("x" * 1_000_000))
    assert len(tree["message"]) == 64 * 1024
    assert tree["message"].endswith("… (cut)")
    assert len(json.dumps(tree)) < 200_000


def test_an_error_whose_text_raises_is_described() -> None:
    assert describe_error(UnprintableError("x"))[1] == "<UnprintableError, whose __str__ raises RuntimeError>"
    assert isinstance(decode_error(encode_error(UnprintableError("x"))), UnprintableError)


def test_the_tree_of_an_error_is_one_that_orjson_writes_and_reads_without_loss() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    error = ValueError("outer", 2**70, Box(2**70))
    error.__cause__ = ValueError(deep)
    tree = encode_error(error)
    assert orjson.loads(orjson.dumps(tree)) == tree
    assert decode_error(tree).args == ("outer", 2**70, Box(2**70))
    assert isinstance(decode_error(tree).__cause__, StepFailedError)


def test_an_attribute_behind_a_property_comes_back() -> None:
    error = BehindAPropertyError()
    back = decode_error(encode_error(error))
    assert isinstance(back, BehindAPropertyError)
    assert back.code == 7


def test_causes_in_a_circle_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert type(decode_error(encode_error(first))) is ValueError


def test_the_traceback_says_where() -> None:
    tree = encode_error(caught(ValueError("here")))
    assert "in caught" in tree["traceback"]
    assert tree["traceback"].endswith("ValueError: here\n")


def test_the_frames_of_the_engine_at_the_top_are_left_out() -> None:
    with pytest.raises(ValueError, match="must be > 0") as caught:
        codec_for(Checked).read_tree({"amount": 0})
    error = caught.value
    assert error.__traceback__ is not None
    whole = encode_error(error)["traceback"]
    error.__traceback__ = error.__traceback__.tb_next  # now the engine's own frame is the outermost
    without = encode_error(error)["traceback"]
    assert "engine/codec/" in whole
    assert "engine/codec/" not in without
    assert "validators.py" in without


def test_a_deep_recursion_is_described_in_bounds() -> None:
    def recurse(number: int) -> int:
        return recurse(number + 1) + 1

    with pytest.raises(RecursionError) as caught:
        recurse(0)
    assert len(encode_error(caught.value)["traceback"]) <= 64 * 1024


def test_every_builtin_exception_that_can_be_raised_is_encoded() -> None:
    for cls in vars(builtins).values():
        if isinstance(cls, type) and issubclass(cls, BaseException):
            try:
                error = cls("x")
            except TypeError:
                continue
            back = decode_error(encode_error(error))
            assert type(back) is (cls if issubclass(cls, Exception) else StepFailedError)
