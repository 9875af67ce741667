"""Playbill's version, as the installed distribution tells it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("playbill")
except PackageNotFoundError:  # a checkout that was not installed
    VERSION = "0+unknown"
"""Recorded with each opening of a journal."""
