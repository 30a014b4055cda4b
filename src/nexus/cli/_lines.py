"""Events from lines of JSON: read as they come, checked strictly, each with the number of its line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import IO, Any

import msgspec

from nexus import Event, NexusError
from nexus.cli import _values
from nexus.cli._exits import BadLine
from nexus.core.envelope import check_json, from_cloudevent
from nexus.event import JSON

NAMES = ("type", "data", "key", "id", "time", "tenant", "subject")
LINE_LIMIT_BYTES = 32 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024

Make = Callable[..., Event[Any]]


class LineReader:
    """Reads a stream of lines; a batch is given as soon as the stream has nothing more at the moment."""

    def __init__(self, stream: IO[bytes], make: Make) -> None:
        self._stream = stream
        self._make = make
        self.error: NexusError | None = None
        """Why reading ended before the end; it names the line. What came before it was given."""
        self.bytes = 0
        """Bytes read so far."""

    def batches(self, most: int) -> Iterator[list[tuple[int, Event[Any]]]]:
        """Give numbered events, at most ``most`` at once, up to the end or the first bad line."""
        batch: list[tuple[int, Event[Any]]] = []
        number = 0
        for lines in self._lines():
            for line in lines:
                number += 1
                try:
                    event = self._event(line)
                except NexusError as error:
                    error.message = f"line {number}: {error.message}"
                    self.error = error
                    if batch:
                        yield batch
                    return
                if event is None:
                    continue
                batch.append((number, event))
                if len(batch) >= most:
                    yield batch
                    batch = []
            if batch:
                yield batch
                batch = []

    def _lines(self) -> Iterator[list[bytes]]:
        """Give the complete lines of each chunk, without waiting for a chunk to be full."""
        read: Callable[[int], bytes] = getattr(self._stream, "read1", self._stream.read)
        parts: list[bytes] = []
        held = 0
        while chunk := read(_CHUNK_BYTES):
            self.bytes += len(chunk)
            *complete, rest = chunk.split(b"\n")
            if complete:
                complete[0] = b"".join([*parts, complete[0]])
                parts, held = [], 0
            parts.append(rest)
            held += len(rest)
            if held > LINE_LIMIT_BYTES:
                yield [*complete, b"".join(parts)]  # too long: refused below
                return
            if complete:
                yield complete
        if held:
            yield [b"".join(parts)]

    def _event(self, line: bytes) -> Event[Any] | None:
        if len(line) > LINE_LIMIT_BYTES:
            raise BadLine(f"longer than {LINE_LIMIT_BYTES:,} bytes")
        line = line.strip()
        if not line:
            return None
        check_json(line)
        if not line.startswith(b"{"):
            raise BadLine("not a JSON object", hint='such as {"type": "order.placed", "data": {"id": 1}}')
        raw = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        if "specversion" in raw:
            return from_cloudevent(line)
        return self._short_event(raw)

    def _short_event(self, raw: dict[str, msgspec.Raw]) -> Event[Any]:
        data = raw.pop("data", None)
        body = None if data is None else bytes(data)
        attributes: dict[str, Any] = {}
        for name, value in raw.items():
            if name not in NAMES:
                near = get_close_matches(name, NAMES, n=1)
                raise BadLine(
                    f"unknown name {name!r}",
                    hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NAMES)}, or a CloudEvent",
                )
            decoded = msgspec.json.decode(value)
            if decoded is None and name != "type":
                continue
            if not isinstance(decoded, str):
                raise BadLine(f"{name} must be text")
            attributes[name] = _time(decoded) if name == "time" else decoded
        if "type" not in attributes:
            raise BadLine("'type' is missing")
        return self._make(
            attributes.pop("type"), body, datacontenttype=JSON if body is not None else None, **attributes
        )


def _time(text: str) -> object:
    try:
        return _values.moment(text)
    except ValueError as error:
        raise BadLine(f"time: {error}") from None
