"""Names, settings, and messages: what needs no broker."""

from __future__ import annotations

import contextlib
import gzip
import struct
import zlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rstream import AMQPMessage, amqp_decoder
from tests.backends.rabbitmq.rabbitmq_help import event

from nexus.backends.rabbitmq import Settings, frames, registry
from nexus.backends.rabbitmq.amqp import Unreadable, decode, encode
from nexus.backends.rabbitmq.binding import from_record, to_record
from nexus.backends.rabbitmq.names import LIMIT_BYTES, partition_of, registry_of, stream_of
from nexus.core.envelope import to_cloudevent
from nexus.errors import CorruptData, SettingsError
from nexus.spi.backend import TopicSpec

prefixes = st.from_regex(r"[A-Za-z0-9_-]{1,10}", fullmatch=True)
topics = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)

# -- names ------------------------------------------------------------------------------------------------------------


@given(prefixes, topics, st.integers(0, 10_000))
@example("a", "b.c", 0)
@example("a", "~2e", 1)
def test_a_name_leads_back_to_its_partition(prefix: str, topic: str, partition: int) -> None:
    try:
        name = stream_of(prefix, topic, partition)
    except SettingsError:
        assert len(topic.encode()) * 3 + len(prefix) + 7 > LIMIT_BYTES
    else:
        assert partition_of(name) == (prefix, topic, partition)
        assert name.isascii()
        assert not set(name) & set(" /\\%'\"$*?#")


@given(prefixes, topics, st.integers(0, 10), prefixes)
def test_no_partition_is_called_as_a_registry(prefix: str, topic: str, partition: int, other: str) -> None:
    if len(topic.encode()) < 40:
        assert stream_of(prefix, topic, partition) != registry_of(other)


@given(st.text(max_size=40))
def test_only_names_that_topics_make_are_taken_for_partitions(name: str) -> None:
    found = partition_of(name)
    assert found is None or stream_of(*found) == name


def test_a_name_that_is_too_long_or_empty_is_refused() -> None:
    assert len(stream_of("p", "x" * (LIMIT_BYTES - 4), 0)) == LIMIT_BYTES
    with pytest.raises(SettingsError, match="200"):
        stream_of("p", "x" * (LIMIT_BYTES - 3), 0)
    with pytest.raises(SettingsError, match="name"):
        stream_of("p", "", 0)


# -- settings ---------------------------------------------------------------------------------------------------------


def test_a_url_has_hosts_ports_and_options() -> None:
    settings = Settings.parse("rabbitmq://guest:guest@a:1,b:2,[::1]:3/%2fshop?stream_port=5,6,7&prefix=x&timeout_s=3")
    assert settings.addresses == (("a", 5), ("b", 6), ("::1", 7))
    assert (settings.vhost, settings.prefix, settings.timeout_s) == ("/shop", "x", 3.0)
    assert Settings.parse("rabbitmq://a,b").addresses == (("a", 5552), ("b", 5552))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://a", "not the URL"),
        ("rabbitmq://", "not the URL"),
        ("rabbitmq://a?prefx=x", "did you mean 'prefix'"),
        ("rabbitmq://a?strem_port=1", "did you mean 'stream_port'"),
        ("rabbitmq://a?prefix=a.b", "prefix='a.b'"),
        ("rabbitmq://a?prefix=", "prefix=''"),
        ("rabbitmq://a?stream_port=0", "stream_port=0"),
        ("rabbitmq://a?stream_port=x", "stream_port"),
        ("rabbitmq://a,b?stream_port=1,2,3", "3 ports for 2 hosts"),
        ("rabbitmq://a:b:c?", "no host"),
        ("rabbitmq://a?timeout_s=ten", "timeout_s"),
        ("rabbitmq://a?timeout_s=-1", "timeout_s=-1"),
        ("rabbitmq://a?heartbeat_s=nan", "heartbeat_s=nan"),
        ("rabbitmq://a?segment_bytes=1", "segment_bytes=1"),
        ("rabbitmq://a?retention_segments=0", "retention_segments=0"),
        ("rabbitmq://a?inflight_events=0", "inflight_events=0"),
        ("rabbitmq://a?ca=x", "TLS is off"),
        ("rabbitmq://a?tls=true&cert=x", "go together"),
        ("rabbitmq://guest:other@a", "password"),
        ("rabbitmq://me:secret@a", "password"),
        ("rabbitmq://me@a", "NEXUS_RABBITMQ__PASSWORD"),
    ],
)
def test_what_cannot_be_used_is_named(url: str, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.parse(url)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_password_comes_from_elsewhere_than_the_url_and_is_never_shown() -> None:
    settings = Settings.parse("rabbitmq://me@a", {"password": "secret", "user": "other"})
    assert (settings.user, settings.password) == ("me", "secret")
    assert "secret" not in repr(settings)
    assert Settings.parse("rabbitmq://a", {"password": "secret", "user": "other", "vhost": "v"}).user == "other"
    assert Settings.parse("rabbitmq://guest:guest@a", {"password": "secret"}).password == "guest"
    with pytest.raises(SettingsError, match="no password for the user 'other'"):
        Settings.parse("rabbitmq://a", {"user": "other"})


def test_retention_is_shared_out_among_the_partitions() -> None:
    settings = Settings.parse("rabbitmq://a?segment_bytes=100000&retention_segments=4")
    assert registry.retention_of(settings, TopicSpec("t", 4)) == {
        "queue-leader-locator": "balanced",
        "stream-max-segment-size-bytes": "100000",
    }
    bounded = registry.retention_of(settings, TopicSpec("t", 4, retention_age_s=1.5, retention_bytes=400_000))
    assert bounded["max-length-bytes"] == "100000"
    assert bounded["stream-max-segment-size-bytes"] == "25000"
    assert bounded["max-age"] == "2s"


# -- messages ---------------------------------------------------------------------------------------------------------

properties = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=280), texts, max_size=8)


