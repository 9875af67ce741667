"""`python -m engine.cli`: the command `playbill`, where the script is not on the path."""

from __future__ import annotations

from engine.cli import main

main()
