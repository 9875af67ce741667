"""Annotations: by which names they are resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

import pytest

from engine.codec import codec_for
from engine.errors import DefinitionError, PayloadError


def test_classes_local_to_a_function_are_compiled_with_its_names() -> None:
    @dataclass
    class Leaf:
        value: int
        next: Leaf | None = None

    @dataclass
    class Branch:
        leaves: list[Leaf]

    names = locals()
    assert codec_for(Leaf).decode('{"value": 1, "next": {"value": 2}}') == Leaf(1, Leaf(2))
    assert codec_for(Branch, lambda: names).decode('{"leaves": [{"value": 1}]}') == Branch([Leaf(1)])


def test_a_class_whose_annotations_cannot_be_resolved_refuses_and_says_what_to_do() -> None:
    @dataclass
    class Lost:
        value: Later  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(PayloadError, match=r"Lost cannot be resolved .*Later.*define or import the name"):
        codec_for(Lost).encode(Lost(1))
    assert codec_for(list[Lost], lambda: {"Later": int}).encode([Lost(1)]) == '[{"value":1}]'
    assert codec_for(Lost).encode(Lost(1)) == '{"value":1}'


def test_an_annotation_that_is_text_is_resolved_by_the_names_given() -> None:
    assert codec_for("Thing", lambda: {"Thing": int}).encode(1) == "1"
    assert codec_for("Thing", lambda: {"Thing": str}).encode("x") == '"x"'
    assert codec_for(list["Thing"], lambda: {"Thing": int}).encode([1]) == "[1]"  # type: ignore[name-defined]  # noqa: F821
    assert codec_for(list["Thing"], lambda: {"Thing": str}).encode(["x"]) == '["x"]'  # type: ignore[name-defined]  # noqa: F821
    with pytest.raises(DefinitionError, match="the annotation 'Thing' cannot be resolved"):
        codec_for("Thing")


def test_an_alias_may_hold_itself() -> None:
    alias = Union[int, str, list["Nested"], dict[str, "Nested"]]  # type: ignore[name-defined]  # noqa: F821, UP007
    codec = codec_for(alias, lambda: {"Nested": alias})
    assert codec.decode(codec.encode({"a": [1, ["b", {}]]})) == {"a": [1, ["b", {}]]}
    with pytest.raises(PayloadError):
        codec.encode({"a": [1.5]})
