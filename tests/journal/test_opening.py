"""Opening a journal as its owner: what is made, what is refused, and that a refused file stays as it was."""

from __future__ import annotations

import getpass
import os
import platform
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from engine.errors import JournalDamagedError, JournalError, JournalOwnedError, JournalVersionError
from engine.journal import SQLiteJournal
from engine.journal.schema import APPLICATION_ID, SCHEMA
from engine.journal.sqlite import journal_path
from tests.journal.journals import made, opened, rows, seqs

OPENING = Path(__file__).with_name("opening.py")
ROOT = OPENING.parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def program(*arguments: object) -> subprocess.Popen[str]:
    """The program `opening`, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(OPENING), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def files(folder: Path) -> dict[str, bytes | str]:
    """What a folder holds: the files with their content."""
    return {entry.name: entry.read_bytes() if entry.is_file() else "no file" for entry in folder.iterdir()}


# ------------------------------------------------------------------------------------------------ what is made


async def test_the_files_are_readable_by_their_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(path) as journal:
            await journal.durable(journal.last_seq)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["journal.db", "journal.db-wal", "journal.db-shm", "journal.db.lock"], 0o600)


async def test_a_journal_is_in_wal_mode_and_each_commit_reaches_the_disk(path: Path) -> None:
    async with opened(path) as journal:
        connection = journal._connection
        assert connection is not None
        pragmas = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert pragmas == ["wal", 2]
        assert connection.execute("PRAGMA secure_delete").fetchone() == (2,)
    assert rows(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert rows(path, "PRAGMA encoding") == [("UTF-8",)]


async def test_a_closed_journal_is_one_file_and_its_lock(path: Path) -> None:
    async with opened(path):
        pass
    assert sorted(files(path.parent)) == ["journal.db", "journal.db.lock"]


async def test_the_first_record_says_that_the_journal_was_made_and_gives_its_id(path: Path) -> None:
    async with opened(path) as journal:
        id = journal.id
    ((stream, kind, facts),) = rows(path, "SELECT stream, kind, facts FROM records WHERE seq = 1")
    assert (stream, kind) == ("/engine", "journal.created")
    assert orjson.loads(facts) == {"id": id, "version": "1.0", "schema": list(SCHEMA)}
    assert str(uuid.UUID(id)) == id
    async with opened(path) as journal:
        assert journal.id == id
    assert rows(path, "SELECT count(*) FROM records WHERE kind = 'journal.created'") == [(1,)]


async def test_each_opening_is_recorded_with_who_it_is(path: Path) -> None:
    for _ in range(2):
        async with opened(path) as journal:
            journal.append("/engine", "engine.closed", facts={"running": 0})
    found = [orjson.loads(facts) for (facts,) in rows(path, "SELECT facts FROM records WHERE kind = 'engine.opened'")]
    assert found == 2 * [
        {
            "version": "1.0",
            "python": platform.python_version(),
            "user": getpass.getuser(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "clean": True,
        }
    ]


async def test_the_records_of_opening_are_one_commit(path: Path) -> None:
    async with opened(path):
        pass
    assert rows(path, "SELECT seq FROM records WHERE root IS NOT NULL") == [(2,)]


@pytest.mark.parametrize(
    ("closed", "clean"), [([True], True), ([False], False), ([False, True], True), ([True, False], False)]
)
async def test_a_journal_is_clean_where_the_engine_before_had_closed_it(
    path: Path, closed: list[bool], clean: bool
) -> None:
    for properly in closed:
        async with opened(path) as journal:
            if properly:
                journal.append("/engine", "engine.closed", facts={"running": 0})
            journal.append("/engine", "event.published", name="t", facts={"id": str(journal.last_seq)})
    async with opened(path) as journal:
        assert journal.clean is clean
    ((facts,),) = rows(path, "SELECT facts FROM records WHERE kind = 'engine.opened' ORDER BY seq DESC LIMIT 1")
    assert orjson.loads(facts)["clean"] is clean


async def test_a_user_without_a_name_is_recorded_by_number(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nameless)
    async with opened(path):
        pass
    ((facts,),) = rows(path, "SELECT facts FROM records WHERE kind = 'engine.opened'")
    assert orjson.loads(facts)["user"] == f"uid {os.getuid()}"


# ------------------------------------------------------------------------------------------------ how it is named


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("orders.db", "orders.db"),
        ("a/orders.db", "a/orders.db"),
        ("/a/orders.db", "/a/orders.db"),
        ("sqlite:///orders.db", "orders.db"),
        ("sqlite:////a/orders.db", "/a/orders.db"),
        ("sqlite://orders.db", "orders.db"),
        (Path("a/b"), "a/b"),
        ("C:orders.db", "C:orders.db"),
    ],
)
def test_a_url_names_a_file(url: str | Path, expected: str) -> None:
    assert journal_path(url) == Path(expected)


@pytest.mark.parametrize("url", ["", ".", "/", "sqlite://", "sqlite:///", "a\0b", "postgresql://host/x", "http://x"])
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(JournalError):
        journal_path(url)
    with pytest.raises(JournalError):
        made(url)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a b.db", "a?mode=memory", "a#b", "a%20b", "ä€.db", "-x.db", "'x\".db"])
async def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        async with opened(tmp_path / name):
            pass
    assert sorted(files(tmp_path)) == sorted([name, f"{name}.lock"])
    assert seqs(tmp_path / name) == [1, 2, 3]


# ------------------------------------------------------------------------------------------------ one owner


def test_a_second_owner_in_the_same_process_is_refused(path: Path) -> None:
    first = made(path)
    with pytest.raises(JournalOwnedError) as raised:
        made(path)
    assert (raised.value.pid, raised.value.host) == (os.getpid(), socket.gethostname())
    first.close()
    made(path).close()


def test_a_second_owner_is_refused_by_whatever_link_it_names_the_file(path: Path) -> None:
    link, folder = path.with_name("link.db"), path.with_name("folder")
    link.symlink_to(path.name)
    folder.symlink_to(".")
    first = made(link)
    try:
        for name in (path, link, folder / path.name):
            with pytest.raises(JournalOwnedError):
                made(name)
    finally:
        first.close()


def test_a_refused_second_owner_leaves_the_first_its_lock(path: Path) -> None:
    first = made(path)
    for _ in range(2):
        with pytest.raises(JournalOwnedError):
            made(path)
    first.close()


def test_an_owner_in_another_process_is_named_and_its_lock_goes_with_it(path: Path) -> None:
    with program("hold", path) as owner:
        assert said(owner) == "open"
        with pytest.raises(JournalOwnedError) as raised:
            made(path)
        assert (raised.value.pid, raised.value.host) == (owner.pid, socket.gethostname())
        assert str(owner.pid) in str(raised.value)
        owner.send_signal(signal.SIGKILL)
    assert owner.returncode == -signal.SIGKILL
    journal = made(path)
    assert not journal.clean
    journal.close()


def test_a_program_that_an_owner_started_does_not_keep_its_lock(path: Path) -> None:
    with program("hold", path) as owner:
        assert said(owner) == "open"
        assert owner.stdin is not None
        owner.stdin.write("child\n")
        owner.stdin.flush()
        child = int(said(owner))
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        try:
            made(path).close()
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "x", "host": 1}', "null"])
def test_an_owner_that_has_not_written_its_name_yet_is_unknown(path: Path, text: str) -> None:
    first = made(path)
    path.with_name("journal.db.lock").write_text(text)
    with pytest.raises(JournalOwnedError) as raised:
        made(path)
    assert raised.value.pid == 0
    first.close()


def test_a_name_that_a_dead_owner_left_in_the_lock_file_is_no_lock(path: Path) -> None:
    path.with_name("journal.db.lock").write_text('{"pid": 1, "host": "elsewhere", "more": "than the next will write"}')
    journal = made(path)
    owner = orjson.loads(path.with_name("journal.db.lock").read_bytes())
    assert owner == {"pid": os.getpid(), "host": socket.gethostname()}
    journal.close()


def test_a_lock_that_cannot_be_written_is_given_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(JournalError, match="No space left on device"):
            made(path)
    made(path).close()


# ------------------------------------------------------------------------------------------------ what is refused


def database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def crashed(path: Path, *statements: str) -> None:
    """A database of the WAL mode as a killed process leaves it: what was written last stands in the WAL alone."""
    source = path.with_name("source.db")
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in statements:
            connection.execute(statement)
        for suffix in ("", "-wal"):
            shutil.copy(f"{source}{suffix}", f"{path}{suffix}")
    source.unlink()


TABLE = "CREATE TABLE notes(text)"
NOTE = "INSERT INTO notes VALUES ('mine')"

STRANGE: dict[str, tuple[type[JournalError], Callable[[Path], object]]] = {
    "a text": (JournalDamagedError, lambda path: path.write_text("Dear diary\n" * 1000)),
    "a short text": (JournalDamagedError, lambda path: path.write_text("x")),
    "a text of almost a page": (JournalDamagedError, lambda path: path.write_text("x" * 511)),
    "zeros": (JournalDamagedError, lambda path: path.write_bytes(bytes(8192))),
    "a database": (JournalDamagedError, lambda path: database(path, TABLE, NOTE)),
    "a database in WAL mode": (
        JournalDamagedError,
        lambda path: database(path, "PRAGMA journal_mode = WAL", TABLE, NOTE),
    ),
    "another program's database without tables": (
        JournalDamagedError,
        lambda path: database(path, "PRAGMA application_id = 77"),
    ),
    "a database that holds a view alone": (
        JournalDamagedError,
        lambda path: database(path, "CREATE VIEW v AS SELECT 1"),
    ),
    "a folder": (JournalDamagedError, lambda path: path.mkdir()),
    "a pipe": (JournalDamagedError, lambda path: os.mkfifo(path)),
    "a link to itself": (JournalError, lambda path: path.symlink_to(path.name)),
}


def assert_refused(path: Path, refusal: type[JournalError], *, also: tuple[str, ...] = ()) -> JournalError:
    """A journal is not opened, by exactly this error; the folder holds the same bytes, and a lock file that is free."""
    before = files(path.parent)
    with pytest.raises(refusal):
        made(path)
    with pytest.raises(refusal) as raised:
        made(path)
    assert raised.type is refusal
    after = files(path.parent)
    for name in (f"{path.name}.lock", *also):
        after.pop(name, None)
    before.pop(f"{path.name}.lock", None)
    assert after == before
    return raised.value


@pytest.mark.parametrize("what", STRANGE)
def test_what_is_no_journal_is_refused_and_stays_as_it_was(path: Path, what: str) -> None:
    refusal, make = STRANGE[what]
    make(path)
    assert_refused(path, refusal)


@pytest.mark.parametrize("statements", [[TABLE, NOTE], [TABLE, "PRAGMA wal_checkpoint(TRUNCATE)", NOTE]])
def test_a_database_that_another_program_left_in_a_crash_is_not_written(path: Path, statements: list[str]) -> None:
    crashed(path, *statements)
    # SQLite cannot read a WAL without its index; that file is not kept apart from what the other program makes itself.
    assert_refused(path, JournalDamagedError, also=("journal.db-shm",))
    assert rows(path, "SELECT text FROM notes") == [("mine",)]


def test_a_folder_that_is_missing_is_named(path: Path) -> None:
    with pytest.raises(JournalError, match="the journal's folder must exist") as raised:
        made(path.parent / "missing" / "journal.db")
    assert raised.type is JournalError
    assert files(path.parent) == {}


def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    path.touch()
    made(path).close()
    assert rows(path, "PRAGMA application_id") == [(APPLICATION_ID,)]


def test_a_link_to_a_file_that_is_not_there_makes_it(path: Path) -> None:
    path.symlink_to("elsewhere.db")
    made(path).close()
    assert sorted(files(path.parent)) == ["elsewhere.db", "elsewhere.db.lock", "journal.db"]


def test_a_file_or_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    with program("unprivileged", tmp_path) as process:
        answers = orjson.loads(process.communicate()[0])
    assert answers["file"] == ["JournalError", True, True]
    assert answers["folder"] == ["JournalError", True, False]


# ------------------------------------------------------------------------------------------------ damaged journals


LONG = '"' + 500 * "x" + '"'


async def journal_of(path: Path, records: int) -> None:
    async with opened(path) as journal:
        for number in range(records):
            journal.append("/engine", "event.published", name="t", facts={"id": str(number)}, data=LONG)
            if number % 7 == 0:
                await journal.durable(journal.last_seq)


def truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def overwrite(path: Path, at: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * length)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut in the first page": lambda path: truncate(path, 1000),
    "cut after the first page": lambda path: truncate(path, 4096),
    "cut in the middle of a page": lambda path: truncate(path, path.stat().st_size // 2 + 100),
    "cut by half": lambda path: truncate(path, path.stat().st_size // 8192 * 4096),
    "another header": lambda path: overwrite(path, 0, 16),
    "another first page": lambda path: overwrite(path, 100, 3996),
    "the second half overwritten": lambda path: overwrite(
        path, path.stat().st_size // 8192 * 4096, path.stat().st_size // 8192 * 4096
    ),
    "the table of records gone": lambda path: database(path, "DROP TABLE records"),
    "the table of tiles gone": lambda path: database(path, "DROP TABLE tiles"),
    "the last record cut off within its commit": lambda path: database(
        path, "DELETE FROM records WHERE seq IN (SELECT max(seq) FROM records)"
    ),
    "a record in the middle removed": lambda path: database(path, "DELETE FROM records WHERE seq = 20"),
    "the first record removed": lambda path: database(path, "DELETE FROM records WHERE seq = 1"),
    "a record put in": lambda path: database(
        path, "INSERT INTO records SELECT seq + 1, " + COLUMNS_BUT_SEQ + " FROM records ORDER BY seq DESC LIMIT 1"
    ),
    "a leaf altered": lambda path: database(path, "UPDATE records SET leaf = zeroblob(32) WHERE seq = 20"),
    "a leaf that is too short": lambda path: database(path, "UPDATE records SET leaf = x'00' WHERE seq = 20"),
    "the last root altered": lambda path: database(
        path, "UPDATE records SET root = zeroblob(32) WHERE seq = (SELECT max(seq) FROM records)"
    ),
    "the last root gone": lambda path: database(
        path, "UPDATE records SET root = NULL WHERE seq = (SELECT max(seq) FROM records)"
    ),
    "a tile too many": lambda path: database(path, "INSERT INTO tiles VALUES (1, 0, zeroblob(8192))"),
    "the first record of another kind": lambda path: database(
        path, "UPDATE records SET kind = 'engine.opened' WHERE seq = 1"
    ),
    "no id in the first record": lambda path: database(path, "UPDATE records SET facts = '{}' WHERE seq = 1"),
    "facts that are no JSON in the first record": lambda path: database(
        path, "UPDATE records SET facts = '{' WHERE seq = 1"
    ),
    "facts that are no object in the first record": lambda path: database(
        path, "UPDATE records SET facts = '[]' WHERE seq = 1"
    ),
    "facts that are no UTF-8 in the first record": lambda path: database(
        path, "UPDATE records SET facts = CAST(x'7bff7d' AS TEXT) WHERE seq = 1"
    ),
}

COLUMNS_BUT_SEQ = "stream, kind, name, path, run, at, by, facts, data, salt, digest, leaf, root"


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_journal_is_refused_and_stays_as_it_was(path: Path, damage: str) -> None:
    await journal_of(path, 60)
    DAMAGES[damage](path)
    assert_refused(path, JournalDamagedError)


async def test_a_journal_cut_off_at_a_commit_opens_since_nothing_in_it_tells(path: Path) -> None:
    await journal_of(path, 20)
    roots = [seq for (seq,) in rows(path, "SELECT seq FROM records WHERE root IS NOT NULL ORDER BY seq")]
    database(path, f"DELETE FROM records WHERE seq > {roots[-2]}")
    made(path).close()


async def test_a_damaged_journal_with_a_wal_left_by_a_crash_is_not_written(path: Path) -> None:
    source = path.with_name("source.db")
    async with opened(source) as journal:
        await journal.durable(journal.last_seq)
        for suffix in ("", "-wal"):
            shutil.copy(f"{source}{suffix}", f"{path}{suffix}")
    database(source, "PRAGMA wal_checkpoint")
    shutil.copy(source, path.with_name("rest"))
    with closing(sqlite3.connect(f"{path}", isolation_level=None)) as connection:
        connection.execute("UPDATE records SET leaf = zeroblob(32) WHERE seq = 1")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{path.with_name('damaged.db')}{suffix}")
    assert_refused(path.with_name("damaged.db"), JournalDamagedError, also=("damaged.db-shm",))


async def test_a_newer_schema_is_refused_by_name_and_stays_as_it_was(path: Path) -> None:
    await journal_of(path, 3)
    newer = "INSERT INTO _sqlite_migrations(migration_set, name, applied_at) VALUES ('playbill', 'm999_future', 'then')"
    database(path, newer)
    error = assert_refused(path, JournalVersionError)
    assert "m999_future" in str(error)
    assert "upgrade Playbill" in str(error)


async def test_a_migration_of_another_set_does_not_concern_us(path: Path) -> None:
    await journal_of(path, 3)
    database(path, "INSERT INTO _sqlite_migrations(migration_set, name, applied_at) VALUES ('mine', 'm999', 'then')")
    made(path).close()


async def test_a_table_that_somebody_added_does_not_keep_a_journal_from_opening(path: Path) -> None:
    await journal_of(path, 3)
    database(path, TABLE)
    made(path).close()


# ------------------------------------------------------------------------------------------------ for want of something


def test_a_full_disk_is_no_damage_and_the_next_opening_goes_on(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(JournalError, match="see that its disk has room") as raised:
            made(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.type is JournalError
    made(path).close()


@pytest.mark.long
def test_a_file_that_another_program_keeps_locked_is_refused_in_plain_words(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="another program writes to the file") as raised:
            made(path)
    assert "database is locked" not in str(raised.value)
    made(path).close()


def test_a_disk_without_wal_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rollback(sqlite3.Connection):
        def execute(self, sql: str, parameters: object = ()) -> sqlite3.Cursor:
            return super().execute(sql.replace("= WAL", "= DELETE"), parameters)  # type: ignore[arg-type]

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options, factory=Rollback))
    with pytest.raises(JournalError, match="put it on a local one"):
        made(path)


def test_an_sqlite_that_is_too_old_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(JournalError, match="too old"):
        SQLiteJournal(path, version="1.0", stamp=str)
    assert files(path.parent) == {}
