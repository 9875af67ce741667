"""The codec of one annotation: values to JSON text and back.

Each direction has two passes. The fast one goes through the shape's own functions and stops at the first fault,
without saying where. Only if it fails the careful one runs: it finds all faults with their paths, and raises them at
once; where it finds none, what failed was orjson's bounds, and the value is written or read without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from engine.codec.faults import Faults, refuse
from engine.codec.shapes import Shape, faults_of
from engine.codec.text import exact_tree, may_hold_large_int, parse_exactly, text_of
from engine.errors import PayloadError


class ValueCodec:
    """Writes and reads the values of one annotation. Made by `codec_for`; may be used from any thread."""

    __slots__ = ("_shape", "annotation", "is_loose", "read_tree", "write_tree")

    def __init__(self, annotation: Any, shape: Shape) -> None:
        self.annotation = annotation
        self.write_tree: Callable[[Any], Any] = shape.write
        """Value to tree, for writing several values as one text; what it raises does not say where."""
        self.read_tree: Callable[[Any], Any] = shape.read
        """Tree to value, in the same manner."""
        self._shape = shape
        self.is_loose = _is_loose(shape)
        """Whether a text that `may_hold_large_int` must be read by `parse_exactly`, lest its ints become floats."""

    def __repr__(self) -> str:
        return f"<ValueCodec of {self._shape.name}>"

    def encode(self, value: Any, path: str = "") -> str:
        """The value as JSON text.

        Args:
            value: what is to be written.
            path: what to call it in an error, as `order`.

        Raises:
            PayloadError: it, or something in it, cannot be written; `faults` has all of them.
        """
        try:
            return orjson.dumps(self.write_tree(value)).decode()
        except Exception:  # properties and hooks are the user's code; the careful pass tells what it was
            return self._encode_carefully(value, path)

    def decode(self, text: str, path: str = "") -> Any:
        """The value that a JSON text says: what was encoded, anew at every call.

        Args:
            text: JSON.
            path: what to call it in an error.

        Raises:
            PayloadError: it is no JSON, or says no value of this annotation; `faults` has all that is wrong.
        """
        try:
            if self.is_loose and may_hold_large_int(text):
                return self.read_tree(exact_tree(text))
            return self.read_tree(orjson.loads(text))
        except Exception:  # constructors are the user's code; the careful pass tells what it was
            return self._decode_carefully(text, path)

    def decode_field(self, text: str, field: str, path: str = "") -> Any:
        """The value that an object's text has under a key, as a record's data has a result under `value`.

        The text is parsed once, and the value is neither written again nor parsed again. An object that lacks the key
        raises a KeyError: it is the engine's own.

        Args:
            text: JSON, an object.
            field: the key.
            path: what to call the value in an error.

        Raises:
            PayloadError: it is no JSON, or says no value of this annotation; `faults` has all that is wrong.
        """
        try:
            if self.is_loose and may_hold_large_int(text):
                return self.read_tree(exact_tree(text)[field])
            return self.read_tree(orjson.loads(text)[field])
        except Exception:  # constructors are the user's code; the careful pass tells what it was
            return self._read_carefully(parse_exactly(text, path)[field], path)

    def faults_of(self, value: Any, path: str = "") -> Faults:
        """All that keeps a value from being written, with the paths; none if it can be."""
        found: Faults = []
        try:
            faults_of(self._shape, value, path, found, reading=False)
        except RecursionError:
            found.append((path, "is nested too deeply, or holds itself"))
        return found

    def faults_in(self, tree: Any, path: str = "") -> Faults:
        """All that keeps a tree from being read, with the paths; none if it can be."""
        found: Faults = []
        try:
            faults_of(self._shape, tree, path, found, reading=True)
        except RecursionError:
            found.append((path, "is nested too deeply"))
        return found

    def _encode_carefully(self, value: Any, path: str) -> str:
        refuse(self.faults_of(value, path))
        try:
            return text_of(self.write_tree(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise PayloadError(path, f"cannot be written as JSON: {error}") from error

    def _decode_carefully(self, text: str, path: str) -> Any:
        return self._read_carefully(parse_exactly(text, path), path)

    def _read_carefully(self, tree: Any, path: str) -> Any:
        refuse(self.faults_in(tree, path))
        return self.read_tree(tree)


def _is_loose(shape: Shape) -> bool:
    seen: set[int] = set()
    waiting = [shape]
    while waiting:
        one = waiting.pop()
        if one.is_loose:
            return True
        if id(one) not in seen:
            seen.add(id(one))
            waiting.extend(one.inner)
    return False
