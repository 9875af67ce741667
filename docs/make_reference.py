"""Writes the reference pages that are made from the code, so that there is no second list to keep.

    python docs/make_reference.py           write the pages
    python docs/make_reference.py --check   exit 1 if a page is out of date, and write nothing

What each page is made from is told in its module, in `docs/making/`. The page on wrong input is made by running tests,
for which the extra `test` must be installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# The checkout's own code is described, also where another Playbill is installed.
sys.path.insert(0, str(REPOSITORY))

from docs.making import api, commands, errors, programs, records, schema, wrong_input  # noqa: E402

records_page = records.page

PAGES: Mapping[str, Callable[[], str]] = {
    "docs/reference/api.md": api.page,
    "docs/reference/records.md": records.page,
    "docs/reference/commands.md": commands.page,
    "docs/reference/programs.md": programs.page,
    "docs/reference/errors.md": errors.page,
    "docs/reference/schema.md": schema.page,
    "docs/reference/wrong-input.md": wrong_input.page,
}
"""Each page that is made, by its path in the repository."""


def outdated() -> list[str]:
    """The pages that differ from what the code says, or are missing."""
    return [path for path, make in PAGES.items() if _text_of(path) != make()]


def _text_of(path: str) -> str | None:
    page = REPOSITORY / path
    return page.read_text(encoding="utf-8") if page.exists() else None


def main() -> int:
    if "--check" in sys.argv[1:]:
        stale = outdated()
        for path in stale:
            print(f"{path} is out of date; run python docs/make_reference.py", file=sys.stderr)
        return 1 if stale else 0
    for path, make in PAGES.items():
        text = make()
        if _text_of(path) != text:
            (REPOSITORY / path).write_text(text, encoding="utf-8", newline="\n")
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
