"""How a fault in a filter is told: what is wrong, at which character, with the line and a caret under the place."""

from __future__ import annotations

from collections.abc import Iterable

from nexus.errors import FilterError

_WINDOW_CHARS = 60


def problem(text: str, at: int, message: str, hint: str | None = None) -> FilterError:
    """Make the error for a fault of the filter ``text`` at character ``at`` (from 0)."""
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    start, end = max(start, at - _WINDOW_CHARS), min(end if end >= 0 else len(text), at + _WINDOW_CHARS)
    # Each odd character becomes one blank, so that the caret stays under its place and nothing reaches a terminal.
    line = "".join(char if char.isprintable() else " " for char in text[start:end])
    return FilterError(f"filter: {message} (character {at + 1})\n  {line}\n  {' ' * (at - start)}^", hint=hint)


def near(name: str, known: Iterable[str]) -> str | None:
    """Return the one of ``known`` that ``name`` was probably meant to be."""
    from difflib import get_close_matches  # only a fault needs it, not every start

    return next(iter(get_close_matches(name.lower(), known, n=1, cutoff=0.7)), None)
