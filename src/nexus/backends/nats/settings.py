"""Where a NATS store is and how it behaves: a URL such as ``nats://host:4222,other:4222/?prefix=shop``.

Secrets never stand in the URL: they come from files (``creds``, ``nkey``, ``tls_key``), or from the environment or the
settings (``token``; ``password`` together with the option ``user``).

>>> Settings.parse("nats://127.0.0.1/?prefix=shop&replicas=3").servers
('nats://127.0.0.1:4222',)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl

from nexus.core.options import BackendSettings, File, Secret, read_options
from nexus.errors import SettingsError

SCHEME = "nats://"
TOKEN_VARIABLE = "NEXUS_NATS__TOKEN"
PASSWORD_VARIABLE = "NEXUS_NATS__PASSWORD"
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_RANGES: Mapping[str, tuple[float, float, str]] = {
    "dedup_s": (1, 86_400, "seconds"),
    "connect_s": (0.1, 600, "seconds"),
    "timeout_s": (0.5, 600, "seconds"),
    "fetch_events": (1, 100_000, "events"),
    "fetch_bytes": (1_024, 1 << 28, "bytes"),
    "pending_bytes": (1_024, 1 << 32, "bytes"),
    "readers": (1, 100_000, "readers"),
    "atomic_events": (2, 1_000_000, "events"),
}


class Settings(BackendSettings, frozen=True):
    """All that can be chosen about a store on NATS."""

    servers: tuple[str, ...]
    prefix: str = "nexus"
    """Separates stores on one server; begins the names of all streams and subjects of the store."""
    replicas: int | None = None
    """Copies of each new topic; None: 3 where the cluster has three servers or more, else 1."""
    storage: Literal["file", "memory"] = "file"
    """Where the server keeps new topics."""
    dedup_s: float = 120.0
    """How long the server recognises an id. Longer than ``timeout_s``, so that a repeated append is recognised."""
    connect_s: float = 5.0
    """How long `NatsLog.open` tries."""
    timeout_s: float = 30.0
    """How long a call waits for a server that is away, before it raises `Unavailable` or `UnknownOutcome`."""
    fetch_events: int = 1_000
    """How many events of a partition are asked for at once; twice as many are held at most."""
    fetch_bytes: int = 1 << 20
    """How many bytes of a partition are asked for at once; twice as many, and one event, are held at most."""
    pending_bytes: int = 64 << 20
    """Bytes of a topic that wait for the server; further appends wait until there is room."""
    readers: int = 1_024
    """Places in partitions that are read ahead from at once; beyond it the one unused longest is given up."""
    atomic_events: int | None = None
    """From how many events on what is sent together is sent as one atomic batch. None: 2 where that is as fast
    (memory, or replicas), else 512."""
    tls: bool = False
    """Demand TLS. Set by any of the three below."""
    tls_ca: File | None = None
    """File with the authorities to trust, PEM; None: those of the system."""
    tls_cert: File | None = None
    """File with the client's certificate, PEM."""
    tls_key: File | None = None
    """File with the client's key, PEM."""
    creds: File | None = None
    """File with a user's JWT and seed, as the NATS tools write it."""
    nkey: File | None = None
    """File with an NKey seed."""
    user: str | None = None
    """Name to log in with."""
    password: Secret | None = None
    """How ``user`` proves who it is."""
    token: Secret | None = None
    """What a server wants that knows no users."""
    monitor: tuple[str, ...] = ()
    """URLs of the servers' monitoring ports, separated by commas, such as ``http://10.0.0.1:8222``. Only there can be
    seen whether a server syncs before it answers; without, no more than ``process`` or ``replicated`` is claimed."""

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise SettingsError(f"prefix={self.prefix!r} is not made of letters, digits and '-' (at most 64)")
        for name, (low, high, unit) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise SettingsError(f"{name}={value:,} is out of its range of {low:,} to {high:,} {unit}")
        if self.replicas not in (None, 1, 3, 5):
            raise SettingsError(f"replicas={self.replicas} is not 1, 3 or 5")
        if self.dedup_s <= self.timeout_s:
            raise SettingsError(
                f"dedup_s={self.dedup_s} is not longer than timeout_s={self.timeout_s}",
                hint="an append that is repeated within timeout_s must still be recognised",
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("tls_cert and tls_key go together")
        if sum(way is not None for way in (self.creds, self.nkey, self.user)) > 1:
            raise SettingsError("creds, nkey and user are three ways to log in", hint="choose one")
        for url in self.monitor:
            if not re.fullmatch(r"https?://[^\s/?#]+/?", url):
                raise SettingsError(f"monitor={url!r} is not like http://10.0.0.1:8222")

    @property
    def wants_tls(self) -> bool:
        """Whether a connection without TLS is refused."""
        return self.tls or self.tls_ca is not None or self.tls_cert is not None

    @classmethod
    def parse(cls, url: str, options: Mapping[str, Any] | None = None) -> Settings:
        """Read a URL, and options from elsewhere, which its own win over. Raises `SettingsError` naming the option."""
        if not url.startswith(SCHEME):
            raise SettingsError("not the URL of a store on NATS", hint=f"it starts with {SCHEME}")
        place, _, query = url[len(SCHEME) :].partition("?")
        hosts, _, path = place.partition("/")
        if path:
            raise SettingsError(f"a store on NATS has no path: /{path}", hint="separate stores by ?prefix=NAME")
        servers = tuple(_server(host) for host in hosts.split(","))
        own = parse_qsl(query, keep_blank_values=True)
        return read_options(cls, {"servers": servers}, own, "a store on NATS", options)


def _server(text: str) -> str:
    if "@" in text:
        raise SettingsError(
            "the URL of a store on NATS holds no user and no secret",
            hint=f"use creds=FILE, nkey=FILE, user=NAME with {PASSWORD_VARIABLE}, or {TOKEN_VARIABLE}",
        )
    found = _HOST.fullmatch(text)
    port = int(found["port"] or 4222) if found else 0
    if found is None or not 0 < port < 65_536:
        raise SettingsError(f"{text!r} is not host:port of a NATS server", hint="nats://127.0.0.1:4222")
    return f"nats://{found['host']}:{port}"
