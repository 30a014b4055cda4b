"""Are the servers fit for a store: which answer, is JetStream there with room, what may this user do, what survives?

A server answers nothing to a question that its user may not ask, so what the user may do is read from the server's own
list of its permissions, by the subjects that a store needs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from nexus.backends.nats.codec import status
from nexus.backends.nats.connection import NO_RESPONDERS, Connection, Down
from nexus.backends.nats.names import Names
from nexus.backends.nats.settings import Settings
from nexus.core.findings import durabilities, few, nodes, release, rights
from nexus.errors import NexusError, ReadOnly
from nexus.spi.backend import Durability, Finding

OLDEST_SERVER = (2, 12)
LOOK_S = 2.0
FULL_SHARE = 0.9
"""From how much of what an account may store on it is said to be nearly full."""
_ADVICE: Mapping[Durability, str] = {
    "none": "let the stream have persist_mode: default",
    "memory": "storage=file for new topics; these are in memory by their own setting",
    "process": "three servers with replicas=3; or sync_interval: always, and the option monitor, so that it is seen",
}


class _Subjects(msgspec.Struct):
    allow: list[str] | None = None
    deny: list[str] | None = None

    def has(self, subject: str) -> bool:
        """Whether it is allowed."""
        allowed = not self.allow or any(matches(pattern, subject) for pattern in self.allow)
        return allowed and not any(matches(pattern, subject) for pattern in self.deny or ())


class _Permissions(msgspec.Struct):
    publish: _Subjects = msgspec.field(default_factory=_Subjects)
    subscribe: _Subjects = msgspec.field(default_factory=_Subjects)


class _User(msgspec.Struct):
    permissions: _Permissions | None = None


class _UserInfo(msgspec.Struct):
    data: _User = msgspec.field(default_factory=_User)


class _Limits(msgspec.Struct):
    max_memory: int = -1
    max_storage: int = -1
    max_streams: int = -1


class _Account(msgspec.Struct):
    memory: int = 0
    storage: int = 0
    streams: int = 0
    limits: _Limits = msgspec.field(default_factory=_Limits)


async def examine(settings: Settings, levels: Mapping[str, Durability]) -> list[Finding]:
    """See `nexus.spi.backend.Examined`."""
    found = [Finding("client", "green", f"nats-py {version('nats-py')}")]
    connection = Connection(settings)
    try:
        await connection.open()
    except NexusError as error:
        hint = error.hint or "look at the URL, and at creds, nkey, user with password, token, and tls"
        return [*found, Finding("nodes", "red", error.message, hint)]
    try:
        found += await _nodes(settings, connection)
        found += await _jetstream(connection)
        found += await _rights(settings, connection)
    finally:
        await connection.close()
    return [*found, *durabilities(levels, "num_replicas and sync_interval", _ADVICE)]


async def _nodes(settings: Settings, connection: Connection) -> list[Finding]:
    """The servers that were named and those that the servers name, with their versions."""
    named = {server.removeprefix("nats://") for server in settings.servers} | set(connection.known_servers)
    versions = dict(zip(named, await asyncio.gather(*map(_greeting, named)), strict=True))
    found = [nodes(versions, "start it, or let client_advertise be an address that this machine reaches")]
    own = ".".join(map(str, connection.version))
    old = sorted(
        {text for text in (own, *versions.values()) if text and (release(text) or OLDEST_SERVER) < OLDEST_SERVER}
    )
    if old:
        return [
            *found,
            Finding("version", "red", f"NATS {few(old)}", "2.12 is the oldest that has what is needed; upgrade"),
        ]
    return [
        *found,
        Finding("version", "green", f"NATS {few(sorted({text for text in versions.values() if text})) or own}"),
    ]


async def _greeting(address: str) -> str | None:
    """The version that a server tells to whoever connects; None without an answer, nothing if it speaks TLS first."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(LOOK_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError, ValueError):
        return None
    try:
        async with asyncio.timeout(LOOK_S):
            line = await reader.readline()
        return str(json.loads(line.removeprefix(b"INFO "))["version"])
    except (OSError, TimeoutError, ValueError, KeyError):
        return ""
    finally:
        writer.close()


