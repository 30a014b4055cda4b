"""What `nexus doctor` says in the same words on every backend: what survives, which nodes answer, what a user may do.

>>> [durability] = durabilities({"orders": "process", "bills": "process"}, "replicas", {"process": "take three nodes"})
>>> durability.state, durability.found, durability.advice
('yellow', 'process (lost at a power cut), decided by replicas: bills, orders', 'take three nodes')
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from nexus.spi.backend import Durability, Finding, State

KEPT: tuple[Durability, ...] = ("disk", "replicated", "replicated+disk")
SAYS: Mapping[Durability, str] = {
    "none": "nothing is promised",
    "memory": "lost with its process",
    "process": "lost at a power cut",
    "disk": "synced at every commit",
    "replicated": "on several nodes",
    "replicated+disk": "on several nodes, synced",
}
_SHOWN = 5


def durabilities(
    levels: Mapping[str, Durability], decides: str = "", advice: Mapping[Durability, str] | None = None
) -> list[Finding]:
    """One finding for each level that a topic has, the weakest first. ``decides``: the settings it follows from."""
    found: list[Finding] = []
    for level in get_args(Durability):
        topics = sorted(topic for topic, its in levels.items() if its == level)
        if topics:
            state: State = "green" if level in KEPT else "yellow"
            why = f", decided by {decides}" if decides else ""
            found.append(
                Finding("durability", state, f"{level} ({SAYS[level]}){why}: {few(topics)}", (advice or {}).get(level))
            )
    return found


def nodes(answers: Mapping[str, str | None], advice: str) -> Finding:
    """Which nodes answer: for each its version or another word about it, None if it does not."""
    away = sorted(node for node, answer in answers.items() if answer is None)
    there = [f"{node} {answer}".rstrip() for node, answer in sorted(answers.items()) if answer is not None]
    text = f"{len(there)} of {len(answers)} answer: {few(there)}" if there else f"none answers: {few(away)}"
    if not away:
        return Finding("nodes", "green", text)
    return Finding("nodes", "yellow" if there else "red", f"{text}; not {few(away)}" if there else text, advice)


def rights(may: Iterable[str], may_not: Mapping[str, str]) -> list[Finding]:
    """What the user may do, and for each thing that it may not: what to set."""
    refused = [Finding("rights", "red", f"may not {right}", advice) for right, advice in may_not.items()]
    allowed = list(may)
    return [*([Finding("rights", "green", f"may {', '.join(allowed)}")] if allowed else []), *refused]


def release(version: str) -> tuple[int, int] | None:
    """The first two numbers of a version; None if it has none."""
    words = [*version.split("."), "0"][:2]
    return (int(words[0]), int(words[1])) if all(word.isdecimal() for word in words) else None


def few(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    every = list(names)
    more = len(every) - _SHOWN
    return ", ".join(every[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
