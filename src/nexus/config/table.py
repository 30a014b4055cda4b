"""The table of settings: which exist, what values fit, and what they mean.

The structs below are the only place where a setting is declared. Validation, the names in the environment and
``docs/settings.md`` are read from them. A value with a unit is written with it (``timeout = "30s"``) and held without
(``timeout_s = 30.0``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Protocol, get_args, get_type_hints

import msgspec

from nexus.core.pattern import validate_pattern
from nexus.errors import FilterError
from nexus.spi.backend import Durability

# -- kinds of values -------------------------------------------------------------------------------------------------


class Kind(Protocol):
    """What values fit a setting."""

    @property
    def form(self) -> str:
        """Say what fits, to follow "must be"."""

    def read(self, value: object) -> object:
        """Return the value to hold. Raises `ValueError`, with a reason or without, when ``value`` does not fit."""

    def parse(self, text: str) -> object:
        """Return what ``text`` stands for where there is nothing but text, as in the environment."""


class Whole(msgspec.Struct, frozen=True):
    """A whole number between two bounds."""

    least: int
    most: int

    @property
    def form(self) -> str:
        return f"a whole number from {self.least:,} to {self.most:,}"

    def read(self, value: object) -> int:
        if type(value) is int and self.least <= value <= self.most:
            return value
        raise ValueError

    def parse(self, text: str) -> object:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else text


class Size(msgspec.Struct, frozen=True):
    """A number of bytes, with a unit or without."""

    least: int
    most: int

    @property
    def form(self) -> str:
        return f"a size from {shown_size(self.least)} to {shown_size(self.most)}, such as 10MiB"

    def read(self, value: object) -> int:
        match = re.fullmatch(r"([0-9]{1,18}) ?([kKMGT]i?B|B)?", value) if isinstance(value, str) else None
        if match:
            number, unit = match.groups()
            value = int(number) * _BYTES[(unit or "B").upper()]
        if type(value) is int and self.least <= value <= self.most:
            return value
        raise ValueError

    def parse(self, text: str) -> object:
        return text


class Duration(msgspec.Struct, frozen=True):
    """A length of time, with its unit; held in seconds."""

    least_s: float
    most_s: float

    @property
    def form(self) -> str:
        return (
            f"a duration from {shown_duration(self.least_s)} to {shown_duration(self.most_s)}, such as 1h30m or 200ms"
        )

    def read(self, value: object) -> float:
        if isinstance(value, str) and re.fullmatch(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h|d|w))+", value):
            parts = re.findall(r"([0-9.]+)(ms|[smhdw])", value)
            seconds = math.fsum(float(number) * _SECONDS[unit] for number, unit in parts)
            if self.least_s <= seconds <= self.most_s:
                return seconds
        raise ValueError

    def parse(self, text: str) -> object:
        return text


class OneOf(msgspec.Struct, frozen=True):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def form(self) -> str:
        return "one of " + ", ".join(self.words)

    def read(self, value: object) -> str:
        if isinstance(value, str) and value in self.words:
            return value
        raise ValueError

    def parse(self, text: str) -> object:
        return text


class Text(msgspec.Struct, frozen=True):
    """A text that an expression describes."""

    form: str
    expression: str

    def read(self, value: object) -> str:
        if isinstance(value, str) and len(value) <= 1_024 and re.fullmatch(self.expression, value):
            return value
        raise ValueError

    def parse(self, text: str) -> object:
        return text


class Patterns(msgspec.Struct, frozen=True):
    """A list of event-type patterns; separated by commas where there is nothing but text."""

    @property
    def form(self) -> str:
        return "a list of event-type patterns"

    def read(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ValueError
        for item in value:
            try:
                validate_pattern(item)
            except FilterError as error:
                raise ValueError(error.message) from error
        return tuple(value)

    def parse(self, text: str) -> object:
        return [part.strip() for part in text.split(",") if part.strip()]


class Files(msgspec.Struct, frozen=True):
    """A table of files by event-type patterns; ``pattern=file`` separated by commas where there is nothing but text."""

    @property
    def form(self) -> str:
        return "a table from event-type patterns in quotes to files"

    def read(self, value: object) -> dict[str, str]:
        if not isinstance(value, Mapping) or not all(isinstance(file, str) and file for file in value.values()):
            raise ValueError
        for pattern in value:
            try:
                validate_pattern(pattern)
            except FilterError as error:
                raise ValueError(error.message) from error
        return dict(value)

    def parse(self, text: str) -> object:
        pairs = (part.partition("=") for part in text.split(",") if part.strip())
        return {pattern.strip(): file.strip() for pattern, _, file in pairs}


_BYTES = {"B": 1} | {
    f"{letter}{form}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for form, base in (("B", 1_000), ("IB", 1_024))
}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def shown_size(size_bytes: int) -> str:
    """Write a size as a setting would be written: with the largest unit that needs no fraction."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _BYTES[unit.upper()] == 0:
            return f"{size_bytes // _BYTES[unit.upper()]}{unit}"
    return f"{size_bytes}B"


