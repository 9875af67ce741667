"""`playbill run` starts an activity for each row, and goes on where an earlier run ended."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result

from engine.audit import Ledger
from engine.journal.origin import user_at_host

Playbill = Callable[..., Result]
Write = Callable[[str, str], Path]

HEADER = "id,amount,count,note\n"


def counts(result: Result) -> dict[str, object]:
    """What the summary says, as JSON; times aside."""
    summary = json.loads(result.stdout)
    assert summary.pop("seconds") >= 0
    return {name: value for name, value in summary.items() if value}


def results(journal: str = "j.db") -> dict[str, object]:
    with Ledger.open(journal) as ledger:
        return {row.id: row.result for row in ledger.activities()}


def kinds(journal: str = "j.db") -> Counter[str]:
    with closing(sqlite3.connect(journal)) as database:
        return Counter(kind for (kind,) in database.execute("SELECT kind FROM records"))


@pytest.fixture
def run(playbill: Playbill) -> Playbill:
    def started(target: str, file: Path, *options: str) -> Result:
        result = playbill("run", target, "--input", file, "--journal", "j.db", *options)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return started


def test_each_row_becomes_an_activity_under_its_id(run: Playbill, write: Write) -> None:
    file = write("orders.csv", HEADER + "a,1.50,2,\nb,2.25,,\n")
    result = run("app.py:fulfil", file, "--id-field", "id")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("2 rows in ")
    assert result.stdout.endswith(" s: 2 completed\n")
    assert results() == {"a": "3.00", "b": "2.25"}


def test_the_columns_may_be_the_parameters_and_the_ids_those_of_the_rows(run: Playbill, write: Write) -> None:
    assert run("app.py:greet", write("names.jsonl", '{"name": "Ada"}\n{"name": "Bob", "times": 2}')).exit_code == 0
    assert results() == {"names-1": "hello Ada", "names-2": "hello Bob hello Bob"}


def test_a_module_of_the_current_folder_is_found_by_its_name(run: Playbill, write: Write) -> None:
    assert run("app:greet", write("names.csv", "name\nAda\n")).exit_code == 0
    assert results() == {"names-1": "hello Ada"}


def test_a_second_run_skips_what_has_completed(run: Playbill, write: Write) -> None:
    file = write("orders.csv", HEADER + "a,1,1,\nb,2,1,\n")
    assert counts(run("app.py:fulfil", file, "--id-field", "id", "--json")) == {"rows": 2, "completed": 2}
    before = kinds()
    file = write("orders.csv", HEADER + "a,1,1,\nb,2,1,\nc,3,1,\n")
    second = run("app.py:fulfil", file, "--id-field", "id", "--json")
    assert (second.exit_code, counts(second)) == (0, {"rows": 3, "completed": 1, "skipped": 2})
    after = kinds()
    assert after["step.completed"] - before["step.completed"] == 1
    assert after["command.accepted"] - before["command.accepted"] == 1


def test_a_row_that_repeats_another_is_skipped_and_one_that_differs_is_denied(run: Playbill, write: Write) -> None:
    file = write("orders.csv", HEADER + "a,1,1,slow\na,1,1,slow\na,2,1,\na,1,1,slow\nb,1,1,\n")
    result = run("app.py:fulfil", file, "--id-field", "id", "--json")
    assert (result.exit_code, counts(result)) == (1, {"rows": 5, "completed": 2, "skipped": 2, "denied": 1})
    assert f"denied: {file}: line 4: 'a': it is taken" in result.stderr
    assert results() == {"a": "1", "b": "1"}
    assert kinds()["command.denied"] == 1


@pytest.mark.parametrize("concurrency", ["1", "3", "1000"])
def test_of_two_rows_with_one_id_the_first_is_started(run: Playbill, write: Write, concurrency: str) -> None:
    rows = "".join(f"o-{number},{amount},1,\n" for number in range(30) for amount in (1, 2))
    file = write("orders.csv", HEADER + rows)
    result = run("app.py:fulfil", file, "--id-field", "id", "--json", "--concurrency", concurrency)
    assert counts(result) == {"rows": 60, "completed": 30, "denied": 30}
    assert set(results().values()) == {"1"}


def test_other_arguments_than_an_earlier_run_had_are_denied(run: Playbill, write: Write) -> None:
    run("app.py:fulfil", write("orders.csv", HEADER + "a,1,1,\n"), "--id-field", "id")
    result = run("app.py:fulfil", write("orders.csv", HEADER + "a,2,1,\n"), "--id-field", "id")
    assert result.exit_code == 1
    assert result.stdout.endswith("0 completed, 1 denied\n")
    assert "orders.csv: line 2: 'a': it is taken by an activity with other arguments" in result.stderr


def test_an_activity_that_fails_is_told_of_and_counted_in_each_run(run: Playbill, write: Write) -> None:
    file = write("orders.csv", HEADER + "a,1,1,fail\nb,1,1,\na,1,1,fail\n")
    first = run("app.py:fulfil", file, "--id-field", "id", "--json")
    assert (first.exit_code, counts(first)) == (1, {"rows": 3, "completed": 1, "failed": 1, "skipped": 1})
    assert "playbill: a failed: ValueError: it was told to\n" in first.stderr
    assert "playbill list --status failed" in first.stderr
    second = run("app.py:fulfil", file, "--id-field", "id", "--json")
    assert (second.exit_code, counts(second)) == (1, {"rows": 3, "failed": 1, "skipped": 2})
    assert "playbill: a (in an earlier run) failed: ValueError: it was told to\n" in second.stderr


def test_many_failures_are_told_of_in_a_few_lines(run: Playbill, write: Write) -> None:
    write("fatal.py", FATAL)
    file = write("rows.csv", "number\n" + "".join(f"{number}\n" for number in range(40)))
    result = run("fatal.py:fatal", file)
    assert result.exit_code == 1
    assert result.stderr.count(" failed: ValueError") == 10
    assert "… and 30 more rows that failed or were denied\n" in result.stderr


FATAL = """
from engine import activity, Context

