"""What Kafka's errors mean here: was anything stored, may the same call succeed later, and whose fault is it.

librdkafka does not tell whether an event that it gave up was ever sent. So an event has *nowhere* been stored only for
the errors that say so; after all others nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException

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

UNKNOWN_TOPIC = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_ID,
    }
)
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
FORBIDDEN = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})
STRANGERS = frozenset(
    {KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._RESOLVE}
)
"""The brokers do not let this client in, or it does not find them: waiting does not help by itself."""
UNFIT = frozenset(
    {
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_CONFIG,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.POLICY_VIOLATION,
    }
)
"""The cluster does not have or does not allow what was wished for."""
REFUSED = frozenset({KafkaError.POLICY_VIOLATION, KafkaError.INVALID_RECORD, KafkaError.INVALID_REQUIRED_ACKS})
PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._WAIT_CACHE,
        KafkaError._NODE_UPDATE,
        KafkaError._DESTROY_BROKER,  # the connection was given up while it was asked
        KafkaError._RETRY,
        KafkaError._NOENT,  # no partition has a leader yet, after a restart; that there are any was known before
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.STALE_CTRL_EPOCH,
        KafkaError.STALE_BROKER_EPOCH,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
    }
)
"""A question that was answered so may be asked again."""


def error_of(exception: KafkaException) -> KafkaError:
    """The error in an exception of the client."""
    error = exception.args[0] if exception.args else None
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(exception))


def is_strange(error: KafkaError) -> bool:
    """Whether the brokers do not let this client in. A broker that speaks no TLS is told by its text only."""
    return error.code() in STRANGERS or "SSL handshake failed" in error.str()


def of_question(error: KafkaError, asked: str) -> NexusError:
    """What to raise when something that stores no event was answered with an error."""
    code = error.code()
    said = f"{asked}: {error.str()}"
    if code in UNKNOWN_TOPIC:
        return UnknownTopic(said)
    if code in FORBIDDEN:
        return ReadOnly(said, hint="let this user do it, or use another one")
    if code in STRANGERS:
        return SettingsError(said, hint="look at the URL, its sasl, user, ca, cert and key, and the password")
    if code in UNFIT:
        return SettingsError(said)
    if code in PASSING:
        return Unavailable(said)
    return BackendError(f"{said} ({error.name()})")


def of_append(errors: Iterable[KafkaError | None], topic: str) -> NexusError | None:
    """What to raise for an append whose events were answered so; None if all of them were stored."""
    answers = list(errors)
    found = [error for error in answers if error is not None]
    if not found:
        return None
    meanings = [_not_stored(error, topic) for error in found]
    first = meanings[0]
    if len(found) == len(answers) and first is not None and None not in meanings:
        return first
    reasons = ", ".join(sorted({error.str() for error in found}))
    return UnknownOutcome(
        f"{len(found)} of {len(answers)} events for topic {topic!r} may be stored or not: {reasons}",
        hint="publish again with the same ids",
    )


def _not_stored(error: KafkaError, topic: str) -> NexusError | None:
    """The error to raise if it says that the event was not stored; None if it does not say so."""
    code = error.code()
    said = f"topic {topic!r}: {error.str()}"
    if code in UNKNOWN_TOPIC:
        return UnknownTopic(said)
    if code in TOO_LARGE:
        return PayloadTooLarge(said, hint="the broker's message.max.bytes or the topic's max.message.bytes is smaller")
    if code in FORBIDDEN:
        return ReadOnly(said, hint="let this user write to the topic")
    if code in REFUSED:
        return BackendError(f"{said} ({error.name()})")
    if code == KafkaError._PURGE_QUEUE:
        return Unavailable(said)
    return None
