"""Classes: which are made again, and what of them is kept."""

from __future__ import annotations

import pytest

from engine.codec import codec_for
from engine.errors import PayloadError
from tests.codec.samples import Card, Checked, Counted, OwnInit, Point, Seeded, Shape, Special


def test_a_derived_class_is_told_to_be_annotated() -> None:
    with pytest.raises(PayloadError, match=r"would come back as a Card; annotate Special"):
        codec_for(Card).encode(Special("1"))


def test_classes_can_grow_and_shrink() -> None:
    assert codec_for(Point).decode('{"x": 1, "gone": 2}') == Point(x=1)


def test_a_field_that_init_does_not_take_is_kept() -> None:
    counted = Counted("a")
    counted.count = 7
    assert codec_for(Counted).decode(codec_for(Counted).encode(counted)) == counted


def test_a_class_that_could_not_be_made_again_is_refused_when_it_is_encoded() -> None:
    with pytest.raises(PayloadError, match="its __init__ needs 'seed', which is no field"):
        codec_for(Seeded).encode(Seeded(1, seed=2))


def test_a_class_whose_init_does_not_take_its_fields_is_refused_when_it_is_encoded() -> None:
    with pytest.raises(PayloadError, match="its __init__ does not take width"):
        codec_for(OwnInit).encode(OwnInit(1, 2))
    with pytest.raises(PayloadError, match="it is abstract"):
        codec_for(Shape).encode(Shape)


def test_a_constructor_that_raises_is_a_fault_of_the_text() -> None:
    with pytest.raises(PayloadError, match="order: ValueError: 'amount' must be > 0"):
        codec_for(Checked).decode('{"amount": 0}', "order")
