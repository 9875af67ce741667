"""What the command prints: tables and fields for people, JSON for programs, and errors in one line.

On a terminal tables are rich's, without the columns in which nothing stands, fitted to its width; where that is too
narrow for a table, rows are blocks of lines. Elsewhere they are plain text in aligned columns, nothing cut off, nothing
coloured, written batch by batch, so that a long list needs no more memory than a short one. What users
recorded is shown with control characters escaped: a recorded text can neither move the cursor nor turn the line around.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.clock import stamp_of

BATCH = 500
"""Rows whose widths are looked at together before they are written."""

_COLOURS = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "blocked": "bold red",
    "running": "cyan",
    "pending": "dim",
}

# Control, format (which holds the marks that turn a line around), surrogate and separator characters.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


# ------------------------------------------------------------------------------------------------ texts


def visible(text: str) -> str:
    """A text on one line, in which every character that is not seen is escaped."""
    if text.isprintable():
        return text
    return "".join(
        _escaped(character) if unicodedata.category(character) in _UNSEEN else character for character in text
    )


def visible_lines(text: str) -> str:
    """The same of a text of several lines, which stay lines."""
    return "\n".join(visible(line.replace("\t", "    ")) for line in text.splitlines())


def _escaped(character: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character) or (
        f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
    )


def moment(instant: dt.datetime | None) -> str:
    """An instant as people read it, in UTC to the second; empty where there is none."""
    return "" if instant is None else f"{instant:%Y-%m-%d %H:%M:%S}Z"


def seconds(length: float | None) -> str:
    """A length of time: `0.031 s`, `12.5 s`, `3 min 20 s`, `2 h 5 min`."""
    if length is None:
        return ""
    if length < 60:
        return f"{length:.3f} s" if length < 10 else f"{length:.1f} s"
    minutes, rest = divmod(round(length), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def compact(value: Any) -> str:
    """A recorded value on one line."""
    return "" if value is None else visible(json.dumps(value, ensure_ascii=False, default=_plain))


def error_line(type: str, message: str) -> str:
    """A recorded error on one line, as Python shows it last."""
    return f"{type.removeprefix('builtins.')}: {message}" if message else type.removeprefix("builtins.")


def count_of(number: int, what: str, plural: str = "") -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {plural or what + 's'}"


# ------------------------------------------------------------------------------------------------ tables


def is_terminal() -> bool:
    """Whether standard output is read by a person."""
    return sys.stdout.isatty()


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = (), spare: Sequence[str] = ()
) -> int:
    """Print rows under their headers.

    Args:
        headers: the columns' names.
        rows: their cells, a text for each column.
        right: the columns that are aligned to the right.
        spare: the columns that a terminal on which there is no room for all is first shown without, in this order.

    Returns:
        How many rows there were. Where there are none, nothing is printed.
    """
    lines = ([visible(cell) for cell in row] for row in rows)
    if is_terminal():
        return _print_rich(headers, lines, right, spare)
    return _print_plain(headers, lines, right)


def _print_rich(
    headers: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str], spare: Sequence[str]
) -> int:
    lines = list(rows)
    if not lines:
        return 0
    columns = [index for index in range(len(headers)) if index == 0 or any(line[index] for line in lines)]
    console = Console(file=sys.stdout)
    widths = [max(cell_len(header), *(cell_len(line[index]) for line in lines)) for index, header in enumerate(headers)]
    fitted = fitted_widths([widths[index] for index in columns], console.width)
    for header in spare:
        if fitted is None and headers.index(header) in columns:
            columns.remove(headers.index(header))
            fitted = fitted_widths([widths[index] for index in columns], console.width)
    if fitted is None:
        _print_blocks(headers, lines)
        return len(lines)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for index, width in zip(columns, fitted, strict=True):
        table.add_column(
            headers[index],
            justify="right" if headers[index] in right else "left",
            overflow="ellipsis",
            no_wrap=index != columns[-1],
            width=width,
        )
    for line in lines:
        # As Text, since brackets in what users recorded are no markup.
        table.add_row(*(Text(line[index], style=_COLOURS.get(line[index], "")) for index in columns))
    console.print(table)
    return len(lines)


GAP = 2
"""Characters between two columns."""

LEAST = 24
"""Characters of a column that is cut off where a table is too wide; a narrower one keeps its width."""


def fitted_widths(widths: Sequence[int], room: int) -> list[int] | None:
    """The columns' widths on a terminal: as they are, or the widest cut, but never the first, by which rows are known.

    Args:
        widths: what the columns would take.
        room: how wide the terminal is.

    Returns:
        The widths; `None` where no table fits that could be read.
    """
    fitted = list(widths)
    too_much = sum(fitted) + GAP * (len(fitted) - 1) - room
    while too_much > 0:
        widest = max(range(1, len(fitted)), key=fitted.__getitem__, default=0)
        if not widest or fitted[widest] <= LEAST:
            return None
        others = max((fitted[index] for index in range(1, len(fitted)) if index != widest), default=0)
        # Down to the next widest at once, and from there on together.
        cut = min(too_much, max(1, fitted[widest] - max(others, LEAST)))
        fitted[widest] -= cut
        too_much -= cut
    return fitted


def _print_blocks(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Rows one under the other, each column on a line of its own, with an empty line between."""
    for number, line in enumerate(lines):
        if number:
            click.echo()
        print_fields({header.lower(): cell for header, cell in zip(headers, line, strict=True)})


