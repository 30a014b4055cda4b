"""`nexus top`, `trace`, `explain`, `plugins`, `completion`: what people at a terminal look at."""

from __future__ import annotations

import asyncio
import json
import subprocess

import msgspec
import pytest

from nexus import DeadLetter, Nexus, Publish
from nexus.cli import explain, plugins, top
from nexus.errors import NexusError

from .conftest import Run, rows


@pytest.fixture
def traced(store: str) -> str:
    """A store with one order, what it caused, and a dead letter at the end; return the order's id."""

    async def go() -> str:
        bus = Nexus(store)
        dead = asyncio.Event()

        @bus.on("order.placed", group="billing")
        async def charge(order: dict[str, int]) -> Publish:
            return Publish("payment.taken", order)

        @bus.on("payment.taken", group="shipping")
        async def ship(order: dict[str, int]) -> DeadLetter:
            dead.set()
            return DeadLetter("no_stock")

        async with bus:
            receipt = await bus.publish("order.placed", {"n": 1}, key="k")
            await dead.wait()
            await bus.dead_letters.first("shipping")
            await bus.publish("order.other", {"n": 2})
        return receipt.id

    return asyncio.run(go())


class TestTrace:
    def test_what_an_event_caused_stands_below_it_with_its_dead_letters(self, nexus: Run, traced: str) -> None:
        order, payment = rows(nexus("trace", traced, "-o", "json"))
        assert (order["type"], order["depth"], order["dead_in"]) == ("order.placed", 0, [])
        assert (payment["type"], payment["depth"], payment["dead_in"]) == ("payment.taken", 1, ["shipping"])
        assert payment["causationid"] == order["id"] == traced
        assert payment["after_ms"] >= 0
        text = nexus("trace", traced).stdout.splitlines()
        assert text[0].startswith("order.placed  ")
        assert text[1].startswith("  payment.taken  +")
        assert text[1].endswith("DEAD in shipping")

    def test_two_events_of_one_id_are_both_there(self, nexus: Run, store: str) -> None:
        async def go() -> None:
            async with Nexus(store) as bus:
                for source in ("/shop", "/copy"):
                    await bus.publish("order.placed", id="o", source=source)
                await bus.publish("payment.taken", id="p", correlationid="o")
                caused = bus.event("order.sent", id="s", correlationid="o")
                await bus.publish(msgspec.structs.replace(caused, causationid="o"))

        asyncio.run(go())
        found = rows(nexus("trace", "o", "-o", "json"))
        assert len({(row["topic"], row["partition"], row["position"]) for row in found}) == len(found) == 4
        assert sorted((row["id"], row["depth"]) for row in found) == [("o", 0), ("o", 0), ("p", 0), ("s", 1)]

    def test_events_that_name_each_other_as_cause_are_there(self, nexus: Run, store: str) -> None:
        async def go() -> None:
            async with Nexus(store) as bus:
                for id, cause in (("a", "b"), ("b", "a"), ("c", "c")):
                    event = bus.event("order.placed", id=id, correlationid="r")
                    await bus.publish(msgspec.structs.replace(event, causationid=cause))

        asyncio.run(go())
        found = rows(nexus("trace", "r", "-o", "json"))
        assert (found[0]["id"], {found[1]["id"], found[2]["id"]}) == ("c", {"a", "b"})
        assert [row["depth"] for row in found] == [0, 0, 1]

    def test_what_is_not_stored_is_not_found(self, nexus: Run, traced: str) -> None:
        nexus("trace", "nothing", code=3)
        nexus("trace", traced, "--from", "soon", code=2)
        nexus("trace", traced, "--from", "@id", code=2)


