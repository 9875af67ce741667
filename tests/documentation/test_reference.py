"""The reference has an entry for whatever a user can meet: errors, record kinds, tables, verbs and their options."""

from __future__ import annotations

import inspect
import re
import sqlite3

import click
import pytest

import engine
from docs.making import api, errors, wrong_input
from engine import actors
from engine.audit import Ledger
from engine.cli.program import program
from engine.journal.kinds import KINDS
from engine.journal.schema import migrate
from tests.documentation.pages import CHECKOUT

REFERENCE = CHECKOUT / "docs" / "reference"


def section(page: str, heading: str) -> str:
    """What stands under a heading of a reference page, up to the next one of its level or above."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,3}} |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no heading {heading!r}"
    return found[2]


@pytest.mark.parametrize("error", errors.classes(), ids=lambda error: error.__name__)
def test_every_error_has_its_entry(error: type[Exception]) -> None:
    told = section("errors.md", error.__name__)
    assert told.strip()
    # What an instance carries is told, but for what only makes the sentence.
    names = error.__init__.__code__.co_varnames[1 : error.__init__.__code__.co_argcount] if own_init(error) else ()
    assert all(f"`{name}`" in told for name in names if name not in {"why", "path"}), names


def own_init(error: type[Exception]) -> bool:
    return "__init__" in vars(error)


@pytest.mark.parametrize("part", api.SECTIONS, ids=lambda part: part.title)
def test_every_public_name_of_a_package_has_its_entry(part: api.Section) -> None:
    assert [name for name in part.names if name not in api.names_of(part)] == []
    for name in api.names_of(part):
        told = section("api.md", f"The decorator {name}" if name in ("activity", "step", "subscriber") else name)
        # More than how it is called.
        assert re.sub(r"^```\n.*?^```$", "", told, flags=re.DOTALL | re.MULTILINE).strip(), name


@pytest.mark.parametrize("cls", [engine.Engine, engine.Handle, engine.Context, Ledger, actors.Ref, actors.Supervisor])
def test_every_method_of_a_class_that_users_are_given_has_its_entry(cls: type) -> None:
    text = (REFERENCE / "api.md").read_text(encoding="utf-8")
    methods = [name for name, value in vars(cls).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert [name for name in methods if f"#### {cls.__name__}.{name}\n" not in text] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_kind_has_its_entry(kind: str) -> None:
    assert section("records.md", kind).strip()


@pytest.mark.parametrize("verb", program.commands)
def test_every_verb_has_its_entry_with_all_its_options(verb: str) -> None:
    text = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    assert f"| `{verb}` |" in text
    told = [section("command-line.md", heading) for heading in (f"`playbill {verb}`", "What all verbs have in common")]
    options = [option for option in program.commands[verb].params if isinstance(option, click.Option)]
    names = [max(option.opts, key=len) for option in options]
    assert [name for name in names if not any(name in text for text in told)] == []


def test_the_page_names_no_verb_that_there_is_not() -> None:
    text = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## `playbill (\S+)`", text, re.MULTILINE)) == set(program.commands)


def test_every_table_has_its_entry() -> None:
    journal = sqlite3.connect(":memory:")
    migrate(journal, ":memory:")
    tables = [name for (name,) in journal.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    journal.close()
    assert len(tables) > 5
    assert all(section("schema.md", table).strip() for table in tables)


def test_at_least_25_wrong_inputs_are_shown_with_message_and_exit_code() -> None:
    text = (REFERENCE / "wrong-input.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (`+ ?playbill: .+`) \| (\d+) \|$", text, re.MULTILINE)
    assert len({given for given, _, _ in rows}) >= 25
    assert {code for _, _, code in rows} <= {"1", "2"}


def test_long_files_are_cut_short_and_control_characters_shown() -> None:
    assert wrong_input._shown("a\x1bb\n") == "a\\x1bb⏎"
    assert wrong_input._shown("[" * 5000) == f"{'[' * 20}… (5,000 characters)"