def _print_plain(headers: Sequence[str], rows: Iterator[Sequence[str]], right: Sequence[str]) -> int:
    widths = [0] * len(headers)
    number = 0
    while batch := list(itertools.islice(rows, BATCH)):
        lines = batch if number else [headers, *batch]
        number += len(batch)
        # Wider ones in a later batch move the columns; nothing is ever cut off.
        widths = [max(width, *(len(line[index]) for line in lines)) for index, width in enumerate(widths)]
        for line in lines:
            click.echo(_aligned(headers, line, widths, right))
    return number


def _aligned(headers: Sequence[str], row: Sequence[str], widths: Sequence[int], right: Sequence[str]) -> str:
    cells = [
        cell.rjust(width) if header in right else cell.ljust(width)
        for header, cell, width in zip(headers, row, widths, strict=True)
    ]
    return "  ".join(cells).rstrip()


def print_fields(fields: Mapping[str, str]) -> None:
    """Print names and values, one pair a line; empty values are left out."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        if value:
            label = f"{name}:".ljust(width + 1)
            click.echo(f"{click.style(label, bold=True) if is_terminal() else label}  {visible(value)}")


def print_heading(text: str) -> None:
    """Print the heading of a section, after an empty line."""
    click.echo(f"\n{click.style(text, bold=True) if is_terminal() else text}")


# ------------------------------------------------------------------------------------------------ JSON


def print_json(value: Any) -> None:
    """Print one JSON value: plain ones, attrs rows, instants."""
    click.echo(_json(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print one JSON value in one line, and let whoever reads it have it now."""
    click.echo(_json(value))


def print_json_array(values: Iterable[Any]) -> None:
    """Print a JSON array, an item a line, without holding it."""
    opening = "["
    for value in values:
        click.echo(opening)
        click.echo(_json(value), nl=False)
        opening = ","
    click.echo("[]" if opening == "[" else "\n]")


def _json(value: Any, indent: int | None = None) -> str:
    # Where the terminal or file takes less than all of Unicode, escapes say it in ASCII.
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    text = json.dumps(value, indent=indent, ensure_ascii=encoding != "utf8", default=_plain)
    # A lone surrogate has no UTF-8; a journal never has one, a traceback's file name may.
    return text.encode(errors="backslashreplace").decode()


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return stamp_of(value)
    if attrs.has(type(value)):
        return {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    return list(value) if isinstance(value, Iterable) else str(value)


# ------------------------------------------------------------------------------------------------ errors


def complain(text: str) -> None:
    """Print one line on standard error."""
    click.echo(f"playbill: {visible(' '.join(text.split()))}", err=True)
