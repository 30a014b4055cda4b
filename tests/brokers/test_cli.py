"""`nexus brokers`: data on stdout, talk on stderr, and the exit codes of the other verbs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nexus import brokers
from nexus.cli._root import root
from nexus.cli.brokers import followed

from .conftest import StandIn


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(root, ["brokers", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def rows(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_up_prints_the_line_to_use_and_talks_on_stderr(programs: StandIn) -> None:
    programs.nats()
    result = run("up", "nats", "--nodes", "3")
    (broker,) = brokers.status()
    hosts = ",".join(f"nats://127.0.0.1:{node.ports['client']}" for node in broker.nodes)
    assert result.stdout == f"export NEXUS_NATS_SERVERS={hosts}\n"
    assert result.stderr.startswith("nats: starting nats 2.99.0, 3 of 3 nodes\nnats: ready after ")
    (row,) = rows(run("up", "nats", "--nodes", "3", "--json"))
    assert row["url"] == broker.url
    assert row["given"] is False


def test_a_url_with_signs_of_the_shell_is_quoted(programs: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_RABBITMQ_URL", "amqp://u:p@a:1/?x=1&y=2")
    assert run("up", "rabbitmq").stdout == "export NEXUS_RABBITMQ_URL='amqp://u:p@a:1/?x=1&y=2'\n"


def test_status_shows_every_node_and_fails_when_one_is_down(programs: StandIn) -> None:
    assert rows(run("status", "--json")) == []
    programs.nats()
    run("up", "nats")
    run("up", "nats", "--nodes", "3", "--name", "faults")
    states = [(row["name"], row["node"], row["state"]) for row in rows(run("status", "-o", "json"))]
    assert states == [("default", 1, "running"), *[("faults", number, "running") for number in (1, 2, 3)]]
    brokers.status()[1].kill(2)
    shown = run("status", "nats", code=1).stdout.splitlines()
    assert len(shown) == 5
    assert "stopped" in shown[4]
    assert rows(run("status", "kafka", "--json")) == []


def test_status_shows_what_was_given_without_its_password(programs: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_KAFKA_BOOTSTRAP", "user:secret@a:1")
    result = run("status", "--json")
    (row,) = rows(result)
    assert (row["kind"], row["state"], row["url"]) == ("kafka", "given", "kafka://a:1")
    assert "secret" not in result.output


def test_down_ends_all_or_those_that_were_meant(programs: StandIn) -> None:
    programs.nats()
    for more in ([], ["--nodes", "3"], ["--name", "faults"]):
        run("up", "nats", *more)
    assert "nothing was started here" in run("down", "kafka").stderr
    (row,) = rows(run("down", "nats", "--name", "faults", "--json"))
    assert row == {"kind": "nats", "name": "faults", "nodes": 1, "ended": 1, "data_deleted": False}
    assert [row["ended"] for row in rows(run("down", "--data", "--json"))] == [1, 3, 0]
    assert brokers.status() == []


def test_down_with_data_warns_when_the_environment_still_names_it(
    programs: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.nats()
    monkeypatch.setenv("NEXUS_NATS_SERVERS", run("up", "nats").stdout.strip().partition("=")[2])
    assert "unset" not in run("down", "nats").stderr
    run("up", "nats")
    assert "unset NEXUS_NATS_SERVERS" in run("down", "nats", "--data").stderr


def test_logs_prints_lines_and_says_what_is_not_there(programs: StandIn) -> None:
    assert "nexus brokers up nats" in run("logs", "nats", code=3).stderr
    programs.nats()
    run("up", "nats")
    assert run("logs", "nats", "--lines", "5").stdout.splitlines()[0] == "listening"
    assert "there is no node 2 of 1" in run("logs", "nats", "--node", "2", code=2).stderr


def test_follow_goes_on_across_a_restart(programs: StandIn) -> None:
    programs.nats()
    broker = brokers.up("nats")
    broker.nodes[0].log_path.write_text("one\ntwo\n")
    lines = followed(broker.nodes[0], 1)
    assert next(lines) == "two"
    with broker.nodes[0].log_path.open("a") as log:
        log.write("three\n")
    assert next(lines) == "three"
    broker.kill(0)
    broker.start(0)
    assert next(lines) == "listening"
    lines.close()  # type: ignore[attr-defined]


def test_what_is_missing_ends_with_69_and_a_command(programs: StandIn) -> None:
    result = run("up", "kafka", code=69)
    assert result.stdout == ""
    assert "Next: apt-get install maven" in result.stderr


def test_a_broker_that_fails_ends_with_1_and_a_wrong_kind_with_2(programs: StandIn) -> None:
    programs.nats(before="sys.exit('no')")
    assert "  no\n" in run("up", "nats", code=1).stderr
    assert "'redis' is not one of 'kafka', 'nats', 'rabbitmq'" in run("up", "redis", code=2).stderr
    assert "is no name for a broker" in run("up", "nats", "--name", "No", code=2).stderr


def test_the_library_itself_imports_nothing_of_it() -> None:
    code = "import sys, nexus, nexus.cli._root; sys.exit('nexus.brokers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
