"""The event: a CloudEvents 1.0 envelope around payload bytes that stay undecoded until somebody asks.

>>> from datetime import UTC, datetime
>>> event = Event(id="1", source="/shop", type="order.placed", time=datetime(2013, 1, 1, tzinfo=UTC),
...               key="o-1", body=b'{"total": 3}')
>>> event.data
{'total': 3}

Attribute names are those of CloudEvents 1.0.2 and its extensions (partitioning, correlation, expiry,
distributed tracing), with two shorter words: ``key`` is ``partitionkey`` and ``tenant`` is ``nexustenant``.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

JSON = "application/json"
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_DECODERS_LIMIT = 1024


class Event(msgspec.Struct, Generic[T], frozen=True, array_like=True, gc=False):
    """An immutable fact. ``T`` names the payload's type for type checkers; only bytes are stored.

    An empty ``key`` and no key are different: events with ``key=""`` keep one order among themselves,
    events with ``key=None`` have none.
    """

    id: str
    source: str
    type: str
    time: datetime
    key: str | None = None
    body: bytes = b""
    tenant: str | None = None
    subject: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    datacontenttype: str = JSON
    dataschema: str | None = None
    expirytime: datetime | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    extensions: Mapping[str, str | int | bool] | None = None

    @property
    def data(self) -> Any:
        """The payload as plain Python values: JSON decoded, other content types as bytes, no body as None.

        Decodes at every access. Raises `msgspec.DecodeError` when the body is not what
        ``datacontenttype`` says.
        """
        if not self.body:
            return None
        return msgspec.json.decode(self.body) if is_json(self.datacontenttype) else self.body

    def decode(self, payload_type: builtins.type[T]) -> T:
        """Decode the payload into ``payload_type``: a msgspec Struct, dataclass, TypedDict or pydantic model.

        Raises `msgspec.ValidationError` naming the path of the value that does not fit.
        """
        payload: T = payload_decoder(payload_type)(self.body)
        return payload


def is_json(datacontenttype: str) -> bool:
    """Tell whether a media type is JSON, as CloudEvents' JSON format defines it (``*/json`` or ``*/*+json``)."""
    if datacontenttype == JSON:
        return True
    subtype = datacontenttype.split(";")[0].strip().lower().partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def payload_decoder(payload_type: Any) -> Any:
    """Return the function from body bytes to ``payload_type``, built once per type."""
    if payload_type is bytes:
        return bytes
    validate_json = getattr(payload_type, "model_validate_json", None)
    if validate_json is not None:  # pydantic, without importing it
        return validate_json
    decoder = _decoders.get(payload_type)
    if decoder is None:
        if len(_decoders) >= _DECODERS_LIMIT:
            _decoders.clear()
        decoder = _decoders[payload_type] = msgspec.json.Decoder(payload_type)
    return decoder.decode