def shown_duration(seconds: float) -> str:
    """Write a duration as a setting would be written: with the largest unit that needs no fraction, but for ms."""
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    whole = math.floor(seconds) if seconds >= 1_000 else 0
    ms = f"{(seconds - whole) * 1_000:.6f}".rstrip("0").rstrip(".")
    return (f"{whole // 60}m{whole % 60}s" if whole else "") + f"{ms}ms"


# -- the settings ----------------------------------------------------------------------------------------------------


class Setting(msgspec.Struct, frozen=True):
    """What the table says about one field."""

    kind: Kind
    meaning: str
    secret: bool = False
    """The value may hold a password: no error and no listing shows it."""


_DAY_S, _YEAR_S = 86_400.0, 31_536_000.0
_KIB, _MIB, _GIB, _TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


class PublishSettings(msgspec.Struct, frozen=True):
    """Limits of publishing."""

    max_body_bytes: Annotated[
        int,
        Setting(Size(1, _GIB), "Largest payload that is taken. The backend may allow less; the smaller limit holds."),
    ] = _MIB
    queue_events: Annotated[
        int, Setting(Whole(1, 10_000_000), "Events that may wait to be stored; then `publish` waits.")
    ] = 10_000
    queue_bytes: Annotated[
        int, Setting(Size(_KIB, _TIB), "Bytes of payload that may wait to be stored; then `publish` waits.")
    ] = 64 * _MIB
    timeout_s: Annotated[float, Setting(Duration(0.001, _DAY_S), "How long `publish` waits before it gives up.")] = (
        msgspec.field(default=30.0, name="timeout")
    )


class TopicSettings(msgspec.Struct, frozen=True):
    """One topic."""

    patterns: Annotated[
        tuple[str, ...],
        Setting(
            Patterns(), "Event types that belong to this topic. What no topic asks for goes to the topic `events`."
        ),
    ] = ()
    partitions: Annotated[
        int, Setting(Whole(1, 1_024), "Number of partitions, for a new topic; it is fixed afterwards.")
    ] = 16
    retention_age_s: Annotated[
        float | None, Setting(Duration(1.0, 100 * _YEAR_S), "Older events may go, consumed or not. Unset keeps them.")
    ] = msgspec.field(default=None, name="retention_age")
    retention_size_bytes: Annotated[
        int | None,
        Setting(
            Size(_MIB, 1_024 * _TIB), "Beyond this size the oldest events may go, consumed or not. Unset: no limit."
        ),
    ] = msgspec.field(default=None, name="retention_size")
    durability_class: Annotated[
        str, Setting(OneOf(("durable", "ephemeral")), "`ephemeral` may be kept in memory only and lost at a restart.")
    ] = "durable"


