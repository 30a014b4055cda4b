"""`nexus worker`: the handlers of an app in a process of their own."""

from __future__ import annotations

import asyncio
import logging
import sys

import click

from nexus import Nexus
from nexus.cli import _app, _values
from nexus.cli._exits import say
from nexus.cli._root import command as make_command
from nexus.cli._store import shown
from nexus.cli._text import escape


@make_command("worker")
@click.argument("app", required=False)
@click.option("--only", multiple=True, metavar="GROUP", help="Run only this group; repeatable.")
@click.option("--drain", type=_values.DURATION, help="How long running handlers may take at the end, such as 30s.")
@click.option("--backend", type=_values.URL, help="Store to work on, instead of the app's.")
def command(app: str | None, only: tuple[str, ...], drain: float | None, backend: str | None) -> None:
    """Run the handlers of APP (module:bus; app:bus without it) until SIGTERM or Ctrl-C, then drain.

    A second signal ends it at once; what ran then is delivered again.
    """
    log_to_stderr()
    found = _app.load(app, backend=backend, drain_s=drain)
    _app.only(found.bus, only)
    _app.refuse_no_handlers(found)
    _app.make_folder(found.bus)
    bus = found.bus

    def opened() -> None:
        say(f"worker {found.name} on {shown(bus.settings.backend)}, durable: {_app.durable(bus)}")
        for line in _app.consumes(bus):
            say(f"  {line}")
        say(f"consuming; SIGTERM drains ({bus.settings.drain_s:g} s)")

    asyncio.run(bus.run(on_open=opened))
    report(bus)


def log_to_stderr() -> None:
    """Have the log of Nexus and of the app on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Harmless("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _Harmless(logging.Formatter):
    """Errors quote payloads, and payloads may hold what commands a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return escape(super().format(record), keep="\n\t")


def report(bus: Nexus) -> None:
    """Say what each group did."""
    for name in bus.groups:
        stats = bus.consumer(name).stats
        say(
            f"drained {name}: {stats.acked} acked, {stats.retried} retried, {stats.parked} parked, {stats.dead} dead"
            + (f", {stats.cancelled} cancelled and to come again" if stats.cancelled else "")
        )
