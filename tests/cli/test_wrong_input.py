"""Whatever is wrong with a command line is told in one line that says what to do, before anything is recorded."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Playbill = Callable[..., Result]
Write = Callable[[str, str], Path]

HEADER = "id,amount,count,day,urgent,colour,note\n"
GOOD = "o-1,1.50,2,2026-11-23,yes,red,\n"


def refused(result: Result, text: str, code: int = 2) -> None:
    """The command ended with this code and one line on standard error, of which the text is a part."""
    assert result.exit_code == code, (result.stderr, result.exception)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("playbill: ")
    assert "Traceback" not in result.stderr
    assert re.search(text, result.stderr), result.stderr


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", r"line 1: the file is empty; the first line of a CSV file names its columns"),
        ("\n\n", r"line 1: the file is empty"),
        (HEADER, r"orders.csv has no rows; the header alone starts nothing"),
        (GOOD, r"line 1: column 7 has no name; the first line of a CSV file names its columns"),
        ("1,2\n3,4\n", r"orders.csv: the header names no column 'id', which orders.fulfil needs; it names: 1, 2"),
        (HEADER.replace("note", "id") + GOOD, r"line 1: there are two columns 'id'; rename one"),
        (HEADER.replace("note", "") + GOOD, r"line 1: column 7 has no name"),
        (HEADER + "o-1,abc,2,,,,\n", r"line 2, column amount: 'abc' where a Decimal \(as 12.50\) is expected"),
        (HEADER + GOOD + "\no-2,,2,,,,\n", r"line 4, column amount: '' where a Decimal"),
        (HEADER + "o-1,1,2.5,,,,\n", r"line 2, column count: '2.5' where an int"),
        (HEADER + "o-1,1,1_000,,,,\n", r"column count: '1_000' where an int"),
        (HEADER + "o-1,NaN,1,,,,\n", r"column amount: 'NaN' where a Decimal"),
        (
            HEADER + "o-1,1,1,23.11.2026,,,\n",
            r"column day: '23.11.2026' where a date \(as 2026-11-23\) or nothing is exp",
        ),
        (HEADER + "o-1,1,1,,maybe,,\n", r"column urgent: 'maybe' where true or false is expected"),
        (HEADER + "o-1,1,1,,,green,\n", r"column colour: 'green' where one of 'red', 'blue' is expected"),
        (HEADER + "o-1,1\n", r"line 2: the row has 2 cells, the header 7 columns"),
        (HEADER + GOOD.strip() + ",more\n", r"line 2: the row has 8 cells, the header 7 columns"),
        (HEADER + '"o\n1",1,1,,,,\no-2,abc,1,,,,\n', r"line 4, column amount: 'abc'"),
        (HEADER + '"o-1,1,1,,,,\n' + GOOD, r"line 2: a quoted cell is never closed"),
        (HEADER + '"o-1"x,1,1,,,,\n', r"line 2: .*write a quote inside a quoted cell as two"),
        (HEADER + GOOD + "o-2,x,1,,,,\no-3,y,1,,,,\n", r"line 3, .*\(and 1 more row\); nothing was started"),
        (HEADER + "o-\x1b[31m,x,1,,,,\n", r"line 2, column amount"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(playbill: Playbill, write: Write, content: str, text: str) -> None:
    file = write("orders.csv", content)
    refused(playbill("run", "app.py:fulfil", "--input", file, "--journal", "j.db"), text)
    assert sorted(path.name for path in file.parent.iterdir() if path.name != "__pycache__") == ["app.py", "orders.csv"]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("o.json", "", r"line 1: the file is empty; a JSON file holds an array of objects"),
        ("o.json", "[", r"line 1: .*Expecting value"),
        ("o.json", '[{"id": "a", "amount": "1"}', r"the file ends where a comma or the array's end is expected"),
        ("o.json", '[{"id": "a", "amount": "1"},\n]', r"line 2: a comma stands before the array's end"),
        ("o.json", '[{"id": "a", "amount": "1"}]\n 7', r"line 2: '7' stands after the array's end"),
        ("o.json", '[{"id": "a", "amount": "1"}\n {}]', r"line 2: '\{' stands where a comma"),
        ("o.json", "[\n7]", r"line 2, row 1: the row is a number; each row is an object"),
        ("o.json", '[\n{"id": "a",\n "amount": x}]', r"line 3: Expecting value"),
        ("o.json", '[{"id": "a", "amount": 1}, {"id": "b"}]', r"line 1, row 2: there is no column 'amount'"),
        ("o.json", '[{"id": "\\ud800", "amount": 1}]', r"row 1, column id: '.*ud800' holds half a surrogate pair"),
        ("o.json", '[{"id": "a", "amount": 1, "note": 1e999}]', r"row 1, column note: is a number beyond what a float"),
        ("o.json", '[{"id": "a", "id": "b", "amount": "1"}]', r"line 1: the key 'id' stands twice in one object"),
        ("o.json", '[{"id": "a", "amount": NaN}]', r"line 1: NaN is no JSON number"),
        (
            "o.jsonl",
            '{"id": "a", "amount": "1"}\n\n{"id": 1\n',
            r"line 3: column \d+: .*each line of a JSON Lines file",
        ),
        ("o.jsonl", '{"id": "a", "amount": "1"}\nnull\n', r"line 2: the row is null"),
        ("o.jsonl", "[" * 5000 + "]" * 5000, r"line 1: .*(nested|recursion)"),
        ("o.jsonl", '{"id": "a"}\n', r"line 1: there is no column 'amount', which orders.fulfil needs; there are: id"),
        ("o.jsonl", '{"id": "a", "amount": true}\n', r"line 1, column amount: is an? bool, True, where Decimal"),
        ("o.jsonl", '{"id": 7, "amount": 1.5}\n', r"line 1, column id: is an? int, 7, where str is annotated"),
    ],
)
def test_json_that_does_not_fit_is_refused(
    playbill: Playbill, write: Write, name: str, content: str, text: str
) -> None:
    refused(playbill("run", "app.py:fulfil", "--input", write(name, content), "--journal", "j.db"), text)
    assert not Path("j.db").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"name\nZ\xfcrich\n", r"line 2: byte 0xfc is no UTF-8; save the file as UTF-8"),
        ("name\nx\n".encode("utf-16"), r"line 1: byte 0xff is no UTF-8; it looks like UTF-16"),
    ],
)
def test_a_file_that_is_no_utf_8_is_refused(playbill: Playbill, folder: Path, content: bytes, text: str) -> None:
    (folder / "names.csv").write_bytes(content)
    refused(playbill("run", "app.py:greet", "--input", "names.csv", "--journal", "j.db"), text)


@pytest.mark.parametrize(
    ("given", "text"),
    [("", r"'.' names no file; name the file of rows with --input"), ("-", r"- stands for a pipe .*; --input needs a")],
)
def test_what_names_no_file_is_refused(playbill: Playbill, given: str, text: str) -> None:
    refused(playbill("run", "app.py:greet", "--input", given, "--journal", "j.db"), text)


def test_a_missing_file_is_refused(playbill: Playbill) -> None:
    result = playbill("run", "app.py:greet", "--input", "none.csv", "--journal", "j.db")
    refused(result, r"none.csv: there is no such file; name the file of rows with --input")


def test_a_folder_is_refused(playbill: Playbill, folder: Path) -> None:
    refused(
        playbill("run", "app.py:greet", "--input", folder, "--journal", "j.db"), r"is a folder; --input needs a file"
    )


def test_a_pipe_is_refused(playbill: Playbill, folder: Path) -> None:
    os.mkfifo(folder / "pipe.csv")
    result = playbill("run", "app.py:greet", "--input", "pipe.csv", "--journal", "j.db")
    refused(result, r"pipe.csv is a pipe or a device; --input needs a file, which is read twice")


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("app.py", r"'app.py' is no TARGET; write package.module:activity or file.py:activity"),
        ("app.py:", r"'app.py:' is no TARGET"),
        (
            "app.py::fulfil",
            r"'app.py:' of 'app.py::fulfil' is neither a module's full name nor a file that ends with .p",
        ),
        ("app.pyc:fulfil", r"there is no module 'app.pyc' on"),
        (".app:fulfil", r"'.app' of '.app:fulfil' is neither a module's full name nor a file"),
        ("/dev/null:fulfil", r"'/dev/null' is no Python file; TARGET names a Python file"),
        ("app.py:Order", r"'Order' of app.py is a class, no activity"),
        (":fulfil", r"':fulfil' is no TARGET"),
        ("none.py:fulfil", r"'none.py' does not exist; TARGET names a Python file"),
        ("./none:fulfil", r"'none' does not exist"),
        ("no.such.module:fulfil", r"there is no module 'no' on Python's path, nor in the current folder"),
        ("app.py:fulfill", r"app.py has no 'fulfill'; did you mean 'fulfil'\?"),
        ("app.py:nonsense", r"app.py has no 'nonsense'; its activities are fulfil, greet"),
        ("app.py:only_a_step", r"'only_a_step' of app.py is a step, which only an activity runs"),
        ("app.py:undecorated", r"'undecorated' of app.py is a function, no activity; decorate it with @activity"),
        ("app.py:text", r"'text' of app.py is a str, no activity; its activities are fulfil, greet"),
        ("app:nonsense", r"app has no 'nonsense'"),
        ("syntax.py:x", r"syntax.py, line 2: .*; mend it, or see it with --debug"),
        ("raising.py:x", r"raising.py cannot be imported: ZeroDivisionError: .* at .*raising.py, line 3; mend it"),
        ("raising:x", r"raising cannot be imported: ZeroDivisionError: .* at .*raising.py, line 3; mend it"),
        (
            "importing.py:x",
            r"importing.py cannot be imported: ModuleNotFoundError: No module named 'nowhere' at .* line 1",
        ),
        ("importing:x", r"importing cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("exiting.py:x", r"exiting.py cannot be imported: SystemExit: 3"),
        ("empty.py:x", r"empty.py has no 'x'; empty.py defines no activity: decorate an async function with @activity"),
        ("unresolved.py:act", r"the annotations of unresolved.act cannot be resolved .*Missing.*\(DefinitionError\)"),
    ],
)
def test_a_target_that_is_no_activity_is_refused(playbill: Playbill, write: Write, target: str, text: str) -> None:
    write("syntax.py", "\ndef x(:\n")
    write("raising.py", "def f():\n    pass\n1 / 0\n")
    write("importing.py", "import nowhere\n")
    write("exiting.py", "import sys\nsys.exit(3)\n")
    write("empty.py", "")
    write(
        "unresolved.py",
        "from __future__ import annotations\nfrom engine import Context, activity\n"
        "@activity\nasync def act(ctx: Context, name: Missing) -> None: ...\n",
    )
    file = write("names.csv", "name\nAda\n")
    refused(playbill("run", target, "--input", file, "--journal", "j.db"), text)
    assert not Path("j.db").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["lst"], r"No such command 'lst'"),
        (["--nonsense"], r"No such option"),
        (["run"], r"Missing argument 'TARGET'; see `playbill run --help`"),
        (["run", "app.py:greet", "--journal", "j.db"], r"Missing option '--input'"),
        (
            ["run", "app.py:greet", "--input", "names.csv"],
            r"no journal is named: give --journal FILE, or set \$PLAYBILL_JO",
        ),
        (["list"], r"no journal is named: give --journal FILE, or set \$PLAYBILL_JOURNAL; see `playbill list --help`"),
        (["run", "app.py:greet", "--input", "names.csv", "--journal", "j.db", "--concurrency", "0"], r"--concurrency"),
        (["run", "app.py:greet", "--input", "names.csv", "--journal", "j.db", "--by", ""], r"'--by': it is empty"),
        (
            ["run", "app.py:greet", "--input", "names.csv", "--journal", "j.db", "--id-field", "x"],
            r"no column 'x', which --",
        ),
        (
            ["run", "app.py:greet", "--input", "names.csv", "--journal", "j.db", "--report", "no/r.html"],
            r"no folder 'no'",
        ),
        (
            ["run", "app.py:greet", "--input", "names.csv", "--journal", "j.db", "--report", "names.csv"],
            r"would overwrite",
        ),
        (["list", "--journal", "j.db", "--since", "yesterday"], r"'--since': 'yesterday' is no instant; write it as"),
        (["list", "--journal", "j.db", "--status", "done"], r"'done' is not one of 'pending'"),
        (["list", "--journal", "none.db"], r"there is no journal none.db; .*\(JournalError\)"),
        (["verify", "--journal", "names.csv"], r"names.csv is no SQLite database, and so no journal; name a journal's"),
        (["verify", "--journal", "."], r"'\.' names no file"),
        (["list", "--journal", ":memory:"], r":memory:: a journal outlives its process, and so is a file"),
        (["list", "--journal", "folder/"], r"'folder/' names no file; name one for the journal, as orders.db"),
        (["report", "--journal", "none.db", "--output", ""], r"'--output': it names no file"),
        (["run", "app.py:greet", "--input", "names.csv", "--journal", "j.db", "--report", ""], r"'--report': it names"),
        (["verify", "--journal", "none.db"], r"there is no journal none.db"),
        (["report", "--journal", "names.csv", "--output", "names.csv"], r"the report would overwrite names.csv"),
        (["report", "--journal", "none.db", "--output", "no/r.html"], r"there is no folder 'no' to write r.html into"),
        (["completion", "cmd"], r"'cmd' is not one of 'bash', 'zsh', 'fish'"),
    ],
)
def test_wrong_options_are_refused(playbill: Playbill, write: Write, arguments: list[str], text: str) -> None:
    write("names.csv", "name\nAda\n")
    refused(playbill(*arguments), text)
    assert not Path("j.db").exists()
    assert Path("names.csv").read_text(encoding="utf-8") == "name\nAda\n"


def test_an_id_that_cannot_be_one_is_refused(playbill: Playbill, write: Write) -> None:
    file = write("names.csv", "id,name\na,Ada\n/b,Bob\n")
    result = playbill("run", "app.py:greet", "--input", file, "--journal", "j.db", "--id-field", "id")
    refused(result, r"line 3, column id: '/b' begins with /")


# ------------------------------------------------------------------------------------------------ journals


def newer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('playbill', 'm999_later', '2099')"
        )
    database.close()


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x99" * (len(content) - 4096)
    path.write_bytes(content)


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE mine (id INTEGER)")
    database.close()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (
            lambda path: path.write_text("no SQLite, only text\n" * 100),
            r"j.db is no SQLite database, and so no journal; .*\(JournalDamagedError\)",
        ),
        (newer, r"j.db was written by a newer Playbill .*m999_later.*upgrade Playbill.*\(JournalVersionError\)"),
        (damaged, r"j.db.*\(JournalDamagedError\)"),
        (foreign, r"j.db is an SQLite database, but no Playbill journal; name another file \(JournalDamagedError\)"),
    ],
    ids=["text", "newer", "damaged", "foreign"],
)
@pytest.mark.parametrize("verb", ["run", "list"])
def test_a_journal_that_cannot_be_used_is_refused_and_left_as_it_is(
    playbill: Playbill, write: Write, folder: Path, spoil: Callable[[Path], None], text: str, verb: str
) -> None:
    run = ("run", "app.py:greet", "--input", write("names.csv", "name\nAda\n"))
    assert playbill(*run, "--journal", "j.db").exit_code == 0
    journal = folder / "j.db"
    spoil(journal)
    before = journal.read_bytes()
    refused(playbill(*(run if verb == "run" else ("list",)), "--journal", "j.db"), text)
    assert journal.read_bytes() == before


def test_a_journal_in_a_missing_folder_is_refused(playbill: Playbill, write: Write) -> None:
    file = write("names.csv", "name\nAda\n")
    refused(playbill("run", "app.py:greet", "--input", file, "--journal", "no/j.db"), r"no/j.db.*folder must exist")


def test_nothing_is_left_beside_a_file_that_is_no_journal(playbill: Playbill, write: Write, folder: Path) -> None:
    file = write("names.csv", "name\nAda\n")
    (folder / "folder").mkdir()
    before = sorted(os.listdir(folder))
    refused(playbill("run", "app.py:greet", "--input", file, "--journal", file), r"is no SQLite database")
    refused(playbill("run", "app.py:greet", "--input", file, "--journal", "folder"), r"folder is no regular file")
    refused(playbill("resume", "a", "--journal", "app.py"), r"is no SQLite database")
    assert sorted(set(os.listdir(folder)) - {"__pycache__"}) == before


def test_a_traceback_is_shown_with_debug_only(playbill: Playbill, write: Write) -> None:
    write("raising.py", "1 / 0\n")
    run = ("run", "raising.py:x", "--input", write("names.csv", "name\nAda\n"), "--journal", "j.db")
    assert "Traceback" not in playbill(*run).stderr
    shown = playbill(*run, "--debug")
    assert shown.exit_code == 2
    assert "Traceback" in shown.stderr
    assert "ZeroDivisionError: division by zero" in shown.stderr
