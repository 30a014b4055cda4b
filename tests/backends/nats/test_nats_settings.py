"""The URL of a store on NATS: every option has its range, and no secret stands there."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.backends.nats import NatsLog, Settings
from nexus.backends.nats.client import connect_options
from nexus.errors import SettingsError


def test_a_bare_url_takes_the_defaults() -> None:
    settings = Settings.parse("nats://localhost")
    assert settings == Settings(("nats://localhost:4222",))
    assert (settings.prefix, settings.replicas, settings.storage) == ("nexus", None, "file")


def test_every_option_can_be_set() -> None:
    given = {
        "prefix": "shop-1", "replicas": 3, "storage": "memory", "dedup_s": 60.0, "connect_s": 1.5, "timeout_s": 12.0,
        "fetch_events": 10, "fetch_bytes": 4_096, "pending_bytes": 10_000, "readers": 5, "atomic_events": 2,
        "tls": True, "tls_ca": "/a", "tls_cert": "/b", "tls_key": "/c", "user": "u",
        "monitor": ("http://a:1", "http://b:2"),
    }  # fmt: skip
    texts = {name: ",".join(value) if isinstance(value, tuple) else str(value).lower() for name, value in given.items()}
    query = "&".join(f"{name}={quote(text, safe='')}" for name, text in texts.items())
    settings = Settings.parse(f"nats://a:1,[::1]:2,c/?{query}")
    assert settings.servers == ("nats://a:1", "nats://[::1]:2", "nats://c:4222")
    assert {name: getattr(settings, name) for name in given} == given
    assert {"servers", "creds", "nkey", "password", "token", *given} == set(Settings.__struct_fields__)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nats://a/?prefx=b", "did you mean 'prefix'"),
        ("nats://a/?nothing_like_it=1", "known are"),
        ("nats://a/?prefix=a_b", "prefix"),
        ("nats://a/?prefix=a.b", "prefix"),
        ("nats://a/?prefix=", "prefix"),
        ("nats://a/?replicas=2", "replicas"),
        ("nats://a/?storage=disk", "storage"),
        ("nats://a/?dedup_s=10", "dedup_s"),
        ("nats://a/?timeout_s=0", "timeout_s"),
        ("nats://a/?fetch_events=0", "fetch_events"),
        ("nats://a/?fetch_bytes=many", "fetch_bytes"),
        ("nats://a/?atomic_events=1", "atomic_events"),
        ("nats://a/?readers=0", "readers"),
        ("nats://a/?tls_cert=x", "tls_key"),
        ("nats://a/?creds=x&nkey=y", "choose one"),
        ("nats://a/?monitor=ftp://x", "monitor"),
        ("nats://user:secret@a/", "no secret"),
        ("nats://token@a/", "NEXUS_NATS__TOKEN"),
        ("nats://a/orders", "prefix=NAME"),
        ("nats:///", "host:port"),
        ("nats://a:0/", "host:port"),
        ("nats://a:99999/", "host:port"),
        ("nats://a,/", "host:port"),
        ("kafka://a/", "nats://"),
    ],
)
def test_what_is_wrong_is_named(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words.replace("(", r"\(")) as caught:
        Settings.parse(url)
    assert "secret@" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_url_is_read_or_refused_in_words(text: str) -> None:
    try:
        settings = Settings.parse(f"nats://{text}")
    except SettingsError:
        return
    assert settings.servers


def test_secrets_come_from_elsewhere_than_the_url(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="NEXUS_NATS__PASSWORD"):
        connect_options(Settings.parse("nats://a/?user=u"))
    settings = Settings.parse("nats://a/?user=u", {"password": "p4ss", "token": "t0ken"})
    assert "p4ss" not in repr(settings)
    assert "t0ken" not in repr(settings)
    options = connect_options(settings)
    assert (options["user"], options["password"], options["token"]) == ("u", "p4ss", "t0ken")
    file = tmp_path / "user.creds"
    with pytest.raises(SettingsError, match="cannot be read"):
        connect_options(Settings.parse(f"nats://a/?creds={file}"))
    file.write_text("")
    assert connect_options(Settings.parse(f"nats://a/?creds={file}"))["user_credentials"] == str(file)
    assert connect_options(Settings.parse(f"nats://a/?nkey={file}"))["nkeys_seed"] == str(file)


def test_tls_is_demanded_where_it_is_wished_for(tmp_path: Path) -> None:
    options = connect_options(Settings.parse("nats://a,b/?tls=true"))
    assert options["servers"] == ["tls://a:4222", "tls://b:4222"]
    assert options["tls"].check_hostname
    bad = tmp_path / "ca.pem"
    bad.write_text("no certificate")
    with pytest.raises(SettingsError, match="TLS"):
        connect_options(Settings.parse(f"nats://a/?tls_ca={bad}"))


def test_a_log_takes_a_url_or_settings() -> None:
    assert NatsLog("nats://a/?prefix=b").settings == NatsLog(Settings(("nats://a:4222",), prefix="b")).settings
