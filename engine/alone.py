"""Nurseries put what leaves them into a group; here a lone error comes out as itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def alone() -> Iterator[None]:
    """Around a nursery: an exception that is alone in the nursery's group comes out of it. Two stay a group."""
    lone: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        lone = group.exceptions[0]
    if lone is None:
        return
    context = lone.__context__
    try:
        raise lone
    finally:
        lone.__context__ = context  # not the group, which holds it
        del lone, context
