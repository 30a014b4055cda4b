"""`nexus topics` and `nexus groups`, and where a verb finds its store."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus import Nexus
from nexus.cli import dlq, groups, topics
from nexus.cli._output import print_one, print_rows
from nexus.spi.backend import Handover, PartitionLag

from .conftest import Run, rows


@pytest.fixture
def consumed(store: str) -> None:
    """A store with a group that has consumed, and a parking topic."""

    async def go() -> None:
        bus = Nexus(store)
        done = asyncio.Event()

        @bus.on("a.*", group="billing", start="earliest")
        async def handle(data: int) -> None:
            if data == 2:
                done.set()

        async with bus:
            for number in range(3):
                await bus.publish("a.b", number, key="k")
            await done.wait()
        again = Nexus(store)
        await again.start(consume=False)
        await again.publish("a.b", 3, key="k")
        await again.close()

    asyncio.run(go())


@pytest.mark.usefixtures("consumed")
class TestLists:
    def test_topics_are_listed_without_those_that_park(self, nexus: Run) -> None:
        (only,) = rows(nexus("topics", "ls", "-o", "json"))
        assert (only["topic"], only["partitions"], only["events"], only["durability"]) == ("events", 16, 4, "disk")
        names = [row["topic"] for row in rows(nexus("topics", "ls", "--all", "-o", "json"))]
        assert names == ["events", "events.billing.park", "nexus.control"]

    def test_a_topic_is_shown_by_partition(self, nexus: Run) -> None:
        parts = rows(nexus("topics", "show", "events", "-o", "json"))
        assert [part["partition"] for part in parts] == list(range(16))
        assert sum(part["events"] for part in parts) == 4

    def test_groups_are_listed_with_their_lag(self, nexus: Run) -> None:
        (only,) = rows(nexus("groups", "ls", "-o", "json"))
        assert (only["group"], only["topics"], only["partitions"], only["lag"]) == ("billing", ["events"], 16, 1)
        assert (only["members"], only["unowned"]) == (0, 16)
        assert only["oldest_at"].endswith("Z")

    def test_a_group_is_shown_by_partition(self, nexus: Run) -> None:
        parts = rows(nexus("groups", "show", "billing", "-o", "json"))
        (behind,) = [part for part in parts if part["lag"]]
        assert (behind["low"], behind["end"], behind["owner"]) == (3, 4, None)
        assert behind["epoch"] > 0
        assert (behind["since"], behind["why"], behind["before"]) == (None, None, None)  # a file does not keep it

    @pytest.mark.parametrize("verb", [["topics", "show", "x"], ["groups", "show", "x"]])
    def test_what_does_not_exist_is_not_found(self, nexus: Run, verb: list[str]) -> None:
        result = nexus(*verb, code=3)
        assert "'x'" in result.stderr
        assert result.stdout == ""

    @pytest.mark.parametrize(
        ("verb", "fields"),
        [
            (["topics", "ls"], topics.FIELDS),
            (["topics", "show", "events"], topics.PARTITION_FIELDS),
            (["groups", "ls"], groups.FIELDS),
            (["groups", "show", "billing"], groups.PARTITION_FIELDS),
            (["dlq", "ls"], dlq.FIELDS),
        ],
    )
    def test_all_formats_have_the_same_fields(self, nexus: Run, verb: list[str], fields: tuple[str, ...]) -> None:
        head, *table = nexus(*verb).stdout.splitlines()
        assert head.split() == [field.upper() for field in fields]
        told = rows(nexus(*verb, "-o", "json"))
        assert len(table) == len(told)
        assert all(tuple(row) == fields for row in told)
        assert read_yaml(nexus(*verb, "-o", "yaml").stdout) == told


@pytest.mark.usefixtures("consumed")
@pytest.mark.parametrize(
    ("verb", "hint"),
    [
        (["topics", "show", "x"], "known: events"),
        (["topics", "show", "evnts"], "did you mean 'events'?"),
        (["groups", "show", "x"], "known: billing"),
        (["groups", "watch", "biling"], "did you mean 'billing'?"),
        (["subscriptions", "pause", "x"], "known: billing"),
        (["subscriptions", "seek", "billing", "evnts[0]@1", "--yes"], "did you mean 'events'?"),
    ],
)
def test_a_name_that_is_not_known_is_answered_with_those_that_are(nexus: Run, verb: list[str], hint: str) -> None:
    assert f"\nNext: {hint}\n" in nexus(*verb, code=3).stderr


@pytest.mark.usefixtures("consumed")
def test_a_partition_that_is_not_there_is_answered_with_their_number(nexus: Run) -> None:
    told = nexus("subscriptions", "seek", "billing", "events[99]@2", "--yes", code=2).stderr
    assert "topic events has 16 partitions, from 0 on" in " ".join(told.split())


def lag(owner: str | None, handover: Handover | None = None, low: int = 3) -> PartitionLag:
    return PartitionLag("orders", 0, low, 5, 1, owner, None, "", handover)


def test_a_partition_in_other_hands_is_a_row_with_the_reason() -> None:
    known: dict[tuple[str, int], groups.Hands] = {("orders", 0): ("anna", None)}
    assert groups.changes("g", known, [lag("anna")], 0.0) == []
    (row,) = groups.changes("g", known, [lag("bert")], 1.5)
    assert tuple(row) == groups.CHANGE_FIELDS
    assert (row["at"], row["owner"], row["before"], row["why"], row["lag"]) == (
        "1970-01-01T00:00:01.500Z", "bert", "anna", None, 2,
    )  # fmt: skip
    (row,) = groups.changes("g", known, [lag("anna", Handover(2.0, "released", "anna"))], 9.0)
    assert (row["at"], row["owner"], row["why"]) == ("1970-01-01T00:00:02.000Z", "anna", "released")
    (row,) = groups.changes("g", {}, [lag(None, Handover(2.0, "left", "anna"))], 9.0)
    assert groups._line(row) == "1970-01-01T00:00:02.000Z  orders[0]  anna -> nobody (left)  lag 2"


def test_a_group_is_watched_while_it_changes_hands(
    nexus: Run, store: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    url = "log+" + store  # what brokers' groups are made of, without a broker
    nexus("publish", "a.b", "--url", url)

    async def consume() -> None:
        bus = Nexus(url)
        got = asyncio.Event()

        @bus.on("a.*", group="billing", start="earliest")
        async def handle(data: object) -> None:
            got.set()

        async with bus:
            await got.wait()

    asyncio.run(consume())
    watching = start("groups", "watch", "billing", "-o", "json", "--interval", "50ms", "--url", url)
    assert watching.stdout is not None
    assert watching.stderr is not None
    assert "watching 16 partitions of 0 members" in watching.stderr.readline()
    nexus("publish", "a.b", "--url", url)
    asyncio.run(consume())
    told = [json.loads(watching.stdout.readline()) for _ in range(16)]
    assert {row["partition"] for row in told} == set(range(16))
    assert {row["why"] for row in told} <= {"joined", "left"}
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 0


def test_a_group_that_is_not_there_is_not_watched(nexus: Run, store: str) -> None:
    nexus("publish", "a.b", "--url", store)
    assert "'x'" in nexus("groups", "watch", "x", code=3).stderr


def read_yaml(text: str) -> list[dict[str, object]]:
    """Read the YAML that is written here: a list of flat maps whose values are JSON."""
    found: list[dict[str, object]] = []
    for line in text.splitlines():
        if line == "[]":
            return []
        if line.startswith("- "):
            found.append({})
        name, _, value = line[2:].partition(": ")
        found[-1][name] = json.loads(value)
    return found


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_what_is_shown_commands_no_terminal(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"a": "\x1b[31m", "b": ["\x9b"], "c": {"d": "\x07"}}], ("a", "b", "c"), output)
    print_one({"a": "\x1b[31m", "b": None, "c": True, "d": ""}, output)
    assert capsys.readouterr().out.replace("\n", "").isprintable()


# -- where the store is ----------------------------------------------------------------------------------------------

READING = [
    ["tail"], ["topics", "ls"], ["topics", "show", "x"], ["groups", "ls"], ["groups", "show", "x"], ["dlq", "ls"],
    ["dlq", "show", "g/t/0/0"], ["dlq", "requeue", "g/t/0/0"], ["dlq", "discard", "--all", "--yes"],
    ["dlq", "edit", "g/t/0/0"],
]  # fmt: skip


@pytest.mark.parametrize("verb", READING)
def test_without_a_store_there_is_a_clear_error_and_no_file(nexus: Run, place: Path, verb: list[str]) -> None:
    result = nexus(*verb, code=3)
    assert "no other store is named" in result.stderr
    assert "NEXUS_URL" in result.stderr
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("verb", READING)
def test_a_verb_that_reads_makes_no_file(nexus: Run, place: Path, verb: list[str]) -> None:
    assert "there is no store" in nexus(*verb, "--url", "sqlite:///new.db", code=3).stderr
    assert list(place.iterdir()) == []


MAKING = [
    ["publish", "a.b"], ["publish", "--lines", "-"], ["schedules", "later", "a.b", "--in", "1h"],
    ["schedules", "every", "nightly", "30 2 * * *", "a.b"], ["subscribe", "a.*", "--group", "g", "--limit", "1"],
]  # fmt: skip


@pytest.mark.parametrize("verb", MAKING)
def test_no_verb_makes_a_store_that_is_not_named(nexus: Run, place: Path, verb: list[str]) -> None:
    told = nexus(*verb, code=3).stderr
    assert "no other store is named" in told
    assert "nexus publish TYPE --url sqlite:///.nexus/nexus.db" in told
    assert list(place.iterdir()) == []
    nexus("publish", "a.b", "--url", "sqlite:///.nexus/nexus.db")
    assert nexus("tail", "-o", "raw").stdout == "\n"


@pytest.mark.parametrize("verb", MAKING[:-1])
def test_a_verb_that_writes_makes_the_store_that_is_named(
    nexus: Run, place: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    nexus(*verb, "--url", "sqlite:///argument.db")
    monkeypatch.setenv("NEXUS_BACKEND", "sqlite:///setting.db")
    nexus(*verb)
    assert {"argument.db", "setting.db"} <= {path.name for path in place.iterdir()}


@pytest.mark.parametrize("verb", [*MAKING, *READING])
def test_no_verb_makes_the_folder_of_a_path_with_a_slip(nexus: Run, place: Path, verb: list[str]) -> None:
    told = nexus(*verb, "--url", f"sqlite:///{place}/nowhere/dir/x.db", code=3).stderr
    assert f"there is no folder {place}/nowhere/dir for a store" in told
    assert list(place.iterdir()) == []


def test_memory_is_another_process(nexus: Run) -> None:
    assert "lives in one process" in nexus("tail", "--url", "memory://", code=3).stderr


def test_the_order_of_places(nexus: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def where() -> str:
        """The id of the one event of the store that is found."""
        return str(json.loads(nexus("tail", "-o", "json").stdout)["id"])

    for name in ("url", "variable", "setting", "file", ".nexus/nexus"):
        (place / name).parent.mkdir(exist_ok=True)
        nexus("publish", "a.b", "--id", name, "--url", f"sqlite:///{name}.db")
    below = place / "below" / "it"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert where() == ".nexus/nexus"
    monkeypatch.chdir(place)
    assert where() == ".nexus/nexus"
    (place / "nexus.toml").write_text('backend = "sqlite:///file.db"')
    assert where() == "file"
    monkeypatch.setenv("NEXUS_BACKEND", "sqlite:///setting.db")
    assert where() == "setting"
    monkeypatch.setenv("NEXUS_URL", "sqlite:///variable.db")
    assert where() == "variable"
    assert json.loads(nexus("tail", "-o", "json", "--url", "sqlite:///url.db").stdout)["id"] == "url"


def test_a_store_above_is_used_with_its_settings(nexus: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / ".nexus").mkdir()
    (place / "nexus.toml").write_text('[topics.orders]\npatterns = ["order.*"]\n')
    nexus("publish", "order.placed", "--url", "sqlite:///.nexus/nexus.db")
    (place / "below").mkdir()
    monkeypatch.chdir(place / "below")
    assert json.loads(nexus("publish", "order.placed", "-o", "json").stdout)["topic"] == "orders"


def test_a_scheme_that_nobody_knows_suggests_the_near_one(nexus: Run) -> None:
    assert "did you mean sqlite://" in nexus("tail", "--url", "sqlit:///x.db", code=2).stderr
