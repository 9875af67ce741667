"""Unions: which member a value is, and how it is told."""

from __future__ import annotations

import dataclasses
from typing import Union
from uuid import UUID

import pytest

from engine.codec import codec_for
from engine.errors import PayloadError
from tests.codec.samples import Account, Card, Line


def test_a_fault_within_a_union_is_told_where_it_stands() -> None:
    with pytest.raises(PayloadError) as caught:
        codec_for(Card | Account | None).encode(Card(5), "by")  # type: ignore[arg-type]
    assert caught.value.path == "by.number"
    with pytest.raises(PayloadError) as caught:
        codec_for(Card | Account | None).decode('{"Card": {"number": 5}}', "by")
    assert caught.value.path == "by.number"


def test_only_what_json_cannot_tell_apart_is_tagged() -> None:
    assert codec_for(Card | None).encode(Card("1")) == '{"number":"1"}'
    assert codec_for(Card | str | int).encode(Card("1")) == '{"number":"1"}'
    assert codec_for(Card | Account).encode(Account("1")) == '{"Account":{"number":"1"}}'
    assert codec_for(str | UUID).encode("x") == '"x"'


def test_what_was_written_before_a_union_was_annotated_is_still_read() -> None:
    assert codec_for(Card | Line).decode('{"number":"1"}') == Card("1")
    with pytest.raises(PayloadError, match=r'say which, as \{"Card": …\} or \{"Account": …\}'):
        codec_for(Card | Account).decode('{"number":"1"}')


def test_two_classes_of_one_name_are_told_apart() -> None:
    first = dataclasses.make_dataclass("Same", [("a", int)], namespace={"__module__": "one"})
    second = dataclasses.make_dataclass("Same", [("a", int)], namespace={"__module__": "two"})
    first.__module__, second.__module__ = "one", "two"
    codec = codec_for(Union[first, second])  # noqa: UP007
    assert type(codec.decode(codec.encode(second(1)))) is second
    assert type(codec.decode(codec.encode(first(1)))) is first
