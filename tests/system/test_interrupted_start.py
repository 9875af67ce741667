"""Ctrl-C while activities are being started: a command and its start are recorded together, or not at all."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from engine.audit import Ledger

PROGRAM = """
import trio
from engine import Context, Engine, activity

@activity(name="nothing")
async def nothing(ctx: Context, number: int) -> int:
    return number

async def main() -> None:
    async with Engine.open("journal.db", nothing) as engine:
        print("open", flush=True)
        number = 0
        while True:
            await engine.start(nothing, number)
            await engine.publish("numbers", number, id=f"event-{number}")
            number += 1

trio.run(main)
"""

INTERRUPTIONS = 12


def test_ctrl_c_never_leaves_a_command_without_its_start(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    (tmp_path / "program.py").write_text(PROGRAM)
    for _ in range(INTERRUPTIONS):
        process = subprocess.Popen(
            [sys.executable, "program.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            process.wait(chance.uniform(0.001, 0.1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert "KeyboardInterrupt" in errors
        assert "AssertionError" not in errors
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        counts = dict(connection.execute("SELECT kind, count(*) FROM records GROUP BY kind").fetchall())
    assert counts["command.accepted"] == counts["activity.started"]
    assert counts["engine.opened"] == INTERRUPTIONS
    with Ledger.open(tmp_path / "journal.db") as ledger:
        assert ledger.verify().ok