async def _jetstream(connection: Connection) -> list[Finding]:
    try:
        headers, data = await connection.ask("$JS.API.INFO", b"", LOOK_S)
    except (Down, ReadOnly) as down:
        advice = "let this user publish to $JS.API.> and subscribe to _INBOX.>"
        return [Finding("JetStream", "red", f"nothing is answered to this user: {down}", advice)]
    if status(headers)[0] == NO_RESPONDERS:
        return [
            Finding(
                "JetStream", "red", "it is not there", "write jetstream { store_dir: ... } into the server's settings"
            )
        ]
    answer: dict[str, Any] = json.loads(data)
    if "error" in answer:
        said = str(answer["error"].get("description"))
        return [Finding("JetStream", "red", said, "enable JetStream for this account: jetstream: enabled")]
    account = msgspec.convert(answer, _Account)
    return [_room(account)]


def _room(account: _Account) -> Finding:
    """How much of what the account may have it has."""
    limits = account.limits
    parts = {
        "streams": (account.streams, limits.max_streams, "max_streams"),
        "bytes in files": (account.storage, limits.max_storage, "max_file"),
        "bytes in memory": (account.memory, limits.max_memory, "max_mem"),
    }
    said = ", ".join(
        f"{used:,} {what}" + (f" of {most:,}" if most >= 0 else "") for what, (used, most, _) in parts.items()
    )
    # A limit of 0 is that of storage which this account is not meant to use.
    tight = [name for used, most, name in parts.values() if most > 0 and used >= FULL_SHARE * most]
    if not tight:
        return Finding("JetStream", "green", said)
    full = any(most > 0 and used >= most for used, most, _ in parts.values())
    return Finding(
        "JetStream", "red" if full else "yellow", said, f"raise {', '.join(tight)} of the account's JetStream limits"
    )


def needed(prefix: str) -> dict[str, tuple[str, str]]:
    """What a store must be able to do: for each thing whether it publishes or subscribes, and to what."""
    names = Names(prefix, "doctor")
    api, stream = "$JS.API", names.stream
    asked = {
        "list topics": f"{api}.STREAM.NAMES",
        "make topics": f"{api}.STREAM.CREATE.{stream}",
        "describe topics": f"{api}.STREAM.INFO.{stream}",
        "change the retention of topics": f"{api}.STREAM.UPDATE.{stream}",
        "trim topics": f"{api}.STREAM.PURGE.{stream}",
        "read single events": f"{api}.STREAM.MSG.GET.{stream}",
        "make readers": f"{api}.CONSUMER.CREATE.{stream}.reader.{names.subject(0)}",
        "give readers up": f"{api}.CONSUMER.DELETE.{stream}.reader",
        "read on": f"{api}.CONSUMER.MSG.NEXT.{stream}.reader",
        "append events": names.subject(0),
        "tell news": names.news,
    }
    return {
        **{right: ("publish", subject) for right, subject in asked.items()},
        "hear news": ("subscribe", names.news),
        "hear answers": ("subscribe", "_INBOX.nexus.1"),
    }


async def _rights(settings: Settings, connection: Connection) -> list[Finding]:
    try:
        headers, data = await connection.ask("$SYS.REQ.USER.INFO", b"", LOOK_S)
        if status(headers)[0] == NO_RESPONDERS:
            raise Down("no answer came")
        user = msgspec.json.decode(data, type=_UserInfo).data
    except (Down, ReadOnly, msgspec.DecodeError) as error:
        advice = "let this user publish to $SYS.REQ.USER.INFO"
        return [Finding("rights", "yellow", f"what this user may do cannot be seen: {error}", advice)]
    permissions = user.permissions or _Permissions()
    may, may_not = [], {}
    for right, (way, subject) in needed(settings.prefix).items():
        subjects: _Subjects = getattr(permissions, way)
        if subjects.has(subject):
            may.append(right)
        else:
            may_not[right] = f"let this user {way} to {subject.replace('doctor', '*').replace('.reader', '.>', 1)}"
    return rights(may, may_not)


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is one of those that a pattern of NATS names.

    >>> matches("$JS.API.STREAM.*.>", "$JS.API.STREAM.INFO.shop"), matches("$JS.API.*", "$JS.API.STREAM.NAMES")
    (True, False)
    """
    wanted, words = pattern.split(" ")[0].split("."), subject.split(".")
    for at, want in enumerate(wanted):
        if want == ">":
            return len(words) > at
        if at >= len(words) or want not in ("*", words[at]):
            return False
    return len(words) == len(wanted)
