"""The journal that each test of the activities has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.activities.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "it.db")
