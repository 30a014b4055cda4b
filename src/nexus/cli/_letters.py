"""Dead letters as rows and as a page."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from nexus.cli._output import cell
from nexus.cli._text import escape, shown_time
from nexus.core.envelope import to_cloudevent
from nexus.event import Event, is_json
from nexus.runtime.deadletters import DeadLetterInfo

FIELDS = (
    "id", "group", "topic", "partition", "position", "type", "key", "tenant", "attempts", "reason", "died_at",
    "followers",
)  # fmt: skip
SHOW_FIELDS = (*FIELDS, "round", "history", "event", "edited")


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
    }


def as_show_row(letter: DeadLetterInfo) -> dict[str, Any]:
    """Return all there is to tell."""
    return as_row(letter) | {
        "round": letter.round,
        "history": [
            {"attempt": attempt.attempt, "at": shown_time(attempt.at), "error": attempt.error}
            for attempt in letter.history
        ],
        "event": _as_plain(letter.event),
        "edited": None if letter.edited is None else _as_plain(letter.edited),
    }


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
