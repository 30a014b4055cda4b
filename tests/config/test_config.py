"""Settings: the strongest source wins, every value says where it came from, and bad ones are refused by name.

Tests with a number are the cases of bad input of that number in the guarantees.
"""

from __future__ import annotations

import doctest
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import nexus.config
import nexus.core.plan
from nexus.config import TABLE, Loaded, Settings, TopicSettings, load
from nexus.config.sources import FILE_LIMIT_BYTES, SECRET_LIMIT_BYTES, variable
from nexus.config.table import Duration, Size, shown_duration, shown_size
from nexus.core.plan import check_durability
from nexus.errors import DurabilityUnavailable, SettingsError
from nexus.spi.backend import Durability

Load = Callable[..., Loaded]


@pytest.fixture
def read(tmp_path: Path) -> Load:
    """Load from a directory of its own and an environment that holds nothing else."""

    def read(
        toml: str | bytes | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: Mapping[str, object] | None = None,
        name: str = "nexus.toml",
    ) -> Loaded:
        if toml is not None:
            (tmp_path / name).write_bytes(toml.encode() if isinstance(toml, str) else toml)
        return load(arguments, environment=environment or {}, directory=tmp_path)

    return read


def refusal(read: Load, *arguments: Any, **named: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        read(*arguments, **named)
    return caught.value


# -- sources ---------------------------------------------------------------------------------------------------------


def test_without_any_source_all_settings_have_their_default(read: Load) -> None:
    loaded = read()
    assert loaded.settings == Settings()
    assert loaded.settings.backend == "sqlite:///.nexus/nexus.db"
    assert loaded.settings.topics == {"events": TopicSettings()}
    assert set(map(str, loaded.origins.values())) == {"default"}
    assert len(loaded.origins) == len(TABLE)


def test_the_strongest_source_wins_and_each_value_says_where_it_came_from(read: Load, tmp_path: Path) -> None:
    user = tmp_path / "home" / "nexus"
    user.mkdir(parents=True)
    (user / "config.toml").write_text("workers = 1\nprefetch_events = 1\nsource = '/user'\ndrain = '1s'")
    loaded = read(
        "workers = 2\nprefetch_events = 2\nsource = '/file'",
        {"XDG_CONFIG_HOME": str(user.parent), "NEXUS_WORKERS": "3", "NEXUS_PREFETCH_EVENTS": "3"},
        {"workers": 4, "source": None},
    )
    settings, origins = loaded.settings, loaded.origins
    assert (settings.workers, settings.prefetch_events, settings.source, settings.drain_s) == (4, 3, "/file", 1.0)
    shown = [str(origins[name]) for name in ("workers", "prefetch_events", "source", "drain", "backend")]
    assert shown == ["argument", "NEXUS_PREFETCH_EVENTS", "nexus.toml:3", f"{user}/config.toml:4", "default"]


def test_the_user_s_file_is_found_below_the_home_directory(read: Load, tmp_path: Path) -> None:
    file = tmp_path / ".config" / "nexus" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("workers = 7")
    assert read(environment={"HOME": str(tmp_path)}).settings.workers == 7
    assert read(environment={"HOME": str(tmp_path), "XDG_CONFIG_HOME": "relative"}).settings.workers == 7
    assert read(environment={"XDG_CONFIG_HOME": "relative"}).settings.workers == 16


def test_settings_may_be_in_pyproject(read: Load) -> None:
    loaded = read(
        "[project]\nname = 'x'\n[tool.nexus]\nworkers = 5\n[tool.nexus.publish]\ntimeout = '1m'", name="pyproject.toml"
    )
    assert (loaded.settings.workers, loaded.settings.publish.timeout_s) == (5, 60.0)
    assert str(loaded.origins["publish.timeout"]) == "pyproject.toml:6"


@pytest.mark.parametrize("toml", ["", "tool = 1", "[tool]\nruff = 1"])
def test_a_pyproject_without_settings_is_none_of_ours(read: Load, toml: str) -> None:
    assert read(toml, name="pyproject.toml").settings == Settings()


def test_two_files_of_settings_in_one_directory_are_refused(read: Load) -> None:
    read("workers = 1")
    error = refusal(read, "[tool.nexus]\nworkers = 2", name="pyproject.toml")
    assert "nexus.toml and in [tool.nexus]" in error.message


def test_a_named_file_is_read_instead_and_must_exist(read: Load, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("workers = 9")
    loaded = load(file=tmp_path / "other.toml", environment={}, directory=tmp_path)
    assert loaded.settings.workers == 9
    with pytest.raises(SettingsError, match="does not exist"):
        load(file=tmp_path / "missing.toml", environment={}, directory=tmp_path)


def test_the_process_s_own_environment_and_directory_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("NEXUS_", "XDG_CONFIG_HOME"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NEXUS_WORKERS", "21")
    Path("nexus.toml").write_text("source = '/here'")
    settings = load().settings
    assert (settings.workers, settings.source) == (21, "/here")


def test_every_setting_can_be_given_in_the_environment(read: Load) -> None:
    values = {
        "backend": "memory://",
        "source": "/shop",
        "durability": "disk",
        "publish.max_body_bytes": "2MiB",
        "publish.queue_events": "5",
        "publish.queue_bytes": "1024",
        "publish.timeout": "1h30m",
        "workers": "+3",
        "prefetch_events": "4",
        "prefetch_bytes": "10 kB",
        "drain": "0s",
        "settle_interval": "0.5s",
        "schemas": "order.*=order.json, invoice.**=/s/i.json",
        "topics.*.patterns": "order.**, invoice.*",
        "topics.*.partitions": "64",
        "topics.*.retention_age": "2w",
        "topics.*.retention_size": "10GiB",
        "topics.*.durability_class": "ephemeral",
    }
    assert set(values) == {row.path for row in TABLE}
    settings = read(
        environment={variable(path.replace("*", "orders")): value for path, value in values.items()}
    ).settings
    assert settings.topics["orders"] == TopicSettings(
        patterns=("order.**", "invoice.*"), partitions=64, retention_age_s=1_209_600.0,
        retention_size_bytes=10 << 30, durability_class="ephemeral",
    )  # fmt: skip
    assert settings.topics["events"] == TopicSettings()
    assert (settings.publish.max_body_bytes, settings.publish.timeout_s) == (2 << 20, 5_400.0)
    assert (settings.workers, settings.prefetch_bytes, settings.drain_s) == (3, 10_000, 0.0)
    assert settings.settle_interval_s == 0.5


def test_a_topic_may_be_put_together_from_several_sources(read: Load) -> None:
    loaded = read(
        "topics.orders = {patterns = ['order.**']}\n[topics.'invoices.v1']\npartitions = 2",
        {"NEXUS_TOPICS__ORDERS__PARTITIONS": "8"},
        {"topics": {"orders": {"retention_age": "1d"}}},
    )
    assert loaded.settings.topics["orders"] == TopicSettings(("order.**",), 8, 86_400.0)
    assert loaded.settings.topics["invoices.v1"].partitions == 2
    assert str(loaded.origins["topics.orders.patterns"]) == "nexus.toml:1"
    assert str(loaded.origins["topics.invoices.v1.partitions"]) == "nexus.toml:3"


# -- secrets and variables -------------------------------------------------------------------------------------------


def test_a_secret_is_read_from_the_file_that_the_environment_names(read: Load, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("kafka://u:pa${ss}@h:9092\n")
    loaded = read(environment={"NEXUS_BACKEND_FILE": str(tmp_path / "secret")})
    assert loaded.settings.backend == "kafka://u:pa${ss}@h:9092"
    assert str(loaded.origins["backend"]) == "NEXUS_BACKEND_FILE"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "does not exist"),
        (b"\xff", "not UTF-8"),
        (b"x" * (SECRET_LIMIT_BYTES + 1), "larger than"),
        (b"hunter2", "backend must be a URL"),
    ],
)
def test_a_bad_file_of_a_secret_is_refused_without_its_content(
    read: Load, tmp_path: Path, content: bytes | None, fault: str
) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    error = refusal(read, environment={"NEXUS_BACKEND_FILE": str(tmp_path / "secret")})
    assert "NEXUS_BACKEND_FILE" in error.message
    assert fault in error.message
    assert "hunter2" not in str(error)


def test_a_value_that_came_from_a_secret_is_not_shown(read: Load, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    assert "hunter2" not in str(refusal(read, environment={"NEXUS_WORKERS_FILE": str(tmp_path / "secret")}))


def test_a_value_and_its_file_together_are_refused(read: Load) -> None:
    error = refusal(read, environment={"NEXUS_BACKEND": "memory://", "NEXUS_BACKEND_FILE": "x"})
    assert error.message == "NEXUS_BACKEND_FILE and NEXUS_BACKEND both give backend"


def test_052_an_unset_variable_names_itself_and_the_setting_and_no_value_is_shown(read: Load) -> None:
    error = refusal(read, "\nbackend = 'kafka://${USER_NAME}:${SECRET}@h'", {"USER_NAME": "hunter2"})
    assert error.message == "nexus.toml:2: backend needs the variable SECRET, which is not set"
    assert "hunter2" not in str(error)


def test_variables_are_put_into_values(read: Load) -> None:
    settings = read(
        "backend = 'kafka://u:${P}@h/$${x}$y'\nworkers = '${W}'\n[topics.t]\npatterns = ['${T}.*', 'a']",
        {"P": "pw", "W": "3", "T": "order"},
        {"source": "/${T}"},
    ).settings
    assert settings.backend == "kafka://u:pw@h/${x}$y"
    assert (settings.workers, settings.source, settings.topics["t"].patterns) == (3, "/order", ("order.*", "a"))


@pytest.mark.parametrize("text", ["${", "${A", "${}", "${A:-b}", "${1}"])
def test_what_looks_like_a_variable_and_is_none_is_refused(read: Load, text: str) -> None:
    error = refusal(read, f"source = '/{text}'", {"A": "x"})
    assert "source has a '${' that is not ${NAME}" in error.message


@pytest.mark.parametrize("toml", ["workers = '${V}'", "[topics.t]\npatterns = ['${V} x']", "source = '${V} x'"])
def test_a_value_that_came_from_a_variable_is_not_shown(read: Load, toml: str) -> None:
    assert "hunter2" not in str(refusal(read, toml, {"V": "hunter2"}))


def test_a_backend_is_never_shown(read: Load) -> None:
    assert "hunter2" not in str(refusal(read, "backend = 'kafka:hunter2'"))


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "message", "hint"),
    [
        ("wrokers = 3", "nexus.toml:1: unknown setting 'wrokers'", "did you mean 'workers'?"),
        ("zzz = 3", "nexus.toml:1: unknown setting 'zzz'", "known here: backend, "),
        ("[publish]\n\ntimeuot = '1s'", "nexus.toml:3: unknown setting 'publish.timeuot'", "'publish.timeout'"),
        ("[topics.orders]\npartition = 1", "nexus.toml:2: unknown setting 'topics.orders.partition'", "partitions'?"),
        ("[publsh]\nx = 1", "nexus.toml:2: unknown setting 'publsh'", "did you mean 'publish'?"),
        ("publish = 3", "nexus.toml:1: publish must be a table", None),
        ("topics = 3", "nexus.toml:1: topics must be a table", None),
        ("[topics]\norders = 3", "nexus.toml:2: topics.orders must be a table", None),
    ],
)
def test_048_an_unknown_key_is_refused_with_the_nearest_name(
    read: Load, toml: str, message: str, hint: str | None
) -> None:
    error = refusal(read, toml)
    assert error.message == message
    assert (hint or "") in (error.hint or "")


