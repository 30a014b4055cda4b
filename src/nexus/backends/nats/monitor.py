"""What the servers say on their monitoring ports: whether they sync a file before they answer.

The connection of a client does not show it, and a store must not claim what nobody has seen. ``sync_interval`` is two
minutes by default: then what was answered survives the server's process, and a power cut may take the newest of it.
"""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

import msgspec

from nexus.errors import SettingsError

TIME_S = 3.0
_MOST_BYTES = 1 << 20


class _JetStreamConfig(msgspec.Struct):
    sync_always: bool = False


class _JetStream(msgspec.Struct):
    config: _JetStreamConfig = msgspec.field(default_factory=_JetStreamConfig)


class _Varz(msgspec.Struct):
    server_name: str = ""
    jetstream: _JetStream = msgspec.field(default_factory=_JetStream)


async def servers_that_sync(urls: tuple[str, ...]) -> set[str]:
    """Names of the servers that sync before they answer. Raises `SettingsError` when a URL gives no answer."""
    answers = await asyncio.gather(*(_varz(url) for url in urls))
    return {varz.server_name for varz in answers if varz.jetstream.config.sync_always}


async def _varz(url: str) -> _Varz:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    try:
        async with asyncio.timeout(TIME_S):
            reader, writer = await asyncio.open_connection(
                parts.hostname, port, ssl=ssl.create_default_context() if secure else None
            )
            try:
                writer.write(f"GET /varz HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
                data = b""
                while chunk := await reader.read(65_536):
                    data += chunk
                    if len(data) > _MOST_BYTES:
                        raise ValueError("it answers with more than 1 MiB")
            finally:
                writer.close()
        head, _, body = data.partition(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise ValueError(head.partition(b"\r\n")[0].decode("ascii", "replace"))
        return msgspec.json.decode(body, type=_Varz)
    except (OSError, TimeoutError, ValueError, msgspec.DecodeError) as error:
        raise SettingsError(f"monitor={url} cannot be asked: {error or 'no answer'}") from error
