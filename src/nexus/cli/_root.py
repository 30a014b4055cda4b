"""The root of the commands, and the groups below it: near names for slips, help for nothing, exit codes for errors."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import click

from nexus.cli import COMMANDS, _exits, help_text, loaded, version


def _color(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value or os.environ.get("NO_COLOR"):
        context.find_root().color = context.color = False


_OF_VERBS = ("--url", "-o", "--output", "--backend", "--group", "--topic", "--where")
"""Options that many commands have; a group of them has none."""


no_color = click.option(
    "--no-color", is_flag=True, expose_value=False, callback=_color, help="Print no colours; so does NO_COLOR."
)


class Verb(click.Command):
    """A command. Its arguments are text, but for names of files and what names a command: those may be any bytes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            if not isinstance(parameter.type, click.Path | click.File) and parameter.name not in _SAY_THEMSELVES:
                _refuse_no_text(ctx, parameter)
        return rest


_SAY_THEMSELVES = ("data", "program")
"""A payload that is no UTF-8 is refused as any that is no JSON."""


def _refuse_no_text(ctx: click.Context, parameter: click.Parameter) -> None:
    """Raise `BadParameter` for bytes that are no UTF-8: they can neither be stored nor be looked for."""
    value = ctx.params.get(parameter.name or "")
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
            raise click.BadParameter("this is not UTF-8", ctx, parameter)


class Verbs(click.Group):
    """A group of commands."""

    command_class = Verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        no_color(cmd)
        super().add_command(cmd, name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(_exits.USAGE)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name in _OF_VERBS:
                ctx.fail(f"put {error.option_name} behind the command")
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            near = get_close_matches(args[0], names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
            ctx.fail(f"unknown command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


class Root(Verbs):
    """All commands, each loaded when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"nexus.cli.{cmd_name}").command
        loaded()
        return found

    def get_help(self, ctx: click.Context) -> str:
        return help_text().rstrip()

    def main(self, *args: Any, **extra: Any) -> Any:
        # Not click's own: it says other exit codes, and a line more at Ctrl-C.
        given = args[0] if args else extra.get("args")
        arguments = list(sys.argv[1:] if given is None else given)

        def work() -> None:
            with self.make_context("nexus", arguments) as context:
                self.invoke(context)

        sys.exit(_exits.run(work))


@click.group(cls=Root, context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100})
@click.version_option(version(), "--version", message="nexus %(version)s")
@no_color
def root() -> None:
    """Nexus, an event bus: publish, watch, repair."""


def command(name: str) -> Callable[[Callable[..., object]], click.Command]:
    """Make a command of a function; its line of help is the table's."""

    def made(function: Callable[..., object]) -> click.Command:
        return click.command(name, cls=Verb, short_help=COMMANDS.get(name))(no_color(function))

    return made


def group(name: str) -> Callable[[Callable[..., object]], Verbs]:
    """Make a group of commands of a function."""

    def made(function: Callable[..., object]) -> Verbs:
        return click.group(name, cls=Verbs, short_help=COMMANDS.get(name))(no_color(function))

    return made
