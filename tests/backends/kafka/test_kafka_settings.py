"""The URL of a cluster: every option is checked, and an unknown one is answered with the nearest."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nexus.backends.kafka.settings import PASSWORD, Settings
from nexus.errors import SettingsError


def test_every_option_can_be_given() -> None:
    settings = Settings.parse(
        "kafka://a:1,b:2/?prefix=p&replicas=3&min_insync_replicas=2&linger_ms=1.5&batch_bytes=2000"
        "&compression=zstd&request_s=1&delivery_s=2&queue_events=7&queue_bytes=2000000&fetch_bytes=2000"
        "&buffer_events=300&buffer_bytes=3000000&idle_s=4&tls=true&ca=/ca&cert=/cert&key=/key"
        "&sasl=SCRAM-SHA-512&user=me"
    )
    assert settings == Settings(
        "a:1,b:2", "p", 3, 2, 1.5, 2000, "zstd", 1, 2, 7, 2_000_000, 2000, 300, 3_000_000, 4, True, "/ca", "/cert",
        "/key", "SCRAM-SHA-512", "me", None,
    )  # fmt: skip


def test_an_unknown_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"unknown option 'prefx'[^$]*did you mean 'prefix'"):
        Settings.parse("kafka://a:1/?prefx=p")
    with pytest.raises(SettingsError, match="known are prefix, "):
        Settings.parse("kafka://a:1/?zzzz=p")


@pytest.mark.parametrize(
    "url",
    [
        "kafka://", "kafka:///", "kafka://a:1/path", "kafka://a b:1/", "kafka://a:1,/", "kafka://a:1/#x", "nats://a:1",
        "kafka://a:1/?prefix=", "kafka://a:1/?prefix=a.b", "kafka://a:1/?prefix=a_b", "kafka://a:1/?replicas=0",
        "kafka://a:1/?replicas=x", "kafka://a:1/?replicas=2&min_insync_replicas=3", "kafka://a:1/?linger_ms=-1",
        "kafka://a:1/?compression=rar", "kafka://a:1/?request_s=0", "kafka://a:1/?delivery_s=1e9",
        "kafka://a:1/?queue_events=0", "kafka://a:1/?fetch_bytes=1", "kafka://a:1/?idle_s=nan",
        "kafka://a:1/?cert=/cert", "kafka://a:1/?key=/key", "kafka://a:1/?sasl=PLAIN", "kafka://a:1/?user=me",
        "kafka://a:1/?sasl=OTHER&user=me",
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        Settings.parse(url)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.parse("kafka://me:secret@a:1/")
    assert "secret" not in str(caught.value)
    assert PASSWORD in str(caught.value)


def test_the_password_comes_from_elsewhere_than_the_url() -> None:
    settings = Settings.parse("kafka://a:1/?sasl=PLAIN&user=me&ca=/ca", {"password": "secret"})
    config = settings.client()
    assert (config["security.protocol"], config["sasl.password"]) == ("SASL_SSL", "secret")
    assert "secret" not in repr(settings)
    with pytest.raises(SettingsError, match=PASSWORD):
        Settings.parse("kafka://a:1/?sasl=PLAIN&user=me").client()
    with pytest.raises(SettingsError, match="URLs are logged") as caught:
        Settings.parse("kafka://a:1/?sasl=PLAIN&user=me&password=secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "protocol"),
    [("", "PLAINTEXT"), ("tls=true", "SSL"), ("ca=/ca", "SSL"), ("sasl=PLAIN&user=me", "SASL_PLAINTEXT")],
)
def test_the_protocol_follows_from_what_is_given(query: str, protocol: str) -> None:
    settings = Settings.parse(f"kafka://a:1/?{query}", {"password": "x"})
    assert settings.client()["security.protocol"] == protocol


def test_nothing_is_ever_committed_and_no_topic_made_by_reading() -> None:
    config = Settings.parse("kafka://a:1/").consumer(50)
    assert config["enable.auto.commit"] is False
    assert config["allow.auto.create.topics"] is False
    assert config["isolation.level"] == "read_committed"


def test_appends_are_acknowledged_by_all_replicas_and_never_doubled_by_the_client() -> None:
    config = Settings.parse("kafka://a:1/").producer(1_000_000)
    assert config["acks"] == "all"
    assert config["enable.idempotence"] is True


def test_without_the_client_the_line_to_install_it_is_given() -> None:
    code = (
        "import sys; sys.modules['confluent_kafka'] = None\n"
        "from nexus.clock import SYSTEM_CLOCK; from nexus.plugins import make_backend\n"
        "make_backend('kafka://a:1/', SYSTEM_CLOCK)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "MissingExtra" in done.stderr
    assert "pip install 'nexus-bus[kafka]'" in done.stderr
