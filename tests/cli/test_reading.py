"""The verbs that read a journal print tables for people and JSON for programs, also while an engine is writing."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from engine import Context, activity
from engine.cli.program import program, said
from engine.runtime import Engine

Playbill = Callable[..., Result]
Write = Callable[[str, str], Path]

ROWS = "id,amount,count,colour,note\na,1,1,red,\nb,2,1,blue,fail\nc,3,1,red,\n"


@pytest.fixture
def journal(playbill: Playbill, write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal of two activities that completed and one that failed; `$PLAYBILL_JOURNAL` names it."""
    file = write("orders.csv", ROWS)
    run = ("run", "app.py:fulfil", "--input", file, "--journal", "j.db", "--id-field", "id")
    assert playbill(*run, "--by", "alice", "--reason", "spring sale").exit_code == 1
    monkeypatch.setenv("PLAYBILL_JOURNAL", "j.db")
    return file.parent / "j.db"


def printed(result: Result) -> list[str]:
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout.splitlines()


def as_json(result: Result) -> Any:
    assert result.exit_code == 0, (result.stderr, result.exception)
    return json.loads(result.stdout)


def test_list_prints_aligned_columns(playbill: Playbill, journal: Path) -> None:
    lines = printed(playbill("list"))
    assert [line.split()[:3] for line in lines] == [
        ["ID", "ACTIVITY", "STATUS"],
        ["a", "orders.fulfil", "completed"],
        ["b", "orders.fulfil", "failed"],
        ["c", "orders.fulfil", "completed"],
    ]
    assert (
        len(
            {line.index(text) for line, text in zip(lines, ["STATUS", "completed", "failed", "completed"], strict=True)}
        )
        == 1
    )
    assert lines[2].endswith("ValueError: it was told to")


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--status", "failed"], ["b"]),
        (["--status", "failed", "--status", "completed"], ["a", "b", "c"]),
        (["--status", "running"], []),
        (["--name", "orders.fulfil"], ["a", "b", "c"]),
        (["--by", "bob"], []),
        (["--by", "alice", "--limit", "2"], ["a", "b"]),
        (["--limit", "1", "--after", "a"], ["b"]),
        (["--limit", "0"], ["a", "b", "c"]),
        (["--text", "told to"], ["b"]),
        (["--since", "2999-01-01"], []),
        (["--until", "2999-01-01T00:00:00Z", "--since", "2020-01-01"], ["a", "b", "c"]),
        (["--key", "k"], []),
        (["--tag", "region=eu"], []),
    ],
)
def test_list_selects(playbill: Playbill, journal: Path, options: list[str], ids: list[str]) -> None:
    assert [row["id"] for row in as_json(playbill("list", "--json", *options))] == ids


def test_list_says_that_there_are_more_and_how_to_see_them(playbill: Playbill, journal: Path) -> None:
    result = playbill("list", "--limit", "2")
    assert len(printed(result)) == 3
    assert result.stderr == "There are more: add --after b, or --limit 0 for all.\n"
    assert playbill("list", "--limit", "3").stderr == ""


def test_list_says_that_there_are_none(playbill: Playbill, journal: Path) -> None:
    result = playbill("list", "--status", "running")
    assert (printed(result), result.stderr) == ([], "None fits.\n")


def test_list_prints_whole_rows_as_json(playbill: Playbill, journal: Path) -> None:
    first, second, _ = as_json(playbill("list", "--json"))
    assert (first["result"], first["error"], first["by"], first["reason"]) == ("1", None, "alice", "spring sale")
    assert first["started"].endswith("Z")
    assert second["error"]["type"] == "builtins.ValueError"


def test_show_prints_all_that_is_known(playbill: Playbill, journal: Path) -> None:
    text = "\n".join(printed(playbill("show", "a")))
    for expected in ("alice", "spring sale", "completed", "price", "Commands", "Steps"):
        assert expected in text
    assert re.search(r'^arguments: +\[\{"id": "a", "amount": "1", ', text, re.MULTILINE), text
    assert "History" not in text


