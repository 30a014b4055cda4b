"""What files and the environment say to a backend: who wins, what is refused, and that nothing needless is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from nexus import plugins
from nexus.clock import SYSTEM_CLOCK
from nexus.config import load
from nexus.config.backends import Backends
from nexus.core.options import BackendSettings, File, Secret, read_options
from nexus.errors import SettingsError

Read = Callable[..., Backends]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Load from a directory of its own and an environment that holds nothing else."""

    def read(
        toml: str = "", environment: Mapping[str, str] | None = None, arguments: Mapping[str, Any] | None = None
    ) -> Backends:
        (tmp_path / "nexus.toml").write_text(toml)
        return load(arguments, environment=environment or {}, directory=tmp_path).backends

    return read


class Shelf(BackendSettings, frozen=True):
    """The settings of a backend that a package offers."""

    place: str
    depth: int = 3
    secret: Secret | None = None
    proof: File | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.depth > 9:
            raise SettingsError(f"depth={self.depth} is more than 9")

    @classmethod
    def parse(cls, url: str, options: Mapping[str, Any]) -> Shelf:
        place, _, query = url.partition("://")[2].partition("?")
        own = [tuple(part.split("=")) for part in query.split("&") if part]
        return read_options(cls, {"place": place}, own, "a shelf", options)  # type: ignore[arg-type]


class Shelves:
    settings_type = Shelf

    def __init__(self, url: str, *, clock: object, options: Mapping[str, Any] | None = None) -> None:
        self.settings = Shelf.parse(url, options or {})


