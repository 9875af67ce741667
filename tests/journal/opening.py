"""The program of `test_opening` and `test_killed_opening`: an owner of a journal, one who may not write, one killed.

    python opening.py hold JOURNAL              opens it, says so, and starts a program for each line that it reads
    python opening.py unprivileged FOLDER       says how files that an ordinary user may not write are refused
    python opening.py kill FOLDER [JOURNAL]     is killed at each write of an opening, and opens what is left

With `kill`, JOURNAL is opened by a version of Playbill that has one more migration than this one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
from sqlite_utils import Database

from engine.clock import SystemClock
from engine.errors import JournalError
from engine.journal import SQLiteJournal, schema, sqlite

NOBODY = 65_534


def made(path: Path) -> SQLiteJournal:
    return SQLiteJournal(path, version="1.0", stamp=SystemClock().stamp)


async def open_and_write(path: Path) -> None:
    journal = made(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        await journal.durable(journal.last_seq)
        journal.close_soon()
    journal.close()


# ------------------------------------------------------------------------------------------------ hold


CHILD = "import os, signal; print(os.getpid(), flush=True); signal.pause()"


async def hold(path: Path) -> None:
    journal = made(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        await journal.durable(journal.last_seq)
        print("open", flush=True)
        for _ in sys.stdin:  # nothing else is to be done in this loop
            # It says its number itself: until it runs, the kernel may still be closing what it does not inherit.
            subprocess.Popen([sys.executable, "-c", CHILD], close_fds=False)  # noqa: ASYNC220
        journal.close_soon()
    journal.close()


# ------------------------------------------------------------------------------------------------ unprivileged


def refused(path: Path) -> list[Any]:
    """The error's name, and whether the file and the folder are as before, but for the lock file."""
    before, listed = path.read_bytes(), set(os.listdir(path.parent))
    try:
        made(path).close()
        name = "nothing"
    except JournalError as error:
        name = type(error).__name__
    left = set(os.listdir(path.parent)) - listed
    return [name, path.read_bytes() == before and left <= {f"{path.name}.lock"}, bool(left)]


def unprivileged(folder: Path) -> None:
    open_folder, shut_folder = folder / "open", folder / "shut"
    for each in (open_folder, shut_folder):
        each.mkdir()
        made(each / "journal.db").close()
        (each / "journal.db.lock").unlink()
    (open_folder / "journal.db").chmod(0o444)
    (shut_folder / "journal.db").chmod(0o444)
    open_folder.chmod(0o777)
    shut_folder.chmod(0o555)
    if os.geteuid() == 0:
        # What is above them may be closed to others.
        folder.chmod(0o755)
        os.chdir(folder)
        os.chroot(folder)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        open_folder, shut_folder = Path("/open"), Path("/shut")
    print(json.dumps({"file": refused(open_folder / "journal.db"), "folder": refused(shut_folder / "journal.db")}))


# ------------------------------------------------------------------------------------------------ kill


def add_migration() -> None:
    """Make this process a newer Playbill."""

    @schema.migrations()
    def m002_later(db: Database) -> None:
        db.execute("CREATE TABLE later(x INTEGER) STRICT")
        db.execute("INSERT INTO later VALUES (1)")

    known = (*schema.SCHEMA, "m002_later")
    for module in (schema, sqlite):
        vars(module)["SCHEMA"] = known


def writes(statement: str) -> bool:
    return not statement.upper().startswith("SELECT") and ("PRAGMA" not in statement or "=" in statement)


def killed_at(number: int, path: Path) -> bool:
    """Open in a process that is killed when SQLite begins its write of this number; returns whether it was."""
    child = os.fork()
    if child == 0:
        left = number

        def count(statement: str) -> None:
            nonlocal left
            left -= writes(statement.strip())
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        connect = sqlite.connect

        def traced(*args: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*args, **options)
            connection.set_trace_callback(count)
            return connection

        sqlite.connect = traced
        trio.run(open_and_write, path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    assert os.WEXITSTATUS(status) == 0
    return False


def found(path: Path) -> dict[str, Any]:
    """What the file holds after it was opened once more."""
    try:
        trio.run(open_and_write, path)
    except JournalError as error:
        return {"error": repr(error)}
    connection = sqlite3.connect(path)
    try:
        return {
            "sound": connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)],
            "records": connection.execute("SELECT seq, kind, facts FROM records ORDER BY seq").fetchall(),
            "tables": sorted(name for (name,) in connection.execute("SELECT name FROM sqlite_master")),
            "files": sorted(os.listdir(path.parent)),
        }
    finally:
        connection.close()


def kill(folder: Path, journal: Path | None = None) -> None:
    if journal is not None:
        add_migration()
    number = 0
    while True:
        here = folder / str(number)
        here.mkdir()
        path = here / "journal.db"
        if journal is not None:
            shutil.copy(journal, path)
        killed = killed_at(number, path)
        print(json.dumps({"killed": killed, **found(path)}), flush=True)
        if not killed:
            break
        number += 1


if __name__ == "__main__":
    verbs: dict[str, Callable[..., None]] = {
        "hold": lambda path: trio.run(hold, path),
        "unprivileged": unprivileged,
        "kill": kill,
    }
    verbs[sys.argv[1]](*map(Path, sys.argv[2:]))
