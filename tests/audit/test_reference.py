"""The reference pages that are made from the code say what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from engine.journal.kinds import KINDS


@pytest.fixture(scope="module")
def make_reference(repository: Path) -> ModuleType:
    path = repository / "docs" / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_made_from_the_code_are_up_to_date(make_reference: ModuleType) -> None:
    assert make_reference.outdated() == [], "run python docs/make_reference.py"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_section_with_all_its_fields(make_reference: ModuleType, kind: str) -> None:
    _, found, section = make_reference.records_page().partition(f"\n### {kind}\n")
    assert found
    section = section.partition("\n### ")[0]
    assert all(f"`{field}`" in section for field in (*KINDS[kind].facts, *KINDS[kind].data))