def test_048_an_unknown_argument_is_refused(read: Load) -> None:
    assert str(refusal(read, arguments={"worker": 3})) == (
        "NXS-1100 unknown setting 'worker'\nNext: did you mean 'workers'?"
    )


@pytest.mark.parametrize(
    "name", ["NEXUS_WORKER", "NEXUS_PUBLISH__TIMEUOT", "NEXUS_PUBLISH__X", "NEXUS_TOPICS__A__Q", "NEXUS_TOPICS"]
)
def test_048_a_variable_that_was_meant_for_a_setting_is_refused(read: Load, name: str) -> None:
    assert refusal(read, environment={name: "3"}).message == f"unknown setting in the environment: {name}"


@pytest.mark.parametrize(
    "name", ["NEXUS_SERVICE_HOST", "NEXUS_PORT_8228_TCP", "NEXUS_KAFKA_BOOTSTRAP", "NEXUS_URL_FILE", "NEXUS_X__Y"]
)
def test_a_variable_of_somebody_else_is_left_alone(read: Load, name: str) -> None:
    assert read(environment={name: "3"}).settings == Settings()


@pytest.mark.parametrize("value", ["-1", "1e9", '"ten"', '"16"', "0", "1025", "true", "16.0", "[]", "{a = 1}"])
def test_049_workers_that_are_no_number_in_range_are_refused_with_path_and_line(read: Load, value: str) -> None:
    error = refusal(read, f"# settings\n\nworkers = {value}")
    assert error.message.startswith("nexus.toml:3: workers must be a whole number from 1 to 1,024, not ")


