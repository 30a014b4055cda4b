"""How a command ends: its exit code, and what is said on stderr. The one place where errors become numbers.

0 ok   1 failed   2 usage   3 not found   4 conflict   69 unavailable   75 try again   130 interrupted
"""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Callable

import click

from nexus.cli import output_failed
from nexus.cli._text import escape
from nexus.errors import (
    FilterError,
    HandlerError,
    IdConflict,
    MissingExtra,
    NexusError,
    ReadOnly,
    SettingsError,
    Unavailable,
    UnknownGroup,
    UnknownTopic,
)

OK, FAILED, USAGE, NOT_FOUND, CONFLICT, UNAVAILABLE, TRY_AGAIN, INTERRUPTED = 0, 1, 2, 3, 4, 69, 75, 130


class NotFound(NexusError):
    """What the command was to work on does not exist."""

    code = "NXS-6100"


class Gone(NexusError):
    """It was there when the command began, and somebody was faster."""

    code = "NXS-6101"


class BadLine(NexusError):
    """A line of a file of events cannot be read as one."""

    code = "NXS-6102"


_CODES: dict[str, int] = {
    FilterError.__name__: USAGE,
    HandlerError.__name__: USAGE,
    SettingsError.__name__: USAGE,
    MissingExtra.__name__: UNAVAILABLE,
    Unavailable.__name__: UNAVAILABLE,
    UnknownTopic.__name__: NOT_FOUND,
    UnknownGroup.__name__: NOT_FOUND,
    "NotDead": NOT_FOUND,  # by name: its module costs more than an exit should
    "UnknownReplay": NOT_FOUND,
    "UnknownSchedule": NOT_FOUND,
    "MissingProgram": UNAVAILABLE,
    NotFound.__name__: NOT_FOUND,
    IdConflict.__name__: CONFLICT,
    Gone.__name__: CONFLICT,
}


_NO_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def exit_code(error: NexusError) -> int:
    """Return the exit code of an error: that of the nearest class that has one, else whether it may be tried again."""
    for kind in type(error).__mro__:
        if kind.__name__ in _CODES:
            return _CODES[kind.__name__]
    return TRY_AGAIN if error.retryable else FAILED


def say(text: str) -> None:
    """Talk to the person: on stderr, with nothing in it that would command a terminal."""
    click.echo(escape(text, keep="\n"), err=True)


def _hint(error: NexusError) -> str:
    """What to do about an error that does not say so itself."""
    if isinstance(error, Unavailable):
        return "nexus doctor asks the store and tells what is amiss; is it running, and is its address right?"
    if isinstance(error, ReadOnly):
        return "check who may read and write the file and its folder"
    return f"nexus explain {error.code} tells what causes it"


def run(work: Callable[[], object]) -> int:
    """Run a command and return its exit code; what went wrong is on stderr."""
    try:
        try:
            work()
        finally:
            with contextlib.suppress(ValueError):  # closed
                sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        error.show(sys.stderr)
        return USAGE
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        return INTERRUPTED
    except OSError as error:
        # A file's error has its name, and stdout has none.
        if error.filename is not None or error.errno not in _NO_OUTPUT:
            raise
        return output_failed(error)
    except NexusError as error:
        if error.hint is None:
            error.hint = _hint(error)
        say(str(error))
        return exit_code(error)
    return OK