class Plain:
    def __init__(self, url: str, *, clock: object) -> None:
        self.url = url


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two backends that are found by entry point."""
    monkeypatch.setattr(
        plugins, "_entry_points", lambda: {
            "book-shelf": EntryPoint("book-shelf", f"{__name__}:Shelves", plugins.ENTRY_POINTS),
            "plain": EntryPoint("plain", f"{__name__}:Plain", plugins.ENTRY_POINTS),
        }
    )  # fmt: skip


def origins(backends: Backends, url: str) -> dict[str, tuple[object, str]]:
    return {option.path: (option.value, str(option.origin)) for option in backends.chosen(url)}


# -- who wins --------------------------------------------------------------------------------------------------------


def test_the_url_wins_then_an_argument_the_environment_and_the_file(read: Read) -> None:
    backends = read(
        "[kafka]\nlinger_ms = 1\nreplicas = 1\nrequest_s = 1\nidle_s = 1\n",
        {"NEXUS_KAFKA__LINGER_MS": "2", "NEXUS_KAFKA__REPLICAS": "2", "NEXUS_KAFKA__REQUEST_S": "2"},
        {"kafka": {"linger_ms": 3, "replicas": 3, "prefix": None}},
    )
    found = origins(backends, "kafka://a:1/?linger_ms=4")
    assert found["kafka.linger_ms"] == (4.0, "url")
    assert found["kafka.replicas"] == (3, "argument")
    assert found["kafka.request_s"] == (2.0, "NEXUS_KAFKA__REQUEST_S")
    assert found["kafka.idle_s"] == (1.0, "nexus.toml:5")
    assert found["kafka.prefix"] == ("nexus", "default")
    assert "kafka.servers" not in found


def test_what_the_rest_of_the_url_says_wins_too(read: Read) -> None:
    backends = read("[rabbitmq]\nvhost = 'file'\nuser = 'me'\npassword = 'x'\nstream_port = [1, 2]\n")
    found = origins(backends, "rabbitmq://you@a,b/shop")
    assert (found["rabbitmq.vhost"], found["rabbitmq.user"]) == (("shop", "url"), ("you", "url"))
    assert found["rabbitmq.stream_port"] == ((1, 2), "nexus.toml:5")
    assert origins(backends, "rabbitmq://a,b")["rabbitmq.vhost"] == ("file", "nexus.toml:2")


@pytest.mark.parametrize(
    ("url", "variable", "text", "option", "value"),
    [
        ("memory://x-env", "NEXUS_MEMORY__MAX_EVENTS", "7", "memory.max_events", 7),
        ("sqlite:///a.db", "NEXUS_SQLITE__LEASE_S", "7", "sqlite.lease_s", 7.0),
        ("nats://a", "NEXUS_NATS__MONITOR", "http://a:1,http://b:2", "nats.monitor", ("http://a:1", "http://b:2")),
        ("nats://a", "NEXUS_NATS__TLS", "true", "nats.tls", True),
        ("rabbitmq://a", "NEXUS_RABBITMQ__INFLIGHT_EVENTS", "70", "rabbitmq.inflight_events", 70),
        ("book-shelf://a", "NEXUS_BOOK_SHELF__DEPTH", "7", "book-shelf.depth", 7),
    ],
)
def test_every_backend_takes_its_options_from_the_environment(
    read: Read, url: str, variable: str, text: str, option: str, value: object
) -> None:
    assert origins(read(environment={variable: text}), url)[option] == (value, variable)


def test_the_backend_gets_them(read: Read) -> None:
    backends = read("[book-shelf]\ndepth = 5\nnames = ['a', '${WHO}']\n", {"WHO": "b"})
    url = "book-shelf://here"
    made: Any = plugins.make_backend(url, SYSTEM_CLOCK, backends.options(url))
    assert made.settings == Shelf("here", 5, names=("a", "b"))
    assert plugins.make_backend(url, SYSTEM_CLOCK).settings == Shelf("here")  # type: ignore[attr-defined]


# -- secrets ---------------------------------------------------------------------------------------------------------


def test_a_secret_comes_from_a_file_and_is_not_shown(read: Read, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    backends = read(environment={"NEXUS_KAFKA__PASSWORD_FILE": str(file)})
    url = "kafka://a:1/?sasl=PLAIN&user=me"
    assert backends.options(url) == {"password": "hunter2"}
    assert origins(backends, url)["kafka.password"] == ("***", "NEXUS_KAFKA__PASSWORD_FILE")
    assert origins(read(), url)["kafka.password"] == (None, "default")


def test_for_an_option_that_names_a_file_it_is_that_file(read: Read, tmp_path: Path) -> None:
    backends = read(environment={"NEXUS_NATS__CREDS_FILE": "/run/secrets/user.creds"})
    assert backends.options("nats://a") == {"creds": "/run/secrets/user.creds"}


def test_a_value_and_a_file_of_it_are_one_too_many(read: Read) -> None:
    backends = read(environment={"NEXUS_KAFKA__CA": "/a", "NEXUS_KAFKA__CA_FILE": "/b"})
    with pytest.raises(SettingsError, match="NEXUS_KAFKA__CA and NEXUS_KAFKA__CA_FILE both give"):
        backends.options("kafka://a:1")


def test_the_environment_s_file_wins_over_the_value_in_a_file(read: Read, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("new")
    backends = read("[nats]\ntoken = 'old'", {"NEXUS_NATS__TOKEN_FILE": str(tmp_path / "token")})
    assert backends.options("nats://a") == {"token": "new"}


@pytest.mark.parametrize(
    ("toml", "environment"),
    [
        ("[book-shelf]\nsecret = 12345", {}),
        ("[book-shelf]\ndepth = '${WHO}'", {"WHO": "12345x"}),
        ("", {"NEXUS_BOOK_SHELF__DEPTH_FILE": "{file}"}),
    ],
)
def test_what_may_be_secret_is_not_in_an_error(
    read: Read, tmp_path: Path, toml: str, environment: dict[str, str]
) -> None:
    (tmp_path / "it").write_text("12345x")
    backends = read(toml, {name: text.replace("{file}", str(tmp_path / "it")) for name, text in environment.items()})
    with pytest.raises(SettingsError, match="must be") as caught:
        backends.options("book-shelf://a")
    assert "12345" not in str(caught.value)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "environment", "message", "hint"),
    [
        ("[kafka]\nlinger = 1", {}, "nexus.toml:2: unknown setting 'kafka.linger'", "did you mean 'kafka.linger_ms'?"),
        (
            "",
            {"NEXUS_KAFKA__LINGERMS": "1"},
            "NEXUS_KAFKA__LINGERMS: unknown setting",
            "did you mean 'kafka.linger_ms'?",
        ),
        ("[kafka]\nzzzz = 1", {}, "nexus.toml:2: unknown setting 'kafka.zzzz'", "known here: prefix, "),
        ("[kafka]\nservers = 'b:1'", {}, "nexus.toml:2: unknown setting 'kafka.servers'", ""),
        ("[kafka]\nlinger_ms = '5'", {}, "nexus.toml:2: kafka.linger_ms must be a number, not '5'", ""),
        ("[kafka]\ncompression = 'rar'", {}, "nexus.toml:2: kafka.compression must be one of none, gzip", ""),
        ("[kafka]\nlinger_ms = -5", {}, "nexus.toml:2: linger_ms=-5.0 is not between 0 and 10,000", ""),
        ("[kafka]\nca = 5", {}, "nexus.toml:2: kafka.ca must be the name of a file, not 5", ""),
        ("[kafka]\ncert = '/c'", {}, "nexus.toml:2: cert and key go together", ""),
        ("[kafka.deep]\nx = 1", {}, "nexus.toml:1: unknown setting 'kafka.deep'", ""),
        ("[kafka]\nca = '${GONE}'", {}, "nexus.toml:2: kafka.ca needs the variable GONE", ""),
    ],
)
def test_what_does_not_fit_the_chosen_backend_is_named_with_its_place(
    read: Read, toml: str, environment: dict[str, str], message: str, hint: str
) -> None:
    backends = read(toml, environment)
    with pytest.raises(SettingsError) as caught:
        backends.options("kafka://a:1")
    assert caught.value.message.startswith(message)
    assert (caught.value.hint or "").startswith(hint)
    assert backends.options("memory://") == {}


@pytest.mark.parametrize(
    ("toml", "environment", "said"),
    [
        ("[kafak]\nlinger_ms = 1", {}, "did you mean 'kafka'?"),
        ("[wrokers]\nx = 1", {}, "did you mean 'workers'?"),
        ("kafka = 1", {}, "kafka must be a table"),
        ("", {"NEXUS_KAFAK__LINGER_MS": "1"}, "did you mean NEXUS_KAFKA__LINGER_MS?"),
    ],
)
def test_a_table_that_no_backend_has_is_refused_at_once(
    read: Read, toml: str, environment: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(toml, environment)
    assert said in str(caught.value)


def test_an_empty_table_says_nothing(read: Read) -> None:
    assert read("[kafka]\n").options("kafka://a:1") == {}


def test_a_backend_without_a_struct_takes_its_url_and_nothing_else(read: Read) -> None:
    backends = read("[plain]\nx = 1")
    with pytest.raises(SettingsError, match="takes what its URL says and nothing else"):
        backends.options("plain://a")
    assert read().chosen("plain://a") == []


def test_an_error_of_the_url_itself_is_told_as_it_is(read: Read) -> None:
    with pytest.raises(SettingsError, match="NXS-1100 depth=10"):
        read("[book-shelf]\nnames = []").options("book-shelf://a?depth=10")


# -- what it costs ---------------------------------------------------------------------------------------------------


def test_the_client_of_a_backend_that_is_not_chosen_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "nexus.toml").write_text("[kafka]\nlinger_ms = 5\n[nats]\nreplicas = 3\n")
    code = (
        "import sys; from nexus import Nexus; Nexus('memory://')\n"
        "print(*{name.partition('.')[0] for name in sys.modules} & {'confluent_kafka', 'nats', 'apsw'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NEXUS_KAFKA__REPLICAS": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
