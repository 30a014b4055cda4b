"""What Kafka's errors mean: nothing is called unstored that may be stored, and nothing tried again in vain."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Message
from hypothesis import given
from hypothesis import strategies as st

from nexus.backends.kafka.appends import Appends, _Call
from nexus.backends.kafka.failures import error_of, of_append, of_question
from nexus.errors import (
    BackendError,
    NexusError,
    PayloadTooLarge,
    ReadOnly,
    SettingsError,
    Unavailable,
    UnknownOutcome,
    UnknownTopic,
)
from nexus.spi.backend import Appended

CODES = sorted(
    value for name, value in vars(KafkaError).items() if name[-1].isupper() and isinstance(value, int) and value != 0
)
SURELY_NOT_STORED = {
    KafkaError._UNKNOWN_PARTITION: UnknownTopic,
    KafkaError.UNKNOWN_TOPIC_OR_PART: UnknownTopic,
    KafkaError.MSG_SIZE_TOO_LARGE: PayloadTooLarge,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: ReadOnly,
    KafkaError.INVALID_RECORD: BackendError,
    KafkaError._PURGE_QUEUE: Unavailable,
}
errors = st.sampled_from(CODES).map(KafkaError)  # not of errors: the hash of the one with code -1 is a crash


@pytest.mark.parametrize(("code", "expected"), SURELY_NOT_STORED.items())
def test_an_append_of_which_nothing_was_stored_says_why(code: int, expected: type[NexusError]) -> None:
    assert type(of_append([KafkaError(code)] * 2, "orders")) is expected
    assert type(of_append([KafkaError(code), None], "orders")) is UnknownOutcome


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._MSG_TIMED_OUT, KafkaError._TRANSPORT, KafkaError._PURGE_INFLIGHT, KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, KafkaError.KAFKA_STORAGE_ERROR, KafkaError._FATAL,
        KafkaError.UNKNOWN,
    ],
)  # fmt: skip
def test_what_may_be_stored_is_of_unknown_outcome(code: int) -> None:
    assert type(of_append([KafkaError(code)], "orders")) is UnknownOutcome


@given(st.lists(st.none() | errors, min_size=1, max_size=5))
def test_an_append_fails_as_a_whole_or_not_at_all(answers: list[KafkaError | None]) -> None:
    failed = of_append(answers, "orders")
    assert (failed is None) == all(answer is None for answer in answers)
    if any(answer is None for answer in answers) and failed is not None:
        assert type(failed) is UnknownOutcome


@given(errors)
def test_every_error_of_a_question_has_a_meaning(error: KafkaError) -> None:
    assert isinstance(of_question(error, "orders"), BackendError | SettingsError)
    assert "orders" in str(of_question(error, "orders"))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (KafkaError._TRANSPORT, Unavailable), (KafkaError._ALL_BROKERS_DOWN, Unavailable),
        (KafkaError._TIMED_OUT, Unavailable), (KafkaError.NOT_LEADER_FOR_PARTITION, Unavailable),
        (KafkaError._AUTHENTICATION, SettingsError), (KafkaError.INVALID_REPLICATION_FACTOR, SettingsError),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, ReadOnly), (KafkaError.UNKNOWN_TOPIC_OR_PART, UnknownTopic),
    ],
)  # fmt: skip
def test_a_question_is_answered_with_what_the_caller_can_do(code: int, expected: type[NexusError]) -> None:
    assert type(of_question(KafkaError(code), "orders")) is expected


def test_an_exception_without_an_error_of_kafka_has_one_that_says_the_same() -> None:
    assert "odd" in error_of(KafkaException("odd")).str()
    assert error_of(KafkaException(KafkaError(KafkaError._TRANSPORT))).code() == KafkaError._TRANSPORT


async def test_an_event_that_is_stored_nobody_knows_where_is_acknowledged_without_a_place() -> None:
    # librdkafka reports a batch that an earlier try stored as a success without a place.
    appends = object.__new__(Appends)
    appends._answered, appends._line, appends._emptied = deque(), deque(), None
    told: list[str] = []
    appends._told = lambda topic, ends: told.append(f"{topic} {ends}")
    record = (0, None, b"", [])
    call = _Call("orders", [record, record], asyncio.get_running_loop().create_future(), 0)
    appends._report(call, 0, None, cast("Message", SimpleNamespace(offset=lambda: 7)))
    appends._report(call, 1, None, cast("Message", SimpleNamespace(offset=lambda: None)))
    appends._deliver()
    assert await call.answer == [Appended(0, 7), Appended(0, None)]
    assert told == ["orders {0: 8}"]
