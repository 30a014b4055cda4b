"""Dead letters as rows and as a page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from nexus.cli._output import cell
from nexus.cli._text import escape, shown_time
from nexus.core.envelope import to_cloudevent
from nexus.event import Event, is_json
from nexus.runtime.deadletters import DeadLetterInfo
from nexus.runtime.history import Attempt

FIELDS = (
    "id", "group", "topic", "partition", "position", "type", "key", "tenant", "attempts", "reason", "died_at",
    "followers", "fingerprint",
)  # fmt: skip
SHOW_FIELDS = (*FIELDS, "round", "history", "event", "edited")
ERROR_FIELDS = ("fingerprint", "error", "count", "first", "last", "sample", "groups")
_ERROR_LIMIT_CHARS = 200


def as_row(letter: DeadLetterInfo) -> dict[str, Any]:
    """Return what a list tells."""
    return {
        "id": letter.id,
        "group": letter.group,
        "topic": letter.topic,
        "partition": letter.partition,
        "position": letter.position,
        "type": letter.event.type,
        "key": letter.key,
        "tenant": letter.tenant,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "died_at": shown_time(letter.died_at),
        "followers": letter.followers,
        "fingerprint": letter.fingerprint,
    }


async def by_error(letters: AsyncIterator[DeadLetterInfo]) -> list[dict[str, Any]]:
    """Return a row for each fingerprint, the most frequent first; the sample is the one that died last."""
    found: dict[str, _Kind] = {}
    async for letter in letters:
        kind = found.setdefault(letter.fingerprint, _Kind(letter))
        kind.count += 1
        kind.first = min(kind.first, letter.died_at)
        kind.groups.add(letter.group)
        if letter.died_at >= kind.last.died_at:
            kind.last = letter
    return [
        {
            "fingerprint": fingerprint,
            "error": (kind.last.error or kind.last.reason).partition("\n")[0][:_ERROR_LIMIT_CHARS],
            "count": kind.count,
            "first": shown_time(kind.first),
            "last": shown_time(kind.last.died_at),
            "sample": kind.last.id,
            "groups": sorted(kind.groups),
        }
        for fingerprint, kind in sorted(found.items(), key=lambda item: -item[1].count)
    ]


class _Kind:
    """What dead letters of one fingerprint have together."""

    def __init__(self, letter: DeadLetterInfo) -> None:
        self.count = 0
        self.first = letter.died_at
        self.last = letter
        self.groups: set[str] = set()


def as_line(letter: DeadLetterInfo) -> bytes:
    """Return everything as one line of JSON; the events are in CloudEvents' format, their data as they were written."""
    row = as_row(letter) | {
        "round": letter.round,
        "history": [_as_attempt(attempt) for attempt in letter.history],
        "event": msgspec.Raw(to_cloudevent(letter.event)),
        "edited": None if letter.edited is None else msgspec.Raw(to_cloudevent(letter.edited)),
    }
    return msgspec.json.encode(row).replace(b"\n", b" ") + b"\n"  # JSON has line ends only between its parts


def as_show_row(letter: DeadLetterInfo) -> dict[str, Any]:
    """Return all there is to tell."""
    return as_row(letter) | {
        "round": letter.round,
        "history": [_as_attempt(attempt) for attempt in letter.history],
        "event": _as_plain(letter.event),
        "edited": None if letter.edited is None else _as_plain(letter.edited),
    }


def _as_attempt(attempt: Attempt) -> dict[str, Any]:
    return {"attempt": attempt.attempt, "at": shown_time(attempt.at), "error": attempt.error}


def _as_plain(event: Event[Any]) -> Any:
    return json.loads(to_cloudevent(event))


def lines_of(letter: DeadLetterInfo) -> list[str]:
    """Lay a dead letter out as a page."""
    event = letter.edited or letter.event
    lines = [f"{name:12}{cell(value)}" for name, value in as_row(letter).items()]
    lines += [f"{'round':12}{letter.round}", "", "history"]
    for attempt in letter.history:
        lines.append(f"  attempt {attempt.attempt}  {cell(shown_time(attempt.at))}")
        lines += [f"    {escape(line)}" for line in attempt.error.splitlines()]
    lines += ["", "event"]
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if value is not None and name != "body":
            lines.append(f"  {name:16}{cell(value)}")
    lines += ["", f"body{' (edited before)' if letter.edited else ''}"]
    lines += [f"  {escape(line)}" for line in pretty(event).splitlines()]
    return lines


def pretty(event: Event[Any]) -> str:
    """Return the body for people: JSON indented, numbers as they were written."""
    if is_json(event.datacontenttype) and event.body:
        try:
            return msgspec.json.format(event.body, indent=2).decode()
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
    return event.body.decode(errors="backslashreplace")
