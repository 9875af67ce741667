"""The command `playbill`: what there is to do with a journal without writing Python.

`run` starts an activity for each row of a file: `target` imports the activity, `rows` reads the file, `arguments` makes
rows into arguments by way of `columns` and `cells`, `progress` shows how far it is. `list`, `show`, `events`, `tree`,
`verify` and `report` read a journal through the ledger. `program` turns errors into one line and an exit code, `output`
prints all the rest. Nothing imports this room but the console script.
"""

from __future__ import annotations

from engine.cli import (
    activities,
    check,
    completion,
    control,
    events,
    fork,
    report,
    resolve,
    resume,
    retry,
    run,
    send,
    tree,
    verify,
)
from engine.cli.program import program

for verb in (
    run.run,
    activities.list_activities,
    activities.show_activity,
    events.list_events,
    tree.show_tree,
    resolve.resolve,
    send.send,
    resume.resume,
    control.cancel,
    control.terminate,
    control.pause,
    retry.retry,
    fork.fork,
    check.check_activities,
    verify.verify,
    report.report,
    completion.completion,
):
    program.add_command(verb)


def main() -> None:
    """The entry point of the console script; ends the process with the verb's exit code."""
    program()
