"""The names of calls: where a call stands in the activity's code.

A call's path is its scope, its name, and its count within the scope, as in `charge`, `charge#2`, `map#2[3]/pack`. The
scope of `map#2[3]/pack` is the branch `map#2[3]`, which the call `map#2` opened in the activity's own scope, whose path
is empty. Names hold no `/ # [ ]`, so a path reads in one way only.
"""

from __future__ import annotations

from collections.abc import Iterator


def scope_of(path: str) -> str:
    """The scope in which a call, or a branch, stands."""
    return path.rpartition("/")[0]


def opener_of(branch: str) -> str | None:
    """The call that opened a branch; `None` for a branch of the user's own nursery."""
    return branch[: branch.rindex("[")] if branch.endswith("]") else None


def around(path: str) -> Iterator[str]:
    """The scopes around a call, from its own outwards; the last is the activity's, the empty path."""
    while path:
        path = scope_of(path)
        yield path


def is_within(path: str, scope: str) -> bool:
    """Whether a call or branch stands in the scope, however deep."""
    return not scope or path.startswith(f"{scope}/")


def branch_path(opener: str, label: str) -> str:
    """A branch that a call opened: labelled by its place, or by its name in a race."""
    return f"{opener}[{label}]"
