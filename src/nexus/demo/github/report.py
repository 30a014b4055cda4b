"""The report of the story: what happened, whether it adds up, and how it is printed."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nexus.demo.report import TOP, table


class ErrorGroup(msgspec.Struct, frozen=True):
    """Dead letters that died of the same error."""

    fingerprint: str
    count: int
    example: str


class Mended(msgspec.Struct, frozen=True):
    """A dead letter that was shown in the making of its repair."""

    id: str
    event: str
    error: str
    added: dict[str, object]
    """What the edit added, by the path in the payload."""


class Replayed(msgspec.Struct, frozen=True):
    """The replay into the group that was made for it."""

    group: str
    selected: int
    handled: int
    by_type: dict[str, int]
    live_groups_moved: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run found out; what `-o json` prints."""

    ok: bool
    problems: list[str]
    seconds: float
    published: int
    types: int
    expected: dict[str, int]
    """Per group: published events that its patterns match."""
    handled: dict[str, int]
    repeated: int
    """Deliveries of an event that the group had handled before."""
    order_violations: int
    dead: int
    """Payloads that do not fit their schema."""
    errors: list[ErrorGroup]
    refused_edit: str
    """What was answered to an edit that does not fit."""
    mended: Mended | None
    requeued: int
    discarded: int
    dead_after: int
    replay: Replayed


def problems_of(
    expected: Mapping[str, int], handled: Mapping[str, int], discarded: Mapping[str, int], order_violations: int
) -> list[str]:
    """Say what does not add up."""
    problems = [
        f"group {group}: {handled.get(group, 0)} handled and {discarded.get(group, 0)} given up of {wanted} events"
        for group, wanted in expected.items()
        if handled.get(group, 0) + discarded.get(group, 0) != wanted
    ]
    if order_violations:
        problems.append(f"{order_violations} events were out of order")
    return problems


def render(report: Report) -> str:
    """Return the report as plain text."""
    replay, rest = report.replay, report.errors[TOP:]
    return "\n\n".join(
        [
            f"{report.published} webhooks of {report.types} types",
            table(
                ("group", "events", "handled"),
                [(name, str(count), str(report.handled.get(name, 0))) for name, count in report.expected.items()],
            ),
            f"{report.dead} do not fit their schema",
            table(
                ("letters", "error", "fingerprint"),
                [(str(error.count), error.example, error.fingerprint) for error in report.errors[:TOP]],
            )
            + (f"\n  and {len(rest)} more, {sum(error.count for error in rest)} letters" if rest else ""),
            f"dead letters    {report.dead}, then {report.dead_after}: {report.requeued} mended and requeued, "
            f"{report.discarded} discarded\n"
            f"replay          {replay.handled} of {replay.selected} stored events into the new group {replay.group}; "
            f"the other groups {'MOVED' if replay.live_groups_moved else 'did not move'}\n"
            f"order           {report.order_violations} violations, {report.repeated} events came again\n"
            + (
                f"all adds up     in {report.seconds:.1f} s"
                if report.ok
                else "DOES NOT ADD UP\n" + "\n".join(f"  {problem}" for problem in report.problems)
            ),
        ]
    )
