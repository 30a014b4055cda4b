"""Event-type patterns: which event types does a subscription get?

An event type is segments joined by ``.`` or ``:``. In a pattern ``*`` stands for one segment and ``**`` for any
number of them, none included; everything else, separators too, must match as written.

>>> Pattern("order.*").matches("order.placed"), Pattern("order.*").matches("order.line.added")
(True, False)
>>> Pattern("order.**").matches("order"), Pattern("**:success").matches("shop:create_order:v1:success")
(True, True)
>>> Pattern("order.*").matches("order:placed")
False

A ``**`` that stands for nothing takes the separator before it along (at the start the one after it), so that
``order.**:failed`` matches ``order:failed``. Inside a ``**`` both separators may occur.
"""

from __future__ import annotations

import re
from typing import Generic, NamedTuple, TypeVar

from nexus.errors import FilterError, InvalidEvent

T = TypeVar("T")

LIMIT_CHARS = 1_024
SEGMENTS_LIMIT = 32
"""Segments of a pattern. With it a new type of 1,024 characters costs some 30 ms at the very worst, not seconds."""
CACHE_LIMIT = 4_096
"""Event types that a router remembers. A service has tens of them; only a type with an id inside grows without end."""

# Spelled out instead of `str.isprintable`, whose answer changes with the Unicode tables of each Python.
_REFUSED = r"\s\x00-\x1f\x7f-\x9f\ud800-\udfff>"
_TYPE = re.compile(rf"[^{_REFUSED}*.:]+(?:[.:][^{_REFUSED}*.:]+)*")
_ITEM = re.compile(r"[.:]?[^.:]+")


def validate_type(text: str) -> None:
    """Raise `InvalidEvent` unless ``text`` can be the type of an event."""
    if not isinstance(text, str):
        raise InvalidEvent(f"type must be text, not {type(text).__name__}")
    if len(text) > LIMIT_CHARS:
        raise InvalidEvent(f"type has {len(text):,} characters; the limit is {LIMIT_CHARS:,}")
    if not _TYPE.fullmatch(text):
        raise InvalidEvent(f"type {text!r} {_fault(text)}", hint="segments joined by '.' or ':', as in order.placed")


def validate_pattern(text: str) -> None:
    """Raise `FilterError` unless ``text`` is a pattern."""
    if not isinstance(text, str):
        raise FilterError(f"pattern must be text, not {type(text).__name__}")
    if len(text) > LIMIT_CHARS:
        raise FilterError(f"pattern has {len(text):,} characters; the limit is {LIMIT_CHARS:,}")
    if ">" in text:
        raise FilterError(f"pattern {text!r} has '>'", hint="write '**' for any number of segments")
    segments = re.split(r"[.:]", text)
    if len(segments) > SEGMENTS_LIMIT:
        raise FilterError(f"pattern has {len(segments)} segments; the limit is {SEGMENTS_LIMIT}")
    for segment in segments:
        if "*" in segment and segment not in ("*", "**"):
            raise FilterError(
                f"pattern {text!r} has a wildcard inside the segment {segment!r}",
                hint="'*' and '**' stand for whole segments; compare parts of a name in a filter",
            )
    plain = text.replace("*", "x")
    if not _TYPE.fullmatch(plain):
        raise FilterError(f"pattern {text!r} {_fault(plain)}", hint="segments joined by '.' or ':', as in order.*")


def _fault(text: str) -> str:
    if not text:
        return "is empty"
    if empty := re.search(r"^(?=[.:])|[.:](?=[.:])|[.:]\Z", text):
        return f"has an empty segment at character {empty.start() + 1}"
    refused = re.search(rf"[{_REFUSED}*]", text)
    assert refused is not None, "a type without empty segments and refused characters is valid"
    return f"has {refused.group()!r} at character {refused.start() + 1}"


class _Node:
    """A place in the trie. Edges are labelled with a separator and a segment; at the start the separator is empty."""

    __slots__ = ("ends", "many", "named", "one")

    def __init__(self) -> None:
        self.named: dict[str, _Node] = {}
        self.one: dict[str, _Node] = {}
        self.many: dict[str, _Node] = {}
        self.ends: list[int] = []


class _State(NamedTuple):
    """``inside`` tells that the ``**`` which leads to ``node`` has taken a segment and may take more."""

    node: _Node
    inside: bool


class Router(Generic[T]):
    """Many patterns, each with a value; finds the values for an event type, in the order they were added.

    The patterns form a trie, so the cost of a new type follows the number of segments and of patterns that still
    fit, not the number of patterns. The answer is kept for the next event of that type.

    >>> router = Router[str]()
    >>> router.add("billing", "order.placed", "order.cancelled")
    >>> router.add("audit", "**")
    >>> router.match("order.placed")
    ('billing', 'audit')
    """

    def __init__(self) -> None:
        self._root = _Node()
        self._values: list[T] = []
        self._cache: dict[str, tuple[T, ...]] = {}

    def add(self, value: T, *patterns: str) -> None:
        """Give ``value`` for every type that fits one of ``patterns``; once, however many of them fit."""
        for text in patterns:
            validate_pattern(text)
        number = len(self._values)
        self._values.append(value)
        self._cache.clear()
        for text in patterns:
            items = _ITEM.findall(text)
            self._insert(items, number)
            # The forms in which a leading `**` stands for nothing: then the next segment is the first.
            while items[0] == "**" and len(items) > 1:
                items = [items[1][1:], *items[2:]]
                self._insert(items, number)

    def _insert(self, items: list[str], number: int) -> None:
        node = self._root
        for item in items:
            separator, segment = (item[0], item[1:]) if item[0] in ".:" else ("", item)
            if segment == "*":
                node = node.one.setdefault(separator, _Node())
            elif segment == "**":
                node = node.many.setdefault(separator, _Node())
            else:
                node = node.named.setdefault(item, _Node())
        node.ends.append(number)

    def match(self, event_type: str) -> tuple[T, ...]:
        """Return the values whose patterns fit ``event_type``."""
        found = self._cache.get(event_type)
        if found is None:
            found = self._search(event_type)
            if len(self._cache) >= CACHE_LIMIT:
                del self._cache[next(iter(self._cache))]
            self._cache[event_type] = found
        return found

    def _search(self, event_type: str) -> tuple[T, ...]:
        states = _with_empty_many([_State(self._root, False)])
        for item in _ITEM.findall(event_type):
            separator = item[0] if item[0] in ".:" else ""
            following: list[_State] = []
            for state in states:
                node = state.node
                if state.inside:
                    following.append(state)
                if (child := node.named.get(item)) is not None:
                    following.append(_State(child, False))
                if (child := node.one.get(separator)) is not None:
                    following.append(_State(child, False))
                if (child := node.many.get(separator)) is not None:
                    following.append(_State(child, True))
            states = _with_empty_many(following)
        numbers = {number for state in states for number in state.node.ends}
        return tuple(self._values[number] for number in sorted(numbers))


def _with_empty_many(states: list[_State]) -> dict[_State, None]:
    """Return ``states`` and those that a ``**`` standing for nothing leads to; each once, so work stays bounded."""
    reached: dict[_State, None] = {}
    while states:
        state = states.pop()
        if state not in reached:
            reached[state] = None
            states.extend(_State(child, False) for child in state.node.many.values())
    return reached


class Pattern:
    """One pattern, read once."""

    __slots__ = ("_router", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._router = Router[None]()
        self._router.add(None, text)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def matches(self, event_type: str) -> bool:
        """Tell whether ``event_type`` fits."""
        return bool(self._router.match(event_type))
