"""`nexus subscriptions` and `nexus replay`: what on-call people do to groups and to what was stored."""

from __future__ import annotations

import asyncio
import getpass
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus import Event, Nexus, Selection
from nexus.cli import _targets

from .conftest import Run, lines, rows

Start = Callable[..., subprocess.Popen[str]]


def consume(store: str, wanted: int, *, publish: int = 0, group: str = "billing", replays: bool = False) -> list[Any]:
    """Run a group until it has handled so many events; return their payloads."""
    handled: list[Any] = []

    async def go() -> None:
        bus = Nexus(store)
        done = asyncio.Event()

        @bus.on("a.*", group=group, start="earliest")
        async def handle(event: Event[Any]) -> None:
            if not replays or event.extensions is not None:
                handled.append(event.data)
            if len(handled) >= wanted:
                done.set()

        async with bus:
            for number in range(publish):
                await bus.publish("a.b", number, key="k")
            await done.wait()

    asyncio.run(go())
    return handled


@pytest.fixture
def consumed(store: str) -> str:
    consume(store, 4, publish=4)
    return store


def interrupted(store: str, selection: Selection, id: str = "r1") -> str:
    """Begin a replay into a function, and have its process die before anything is handled."""

    async def go() -> None:
        bus = Nexus(store)
        called = asyncio.Event()

        async def hang(event: Event[Any]) -> None:
            called.set()
            await asyncio.Event().wait()

        await bus.start()
        replay = asyncio.ensure_future(bus.replays.into(hang, selection, id=id))
        await called.wait()
        await bus.kill()
        replay.cancel()
        await asyncio.gather(replay, return_exceptions=True)

    asyncio.run(go())
    return id


def one(nexus: Run) -> dict[str, Any]:
    (row,) = rows(nexus("subscriptions", "ls", "-o", "json"))
    return row


class TestSubscriptions:
    def test_a_group_is_paused_filtered_and_moved_and_the_list_says_so(self, nexus: Run, consumed: str) -> None:
        assert one(nexus)["state"] == "idle"
        nexus("subscriptions", "pause", "billing")
        nexus("subscriptions", "alter", "billing", "--where", "data > 1")
        moved = rows(nexus("subscriptions", "seek", "billing", "earliest", "--yes", "-o", "json"))
        assert len(moved) == 16
        row = one(nexus)
        assert (row["state"], row["where"], row["moving"]) == ("paused", "data > 1", 16)
        nexus("subscriptions", "resume", "billing")
        nexus("subscriptions", "alter", "billing", "--no-where")
        assert consume(consumed, 4) == [0, 1, 2, 3]
        row = one(nexus)
        assert (row["state"], row["where"], row["moving"]) == ("idle", None, 0)

    def test_a_group_is_sent_to_a_position(self, nexus: Run, consumed: str) -> None:
        (part,) = [part for part in rows(nexus("topics", "show", "events", "-o", "json")) if part["end"]]
        place = f"events[{part['partition']}]@2"
        assert rows(nexus("subscriptions", "seek", "billing", place, "--yes", "-o", "json")) == [
            {"group": "billing", "topic": "events", "partition": part["partition"], "position": 2}
        ]
        assert consume(consumed, 2) == [2, 3]

    @pytest.mark.parametrize("before", [(), ("--yes",), ("--yes", "--topic", "events", "--")])
    def test_a_group_is_sent_back_by_a_time(self, nexus: Run, consumed: str, before: tuple[str, ...]) -> None:
        after = () if before else ("--yes", "-o", "json")
        nexus("subscriptions", "seek", *before, "billing", "-1h30m", *after)
        assert one(nexus)["moving"] == 16
        assert consume(consumed, 4) == [0, 1, 2, 3]

    def test_what_is_no_time_back_is_refused_as_such(self, nexus: Run, consumed: str) -> None:
        assert "'10' is not a duration" in nexus("subscriptions", "seek", "billing", "-10", "--yes", code=2).stderr
        assert "No such option" in nexus("subscriptions", "seek", "billing", "--topics", "x", "-10m", code=2).stderr

    def test_nothing_is_moved_without_a_yes(self, nexus: Run, consumed: str) -> None:
        nexus("subscriptions", "seek", "billing", "earliest", input="n\n", code=1)
        assert one(nexus)["moving"] == 0

    def test_without_anybody_to_ask_a_yes_must_have_been_given(self, nexus: Run, consumed: str) -> None:
        assert "say --yes" in nexus("subscriptions", "seek", "billing", "earliest", code=2).stderr

    def test_of_a_group_that_was_removed_is_told_what_to_do(self, nexus: Run, consumed: str) -> None:
        async def go() -> None:
            bus = Nexus(consumed)
            done = asyncio.Event()

            @bus.handler("write")
            async def write(event: Event[Any]) -> None:
                done.set()

            async with bus:
                await bus.subscriptions.create("mine", "a.*", handler="write", start="earliest")
                await done.wait()

        asyncio.run(go())
        nexus("subscriptions", "create", "other", "a.*", "--handler", "write")  # has never consumed
        for group in ("mine", "other"):
            nexus("subscriptions", "remove", group)
            told = nexus("subscriptions", "pause", group, code=3).stderr
            assert f"group '{group}' was removed\nNext: create it anew" in told

    def test_groups_are_created_and_removed(self, nexus: Run, consumed: str) -> None:
        nexus("subscriptions", "create", "audit", "a.*", "--handler", "write", "--where", "data > 1")
        (audit,) = [row for row in rows(nexus("subscriptions", "ls", "-o", "json")) if row["group"] == "audit"]
        assert (audit["patterns"], audit["handler"], audit["where"]) == (["a.*"], "write", "data > 1")
        nexus("subscriptions", "create", "audit", "a.*", "--handler", "write", code=2)
        nexus("subscriptions", "remove", "audit")
        nexus("subscriptions", "remove", "billing", code=3)
        assert one(nexus)["group"] == "billing"

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (("pause", "nobody"), 3),
            (("alter", "billing"), 2),
            (("alter", "billing", "--where", "data >"), 2),
            (("seek", "billing", "@id", "--yes"), 2),
            (("seek", "billing", "soon", "--yes"), 2),
            (("seek", "billing", "events[99]@0", "--yes"), 2),
        ],
    )
    def test_what_cannot_be_done_is_refused(
        self, nexus: Run, consumed: str, arguments: tuple[str, ...], code: int
    ) -> None:
        nexus("subscriptions", *arguments, code=code)


