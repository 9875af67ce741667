"""What is printed is aligned, safe to print, and as long as it must be."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from types import MappingProxyType

import attrs
import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli import output
from engine.cli.output import (
    LEAST,
    count_of,
    error_line,
    fitted_widths,
    moment,
    print_json,
    print_json_array,
    print_table,
    seconds,
    visible,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Zürich 🎭", "plain Zürich 🎭"),
        ("\x1b[31mred", "\\u001b[31mred"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202eevil", "\\u202eevil"),
        ("a\u2028b", "a\\u2028b"),
        ("\U000e0001", "\\U000e0001"),
        ("no\xa0break", "no\xa0break"),
    ],
)
def test_characters_that_are_not_seen_are_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(text=st.text())
def test_a_visible_text_is_one_line_without_control_characters(text: str) -> None:
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    assert not set(shown) & set(map(chr, [*range(32), *range(127, 160)]))


@pytest.mark.parametrize(
    ("length", "text"),
    [(None, ""), (0.0312, "0.031 s"), (12.34, "12.3 s"), (59.99, "60.0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_lengths_of_time_are_short(length: float | None, text: str) -> None:
    assert seconds(length) == text


def test_small_texts() -> None:
    assert (count_of(1, "row"), count_of(1200, "row"), count_of(0, "row")) == ("1 row", "1,200 rows", "0 rows")
    assert (error_line("builtins.ValueError", "no"), error_line("app.Odd", "")) == ("ValueError: no", "app.Odd")
    assert moment(dt.datetime(2026, 11, 23, 18, 55, 19, 5, tzinfo=dt.UTC)) == "2026-11-23 18:55:19Z"


def test_a_table_is_aligned_and_nothing_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_table(("A", "NUMBER", "C"), [("x", "1", "long " * 50), ("yyyy", "22", "z")], right=("NUMBER",)) == 2
    assert capsys.readouterr().out == f"A     NUMBER  C\nx          1  {('long ' * 50).rstrip()}\nyyyy      22  z\n"


def test_a_long_table_is_written_batch_by_batch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "BATCH", 2)
    assert print_table(("A", "B"), ((f"{'x' * number}", str(number)) for number in range(5))) == 5
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["B", "0", "1", "2", "3", "4"]


def test_an_empty_table_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_table(("A",), []) == 0
    assert capsys.readouterr().out == ""


def test_on_a_terminal_markup_of_users_is_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    print_table(("A", "B"), [("[red]x[/red]", "[/nonsense]")])
    assert "[red]x[/red]" in capsys.readouterr().out


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes standard output a terminal of so many columns."""

    def made(columns: int) -> None:
        monkeypatch.setattr(output, "is_terminal", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))

    return made


HEADERS = ("ID", "EMPTY", "STATUS", "OUTCOME")
ROWS = [("transfer-0001-of-november", "", "completed", "word " * 20), ("b", "", "failed", "short")]


def test_on_a_terminal_columns_in_which_nothing_stands_are_left_out(
    capsys: pytest.CaptureFixture[str], terminal: Callable[[int], None]
) -> None:
    terminal(200)
    print_table(HEADERS, ROWS)
    assert capsys.readouterr().out.splitlines()[0].split() == ["ID", "STATUS", "OUTCOME"]


def test_on_a_narrow_terminal_long_texts_give_way_and_ids_do_not(
    capsys: pytest.CaptureFixture[str], terminal: Callable[[int], None]
) -> None:
    terminal(80)
    print_table(HEADERS, ROWS)
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "transfer-0001-of-november  completed  word word" in shown


def test_on_a_narrow_terminal_spare_columns_go_before_the_table_does(
    capsys: pytest.CaptureFixture[str], terminal: Callable[[int], None]
) -> None:
    terminal(50)
    rows = [("transfer-0001", "completed", "1", "alice", "done")]
    print_table(("ID", "STATUS", "RUNS", "BY", "OUTCOME"), rows, spare=("RUNS", "BY"))
    assert capsys.readouterr().out.splitlines()[0].split() == ["ID", "STATUS", "RUNS", "BY", "OUTCOME"]
    terminal(45)
    print_table(("ID", "STATUS", "RUNS", "BY", "OUTCOME"), rows, spare=("RUNS", "BY"))
    assert capsys.readouterr().out.splitlines()[0].split() == ["ID", "STATUS", "BY", "OUTCOME"]


def test_on_a_terminal_too_narrow_for_a_table_each_row_is_a_block(
    capsys: pytest.CaptureFixture[str], terminal: Callable[[int], None]
) -> None:
    terminal(40)
    print_table(HEADERS, ROWS)
    shown = click.unstyle(capsys.readouterr().out)
    assert "id:       transfer-0001-of-november\nstatus:   completed\noutcome:  word word" in shown
    assert shown.endswith("\n\nid:       b\nstatus:   failed\noutcome:  short\n")


@given(widths=st.lists(st.integers(1, 300), min_size=1, max_size=9), room=st.integers(20, 200))
def test_fitted_columns_fit_and_only_wide_ones_are_cut(widths: list[int], room: int) -> None:
    fitted = fitted_widths(widths, room)
    if fitted is None:
        # Nothing more could be cut.
        assert sum(min(width, LEAST) for width in widths[1:]) + widths[0] + 2 * (len(widths) - 1) > room
        return
    assert sum(fitted) + 2 * (len(fitted) - 1) <= room
    assert fitted[0] == widths[0]
    assert all(now == before or LEAST <= now < before for now, before in zip(fitted, widths, strict=True))


@attrs.frozen
class Row:
    at: dt.datetime
    facts: object


def test_rows_are_json_with_instants_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    at = dt.datetime(2026, 11, 23, 18, 55, 19, 5, tzinfo=dt.UTC)
    print_json(Row(at, MappingProxyType({"big": 10**40, "bytes": b"\x01", "set": (1,)})))
    assert json.loads(capsys.readouterr().out) == {
        "at": "2026-11-23T18:55:19.000005Z",
        "facts": {"big": 10**40, "bytes": "01", "set": [1]},
    }


@pytest.mark.parametrize("values", [[], [1], [{"a": 1}, {"b": "ü\u2028"}], [[], []]])
def test_an_array_is_json_an_item_a_line(capsys: pytest.CaptureFixture[str], values: list[object]) -> None:
    print_json_array(iter(values))
    text = capsys.readouterr().out
    assert json.loads(text) == values
