"""The input of `playbill run`: a file of rows, as CSV, as a JSON array or as JSON Lines.

A file is read more than once: to check every row before anything is started, to start what fits, and again by the next
run, which goes on where this one ended. So it must be a file, and a pipe is refused. Each reading begins anew and holds
one row at a time, however long the file is.

What the format says nothing about is left to `arguments`: a cell of CSV is text, and a JSON number with a point is kept
as the `Decimal` that was written, so that no digit of an amount is lost.
"""

from __future__ import annotations

import csv
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TextIO

import attrs
import click

LONGEST_CELL = 16 * 1024 * 1024
"""Characters of a CSV cell. The module's own limit of 131,072 is below what `Settings.max_payload` lets pass."""

CHUNK = 1 << 16
"""Characters that are read of a JSON array at first; doubled while one item is longer."""


class InputError(click.ClickException):
    """The input cannot be used. Its text is one line: the file, where in it, what is wrong, and what to do."""

    exit_code = 2


class RowError(InputError):
    """One row cannot be used; the rows before and after it can.

    Attributes:
        number: the row's number among the rows, from 1.
        rule: file, line, column, and what is expected there. It holds nothing of what stands in the row, so that it
            may be recorded as a fact, which no erasure removes.
        values: what the row holds, by column; `None` where that could not be read.
    """

    def __init__(
        self,
        path: Path,
        line: int,
        number: int,
        why: str,
        *,
        expected: str,
        column: str = "",
        within: str = "",
        in_array: bool = False,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the error's text and its rule.

        Args:
            path: the file.
            line: the line on which the row begins.
            number: the row's number.
            why: what is wrong, for whoever gave the file: it may show the value.
            expected: what is expected, without showing the value.
            column: the column that is wrong, where it is one.
            within: where in the column's value: it may hold keys that stand in the row, and is no part of the rule.
            in_array: whether it is an item of a JSON array.
            values: what the row holds.
        """
        where = place(line, number, in_array=in_array)
        super().__init__(f"{path}: {where}{f', column {column}{within}' if column or within else ''}: {why}")
        self.number = number
        rule = f"{path.name}, {where}{f', column {column}' if column else ''}: {expected}"
        # A file's name may hold bytes that are no UTF-8.
        self.rule = rule.encode(errors="backslashreplace").decode()
        self.values = values


class Format(StrEnum):
    """How the rows are written."""

    CSV = "csv"
    JSON = "json"
    JSON_LINES = "jsonl"


SUFFIXES = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".json": Format.JSON,
    ".jsonl": Format.JSON_LINES,
    ".ndjson": Format.JSON_LINES,
}


@attrs.frozen
class Row:
    """One row.

    Attributes:
        number: its number among the rows, from 1.
        line: the line of the file on which it begins, from 1.
        values: what it holds, by column.
        in_array: whether it is an item of a JSON array.
    """

    number: int
    line: int
    values: Mapping[str, Any]
    in_array: bool = False

    @property
    def place(self) -> str:
        """Where in the file it stands, in words."""
        return place(self.line, self.number, in_array=self.in_array)


def place(line: int, number: int, *, in_array: bool) -> str:
    """Where in a file a row stands, in words. Many items of a JSON array may stand on one line."""
    return f"line {line}, row {number}" if in_array else f"line {line}"


@attrs.frozen
class RowFile:
    """A file of rows. `open` checks what can be known without reading it all; `rows` and `readings` read it from its
    beginning."""

    path: Path
    format: Format
    identity: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> RowFile:
        """Look at the file.

        Raises:
            InputError: it is missing, is no regular file, cannot be read, or is empty.
        """
        if not path.name:
            raise InputError(f"'{path}' names no file; name the file of rows with --input")
        try:
            found = path.stat()
        except OSError as error:
            if str(path) == "-":
                raise InputError(f"- stands for a pipe elsewhere; {_NEEDED}") from None
            raise InputError(f"{path}: {_reason(error)}; name the file of rows with --input") from None
        if not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise InputError(f"{path} is {what}; {_NEEDED}")
        file = cls(path, SUFFIXES.get(path.suffix.lower()) or Format.CSV, _identity(found))
        with file._text() as text:
            first = _first_character(text, path)
        if first is None and file.format is not Format.JSON_LINES:
            raise InputError(f"{path}: line 1: the file is empty; {_EXPECTED[file.format]}")
        return attrs.evolve(file, format=_format(path, first))

    @property
    def is_text(self) -> bool:
        """Whether all values are texts, which the argument's annotation tells how to read."""
        return self.format is Format.CSV

    def rows(self) -> Iterator[Row]:
        """All rows, in the file's order.

        Raises:
            InputError: a row cannot be read; the rows before it were given already.
        """
        for reading in self.readings():
            if isinstance(reading, RowError):
                raise reading
            yield reading

    def readings(self) -> Iterator[Row | RowError]:
        """The same, with what is wrong in the place of a row that cannot be read.

        Raises:
            InputError: the file cannot be read on: nobody can tell where the next row begins.
        """
        read = {Format.CSV: _read_csv, Format.JSON: _read_array, Format.JSON_LINES: _read_lines}[self.format]
        with self._text() as text:
            yield from read(text, self.path)

    def has_changed(self) -> bool:
        """Whether the file is another one, or was written, since it was opened."""
        try:
            return _identity(self.path.stat()) != self.identity
        except OSError:
            return True

    def _text(self) -> TextIO:
        try:
            return self.path.open(encoding="utf-8-sig", newline="")
        except OSError as error:
            raise InputError(f"{self.path}: {_reason(error)}; name the file of rows with --input") from None


_NEEDED = "--input needs a file, which is read twice, and again by the run that goes on"

_EXPECTED = {
    Format.CSV: "the first line of a CSV file names its columns",
    Format.JSON: "a JSON file holds an array of objects",
    Format.JSON_LINES: "each line of a JSON Lines file holds an object",
}


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _reason(error: OSError) -> str:
    return {FileNotFoundError: "there is no such file", PermissionError: "this user may not read it"}.get(
        type(error), error.strerror or str(error)
    )


def _first_character(text: TextIO, path: Path) -> str | None:
    """The first that is no white space; `None` in a file that holds nothing else."""
    try:
        while chunk := text.read(CHUNK):
            if stripped := chunk.lstrip():
                return stripped[0]
    except UnicodeDecodeError:
        _refuse_encoding(path)
    return None


def _format(path: Path, first: str | None) -> Format:
    """By the file's ending; by what it begins with where that says nothing."""
    by_ending = SUFFIXES.get(path.suffix.lower())
    if by_ending in (Format.CSV, Format.JSON_LINES):
        return by_ending
    if first == "[":
        return Format.JSON
    # Objects one under the other are JSON Lines, whatever the file is called.
    return Format.JSON_LINES if by_ending is Format.JSON or first == "{" else Format.CSV


def _refuse(path: Path, line: int, why: str) -> NoReturn:
    raise InputError(f"{path}: line {line}: {why}") from None


def _refuse_encoding(path: Path) -> NoReturn:
    """Name the line of the first byte that is no UTF-8; the decoder, which reads ahead, knows it no longer."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                hint = "; it looks like UTF-16" if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
                _refuse(path, number, f"byte {line[error.start]:#04x} is no UTF-8{hint}; save the file as UTF-8")
    raise InputError(f"{path} is no UTF-8; save the file as UTF-8")


# ------------------------------------------------------------------------------------------------ CSV


def _read_csv(text: TextIO, path: Path) -> Iterator[Row | RowError]:
    csv.field_size_limit(LONGEST_CELL)
    delimiter = _delimiter(text, path)
    # Strict, since a quote that is never closed would otherwise take in the rest of the file as one cell.
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] = []
    number = 0
    for line, cells in _numbered(reader, path):
        if not header:
            header = _header(cells, path, line)
            continue
        number += 1
        if len(cells) == len(header):
            yield Row(number, line, dict(zip(header, cells, strict=True)))
        else:
            why = f"the row has {_count(len(cells), 'cell')}, the header {_count(len(header), 'column')}"
            yield RowError(path, line, number, why, expected=why)
    if not header:
        _refuse(path, 1, "there is no header; the first line of a CSV file names its columns")


def _delimiter(text: TextIO, path: Path) -> str:
    """A comma; where the first line has none, the semicolon or tab that spreadsheets write instead."""
    try:
        header = text.readline()
    except UnicodeDecodeError:
        _refuse_encoding(path)
    text.seek(0)
    return next((mark for mark in ",;\t" if mark in header), ",")


def _numbered(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the line on which it begins: a quoted cell may hold line breaks."""
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        why = "a quoted cell is never closed" if "unexpected end of data" in str(error) else str(error)
        _refuse(path, line, f"{why}; write a quote inside a quoted cell as two")
    except UnicodeDecodeError:
        _refuse_encoding(path)


def _header(cells: list[str], path: Path, line: int) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names:
        place = names.index("") + 1
        _refuse(path, line, f"column {place} has no name; the first line of a CSV file names its columns")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        _refuse(path, line, f"there are two columns {twice[0]!r}; rename one")
    return names


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# ------------------------------------------------------------------------------------------------ JSON


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


_SPACE = re.compile(r"[ \t\r\n]*").match

DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=Decimal, parse_constant=_no_number)


