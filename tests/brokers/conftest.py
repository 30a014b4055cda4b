"""A base folder of one's own, and a stand-in for nats-server that starts in no time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus import brokers

_STAND_IN = """\
#!{python}
import re, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

if sys.argv[1:] == ["--version"]:
    sys.exit("nats-server: v{version}") if {fails} else print("nats-server: v{version}")
    sys.exit(0)
{before}

class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

print("listening", flush=True)
port = int(re.search(r"http: 127.0.0.1:(\\d+)", open(sys.argv[2]).read())[1])
HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty base folder, and no address in the environment; what runs there is ended with the test."""
    for name in list(os.environ):
        if name.startswith("NEXUS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NEXUS_BROKERS_DIR", str(tmp_path / "brokers"))
    yield tmp_path / "brokers"
    monkeypatch.setenv("NEXUS_BROKERS_DIR", str(tmp_path / "brokers"))
    for broker in brokers.status():
        brokers.down(broker.kind, len(broker.nodes), name=broker.name)


class StandIn:
    """Puts programs on a PATH that has nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.write_text(text)
        file.chmod(0o755)

    def nats(self, version: str = "2.99.0", before: str = "", fails: bool = False) -> None:
        self.write("nats-server", _STAND_IN.format(python=sys.executable, version=version, before=before, fails=fails))


@pytest.fixture
def programs(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """An empty PATH to put programs on, and no registry."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return StandIn(folder)
