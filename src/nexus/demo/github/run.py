"""One run of the story, from the first webhook to the report; in one process, for what is shown is repair."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from nexus import InvalidEvent, Nexus, Receipt, Selection
from nexus.core.pattern import Pattern
from nexus.demo.folder import GITHUB_SCHEMA, Stalled
from nexus.demo.github.groups import (
    CHECK,
    ROUTES,
    TOPIC,
    TRIAGE,
    TRIAGE_PATTERNS,
    Handled,
    event_of,
    make_bus,
    register,
)
from nexus.demo.github.payloads import Webhook, read_schema, read_webhooks
from nexus.demo.github.report import ErrorGroup, Mended, Replayed, Report, problems_of
from nexus.demo.github.schema import Checker
from nexus.runtime.deadletters import DeadLetterInfo

_WHO = "nexus demo"
_WITHIN_S = 60.0
_POLL_S = 0.02


class Story:
    """What one run knows."""

    def __init__(self, folder: Path, url: str, say: Callable[[str], None]) -> None:
        """``url``: the backend, empty as yet. ``say`` shows a line."""
        (folder / GITHUB_SCHEMA).write_bytes(read_schema())
        self._say = say
        self._hooks = read_webhooks()
        self._handled = Handled()
        self._checker = Checker()
        self._bus: Nexus = make_bus(url, folder / GITHUB_SCHEMA)
        register(self._bus, self._handled)

    async def run(self) -> Report:
        began = time.monotonic()
        async with self._bus:
            expected = self._expected()
            await self._publish()
            self._say(f"routed      {', '.join(f'{group} {count}' for group, count in expected.items())}")
            letters = await self._dead_letters(expected)
            errors = await self._show_errors(letters)
            mended, refused, requeued, discarded = await self._repair(letters)
            await self._until(self._checked(len(self._hooks) - discarded), "the mended webhooks are handled")
            await self._until(self._settled, "all groups have settled")
            replay = await self._replay()
            after = len(await self._bus.dead_letters.all(CHECK))
        handled = self._handled.counts()
        problems = problems_of(expected, handled, {CHECK: discarded}, self._handled.out_of_order)
        if replay.handled != replay.selected:
            problems.append(f"the replay brought {replay.handled} events; {replay.selected} were stored")
        if replay.live_groups_moved:
            problems.append("the replay moved a cursor of another group")
        return Report(
            ok=not problems,
            problems=problems,
            seconds=round(time.monotonic() - began, 2),
            published=len(self._hooks),
            types=len({hook.type for hook in self._hooks}),
            expected=expected,
            handled={group: handled.get(group, 0) for group in expected},
            repeated=self._handled.repeated,
            order_violations=self._handled.out_of_order,
            dead=len(letters),
            errors=errors,
            refused_edit=refused,
            mended=mended,
            requeued=requeued,
            discarded=discarded,
            dead_after=after,
            replay=replay,
        )

    # ---- publish, route, check ------------------------------------------------------------------------------------

    def _expected(self) -> dict[str, int]:
        return {CHECK: len(self._hooks)} | {group: _matching(self._hooks, *wanted) for group, wanted in ROUTES.items()}

    async def _publish(self) -> None:
        for answer in await self._bus.publish_many([event_of(self._bus, hook) for hook in self._hooks]):
            if not isinstance(answer, Receipt):
                raise answer
        types = len({hook.type for hook in self._hooks})
        self._say(f"published   {len(self._hooks)} webhooks of {types} types to the topic {TOPIC}")

    async def _dead_letters(self, expected: dict[str, int]) -> list[DeadLetterInfo]:
        letters: list[DeadLetterInfo] = []

        async def all_done() -> bool:
            letters[:] = await self._bus.dead_letters.all(CHECK)
            handled = self._handled.counts() | {CHECK: len(self._handled.events[CHECK]) + len(letters)}
            return all(handled.get(group, 0) == count for group, count in expected.items())

        await self._until(all_done, "all groups have handled everything")
        return letters

    async def _show_errors(self, letters: list[DeadLetterInfo]) -> list[ErrorGroup]:
        counts = Counter(letter.fingerprint for letter in letters)
        examples = {letter.fingerprint: _summary(letter) for letter in letters}
        errors = [ErrorGroup(print, count, examples[print]) for print, count in counts.most_common()]
        self._say(f"checked     {len(letters)} webhooks do not fit their schema, for {len(errors)} reasons:")
        for error in errors[:3]:
            self._say(f"  {error.count:3} ×     {error.example}")
        return errors

    # ---- edit, requeue, give up -----------------------------------------------------------------------------------

    async def _repair(self, letters: list[DeadLetterInfo]) -> tuple[Mended | None, str, int, int]:
        """Mend what the rule can mend, and give the others up: one shown, an edit that does not fit refused."""
        shown: Mended | None = None
        refused = ""
        requeued = discarded = 0
        for letter in letters:
            payload = msgspec.json.decode(letter.event.body)
            body = self._checker.mend(letter.event.type, payload)
            if body is None:
                why = "what is wrong with it cannot be known from outside"
                discarded += await self._bus.dead_letters.discard(letter, why=why, who=_WHO)
                continue
            if shown is None:
                refused = self._try_a_bad_edit(letter, payload)
                added = dict(_added(payload, body))
                shown = Mended(letter.id, letter.event.id, _summary(letter), added)
                self._say(f"edit        {letter.event.id}: {shown.error}")
                for path, value in added.items():
                    self._say(f"  +         {path}: {msgspec.json.encode(value).decode()}")
            requeued += await self._bus.dead_letters.requeue(letter, data=msgspec.json.encode(body), who=_WHO)
        self._say(f"repair      {requeued} requeued with what they lacked, {discarded} discarded")
        return shown, refused, requeued, discarded

    def _try_a_bad_edit(self, letter: DeadLetterInfo, payload: Any) -> str:
        """Try to send a webhook again as it is: the schema of its type refuses it before anything is written."""
        try:
            self._bus.dead_letters.check(letter, msgspec.json.encode(payload))
        except InvalidEvent as error:
            told = str(error).partition(":")[0]
            self._say("refused     the same body again, before anything was written: it does not fit the schema")
            return told
        raise AssertionError("a body that does not fit was taken")

    # ---- replay ---------------------------------------------------------------------------------------------------

    async def _replay(self) -> Replayed:
        """Make a group that did not exist, and give it what was stored before."""
        bus = self._bus
        selection = Selection(patterns=TRIAGE_PATTERNS)
        selected = len([seen async for seen in bus.replays.look(selection)])
        self._say(f"dry run     {selected} stored events match {' and '.join(TRIAGE_PATTERNS)}")
        await bus.subscriptions.create(TRIAGE, *TRIAGE_PATTERNS, handler=TRIAGE, who=_WHO)
        before = await self._cursors()
        id = await bus.replays.start(selection, group=TRIAGE, who=_WHO)
        await self._until(self._replayed(id), "the replay is over")
        moved = await self._cursors() != before
        handled = len(self._handled.events[TRIAGE])
        self._say(f"replay      {handled} events into the new group {TRIAGE}, no other group moved")
        return Replayed(TRIAGE, selected, handled, dict(sorted(self._handled.by_type.items())), moved)

    async def _cursors(self) -> dict[tuple[str, int], int]:
        """Return where the groups that were there before stand."""
        found: dict[tuple[str, int], int] = {}
        for group in (CHECK, *ROUTES):
            found |= {(f"{group}/{lag.topic}", lag.partition): lag.low for lag in await self._bus.backend.lag(group)}
        return found

    # ---- waiting --------------------------------------------------------------------------------------------------

    def _checked(self, count: int) -> Callable[[], Awaitable[bool]]:
        async def condition() -> bool:
            return len(self._handled.events[CHECK]) == count

        return condition

    def _replayed(self, id: str) -> Callable[[], Awaitable[bool]]:
        async def condition() -> bool:
            return (await self._bus.replays.get(id)).state != "running"

        return condition

    async def _settled(self) -> bool:
        lags = [lag for group in (CHECK, *ROUTES) for lag in await self._bus.backend.lag(group)]
        return all(lag.low >= lag.end for lag in lags)

    async def _until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for a condition. Raises `Stalled`."""
        try:
            async with asyncio.timeout(_WITHIN_S):
                while not await condition():  # noqa: ASYNC110 - what is looked at gives no sign
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise Stalled(f"not within {_WITHIN_S:.0f} s: {what}") from None


def _summary(letter: DeadLetterInfo) -> str:
    """Return what the error of a dead letter says, without its class."""
    return letter.error.partition("\n")[0].partition(": ")[2]


def _matching(hooks: list[Webhook], *patterns: str) -> int:
    compiled = [Pattern(pattern) for pattern in patterns]
    return sum(any(pattern.matches(hook.type) for pattern in compiled) for hook in hooks)


def _added(before: Any, after: Any, path: str = "") -> list[tuple[str, Any]]:
    """What a payload has that it had not, by path."""
    if isinstance(before, dict):
        new = [(f"{path}/{name}", after[name]) for name in after if name not in before]
        return new + [one for name in before for one in _added(before[name], after[name], f"{path}/{name}")]
    if isinstance(before, list):
        return [one for at, value in enumerate(before) for one in _added(value, after[at], f"{path}/{at}")]
    return []