def _read_lines(text: TextIO, path: Path) -> Iterator[Row | RowError]:
    number = 0
    try:
        for line, content in enumerate(text, start=1):
            if content.strip():
                number += 1
                yield _parsed(content, path, line, number)
    except UnicodeDecodeError:
        _refuse_encoding(path)


def _parsed(content: str, path: Path, line: int, number: int) -> Row | RowError:
    try:
        return _row(DECODER.decode(content.strip()), path, line, number)
    except json.JSONDecodeError as error:
        hint = f"{_EXPECTED[Format.JSON_LINES]}, or put all into one array" if error.pos else "no JSON"
        why = f"column {error.colno}: {error.msg}; {hint}"
        return RowError(path, line, number, why, expected=why)
    except (ValueError, RecursionError) as error:
        return RowError(path, line, number, _why(error), expected=_EXPECTED[Format.JSON_LINES])


def _why(error: Exception) -> str:
    return "too deeply nested" if isinstance(error, RecursionError) else str(error)


def _row(value: Any, path: Path, line: int, number: int, *, in_array: bool = False) -> Row | RowError:
    if isinstance(value, dict):
        return Row(number, line, value, in_array)
    what = {list: "an array", str: "a text", bool: "a truth value", type(None): "null"}.get(type(value), "a number")
    why = f"the row is {what}; each row is an object of values by name"
    return RowError(path, line, number, why, expected=why, in_array=in_array)


