"""Is the broker fit for a store: which nodes speak the stream protocol, what may this user do, what survives?

The protocol has no question about rights. They are tried on the stream that every store has, the record of its topics:
to make it where it is there already, to announce a publisher that publishes nothing, a reader that asks for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from nexus.backends.rabbitmq import frames
from nexus.backends.rabbitmq.connection import Connection, ConnectionLost, Refused, connect, tls_context
from nexus.backends.rabbitmq.names import registry_of
from nexus.backends.rabbitmq.settings import Settings
from nexus.core.findings import durabilities, few, nodes, release, rights
from nexus.errors import SettingsError
from nexus.spi.backend import Durability, Finding

TESTED = (4, 0)
PORT_ADVICE = (
    "enable the plug-in (rabbitmq-plugins enable rabbitmq_stream), let stream_port be its port (5552), "
    "and stream.advertised_host an address that this machine reaches"
)
_ADVICE: Mapping[Durability, str] = {
    "process": "take a cluster of three nodes: new streams have a copy on each; rabbitmq-streams add_replica for others"
}
_TAKEN = (frames.STREAM_EXISTS, frames.PRECONDITION_FAILED)
"""What is answered to who may make the stream, where it is already there."""


async def examine(settings: Settings, levels: Mapping[str, Durability]) -> list[Finding]:
    """See `nexus.spi.backend.Examined`."""
    found = [Finding("client", "green", "none: Nexus speaks the stream protocol itself")]
    try:
        context = tls_context(settings)
        answers = await asyncio.gather(*(_connected(address, settings, context) for address in settings.addresses))
    except SettingsError as error:
        return [*found, Finding("nodes", "red", error.message, error.hint)]
    try:
        by_address = dict(zip(map(_shown, settings.addresses), answers, strict=True))
        connected = [each for each in answers if each is not None]
        if connected:
            by_address |= await _others(settings, connected[0], known=set(by_address))
        found.append(nodes({name: each.version if each else None for name, each in by_address.items()}, PORT_ADVICE))
        connected += [each for each in by_address.values() if each is not None and each not in connected]
        if connected:
            found.append(_version({each.version for each in connected}))
            found += await _rights(settings, connected[0])
    finally:
        await asyncio.gather(*(each.close() for each in by_address.values() if each is not None))
    return [*found, *durabilities(levels, "the number of a stream's replicas", _ADVICE)]


def _shown(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


async def _connected(address: tuple[str, int], settings: Settings, context: object) -> Connection | None:
    try:
        return await connect(address, settings, context)  # type: ignore[arg-type]
    except ConnectionLost:
        return None


async def _others(settings: Settings, connection: Connection, known: set[str]) -> dict[str, Connection | None]:
    """The nodes that the broker names, by the addresses that it gives out: with several, these are used."""
    stream = registry_of(settings.prefix)
    body = (1).to_bytes(4, "big") + frames.text(stream)
    named = frames.read_nodes(await connection.raw_request(frames.METADATA, body))
    if len(named) < 2:
        return {}
    others = [address for address in named if _shown(address) not in known]
    context = tls_context(settings)
    answers = await asyncio.gather(*(_connected(address, settings, context) for address in others))
    return dict(zip(map(_shown, others), answers, strict=True))


def _version(versions: set[str]) -> Finding:
    old = sorted(version for version in versions if (release(version) or TESTED) < TESTED)
    if old:
        return Finding("version", "yellow", f"RabbitMQ {few(old)}", "4.0 is the oldest that is tested; upgrade")
    return Finding("version", "green", f"RabbitMQ {few(sorted(versions))}")


async def _rights(settings: Settings, connection: Connection) -> list[Finding]:
    stream = registry_of(settings.prefix)
    declared = bytes([0]) + frames.text("") + frames.text(stream)
    tried = {
        "configure": (frames.CREATE, frames.text(stream) + frames.pairs({})),
        "write": (frames.DECLARE_PUBLISHER, declared),
        "read": (frames.SUBSCRIBE, frames.subscribe(0, stream, frames.NEXT, 0, 0)),
    }
    undone = {"write": frames.DELETE_PUBLISHER, "read": frames.UNSUBSCRIBE}
    may, may_not, unseen = [], {}, []
    for right, (command, body) in tried.items():
        try:
            await connection.request(command, body, stream)
            if right in undone:
                await connection.request(undone[right], bytes([0]), stream)
        except Refused as refused:
            if refused.code == frames.ACCESS_REFUSED:
                may_not[f"{right} {settings.prefix}.*"] = _allow(settings)
                continue
            if not (right == "configure" and refused.code in _TAKEN):
                unseen.append(f"{right}: {refused}")
                continue
        may.append(right)
    shown = rights([f"{', '.join(may)} {settings.prefix}.*"] if may else [], may_not)
    return shown + [
        Finding("rights", "yellow", f"not seen: {text}", "let the store be opened first") for text in unseen
    ]


def _allow(settings: Settings) -> str:
    pattern = f"'^{settings.prefix}\\.'"
    return f"rabbitmqctl set_permissions -p {settings.vhost} {settings.user} {pattern} {pattern} {pattern}"
