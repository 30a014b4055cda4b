"""Just enough of each broker's protocol to store something and to find it again, from the standard library alone."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from nexus.brokers import Node

LIMIT_S = 60.0


def store(node: Node) -> None:
    """Store one thing durably."""
    {"kafka": _kafka_topics, "nats": _nats_store, "rabbitmq": _rabbitmq_store}[node.kind](node)
    assert stored(node)


def stored(node: Node) -> bool:
    """Tell whether it is there, as soon as the broker knows: a cluster that has lost a node chooses leaders first."""
    ask = {"kafka": _kafka_stored, "nats": _nats_stored, "rabbitmq": _rabbitmq_stored}[node.kind]
    return _await(lambda: ask(node))


def _await(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + LIMIT_S
    pause = threading.Event()
    while time.monotonic() < until:
        try:
            if true():
                return True
        except (OSError, Refused):
            pass
        pause.wait(0.1)
    return False


class Refused(Exception):
    """The broker answers that it cannot do this now."""


# -- Kafka: asking for the metadata of a topic creates it -------------------------------------------------------------


def _kafka_topics(node: Node, create: bool = True) -> dict[str, int]:
    """Return topics with their error, by Metadata version 4."""
    name = b"kept"
    body = struct.pack(">hhih4sih", 3, 4, 1, 4, b"test", 1, len(name)) + name + struct.pack(">b", create)
    with socket.create_connection(("127.0.0.1", node.ports["client"]), timeout=5) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        with connection.makefile("rb") as answer:
            (size,) = struct.unpack(">i", answer.read(4))
            data = answer.read(size)
    place = 8  # correlation id, throttle time

    def take(form: str) -> Any:
        nonlocal place
        (value,) = struct.unpack_from(form, data, place)
        place += struct.calcsize(form)
        return value

    def text() -> str:
        nonlocal place
        size = max(0, take(">h"))
        place += size
        return data[place - size : place].decode()

    for _ in range(take(">i")):
        take(">i"), text(), take(">i"), text()
    text(), take(">i")
    found = {}
    for _ in range(take(">i")):
        error = take(">h")
        found[text()] = error
        take(">b")
        for _ in range(take(">i")):
            take(">h"), take(">i"), take(">i")
            for _ in range(2):
                size = take(">i")
                place += 4 * size
    return found


def _kafka_stored(node: Node) -> bool:
    return _kafka_topics(node, create=False)["kept"] == 0


# -- NATS: a stream with one event ------------------------------------------------------------------------------------


def _nats(node: Node, subject: str, body: bytes) -> dict[str, Any]:
    with socket.create_connection(("127.0.0.1", node.ports["client"]), timeout=5) as connection:
        size = str(len(body)).encode()
        connection.sendall(
            b'CONNECT {"verbose":false}\r\nSUB answer 1\r\nPUB ' + subject.encode() + b" answer " + size + b"\r\n"
            + body + b"\r\n"
        )  # fmt: skip
        with connection.makefile("rb") as lines:
            for line in lines:
                if line.startswith(b"MSG"):
                    found: dict[str, Any] = json.loads(lines.readline())
                    return found
    raise Refused


def _nats_store(node: Node) -> None:
    wish = {"name": "kept", "subjects": ["kept"], "storage": "file", "retention": "limits", "num_replicas": node.size}
    answer = _nats(node, "$JS.API.STREAM.CREATE.kept", json.dumps(wish).encode())
    assert "error" not in answer, answer
    assert _nats(node, "kept", b"x")["seq"] == 1


def _nats_stored(node: Node) -> bool:
    answer = _nats(node, "$JS.API.STREAM.INFO.kept", b"")
    return "error" not in answer and answer["state"]["messages"] == 1


# -- RabbitMQ: a quorum queue with one message ------------------------------------------------------------------------


def _rabbitmq(node: Node, method: str, path: str, body: dict[str, Any]) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", node.ports["http"], timeout=8)
    try:
        user = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}
        connection.request(method, f"/api/{path}", json.dumps(body), user | {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise Refused(text)
        return json.loads(text or "null")
    finally:
        connection.close()


def _rabbitmq_store(node: Node) -> None:
    _rabbitmq(node, "PUT", "queues/%2F/kept", {"durable": True, "arguments": {"x-queue-type": "quorum"}})
    event = {"properties": {"delivery_mode": 2}, "routing_key": "kept", "payload": "x", "payload_encoding": "string"}
    assert _rabbitmq(node, "POST", "exchanges/%2F/amq.default/publish", event) == {"routed": True}
    assert _await(lambda: rabbitmq_registered(node, "quorum", b"kept"))


def rabbitmq_registered(node: Node, system: str, name: bytes) -> bool:
    """Tell whether ``name`` is on disk in the register of quorum queues, or of what coordinates the streams.

    It is written a moment after a queue was declared and confirmed. RabbitMQ 4.0.5 that is killed before knows the
    queue, and never chooses a leader for it; so it is with all streams, when the first of them was just declared.
    """
    (file,) = node.data_folder.glob(f"*/{system}/*/names.dets")
    register = file.read_bytes()
    closed = int.from_bytes(register[8:12])  # of the dets format: 0 while there is something to write
    return name in register and closed != 0


def _rabbitmq_stored(node: Node) -> bool:
    wish = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
    found = _rabbitmq(node, "POST", "queues/%2F/kept/get", wish)
    return [one["payload"] for one in found] == ["x"]
