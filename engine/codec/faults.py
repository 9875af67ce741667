"""What is wrong with a value or with a text, and how it is said.

Whatever finds a fault raises an `UnfitError`, which says what is wrong and not where. The careful pass of
`shapes.faults_of` knows the place, makes pairs of path and reason of all of them, and `refuse` raises those as the
one `PayloadError` that the user sees: `order.lines[1].price: is a float, 1.5, where Decimal is annotated`.
"""

from __future__ import annotations

from engine.errors import PayloadError

Faults = list[tuple[str, str]]
"""What is wrong, as pairs of path and reason."""


class UnfitError(Exception):
    """A value is not what its annotation says, or a tree not what its shape reads. Never leaves this package: it
    becomes a fault of a PayloadError."""


def unlike(value: object, expected: str) -> UnfitError:
    if value is None:
        return UnfitError(f"is None, where {expected} is annotated")
    return UnfitError(f"is {kind_of(value)}, {shown(value)}, where {expected} is annotated")


def kind_of(value: object) -> str:
    name = type(value).__qualname__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def shown(value: object) -> str:
    try:
        text = ascii(value)
    except Exception:  # __repr__ is the user's code
        return "of unprintable content"
    return text if len(text) <= 60 else f"{text[:59]}…"


def refuse(faults: Faults) -> None:
    """Raises a PayloadError if there are faults."""
    if faults:
        raise PayloadError(*faults[0], faults=faults)