def test_show_prints_the_traceback_of_what_failed(playbill: Playbill, journal: Path) -> None:
    lines = printed(playbill("show", "b"))
    assert lines[-1] == "ValueError: it was told to"
    assert any("app.py" in line for line in lines)


def test_show_prints_every_record_when_asked(playbill: Playbill, journal: Path) -> None:
    result = playbill("show", "a", "--history")
    history = printed(result)[printed(result).index("History") + 2 :]
    kinds = ["command.accepted", "activity.started", "step.completed", "event.emitted", "activity.completed"]
    assert [line.split()[2] for line in history] == kinds
    assert result.stderr == "5 records\n"


def test_show_prints_json(playbill: Playbill, journal: Path) -> None:
    shown = as_json(playbill("show", "a", "--json"))
    assert set(shown) == {"activity", "commands", "steps", "history"}
    assert shown["activity"]["status"] == "completed"
    assert shown["commands"][0]["by"] == "alice"
    assert [step["name"] for step in shown["steps"]] == ["price"]
    assert shown["history"][0]["kind"] == "command.accepted"


def test_show_refuses_an_id_that_is_not_there(playbill: Playbill, journal: Path) -> None:
    result = playbill("show", "z")
    assert result.exit_code == 1
    assert result.stderr.startswith("playbill: there is no activity 'z'; `playbill list` shows those there are")


@pytest.mark.parametrize(
    ("options", "sources"),
    [
        ([], {"a", "c"}),
        (["orders.red.*"], {"a", "c"}),
        (["orders.blue.#"], set()),
        (["--since", "2999-01-01"], set()),
    ],
)
def test_events_selects(playbill: Playbill, journal: Path, options: list[str], sources: set[str]) -> None:
    assert {event["source"] for event in as_json(playbill("events", "--json", *options))} == sources
    assert {line.split()[4] for line in printed(playbill("events", *options))[1:]} == sources


def test_events_says_that_there_are_more(playbill: Playbill, journal: Path) -> None:
    result = playbill("events", "orders.#", "--limit", "1")
    assert len(printed(result)) == 2
    seq = printed(result)[1].split()[0]
    assert result.stderr == f"There are more: add --after {seq}, or --limit 0 for all.\n"


def test_events_goes_on_after_the_last_one_that_was_shown(playbill: Playbill, journal: Path) -> None:
    first, second = as_json(playbill("events", "--json"))
    rest = playbill("events", "--json", "--limit", "1", "--after", str(first["seq"]))
    assert as_json(rest) == [second]
    assert as_json(playbill("events", "--json", "--after", str(second["seq"]))) == []


def test_events_refuses_what_is_no_pattern(playbill: Playbill, journal: Path) -> None:
    result = playbill("events", "a*b")
    assert result.exit_code == 2
    assert result.stderr.endswith("(TopicError)\n")


def test_verify_says_that_all_is_well_and_what_it_cannot_find(playbill: Playbill, journal: Path) -> None:
    result = playbill("verify")
    assert result.exit_code == 0
    assert "none was altered, added or removed" in result.stdout
    assert "Without a seal kept elsewhere" in result.stdout
    found = as_json(playbill("verify", "--json"))
    assert (found["ok"], found["problems"]) == (True, [])
    assert len(found["root"]) == 64


def test_verify_names_the_record_that_was_altered(playbill: Playbill, journal: Path) -> None:
    with closing(sqlite3.connect(journal)) as database, database:
        database.execute("UPDATE records SET by = 'mallory' WHERE seq = (SELECT seq FROM records WHERE by = 'alice')")
        (seq,) = database.execute("SELECT seq FROM records WHERE by = 'mallory'").fetchone()
    result = playbill("verify")
    assert result.exit_code == 1
    assert any(line.startswith(f"record {seq}: ") for line in result.stdout.splitlines())
    problems = json.loads(playbill("verify", "--json").stdout)["problems"]
    assert seq in [problem["seq"] for problem in problems]


