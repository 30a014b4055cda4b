"""From what a program says about its handlers to groups that can be consumed, checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args

import msgspec

from nexus.core.control import Create
from nexus.core.filter import compile_filter
from nexus.core.lifecycle import is_request
from nexus.core.policy import OnDead, Policy
from nexus.core.retry import Retry
from nexus.errors import HandlerError
from nexus.runtime.binding import Binding, RunIn, name_of
from nexus.runtime.subscription import Group, Subscription, check_unique

LostCursor = Literal["stop", "checkpoint", "earliest"]
Start = Literal["latest", "earliest"]

_GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""No dot: `runtime.journal.parking_topic` joins topic and group with one, and must be read back."""


OWN_NAMES = ("replay-", "nexus-")
"""Beginnings of the names of groups that Nexus makes for itself."""


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What a program says of a handler and its group; each as in `Nexus.on`."""

    retry: Retry | None
    timeout_s: float | None
    batch_size: int
    key: str | None
    run_in: RunIn
    on_dead: OnDead
    ordered: bool
    workers: int | None
    hold_s: float
    lost_cursor: LostCursor
    start: Start = "latest"
    lifecycle: bool = False

    def check(self) -> None:
        """Raise `HandlerError` for what no handler can have."""
        _check_number("timeout_s", self.timeout_s, 0.001, 1e9, optional=True)
        _check_number("hold_s", self.hold_s, 0, 1e9)
        _check_number("batch_size", self.batch_size, 1, 10_000)
        _check_number("workers", self.workers, 1, 1_024, optional=True)
        _check_word("run_in", self.run_in, RunIn)
        _check_word("on_dead", self.on_dead, OnDead)
        _check_word("start", self.start, Start)
        _check_word("lost_cursor", self.lost_cursor, LostCursor)
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise HandlerError(f"retry is {self.retry!r}", hint=f"write retry=Retry({self.retry!r})")


class Handlers:
    """What the code of a program handles: its groups, and handlers for groups that are made while it runs."""

    def __init__(self, workers: int) -> None:
        """``workers``: of a group that does not say how many."""
        self.groups: dict[str, Group] = {}
        self._named: dict[str, Group] = {}
        self._workers = workers

    def __bool__(self) -> bool:
        return bool(self.groups or self._named)

    def add(
        self, handler: Callable[..., Any], patterns: Sequence[str], group: str | None, where: str | None, wishes: Wishes
    ) -> None:
        """Have a handler be one of a group's; without ``group``, of one named as the function.

        Raises `HandlerError`, `FilterError`.
        """
        name = group or re.sub(r"[^A-Za-z0-9_-]+", "-", name_of(handler)).strip("-")
        own = self._group(name, handler, patterns, where, wishes)
        known = self.groups.get(name)
        if known is None:
            self.groups[name] = own
            return
        if (known.policy, known.start, known.lost_cursor) != (own.policy, own.start, own.lost_cursor):
            raise HandlerError(
                f"group {name} is registered twice with different on_dead, ordered, hold_s, start or lost_cursor",
                hint="these belong to the whole group; say the same at each handler",
            )
        known.workers = max(known.workers, own.workers) if wishes.workers else known.workers
        check_unique(known.subscriptions, own.subscriptions[0])
        known.add(own.subscriptions[0])

    def add_named(self, handler: Callable[..., Any], name: str | None, wishes: Wishes) -> None:
        """Keep a handler for groups that are created by its name. Raises `HandlerError`."""
        own = name or name_of(handler).rpartition(".")[2]
        if own in self._named:
            raise HandlerError(f"two handlers are named {own!r}", hint="give one of them another name")
        self._named[own] = self._group(own, handler, (), None, wishes)

    def _group(
        self, name: str, handler: Callable[..., Any], patterns: Sequence[str], where: str | None, wishes: Wishes
    ) -> Group:
        binding = Binding(handler, wishes.run_in)
        policy = Policy(on_dead=wishes.on_dead, ordered=wishes.ordered, hold_s=wishes.hold_s)
        group = Group(checked_group(name), policy, wishes.workers or self._workers, wishes.start, wishes.lost_cursor)
        where_filter = compile_filter(where) if where is not None else None
        plain = binding.run_in == "loop" and wishes.timeout_s is None and not wishes.lifecycle
        if wishes.lifecycle and (binding.batch or not all(map(is_request, patterns))):
            raise HandlerError(
                f"handler {binding.name} cannot publish the life of what it handles",
                hint="lifecycle=True is for single events whose types end in requested",
            )
        group.add(
            Subscription(
                tuple(patterns), binding, where_filter, wishes.retry or Retry(), wishes.timeout_s, wishes.batch_size,
                wishes.key, plain, wishes.lifecycle,
            )
        )  # fmt: skip
        return group

    def include(self, other: Handlers) -> None:
        """Have those of another program too. Raises `HandlerError` if both know a group and disagree about it.

        Also if both have a handler of one name. Nothing is taken then.
        """
        for name, theirs in other.groups.items():
            ours = self.groups.get(name)
            if ours is None:
                continue
            if (ours.policy, ours.start, ours.lost_cursor) != (theirs.policy, theirs.start, theirs.lost_cursor):
                raise HandlerError(
                    f"group {name} is registered on both with different on_dead, ordered, hold_s, start or lost_cursor",
                    hint="these belong to the whole group; say the same on both",
                )
            for subscription in theirs.subscriptions:
                check_unique(ours.subscriptions, subscription)
        for name in self._named.keys() & other._named.keys():
            raise HandlerError(f"both have a handler named {name!r}", hint="give one of them another name")
        for name, theirs in other.groups.items():
            ours = self.groups.setdefault(
                name, Group(name, theirs.policy, theirs.workers, theirs.start, theirs.lost_cursor)
            )
            for subscription in theirs.subscriptions:
                ours.add(subscription)
        self._named |= other._named

    def keep(self, names: Collection[str]) -> None:
        """Forget all but these groups."""
        self._named.clear()
        for name in self.groups.keys() - set(names):
            del self.groups[name]

    def created(self, wish: Create) -> Group | None:
        """Make the group that the control topic asks for, if its handler is here."""
        template = self._named.get(wish.handler)
        if template is None:
            return None
        (handler,) = template.subscriptions
        group = Group(wish.group, template.policy, template.workers, wish.start, template.lost_cursor)
        where = compile_filter(wish.where) if wish.where is not None else None
        group.add(msgspec.structs.replace(handler, patterns=wish.patterns, where=where))
        return group


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


def refuse_function(decorator: str, *given: object) -> None:
    """Raise `HandlerError` where a decorator that must be called was not: it was given the function itself."""
    if any(map(callable, given)):
        example = '"order.placed"' if decorator == "on" else ""
        raise HandlerError(
            f"the decorator `{decorator}` was given a function",
            hint=f"write @bus.{decorator}({example}), with brackets",
        )


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
