"""Text from foreign hands, made harmless for a terminal and for whoever reads it (escape codes, reversed writing)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

# C0, DEL and C1; line and paragraph separators; marks that change the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str, keep: str = "") -> str:
    r"""Write characters that command a terminal as ``\x1b``.

    >>> escape("red: \x1b[31m")
    'red: \\x1b[31m'
    """
    if text.isprintable():
        return text

    def written(match: re.Match[str]) -> str:
        char = match.group()
        if char in keep:
            return char
        return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"

    return _CONTROL.sub(written, text)


def escape_json(text: str) -> str:
    """Write such characters in JSON text as JSON does, ``\\u009b``: the value stays the same.

    Below a space none stands in a JSON string, and outside of strings only white space does.
    """
    if text.isprintable():
        return text
    return _CONTROL.sub(lambda m: m.group() if m.group() in "\t\n\r" else f"\\u{ord(m.group()):04x}", text)


def counted(count: int, noun: str) -> str:
    """Write how many of something.

    >>> counted(1, "event"), counted(2000, "event")
    ('1 event', '2000 events')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def shown_time(seconds: float | None) -> str | None:
    """Return a time as RFC 3339 in UTC, to the millisecond; None stays None."""
    if not seconds:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.3f}"
