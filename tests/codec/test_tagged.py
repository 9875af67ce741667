"""What an error's arguments keep, and where their classes are found."""

from __future__ import annotations

import json
import math
import sys
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.codec import decode_error, encode_error
from tests.codec.samples import ID, UTC_INSTANT, Box, Card, Colour, Line, Named, Right, Size

ARGUMENTS: list[Any] = [
    None, True, 5, 2**70, 1.5, math.inf, "x", [1], {"a": 1}, {"$a": 1}, {1: (2,)}, (1, (2, 3)), {1, 2},
    frozenset({"a"}),
    Decimal("1.50"), UTC_INSTANT, date(2026, 1, 1), time(1), timedelta(1), ID, b"\x00", bytearray(b"x"),
    Colour.RED, Size.LARGE, Right.READ | Right.WRITE, Path("/x"), Line("a", 1, Decimal(1)), Card("1"), Box([1]),
    Named(1, date(2026, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize("argument", ARGUMENTS, ids=lambda argument: str(argument)[:30])
def test_the_arguments_of_an_error_come_back_equal(argument: Any) -> None:
    error = ValueError(argument)
    error.kept = argument  # type: ignore[attr-defined]
    back = decode_error(json.loads(json.dumps(encode_error(error))))
    assert back.args == (argument,)
    assert type(back.args[0]) is type(argument)
    assert back.kept == argument  # type: ignore[attr-defined]


def test_a_class_is_found_in_a_module_not_imported_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "later_errors.py").write_text("class Later(Exception): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    tree = {**encode_error(ValueError("x")), "type": "later_errors.Later"}
    try:
        assert type(decode_error(tree)).__qualname__ == "Later"
    finally:
        sys.modules.pop("later_errors", None)
