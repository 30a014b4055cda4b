"""Which store does a verb work on, and how is it opened? Verbs that read never make one, and none makes one unnamed.

The first of these: ``--url`` or ``NEXUS_URL``; the settings (``NEXUS_BACKEND``, ``nexus.toml``); the nearest
``.nexus/nexus.db`` in the working directory or above it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import click

from nexus import Nexus, config
from nexus.cli._exits import NotFound
from nexus.cli._values import URL
from nexus.core.control import TOPIC as CONTROL
from nexus.core.control import replay_group
from nexus.core.delays import TOPIC as DELAYS
from nexus.errors import NexusError, UnknownGroup, UnknownTopic
from nexus.spi.backend import Backend

SQLITE = "sqlite:///"
FILE = Path(".nexus", "nexus.db")
_KNOWN_SHOWN = 20


class Store(NamedTuple):
    """Where a verb works."""

    url: str
    settings: Path | None = None
    """The settings that belong to a store that was found above the working directory."""

    def bus(self, **options: Any) -> Nexus:
        """Make the bus, not opened yet."""
        return Nexus(self.url, settings=self.settings, **options)


def url_option(function: Callable[..., object]) -> Callable[..., object]:
    """Add ``--url``."""
    return click.option("--url", type=URL, help="Store to work on, such as sqlite:///path; also NEXUS_URL.")(function)


def find(url: str | None, *, create: bool = False) -> Store:
    """Choose the store. Raises `NotFound`, `SettingsError`. ``create``: a file that is named may be missing."""
    store = _chosen(url)
    path = sqlite_path(store.url)
    if path is not None and not path.exists():
        refuse_no_folder(store.url)
        if not create:
            raise NotFound(f"there is no store {path}", hint="nexus publish makes it; or correct its name")
    if store.url.startswith("memory://"):
        raise NotFound(
            "memory:// lives in one process, which this is not", hint="name another store with --url or NEXUS_BACKEND"
        )
    return store


def _chosen(url: str | None) -> Store:
    url = url or os.environ.get("NEXUS_URL")
    if url:
        return Store(url)
    loaded = config.load()
    if loaded.origins["backend"].layer != "default":
        return Store(loaded.settings.backend)
    folder = nearest()
    if folder is not None:
        settings = folder / "nexus.toml"
        return Store(url_of(folder / FILE), settings if settings.is_file() else None)
    raise NotFound(
        f"there is no {FILE} here or above, and no other store is named",
        hint=f"run an app with nexus dev, make one by hand with nexus publish TYPE --url {SQLITE}{FILE}, "
        "or name a store: --url, NEXUS_URL, or backend in nexus.toml",
    )


def refuse_no_folder(url: str) -> None:
    """Raise `NotFound` for a file in a folder that is not there: a slip. Only ``.nexus`` is made with its store."""
    path = sqlite_path(url)
    if path is None:
        return
    folder = path.parent.parent if path.parent.name == FILE.parent.name else path.parent
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder} for a store", hint="make it, or correct the path")


def nearest() -> Path | None:
    """Return the folder of the nearest default store: the working directory, or one above it."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / FILE).is_file()), None)


def url_of(path: Path) -> str:
    """Return the URL of a SQLite store."""
    return SQLITE + quote(str(path))


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite store, None for other backends."""
    return Path(unquote(url.removeprefix(SQLITE).partition("?")[0])) if url.startswith(SQLITE) else None


def shown_path(path: Path) -> str:
    """Return the path of a store: whole when it is not below the working directory."""
    whole = Path(os.path.abspath(path))
    return str(path if whole.is_relative_to(Path.cwd()) else whole)


def shown(url: str) -> str:
    """Return a URL without what may be a secret."""
    scheme, _, rest = url.partition("://")
    if scheme in ("sqlite", "memory"):
        return url
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


@contextlib.asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[Nexus]:
    """Open the store for reading and for commands about dead letters: no topic is made, nothing is consumed."""
    bus = find(url).bus()
    await bus.backend.open()
    try:
        yield bus
    except (UnknownTopic, UnknownGroup) as error:
        await _name_others(bus, error)
        raise
    finally:
        await bus.backend.close()


async def _name_others(bus: Nexus, error: UnknownTopic | UnknownGroup) -> None:
    """Have an error about a name that is not there say the near one, or those that there are.

    What an error says of a name that is there, as that of a group that was removed, is more than that.
    """
    with contextlib.suppress(NexusError):
        if isinstance(error, UnknownTopic):
            names, there = await topics_of(bus.backend), await bus.backend.topics()
        else:
            control = await bus.control.read_on()
            names, there = await groups_of(bus), [*await bus.backend.groups(), *control.created, *control.removed]
        quoted = re.findall(r"'([^']+)'", error.message)
        wrong = [word for word in quoted if word not in there]
        if error.hint is not None and not wrong:
            return
        near = [near for word in wrong for near in get_close_matches(word, names, 1)]
        known = ", ".join(names[:_KNOWN_SHOWN]) + (", …" if len(names) > _KNOWN_SHOWN else "")
        error.hint = f"did you mean {near[-1]!r}?" if near else f"known: {known or 'none'}"


async def topics_of(backend: Backend, *, parking: bool = False) -> list[str]:
    """Return the names of topics; those of Nexus itself, and where groups park events, only when asked for."""
    names = await backend.topics()
    return [name for name in names if parking or not is_own(name, names)]


async def groups_of(bus: Nexus) -> list[str]:
    """Return the names of groups; not that of delayed events, nor those of replays that are over."""
    from nexus.runtime.delays import GROUP as OF_DELAYS  # most verbs do without what it needs

    control = await bus.control.read_on()
    over = {replay_group(id) for id in control.replays if control.outcome(id) is not None}
    return [name for name in await bus.backend.groups() if name not in over and name != OF_DELAYS]


def is_own(name: str, names: list[str]) -> bool:
    """Tell whether a topic is one of Nexus itself, such as where a group parks events."""
    return name in (CONTROL, DELAYS) or is_parking(name, names)


def is_parking(name: str, names: list[str]) -> bool:
    """Tell whether groups park here what failed of another topic."""
    return name.endswith(".park") and any(name.startswith(f"{other}.") for other in names if other != name)
