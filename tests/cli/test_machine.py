"""`nexus doctor`, `nexus config` and `nexus bench`."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from nexus.bench import runner
from nexus.cli import config, doctor
from nexus.cli.doctor import file_system
from nexus.config import load
from nexus.testing.backends import broker_url

from .conftest import Run, rows


def states(nexus: Run, *arguments: str, code: int = 0) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in rows(nexus("doctor", "-o", "json", *arguments, code=code))}


def test_a_store_in_order_is_green(nexus: Run, store: str) -> None:
    nexus("publish", "a.b", "--url", store)
    found = states(nexus)
    assert {row["state"] for row in found.values()} == {"green"}
    assert set(found) == {
        "python", "extras", "clock", "open files", "sqlite", "store", "durability", "fsync", "file system",
        "journal mode", "file format",
    }  # fmt: skip
    assert found["journal mode"]["found"] == "wal"
    assert found["durability"]["found"].startswith("disk")
    assert found["file format"]["found"] == "1"


def test_no_store_yet_is_no_fault_and_makes_none(nexus: Run, place: Path) -> None:
    assert states(nexus)["store"]["state"] == "yellow"
    assert list(place.iterdir()) == []


def test_a_damaged_store_is_red(nexus: Run, place: Path) -> None:
    (place / "bad.db").write_bytes(b"this is no database")
    found = states(nexus, "--url", "sqlite:///bad.db", code=1)
    assert found["store"]["state"] == "red"
    assert "not a SQLite database" in found["store"]["found"]


def test_settings_that_cannot_be_read_are_red(nexus: Run, place: Path) -> None:
    (place / "nexus.toml").write_text("workers = -1")
    assert "nexus.toml:1" in states(nexus, code=1)["store"]["found"]


def test_few_open_files_and_a_slow_disk_and_an_old_sqlite_are_told(nexus: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(doctor, "SLOW_FSYNC_MS", -1.0)
    monkeypatch.setattr(doctor, "LEAST_SQLITE", (99, 0, 0))
    found = states(nexus, code=1)
    assert found["open files"]["state"] == found["fsync"]["state"] == "yellow"
    assert found["sqlite"]["state"] == "red"


def test_a_clock_that_is_not_set_is_red(nexus: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_YEAR_2025_S", 1e12)
    assert states(nexus, code=1)["clock"]["state"] == "red"


def test_stored_times_in_the_future_are_told(nexus: Run, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nexus("publish", "a.b", "--url", store)
    now = doctor.time.time
    monkeypatch.setattr(doctor.time, "time", lambda: now() - 86_400)
    assert states(nexus)["stored times"]["state"] == "yellow"


def test_the_file_system_is_that_of_the_deepest_mount() -> None:
    mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /mnt/a\\040b rw - nfs4 host:/ rw\n"
    assert file_system(Path("/mnt/a b/x.db"), lambda: mounts) == "nfs4"
    assert file_system(Path("/mnt/x.db"), lambda: mounts) == "ext4"


def test_the_fields_are_the_same_in_the_table(nexus: Run) -> None:
    assert nexus("doctor").stdout.splitlines()[0].split() == [field.upper() for field in doctor.FIELDS]


@pytest.fixture(scope="module")
def nats() -> str:
    """The URL of a server; asked for before the environment is emptied."""
    return broker_url("nats")


@pytest.mark.broker
def test_a_broker_is_examined_also_when_the_store_cannot_be_opened(nexus: Run, nats: str) -> None:
    nexus("publish", "a.b", "--url", f"{nats}/?prefix=doctor")
    found = states(nexus, "--url", f"{nats}/?prefix=doctor")
    assert {"store", "client", "nodes", "version", "JetStream", "rights", "durability"} < set(found)
    assert found["durability"]["found"].startswith("process")
    assert "fsync" not in found
    found = states(nexus, "--url", "nats://127.0.0.1:1/?connect_s=0.2", code=1)
    assert (found["store"]["state"], found["nodes"]["state"]) == ("red", "red")


# -- config ----------------------------------------------------------------------------------------------------------


def test_each_setting_is_shown_with_its_origin(nexus: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "nexus.toml").write_text('workers = 4\n[topics.orders]\npatterns = ["order.*"]\n')
    monkeypatch.setenv("NEXUS_PUBLISH__TIMEOUT", "5s")
    told = {row["setting"]: row for row in rows(nexus("config", "show", "-o", "json"))}
    assert (told["workers"]["value"], told["workers"]["origin"]) == (4, "nexus.toml:1")
    assert (told["publish.timeout"]["value"], told["publish.timeout"]["origin"]) == ("5s", "NEXUS_PUBLISH__TIMEOUT")
    assert told["topics.orders.patterns"]["value"] == ["order.*"]
    assert [told[name]["value"] for name in ("settle_interval", "prefetch_bytes")] == ["200ms", "64MiB"]
    assert told["topics.orders.partitions"]["origin"] == "default"
    options = {name for name in told if name.startswith("sqlite.")}
    assert set(told) - options == set(load().origins)
    assert (told["sqlite.lease_s"]["value"], told["sqlite.lease_s"]["origin"]) == (10.0, "default")
    assert nexus("config", "show").stdout.splitlines()[0].split() == [field.upper() for field in config.FIELDS]


def test_what_is_shown_can_be_given_again(nexus: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {row["setting"]: row["value"] for row in rows(nexus("config", "show", "-o", "json"))}
    for path, value in before.items():
        if value is not None and not path.startswith(("topics.", "schemas")):
            monkeypatch.setenv(
                "NEXUS_" + path.upper().replace(".", "__"), value if isinstance(value, str) else json.dumps(value)
            )
    after = rows(nexus("config", "show", "-o", "json"))
    assert {row["setting"]: row["value"] for row in after} == before
    assert {row["origin"] for row in after if row["setting"] in ("drain", "publish.timeout")} == {
        "NEXUS_DRAIN", "NEXUS_PUBLISH__TIMEOUT"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "told"),
    [(None, "cannot be read: No such file"), ("{", "is no JSON Schema"), ('{"type": 7}', "is no JSON Schema")],
)
def test_the_schemas_of_the_settings_are_checked(nexus: Run, place: Path, schema: str | None, told: str) -> None:
    (place / "nexus.toml").write_text('workers = 4\n[schemas]\n"order.*" = "order.json"\n')
    (place / "order.json").write_text('{"type": "object"}')
    assert "in order" in nexus("config", "check").stderr
    (place / "order.json").unlink() if schema is None else (place / "order.json").write_text(schema)
    said = nexus("config", "check", code=2).stderr
    assert f"nexus.toml:2: schemas: order.json {told}" in said


def test_schemas_without_what_reads_them_are_not_in_order(
    nexus: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    assert "in order" in nexus("config", "check").stderr
    (place / "nexus.toml").write_text('[schemas]\n"order.*" = "order.json"\n')
    (place / "order.json").write_text("{}")
    assert "pip install 'nexus-bus[schema]'" in nexus("config", "check", code=69).stderr


def test_secrets_are_not_shown(nexus: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_BACKEND", "rabbitmq://me@host:5672/?prefix=shop")
    monkeypatch.setenv("NEXUS_RABBITMQ__PASSWORD", "hunter2")
    for output in ("table", "json", "yaml"):
        text = nexus("config", "show", "-o", output).stdout
        assert "hunter2" not in text
        assert "rabbitmq://host:5672" in text
    told = {row["setting"]: row for row in rows(nexus("config", "show", "-o", "json"))}
    assert told["rabbitmq.password"] == {
        "setting": "rabbitmq.password", "value": "***", "origin": "NEXUS_RABBITMQ__PASSWORD"
    }  # fmt: skip
    assert (told["rabbitmq.user"]["value"], told["rabbitmq.user"]["origin"]) == ("me", "url")
    assert told["rabbitmq.prefix"]["origin"] == "url"
    for bad in ("kafka://user:hunter2@host:9092", "kafka://host?password=hunter2", "rabbitmq://me:hunter2@host"):
        monkeypatch.setenv("NEXUS_BACKEND", bad)
        result = nexus("config", "show", code=2)
        assert "hunter2" not in result.output


def test_settings_are_checked(nexus: Run, place: Path) -> None:
    (place / "mine.toml").write_text("workers = 4")
    assert "in order: 1 given" in nexus("config", "check", "--file", "mine.toml").stderr
    (place / "mine.toml").write_text("[sqlite]\nlease_s = 4")
    assert "in order: 1 given" in nexus("config", "check", "--file", "mine.toml").stderr
    (place / "mine.toml").write_text("[sqlite]\nlease = 4")
    assert "did you mean 'sqlite.lease_s'?" in nexus("config", "check", "--file", "mine.toml", code=2).stderr
    (place / "nexus.toml").write_text("wokers = 4")
    assert "did you mean 'workers'?" in nexus("config", "check", code=2).stderr
    assert "does not exist" in nexus("config", "check", "--file", "none.toml", code=2).stderr


# -- bench -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Contestants that take no time: ours is twice as fast as theirs."""
    ran: list[str] = []

    def measure(contestant: str, events: int, folder: Path | None, broker: str | None) -> dict[str, float]:
        ran.append(contestant)
        if contestant == "litequeue" or "faststream" in contestant:
            raise ModuleNotFoundError(f"No module named {contestant!r}; pip install 'nexus-bus[bench]'")
        fast = 2.0 if contestant.startswith("nexus") else 1.0
        return {"events": fast, "deliveries": fast, "end_to_end": fast, "p50_ms": 1 / fast, "p99_ms": 4 / fast}

    monkeypatch.setattr(runner, "measure", measure)
    return ran