@pytest.mark.parametrize("value", [1, 1_024])
def test_the_bounds_themselves_are_in_range(read: Load, value: int) -> None:
    loaded = read(f"workers = {value}\nprefetch_bytes = '1TiB'\n[publish]\nmax_body_bytes = 1\ntimeout = '1d'")
    assert loaded.settings.workers == value
    assert loaded.settings.prefetch_bytes == 1 << 40
    assert (loaded.settings.publish.max_body_bytes, loaded.settings.publish.timeout_s) == (1, 86_400.0)
    assert "from 1KiB to 1TiB" in refusal(read, f"prefetch_bytes = {(1 << 40) + 1}").message


@pytest.mark.parametrize("value", ["-1", "1e9", "ten", "", "9" * 5_000])
def test_049_workers_in_the_environment_are_refused_alike(read: Load, value: str) -> None:
    error = refusal(read, environment={"NEXUS_WORKERS": value})
    assert error.message.startswith("NEXUS_WORKERS: workers must be a whole number from 1 to 1,024, not ")
    assert len(error.message) < 160


@pytest.mark.parametrize(
    "toml",
    [
        "backend = 'memory'",
        "backend = 7",
        "source = ''",
        "source = 'a b'",
        "source = '" + "x" * 1_025 + "'",
        "durability = 'always'",
        "durability = ['disk']",
        "publish.timeout = 30",
        "publish.timeout = '30'",
        "publish.timeout = '0s'",
        "publish.timeout = '2d'",
        "publish.timeout = '-1s'",
        "publish.queue_bytes = '1.5MiB'",
        "publish.queue_bytes = '2PiB'",
        "publish.queue_bytes = -1",
        "publish.queue_bytes = 1e9",
        "schemas = ['order.json']",
        "schemas = {'order.*' = 1}",
        "schemas = {order = {placed = 'order.json'}}",
        "topics.t.patterns = 'order.*'",
        "topics.t.patterns = [1]",
        "topics.t.durability_class = true",
        "topics.t.retention_age = '100000d'",
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(read: Load, toml: str) -> None:
    error = refusal(read, toml)
    assert error.message.startswith(f"nexus.toml:1: {toml.split(' ')[0]} must be ")


def test_schemas_are_files_beside_their_settings_by_pattern(read: Load, tmp_path: Path) -> None:
    toml = '[schemas]\n"order.*" = "schemas/order.json"\n"a.b" = "/s/a.json"'
    assert read(toml).settings.schemas == {"order.*": "schemas/order.json", "a.b": "/s/a.json"}
    (tmp_path / "other.toml").write_text(toml)
    settings = load(file=tmp_path / "other.toml", environment={}).settings
    assert settings.schemas["order.*"] == str(tmp_path / "schemas" / "order.json")
    environment = {"NEXUS_SCHEMAS": "order.*=order.json, invoice.**=/s/i.json"}
    assert read(environment=environment).settings.schemas == {"order.*": "order.json", "invoice.**": "/s/i.json"}
    assert "pattern 'order.>' has '>'" in refusal(read, "[schemas]\n'order.>' = 'x.json'").message


def test_a_bad_pattern_says_why(read: Load) -> None:
    error = refusal(read, "[topics.t]\npatterns = ['order.>']")
    assert (
        error.message
        == "nexus.toml:2: topics.t.patterns must be a list of event-type patterns: pattern 'order.>' has '>'"
    )


@pytest.mark.parametrize("name", ["nexus.yaml", "nexus.yml", "NEXUS.YAML"])
@pytest.mark.parametrize(
    "yaml",
    [
        pytest.param("a: &a [x]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]", id="050-alias-bomb"),
        pytest.param("x: !!python/object/apply:os.system ['true']", id="051-python-object"),
    ],
)
def test_050_051_yaml_is_refused_without_a_look_inside(tmp_path: Path, name: str, yaml: str) -> None:
    # No file is needed to be refused: the name is enough, so nothing can have been parsed.
    for content in (None, yaml):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(SettingsError, match="TOML only"):
            load(file=tmp_path / name, environment={}, directory=tmp_path)


ENOUGH: dict[Durability, set[Durability]] = {
    "none": {"none", "memory", "process", "disk", "replicated", "replicated+disk"},
    "memory": {"memory", "process", "disk", "replicated", "replicated+disk"},
    "process": {"process", "disk", "replicated", "replicated+disk"},
    # Copies in the memory of other machines do not survive a power cut of all; a disk does not survive its machine.
    "disk": {"disk", "replicated+disk"},
    "replicated": {"replicated", "replicated+disk"},
    "replicated+disk": {"replicated+disk"},
}


@pytest.mark.parametrize("asked", get_args(Durability))
@pytest.mark.parametrize("observed", get_args(Durability))
def test_053_durability_above_that_of_the_backend_is_refused(asked: Durability, observed: Durability) -> None:
    if observed in ENOUGH[asked]:
        check_durability(asked, observed)
        return
    with pytest.raises(DurabilityUnavailable, match="durability: ") as caught:
        check_durability(asked, observed)
    assert f"set durability to {observed!r} or less" in str(caught.value.hint)


def test_054_topics_that_would_have_one_name_are_refused(read: Load) -> None:
    error = refusal(read, "[topics.'a.b']\npartitions = 1\n[topics.a_b]\npartitions = 1")
    assert "topics 'a.b' and 'a_b' would have one name" in error.message


@pytest.mark.parametrize(
    "name", ["Orders", "", "-a", "a b", "x" * 101, "größe", "nexus", "nexus.runs", "a.park", "a.g.park"]
)
def test_a_bad_name_of_a_topic_is_refused(read: Load, name: str) -> None:
    assert "topic" in refusal(read, f"[topics.'{name}']\npartitions = 1").message


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"#" * FILE_LIMIT_BYTES, id="as large as may be"),
        pytest.param(b"\xef\xbb\xbfsource = '/nexus'", id="bom"),
        pytest.param(b"# x\r\nworkers = 16\r\n[publish]\r\ntimeout = '30s'\r\n", id="crlf"),
    ],
)
def test_055_an_odd_file_is_fine(read: Load, data: bytes) -> None:
    assert read(data).settings == Settings()


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"workers = ", "nexus.toml is not TOML: "),
        (b"workers = 1\nworkers = 2", "nexus.toml is not TOML: "),
        (b"\xff\xfew\x00", "nexus.toml is not UTF-8 text (byte 0)"),
        (b"a = " + b"[" * 100_000, "nexus.toml is "),
        (b"#" * (FILE_LIMIT_BYTES + 1), "nexus.toml is larger than 1,048,576 bytes"),
    ],
)
def test_055_a_broken_file_is_refused(read: Load, data: bytes, fault: str) -> None:
    assert refusal(read, data).message.startswith(fault)


