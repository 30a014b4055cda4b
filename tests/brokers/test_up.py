"""Up and down, with a stand-in for the broker: what holds for every kind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from nexus import SettingsError, brokers
from nexus.brokers import BrokerFailed, process

from .conftest import StandIn

pytestmark = pytest.mark.slow  # processes that start and end, if only stand-ins

UP = "from nexus import brokers; print(brokers.up('nats').nodes[0].pid)"
REPORT = "import os, signal; open({fifo!r}, 'w').write(str(os.getpid())); signal.pause()"


def test_up_of_a_running_broker_changes_nothing(programs: StandIn) -> None:
    programs.nats()
    told: list[str] = []
    first = brokers.up("nats", tell=told.append)
    again = brokers.up("nats", tell=told.append)
    assert first == again
    assert [line.partition(" ")[0] for line in told] == ["nats:", "nats:"]
    assert first.nodes[0].pid == again.nodes[0].pid is not None
    assert first.nodes[0].state.version == "2.99.0"


def test_two_processes_that_start_one_at_once_get_the_same(programs: StandIn) -> None:
    programs.nats()
    callers = [subprocess.Popen([sys.executable, "-c", UP], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    pids = {caller.communicate()[0] for caller in callers}
    assert pids == {f"{brokers.status()[0].nodes[0].pid}\n"}


def test_a_broker_outlives_whoever_started_it_and_is_nobodys_child(programs: StandIn) -> None:
    programs.nats()
    pid = int(subprocess.run([sys.executable, "-c", UP], capture_output=True, text=True, check=True).stdout)
    assert brokers.up("nats").nodes[0].pid == pid
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_a_killed_one_comes_back_at_its_address(programs: StandIn) -> None:
    programs.nats()
    broker = brokers.up("nats")
    ports, pid = dict(broker.nodes[0].ports), broker.nodes[0].pid
    broker.kill(0)
    assert broker.nodes[0].pid is None
    with pytest.raises(BrokerFailed, match="does not run"):
        broker.kill(0)
    broker.start(0)
    assert dict(broker.nodes[0].ports) == ports
    assert broker.nodes[0].pid not in (None, pid)
    assert brokers.up("nats").url == broker.url


@pytest.mark.parametrize("again", [True, False])
def test_one_whose_pid_was_not_written_down_is_found(programs: StandIn, again: bool) -> None:
    programs.nats()
    (node,) = brokers.up("nats").nodes
    pid = node.pid
    assert pid is not None
    node.remember(replace(node.state, pid=None))  # as if `up` had been killed just then
    if again:
        assert brokers.up("nats").nodes[0].pid == pid
    else:
        assert brokers.down("nats") == 1
        assert process.look(pid) is None


def test_stop_and_freeze(programs: StandIn) -> None:
    programs.nats()
    broker = brokers.up("nats")
    broker.freeze(0)
    assert broker.nodes[0].condition == "frozen"
    with pytest.raises(BrokerFailed, match="is frozen"):
        brokers.up("nats", timeout_s=0)
    broker.thaw(0)
    assert brokers.up("nats").nodes[0].pid == broker.nodes[0].pid
    broker.stop(0)
    assert broker.nodes[0].condition == "stopped"


def test_a_cluster_a_single_node_and_one_with_a_name_run_beside_each_other(programs: StandIn) -> None:
    programs.nats()
    three = [brokers.up("nats"), brokers.up("nats", 3), brokers.up("nats", name="faults")]
    assert sorted((one.name, len(one.nodes)) for one in brokers.status()) == [
        ("default", 1),
        ("default", 3),
        ("faults", 1),
    ]
    ports = [port for broker in three for node in broker.nodes for port in node.ports.values()]
    assert len(set(ports)) == len(ports) == 15
    assert brokers.down("nats", 3) == 3
    assert [node.condition for one in three for node in one.nodes] == ["running", *["stopped"] * 3, "running"]
    assert brokers.down("nats", name="faults", data=True) == 1
    assert [(one.name, len(one.nodes)) for one in brokers.status()] == [("default", 1), ("default", 3)]


def test_up_starts_only_what_is_missing_of_a_cluster(programs: StandIn) -> None:
    programs.nats()
    broker = brokers.up("nats", 3)
    before = [node.pid for node in broker.nodes]
    broker.kill(1)
    brokers.up("nats", 3)
    after = [node.pid for node in broker.nodes]
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False, True]


def test_settings_stay_until_the_data_goes(programs: StandIn) -> None:
    programs.nats()
    broker = brokers.up("nats", settings={"sync_interval": "always"})
    config = broker.nodes[0].config_path
    assert "sync_interval: always" in config.read_text()
    with pytest.raises(BrokerFailed, match="runs with other settings"):
        brokers.up("nats", settings={"sync_interval": "1s"})
    assert brokers.up("nats", settings={"sync_interval": "always"}) == brokers.up("nats")
    brokers.down("nats")
    brokers.up("nats")
    assert "sync_interval: always" in config.read_text()
    brokers.down("nats", data=True)
    brokers.up("nats")
    assert "sync_interval: always" not in config.read_text()


def test_one_that_ends_while_starting_shows_its_last_20_lines(programs: StandIn) -> None:
    programs.nats(before="for number in range(100): print('line', number)\nsys.exit(1)")
    with pytest.raises(BrokerFailed) as failed:
        brokers.up("nats")
    told = str(failed.value).splitlines()
    assert told[0] == "NXS-6200 nats ended while starting; its last lines:"
    assert told[1:-1] == [f"  line {number}" for number in range(80, 100)]
    assert told[-1].startswith("Next: all that it wrote is in ")
    assert brokers.logs("nats", lines=1) == ["line 99"]


def test_one_that_is_not_ready_in_time_is_ended(programs: StandIn, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    programs.nats(before=REPORT.format(fifo=str(tmp_path / "pid")))
    with ThreadPoolExecutor(1) as pool:
        pid = pool.submit((tmp_path / "pid").read_text)
        with pytest.raises(BrokerFailed, match="nats is not ready after 2 s"):
            brokers.up("nats", timeout_s=2)
        assert process.look(int(pid.result())) is None


def test_a_port_that_was_taken_meanwhile_is_named(programs: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.nats()
    broker = brokers.up("nats")
    port = broker.nodes[0].ports["monitor"]
    brokers.down("nats")
    monkeypatch.setattr("nexus.brokers.broker._PORT_LIMIT_S", 0.0)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(BrokerFailed, match=f"the monitor port {port} of nats is taken by another program"),
    ):
        brokers.up("nats")


def test_an_address_in_the_environment_is_used_and_never_touched(
    programs: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXUS_NATS_SERVERS", "nats://user:secret@broker.example:4222")
    broker = brokers.up("nats")
    assert (broker.url, broker.given, broker.nodes) == ("nats://user:secret@broker.example:4222", True, ())
    with pytest.raises(BrokerFailed, match="was given by its address") as refused:
        broker.kill(0)
    assert "secret" not in str(refused.value)
    assert brokers.down("nats") == 0
    monkeypatch.setenv("NEXUS_NATS_SERVERS", "broker.example")
    with pytest.raises(SettingsError, match="NEXUS_NATS_SERVERS cannot be read"):
        brokers.up("nats")


def test_a_name_or_settings_ask_for_a_broker_of_ones_own(programs: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.nats()
    monkeypatch.setenv("NEXUS_NATS_SERVERS", "nats://broker.example:4222")
    assert not brokers.up("nats", name="own").given
    assert not brokers.up("nats", settings={"max_connections": "5"}).given


def test_ones_own_address_in_the_environment_is_still_ones_own(
    programs: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.nats()
    broker = brokers.up("nats")
    monkeypatch.setenv("NEXUS_NATS_SERVERS", brokers.KINDS["nats"].exported(broker.url))
    brokers.down("nats")
    assert brokers.up("nats").nodes[0].pid


def test_ctrl_c_while_starting_leaves_nothing_running(programs: StandIn, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    programs.nats(before=REPORT.format(fifo=str(tmp_path / "pid")))
    with subprocess.Popen([sys.executable, "-c", UP], stderr=subprocess.PIPE, text=True) as up:
        pid = int((tmp_path / "pid").read_text())
        up.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in up.communicate()[1]
    assert process.look(pid) is None
