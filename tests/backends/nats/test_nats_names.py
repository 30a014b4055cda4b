"""Names of topics on the server: exact both ways, and such as its own tools can show."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus.backends.nats.names import Names, decode, encode, topic_of
from nexus.errors import SettingsError

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(texts)
@example("a_b.c=d=5F")
@example("=5F")
@example("\x00")
def test_a_name_comes_back(topic: str) -> None:
    assert decode(encode(topic)) == topic


@given(texts)
def test_the_server_takes_what_a_name_becomes(topic: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", encode(topic))


@given(texts, texts)
def test_two_topics_never_share_a_stream(first: str, second: str) -> None:
    assert (first == second) == (Names("p", first).stream == Names("p", second).stream)


@given(texts)
def test_a_stream_says_whose_topic_it_is(topic: str) -> None:
    stream = Names("shop", topic).stream
    assert topic_of("shop", stream) == topic
    assert topic_of("sho", stream) is None
    assert topic_of("shop-2", stream) is None


def test_usual_names_stay_readable() -> None:
    names = Names("nexus", "orders.eu-west")
    assert names.stream == "nexus_orders_eu-west"
    assert names.subject(3) == "nexus.log.orders_eu-west.3"
    assert names.partition + b"3" == names.subject(3).encode()


@pytest.mark.parametrize("topic", ["", "x" * 181, "ü" * 31])
def test_a_name_that_cannot_be_one_is_refused(topic: str) -> None:
    with pytest.raises(SettingsError):
        encode(topic)
