"""The command `nexus`: this page answers what costs nothing, and loads a verb's module only when it is called.

`nexus --help`, `nexus --version` and `nexus` alone need no other package, so they are there at once; neither this
module nor the table below imports click, rich or the bus.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

COMMANDS = {
    "dev": "Run an app with reload on every change of a file, durable in .nexus.",
    "worker": "Run the handlers of an app until SIGTERM, then drain.",
    "publish": "Publish one event, or a file of them.",
    "subscribe": "Consume as a member of a group, into the terminal or a command.",
    "tail": "Watch events without consuming them.",
    "topics": "List topics, and show where their partitions begin and end.",
    "groups": "List consumer groups, show how far they are, and watch who owns what.",
    "top": "Show rates and lags, full screen and live.",
    "trace": "Show what came of one event, as a tree over all topics.",
    "subscriptions": "Pause, move and filter groups while they run, and create or remove some.",
    "replay": "Replay stored events into a group, a topic, a file or a command.",
    "schedules": "List, make, cancel and fire delayed and recurring events.",
    "dlq": "List, show, edit, requeue, discard and export dead letters.",
    "config": "Show the settings and where each came from, or check them.",
    "doctor": "Check this machine and the store.",
    "brokers": "Run Kafka, NATS and RabbitMQ on this machine, for tests and demonstrations.",
    "bench": "Measure speed against peers, in one run.",
    "demo": "Show what Nexus does, on real events: flights (the default) or github.",
    "explain": "Tell what an error code means, what causes it and what to do.",
    "plugins": "List what packages add to Nexus.",
    "completion": "Print the script that lets a shell complete this command.",
    "version": "Print the versions of Nexus and of what it runs on.",
}
"""Each verb with one line about it; the verb ``x`` is ``command`` in ``nexus.cli.x``."""

_NO_CLICK = """\
NXS-1102 the command line needs click and rich, which are not installed ({missing} is missing)
Next: pip install 'nexus-bus[cli]'"""


def help_text() -> str:
    """Return what `nexus --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    verbs = "\n".join(f"  {name:{width}}{line}" for name, line in COMMANDS.items())
    return f"""\
Usage: nexus [OPTIONS] COMMAND [ARGS]...

  Nexus, an event bus: publish, watch, repair.

Options:
  --no-color  Print no colours; so does the variable NO_COLOR.
  --version   Print the version and exit.
  --help      Print this page and exit.

Commands:
{verbs}

  nexus COMMAND --help tells more about one. Data goes to stdout, talk to stderr.
"""


def version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version  # only asked for now and then: 10 ms

    try:
        return version("nexus-bus")
    except PackageNotFoundError:
        return "0 (not installed)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the process's arguments, and exit with its code."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _end_at_once)
        _open_streams()
        _main(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        _end_at_once()


def _end_at_once(*_: object) -> None:
    """End at Ctrl-C while modules are loaded: nothing has begun, and an import may lose a `KeyboardInterrupt`."""
    os.write(2, b"interrupted\n")
    os._exit(130)


def loaded() -> None:
    """Have Ctrl-C raise `KeyboardInterrupt` from now on: the verb begins."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _open_streams() -> None:
    """Open what was closed for this process, so that nothing else gets its number: no file of a store, no socket.

    What is written to a stdout that was closed fails, as on a full disk: nobody has seen it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="replace"))  # noqa: SIM115 - for good


def _main(arguments: list[str]) -> None:
    match arguments:
        case []:
            sys.stderr.write(help_text())
            sys.exit(2)
        case ["--help" | "-h" | "help"]:
            sys.exit(_print(help_text()))
        case ["--version"]:
            sys.exit(_print(f"nexus {version()}\n"))
    from importlib.util import find_spec

    for package in ("click", "rich"):
        if find_spec(package) is None:
            sys.stderr.write(_NO_CLICK.format(missing=package) + "\n")
            sys.exit(69)
    from nexus.cli._root import root

    root.main(arguments, prog_name="nexus")


def _print(text: str) -> int:
    """Write to stdout and return the exit code."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        return output_failed(error)
    return 0


def output_failed(error: OSError) -> int:
    """Return the exit code of a command whose output could not be written; say why, unless the reader had enough."""
    from contextlib import suppress

    with suppress(OSError, ValueError):  # Python's own flush at the end would complain again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 0
    sys.stderr.write(f"the output cannot be written: {error.strerror}\n")
    return 1