def test_055_a_directory_in_the_place_of_the_file_is_refused(read: Load, tmp_path: Path) -> None:
    (tmp_path / "nexus.toml").mkdir()
    assert refusal(read).message == "nexus.toml cannot be read: Is a directory"


def test_055_an_unreadable_file_is_refused(read: Load, tmp_path: Path) -> None:
    # A loop, since the superuser may read what nobody may.
    (tmp_path / "nexus.toml").symlink_to("nexus.toml")
    assert refusal(read).message.startswith("nexus.toml cannot be read: ")


def test_055_a_table_that_is_none_is_refused(read: Load) -> None:
    error = refusal(read, "[tool]\nnexus = 3", name="pyproject.toml")
    assert error.message == "pyproject.toml: tool.nexus must be a table"


# -- properties ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 50))
@example(1_000_000_000_000_001)
def test_a_size_is_read_as_it_is_written(size_bytes: int) -> None:
    assert Size(0, 1 << 60).read(shown_size(size_bytes)) == size_bytes


@given(st.integers(0, 10**9))
def test_a_duration_is_read_as_it_is_written(milliseconds: int) -> None:
    text = shown_duration(milliseconds / 1_000)
    assert Duration(0.0, 1e9).read(text) == pytest.approx(milliseconds / 1_000, rel=1e-9)


