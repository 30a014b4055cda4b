"""`nexus demo`: the demonstration, which is a room of its own and loaded only when asked for."""

from __future__ import annotations

import importlib

import click

from nexus.cli import COMMANDS, _exits


def _demo() -> click.Command:
    try:
        found: click.Command = importlib.import_module("nexus.demo").command
    except ModuleNotFoundError as error:
        if error.name != "nexus.demo":
            raise
        return click.Command("demo", callback=_not_here, short_help=COMMANDS["demo"], help=COMMANDS["demo"])
    return found


def _not_here() -> None:
    _exits.say("this installation has no demonstration (there is no module nexus.demo)")
    click.get_current_context().exit(_exits.UNAVAILABLE)


command = _demo()
