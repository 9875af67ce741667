"""From an annotation to its codec: the rules, and what was compiled already.

`_RULES` says which annotations there are, in the order in which they are asked: the module of each rule tells how its
annotations are written. An annotation is compiled when it is first asked for; its shape and its codec are kept for
all, unless they depend on who asked (see `compiling`). One thread compiles at a time; the codecs may be used by any.
"""

from __future__ import annotations

import threading
from typing import Any

from engine.codec.choices import enum_rule, literal_rule
from engine.codec.classes import class_rule, named_tuple_rule, typed_dict_rule
from engine.codec.compiling import Compiler, Names, Rule
from engine.codec.containers import array_rule, mapping_rule, tuple_rule
from engine.codec.scalars import derived_scalar_rule, path_rule, scalar_rule
from engine.codec.shapes import Shape
from engine.codec.unannotated import anything_rule
from engine.codec.unions import union_rule
from engine.codec.values import ValueCodec

_RULES: tuple[Rule, ...] = (
    anything_rule,
    scalar_rule,
    union_rule,
    literal_rule,
    enum_rule,
    class_rule,
    named_tuple_rule,
    typed_dict_rule,
    tuple_rule,
    array_rule,
    mapping_rule,
    path_rule,
    derived_scalar_rule,
)

_SHAPES: dict[Any, Shape] = {}
_CODECS: dict[Any, ValueCodec] = {}
_COMPILING = threading.RLock()


def codec_for(annotation: Any, names: Names | None = None) -> ValueCodec:
    """The codec of an annotation, compiled once.

    An annotation that cannot be encoded has a codec too, which refuses every value and says why.

    Args:
        annotation: any type; `Any`, `object` and `inspect.Parameter.empty` for no annotation.
        names: gives the names of the function in which the annotation was written; only asked for where an annotation
            is text, or is a class that was defined in a function.

    Raises:
        DefinitionError: an annotation that is text cannot be resolved.
    """
    try:
        known = _CODECS.get(annotation)
        is_hashable = True
    except TypeError:
        known, is_hashable = None, False
    if known is not None:
        return known
    shape, lasts = compiled(annotation, names)
    codec = ValueCodec(annotation, shape)
    if is_hashable and lasts:
        _CODECS[annotation] = codec
    return codec


def compiled(annotation: Any, names: Names | None) -> tuple[Shape, bool]:
    """The shape of an annotation, and whether it is the same whoever asks."""
    with _COMPILING:
        compiler = Compiler(_RULES, _SHAPES, names)
        shape = compiler.shape(annotation)
        if compiler.lasts:
            _SHAPES.update(compiler.made)
        return shape, compiler.lasts