class TestTop:
    def test_each_look_is_a_line_of_json(self, nexus: Run, traced: str) -> None:
        lines = nexus("top", "-o", "json", "--interval", "10ms", "--count", "2").stdout.splitlines()
        assert len(lines) == 2
        seen = json.loads(lines[1])
        assert [topic["topic"] for topic in seen["topics"]] == ["events"]
        (shipping,) = [group for group in seen["groups"] if group["group"] == "shipping"]
        assert (shipping["state"], shipping["dead"], shipping["members"]) == ("idle", 1, 0)

    def test_rates_are_what_moved_in_the_time_between(self) -> None:
        before = top.Look(10.0, {"events": 100}, {"g": 40}, {"events": {}}, {"g": {}})
        now = top.Look(12.0, {"events": 150, "new": 7}, {"g": 60}, {"events": {}, "new": {}}, {"g": {}})
        assert top.report(before, now) == {
            "topics": [{"topic": "events", "in_per_s": 25.0}, {"topic": "new", "in_per_s": 0.0}],
            "groups": [{"group": "g", "out_per_s": 10.0}],
        }
        assert top.report(now, now)["groups"] == [{"group": "g", "out_per_s": 0.0}]

    def test_without_a_terminal_the_tables_are_printed(self, nexus: Run, traced: str) -> None:
        written = nexus("top", "--interval", "10ms", "--count", "1").stdout
        assert "events" in written
        assert "shipping" in written
        assert written.endswith("\n")
        told = json.loads(nexus("top", "-o", "json", "--interval", "10ms", "--count", "1").stdout)
        heads = [line.split() for line in written.splitlines() if "_per_s" in line]
        assert heads == [list(told["topics"][0]), list(told["groups"][0])]


class TestExplain:
    def test_every_code_is_explained(self, nexus: Run) -> None:
        def below(kind: type[NexusError]) -> list[type[NexusError]]:
            return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

        codes = {kind.code for kind in below(NexusError) if kind.__module__.startswith("nexus.")}
        assert codes <= explain.entries().keys()

    def test_a_code_is_found_with_its_prefix_and_without(self, nexus: Run) -> None:
        for code in ("NXS-3002", "nxs-3002", "3002"):
            told = json.loads(nexus("explain", code, "-o", "json").stdout)
            assert (told["error"], set(told)) == ("Overloaded", set(explain.FIELDS))
        assert {row["code"] for row in rows(nexus("explain", "-o", "json"))} == explain.entries().keys()
        nexus("explain", "NXS-9", code=3)

    def test_what_is_told_is_for_a_terminal(self) -> None:
        assert explain.entries()["NXS-2200"]["do"] == "see docs/filters.md and docs/patterns.md"
        assert not [row for row in explain.entries().values() if "](" in "".join(row.values())]


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_script_asks_the_command_itself(self, nexus: Run, shell: str) -> None:
        assert "_NEXUS_COMPLETE" in nexus("completion", shell).stdout

    def test_bash_takes_the_script(self, nexus: Run) -> None:
        script = nexus("completion", "bash").stdout
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0

    def test_another_shell_is_refused(self, nexus: Run) -> None:
        nexus("completion", "csh", code=2)


def test_plugins_are_listed(nexus: Run) -> None:
    assert isinstance(rows(nexus("plugins", "-o", "json")), list)
    assert "NAME" in nexus("plugins").stdout


def test_without_plugins_those_that_are_there_anyway_are_named(nexus: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: ())
    assert nexus("plugins").stderr == "none beside kafka, memory, nats, rabbitmq, sqlite\n"
    assert nexus("plugins", "-o", "json").stderr == ""


def test_the_line_that_moves_a_program_to_a_broker_is_told_beside_that_for_tests(
    nexus: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXUS_NATS_SERVERS", "nats://127.0.0.1:1")
    done = nexus("brokers", "up", "nats")
    assert done.stdout == "export NEXUS_NATS_SERVERS=nats://127.0.0.1:1\n"
    assert done.stderr.endswith("\n# export NEXUS_BACKEND=nats://127.0.0.1:1\n")
    monkeypatch.setenv("NEXUS_NATS_SERVERS", "nats://me:secret@127.0.0.1:1")
    assert "secret" not in nexus("brokers", "up", "nats").stderr
