"""Errors as they are recorded: told as a tree of what JSON holds, and made anew from it.

Telling never raises, whatever the error is: its text is cut, its circles end, and what cannot be kept is left out.
Making anew gives an error of the same class with the same arguments, attributes, notes, cause and members, but
without running any `__init__` of the user's; where that cannot be, a `StepFailedError` stands for it. Live code is
given what was made anew as well, so that it sees what code that is resumed sees.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from traceback import TracebackException
from typing import Any

import orjson

from engine.codec.tagged import Find, class_of, tagged, untagged
from engine.errors import StepFailedError

# -------------------------------------------------------------------------------------------------------- an error told

LONGEST_TEXT = 64 * 1024  # characters of an error's message or traceback, and of its arguments' JSON
_MOST_CAUSES = 32  # of one another, and of groups within groups; what lies deeper is left out
_CUT = "… (cut)"
_ENGINE = f"{Path(__file__).parents[1]}{os.sep}"

# What these keep beside `args` and `__dict__`, in fields of C.
_C_FIELDS: dict[type[BaseException], tuple[str, ...]] = {
    OSError: ("filename", "filename2"),
    ImportError: ("name", "path"),
    NameError: ("name",),
    AttributeError: ("name",),
}


def describe_error(error: BaseException) -> tuple[str, str]:
    """An error's class, as `package.module.Class`, and its text; at most 64 kB of it, cut with a mark.

    Never raises: an error that cannot be printed is described as such.
    """
    cls = type(error)
    try:
        message = str(error)
    except Exception as failure:  # __str__ is the user's code
        message = f"<{cls.__qualname__}, whose __str__ raises {type(failure).__qualname__}>"
    return f"{cls.__module__}.{cls.__qualname__}", _storable(message)


def encode_error(error: BaseException) -> dict[str, Any]:
    """An error as a tree of what JSON holds, from which `decode_error` makes one that is alike. Never raises.

    orjson writes and reads the tree without loss: ints are within 64 bits, nesting is within its bounds.

    Its keys are `type` and `message` as of `describe_error`; `args` in a form that keeps tuples, sets, Decimals,
    datetimes, UUIDs, bytes, enums and data classes, null where one of them cannot be kept; `attributes`, those that
    can; `notes`; `traceback` as text; `cause`, and for a group `members`, in the same form, or null.
    """
    try:
        tree = _error_tree(error, 0)
        orjson.dumps(tree)
        return tree
    except Exception:  # whatever an error's own properties raise; arguments nested too deeply
        kind, message = describe_error(error)
        return _plain_error_tree(kind, message)


def _plain_error_tree(kind: str, message: str) -> dict[str, Any]:
    return {
        "type": kind, "message": message, "args": None, "attributes": {}, "notes": [],
        "traceback": "", "cause": None, "members": None,
    }  # fmt: skip


def _error_tree(error: BaseException, depth: int) -> dict[str, Any]:
    kind, message = describe_error(error)
    tree = _plain_error_tree(kind, message)
    tree["traceback"] = _traceback_text(error) if depth == 0 else ""
    tree["notes"] = [_storable(str(note)) for note in getattr(error, "__notes__", ())]
    tree["attributes"] = dict(_attributes_of(error))
    cause = error.__cause__
    if cause is not None and depth < _MOST_CAUSES:
        tree["cause"] = _error_tree(cause, depth + 1)
    if isinstance(error, BaseExceptionGroup):
        inner = error.exceptions if depth < _MOST_CAUSES else ()
        tree["message"] = _storable(error.message)
        tree["members"] = [_error_tree(member, depth + 1) for member in inner]
        tree["args"] = []
    else:
        tree["args"] = _kept(list(error.args))
    return tree


def _storable(text: str) -> str:
    """A text that UTF-8 can hold, of bounded length."""
    if len(text) > LONGEST_TEXT:
        text = text[: LONGEST_TEXT - len(_CUT)] + _CUT
    return text.encode("utf-8", "backslashreplace").decode()


def _traceback_text(error: BaseException) -> str:
    try:
        described = TracebackException.from_exception(error, compact=True)
        stack = described.stack
        while len(stack) > 1 and stack[0].filename.startswith(_ENGINE):  # how the engine came to call the user's code
            del stack[0]
        length, lines = 0, []
        for line in described.format():
            lines.append(line)
            length += len(line)
            if length > LONGEST_TEXT:
                break
    except Exception as failure:  # __str__, __cause__ and the source's own encoding are the user's
        return f"<no traceback: {type(failure).__qualname__}>"
    return _storable("".join(lines))


def _attributes_of(error: BaseException) -> Iterator[tuple[str, Any]]:
    """What an error keeps beside its arguments, as far as it can be kept."""
    names = dict.fromkeys(getattr(error, "__dict__", ()))
    for cls in type(error).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names |= dict.fromkeys((slots,) if isinstance(slots, str) else slots)
        names |= dict.fromkeys(_C_FIELDS.get(cls, ()))
    for name in names:
        if isinstance(name, str) and not (name.startswith("__") and name.endswith("__")):
            value = getattr(error, name, _MISSING)
            kept = None if value is _MISSING or value is None else _kept(value)
            if kept is not None or (value is None and name in getattr(error, "__dict__", ())):
                yield name, kept


_MISSING = object()


def _kept(value: Any) -> Any:
    """A value without annotation as a tree from which it comes back equal; None where that cannot be."""
    try:
        tree = tagged(value)
        return tree if len(orjson.dumps(tree)) <= LONGEST_TEXT else None
    except Exception:  # hooks and properties are the user's code; and what cannot be kept is not
        return None


# --------------------------------------------------------------------------------------------------- an error made anew


def decode_error(tree: Mapping[str, Any], find: Find | None = None) -> Exception:
    """The error that a tree of `encode_error` tells of, made anew: it was not raised here, so it has no traceback.

    It is of the same class, made by `cls.__new__` so that no `__init__` of the user's runs, with its arguments,
    attributes, notes, cause and members. What is given back live is made in the same way, so that live code and code
    that is resumed see the same.

    Args:
        tree: what `encode_error` gave.
        find: asked by `package.module.Class` for a class that no module has, such as one local to a function. All
            others are looked up in their module, which is imported if need be.

    Returns:
        The error; a `StepFailedError` where the class cannot be found, is no `Exception`, or one of its arguments
        could not be kept.
    """
    error = _made(tree, find)
    if tree.get("notes"):
        object.__setattr__(error, "__notes__", list(tree["notes"]))
    cause = tree.get("cause")
    if cause is not None:
        object.__setattr__(error, "__cause__", decode_error(cause, find))
    return error


def _made(tree: Mapping[str, Any], find: Find | None) -> Exception:
    kind, message = tree["type"], tree["message"]
    try:
        made = _made_alike(tree, find)
    except Exception:  # classes, converters and properties are the user's code
        made = None
    return made if isinstance(made, Exception) else StepFailedError(kind, message)


def _made_alike(tree: Mapping[str, Any], find: Find | None) -> BaseException | None:
    members = tree.get("members")
    if members is not None and tree["type"] == "builtins.BaseExceptionGroup":
        cls: Any = ExceptionGroup
    else:
        cls = class_of(tree["type"], find)
    if cls is None or not issubclass(cls, Exception) or tree.get("args") is None:
        return None
    arguments = tuple(untagged(tree["args"], find))
    if members is not None:
        arguments = (tree["message"], [decode_error(member, find) for member in members])
    error: BaseException = cls.__new__(cls, *arguments)
    builtin: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    builtin.__init__(error, *arguments)  # OSError and UnicodeError take their fields here
    if members is None:
        object.__setattr__(error, "args", arguments)  # past `frozen`, here and below
    for name, value in (tree.get("attributes") or {}).items():
        try:
            object.__setattr__(error, name, untagged(value, find))
        except AttributeError:  # a property of the same name stands before it
            vars(error)[name] = untagged(value, find)
    return error
