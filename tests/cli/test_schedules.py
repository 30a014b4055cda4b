"""`nexus schedules` and `nexus subscribe`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from nexus import Nexus

from .conftest import Run, rows


class TestSchedules:
    def test_what_is_made_is_listed_fired_and_cancelled(self, nexus: Run, store: str) -> None:
        id = nexus("schedules", "later", "a.due", '{"n": 1}', "--in", "1h", "--key", "k", "--url", store).stdout.strip()
        nexus("schedules", "every", "nightly", "30 2 * * *", "night.fell", "--zone", "Europe/Berlin")
        by_id = {row["id"]: row for row in rows(nexus("schedules", "ls", "-o", "json"))}
        assert (by_id[id]["type"], by_id[id]["key"], by_id[id]["cron"]) == ("a.due", "k", None)
        assert (by_id["nightly"]["cron"], by_id["nightly"]["zone"]) == ("30 2 * * *", "Europe/Berlin")
        nexus("schedules", "fire", id)
        nexus("schedules", "fire", "nightly")
        nexus("schedules", "cancel", "nightly")
        (left,) = rows(nexus("schedules", "ls", "-o", "json"))
        assert left["id"] == id
        assert left["due_at"] is None, "it is due, and nobody runs who publishes it"
        fired = json.loads(nexus("tail", "night.fell", "-o", "json").stdout)
        assert fired["id"].startswith("nightly@")

    def test_one_in_a_zone_that_is_not_known_here_is_listed_with_its_fault(self, nexus: Run, store: str) -> None:
        async def decide() -> None:
            async with Nexus(store) as bus:
                await bus.schedules.every("nightly", "30 2 * * *", "night.fell")
                (known,) = (await bus.control.read_on()).schedules.values()
                await bus.control.write(msgspec.structs.replace(known, name="far", zone="Mars/Base"))

        asyncio.run(decide())
        near, far = rows(nexus("schedules", "ls", "-o", "json"))
        assert (near["id"], near["fault"]) == ("nightly", None)
        assert (far["id"], far["due_at"], far["fault"]) == ("far", None, "'Mars/Base' is no time zone")

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (("later", "a.due"), 2),
            (("later", "a.due", "--in", "1h", "--at", "2026-01-31T12:00:00Z"), 2),
            (("later", "a.due", "{", "--in", "1h"), 1),
            (("later", "a.due", '{"a":1,"a":2}', "--in", "1h"), 1),
            (("every", "x", "1 * * * *", "a.due", '{"a":1,"a":2}'), 1),
            (("every", "x", "1 * * * *", "a.due", "NaN"), 1),
            (("every", "x", "61 * * * *", "a.due"), 2),
            (("cancel", "nothing"), 3),
            (("fire", "nothing"), 3),
        ],
    )
    def test_what_cannot_be_done_is_refused(
        self, nexus: Run, store: str, arguments: tuple[str, ...], code: int
    ) -> None:
        nexus("publish", "a.b", "1", "--url", store)
        nexus("schedules", *arguments, code=code)

    def test_a_short_word_for_a_cron_expression_is_answered_with_the_expression(self, nexus: Run, store: str) -> None:
        told = nexus("schedules", "every", "x", "@daily", "a.due", "--url", store, code=2).stderr
        assert "@daily is written '0 0 * * *': minute, hour, day, month, weekday" in " ".join(told.split())

    def test_a_payload_is_published_as_it_was_written(self, nexus: Run, store: str) -> None:
        exact = '{"total":12345678901234567890.10,"none":null}'
        nexus("schedules", "later", "a.due", exact, "--in", "1ms", "--key", "k", "--url", store)
        got = nexus("subscribe", "a.*", "--group", "g", "--from", "earliest", "--limit", "1").stdout
        assert exact.strip("{}") in got


class TestSubscribe:
    def test_events_are_printed_and_acknowledged(self, nexus: Run, store: str) -> None:
        for number in range(5):
            nexus("publish", "a.b", str(number), "--key", "k", "--url", store)
        one = nexus("subscribe", "a.*", "--group", "other", "--from", "earliest", "--limit", "1")
        assert one.stderr == "1 event\n"
        first = nexus("subscribe", "a.*", "--group", "g", "--from", "earliest", "--limit", "3").stdout.splitlines()
        rest = nexus("subscribe", "a.*", "--group", "g", "--limit", "2").stdout.splitlines()
        assert [json.loads(line)["data"] for line in [*first, *rest]] == [0, 1, 2, 3, 4]

    def test_a_command_gets_each_event(self, nexus: Run, store: str, place: Path) -> None:
        nexus("publish", "a.b", "7", "--url", store)
        program = place / "program.sh"
        program.write_text('#!/bin/sh\ncat > "$1"\n')
        program.chmod(0o755)
        nexus(
            "subscribe", "a.*", "--group", "g", "--from", "earliest", "--limit", "1", "--exec", f"{program} {place}/got"
        )
        assert json.loads((place / "got").read_text())["data"] == 7
