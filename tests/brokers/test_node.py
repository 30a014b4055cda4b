"""One node: what its state file holds, and when a pid is trusted."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from nexus.brokers import BrokerFailed, process
from nexus.brokers.broker import nodes_of
from nexus.brokers.node import Node, State

PAUSE = "import signal; signal.pause()"


@pytest.fixture
def node(place: Path) -> Node:
    (one,) = nodes_of("nats", 1, "default")
    return one


def test_the_state_is_read_as_it_was_written(node: Node) -> None:
    state = State({"client": 20_001}, {"sync_interval": "always"}, "2.15.1", "nats://127.0.0.1:20001", 77)
    node.remember(state)
    assert node.state == state
    assert [file.name for file in node.folder.iterdir()] == ["state.json"]


def test_a_node_that_was_never_started_says_how_to(node: Node) -> None:
    assert (node.known, node.pid, node.condition) == (False, None, "stopped")
    with pytest.raises(BrokerFailed, match="nexus brokers up nats"):
        _ = node.ports


@pytest.mark.parametrize("text", ["", "{", "[]", '{"nothing": 1}'])
def test_a_damaged_state_is_refused_and_says_what_to_delete(node: Node, text: str) -> None:
    node.folder.mkdir(parents=True)
    node.state_path.write_text(text)
    with pytest.raises(BrokerFailed, match="delete "):
        _ = node.state
    node.state_path.unlink()


def test_a_pid_that_is_another_program_by_now_is_not_touched(node: Node) -> None:
    node.remember(State({"client": 20_001}, pid=os.getpid()))
    assert node.pid is None
    assert not node.ask_to_end()
    for what in (node.kill, lambda: node.send(signal.SIGKILL)):
        with pytest.raises(BrokerFailed, match="does not run"):
            what()


def test_a_process_is_launched_frozen_thawed_and_killed(node: Node) -> None:
    node.remember(State({"client": 20_001}))
    node.launch([sys.executable, "-c", PAUSE, str(node.config_path)], os.environ)
    pid = node.pid
    assert pid is not None
    assert os.getsid(pid) == pid
    assert node.condition == "running"
    node.send(signal.SIGSTOP)
    process.await_frozen(pid)
    assert node.condition == "frozen"
    node.send(signal.SIGCONT)
    node.kill()
    assert (node.pid, node.condition) == (None, "stopped")


def test_one_that_ignores_sigterm_is_killed_after_its_time(node: Node) -> None:
    node.remember(State({"client": 20_001}))
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    node.launch([sys.executable, "-c", code, str(node.config_path)], os.environ)
    assert node.ask_to_end()
    node.await_end(0.2)
    assert node.pid is None
    assert node.state.pid is None


def test_a_frozen_one_can_be_asked_to_end(node: Node) -> None:
    node.remember(State({"client": 20_001}))
    node.launch([sys.executable, "-c", PAUSE, str(node.config_path)], os.environ)
    node.send(signal.SIGSTOP)
    assert node.ask_to_end()
    node.await_end(20)
    assert node.pid is None


def test_a_program_that_is_not_there_cannot_be_started(node: Node) -> None:
    node.remember(State({"client": 20_001}))
    with pytest.raises(BrokerFailed, match="/no/such/program cannot be started: FileNotFoundError"):
        node.launch(["/no/such/program"], os.environ)


def test_the_log_of_the_start_before_is_kept_aside(node: Node) -> None:
    node.remember(State({"client": 20_001}))
    node.log_path.write_text("".join(f"line {number}\n" for number in range(100)))
    assert node.last_lines(2) == ["line 98", "line 99"]
    assert node.last_lines(0) == []
    node.launch([sys.executable, "-c", PAUSE, str(node.config_path)], os.environ)
    node.kill()
    assert node.log_path.with_suffix(".previous").read_text().startswith("line 0\n")
    assert node.last_lines(2) == []


def test_a_pid_of_nobody_is_not_seen() -> None:
    assert process.look(2**22 + 1) is None
    assert not process.runs(None, "")
