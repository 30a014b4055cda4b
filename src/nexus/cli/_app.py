"""Find and load the app: the `Nexus` object that a module of the user's holds."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
import msgspec

import nexus
from nexus import Nexus, NexusError, SettingsError
from nexus.cli._exits import NotFound, say
from nexus.cli._store import FILE, nearest, refuse_no_folder, sqlite_path, url_of
from nexus.errors import ReadOnly
from nexus.plugins import make_backend
from nexus.spi.backend import Durability

DEFAULT = "app:bus"


class App(NamedTuple):
    """A bus, and what it is called."""

    name: str
    bus: Nexus


class Fault(click.ClickException):
    """The user's module cannot be imported: its own traceback is shown, and nothing of what led there."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_WAY_THERE):
            trace = trace.tb_next
        self._lines = traceback.format_exception(error.with_traceback(trace))

    def show(self, file: IO[Any] | None = None) -> None:
        say("".join(self._lines).rstrip())


_WAY_THERE = (
    "<frozen importlib",
    *(f"{Path(str(module.__file__)).parent}{os.sep}" for module in (nexus, click, importlib)),
)


def load(name: str | None, *, backend: str | None = None, drain_s: float | None = None) -> App:
    """Import ``module:bus``, and let arguments win over what the app says. Raises `NotFound`, `SettingsError`."""
    module_name, _, attribute = (name or DEFAULT).partition(":")
    if module_name.endswith(".py"):
        module_name = module_name.removesuffix(".py").replace("/", ".").lstrip(".")
    if not all(module_name.split(".")):
        raise click.UsageError(f"{name!r} names no module; name the app as module:bus, such as shop:bus")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise Fault(error) from None
        raise NotFound(
            f"there is no module {module_name} here" + ("" if name else f" ({DEFAULT} is the default)"),
            hint="name the app as module:bus, such as shop:bus for `bus = Nexus()` in shop.py",
        ) from None
    except NexusError as error:  # it says itself what to do, and here where
        raise _placed(error) from None
    except Exception as error:
        raise Fault(error) from None
    buses = {key: value for key, value in vars(module).items() if isinstance(value, Nexus)}
    if not attribute:
        attribute = next(iter(buses), "bus") if len(buses) == 1 else "bus"
    bus = buses.get(attribute)
    if bus is None:
        near = get_close_matches(attribute, buses, n=1) or list(buses)
        hint = f"did you mean {module_name}:{near[0]}?" if near else f"put `{attribute} = Nexus()` into {module_name}"
        raise NotFound(f"module {module_name} has no Nexus named {attribute!r}", hint=hint)
    _override(bus, backend, drain_s)
    return App(f"{module_name}:{attribute}", bus)


def _placed(error: NexusError) -> NexusError:
    """Have an error name the line of the app that it comes from."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_WAY_THERE)]
    if own:
        error.message = f"{own[-1].filename}:{own[-1].lineno}: {error.message}"
    return error


def _override(bus: Nexus, backend: str | None, drain_s: float | None) -> None:
    if backend is not None:
        refuse_no_folder(backend)
        bus.use_backend(backend)
    elif _is_default(bus):
        folder = nearest()
        if folder is not None and folder != Path.cwd():  # the store of this folder has its name already
            bus.use_backend(url_of(folder / FILE))
    if drain_s is not None:
        bus.settings = msgspec.structs.replace(bus.settings, drain_s=drain_s)


def _is_default(bus: Nexus) -> bool:
    """Tell whether nobody chose a store: not the settings, nor the program with a URL or a backend of its own."""
    url = bus.settings.backend
    if bus.loaded.origins["backend"].layer != "default" or url != bus.loaded.settings.backend:
        return False
    made = make_backend(url, bus.clock, bus.loaded.backends.options(url))
    return type(made) is type(bus.backend) and getattr(made, "settings", None) == getattr(bus.backend, "settings", None)


def make_folder(bus: Nexus) -> None:
    """Make ``.nexus`` for a store that lives there; any other folder is the user's to make."""
    path = sqlite_path(bus.settings.backend)
    if path is not None and path.parent.name == ".nexus":
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise ReadOnly(
                f"cannot make {path.parent}: {error.strerror}",
                hint="work in a folder that you may write to, or name a store with --url or NEXUS_BACKEND",
            ) from error


def only(bus: Nexus, wished: tuple[str, ...]) -> None:
    """Leave only the wished groups. Raises `NotFound`."""
    for name in wished:
        if name not in bus.groups:
            near = get_close_matches(name, bus.groups, n=1)
            known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(bus.groups) or 'none'}"
            raise NotFound(f"the app has no group {name!r}", hint=known)
    if wished:
        bus.use_groups(wished)


def refuse_no_handlers(app: App) -> None:
    """Raise `SettingsError` for an app that would consume nothing."""
    if not app.bus.groups:
        raise SettingsError(f"{app.name} has no handlers", hint="import the modules that register them in the app")


def consumes(bus: Nexus) -> list[str]:
    """One line per group: what it consumes."""
    return [
        f"{group.name}: {', '.join(pattern for one in group.subscriptions for pattern in one.patterns)}"
        for group in bus.groups.values()
    ]


_SURVIVES: dict[Durability, str] = {
    "none": "no (nothing is promised)",
    "memory": "no (lost when it stops)",
    "process": "in part (kept across restarts, not across a power cut)",
    "disk": "yes (fsync per batch), kept across restarts",
    "replicated": "yes (on several nodes)",
    "replicated+disk": "yes (on several nodes, fsync)",
}


def durable(bus: Nexus) -> str:
    """Say what survives, as the backend was observed; of an open bus."""
    levels = list(_SURVIVES)
    return _SURVIVES[min(bus.publisher.durabilities.values(), key=levels.index)]