@given(properties, st.text(st.characters(max_codepoint=126, min_codepoint=33), max_size=300), st.binary(max_size=400))
def test_what_is_written_is_read_here_and_by_rstream(application: dict[str, str], media: str, body: bytes) -> None:
    record = encode(application, media, body)
    message = decode(record)
    assert (message.application, message.content_type, message.body) == (application, media, body)
    theirs = amqp_decoder(record)
    assert (theirs.body or b"") == body
    assert {key.decode(): value.decode() for key, value in (theirs.application_properties or {}).items()} == application
    assert theirs.properties.content_type == media.encode()


@given(
    st.dictionaries(st.text(st.characters(max_codepoint=126, min_codepoint=33), max_size=20), texts, max_size=5),
    st.binary(min_size=1, max_size=400),
)
def test_what_rstream_writes_is_read(application: dict[str, str], body: bytes) -> None:
    message = decode(bytes(AMQPMessage(body=body, application_properties=application)))
    assert message.application == application
    assert message.body == body


def test_values_of_every_kind_are_read() -> None:
    values: dict[str, Any] = {"a": 1, "b": -(2**40), "c": True, "d": 1.5, "e": b"x", "f": None, "g": [1, "two"]}
    message = decode(bytes(AMQPMessage(body=b"1", application_properties=values)))
    assert message.application == values


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x00\x53\x75")
@example(b"\x00\x53\x74\xd1\x00\x00\x00\x04\xff\xff\xff\xff")
@example(b"\x00" * 100)
@example(b"\x00\x53\x77" + b"\xc0\xff\x01" * 60)
def test_any_bytes_are_a_message_or_unreadable(data: bytes) -> None:
    with contextlib.suppress(Unreadable):
        decode(data)


@given(properties, st.binary(max_size=300), st.data())
def test_a_damaged_message_is_a_message_or_unreadable(
    application: dict[str, str], body: bytes, data: st.DataObject
) -> None:
    record = bytearray(encode(application, "text/plain", body))
    record[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(record)))
    for damaged in (bytes(record), bytes(record[:cut])):
        found = from_record(damaged, "t", 0, 5, 1.0)
        assert found.id


def test_a_record_that_is_no_message_is_a_foreign_event() -> None:
    found = from_record(b"plain", "orders/a", 3, 7, 12.0)
    assert (found.id, found.source, found.type) == ("7", "rabbitmq:///orders%2Fa/3", "nexus.foreign.record")
    assert (found.body, found.datacontenttype) == (b"plain", "application/octet-stream")
    message = from_record(encode({"x": "y"}, "text/plain", b"hi"), "t", 0, 7, 12.0)
    assert (message.type, message.body, message.datacontenttype) == ("nexus.foreign.record", b"hi", "text/plain")


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce-"])
def test_every_spelling_of_the_attributes_is_read(prefix: str) -> None:
    given = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a.b", "tenantless": "x"}
    found = from_record(encode(given, "text/plain", b"hi", prefix), "t", 0, 7, 12.0)
    assert (found.id, found.source, found.type, found.body) == ("1", "/s", "a.b", b"hi")
    assert found.time.timestamp() == 12.0, "an event without a time has that of its record"
    assert found.extensions == {"tenantless": "x"}