@given(st.binary(max_size=200) | st.text(alphabet="workers=[]{}\"'\n.#1-tpubilhm ", max_size=200).map(str.encode))
def test_any_file_gives_settings_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.getbasetemp()
    (directory / "nexus.toml").write_bytes(data)
    try:
        loaded = load(environment={}, directory=directory)
    except SettingsError as error:
        assert re.match(r"nexus\.toml\b|topics ", error.message)  # noqa: PT017
    else:
        assert isinstance(loaded.settings, Settings)


# -- the table -------------------------------------------------------------------------------------------------------


def test_every_default_fits_its_own_setting() -> None:
    for row in TABLE:
        if row.default is None:
            continue
        written = row.default
        if isinstance(row.kind, Duration):
            written = shown_duration(row.default)  # type: ignore[arg-type]
        assert row.kind.read(written) == row.default


def test_every_setting_says_what_it_means() -> None:
    for row in TABLE:
        assert row.meaning.endswith(".")
        assert row.kind.form


@pytest.mark.parametrize("module", [nexus.config, nexus.core.plan])
def test_the_examples_in_the_modules_run(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("searchable", [False, True])
def test_a_folder_of_somebody_elses_has_no_settings_and_an_unreadable_file_is_told(
    searchable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: searchable)
    read = nexus.config.sources.from_file
    if searchable:
        with pytest.raises(nexus.config.SettingsError, match="cannot be read: Permission denied"):
            read(str(tmp_path / "config.toml"), "config.toml")
    else:
        assert read(str(tmp_path / "config.toml"), "config.toml") == {}
