"""The one place that touches the inside of nats-py: what arrives goes to functions, what is sent goes out at once.

nats-py logs in, reads the protocol, and reconnects. Two things are taken over, since they cost more than all the rest:

- *Arrival.* nats-py parses the headers of each message into a dict (8 µs), and carries it through a queue to a task of
  its own. Here a function is called with the bytes, in the order of arrival, before the next message is looked at.
- *Sending.* nats-py keeps what it could not send and sends it after a reconnect. An append that was given up must not
  land later, so what is sent here is sent on this connection or nowhere.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nexus.backends.nats.settings import PASSWORD_VARIABLE, Settings
from nexus.errors import MissingExtra, SettingsError

if TYPE_CHECKING:
    from nats.aio.client import Client

Arrival = Callable[[bytes, bytes, bytes, bytes], None]
"""What is called with subject, reply subject, raw headers and body of a message."""


@functools.cache
def client_class() -> type[Client]:
    """The client, with the two things taken over. Raises `MissingExtra` without nats-py."""
    try:
        from nats.aio.client import Client
    except ImportError as error:
        raise MissingExtra("nats:// needs nats-py", hint="pip install 'nexus-bus[nats]'") from error

    class DirectClient(Client):
        def __init__(self) -> None:
            super().__init__()
            self.arrivals: dict[int, Arrival] = {}

        async def _process_msg(
            self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
        ) -> None:
            arrival = self.arrivals.get(sid)
            if arrival is None:
                # No subscription of ours, or one that was given up a moment ago.
                await super()._process_msg(sid, subject, reply, data, headers or b"")
                return
            try:
                arrival(subject, reply, headers or b"", data)
            except Exception as error:  # nats-py's read loop would end for good
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"a message on {subject.decode(errors='replace')} was not taken", "exception": error}
                )

        def new_number(self) -> int:
            """A number for a subscription, that none of nats-py's own has."""
            self._sid += 1
            return self._sid

        def send(self, data: bytes) -> None:
            """Send on this connection, or nowhere."""
            assert self._transport is not None
            self._transport.write(data)

        async def drain(self) -> None:
            """Wait until the system has taken most of what was sent."""
            transport: Any = self._transport
            if transport is not None:
                await transport.drain()

        @property
        def info(self) -> dict[str, Any]:
            """What the server said about itself."""
            return self._server_info

    return DirectClient


def connect_options(settings: Settings) -> dict[str, Any]:
    """What nats-py is told. Raises `SettingsError` when a file cannot be read or a secret is missing."""
    options: dict[str, Any] = {
        "servers": list(settings.servers),
        "name": f"nexus {settings.prefix}",
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.1,
        "connect_timeout": 2,
        "ping_interval": 5,  # a server that is frozen or cut off is noticed within 15 s
        "max_outstanding_pings": 2,
    }
    for name in ("creds", "nkey"):
        path = getattr(settings, name)
        if path is not None:
            _check_readable(name, path)
            options["user_credentials" if name == "creds" else "nkeys_seed"] = path
    if settings.user is not None:
        if settings.password is None:
            raise SettingsError(f"user={settings.user} needs a password", hint=f"set {PASSWORD_VARIABLE}")
        options |= {"user": settings.user, "password": settings.password}
    if settings.token is not None:
        options["token"] = settings.token
    if settings.wants_tls:
        options["tls"] = _tls(settings)
        options["servers"] = [server.replace("nats://", "tls://", 1) for server in settings.servers]
    return options


def _tls(settings: Settings) -> ssl.SSLContext:
    for name in ("tls_ca", "tls_cert", "tls_key"):
        path = getattr(settings, name)
        if path is not None:
            _check_readable(name, path)
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_cert is not None:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(f"TLS cannot be set up: {error}") from error
    return context


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise SettingsError(f"{name}={path} cannot be read: {error.strerror}") from error
