"""The command `playbill`: its verbs, and what becomes of their errors.

A verb returns its exit code, or nothing for 0. What it raises becomes one line on standard error that says what to do,
and the exit code of the table below; the traceback is only shown with `--debug`. Exit codes: 0 all is well, 1 something
is not as it should be (an activity failed, verification found a problem), 2 the command cannot be done as it was given,
130 and 143 stopped by Ctrl-C and by SIGTERM, 141 whoever read the output has gone.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from engine.cli.options import debug_option
from engine.cli.output import complain
from engine.errors import (
    ActivityNotFoundError,
    JournalBusyError,
    JournalFullError,
    JournalOwnedError,
    PlaybillError,
)
from engine.version import VERSION

EXIT_CODES: dict[type[PlaybillError], int] = {
    # The command was right; what it met was not.
    ActivityNotFoundError: 1,
    JournalBusyError: 1,
    JournalFullError: 1,
}
"""The exit codes of errors that are not 2."""


class Program(click.Group):
    """A group of verbs that prints errors in one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; ends the process with the verb's exit code, unless `standalone_mode` is off."""
        given = list(sys.argv[1:] if args is None else args)
        program = prog_name or "playbill"
        if not standalone_mode:
            return super().main(given, program, complete_var, standalone_mode=False, **extra)
        _open_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # A terminal that lacks a character must not end the command.
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(given, program, complete_var, standalone_mode=False, **extra)
        except (Exception, click.Abort) as error:  # the edge: whatever came up so far is told, and ends the command
            self._fail(error, debug="--debug" in given)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Do the verb. Where whoever read the output has gone, as `head` does, end as a program that SIGPIPE ends."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # What is still held must not be tried again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(128 + signal.SIGPIPE)

    def _fail(self, error: Exception, *, debug: bool) -> NoReturn:
        if debug and not isinstance(error, click.UsageError | click.Abort):
            traceback.print_exception(error)
        complain(said(error))
        sys.exit(exit_code(error))


def _open_closed_streams() -> None:
    """Give the streams that the command was started without, as by `>&-`, to nowhere. A file that is opened later must
    not become standard output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for as long as the process


def exit_code(error: BaseException) -> int:
    """The exit code that tells of an error."""
    match error:
        case click.Abort():
            return 130
        case click.ClickException():
            return error.exit_code
        case PlaybillError():
            return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 2)
        case _:
            return 1


def said(error: BaseException) -> str:
    """An error as one line: what is wrong, where, and what to do."""
    match error:
        case click.Abort():
            return "stopped"
        case click.UsageError():
            path = error.ctx.command_path if error.ctx is not None else "playbill"
            message = error.format_message().rstrip(".")
            return f"{message}{'' if message.endswith('?') else ';'} see `{path} --help`"
        case click.ClickException():
            return error.format_message()
        case JournalOwnedError():
            return f"{error} (JournalOwnedError); `playbill list` and the other verbs that read work meanwhile"
        case PlaybillError():
            return f"{error} ({type(error).__name__})"
        case OSError() if error.filename is not None:
            return f"{error.filename}: {error.strerror}"
        case OSError() if error.errno == errno.ENOSPC:
            return f"{error.strerror}; make room, or have what is printed written elsewhere"
        case OSError() if str(error):
            return error.strerror or str(error)
        case _:
            return f"{type(error).__name__}: {error}; this should not happen: see where with --debug"


EXAMPLES = """\b
Examples:
  playbill run app.py:transfer --input transfers.csv --journal transfers.db --id-field id
  playbill list --journal transfers.db --status failed
  playbill show transfer-0001 --journal transfers.db
  playbill report --journal transfers.db --output report.html

\b
Shell completion, in ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish:
  eval "$(playbill completion bash)"
  eval "$(playbill completion zsh)"
  playbill completion fish | source
"""


@click.group(
    name="playbill",
    cls=Program,
    invoke_without_command=True,
    epilog=EXAMPLES,
    context_settings={"max_content_width": 100},
)
@click.version_option(VERSION, prog_name="playbill")
@debug_option
@click.pass_context
def program(ctx: click.Context) -> None:
    """Durable, auditable workflows that need no server: one Python process and one file.

    The journal is what --journal names, or $PLAYBILL_JOURNAL. All verbs but `run` and those that command, as `retry`,
    only read it, also while an engine is writing it.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
