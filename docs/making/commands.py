"""`docs/reference/commands.md`, from the table in `engine/activities/permitted.py`, which the engine reads."""

from __future__ import annotations

from docs.making.markdown import cell, table
from engine.activities.permitted import KEPT, REFUSED, SAME, TABLE
from engine.messages import ActivityStatus

_INTRODUCTION = """# Commands to an activity

<!-- Made by docs/make_reference.py from engine/activities/permitted.py; change it there. -->

What a command does depends on where the activity stands. Each is recorded before it is obeyed, with who asked and why;
a refused one is recorded too. They are methods of `Engine`, for one activity by its id, and some of them for all that
an `ActivityFilter` selects; of `Handle`; and verbs of [the command line](command-line.md).
"""

_LEGEND = f"""Where a status stands, the activity is in that status afterwards.

- *{REFUSED}*: recorded as `command.denied`, with the status; whoever asked is told by a `CommandDeniedError`. A command
  to many passes over these.
- *{SAME}*: accepted and recorded; nothing changes.
- *{KEPT}*: accepted and recorded; it takes effect when the activity is resumed.

Only one that is parked is `waiting`: one that waits in memory is `running`. A cancel comes before a pause, a pause
before parking. What a cancel lets an activity still do stands in [the page on resuming](../explanation/resume.md).
"""


def page() -> str:
    """The page's text."""
    header = ["command", *(f"`{status}`" for status in ActivityStatus)]
    rows = [
        [f"`{command}`", *(cell(_shown(effects[status])) for status in ActivityStatus)]
        for command, effects in TABLE.items()
    ]
    return "\n".join([_INTRODUCTION, table(header, rows), _LEGEND])


def _shown(effect: str) -> str:
    return f"`{effect}`" if effect in set(ActivityStatus) else effect
