"""The envelope's rules: bad inputs 1 to 17 of the guarantees, each with the outcome stated there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.core import envelope
from nexus.core.envelope import (
    check_json,
    content_hash,
    encode_payload,
    from_cloudevent,
    same_content,
    to_cloudevent,
    validate,
)
from nexus.errors import InvalidEvent, PayloadTooLarge
from nexus.event import Event, is_json, payload_decoder

NOW = datetime(2013, 1, 1, 5, 15, tzinfo=UTC)
LIMIT = 1_000


def event(**attributes: Any) -> Event[Any]:
    return Event(**{"id": "1", "source": "/shop", "type": "order.placed", "time": NOW, **attributes})


def refused(match: str, **attributes: Any) -> None:
    with pytest.raises(InvalidEvent, match=match):
        validate(event(**attributes), LIMIT)


def test_a_good_event_passes() -> None:
    validate(
        event(
            key="", tenant="t", subject="order/1", correlationid="c", causationid="d", dataschema="/s", body=b"{}",
            expirytime=NOW, traceparent="00-1-2-01", tracestate="a=b", datacontenttype="text/plain",
            extensions={"region": "eu", "hops": 3, "dry": True},
        ),
        LIMIT,
    )  # fmt: skip


def test_a_time_is_a_datetime() -> None:
    refused("time must be a datetime, not str", time="now")


def test_case_1_empty_type() -> None:
    refused("is empty", type="")


def test_case_2_type_of_1025_characters() -> None:
    refused("limit is 1,024", type="a" * 1025)


@pytest.mark.parametrize("type", ["a.*", "a.>", "a b", "a\0b", "a\nb", "a..b", ".a", "a."])
def test_case_3_type_that_would_inject(type: str) -> None:
    refused("type", type=type)


@pytest.mark.parametrize("name", ["type", "id", "source", "key", "tenant", "subject"])
def test_case_4_unpaired_surrogate(name: str) -> None:
    refused(name, **{name: "a\ud800"})


def test_case_5_payload_one_byte_over_the_limit() -> None:
    with pytest.raises(PayloadTooLarge, match="1,001 bytes"):
        validate(event(body=b"x" * (LIMIT + 1)), LIMIT)


def test_case_6_payload_at_the_limit() -> None:
    validate(event(body=b"x" * LIMIT), LIMIT)


@pytest.mark.parametrize(
    "payload", [{"a": float("nan")}, [float("inf")], float("-inf"), {"a": {"b": [1.5, float("nan")]}}]
)
def test_case_7_not_a_number(payload: object) -> None:
    with pytest.raises(InvalidEvent, match="JSON cannot say"):
        encode_payload(payload)


def test_case_8_large_numbers_are_kept_or_refused() -> None:
    for kept in (2**63, 2**64, -(2**63) - 1):
        body, _ = encode_payload({"n": kept})
        assert json.loads(body) == {"n": kept}
    check_json(b'{"n": 1e400, "m": 9223372036854775808}')  # raw JSON is stored as it was written


def test_case_9_nesting_10000_deep() -> None:
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(InvalidEvent, match="deep"):
        encode_payload(deep)
    with pytest.raises(InvalidEvent, match="10,000 levels"):
        check_json(b"[" * 10_000 + b"]" * 10_000)
    check_json(b'["' + b"[" * 10_000 + b'"]')  # brackets in a text are no nesting


@pytest.mark.parametrize("text", [b'{"a": 1, "a": 2}', b'[{"b": {"a": 1, "c": 2, "a": 1}}]'])
def test_case_10_duplicate_keys(text: bytes) -> None:
    with pytest.raises(InvalidEvent, match="'a' twice"):
        check_json(text)


def test_a_body_is_bytes() -> None:
    for body in ("text", bytearray(b"1"), None):
        refused("body must be bytes", body=body)


def test_a_time_is_one_that_utc_can_say() -> None:
    refused("outside the years", time=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))))
    refused("outside the years", expirytime=datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-14))))


def test_case_11_and_12_same_content() -> None:
    first = event(body=b"1", key="k")
    again = event(body=b"1", key="k", time=NOW + timedelta(1), traceparent="t", causationid="c")
    assert same_content(first, again)
    assert content_hash(first) == content_hash(again)
    for other in (
        {"body": b"2"},
        {"type": "x"},
        {"key": "l"},
        {"tenant": "t"},
        {"subject": "s"},
        {"datacontenttype": "a/b"},
    ):
        assert not same_content(first, msgspec.structs.replace(first, **other))
        assert content_hash(first) != content_hash(msgspec.structs.replace(first, **other))


def test_case_13_id_of_10_kib() -> None:
    refused("10,240 characters", id="x" * 10_240)
    refused("id is empty", id="")
    refused("control character", id="a\x07")
    refused("must be text", id=5)


def test_case_14_times() -> None:
    validate(event(time=datetime(9999, 12, 31, tzinfo=UTC)), LIMIT)
    validate(event(time=datetime(1969, 1, 1, tzinfo=timezone(timedelta(hours=5)))), LIMIT)
    refused("no offset", time=datetime(2013, 1, 1))
    refused("no offset", expirytime=datetime(2013, 1, 1))
    with pytest.raises(InvalidEvent, match="must be a datetime"):
        envelope._check_time("time", "2013-01-01T00:00:00Z")  # type: ignore[arg-type]


CLOUD: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a.b", "time": "2013-01-01T05:15:00Z"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"Subject": "x"}, "'Subject' is not allowed"),
        ({"datacontenttype": "text/plain", "data": {"a": 1}}, "says text/plain"),
        ({"data": 1, "data_base64": "MQ=="}, "both data and data_base64"),
        ({"data_base64": "e30x"}, "not JSON"),
        ({"specversion": "0.3"}, "specversion"),
        ({"id": None}, "must be text"),
        ({"time": "2013-01-01T05:15:00"}, "no offset"),
        ({"time": "yesterday"}, "not an RFC 3339 time"),
    ],
)
def test_case_15_cloudevents_that_lie(change: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidEvent, match=match):
        from_cloudevent(json.dumps({**CLOUD, **change}).encode())


def test_a_cloudevent_without_a_required_attribute() -> None:
    with pytest.raises(InvalidEvent, match="'type' is missing"):
        from_cloudevent(json.dumps({name: value for name, value in CLOUD.items() if name != "type"}).encode())


def test_case_16_too_many_or_too_large_headers() -> None:
    refused("200 extension attributes", extensions={f"a{n}": "" for n in range(200)})
    refused("limit is 16,384", extensions={"a": "x" * 65_536})
    refused("'Upper' is not allowed", extensions={"Upper": "x"})
    refused("of its own", extensions={"subject": "x"})
    refused("is a float", extensions={"a": 1.5})


def test_case_17_an_empty_key_is_a_key() -> None:
    validate(event(key=""), LIMIT)
    assert from_cloudevent(to_cloudevent(event(key=""))).key == ""
    assert from_cloudevent(to_cloudevent(event(key=None))).key is None
    refused("longer than 1024 bytes", key="é" * 513)


def test_the_cache_of_types_is_bounded() -> None:
    for number in range(envelope._TYPES_LIMIT + 5):
        validate(event(type=f"t.n{number}"), LIMIT)
    assert len(envelope._valid_types) <= envelope._TYPES_LIMIT


class Struct(msgspec.Struct):
    n: int
    x: float | None = None


@dataclass
class Data:
    n: int


class Typed(TypedDict):
    n: int


class Model(pydantic.BaseModel):
    n: int
    x: float | None = None


@pytest.mark.parametrize(
    ("payload", "payload_type"),
    [(Struct(1), Struct), (Data(1), Data), ({"n": 1}, Typed), (Model(n=1), Model), (b"\0", bytes)],
)
def test_payloads_of_every_kind_come_back(payload: Any, payload_type: Any) -> None:
    body, content_type = encode_payload(payload)
    made = event(body=body, datacontenttype=content_type)
    assert made.decode(payload_type) == payload
    assert made.decode(payload_type) == payload, "the decoder is kept"


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="cannot be written"):
        encode_payload({"a": object()})
    with pytest.raises(InvalidEvent, match="nan"):
        encode_payload(Model(n=1, x=float("nan")))
    assert encode_payload(None) == (b"", "application/json")
    assert encode_payload({"a": None}) == (b'{"a":null}', "application/json")
    assert encode_payload([{1.5, None}, (None,)])[0] in (b"[[null,1.5],[null]]", b"[[1.5,null],[null]]")


@pytest.mark.parametrize(("text", "match"), [(b"{", "not JSON"), (b"\xff", "not UTF-8"), (b"[NaN]", "NaN")])
def test_bad_json_is_refused(text: bytes, match: str) -> None:
    with pytest.raises(InvalidEvent, match=match):
        check_json(text)


def test_data_follows_the_content_type() -> None:
    assert event(body=b'{"a":1}').data == {"a": 1}
    assert event(body=b"hi", datacontenttype="text/plain").data == b"hi"
    assert event().data is None
    assert is_json("Application/Vnd.api+JSON; charset=utf-8")
    assert is_json("text/json")
    assert not is_json("application/jsonlines")


def test_decoders_are_kept_within_a_bound() -> None:
    from nexus import event as module

    for number in range(module._DECODERS_LIMIT + 2):
        payload_decoder(msgspec.defstruct(f"S{number}", ["a"]))
    assert len(module._decoders) <= module._DECODERS_LIMIT


attribute = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=30)


@given(
    st.builds(
        Event,
        id=attribute, source=attribute, type=st.just("a.b"), time=st.datetimes(timezones=st.just(UTC)),
        key=st.none() | st.text(max_size=5), tenant=st.none() | attribute, subject=st.none() | attribute,
        body=st.sampled_from([b"", b"1", b'{"a":[1,2.50]}']),
        expirytime=st.none() | st.datetimes(timezones=st.just(UTC)),
        extensions=st.none() | st.just({"region": "eu", "hops": 3}),
    )
)  # fmt: skip
def test_a_cloudevent_goes_out_and_comes_back(original: Event[Any]) -> None:
    assert from_cloudevent(to_cloudevent(original)) == original


def test_bytes_go_out_as_base64_and_text_as_text() -> None:
    binary = event(body=b"\0\xff", datacontenttype="image/png")
    assert from_cloudevent(to_cloudevent(binary)) == binary
    text = from_cloudevent(json.dumps({**CLOUD, "datacontenttype": "text/plain", "data": "hi"}).encode())
    assert text.body == b"hi"
    encoded = from_cloudevent(json.dumps({**CLOUD, "data_base64": "e30="}).encode())
    assert encoded.body == b"{}"
