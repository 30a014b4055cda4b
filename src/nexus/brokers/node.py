"""One node: a folder, the file that tells its state, and the process that the file's pid may or may not still be."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nexus.brokers import process
from nexus.brokers.errors import BrokerFailed
from nexus.brokers.place import base_folder

_LOG_TAIL_BYTES = 256 * 1024


@dataclass(frozen=True)
class State:
    """What is remembered of a node between processes."""

    ports: Mapping[str, int]
    settings: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    url: str = ""
    pid: int | None = None


@dataclass(frozen=True)
class Node:
    """One process of a broker, running or not; what is asked of it is read anew each time."""

    kind: str
    name: str
    size: int
    """How many nodes the broker has."""
    index: int
    """From 0; its folder and the command line count from 1."""
    config_name: str

    @property
    def folder(self) -> Path:
        """The folder with all that it has."""
        return broker_folder(self.kind, self.name, self.size) / f"node{self.index + 1}"

    @property
    def config_path(self) -> Path:
        """Its configuration; the command line of its process, and of no other, names this file."""
        return self.folder / self.config_name

    @property
    def log_path(self) -> Path:
        """What it has written since it was started; what it wrote before is in ``log.previous``."""
        return self.folder / "log"

    @property
    def data_folder(self) -> Path:
        """What the broker stores."""
        return self.folder / "data"

    @property
    def state_path(self) -> Path:
        """The one file about it."""
        return self.folder / "state.json"

    @property
    def known(self) -> bool:
        """Whether it was ever started here."""
        return self.state_path.exists()

    @property
    def ports(self) -> Mapping[str, int]:
        """The ports by what they are for; the same for as long as its data is kept."""
        return self.state.ports

    @property
    def pid(self) -> int | None:
        """The pid of its process; None when it does not run."""
        pid = self.state.pid if self.known else None
        return pid if process.runs(pid, str(self.config_path)) else None

    @property
    def condition(self) -> str:
        """``running``, ``frozen`` or ``stopped``."""
        pid = self.pid
        seen = process.look(pid) if pid else None
        return "stopped" if seen is None else "frozen" if seen.state == "T" else "running"

    @property
    def state(self) -> State:
        """What is remembered. Raises `BrokerFailed` when it was never started, or the file is damaged."""
        try:
            return State(**json.loads(self.state_path.read_text("utf-8")))
        except FileNotFoundError:
            raise BrokerFailed(f"{self} was never started here", hint=f"nexus brokers up {self.kind}") from None
        except (ValueError, TypeError) as error:
            raise BrokerFailed(f"{self.state_path} is damaged: {error}", hint=f"delete {self.folder}") from None

    def remember(self, state: State) -> None:
        """Write the state, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.state_path.with_suffix(".part")
        part.write_text(json.dumps(dataclasses.asdict(state), indent=2) + "\n", "utf-8")
        os.replace(part, self.state_path)

    def launch(self, command: list[str], environment: Mapping[str, str]) -> None:
        """Start its process, and remember the pid."""
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.log_path, self.log_path.with_suffix(".previous"))
        pid = process.launch(command, folder=self.folder, log=self.log_path, environment=environment)
        self.remember(dataclasses.replace(self.state, pid=pid))

    def find_lost(self) -> None:
        """Remember its pid again when it runs and nobody wrote that down."""
        if self.known and self.pid is None and (pid := process.find(str(self.config_path))):
            self.remember(dataclasses.replace(self.state, pid=pid))

    def kill(self) -> None:
        """End it with SIGKILL, and wait until it is gone."""
        if not process.kill(self.state.pid, str(self.config_path)):
            raise BrokerFailed(f"{self} does not run")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if not process.send(self.state.pid, str(self.config_path), number):
            raise BrokerFailed(f"{self} does not run")

    def ask_to_end(self) -> bool:
        """Send SIGTERM; tell whether it ran."""
        return self.known and process.ask_to_end(self.state.pid, str(self.config_path))

    def await_end(self, limit_s: float) -> None:
        """Wait until it is gone; SIGKILL after ``limit_s``."""
        process.end(self.state.pid, str(self.config_path), limit_s)
        self.remember(dataclasses.replace(self.state, pid=None))

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines of its log."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, self.log_path.stat().st_size - _LOG_TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return lines[-count:] if count else []

    def __str__(self) -> str:
        who = self.kind if self.name == "default" else f"{self.kind} {self.name!r}"
        return who if self.size == 1 else f"node {self.index + 1} of {who}"


def broker_folder(kind: str, name: str, size: int) -> Path:
    """Return the folder of all nodes of one broker."""
    return base_folder() / "data" / kind / f"{name}-n{size}"