@activity(fatal=(ValueError,))
async def fatal(ctx: Context, number: int) -> None:
    raise ValueError(number)
"""


def test_a_blocked_activity_counts_as_failed_with_a_hint(run: Playbill, write: Write, playbill: Playbill) -> None:
    write("drifting.py", DRIFTING)
    write("counter", "")
    result = run("drifting.py:drift", write("rows.csv", "number\n1\n"))
    assert result.exit_code == 1
    assert result.stderr.startswith("playbill: rows-1 is blocked; see why with `playbill show rows-1`\n")
    assert "0 completed, 1 failed" in result.stdout
    shown = playbill("show", "rows-1", "--journal", "j.db").stdout
    assert re.search(r"^because of: +nondeterminism\nrecorded: +.*first.*\nasked: +.*second", shown, re.MULTILINE), (
        shown
    )


# It asks for another step in each run, which no history fits.
DRIFTING = """
from pathlib import Path
from engine import activity, step, Context

async def first() -> None: ...

async def second() -> None: ...

@activity
async def drift(ctx: Context, number: int) -> None:
    runs = len(Path("counter").read_text())
    Path("counter").write_text("x" * (runs + 1))
    await ctx.step(first if runs == 0 else second)
    if runs == 0:
        raise ValueError("run it again")
"""


def test_subscribers_have_handled_everything_when_the_command_ends(run: Playbill, write: Write, folder: Path) -> None:
    write("listening.py", LISTENING)
    file = write("rows.csv", "number\n" + "".join(f"{number}\n" for number in range(20)))
    assert run("listening.py:tell", file).exit_code == 0
    assert sorted(map(int, (folder / "heard").read_text().split())) == list(range(20))


LISTENING = """
import trio
from engine import activity, subscriber, Context, Event

@activity
async def tell(ctx: Context, number: int) -> None:
    await ctx.emit("numbers.told", number)

@subscriber("numbers.#", name="listener")
async def listen(event: Event[int]) -> None:
    await trio.sleep(0.01)
    with open("heard", "a") as file:
        file.write(f"{event.data}\\n")
