"""`playbill run --skip-invalid`: a row that does not fit is recorded as denied, and the rest runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from engine.audit import CommandRow, Ledger

Playbill = Callable[..., Result]
Write = Callable[[str, str], Path]

HEADER = "id,amount,count,note\n"


def denied(journal: str = "j.db") -> list[CommandRow]:
    with Ledger.open(journal) as ledger:
        assert ledger.verify().problems == ()
        return list(ledger.commands(accepted=False))


def arguments_of(seq: int, journal: str = "j.db") -> object:
    """What was recorded as given with a command."""
    with Ledger.open(journal) as ledger:
        (record,) = (record for record in ledger.history("/engine") if record.seq == seq)
        return (record.data or {}).get("args")


def results(journal: str = "j.db") -> dict[str, object]:
    with Ledger.open(journal) as ledger:
        return {row.id: row.result for row in ledger.activities()}


def counts(result: Result) -> dict[str, object]:
    summary = json.loads(result.stdout)
    assert summary.pop("seconds") >= 0
    return {name: value for name, value in summary.items() if value}


@pytest.fixture
def run(playbill: Playbill) -> Playbill:
    def started(file: Path, *options: str, target: str = "app.py:fulfil") -> Result:
        result = playbill("run", target, "--input", file, "--journal", "j.db", "--skip-invalid", *options)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return started


def test_bad_rows_are_denied_and_counted_and_the_rest_runs(run: Playbill, write: Write) -> None:
    file = write("orders.csv", HEADER + "a,1,1,\nb,abc,1,\nc,2,1,\nd,3,x,\n")
    result = run(file, "--id-field", "id", "--json", "--by", "alice", "--reason", "spring sale")
    assert (result.exit_code, counts(result)) == (1, {"rows": 4, "completed": 2, "denied": 2})
    assert results() == {"a": "1", "c": "2"}
    # Rows are recorded side by side, in any order.
    assert sorted((row.kind, row.target, row.by, row.reason, row.refusal) for row in denied()) == [
        ("start", "b", "alice", "spring sale", "orders.csv, line 3, column amount: a Decimal (as 12.50) is expected"),
        ("start", "d", "alice", "spring sale", "orders.csv, line 5, column count: an int (as 12) is expected"),
    ]
    assert sorted(result.stderr.splitlines()) == [
        f"playbill: denied: {file}: line 3, column amount: 'abc' where a Decimal (as 12.50) is expected",
        f"playbill: denied: {file}: line 5, column count: 'x' where an int (as 12) is expected",
    ]


def test_without_it_one_bad_row_stops_everything(playbill: Playbill, write: Write, folder: Path) -> None:
    file = write("orders.csv", HEADER + "a,1,1,\nb,abc,1,\n")
    assert playbill("run", "app.py:fulfil", "--input", file, "--journal", "j.db").exit_code == 2
    assert not (folder / "j.db").exists()


def test_what_a_row_holds_stands_where_it_can_be_erased_and_never_in_the_rule(run: Playbill, write: Write) -> None:
    file = write("orders.jsonl", '{"id": "secret-id", "amount": "secret", "count": 1.50}\n')
    assert run(file, "--id-field", "note").exit_code == 1
    (row,) = denied()
    assert row.refusal == "orders.jsonl, line 1: there is no column 'note', which --id-field names"
    assert run(file).exit_code == 1
    second = denied()[-1]
    assert second.refusal == "orders.jsonl, line 1, column amount: a Decimal (as 12.50) is expected"
    assert arguments_of(second.seq) == [{"id": "secret-id", "amount": "secret", "count": "1.50"}]


@pytest.mark.parametrize(
    ("name", "bad", "rule"),
    [
        ("o.csv", "b,1\n", "o.csv, line 2: the row has 2 cells, the header 4 columns"),
        ("o.jsonl", '{"id": "b"\n', "o.jsonl, line 2: column 11: Expecting ',' delimiter; each line of a JSON Lines"),
        ("o.jsonl", '{"id": "b", "id": "secret"}\n', "o.jsonl, line 2: each line of a JSON Lines file holds an object"),
        ("o.jsonl", "7\n", "o.jsonl, line 2: the row is a number; each row is an object of values by name"),
        ("o.jsonl", '{"id": "b"}\n', "o.jsonl, line 2: there is no column 'amount', which orders.fulfil needs"),
        ("o.jsonl", '{"id": "b", "amount": "\\ud800"}\n', "o.jsonl, line 2, column amount: a Decimal (as 12.50) is ex"),
        ("o.jsonl", '{"id": "b", "amount": %s}\n' % ("[" * 900 + "]" * 900), "o.jsonl, line 2"),
        ("o.json", '"b"', "o.json, line 2, row 2: the row is a text"),
        ("o.json", '{"id": "b", "amount": {"secret": 1}}', "o.json, line 2, row 2, column amount: a Decimal (as 12.5"),
    ],
)
def test_every_row_that_cannot_be_used_is_recorded_and_keeps_its_number(
    run: Playbill, write: Write, name: str, bad: str, rule: str
) -> None:
    good = {"a": '{"id": "a", "amount": "1"}', "c": '{"id": "c", "amount": "2"}'}
    contents = {
        "o.csv": f"{HEADER}{bad}a,1,1,\nc,2,1,\n",
        "o.jsonl": f"{good['a']}\n{bad}{good['c']}\n",
        "o.json": f"[{good['a']},\n{bad},\n{good['c']}]",
    }
    result = run(write(name, contents[name]), "--json")
    assert (result.exit_code, counts(result)) == (1, {"rows": 3, "completed": 2, "denied": 1})
    (row,) = denied()
    assert row.refusal is not None
    assert row.refusal.startswith(rule)
    assert "secret" not in row.refusal
    numbers = {"o-1", "o-2", "o-3"}
    assert {row.target, *results()} == numbers


@pytest.mark.parametrize(
    ("name", "content", "options", "text"),
    [
        ("o.csv", "id,count\na,1\n", [], "the header names no column 'amount'"),
        ("o.csv", HEADER + "a,1,1,\n", ["--id-field", "none"], "the header names no column 'none', which --id-field"),
        ("o.csv", HEADER + 'a,1,1,\n"b,1,1,\n', [], "a quoted cell is never closed"),
        ("o.json", '[{"id": "a", "amount": "1"}', [], "the file ends where a comma"),
        ("none.csv", None, [], "there is no such file"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_stops_everything(
    run: Playbill, write: Write, folder: Path, name: str, content: str | None, options: list[str], text: str
) -> None:
    file = folder / name if content is None else write(name, content)
    result = run(file, *options)
    assert result.exit_code == 2
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (folder / "j.db").exists()


def test_a_bad_row_for_an_activity_that_there_is_stands_in_its_history(run: Playbill, write: Write) -> None:
    assert run(write("orders.csv", HEADER + "a,1,1,\n"), "--id-field", "id").exit_code == 0
    result = run(write("orders.csv", HEADER + "a,1,1,\na,abc,1,\n"), "--id-field", "id", "--json")
    assert (result.exit_code, counts(result)) == (1, {"rows": 2, "skipped": 1, "denied": 1})
    with Ledger.open("j.db") as ledger:
        assert [command.accepted for command in ledger.commands("a")] == [True, False]
        assert [record.kind for record in ledger.history("a")][-1] == "command.denied"
        assert ledger.verify().problems == ()


def test_of_rows_with_one_id_the_same_is_skipped_and_others_are_denied(run: Playbill, write: Write) -> None:
    rows = "a,1,1,\na,1,1,\na,2,1,\na,abc,1,\n"
    for expected in ({"completed": 1, "skipped": 1, "denied": 2}, {"skipped": 2, "denied": 2}):
        result = run(write("orders.csv", HEADER + rows), "--id-field", "id", "--json")
        assert (result.exit_code, counts(result)) == (1, {"rows": 4, **expected})
    assert results() == {"a": "1"}


def test_a_row_that_was_mended_is_started_by_the_next_run(run: Playbill, write: Write) -> None:
    assert run(write("orders.csv", HEADER + "a,1,1,\nb,abc,1,\nc,1,1,\n")).exit_code == 1
    result = run(write("orders.csv", HEADER + "a,1,1,\nb,7,1,\nc,1,1,\n"), "--json")
    assert (result.exit_code, counts(result)) == (0, {"rows": 3, "completed": 1, "skipped": 2})
    assert results() == {"orders-1": "1", "orders-2": "7", "orders-3": "1"}


def test_more_bad_rows_than_are_told_of_one_by_one_are_all_recorded(run: Playbill, write: Write) -> None:
    file = write("orders.csv", HEADER + "".join(f"o-{number},abc,1,\n" for number in range(40)))
    result = run(file, "--id-field", "id", "--concurrency", "3")
    assert result.exit_code == 1
    assert result.stdout.endswith("0 completed, 40 denied\n")
    assert result.stderr.splitlines()[-1] == "playbill: … and 30 more rows that failed or were denied"
    assert sorted(row.target for row in denied()) == sorted(f"o-{number}" for number in range(40))


def test_a_file_s_name_that_is_no_utf_8_stops_no_refusal(run: Playbill, write: Write) -> None:
    assert run(write("o\udcff.csv", HEADER + "a,abc,1,\n"), "--id-field", "id").exit_code == 1
    (row,) = denied()
    assert row.refusal == "o\\udcff.csv, line 2, column amount: a Decimal (as 12.50) is expected"


def test_a_row_too_large_to_be_recorded_is_denied_all_the_same(run: Playbill, write: Write) -> None:
    file = write("orders.jsonl", json.dumps({"id": "b", "amount": "1", "note": "x" * 9_000_000, "count": "x"}) + "\n")
    assert run(file).exit_code == 1
    (row,) = denied()
    assert row.refusal == "orders.jsonl, line 1, column count: an int (as 12) is expected"
    assert arguments_of(row.seq) is None
