"""The rows of a file are read the same however it is written, each with the line on which it begins."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli import rows as rows_module
from engine.cli.rows import Format, InputError, RowFile


def read(path: Path) -> list[tuple[int, int, dict[str, object]]]:
    return [(row.number, row.line, dict(row.values)) for row in RowFile.open(path).rows()]


TWO = [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("f.csv", "a,b\n1,x\n2,y\n", [2, 3]),
        ("f.csv", "a,b\r\n1,x\r\n2,y", [2, 3]),
        ("f.csv", "\ufeffa,b\n1,x\n2,y\n", [2, 3]),
        ("f.csv", "\ufeffa;b\n1;x\n2;y\n", [2, 3]),
        ("f.tsv", "a\tb\n1\tx\n2\ty\n", [2, 3]),
        ("f.csv", "\n a , b \n\n1,x\n\n\n2,y\n", [4, 7]),
        ("f.CSV", '"a","b"\n"1","x"\n"2","y"\n', [2, 3]),
        ("f", "a,b\n1,x\n2,y\n", [2, 3]),
        ("f.json", '[{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]', [1, 1]),
        ("f.json", '\ufeff\n[\n {"a": "1",\n  "b": "x"},\n {"a": "2", "b": "y"}\n]\n', [3, 5]),
        ("f.json", '{"a": "1", "b": "x"}\n{"a": "2", "b": "y"}\n', [1, 2]),
        ("f.jsonl", '{"a": "1", "b": "x"}\n\n{"a": "2", "b": "y"}', [1, 3]),
        ("f.ndjson", '{"a": "1", "b": "x"}\r\n{"a": "2", "b": "y"}\r\n', [1, 2]),
        ("f.txt", ' [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]', [1, 1]),
        ("f.txt", '{"a": "1", "b": "x"}\n{"a": "2", "b": "y"}\n', [1, 2]),
    ],
)
def test_every_format_gives_the_same_rows_with_their_lines(
    tmp_path: Path, name: str, content: str, lines: list[int]
) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert read(tmp_path / name) == [(1, lines[0], TWO[0]), (2, lines[1], TWO[1])]


def test_a_cell_may_hold_line_breaks_quotes_and_delimiters(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(b'a,b\n"one\r\ntwo","say ""hi"", you"\n3,\n')
    assert read(tmp_path / "f.csv") == [
        (1, 2, {"a": "one\r\ntwo", "b": 'say "hi", you'}),
        (2, 4, {"a": "3", "b": ""}),
    ]


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(f"a\n{'x' * 1_000_000}\n", encoding="utf-8")
    ((_, _, values),) = read(tmp_path / "f.csv")
    assert values == {"a": "x" * 1_000_000}


def test_json_numbers_with_a_point_keep_their_digits(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"a": 12.50, "b": 7, "c": [1.10]}', encoding="utf-8")
    ((_, _, values),) = read(tmp_path / "f.jsonl")
    assert values == {"a": Decimal("12.50"), "b": 7, "c": [Decimal("1.10")]}
    assert str(values["a"]) == "12.50"


@pytest.mark.parametrize(
    ("name", "content"), [("f.csv", "a,b\n"), ("f.json", " [ ] "), ("f.jsonl", ""), ("f.jsonl", "\n")]
)
def test_a_file_without_rows_has_none(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read(tmp_path / name) == []


def test_a_file_is_read_from_its_beginning_each_time(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a\n1\n2\n", encoding="utf-8")
    file = RowFile.open(tmp_path / "f.csv")
    assert [row.values["a"] for row in file.rows()] == ["1", "2"]
    assert next(file.rows()).values["a"] == "1"


def test_rows_before_a_faulty_one_are_given(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('[{"a": 1}, {"a": 2}, ?]', encoding="utf-8")
    rows = RowFile.open(tmp_path / "f.json").rows()
    assert [next(rows).values["a"], next(rows).values["a"]] == [1, 2]
    with pytest.raises(InputError, match="line 1: Expecting value"):
        next(rows)


def test_a_file_that_was_written_since_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("a\n1\n", encoding="utf-8")
    file = RowFile.open(path)
    assert not file.has_changed()
    path.write_text("a\n12\n", encoding="utf-8")
    assert file.has_changed()


def test_a_file_that_is_gone_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("a\n1\n", encoding="utf-8")
    file = RowFile.open(path)
    path.unlink()
    assert file.has_changed()


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("a\n1\n", encoding="utf-8")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(InputError, match="this user may not read it"):
        RowFile.open(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4))


@given(rows=ROWS, indent=st.sampled_from([None, 0, 2]), ascii=st.booleans(), chunk=st.integers(1, 40))
def test_an_array_gives_what_was_written_wherever_a_chunk_ends(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], indent: int | None, ascii: bool, chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii)
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows_module, "CHUNK", chunk)
        read = list(RowFile.open(path).rows())
    assert [row.values for row in read] == rows
    assert [row.number for row in read] == list(range(1, len(rows) + 1))
    if indent is None:
        assert {row.line for row in read} <= {1}
    elif rows:
        lines = text.split("\n")
        assert all(lines[row.line - 1].lstrip().startswith("{") for row in read)


@pytest.mark.parametrize(
    ("name", "expected"), [("a.csv", Format.CSV), ("a.JSONL", Format.JSON_LINES), ("a.json", Format.JSON)]
)
def test_the_ending_tells_the_format(tmp_path: Path, name: str, expected: Format) -> None:
    (tmp_path / name).write_text("[]", encoding="utf-8")
    assert RowFile.open(tmp_path / name).format is expected
