"""`playbill completion`: the script that teaches a shell to complete the command line."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from engine.cli.options import debug_option


@click.command(
    short_help="Switch on a shell's completion.",
    epilog='\b\nExample, in ~/.bashrc:\n  eval "$(playbill completion bash)"',
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@debug_option
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that switches completion on in a shell."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, "playbill", "_PLAYBILL_COMPLETE").source())
