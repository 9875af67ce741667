"""From a row to the arguments of an activity, and to its id.

An activity that takes one argument, annotated with a class or a dict, is given the row as that argument; any other is
given the columns as its parameters, by name. Values are read by the engine's codec, as what comes from a journal is;
the cells of a CSV are spelled as JSON first (see `cells`).

The id is what the column of `--id-field` holds. Without one it is the name of the file, without its ending, and the
row's number: `transfers-17`. So the same file is the same work, run after run, as long as rows are only added at its
end; a row whose place is taken by another one is denied, since its id has other arguments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NoReturn

import attrs

from engine.activities.definition import Activity
from engine.cli.cells import CellReader, expected, is_a, members, shown, shown_json
from engine.cli.columns import NOTHING, Column, Columns, columns_of, is_anything, item_annotation, parameters_of
from engine.cli.rows import InputError, Row, RowError, RowFile
from engine.codec import codec_for
from engine.errors import PayloadError
from engine.messages import check_id

AN_ID = "an id is expected: 1 to 255 bytes of UTF-8 without control characters, the first no /"
"""What `--id-field` expects, without showing what stands there."""


@attrs.frozen
class Arguments:
    """Makes rows into what an activity is started with. It is made once, and changes nothing."""

    activity: Activity[..., Any]
    file: RowFile
    id_field: str | None
    columns: Columns
    whole: Any
    """The annotation of the one argument that is the whole row; `None` where the columns are the parameters."""
    readers: dict[str, CellReader]

    @classmethod
    def of(cls, activity: Activity[..., Any], file: RowFile, id_field: str | None) -> Arguments:
        """The arguments of an activity, from the rows of a file.

        Raises:
            DefinitionError: an annotation of the activity cannot be resolved.
            InputError: no row of such a file can become the activity's argument.
        """
        parameters = parameters_of(activity.function)
        if len(parameters) == 1:
            whole = parameters[0].annotation
            found = [columns for member in members(whole) if (columns := columns_of(member)) is not None]
            if len(found) > 1 and file.is_text:
                raise InputError(
                    f"{file.path}: a row of CSV cannot tell which class of {whole} it is; give {activity.name} "
                    "JSON Lines"
                )
            if found:
                return cls(activity, file, id_field, found[0] if len(found) == 1 else Columns({}, Any), whole, {})
        return cls(activity, file, id_field, Columns({one.name: one for one in parameters}), None, {})

    def id_of(self, row: Row) -> str:
        """The id of the row's activity.

        Raises:
            RowError: the row has none, or one that cannot be an id.
            InputError: no row can have one.
        """
        id = self._made_id(row.number) if self.id_field is None else self._given_id(row, self.id_field)
        try:
            check_id(id)
        except PayloadError as error:
            if self.id_field is None:
                raise InputError(
                    f"{self.file.path}: line {row.line}, the id made of the file's name: {error.why}"
                ) from None
            self._refuse(row, self.id_field, error.why, AN_ID)
        return id

    def target_of(self, reading: Row | RowError) -> str:
        """The id of the activity that a row was meant for, also where the row cannot be used; empty where it says
        none."""
        if self.id_field is None:
            return self._made_id(reading.number)
        values = reading.values or {}
        try:
            return self.id_of(Row(reading.number, 0, values)) if self.id_field in values else ""
        except InputError:
            return ""

    def _made_id(self, number: int) -> str:
        return f"{self.file.path.stem}-{number}"

    def _given_id(self, row: Row, id_field: str) -> str:
        if id_field not in row.values:
            whose = f"{id_field!r}, which --id-field names"
            known = ", ".join(row.values) or "none"
            if self.file.is_text:
                raise InputError(f"{self.file.path}: the header names no column {whose}; it names: {known}")
            self._refuse(row, "", f"there is no column {whose}; there are: {known}", f"there is no column {whose}")
        given = row.values[id_field]
        if isinstance(given, str):
            return given
        if type(given) is int:
            return str(given)
        self._refuse(row, id_field, f"{shown_json(given)} where an id is expected: a text, or an int", AN_ID)

    def of_row(self, row: Row) -> tuple[Any, ...]:
        """The row as the activity's arguments.

        Raises:
            RowError: it does not fit them. The text names file, line, column, value, and what was expected.
            InputError: no row of the file does.
        """
        self._check_columns(row)
        try:
            args = self._whole(row) if self.whole is not None else self._by_name(row)
            self.activity.signature.encode(args)
        except PayloadError as error:
            where, why = error.faults[0]
            column = self._column_at(where)
            wanted = self.whole if not column and self.whole is not None else self.columns.annotation_of(column)
            self._refuse(row, column, why, _wanted(wanted), within=where.removeprefix(column))
        except RecursionError:
            self._refuse(row, "", "it is nested too deeply", "it is nested too deeply")
        return args

    def _column_at(self, where: str) -> str:
        """The column in which a fault's place lies; empty where it is none of the activity's own."""
        inside = (name for name in self.columns.known if where[len(name) : len(name) + 1] in ("", ".", "["))
        return max((name for name in inside if where.startswith(name)), key=len, default="")

    def unused(self, row: Row) -> Iterator[str]:
        """The columns of the row that the activity does not take."""
        if self.columns.others is NOTHING:
            yield from (name for name in row.values if name not in self.columns.known and name != self.id_field)

    # ------------------------------------------------------------------------------------------------ inside

    def _check_columns(self, row: Row) -> None:
        for column in self.columns.known.values():
            if column.is_required and column.name not in row.values:
                self._refuse_columns(row, column)

    def _refuse_columns(self, row: Row, missing: Column) -> NoReturn:
        whose = f"{missing.name!r}, which {self.activity.name} needs"
        there = ", ".join(row.values) or "none"
        hint = ""
        if self.whole is None and len(self.columns.known) == 1 and is_anything(missing.annotation):
            hint = f"; to be given whole rows, annotate {missing.name!r} with dict or a class"
        if self.file.is_text:
            raise InputError(f"{self.file.path}: the header names no column {whose}; it names: {there}{hint}")
        self._refuse(row, "", f"there is no column {whose}; there are: {there}{hint}", f"there is no column {whose}")

    def _given(self, row: Row) -> Iterator[tuple[str, Any]]:
        """What the row gives of what the activity takes, with the type that it becomes."""
        for name, value in row.values.items():
            column = self.columns.known.get(name)
            if column is None and self.columns.others is NOTHING:
                continue
            if column is None or not self._is_left_out(value, column.name):
                yield name, self.columns.annotation_of(name)

    def _is_left_out(self, value: Any, name: str) -> bool:
        """Whether an empty cell stands for the default: where it is neither a text nor `None`."""
        if not self.file.is_text or value.strip() or self.columns.known[name].is_required:
            return False
        reader = self._reader(name, self.columns.annotation_of(name))
        return not (reader.takes_text or reader.takes_nothing)

    def _reader(self, name: str, annotation: Any) -> CellReader:
        reader = self.readers.get(name)
        if reader is None:
            reader = self.readers[name] = CellReader.of(annotation)
        return reader

    def _spelled(self, row: Row, name: str, annotation: Any) -> str:
        """One value of the row as JSON text."""
        if not self.file.is_text:
            return _json(row.values[name], annotation, name)
        try:
            return self._reader(name, annotation).read(row.values[name])
        except ValueError as error:
            self._refuse(row, name, str(error), _wanted(annotation))

    def _whole(self, row: Row) -> tuple[Any, ...]:
        codec = codec_for(self.whole)
        if not self.file.is_text:
            return (codec.decode(_json(row.values, self.whole)),)
        cells = (f"{json.dumps(name)}:{self._spelled(row, name, one)}" for name, one in self._given(row))
        return (codec.decode(f"{{{','.join(cells)}}}"),)

    def _by_name(self, row: Row) -> tuple[Any, ...]:
        """The parameters in order, up to the last that is given; those before it that are not take their default."""
        spelled = {name: self._spelled(row, name, annotation) for name, annotation in self._given(row)}
        columns = list(self.columns.known.values())
        while columns and columns[-1].name not in spelled:
            columns.pop()
        return tuple(
            codec_for(column.annotation).decode(spelled[column.name], column.name)
            if column.name in spelled
            else column.default
            for column in columns
        )

    def _refuse(self, row: Row, column: str, why: str, expected: str, *, within: str = "") -> NoReturn:
        raise RowError(
            self.file.path,
            row.line,
            row.number,
            why,
            expected=expected,
            column=column,
            within=within,
            in_array=row.in_array,
            values=row.values,
        ) from None


def _wanted(annotation: Any) -> str:
    """What is expected of a value, without showing any."""
    return f"{'a value that JSON can hold' if is_anything(annotation) else expected(annotation)} is expected"


def exact(value: Any, annotation: Any) -> Any:
    """A value of a JSON row in which numbers with a point are what the annotation says: a `Decimal` keeps its digits,
    as text, and any other is a float."""
    found = members(annotation)
    if type(value) is Decimal:
        as_text = any(is_a(one, Decimal) for one in found) and not any(is_a(one, float) for one in found)
        return str(value) if as_text else float(value)
    if isinstance(value, dict):
        marked = _marked(value, found)
        if marked is not None:
            return {name: exact(item, marked) for name, item in value.items()}
        inside = [columns for one in found if (columns := columns_of(one)) is not None]
        return {name: exact(item, _annotation_in(inside, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [exact(item, item_annotation(found[0], index)) for index, item in enumerate(value)]
    return value


def _marked(value: dict[str, Any], found: list[Any]) -> Any:
    """The class that the codec's mark names, as in `{"Card": {…}}`, where JSON could not tell it from its siblings."""
    if len(found) == 1 or len(value) != 1:
        return None
    (mark,) = value
    return next((one for one in found if getattr(one, "__name__", None) == mark), None)


