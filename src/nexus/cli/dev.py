"""`nexus dev`: an app while it is being written. A parent watches files; a child runs the app and is replaced.

The child has a process group of its own: Ctrl-C reaches the parent alone, which asks the child to drain, and ends it
at the second one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import click

from nexus.cli import _app, _values, version
from nexus.cli._exits import INTERRUPTED, say
from nexus.cli._files import changed, mtimes
from nexus.cli._root import command as make_command
from nexus.cli._store import refuse_no_folder, shown, shown_path, sqlite_path
from nexus.cli._text import counted
from nexus.cli.worker import log_to_stderr

POLL_S = 0.5
DRAIN_S = 10.0
_ROUND = "_NEXUS_DEV_ROUND"


@make_command("dev")
@click.argument("app", required=False)
@click.option("--backend", type=_values.URL, help="Store to work on, instead of the app's.")
@click.option("--ephemeral", is_flag=True, help="Keep events in memory, and forget them at every reload.")
@click.option("--no-workers", is_flag=True, help="Open the store and run no handler.")
@click.option("--drain", type=_values.DURATION, default="10s", show_default=True, help="Time for handlers to finish.")
@click.option("--reload/--no-reload", default=True, show_default=True, help="Start anew when a .py file changes.")
def command(
    app: str | None, backend: str | None, ephemeral: bool, no_workers: bool, drain: float, reload: bool
) -> None:
    """Run APP (module:bus; app:bus without it) and start it anew when a .py file below here changes."""
    if ephemeral and backend:
        raise click.UsageError("--ephemeral is a backend of its own; leave out --backend")
    if backend is not None:
        refuse_no_folder(backend)  # no change of a file would mend it
    if reload and _ROUND not in os.environ:
        code = Supervisor([sys.executable, "-m", "nexus", *_arguments()], Path.cwd(), drain).run()
        click.get_current_context().exit(code)
    log_to_stderr()
    found = _app.load(app, backend="memory://" if ephemeral else backend, drain_s=drain)
    if no_workers:
        found.bus.use_groups(())
    _app.make_folder(found.bus)
    asyncio.run(found.bus.run(on_open=lambda: _banner(found)))


def _arguments() -> list[str]:
    """Return what this command was given, for the child."""
    context = click.get_current_context()
    given: list[str] = ["dev"]
    for name, value in context.params.items():
        if value is None or name == "reload" or value is False:
            continue
        if name == "app":
            given.append(value)
        elif value is True:
            given.append(f"--{name.replace('_', '-')}")
        else:
            given.append(f"--{name}={f'{value}s' if name == 'drain' else value}")
    return given


def _banner(app: _app.App) -> None:
    """Say what runs; after a reload only that it does."""
    bus, number = app.bus, int(os.environ.get(_ROUND, "0"))
    if number > 1:
        say(f"reloaded {app.name}")
        return
    handlers = sum(len(group.subscriptions) for group in bus.groups.values())
    path = sqlite_path(bus.settings.backend)
    store = f"sqlite  {shown_path(path)}" if path else shown(bus.settings.backend)
    patterns = [pattern for group in bus.groups.values() for one in group.subscriptions for pattern in one.patterns]
    example = next((pattern for pattern in patterns if "*" not in pattern), "order.placed")
    reload = "on" if number else "off"
    left = (
        f"nexus {version()}  dev   app {app.name} (reload {reload})",
        f"store      {store}",
        f"workers    {bus.settings.workers} at once, per-key order" if handlers else "workers    none",
        f"next       nexus publish {example} JSON   ·   nexus tail -f",
    )
    right = (
        " · ".join(
            (
                counted(handlers, "handler"),
                counted(len(bus.groups), "group"),
                counted(len(bus.publisher.specs), "topic"),
            )
        ),
        f"durable: {_app.durable(bus)}",
        f"Ctrl-C drains ({bus.settings.drain_s:g} s), twice = now",
        "",
    )
    for one, other in zip(left, right, strict=True):
        say(f"{one:50}  {other}".rstrip())


class Supervisor:
    """Keeps one child running, and replaces it when files change."""

    def __init__(self, command: list[str], folder: Path, drain_s: float) -> None:
        self._command = command
        self._folder = folder
        self._drain_s = drain_s
        self._signals = 0
        self._wake = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._round = 0

    def run(self) -> int:
        """Run until a signal, or until the child ends well; return the exit code."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return self._run()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self) -> int:
        seen = mtimes(self._folder)
        child = self._start()
        told = False
        while not self._signals:
            code = child.poll()
            if code == 0:
                return 0
            if code is not None and not told:
                say(f"the app ended with {code}; it starts again when a file changes")
                told = True
            now = mtimes(self._folder)
            if names := changed(seen, now):
                say(f"{names[0]} changed" + (f", and {len(names) - 1} more" if len(names) > 1 else ""))
                seen, told = now, False
                self._end()
                child = self._start()
            self._wake.wait(POLL_S)
        self._end()
        return INTERRUPTED if self._signals > 1 else 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._wake.set()
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM if self._signals == 1 else signal.SIGKILL)

    def _start(self) -> subprocess.Popen[bytes]:
        self._round += 1
        environment = os.environ | {_ROUND: str(self._round)}
        self._child = subprocess.Popen(self._command, env=environment, cwd=self._folder, process_group=0)
        return self._child

    def _end(self) -> None:
        """Have the child drain; whatever takes longer than its time is ended."""
        child = self._child
        if child is None or child.poll() is not None:
            return
        if not self._signals:  # a signal was passed on already
            child.send_signal(signal.SIGTERM)
        try:
            child.wait(self._drain_s + 30)  # after the drain it writes cursors and closes the store
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
