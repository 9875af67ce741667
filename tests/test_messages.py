"""Messages: immutable values, and the form of the texts that name things."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import DefinitionError, PayloadError
from engine.messages import (
    ActivityStatus,
    Command,
    Event,
    Request,
    answer_annotation,
    check_by,
    check_id,
    check_name,
    new_id,
)

T = TypeVar("T")
AT = datetime(2026, 11, 23, tzinfo=UTC)


# ------------------------------------------------------------------------------------------- ids, names and who asks


def test_ids_are_uuids_of_version_7_that_sort_as_they_were_made() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert {uuid.UUID(id).version for id in ids} == {7}
    assert len(set(ids)) == 1_000
    assert [id[:13] for id in ids] == sorted(id[:13] for id in ids)  # the milliseconds


GOOD = ["a", "order-1001", "é" * 127, "x" * 255, "😀" * 63, "a b", "\u2028", "orders.fulfil", "<lambda>", "…"]
BAD: list[Any] = [
    "",
    "x" * 256,
    "é" * 128,
    "😀" * 64,
    "a\n",
    "\x00",
    "\x7f",
    "\x85",
    "\x9f",
    "\ud800",
    "a\udfff",
    None,
    5,
    b"a",
]


@pytest.mark.parametrize("text", GOOD, ids=ascii)
def test_good_texts_are_taken(text: str) -> None:
    check_id(text)
    check_name(text)
    check_by(text)


@pytest.mark.parametrize("text", BAD, ids=ascii)
def test_bad_texts_are_refused(text: Any) -> None:
    with pytest.raises(PayloadError) as caught:
        check_id(text)
    assert caught.value.path == "id"
    with pytest.raises(PayloadError) as caught:
        check_by(text)
    assert caught.value.path == "by"
    with pytest.raises(DefinitionError, match="cannot be used"):
        check_name(text)


@pytest.mark.parametrize("text", ["/", "/a", "a/b", "a#2", "a[1]", "]"])
def test_names_hold_nothing_that_builds_paths(text: str) -> None:
    with pytest.raises(DefinitionError, match="leave out / # \\[ \\]"):
        check_name(text)
    check_by(text)


def test_an_id_does_not_begin_with_a_slash() -> None:
    check_id("parent/map[3]/child#2")
    with pytest.raises(PayloadError, match="begins with /"):
        check_id("/engine")


@given(st.text(max_size=300))
def test_texts_are_taken_if_and_only_if_they_are_of_the_form(text: str) -> None:
    good = 1 <= len(text.encode("utf-8", "surrogatepass")) <= 255 and not any(
        ord(character) < 32 or 127 <= ord(character) < 160 or 0xD800 <= ord(character) < 0xE000 for character in text
    )
    for check, error, is_good in (
        (check_by, PayloadError, good),
        (check_id, PayloadError, good and not text.startswith("/")),
        (check_name, DefinitionError, good and not set(text) & set("/#[]")),
    ):
        if is_good:
            check(text)
        else:
            with pytest.raises(error) as caught:
                check(text)
            str(caught.value).encode()


# ------------------------------------------------------------------------------------------------------------ values


def test_an_event_cannot_be_changed_and_is_a_key_whatever_its_data_is() -> None:
    event = Event[Any](id="e", topic="a.b", data={"x": []}, at=AT, source="s", headers={"h": "1"}, seq=3)
    assert {event: 1}[attrs.evolve(event)] == 1
    assert event != attrs.evolve(event, seq=4)
    assert (event.cause, event.key) == (None, None)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.seq = 5  # type: ignore[misc]


def test_an_events_headers_are_empty_unless_given_and_cannot_be_changed() -> None:
    event = Event[None](id="e", topic="a", data=None, at=AT, source="s")
    with pytest.raises(TypeError):
        event.headers["x"] = "y"  # type: ignore[index]


def test_a_command_keeps_what_it_was_given() -> None:
    tags = {"a": "b"}
    args = [1, [2]]
    command = Command("orders.fulfil", args, id="o-1", by="alice", reason="web", key="k", priority=2, tags=tags)
    tags["c"] = "d"
    args.append(3)
    assert (command.activity, command.args, command.kind) == ("orders.fulfil", (1, [2]), "start")
    assert (command.id, command.by, command.reason, command.key, command.priority) == ("o-1", "alice", "web", "k", 2)
    assert command.tags == {"a": "b"}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        command.by = "mallory"  # type: ignore[misc]


def test_a_command_of_another_kind_may_be_for_one_of_the_engines_own() -> None:
    assert Command(kind="redrive", id="/subscribers/mailer").id == "/subscribers/mailer"


@pytest.mark.parametrize(
    ("arguments", "error", "path"),
    [
        ({}, PayloadError, "activity"),
        ({"activity": "a", "args": "abc"}, PayloadError, "args"),
        ({"activity": "a", "args": 5}, PayloadError, "args"),
        ({"activity": "a", "args": {"x": 1}}, PayloadError, "args"),
        ({"activity": "a", "id": "/x"}, PayloadError, "id"),
        ({"activity": "a", "id": ""}, PayloadError, "id"),
        ({"kind": "cancel", "id": "a\n"}, PayloadError, "id"),
        ({"activity": "a", "by": ""}, PayloadError, "by"),
        ({"activity": "a", "tags": {"a": 1}}, PayloadError, "tags"),
        ({"activity": "a", "tags": ["a"]}, PayloadError, "tags"),
        ({"activity": "a", "priority": True}, PayloadError, "priority"),
        ({"activity": "a", "priority": "high"}, PayloadError, "priority"),
        ({"activity": "a/b"}, DefinitionError, None),
        ({"activity": "a", "kind": ""}, DefinitionError, None),
    ],
    ids=str,
)
def test_a_command_is_checked_where_it_is_made(
    arguments: dict[str, Any], error: type[Exception], path: str | None
) -> None:
    with pytest.raises(error) as caught:
        Command(**arguments)
    assert getattr(caught.value, "path", None) == path


def test_a_status_is_its_text() -> None:
    assert [str(status) for status in ActivityStatus] == [
        "pending", "running", "waiting", "paused", "blocked", "cancelling", "completed", "failed", "cancelled",
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- requests


@dataclass
class Balance(Request[int]):
    account: str


@attrs.frozen
class Statement(Request["Sheet"]):
    year: int


@dataclass
class Sheet:
    lines: list[str]


@dataclass
class Read(Request[T], Generic[T]):
    what: T


class ReadList(Read[list[int]]):
    pass


class Bare(Request):  # type: ignore[type-arg]
    pass


class Lost(Request["Nowhere"]):  # type: ignore[name-defined]
    pass


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Balance, int),
        (Statement, Sheet),
        (ReadList, list[int]),
        (Read[str], str),
        (Read, Any),
        (Bare, Any),
        (Request[None], None),
    ],
    ids=str,
)
def test_a_request_says_what_its_answer_is(cls: type, expected: Any) -> None:
    said = answer_annotation(cls)
    assert said is expected or said == expected or (expected is None and said is type(None))


def test_an_answer_that_cannot_be_resolved_is_a_definition_error() -> None:
    with pytest.raises(DefinitionError, match="Lost answers with 'Nowhere', which cannot be resolved"):
        answer_annotation(Lost)


def test_a_request_holds_nothing_of_its_own() -> None:
    assert Balance("a") == Balance("a")
    assert Statement(1) == Statement(1)
    assert not hasattr(Statement(1), "__dict__")