class Settings(msgspec.Struct, frozen=True):
    """All settings, checked."""

    backend: Annotated[
        str,
        Setting(
            Text("a URL such as sqlite:///.nexus/nexus.db", r"[a-z][a-z0-9+.-]*://[^\s\x00-\x1f\x7f]*"),
            "Where events are stored: `memory://`, `sqlite:///path`, or what an installed package adds.",
            secret=True,
        ),
    ] = "sqlite:///.nexus/nexus.db"
    source: Annotated[
        str,
        Setting(
            Text("a URI reference such as /shop", r"[^\s\x00-\x1f\x7f]+"),
            "The CloudEvents `source` of what this service publishes.",
        ),
    ] = "/nexus"
    durability: Annotated[
        Durability,
        Setting(
            OneOf(get_args(Durability)),
            "The least that must survive when `publish` returned. The bus does not start on a backend that gives less.",
        ),
    ] = "none"
    publish: PublishSettings = PublishSettings()
    workers: Annotated[int, Setting(Whole(1, 1_024), "Handlers that run at once in this process.")] = 16
    prefetch_events: Annotated[
        int, Setting(Whole(1, 1_000_000), "Events that a subscription holds at most: running, waiting or parked.")
    ] = 1_000
    prefetch_bytes: Annotated[int, Setting(Size(_KIB, _TIB), "Bytes of payload that a subscription holds at most.")] = (
        64 * _MIB
    )
    drain_s: Annotated[
        float, Setting(Duration(0.0, _DAY_S), "How long running handlers may take to finish when the bus stops.")
    ] = msgspec.field(default=30.0, name="drain")
    settle_interval_s: Annotated[
        float,
        Setting(
            Duration(0.001, 60.0),
            "How long finished deliveries are gathered before the cursor is written; after a crash they come again.",
        ),
    ] = msgspec.field(default=0.2, name="settle_interval")
    schemas: Annotated[
        Mapping[str, str],
        Setting(
            Files(),
            "JSON Schema files that an edited dead letter must fit, by its event's type; a relative path begins at the "
            "folder of the file of settings. Needs the extra `schema`.",
        ),
    ] = msgspec.field(default_factory=dict)
    topics: Mapping[str, TopicSettings] = msgspec.field(default_factory=lambda: {"events": TopicSettings()})


class Row(msgspec.Struct, frozen=True):
    """One line of the table. In the path of a topic's setting ``*`` stands for the name of the topic."""

    path: str
    kind: Kind
    default: object
    meaning: str
    secret: bool


def rows(of: type[msgspec.Struct], prefix: str = "") -> tuple[Row, ...]:
    """Read the table from the declaration of a struct."""
    found: list[Row] = []
    hints = get_type_hints(of, include_extras=True)
    for field in msgspec.structs.fields(of):
        hint, path = hints[field.name], prefix + field.encode_name
        setting = next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Setting)), None)
        if setting is not None:
            made = field.default_factory
            default = field.default if made is msgspec.NODEFAULT else made()
            found.append(Row(path, setting.kind, default, setting.meaning, setting.secret))
        elif isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            found.extend(rows(hint, path + "."))
        else:
            found.extend(rows(get_args(hint)[1], path + ".*."))
    return tuple(found)


TABLE = rows(Settings)

Path = tuple[str, ...]
"""The place of one value, such as ``("topics", "orders", "partitions")``. Topics may have dots in their names."""

_BY_PATH = {tuple(row.path.split(".")): row for row in TABLE}
SECTIONS = frozenset(path[:depth] for path in _BY_PATH for depth in range(1, len(path)))


def general(path: Path) -> Path:
    """Put ``*`` in the place of a topic's name."""
    return (*path[:1], "*", *path[2:]) if path[:1] == ("topics",) and len(path) > 1 else path


def row_of(path: Path) -> Row | None:
    """Return the line of the table for a place, if it has one."""
    return _BY_PATH.get(general(path))


def known_below(path: Path) -> list[str]:
    """Return the names that may follow ``path``."""
    start = general(path)
    return sorted({known[len(start)] for known in _BY_PATH if known[: len(start)] == start and len(known) > len(start)})


def build(values: Mapping[Path, Any]) -> Settings:
    """Make the settings from checked values; what is missing keeps its default."""
    topics = {"events", *(path[1] for path in values if path[0] == "topics")}
    return Settings(
        **_given(Settings, (), values),
        publish=PublishSettings(**_given(PublishSettings, ("publish",), values)),
        topics={name: TopicSettings(**_given(TopicSettings, ("topics", name), values)) for name in sorted(topics)},
    )


def _given(of: type[msgspec.Struct], prefix: Path, values: Mapping[Path, Any]) -> dict[str, Any]:
    places = {field.name: (*prefix, field.encode_name) for field in msgspec.structs.fields(of)}
    return {name: values[place] for name, place in places.items() if place in values}
