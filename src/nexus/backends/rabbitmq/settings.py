"""Where the broker is and how a store uses it: ``rabbitmq://user@host:port,host:port/vhost?stream_port=5552&prefix=x``.

The ports after the hosts are those of AMQP, which is not spoken here; ``stream_port`` has one port for each host, or
one for all. The password ``guest`` may stand in the URL of the user guest; any other comes from the environment or the
settings.

>>> Settings.parse("rabbitmq://guest:guest@localhost:5672/?prefix=shop").prefix
'shop'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from nexus.core.options import BackendSettings, File, Secret, read_options
from nexus.errors import SettingsError

PASSWORD = "NEXUS_RABBITMQ__PASSWORD"
_URL = re.compile(r"rabbitmq://(?:([^@/?]*)@)?([^/?]+)(?:/([^?]*))?(?:\?(.*))?\Z")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::([0-9]+))?\Z")
_MIB = 1024 * 1024


class Settings(BackendSettings, frozen=True):
    """All that can be chosen about a store on RabbitMQ."""

    hosts: tuple[str, ...]
    """Any of them is asked for the others."""
    stream_port: tuple[int, ...] = (5552,)
    """Ports of the stream protocol: one for each host, or one for all."""
    user: str = "guest"
    """Who to be, unless the URL says it."""
    password: Secret = "guest"
    """How ``user`` proves who it is."""
    vhost: str = "/"
    """The virtual host, unless the URL names one."""
    prefix: str = "nexus"
    """Begins the name of every stream of the store, and so tells stores on one broker apart."""
    heartbeat_s: float = 5.0
    """A connection that is silent for twice as long is given up."""
    connect_s: float = 5.0
    """How long one attempt to connect may take."""
    timeout_s: float = 20.0
    """How long a call may wait for the broker, also for its return."""
    segment_bytes: int = 64 * _MIB
    """Size of a stream's files. What retention lets go, goes by whole files."""
    retention_segments: int = 8
    """In how many files at least ``retention_bytes`` are kept, so that not much too much is."""
    inflight_bytes: int = 32 * _MIB
    """How much may be sent and not confirmed; who appends more waits."""
    inflight_events: int = 20_000
    """How many events may be sent and not confirmed; who appends more waits."""
    buffer_bytes: int = 64 * _MIB
    """How much may have arrived and not been read, over all partitions; then no more is asked for."""
    tls: bool = False
    """Speak TLS."""
    ca: File | None = None
    """File of the certificates to trust instead of the system's."""
    cert: File | None = None
    """File with the client's own certificate."""
    key: File | None = None
    """File with the private key of ``cert``."""

    def __post_init__(self) -> None:
        _check_ports(self.hosts, self.stream_port)
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.prefix):
            raise SettingsError(f"prefix={self.prefix!r} is not 1 to 64 letters, digits, '_' or '-'")
        for name, low, high in (
            ("heartbeat_s", 1, 300),
            ("connect_s", 0.1, 300),
            ("timeout_s", 0.1, 3_600),
            ("segment_bytes", 64 * 1024, 2_000_000_000),
            ("retention_segments", 2, 1_000),
            ("inflight_bytes", 2 * _MIB, 1 << 30),
            ("inflight_events", 1, 1_000_000),
            ("buffer_bytes", _MIB, 1 << 34),
        ):
            if not low <= getattr(self, name) <= high:
                raise SettingsError(f"{name}={getattr(self, name)} is out of its range of {low:,} to {high:,}")
        if (self.cert is None) != (self.key is None):
            raise SettingsError("cert and key of TLS go together: one of them is missing")
        if not self.tls and (self.ca or self.cert):
            raise SettingsError("ca, cert and key are given, and TLS is off", hint="add tls=true")

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Hosts with their stream ports."""
        ports = self.stream_port
        return tuple((host, ports[number % len(ports)]) for number, host in enumerate(self.hosts))

    @classmethod
    def parse(cls, url: str, options: Mapping[str, Any] | None = None) -> Settings:
        """Read a URL, and options from elsewhere, which its own win over. Raises `SettingsError` naming the option."""
        match = _URL.match(url)
        if match is None:
            raise SettingsError(
                "not the URL of a store on RabbitMQ", hint="rabbitmq://user@host:5672/vhost?stream_port=5552"
            )
        login, hosts, vhost, query = match.groups()
        others = dict(options or {})
        given: dict[str, Any] = {"hosts": [_host(host) for host in hosts.split(",")]} | _login(login, others)
        if vhost:
            given["vhost"] = unquote(vhost)
        own = parse_qsl(query or "", keep_blank_values=True)
        return read_options(cls, given, own, "a store on RabbitMQ", others, apart=("user", "vhost"))


def _login(login: str | None, others: Mapping[str, Any]) -> dict[str, str]:
    """Who to be, and the password if it is the one that may stand in a URL."""
    user, colon, password = (login or "").partition(":")
    user, password = unquote(user), unquote(password)
    if colon and (user, password) != ("guest", "guest"):
        raise SettingsError("a password stands in the URL of RabbitMQ", hint=f"put it into {PASSWORD}")
    if colon:
        return {"user": user, "password": password}
    user = user or str(others.get("user", "guest"))
    if user != "guest" and "password" not in others:
        raise SettingsError(f"there is no password for the user {user!r} of RabbitMQ", hint=f"put it into {PASSWORD}")
    return {"user": user} if login else {}


def _host(text: str) -> str:
    match = _HOST.match(text)
    if match is None:
        raise SettingsError(f"{text!r} is no host of RabbitMQ", hint="host:port")
    return match[1].strip("[]")


def _check_ports(hosts: tuple[str, ...], ports: tuple[int, ...]) -> None:
    if len(ports) not in (1, len(hosts)):
        raise SettingsError(f"stream_port has {len(ports)} ports for {len(hosts)} hosts", hint="one for each, or one")
    for port in ports:
        if not 0 < port < 65_536:
            raise SettingsError(f"stream_port={port} is no port")
