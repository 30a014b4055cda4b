"""TLS: a broker with a certificate of its own, trusted by its file and by nothing else."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.backends.rabbitmq.rabbitmq_help import event, ids, opened, store_url

from nexus import brokers
from nexus.backends.rabbitmq import RabbitLog, Settings
from nexus.errors import SettingsError, Unavailable
from nexus.spi.backend import TopicSpec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def address(certificate: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name = f"tls-{uuid4().hex[:6]}"
    settings = {
        "stream.listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(certificate / "cert.pem"),
        "ssl_options.certfile": str(certificate / "cert.pem"),
        "ssl_options.keyfile": str(certificate / "key.pem"),
    }
    brokers.up("rabbitmq", name=name, settings=settings)
    yield f"rabbitmq://guest:guest@127.0.0.1/?stream_port={port}&tls=true"
    brokers.down("rabbitmq", name=name, data=True)


async def test_a_certificate_that_is_trusted_is_taken(address: str, certificate: Path) -> None:
    async with opened(store_url(address, ca=certificate / "cert.pem")) as log:
        await log.create(TopicSpec("t", 1))
        await log.append("t", [(0, event("1"))], dedup=False)
        assert await ids(log, "t") == ["1"]


async def test_a_certificate_that_nobody_vouches_for_is_refused(address: str) -> None:
    with pytest.raises(Unavailable, match="certificate"):
        await RabbitLog(Settings.parse(store_url(address, timeout_s=1))).open()


async def test_files_that_cannot_be_used_are_named_at_once(address: str, certificate: Path) -> None:
    for options in ({"ca": "/nowhere.pem"}, {"cert": certificate / "key.pem", "key": certificate / "key.pem"}):
        with pytest.raises(SettingsError, match="TLS"):
            await RabbitLog(Settings.parse(store_url(address, **options))).open()
