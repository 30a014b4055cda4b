"""The bus of the story and its groups: four that routing feeds, one that checks, one that is made while it runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from nexus import Context, Event, Nexus, Retry
from nexus.demo.github.payloads import PREFIX, Webhook
from nexus.demo.github.schema import Checker, DoesNotFit

TOPIC = "github"
CHECK = "check"
TRIAGE = "triage"
TRIAGE_PATTERNS = (f"{PREFIX}.issues.*", f"{PREFIX}.pull_request.*")
ROUTES: dict[str, tuple[str, ...]] = {
    "issues": (f"{PREFIX}.issues.*", f"{PREFIX}.issue_comment.*", f"{PREFIX}.label.*", f"{PREFIX}.milestone.*"),
    "pulls": (
        f"{PREFIX}.pull_request.*", f"{PREFIX}.pull_request_review.*", f"{PREFIX}.pull_request_review_comment.*",
        f"{PREFIX}.pull_request_review_thread.*",
    ),
    "builds": (
        f"{PREFIX}.check_run.*", f"{PREFIX}.check_suite.*", f"{PREFIX}.status", f"{PREFIX}.workflow_job.*",
        f"{PREFIX}.workflow_run.*",
    ),
    "opened": (f"{PREFIX}.*.opened", f"{PREFIX}.*.created"),
}  # fmt: skip
"""Groups that only count what the router brings them."""


class Handled:
    """What the handlers saw: each event counts once, however often it came."""

    def __init__(self) -> None:
        self.events: defaultdict[str, set[str]] = defaultdict(set)
        self.repeated = 0
        self.by_type: Counter[str] = Counter()
        self.out_of_order = 0
        self._last: dict[tuple[str, str | None], int] = {}

    def note(self, group: str, event: Event[Any], number: int) -> None:
        """Count a delivery, and look whether its key's came in the order of their publication."""
        if event.id in self.events[group]:
            self.repeated += 1
            return
        self.events[group].add(event.id)
        if event.key is not None:
            self.out_of_order += number <= self._last.get((group, event.key), -1)
            self._last[group, event.key] = number

    def counts(self) -> dict[str, int]:
        return {group: len(ids) for group, ids in self.events.items()}


def number_of(event: Event[Any]) -> int:
    """Return which webhook of the package this is, the first being 0."""
    return int(event.id.rpartition(".")[2])


def make_bus(url: str, schema: Path) -> Nexus:
    """Make the bus. ``schema``: the file that an edited dead letter must fit."""
    return Nexus(
        url,
        settings={
            "topics": {TOPIC: {"patterns": [f"{PREFIX}.**"]}},
            "schemas": {f"{PREFIX}.**": str(schema)},
        },
        source="/demo/github",
    )


def register(bus: Nexus, handled: Handled) -> None:
    """Give the bus its handlers."""
    for group, patterns in ROUTES.items():
        _route(bus, handled, group, patterns)
    checker = Checker()

    # A payload that does not fit will not fit later either; the events behind it have nothing to do with it.
    @bus.on(f"{PREFIX}.**", group=CHECK, start="earliest", retry=Retry(never=(DoesNotFit,)), on_dead="skip")
    async def check(payload: dict[str, Any], event: Event[Any]) -> None:
        checker.check(event.type, payload)
        handled.events[CHECK].add(event.id)

    @bus.handler(TRIAGE)
    async def triage(event: Event[Any], context: Context) -> None:
        handled.note(TRIAGE, event, number_of(event))
        handled.by_type[event.type] += 1


def _route(bus: Nexus, handled: Handled, group: str, patterns: tuple[str, ...]) -> None:
    @bus.on(*patterns, group=group, start="earliest")
    async def count(event: Event[Any]) -> None:
        handled.note(group, event, number_of(event))


def event_of(bus: Nexus, hook: Webhook) -> Event[Any]:
    return bus.event(hook.type, hook.payload, key=hook.key, id=hook.id)
