"""What a consumer group wants: patterns and filters, each with its handler and policies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from nexus.core.envelope import encode_payload
from nexus.core.filter import Filter
from nexus.core.pattern import Router
from nexus.core.policy import Policy
from nexus.core.retry import Retry
from nexus.errors import HandlerError
from nexus.event import Event
from nexus.runtime.binding import Binding


class Publish(msgspec.Struct, frozen=True):
    """An event that a handler wants published: return it, or a list of them."""

    type: str
    data: Any = None
    key: str | None = None
    """None takes the key of the event that was handled."""


class Subscription(msgspec.Struct, frozen=True, eq=False):
    """One handler of a group, and what it is for."""

    patterns: tuple[str, ...]
    binding: Binding
    where: Filter | None
    retry: Retry
    timeout_s: float | None
    batch_size: int
    key: str | None
    """Name of the field of returned payloads that becomes their key; None keeps the handled event's key."""
    plain: bool = False
    """An async handler without a time limit: it is simply awaited."""
    lifecycle: bool = False
    """Of requests: ``started`` is published before the handler is called, then its result as ``success``, or
    ``failed`` when it is given up."""


class Group(msgspec.Struct, eq=False):
    """A consumer group as its code describes it."""

    name: str
    policy: Policy
    workers: int
    start: str
    lost_cursor: str
    subscriptions: list[Subscription] = msgspec.field(default_factory=list)
    _router: Router[Subscription] | None = None

    def route(self, event: Event[Any]) -> Subscription | None:
        """Return the subscription that handles an event: the first registered that matches, or None."""
        if self._router is None:
            self._router = Router()
            for subscription in self.subscriptions:
                self._router.add(subscription, *subscription.patterns)
        for subscription in self._router.match(event.type):
            if subscription.where is None or subscription.where.matches(event):
                return subscription
        return None

    def add(self, subscription: Subscription) -> None:
        self.subscriptions.append(subscription)
        self._router = None


_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def type_of_payload(payload: object) -> str:
    """Return the event type of a returned payload: its class's ``event_type``, or its name as payment.taken."""
    kind = type(payload)
    declared = getattr(kind, "event_type", None)
    if isinstance(declared, str):
        return declared
    if kind.__module__ == "builtins":
        raise HandlerError(
            f"a handler returned a {kind.__name__}, which names no event type",
            hint="return Publish(type, data), or a class of your own",
        )
    return ".".join(part.lower() for part in _CAMEL.split(kind.__name__))


def returned_events(
    result: object, handled: Event[Any], subscription: Subscription, group: str, source: str, now: Any
) -> list[Event[Any]]:
    """Make the events that a handler's result stands for.

    Their ids follow from (group, handler, source, id, type, n-th of that type, key), so a second delivery of the same
    event makes the same ids, and what was published once is recognised.
    """
    items: Iterable[object] = result if isinstance(result, list | tuple) else [result]
    counts: dict[tuple[str, str | None], int] = {}
    made: list[Event[Any]] = []
    for item in items:
        wish = item if isinstance(item, Publish) else Publish(type_of_payload(item), item)
        key = wish.key
        if key is None and subscription.key is not None:
            value = (
                wish.data.get(subscription.key)
                if isinstance(wish.data, dict)
                else getattr(wish.data, subscription.key, None)
            )
            key = None if value is None else str(value)
        if key is None:
            key = handled.key
        nth = counts[wish.type, key] = counts.get((wish.type, key), 0) + 1
        body, content_type = encode_payload(wish.data)
        made.append(
            Event(
                id=_derived_id(group, subscription.binding.name, handled.source, handled.id, wish.type, str(nth), key),
                source=source,
                type=wish.type,
                time=now,
                key=key,
                body=body,
                tenant=handled.tenant,
                datacontenttype=content_type,
                correlationid=handled.correlationid or handled.id,
                causationid=handled.id,
                traceparent=handled.traceparent,
                tracestate=handled.tracestate,
            )
        )
    return made


def _derived_id(*parts: str | None) -> str:
    text = "".join("-" if part is None else f"{len(part)}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    return f"d-{digest.hexdigest()}"


def check_unique(subscriptions: Sequence[Subscription], new: Subscription) -> None:
    """Raise `HandlerError` if a pattern is taken: one group hands an event to one handler."""
    if new.where is not None:
        return
    for other in subscriptions:
        taken = set(other.patterns) & set(new.patterns) if other.where is None else set()
        if taken:
            raise HandlerError(
                f"group already has {other.binding.name} for {sorted(taken)[0]!r}",
                hint="give the second handler a group of its own, or a `where`",
            )