def test_a_benchmark_prints_medians_and_ratios_with_their_goals(nexus: Run, measured: list[str], place: Path) -> None:
    result = nexus("bench", "sqlite-many", "sqlite-settled", "--rounds", "2", "--scale", "0.1", "--json", "out.json")
    goals = [line for line in result.stdout.splitlines() if "over" in line]
    assert goals[0].split()[-6:] == ["2.00", "2.00", "-", ">=", "0.60", "met"]
    assert goals[1].split()[-2:] == ["15.00", "short"]
    assert "litequeue is not installed" in result.stdout
    assert "round 2 of 2" in result.stderr
    assert set(json.loads((place / "out.json").read_text())["scenarios"]) == {"sqlite-many", "sqlite-settled"}


def test_a_missed_goal_is_an_error_only_when_strict(nexus: Run, measured: list[str]) -> None:
    nexus("bench", "memory", "--rounds", "1")
    assert "missed: publish to handled" in nexus("bench", "memory", "--rounds", "1", "--strict", code=1).stderr
    nexus("bench", "sqlite-many", "--rounds", "1", "--strict")


def test_a_backend_is_measured_by_all_its_goals_and_a_peer_that_is_not_installed_is_told_loudly(
    nexus: Run, measured: list[str], place: Path
) -> None:
    result = nexus("bench", "--backend", "kafka", "--rounds", "2", "--scale", "0.01", "--json", "out.json")
    assert measured[:5] == [
        "nexus_broker_publish", "kafka_raw_futures", "kafka_faststream_publish", "nexus_broker_publish",
        "kafka_raw_futures",
    ]  # fmt: skip
    lines = result.stdout.splitlines()
    assert [line.split()[-2:] for line in lines if "kafka_faststream_publish  " in line] == [["not", "installed"]]
    assert [line.split()[-4:] for line in lines if "in flight, over FastStream" in line] == [
        [">=", "1.30", "not", "measured"]
    ]
    assert [line.split()[-5:] for line in lines if "added to raw at 500 events/s, p50" in line] == [
        ["-0.50", "-", "<=", "0.50", "met"]
    ]
    assert "pip install 'nexus-bus[bench]'" in lines[-1]
    told = json.loads((place / "out.json").read_text())["scenarios"]
    assert {name for name in told if "kafka" in name} == set(told)
    assert [goal["state"] for goal in told["kafka-publish"]["goals"]] == ["met", "not measured"]
    assert "not measured" not in nexus("bench", "sqlite-many", "--rounds", "1", "--strict").stdout
    assert "over FastStream" in nexus("bench", "kafka-publish", "--rounds", "1", "--strict", code=1).stderr
    assert "nothing is measured" in nexus("bench", "--backend", "redis", code=2).stderr
    assert "not both" in nexus("bench", "memory", "--backend", "nats", code=2).stderr


def test_without_names_all_run_but_growth(nexus: Run, measured: list[str]) -> None:
    nexus("bench", "--rounds", "1")
    assert "nexus_sqlite_growth" not in measured
    nexus("bench", "memory", "--rounds", "1", "--growth")
    assert measured[-1] == "nexus_sqlite_growth"


def test_a_contestant_that_fails_and_a_name_that_is_none(nexus: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> dict[str, float]:
        raise RuntimeError("it failed")

    monkeypatch.setattr(runner, "measure", fail)
    assert "it failed" in nexus("bench", "memory", code=1).stderr
    assert "known: memory," in nexus("bench", "speed", code=2).stderr
