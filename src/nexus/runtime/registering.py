"""From what a program says about a handler to a group that can be consumed, checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args

from nexus.core.filter import compile_filter
from nexus.core.lifecycle import is_request
from nexus.core.policy import OnDead, Policy
from nexus.core.retry import Retry
from nexus.errors import HandlerError
from nexus.runtime.binding import Binding, RunIn
from nexus.runtime.subscription import Group, Subscription

LostCursor = Literal["stop", "checkpoint", "earliest"]
Start = Literal["latest", "earliest"]

_GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""No dot: `runtime.journal.parking_topic` joins topic and group with one, and must be read back."""


OWN_NAMES = ("replay-", "nexus-")
"""Beginnings of the names of groups that Nexus makes for itself."""


def make_group(
    name: str,
    handler: Callable[..., Any],
    patterns: Sequence[str],
    where: str | None,
    *,
    retry: Retry | None,
    timeout_s: float | None,
    batch_size: int,
    key: str | None,
    run_in: RunIn,
    on_dead: OnDead,
    ordered: bool,
    workers: int,
    start: Start,
    hold_s: float,
    lost_cursor: LostCursor,
    lifecycle: bool = False,
) -> Group:
    """Return a group with this one handler. Raises `HandlerError`, `FilterError`."""
    binding = Binding(handler, run_in)
    group = Group(checked_group(name), Policy(on_dead=on_dead, ordered=ordered, hold_s=hold_s), workers, start,
                  lost_cursor)  # fmt: skip
    where_filter = compile_filter(where) if where else None
    plain = binding.run_in == "loop" and timeout_s is None and not lifecycle
    if lifecycle and (binding.batch or not all(map(is_request, patterns))):
        raise HandlerError(
            f"handler {binding.name} cannot publish the life of what it handles",
            hint="lifecycle=True is for single events whose types end in requested",
        )
    group.add(
        Subscription(
            tuple(patterns), binding, where_filter, retry or Retry(), timeout_s, batch_size, key, plain, lifecycle
        )
    )
    return group


def check_wishes(
    *,
    retry: object,
    timeout_s: object,
    batch_size: object,
    run_in: object,
    on_dead: object,
    workers: object,
    start: object,
    hold_s: object,
    lost_cursor: object,
) -> None:
    """Raise `HandlerError` for what no handler can have."""
    _check_number("timeout_s", timeout_s, 0.001, 1e9, optional=True)
    _check_number("hold_s", hold_s, 0, 1e9)
    _check_number("batch_size", batch_size, 1, 10_000)
    _check_number("workers", workers, 1, 1_024, optional=True)
    _check_word("run_in", run_in, RunIn)
    _check_word("on_dead", on_dead, OnDead)
    _check_word("start", start, Start)
    _check_word("lost_cursor", lost_cursor, LostCursor)
    if retry is not None and not isinstance(retry, Retry):
        raise HandlerError(f"retry is {retry!r}", hint=f"write retry=Retry({retry!r})")


def _check_number(name: str, value: object, least: float, most: float, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise HandlerError(f"{name} is {value!r}; it must be a number from {least:g} to {most:g}")


def _check_word(name: str, value: object, words: Any) -> None:
    allowed = get_args(words)
    if value not in allowed:
        near = get_close_matches(str(value), allowed, 1)
        hint = f"did you mean {near[0]!r}?" if near else None
        raise HandlerError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}", hint=hint)


def checked_group(name: str) -> str:
    """Return the name of a group, or raise `HandlerError`."""
    if not isinstance(name, str) or not _GROUP_NAME.fullmatch(name):
        raise HandlerError(f"group name {name!r} is not allowed", hint="letters, digits, '_' and '-', at most 100")
    return name


def checked_new_group(name: str) -> str:
    """Return the name of a group that no code names, or raise `HandlerError`."""
    if checked_group(name).startswith(OWN_NAMES):
        raise HandlerError(
            f"group name {name!r} is taken", hint=f"{' and '.join(OWN_NAMES)} begin names of Nexus's own"
        )
    return name
