"""Hold `good.py` and `bad.py` against an installed Playbill by the other checker: basedpyright, by strict rules.

    python tests/typed/check_pyright.py [--python PYTHON] [--write]

PYTHON is the interpreter whose packages are checked against: the one where the wheel is installed, so that what is
checked is what users get. What this version does not have yet is listed in `missing-pyright.txt`, which must hold
nothing else; `--write` writes it anew, to be read before it is committed. basedpyright itself must be installed beside
the interpreter that runs this (the extra `lint`).
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MISSING = HERE / "missing-pyright.txt"

RULES = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.11",
    # A marked line of bad.py that is not refused.
    "reportUnnecessaryTypeIgnoreComment": "error",
    # The contract's own files import a few names that they do not use.
    "reportUnusedImport": "none",
}

ALLOWED = re.compile(
    r"is unknown|could not be resolved|^Cannot access attribute|is unknown import symbol"
    r'|but received "(Unknown|list\[Unknown\])"|Unnecessary "# type: ignore"|Untyped function decorator'
    # What follows from a decorator, a call or a return that is missing.
    r'|"tuple\[str, Rejection \| None\]"'
    r'|but received "\(events: list|Argument of type "\(events: list|declared return type "NoReturn"'
)
"""A name that is missing, an `Unknown` that comes of it, or a refusal that cannot be tried yet; never a wrong type."""


def complaints(python: Path) -> list[str]:
    """What the checker says of the two files, a line each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("good.py", "bad.py"):
            shutil.copy(HERE / file, folder)
        (folder / "pyrightconfig.json").write_text(json.dumps(RULES), encoding="utf-8")
        command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", str(python), "-p", "."]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    try:
        found = json.loads(done.stdout)["generalDiagnostics"]
    except (ValueError, KeyError):
        sys.exit(f"basedpyright ended with {done.returncode} and no answer: {done.stdout}{done.stderr}")
    return sorted(_line(diagnostic) for diagnostic in found)


def _line(diagnostic: dict[str, object]) -> str:
    """A complaint without its column, and without the reasons that follow its first line."""
    place: dict[str, dict[str, int]] = diagnostic["range"]  # type: ignore[assignment]
    message = str(diagnostic["message"]).partition("\n")[0]
    file = Path(str(diagnostic["file"])).name
    rule = diagnostic.get("rule", "syntax")
    return f"{file}:{place['start']['line'] + 1}: {diagnostic['severity']}: {message}  [{rule}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="where Playbill is installed")
    parser.add_argument("--write", action="store_true", help="write the list of what is missing anew")
    options = parser.parse_args()
    found = complaints(options.python)
    if options.write:
        MISSING.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    wrong = [line for line in found if not ALLOWED.search(line.split(": ", 2)[2])]
    for line in wrong:
        print(f"no missing name, and nothing that follows from one: {line}")
    changes = list(
        difflib.unified_diff(
            MISSING.read_text(encoding="utf-8").splitlines(), found, MISSING.name, "now", lineterm="", n=0
        )
    )
    for line in changes:
        print(line)
    if changes:
        print("where names were added, give --write")
    if wrong or changes:
        return 1
    print(f"the types hold; {len(found)} complaints follow from names that this version does not have yet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