class TestReplay:
    def test_a_dry_run_counts_and_changes_nothing(self, nexus: Run, consumed: str) -> None:
        found = nexus("replay", "run", "a.*", "--where", "data >= 2", "--dry-run", "-o", "json")
        assert rows(found) == [{"type": "a.b", "events": 2}]
        assert "2 events would be replayed" in found.stderr
        assert rows(nexus("replay", "ls", "-o", "json")) == []

    def test_a_replay_into_a_file_has_the_events_as_they_are(self, nexus: Run, consumed: str, place: Path) -> None:
        done = json.loads(nexus("replay", "run", "--to-file", "out.jsonl", "--key", "k", "-o", "json").stdout)
        assert (done["state"], done["read"], done["total"]) == ("done", 4, 4)
        written = lines((place / "out.jsonl").read_text())
        assert [line["data"] for line in written] == [0, 1, 2, 3]
        assert {line["nexusreplay"] for line in written} == {done["id"]}
        assert [row["id"] for row in rows(nexus("replay", "ls", "-o", "json"))] == [done["id"]]
        assert json.loads(nexus("replay", "show", done["id"], "-o", "json").stdout)["state"] == "done"

    def test_a_replay_into_a_topic_keeps_order_and_bytes(self, nexus: Run, consumed: str) -> None:
        nexus("replay", "run", "a.*", "--topic", "events", "--to-topic", "copies")
        (copies,) = [row for row in rows(nexus("topics", "ls", "-o", "json")) if row["topic"] == "copies"]
        assert (copies["events"], copies["partitions"]) == (4, 16)

    def test_a_replay_into_a_command_hands_over_each_event(self, nexus: Run, consumed: str, place: Path) -> None:
        program = place / "program.sh"
        program.write_text('#!/bin/sh\ncat >> "$1"\necho >> "$1"\n')
        program.chmod(0o755)
        nexus("replay", "run", "--exec", f"{program} {place / 'got'}", "--where", "data < 2")
        assert [json.loads(line)["data"] for line in (place / "got").read_text().splitlines()] == [0, 1]

    def test_a_replay_into_a_group_is_carried_out_by_who_has_its_handlers(self, nexus: Run, consumed: str) -> None:
        begun = json.loads(nexus("replay", "run", "--to-group", "billing", "--no-wait", "-o", "json").stdout)
        assert (begun["state"], begun["read"], begun["total"]) == ("running", 0, 4)
        assert consume(consumed, 4, replays=True) == [0, 1, 2, 3]

    def test_088_a_range_that_ends_before_it_begins_is_refused(self, nexus: Run, consumed: str) -> None:
        times = ("--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z")
        refused = nexus("replay", "run", "--dry-run", *times, code=2)
        assert "--from is after --to" in refused.stderr

    def test_089_a_replay_that_is_interrupted_goes_on(
        self, nexus: Run, consumed: str, start: Start, place: Path
    ) -> None:
        process = start("replay", "run", "--to-file", "out.jsonl", "--rate", "1/s")
        assert process.stderr is not None
        id = next(line for line in process.stderr if line.startswith("replay ")).split()[1].rstrip(";")
        while not (place / "out.jsonl").exists() or not (place / "out.jsonl").read_text():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        before = (place / "out.jsonl").read_text().splitlines()
        assert 1 <= len(before) < 4
        done = json.loads(nexus("replay", "run", "--to-file", "out.jsonl", "--resume", id, "-o", "json").stdout)
        assert done["state"] == "done"
        numbers = [line["data"] for line in lines((place / "out.jsonl").read_text())]
        assert sorted(set(numbers)) == [0, 1, 2, 3]
        assert len(numbers) <= 4 + len(before), "only what was handled last may come again"

    def test_091_a_replay_into_a_live_topic_wants_a_yes_and_marks_events(self, nexus: Run, consumed: str) -> None:
        assert "into itself" in nexus("replay", "run", "--to-topic", "events", code=2).stderr
        done = json.loads(nexus("replay", "run", "--to-topic", "events", "--yes", "-o", "json").stdout)
        assert (done["state"], done["read"]) == ("done", 4), "and not for ever"
        found = lines(nexus("tail", "--from", "earliest", "-o", "ce").stdout)
        assert [line.get("nexusreplay") for line in found] == [None] * 4 + [done["id"]] * 4
        assert [line["id"] for line in found[4:]] == [f"{line['id']}~{done['id']}" for line in found[:4]]
        assert [line["data"] for line in found[4:]] == [0, 1, 2, 3]

    def test_091_a_topic_that_a_group_consumes_wants_a_yes_too(self, nexus: Run, consumed: str) -> None:
        nexus("replay", "run", "--topic", "events", "--to-topic", "copies")
        refused = nexus("replay", "run", "--topic", "copies", "--to-topic", "events", code=2)
        assert "group billing would get it all" in refused.stderr

    def test_a_replay_that_is_over_is_no_group_any_more(self, nexus: Run, consumed: str) -> None:
        done = json.loads(nexus("replay", "run", "--to-file", "out.jsonl", "-o", "json").stdout)
        begun = json.loads(nexus("replay", "run", "--to-group", "billing", "--no-wait", "-o", "json").stdout)
        nexus("replay", "cancel", begun["id"])
        assert {row["state"] for row in rows(nexus("replay", "ls", "-o", "json"))} == {"done", "cancelled"}
        for verb in ("subscriptions", "groups"):
            assert [row["group"] for row in rows(nexus(verb, "ls", "-o", "json"))] == ["billing"]
        assert f"replay-{done['id']}" in nexus("groups", "show", f"replay-{done['id']}").stdout

    def test_091_replays_do_not_make_a_topic_live(self, nexus: Run, consumed: str) -> None:
        nexus("replay", "run", "--to-topic", "copies")
        nexus("replay", "run", "--topic", "copies", "--to-file", "out.jsonl")
        nexus("replay", "run", "--to-topic", "copies")

    def test_what_is_resumed_is_the_replay_as_it_was_begun(self, nexus: Run, consumed: str) -> None:
        nexus("replay", "run", "--to-topic", "copies")
        id = interrupted(consumed, Selection(topics=("copies",), where="data >= 2"))
        again = ("replay", "run", "--to-topic", "copies", "--resume", id)
        assert "into itself" in nexus(*again, code=2).stderr
        assert json.loads(nexus(*again, "--yes", "-o", "json").stdout)["state"] == "done"
        found = lines(nexus("tail", "--from", "earliest", "-o", "ce").stdout)
        copies = [line for line in found if line.get("nexusreplay") == id]
        assert [line["data"] for line in copies] == [2, 3]
        assert all(line["id"].endswith(f"~{id}") for line in copies), "as before it was interrupted"

    def test_a_replay_is_resumed_only_into_the_same_kind_of_target(
        self, nexus: Run, consumed: str, place: Path
    ) -> None:
        id = interrupted(consumed, Selection())
        refused = nexus("replay", "run", "--to-group", "billing", "--resume", id, code=2)
        assert f"replay {id} is one into a topic, a file or a command" in refused.stderr
        begun = json.loads(nexus("replay", "run", "--to-group", "billing", "--no-wait", "-o", "json").stdout)
        for target in (("--to-file", "out.jsonl"), ("--to-topic", "copies"), ("--exec", "cat")):
            refused = nexus("replay", "run", *target, "--resume", begun["id"], code=2)
            assert f"give --resume {begun['id']} and --to-group billing" in refused.stderr
        assert (
            "there is no topic copies" in nexus("replay", "run", "--to-topic", "copies", "--resume", id, code=2).stderr
        )
        assert (
            "there is no file out.jsonl"
            in nexus("replay", "run", "--to-file", "out.jsonl", "--resume", id, code=2).stderr
        )
        nexus("replay", "run", "--to-topic", "copies", "--resume", "nothing", code=3)
        nexus("replay", "run", "--to-group", "billing", "--resume", "nothing", code=3)
        assert not (place / "out.jsonl").exists()
        assert [row["topic"] for row in rows(nexus("topics", "ls", "-o", "json"))] == ["events"]
        assert {row["state"] for row in rows(nexus("replay", "ls", "-o", "json"))} == {"running"}

    @pytest.mark.parametrize(
        "option",
        [
            ("a.*",),
            ("--topic", "events"),
            ("--from", "earliest"),
            ("--to", "-1m"),
            ("--where", "data > 1"),
            ("--key", ""),
            ("--correlation", "c"),
            ("--rate", "1/s"),
        ],
    )
    def test_what_a_replay_was_begun_with_cannot_be_changed(
        self, nexus: Run, consumed: str, option: tuple[str, ...]
    ) -> None:
        name = option[0] if len(option) > 1 else "PATTERN"
        for target in (("--to-group", "billing"), ("--exec", "true")):
            refused = nexus("replay", "run", *target, "--resume", "r1", *option, code=2)
            assert f"{name} cannot be changed with --resume" in refused.stderr

    def test_a_replay_that_is_over_is_not_resumed(self, nexus: Run, consumed: str) -> None:
        done = json.loads(nexus("replay", "run", "--to-file", "out.jsonl", "-o", "json").stdout)
        again = nexus("replay", "run", "--to-file", "out.jsonl", "--resume", done["id"])
        assert f"replay {done['id']} is done" in again.stderr

    def test_029_a_line_that_was_torn_is_written_anew(self, nexus: Run, consumed: str, place: Path) -> None:
        id = interrupted(consumed, Selection())
        whole = b'{"specversion":"1.0","id":"0"}\n'
        for before, torn in ((whole, b'{"specversion":"1.0","id":"' + b"x" * 200_000), (whole, b""), (b"", b'{"sp')):
            (place / "out.jsonl").write_bytes(before + torn)
            _targets.into_file(place / "out.jsonl", go_on=True)
            assert (place / "out.jsonl").read_bytes() == before
        (place / "out.jsonl").write_bytes(whole + b'{"specversion":"1.0","id":"torn')
        nexus("replay", "run", "--to-file", "out.jsonl", "--resume", id)
        assert [line.get("data") for line in lines((place / "out.jsonl").read_text())] == [None, 0, 1, 2, 3]

    def test_a_file_that_no_replay_wrote_is_left_as_it_is(self, nexus: Run, consumed: str, place: Path) -> None:
        id = interrupted(consumed, Selection())
        (place / "thesis.txt").write_text("all on one line")
        assert (
            "was not written by a replay"
            in nexus("replay", "run", "--to-file", "thesis.txt", "--resume", id, code=2).stderr
        )
        assert (place / "thesis.txt").read_text() == "all on one line"

    def test_who_began_it_is_told_and_a_user_without_a_name_may_too(
        self, nexus: Run, consumed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def nameless() -> str:
            raise KeyError("getpwuid(): uid not found: 4711")

        for user, told in ((lambda: "ann", "ann"), (nameless, "")):
            monkeypatch.setattr(getpass, "getuser", user)
            begun = json.loads(nexus("replay", "run", "--to-group", "billing", "--no-wait", "-o", "json").stdout)
            assert begun["who"] == told

    def test_what_cannot_be_replayed_leaves_nothing_behind(self, nexus: Run, consumed: str, place: Path) -> None:
        nexus("replay", "run", "--to-file", "out.jsonl", "--where", "data >", code=2)
        nexus("replay", "run", "--to-file", "out.jsonl", "a..b", code=2)
        assert not (place / "out.jsonl").exists()
        assert "cannot be written" in nexus("replay", "run", "--to-file", "none/out.jsonl", code=1).stderr
        assert rows(nexus("replay", "ls", "-o", "json")) == []

    @pytest.mark.parametrize("topic", ["nexus.control", "nexus.delays", "nexus.group.billing", "events.billing.park"])
    def test_nothing_is_replayed_into_a_topic_of_nexus_itself(self, nexus: Run, consumed: str, topic: str) -> None:
        assert "one of Nexus itself" in nexus("replay", "run", "--to-topic", topic, "--yes", code=2).stderr
        assert rows(nexus("replay", "ls", "-o", "json")) == []

    @pytest.mark.parametrize("topic", ["A b", "", "a.park", "events.park", "nexus", "x" * 101, "a/b"])
    def test_no_topic_is_made_that_settings_cannot_name(self, nexus: Run, consumed: str, topic: str) -> None:
        nexus("replay", "run", "--to-topic", topic, "--yes", code=2)
        assert [row["topic"] for row in rows(nexus("topics", "ls", "--all", "-o", "json"))].count(topic) == 0
        assert rows(nexus("replay", "ls", "-o", "json")) == []

    def test_topics_of_nexus_itself_are_listed_only_when_asked_for(self, nexus: Run, consumed: str) -> None:
        nexus("schedules", "later", "a.b", "1", "--in", "1h")
        assert [row["topic"] for row in rows(nexus("topics", "ls", "-o", "json"))] == ["events"]
        assert "nexus.delays" in nexus("topics", "ls", "--all").stdout

    def test_a_replay_is_cancelled(self, nexus: Run, consumed: str) -> None:
        begun = json.loads(nexus("replay", "run", "--to-group", "billing", "--no-wait", "-o", "json").stdout)
        nexus("replay", "cancel", begun["id"])
        assert json.loads(nexus("replay", "show", begun["id"], "-o", "json").stdout)["state"] == "cancelled"
        nexus("replay", "cancel", begun["id"])
        done = json.loads(nexus("replay", "run", "--to-file", "out.jsonl", "-o", "json").stdout)
        assert f"replay {done['id']} was done before" in nexus("replay", "cancel", done["id"], code=4).stderr

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (("run",), 2),
            (("run", "--dry-run", "--to-group", "billing"), 2),
            (("run", "--to-group", "billing", "--to-file", "x"), 2),
            (("run", "--dry-run", "--from", "@id"), 2),
            (("run", "--dry-run", "--resume", "r1"), 2),
            (("run", "--to-file", "x", "--no-wait"), 2),
            (("run", "--to-group", "nobody"), 3),
            (("show", "nothing"), 3),
            (("cancel", "nothing"), 3),
        ],
    )
    def test_what_cannot_be_done_is_refused(
        self, nexus: Run, consumed: str, arguments: tuple[str, ...], code: int
    ) -> None:
        nexus("replay", *arguments, code=code)
