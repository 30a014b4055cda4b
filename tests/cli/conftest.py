"""Running the command: in this process with click's runner, and as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nexus.cli._root import root

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and nothing in the environment that the command reads."""
    for name in list(os.environ):
        if name.startswith(("NEXUS_", "_NEXUS_")) or name in ("NO_COLOR", "EDITOR", "VISUAL", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def nexus(place: Path) -> Run:
    """Run the command in this process."""

    def run(*arguments: str, input: str | bytes | None = None, code: int = 0) -> Result:
        result = CliRunner().invoke(root, arguments, input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def store(place: Path) -> str:
    """The URL of a store that the verbs find by themselves, from here and from below; not there yet."""
    (place / ".nexus").mkdir()
    return "sqlite:///.nexus/nexus.db"


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command as a process, with pipes; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-m", "nexus", *arguments], text=True, **(pipes | options))
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def rows(result: Result) -> list[dict[str, Any]]:
    """Read what ``-o json`` printed."""
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def lines(text: str) -> list[dict[str, Any]]:
    """Read lines of JSON."""
    return [json.loads(line) for line in text.splitlines()]
