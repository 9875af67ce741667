"""Every page does what it says: its code runs, in order, and shows what the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.documentation import pages

RUN = [page for page in pages.ALL if pages.is_run(page)]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_a_page_shows_what_comes_of_it(page: Path, reader: Mapping[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    pages.run_page(page, folder, reader)


def test_the_pages_that_should_be_run_are() -> None:
    run = {page.stem for page in RUN}
    assert {"first-activity", "supervision", "test-an-activity", "read-a-journal-with-sql", "resume"} <= run


def test_what_is_not_run_stands_on_a_page() -> None:
    shown = {command for page in pages.ALL for command in commands_of(page)}
    assert set(pages.NOT_RUN) - shown == set()


@pytest.mark.parametrize("page", [page for page in pages.ALL if page.is_relative_to(pages.CHECKOUT / "docs")], ids=str)
def test_every_block_of_code_is_run(page: Path) -> None:
    # Blocks without a language are formats, formulas and trees, to be read.
    idle = [
        block.place
        for block in pages.blocks_of(page)
        if block.language not in ("", "console") and not {"title", "edit"} & set(block.options)
    ]
    assert idle == []


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_every_file_that_the_reader_is_to_write_is_named_to_them(page: Path) -> None:
    prose = pages.prose_of(page)
    files = {block.options.get("title") or block.options.get("edit") for block in pages.blocks_of(page)} - {None}
    assert [file for file in files if f"`{file}`" not in prose] == []


# ------------------------------------------------------------------------------------------------ the runner itself


def commands_of(page: Path) -> list[str]:
    transcripts = [block for block in pages.blocks_of(page) if block.language == "console"]
    return [command.text for transcript in transcripts for command in pages.commands_in(transcript)]


@pytest.mark.parametrize(
    ("expected", "output", "fits"),
    [
        ("a\n", "a\n", True),
        ("a\n", "b\n", False),
        ("", "a\n", False),
        ("a\n", "", False),
        ("a\n…\nd\n", "a\nb\nc\nd\n", True),
        ("a\n…\nd\n", "a\nd\n", True),
        ("a\n…\nd\n", "b\nd\n", False),
        ("a … d\n", "a b c d\n", True),
        ("3 rows in 0.2 s: 3 completed\n", "3 rows in 1 min 12 s: 3 completed\n", True),
        ("3 rows in 0.2 s: 3 completed\n", "3 rows in 0.2 s: 2 completed\n", False),
        ("2026-11-23 20:14:05Z alice@laptop:1\n", "2027-01-02 03:04:05Z   bob@desk:77\n", True),
        (" 13  2026-11-23 20:14:05Z  x\n", "9  2026-11-23 20:14:05Z  x\n", True),
        ("Killed\n", "x.sh: line 3: 4711 Killed                  playbill run app.py:f\n", True),
    ],
)
def test_only_what_differs_from_run_to_run_may_differ(expected: str, output: str, fits: bool) -> None:
    assert pages.matches(expected, output) is fits


def test_a_page_that_shows_something_else_is_found(reader: Mapping[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    page = pages.CHECKOUT / "docs" / "page.md"
    right = pages.Command("page:1", "echo one", "one\n", False)
    wrong = pages.Command("page:2", "echo two", "three\n", False)
    failing = pages.Command("page:3", "false", "", False)
    pages.run_deeds(page, [pages.Written("file", "text\n"), right], folder, reader)
    assert (folder / "file").read_text() == "text\n"
    with pytest.raises(AssertionError, match="page:2"):
        pages.run_deeds(page, [right, wrong], folder, reader)
    with pytest.raises(AssertionError, match=r"page:3\n.*\nended with 1"):
        pages.run_deeds(page, [right, failing], folder, reader)
    with pytest.raises(AssertionError, match="ended early"):
        pages.run_deeds(page, [pages.Command("page:4", "exit 0", "", False), right], folder, reader)


def test_a_program_is_edited_by_its_functions() -> None:
    program = "import a\n\n\n@a.b\ndef f():\n    pass\n\n\ndef g():\n    return 1\n"
    changes = "def h():\n    return 2\n\n\n@a.c\ndef f():\n    return h()\n"
    assert pages.edited(program, changes) == (
        "import a\n\n\ndef h():\n    return 2\n\n\n@a.c\ndef f():\n    return h()\n\n\ndef g():\n    return 1\n"
    )