class _Buffer:
    """A JSON text of which no more is held than the item at hand."""

    def __init__(self, text: TextIO, path: Path) -> None:
        self._text = text
        self._path = path
        self._held = ""
        self._at = 0
        self._ended = False
        self.line = 1

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            space = _SPACE(self._held, self._at)
            assert space is not None, "it matches nothing too"
            self._pass(len(space[0]))
            if self._at < len(self._held) or self._ended:
                return self._held[self._at : self._at + 1]
            self._read(CHUNK)

    def take(self) -> None:
        """Pass over the character that `peek` gave."""
        self._pass(1)

    def value(self) -> Any:
        """The next value. One that is no object may be cut off where a chunk ends: no row is one.

        Raises:
            ValueError, RecursionError: there is none.
        """
        size = CHUNK
        while True:
            try:
                value, end = DECODER.raw_decode(self._held, self._at)
            except json.JSONDecodeError:
                # It may be cut off where the chunk ends, and only the whole file can tell.
                if self._ended:
                    raise
            else:
                self._pass(end - self._at)
                return value
            # Doubled, so that parsing a long item anew costs in proportion to its length.
            self._read(size)
            size *= 2

    def line_of(self, position: int) -> int:
        """The line of a place in what is held."""
        return self.line + self._held.count("\n", self._at, position)

    def _pass(self, count: int) -> None:
        self.line += self._held.count("\n", self._at, self._at + count)
        self._at += count

    def _read(self, size: int) -> None:
        try:
            more = self._text.read(size)
        except UnicodeDecodeError:
            _refuse_encoding(self._path)
        self._ended = not more
        self._held = self._held[self._at :] + more
        self._at = 0


def _read_array(text: TextIO, path: Path) -> Iterator[Row | RowError]:
    buffer = _Buffer(text, path)
    if buffer.peek() != "[":
        _refuse(path, buffer.line, _EXPECTED[Format.JSON])
    buffer.take()
    number = 0
    while (next_character := buffer.peek()) != "]":
        if number:
            if next_character != ",":
                _refuse(path, buffer.line, _unfinished(next_character, "a comma or the array's end"))
            buffer.take()
            if buffer.peek() == "]":
                _refuse(path, buffer.line, "a comma stands before the array's end; leave it out")
        line = buffer.line
        try:
            value = buffer.value()
        except json.JSONDecodeError as error:
            _refuse(path, buffer.line_of(error.pos), f"{error.msg}; {_EXPECTED[Format.JSON]}")
        except (ValueError, RecursionError) as error:
            _refuse(path, line, _why(error))
        number += 1
        yield _row(value, path, line, number, in_array=True)
    buffer.take()
    if rest := buffer.peek():
        _refuse(path, buffer.line, f"{rest!r} stands after the array's end; {_EXPECTED[Format.JSON]}")


def _unfinished(found: str, expected: str) -> str:
    return f"{found!r} stands where {expected} is expected" if found else f"the file ends where {expected} is expected"
