"""Questions to the person at the terminal; without one, to the lines of stdin, as from `yes |`."""

from __future__ import annotations

import sys

import click

from nexus.cli._exits import USAGE, say

_AHEAD = "nexus.asking.ahead"


class NobodyAnswers(click.ClickException):
    """There is a question, and neither a terminal nor a line of stdin."""

    exit_code = USAGE

    def __init__(self) -> None:
        super().__init__("nobody is there to be asked; say --yes to do it without asking")


def on_terminal() -> bool:
    """Tell whether a person reads the question."""
    return sys.stdin.isatty()


def refuse_nobody() -> None:
    """Raise `NobodyAnswers` before work whose end would be a question to nobody."""
    if not on_terminal():
        ahead = click.get_current_context().meta.setdefault(_AHEAD, [])
        if not ahead:
            ahead.append(_line())


def confirm(question: str, *, default: bool = False) -> bool:
    """Ask. Raises `NobodyAnswers`; `KeyboardInterrupt` at Ctrl-C."""
    if on_terminal():
        try:
            return click.confirm(question, default=default, err=True)
        except click.Abort as abort:
            if isinstance(abort.__context__, KeyboardInterrupt):
                raise
            raise NobodyAnswers from None  # the end of input, typed
    ahead: list[str] = click.get_current_context().meta.get(_AHEAD, [])
    answer = ahead.pop() if ahead else _line()
    say(f"{question} {answer}")
    return answer.lower() in ("y", "yes") or (default and not answer)


def ask(question: str, yes: bool, about: str = "") -> None:
    """Go on only after a yes, or with ``yes``; ``about`` is told before. Raises `NobodyAnswers`."""
    if yes:
        return
    refuse_nobody()
    if about:
        say(about)
    if not confirm(question):
        say("nothing was done")
        click.get_current_context().exit(1)


def _line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise NobodyAnswers
    return line.strip()