"""


def test_who_asked_and_why_is_recorded(run: Playbill, write: Write) -> None:
    file = write("names.csv", "name\nAda\n")
    run("app.py:greet", file, "--by", "alice", "--reason", "spring sale")
    with Ledger.open("j.db") as ledger:
        (command,) = ledger.commands()
    assert (command.by, command.reason) == ("alice", "spring sale")


def test_the_system_s_user_asks_unless_somebody_else_is_named(run: Playbill, write: Write) -> None:
    run("app.py:greet", write("names.csv", "name\nAda\n"))
    with Ledger.open("j.db") as ledger:
        (command,) = ledger.commands()
    assert command.by == user_at_host()
    assert "@" in user_at_host()


def test_no_more_rows_are_under_way_than_asked_for(run: Playbill, write: Write, folder: Path) -> None:
    write("crowded.py", CROWDED)
    file = write("rows.csv", "number\n" + "".join(f"{number}\n" for number in range(30)))
    assert run("crowded.py:enter", file, "--concurrency", "4").exit_code == 0
    assert max(map(int, (folder / "inside").read_text().split())) == 4


CROWDED = """
import trio
from engine import activity, Context

inside = 0

async def stay() -> None:
    global inside
    inside += 1
    with open("inside", "a") as file:
        file.write(f"{inside}\\n")
    await trio.sleep(0.02)
    inside -= 1

@activity
async def enter(ctx: Context, number: int) -> None:
    await ctx.step(stay)
"""


def test_columns_that_are_not_used_are_named_once(run: Playbill, write: Write) -> None:
    result = run("app.py:greet", write("names.csv", "name,age\nAda,36\nBob,40\n"))
    assert result.exit_code == 0
    assert result.stderr == "playbill: not used, since greet does not take it: age\n"


def test_a_file_without_rows_is_done_at_once(run: Playbill, write: Write) -> None:
    result = run("app.py:greet", write("names.json", "[]"))
    assert result.exit_code == 0
    assert result.stdout.startswith("0 rows in ")


def test_a_file_may_be_called_as_a_module_that_runs_already(run: Playbill, write: Write, folder: Path) -> None:
    application = (folder / "app.py").read_text(encoding="utf-8")
    write("json.py", application)
    write("my-app.py", application)
    file = write("names.csv", "name\nAda\n")
    assert run("json.py:greet", file).exit_code == 0
    assert run("my-app.py:greet", file, "--id-field", "name").exit_code == 0
    assert json.loads("[1]") == [1]


def test_a_file_of_a_package_is_a_module_of_that_package(run: Playbill, write: Write, folder: Path) -> None:
    write("shop/__init__.py", "")
    write("shop/names.py", "GREETING = 'good day'\n")
    write("shop/greeting.py", GREETING)
    assert run("shop/greeting.py:greet", write("names.csv", "name\nAda\n")).exit_code == 0
    assert results() == {"names-1": "good day Ada from shop.greeting"}


GREETING = """
from engine import Context, activity
from .names import GREETING

@activity
async def greet(ctx: Context, name: str) -> str:
    return f"{GREETING} {name} from {__name__}"
"""


def test_the_report_is_written_also_when_something_failed(run: Playbill, write: Write, folder: Path) -> None:
    file = write("orders.csv", HEADER + "a,1,1,fail\nb,1,1,\n")
    result = run("app.py:fulfil", file, "--id-field", "id", "--report", "r.html")
    assert result.exit_code == 1
    assert result.stdout.endswith("Wrote r.html\n")
    assert "</html>" in (folder / "r.html").read_text(encoding="utf-8")


def test_the_journal_may_be_named_by_the_environment(
    playbill: Playbill, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYBILL_JOURNAL", "sqlite:///named.db")
    assert playbill("run", "app.py:greet", "--input", write("names.csv", "name\nAda\n")).exit_code == 0
    assert (folder / "named.db").exists()
    assert results("named.db") == {"names-1": "hello Ada"}


def test_a_report_that_cannot_be_written_leaves_the_run_as_it_is(
    run: Playbill, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "r.html")

    monkeypatch.setattr("engine.cli.report.write_report", full)
    result = run("app.py:greet", write("names.csv", "name\nAda\n"), "--report", "r.html", "--json")
    assert (result.exit_code, counts(result)) == (1, {"rows": 1, "completed": 1})
    assert result.stderr == (
        "playbill: the report could not be written to r.html: No space left on device; "
        "see that its folder is writable and its disk has room\n"
    )
    assert results() == {"names-1": "hello Ada"}