def test_report_writes_one_html_file(playbill: Playbill, journal: Path, folder: Path) -> None:
    assert printed(playbill("report", "--output", "r.html")) == ["Wrote r.html"]
    assert as_json(playbill("report", "--output", "r.html", "--json")) == {
        "report": "r.html",
        "ok": True,
        "problems": 0,
    }
    assert "</html>" in (folder / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("as_json", [False, True])
def test_report_of_a_journal_that_was_altered_says_so_and_exits_as_verify_does(
    playbill: Playbill, journal: Path, folder: Path, as_json: bool
) -> None:
    with closing(sqlite3.connect(journal)) as database, database:
        database.execute("UPDATE records SET by = 'mallory' WHERE by = 'alice'")
    result = playbill("report", "--output", "r.html", *(["--json"] if as_json else []))
    assert result.exit_code == playbill("verify").exit_code == 1
    assert result.stderr.startswith("playbill: the journal is not what was recorded: ")
    assert result.stderr.count("\n") == 1
    if as_json:
        assert json.loads(result.stdout)["ok"] is False
    assert "</html>" in (folder / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal", ".lock", ".sock"])
def test_report_refuses_to_overwrite_a_file_of_the_journal(playbill: Playbill, journal: Path, ending: str) -> None:
    folder = journal.parent
    (folder / "linked").symlink_to(folder)
    before = {path.name for path in folder.iterdir()}
    result = playbill("report", "--output", f"linked/j.db{ending}")
    assert result.exit_code == 2
    assert f"the report would overwrite j.db{ending}; name another file" in result.stderr.replace(f"{folder}/", "")
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("error", "told"), [(OSError(28, "No room"), "No room; make room, or have"), (OSError("odd"), "odd")]
)
def test_an_error_of_the_system_is_told_as_its_own_text(error: OSError, told: str) -> None:
    assert said(error).startswith(told)


def test_reading_writes_nothing(playbill: Playbill, journal: Path) -> None:
    before = journal.read_bytes()
    for verb in (["list"], ["show", "a"], ["events"], ["verify"], ["report", "--output", "r.html"]):
        assert playbill(*verb).exit_code == 0
    assert journal.read_bytes() == before
    # SQLite makes the WAL file for readers too; nothing stands in it.
    assert not any(path.stat().st_size for path in journal.parent.glob("j.db-wal"))


async def test_a_journal_can_be_read_while_an_engine_writes_it(tmp_path: Path) -> None:
    async with Engine.open(str(tmp_path / "j.db"), waiting) as engine:
        await engine.start(waiting, id="w")
        listed = CliRunner().invoke(program, ["list", "--journal", str(tmp_path / "j.db"), "--json"])
        assert [(row["id"], row["status"]) for row in json.loads(listed.stdout)] == [("w", "running")]
        verified = CliRunner().invoke(program, ["verify", "--journal", str(tmp_path / "j.db")])
        assert verified.exit_code == 0, verified.stdout


@activity
async def waiting(ctx: Context) -> None:
    await ctx.sleep(600)


@pytest.mark.parametrize("verb", ["run", "list", "show", "events", "verify", "report", "completion"])
def test_every_verb_explains_itself_with_an_example(playbill: Playbill, verb: str) -> None:
    text = "\n".join(printed(playbill(verb, "--help")))
    assert "Example" in text
    assert f"playbill {verb}" in text
    assert "--debug" in text


def test_the_program_explains_itself(playbill: Playbill) -> None:
    assert printed(playbill()) == printed(playbill("--help"))
    assert "playbill" in playbill("--version").stdout


def test_the_shell_is_told_what_completes_a_word(folder: Path) -> None:
    environment = {"_PLAYBILL_COMPLETE": "bash_complete", "COMP_WORDS": "playbill ve", "COMP_CWORD": "1"}
    assert CliRunner().invoke(program, [], env=environment).stdout == "plain,verify\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(playbill: Playbill, shell: str) -> None:
    assert "_PLAYBILL_COMPLETE" in "\n".join(printed(playbill("completion", shell)))
