"""Names of topics in Kafka: legal, reversible, and never so alike that Kafka refuses the second."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus.backends.kafka.names import LIMIT, from_kafka, to_kafka
from nexus.errors import SettingsError

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text("a.-_x2u/", max_size=20)


@given(names)
@example("-x2f")
@example("a_b.c-d")
def test_a_name_comes_back(name: str) -> None:
    written = to_kafka("nexus", name)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,249}", written)
    assert from_kafka("nexus", written) == name


@given(names, names)
@example("a.b", "a_b")
@example("a-b", "a--b")
def test_different_names_stay_apart_for_kafka_and_its_metrics(one: str, other: str) -> None:
    written = [to_kafka("nexus", name).replace(".", "_") for name in (one, other)]
    assert (written[0] == written[1]) == (one == other)


@given(st.text("ab.-_x2fu", max_size=12))
def test_a_topic_of_somebody_else_has_no_name_or_the_one_that_leads_back(kafka_name: str) -> None:
    name = from_kafka("nexus", f"nexus.{kafka_name}")
    assert name is None or to_kafka("nexus", name) == f"nexus.{kafka_name}"


@pytest.mark.parametrize("kafka_name", ["other.orders", "nexus", "nexusorders", "nexus.a_b", "nexus.-xff", "nexus.-q"])
def test_what_is_no_topic_of_the_store_has_no_name(kafka_name: str) -> None:
    assert from_kafka("nexus", kafka_name) is None


@given(names, st.sampled_from([("a", "a-b"), ("a", "ab"), ("nexus", "nexus2")]))
def test_stores_do_not_see_each_other(name: str, prefixes: tuple[str, str]) -> None:
    assert from_kafka(prefixes[0], to_kafka(prefixes[1], name)) is None
    assert from_kafka(prefixes[1], to_kafka(prefixes[0], name)) is None


def test_a_name_that_is_too_long_is_refused() -> None:
    assert len(to_kafka("nexus", "x" * (LIMIT - 6))) == LIMIT
    with pytest.raises(SettingsError, match="249"):
        to_kafka("nexus", "x" * (LIMIT - 5))


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(SettingsError, match="not valid text"):
        to_kafka("nexus", "\ud800")
