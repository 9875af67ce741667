"""Where the templates are, and how they are rendered.

In a wheel they are in `engine/_templates`, in a checkout in `templates/` beside the package.

Everything that a template prints is escaped, whatever the template is called. Before that, characters that a reader
cannot see or that turn the text around (controls, bidirectional overrides, invisible ones) become `\\uXXXX`: an id
must not look like another one. A name that is missing in a template is an error, never an empty place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.errors import PlaybillError

# Controls but tab and line feed; soft hyphen, zero-width space, bidirectional marks, embeddings, overrides and
# isolates, line and paragraph separators, invisible operators, byte order mark; surrogates, which no file could hold.
# Joiners stay, since scripts and emoji need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def visible(text: str) -> str:
    """The text with every character that cannot be seen as `\\uXXXX`."""
    if text.isascii() and text.isprintable():
        return text
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finalized(value: Any) -> Any:
    """What is printed of a value. Markup, which is a text of another type, is the templates' own and stays as it is."""
    return visible(value) if type(value) is str else value


def templates_folder() -> Path:
    """The folder of the templates.

    Raises:
        PlaybillError: they are not there: the installation is not whole.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_templates", package.parent / "templates"):
        if (folder / "report.html.j2").is_file():
            return folder
    raise PlaybillError(f"Playbill's templates are missing beside {package}; install Playbill again")


def environment(folder: Path) -> Environment:
    """What renders the templates of a folder."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
