"""`nexus completion`: what a shell needs to complete verbs, options and values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from nexus.cli._root import command as make_command

SHELLS = ("bash", "zsh", "fish")


@make_command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the script that lets SHELL complete this command.

    bash: nexus completion bash > ~/.local/share/bash-completion/completions/nexus;
    zsh: nexus completion zsh > a file _nexus in $fpath;
    fish: nexus completion fish > ~/.config/fish/completions/nexus.fish.
    """
    made = get_completion_class(shell)
    assert made is not None, shell
    root = click.get_current_context().find_root().command
    click.echo(made(root, {}, "nexus", "_NEXUS_COMPLETE").source())