def test_native_values_of_attributes_are_read() -> None:
    values = {"cloudEvents:specversion": "1.0", "cloudEvents:id": "1", "cloudEvents:source": "/s",
              "cloudEvents:type": "a.b", "cloudEvents:count": 3, "cloudEvents:yes": True}  # fmt: skip
    found = from_record(bytes(AMQPMessage(body=b"hi", application_properties=values)), "t", 0, 7, 12.0)
    assert found.extensions == {"count": "3", "yes": "true"}


def test_the_structured_mode_is_read() -> None:
    given = event("1", body=b'{"a": 1}', key="k")
    record = encode({}, "application/cloudevents+json; charset=utf-8", to_cloudevent(given))
    assert from_record(record, "t", 0, 7, 12.0) == given
    broken = from_record(encode({}, "application/cloudevents+json", b"{"), "t", 0, 7, 12.0)
    assert (broken.type, broken.body) == ("nexus.foreign.record", b"{")


@given(
    st.builds(event, texts.filter(bool), key=st.none() | texts, body=st.binary(max_size=50), subject=texts | st.none())
)
def test_an_event_comes_back_as_it_was(given: Any) -> None:
    assert from_record(to_record(given), "t", 0, 7, 12.0) == given


# -- frames -----------------------------------------------------------------------------------------------------------


def chunk(entries: bytes, count: int, records: int, kind: int = 0, crc: int | None = None) -> bytes:
    crc = zlib.crc32(entries) if crc is None else crc
    return struct.pack(">bbHIqQQIIII", 0x50, kind, count, records, 1_500, 1, 70, crc, len(entries), 0, 0) + entries


def test_a_chunk_has_positions_and_a_time() -> None:
    entries = b"".join(len(one).to_bytes(4, "big") + one for one in (b"a", b"", b"ccc"))
    found = frames.read_chunk(b"-----" + chunk(entries, 3, 3), 5)
    assert found is not None
    assert (found.first, found.end, found.recorded_at, found.records) == (70, 73, 1.5, [b"a", b"", b"ccc"])
    assert frames.read_chunk(chunk(entries, 3, 3, kind=2), 0) is None


def test_sub_batches_of_foreign_producers_are_read() -> None:
    inner = b"".join(len(one).to_bytes(4, "big") + one for one in (b"a", b"bb"))
    for codec, packed in ((0, inner), (1, gzip.compress(inner))):
        entry = bytes([0x80 | codec << 4]) + struct.pack(">HII", 2, len(inner), len(packed)) + packed
        found = frames.read_chunk(chunk(entry + b"\0\0\0\1z", 2, 3), 0)
        assert found is not None
        assert found.records == [b"a", b"bb", b"z"]
    for codec, packed in ((3, b"lz4"), (1, b"no gzip")):
        entry = bytes([0x80 | codec << 4]) + struct.pack(">HII", 2, len(inner), len(packed)) + packed
        found = frames.read_chunk(chunk(entry, 1, 2), 0)
        assert found is not None
        assert found.records == [packed, b""]


def test_a_damaged_chunk_is_never_read() -> None:
    with pytest.raises(CorruptData):
        frames.read_chunk(chunk(b"\0\0\0\1a", 1, 1, crc=1), 0)
    with pytest.raises(CorruptData):
        frames.read_chunk(chunk(b"\0\0\0\1a", 1, 1)[:-1], 0)
    with pytest.raises(CorruptData):
        frames.read_chunk(chunk(b"\0\0\0\xffa", 1, 1), 0)
    with pytest.raises(CorruptData):
        frames.read_chunk(b"short", 0)


# -- the registry -----------------------------------------------------------------------------------------------------


def test_the_first_record_of_a_topic_decides_its_partitions() -> None:
    known = registry.Registry()
    records = [
        registry.to_record(registry.Entry("a", 4)),
        b"something else",
        registry.to_record(registry.Entry("a", 5, 60.0)),
        registry.to_record(registry.Entry("a", 4, 30.0)),
        encode({}, "application/json", b"{}"),
        registry.to_record(registry.Entry("b", 1)),
    ]
    known.fold_in(enumerate(records))
    known.fold_in(enumerate(records))
    assert known.topics == {"a": registry.Entry("a", 4, 30.0), "b": registry.Entry("b", 1)}
    assert known.next == 6
