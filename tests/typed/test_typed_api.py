"""The public API is typed as the contract says: `good.py` is accepted whole, every marked line of `bad.py` refused.

Both are the contract's own files. What this version does not have yet is listed in `missing.txt`, as mypy says it; the
list shrinks as rooms are built, and must never hold anything else. After a room is built, `python
tests/typed/test_typed_api.py` writes the list anew; read what it says before committing it. `check_pyright` does the
same with the other checker.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
MISSING = HERE / "missing.txt"

ALLOWED = re.compile(
    r'has no attribute|there is no module|Expression is of type "Any"|Unused "type: ignore"'
    r'|Untyped decorator makes function "(in_batches|one)"|Implicit return'
    # A race with a branch that calls what is missing.
    r'|Expression is of type "tuple\[str, Any\]"'
)
"""A name that is missing, an `Any` that comes of it, or a refusal that cannot be tried yet; never a wrong type."""

# mypy says it in another way where Playbill is installed from a checkout, since that puts a folder `engine` with the
# templates alone among the packages.
_NO_MODULE = re.compile(
    r'Cannot find implementation or library stub for module named ("[^"]+")  \[import-not-found\]'
    r'|Skipping analyzing ("engine\.[^"]+"): module is installed, but missing library stubs or py.typed marker'
    r"  \[import-untyped\]"
)


def _complaints(folder: Path) -> list[str]:
    for name in ("good.py", "bad.py"):
        shutil.copy(HERE / name, folder)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "good.py", "bad.py"],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stderr == ""
    lines = (line for line in done.stdout.splitlines() if ": note:" not in line)
    return sorted(_NO_MODULE.sub(lambda found: f"there is no module {found[1] or found[2]}", line) for line in lines)


def test_the_types_hold_but_for_what_is_listed_as_missing(tmp_path: Path) -> None:
    assert _complaints(tmp_path) == MISSING.read_text(encoding="utf-8").splitlines(), (
        "where names were added, `python tests/typed/test_typed_api.py` writes the list anew"
    )


def test_only_missing_names_and_what_follows_from_them_are_listed() -> None:
    for line in MISSING.read_text(encoding="utf-8").splitlines():
        assert ALLOWED.search(line), line


def _write_missing() -> int:
    """Write the list anew, and print it; 1 if it holds what is no missing name."""
    with tempfile.TemporaryDirectory() as folder:
        found = _complaints(Path(folder))
    MISSING.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    wrong = [line for line in found if not ALLOWED.search(line)]
    print(*found, sep="\n")
    print(f"{MISSING.relative_to(CHECKOUT)}: {len(found)} lines", file=sys.stderr)
    for line in wrong:
        print(f"this is no missing name, mend it: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(_write_missing())