def _annotation_in(inside: list[Columns], name: str) -> Any:
    known = (columns for columns in inside if name in columns.known or columns.others is not NOTHING)
    columns = next(known, None)
    return Any if columns is None else columns.annotation_of(name)


def _json(value: Any, annotation: Any, where: str = "") -> str:
    """A value of a JSON row as the codec takes it.

    Raises:
        PayloadError: it holds what a journal cannot; here with its place, which the codec could not tell.
    """
    plain = exact(value, annotation)
    text = json.dumps(plain)
    if "\\ud" in text or "Infinity" in text:
        found = _unfit(plain, where)
        if found is not None:
            raise PayloadError(*found)
    return text


def _unfit(value: Any, where: str) -> tuple[str, str] | None:
    """What of a value no journal can hold, and why."""
    if isinstance(value, float) and math.isinf(value):
        return where, "is a number beyond what a float can hold"
    if isinstance(value, str) and not _has_utf8(value):
        return where, f"{shown(value)} holds half a surrogate pair, which is no character"
    if isinstance(value, dict):
        inside = ((f"{where}.{name}" if where else name, item) for name, item in value.items())
    elif isinstance(value, list):
        inside = ((f"{where}[{index}]", item) for index, item in enumerate(value))
    else:
        return None
    return next((found for place, item in inside if (found := _unfit(item, place)) is not None), None)


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
