"""Processes that outlive us, known by pid alone: look at one, launch one, end one.

A pid may belong to somebody else by now. It is trusted only while its command line names what only our process names:
the node's own configuration file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nexus.brokers.errors import BrokerFailed

POLL_S = 0.05
KILL_LIMIT_S = 10.0
_LAUNCH_LIMIT_S = 30.0

# Run by a Python of its own that ends at once: the broker is then nobody's child here, so that it stays when we end,
# and no dead one stays behind unreaped while we live.
_LAUNCHER = """
import json, subprocess, sys
command, folder, log, environment = json.load(sys.stdin)
with open(log, "ab") as file:
    child = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                             stderr=subprocess.STDOUT, start_new_session=True)
child.returncode = 0
print(child.pid)
"""


class Seen(NamedTuple):
    """A living process as the system shows it."""

    state: str
    """One letter as in ``ps``: ``T`` is stopped by a signal."""
    command: str


def look(pid: int) -> Seen | None:
    """Look at a process; None when there is none, or only what its parent has not reaped."""
    seen = _look_in_proc(pid) if Path("/proc/self/stat").exists() else _look_with_ps(pid)
    return None if seen is None or seen.state in "ZX" else seen


def _look_in_proc(pid: int) -> Seen | None:
    seen = None
    for _ in range(20):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return None
        seen = Seen(state, command)
        if command or state in "ZX":
            break
        time.sleep(0.005)  # while a process becomes another program its command line is empty for a moment
    return seen


def _look_with_ps(pid: int) -> Seen | None:
    done = subprocess.run(
        ["ps", "-ww", "-o", "stat=,command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, command = done.stdout.strip().partition(" ")
    return Seen(state[:1], command.strip()) if done.returncode == 0 and state else None


def runs(pid: int | None, marker: str) -> bool:
    """Tell whether ``pid`` lives and its command line holds ``marker``."""
    seen = look(pid) if pid else None
    return seen is not None and marker in seen.command


def find(marker: str) -> int | None:
    """Find a process whose pid was lost, since whoever launched it was ended before it could write the pid down.

    Launched processes lead a session. That leaves out who merely looks at the file that the marker names.
    """
    for one in Path("/proc").glob("[0-9]*"):
        pid = int(one.name)
        with contextlib.suppress(OSError):
            if os.getsid(pid) == pid and runs(pid, marker):
                return pid
    return None


def launch(command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str]) -> int:
    """Start a program in a session of its own, with an empty stdin, writing to ``log``; return its pid."""
    wish = json.dumps([list(command), str(folder), str(log), dict(environment)])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER],
        input=wish,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LAUNCH_LIMIT_S,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BrokerFailed(f"{command[0]} cannot be started: {reason}")
    return int(done.stdout)


def send(pid: int | None, marker: str, number: signal.Signals) -> bool:
    """Send a signal to a process that is ours; tell whether it was there."""
    if pid is None or not runs(pid, marker):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill(pid: int | None, marker: str) -> bool:
    """End a process at once, and wait until it is gone; tell whether it was there. Raises `BrokerFailed`."""
    if not send(pid, marker, signal.SIGKILL):
        return False
    if not _gone(pid, marker, KILL_LIMIT_S):
        raise BrokerFailed(f"process {pid} did not end within {KILL_LIMIT_S:.0f} s of SIGKILL")
    return True


def end(pid: int | None, marker: str, limit_s: float) -> None:
    """Wait until a process that was asked to end is gone, and kill it after ``limit_s``."""
    if not _gone(pid, marker, limit_s):
        kill(pid, marker)


def ask_to_end(pid: int | None, marker: str) -> bool:
    """Ask a process to end, even when it is frozen; tell whether it was there."""
    asked = send(pid, marker, signal.SIGTERM)
    if asked:
        with contextlib.suppress(ProcessLookupError):
            send(pid, marker, signal.SIGCONT)
    return asked


def await_frozen(pid: int, limit_s: float = 5.0) -> None:
    """Wait until a process that was sent SIGSTOP stands still; its threads take a moment."""
    until = time.monotonic() + limit_s
    while (seen := look(pid)) is not None and seen.state != "T" and time.monotonic() < until:
        time.sleep(POLL_S)


def _ending(pid: int) -> bool:
    """Tell whether a process that looks dead has threads left, which hold its ports for a moment longer."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        return state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def _gone(pid: int | None, marker: str, limit_s: float) -> bool:
    until = time.monotonic() + limit_s
    while runs(pid, marker) or (pid and _ending(pid)):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True
