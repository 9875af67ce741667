"""Whole processes: Ctrl-C, SIGTERM and SIGKILL lose nothing, the next run goes on; and what a terminal is shown."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

import engine
from engine.audit import Ledger

Write = Callable[[str, str], Path]
Start = Callable[..., subprocess.Popen[str]]

COMMAND = [sys.executable, "-c", "from engine.cli import main; main()"]
PATIENCE = 60.0


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts the command as a process of its own; what is left of them in the end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def started(*arguments: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(engine.__file__).parent.parent)},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield started
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run(file: str = "orders.csv", *options: str) -> tuple[str, ...]:
    return ("run", "app.py:fulfil", "--input", file, "--journal", "j.db", "--id-field", "id", *options)


def orders(number: int, note: str) -> str:
    return "id,amount,note\n" + "".join(f"o-{index},1,{note}\n" for index in range(number))


def count(kind: str) -> int:
    """How many records of a kind the journal has, read beside whoever writes it."""
    try:
        with contextlib.closing(sqlite3.connect("file:j.db?mode=ro", uri=True, timeout=10)) as database:
            (found,) = database.execute("SELECT count(*) FROM records WHERE kind = ?", (kind,)).fetchone()
            return int(found)
    except sqlite3.OperationalError:
        return 0


def until(process: subprocess.Popen[str], kind: str, number: int) -> None:
    """Wait until the process has made so many records of a kind; it must not end before."""
    deadline = time.monotonic() + PATIENCE
    while count(kind) < number:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
            raise AssertionError(f"it ended with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < deadline


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_and_the_next_run_goes_on(start: Start, write: Write, number: int, code: int) -> None:
    write("orders.csv", orders(12, "slow"))  # each has a step of half a second
    first = start(*run("orders.csv", "--concurrency", "5", "--json"))
    until(first, "activity.started", 5)
    first.send_signal(number)
    out, err = first.communicate(timeout=PATIENCE)
    assert first.returncode == code, err
    summary = json.loads(out)
    assert summary["stopped"] is True
    assert (summary["completed"], summary["failed"], summary["left"]) == (0, 0, 12)
    lines = err.splitlines()
    assert lines[0].startswith("playbill: stopping: what is under way may end within 10.0 s")
    assert lines[1].startswith(f"playbill: stopped: {summary['left']} rows left as they are, nothing is lost")
    # The steps under way ended within the allowance; nothing new was begun.
    assert (count("activity.started"), count("step.completed"), count("activity.completed")) == (5, 5, 0)
    second = start(*run("orders.csv", "--json"))
    out, err = second.communicate(timeout=PATIENCE)
    assert (second.returncode, err) == (0, "")
    assert json.loads(out)["completed"] == 12
    assert (count("step.completed"), count("activity.completed")) == (12, 12)


def test_a_second_signal_ends_at_once_and_loses_nothing(start: Start, write: Write) -> None:
    write("orders.csv", orders(20, "slow"))
    first = start(*run())
    until(first, "activity.started", 20)
    first.send_signal(signal.SIGINT)
    assert first.stderr is not None
    assert first.stderr.readline().startswith("playbill: stopping: ")
    began = time.monotonic()
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=PATIENCE)
    assert (first.returncode, out) == (130, "")
    assert err == "playbill: stopped at once; give the same command again to go on\n"
    assert time.monotonic() - began < 5
    second = start(*run())
    assert second.wait(PATIENCE) == 0
    assert (count("activity.started"), count("activity.completed"), count("step.completed")) == (20, 20, 20)


def test_a_run_that_was_killed_is_gone_on_with(start: Start, write: Write) -> None:
    write("orders.csv", orders(300, ""))
    first = start(*run("orders.csv", "--concurrency", "10"))
    until(first, "activity.completed", 30)
    first.kill()
    first.communicate()
    completed = count("activity.completed")
    assert 30 <= completed < 300
    second = start(*run("orders.csv", "--json"))
    out, err = second.communicate(timeout=PATIENCE)
    assert (second.returncode, err) == (0, "")
    summary = json.loads(out)
    assert (summary["completed"] + summary["skipped"], summary["failed"]) == (300, 0)
    assert summary["skipped"] >= completed
    assert (count("activity.completed"), count("step.completed")) == (300, 300)
    with Ledger.open("j.db") as ledger:
        assert ledger.verify().problems == ()


def test_what_an_earlier_run_left_is_this_run_s_work_however_late_its_row_comes(start: Start, write: Write) -> None:
    write("orders.csv", orders(1, "slow"))
    first = start(*run())
    until(first, "activity.started", 1)
    first.kill()
    first.communicate()
    # It is resumed at once, and has ended when its row, the third, is reached.
    write("orders.csv", "id,amount,note\na,1,slow\nb,1,slow\no-0,1,slow\nb,1,slow\n")
    second = start(*run("orders.csv", "--concurrency", "1", "--json"))
    out, err = second.communicate(timeout=PATIENCE)
    assert (second.returncode, err) == (0, "")
    assert (json.loads(out)["completed"], json.loads(out)["skipped"]) == (3, 1)


def test_a_journal_in_use_is_refused_and_its_owner_named(start: Start, write: Write) -> None:
    write("orders.csv", orders(1, "wait"))
    owner = start(*run())
    until(owner, "timer.set", 1)
    write("others.csv", "id,amount\nx,1\n")
    second = start(*run("others.csv"))
    out, err = second.communicate(timeout=PATIENCE)
    assert (second.returncode, out) == (2, "")
    assert err.count("\n") == 1
    assert f"j.db is owned by process {owner.pid} on " in err
    assert "(JournalOwnedError)" in err
    listed = start("list", "--journal", "j.db", "--json")
    out, _ = listed.communicate(timeout=PATIENCE)
    assert [row["id"] for row in json.loads(out)] == ["o-0"]
    owner.send_signal(signal.SIGTERM)
    assert owner.wait(PATIENCE) == 143


def test_a_pipe_is_refused_without_waiting_for_it(start: Start, write: Write) -> None:
    process = start(*run("/dev/stdin"))
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "is a pipe or a device" in err


def test_standard_output_may_be_closed_early(start: Start, write: Write) -> None:
    write("orders.csv", orders(3, ""))
    assert start(*run()).wait(PATIENCE) == 0
    process = start("list", "--journal", "j.db")
    assert process.stdout is not None
    process.stdout.close()
    # As of a program that SIGPIPE ended, since 1 would tell of a problem with what was read.
    assert process.wait(PATIENCE) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stdout = None


@pytest.mark.parametrize("verb", [["list"], ["list", "--json"], ["show", "o-1"], ["verify"], ["tree", "--json"]])
def test_without_standard_output_a_verb_is_done_all_the_same(start: Start, write: Write, verb: list[str]) -> None:
    write("orders.csv", orders(3, ""))
    assert start(*run()).wait(PATIENCE) == 0
    command = shlex.join([*COMMAND, *verb, "--journal", "j.db"])
    ended = subprocess.run(
        ["sh", "-c", f"{command} >&-"],
        env={**os.environ, "PYTHONPATH": str(Path(engine.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_for_which_there_is_no_room_is_told_in_one_line(start: Start, write: Write) -> None:
    write("orders.csv", orders(3, ""))
    assert start(*run()).wait(PATIENCE) == 0
    with open("/dev/full", "w") as full:
        process = start("list", "--journal", "j.db", stdout=full.fileno())
        assert process.wait(PATIENCE) == 1
    assert process.stderr is not None
    assert process.stderr.read() == (
        "playbill: No space left on device; make room, or have what is printed written elsewhere\n"
    )


def read_all(terminal: int) -> str:
    """What was written to a terminal until its other side was closed."""
    shown = b""
    with contextlib.suppress(OSError):  # so Linux tells of the end
        while chunk := os.read(terminal, 65536):
            shown += chunk
    return shown.decode()


def test_a_terminal_is_shown_a_bar_which_is_gone_in_the_end(start: Start, write: Write) -> None:
    write("orders.csv", orders(3, "slow") + "bad,1,fail\n")
    ours, theirs = os.openpty()
    process = start(*run(), stderr=theirs)
    os.close(theirs)
    shown = read_all(ours)
    os.close(ours)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "3 completed, 1 failed" in out
    assert "1/4" in shown
    assert "playbill: bad failed: ValueError: it was told to" in shown
    # The cursor is hidden while the bar stands; it must be there again afterwards.
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0


async def test_following_the_tree_shows_an_engine_come_and_go_until_ctrl_c(start: Start) -> None:
    async with engine.Engine.open("j.db"):
        pass
    process = start("tree", "--journal", "j.db", "--follow", "--json")
    assert process.stdout is not None

    def next_engine() -> dict[str, object]:
        assert process.stdout is not None
        found: dict[str, object] = json.loads(process.stdout.readline())["engine"]
        return found

    assert next_engine()["alive"] is False
    async with engine.Engine.open("j.db"):
        # It may be seen with the lock held, and nothing recorded yet.
        while (shown := await trio.to_thread.run_sync(next_engine))["alive"] is not True or shown["closed"] is not None:
            pass
        assert shown["pid"] == os.getpid()
    while (await trio.to_thread.run_sync(next_engine))["alive"] is not False:
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert (out, err.strip()) == ("", "playbill: stopped")
