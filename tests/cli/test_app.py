"""The app that `nexus worker` and `nexus dev` run: which store it works on, and what is told of a fault in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nexus.cli import _app
from nexus.cli._store import shown_path

from .conftest import Run

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Each test imports its own module ``shop``, from the folder where it is."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("shop", None)


@pytest.fixture
def below(nexus: Run, store: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder below that of a default store, as the working directory."""
    nexus("publish", "a.b", "--url", store)
    folder = place / "below"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def app(folder: Path, make: str) -> Path:
    file = folder / "shop.py"
    file.write_text(f"from nexus import Nexus\nbus = {make}\n")
    return file


def test_an_app_that_names_no_store_works_on_the_nearest(below: Path, place: Path) -> None:
    app(below, "Nexus()")
    assert _app.load("shop:bus").bus.settings.backend == f"sqlite:///{place / '.nexus' / 'nexus.db'}"


def test_the_store_of_the_working_directory_is_nearer_than_one_above(below: Path, nexus: Run) -> None:
    (below / ".nexus").mkdir()
    nexus("publish", "a.b", "--url", "sqlite:///.nexus/nexus.db")
    app(below, "Nexus()")
    assert _app.load("shop:bus").bus.settings.backend == "sqlite:///.nexus/nexus.db"


@pytest.mark.parametrize(
    ("make", "url"),
    [
        ("Nexus('sqlite:///own.db')", "sqlite:///own.db"),
        ("Nexus(settings={'backend': 'sqlite:///.nexus/nexus.db'})", "sqlite:///.nexus/nexus.db"),
    ],
)
def test_an_app_that_names_its_store_keeps_it(below: Path, make: str, url: str) -> None:
    app(below, make)
    assert _app.load("shop:bus").bus.settings.backend == url


def test_an_app_with_a_backend_of_its_own_keeps_it(below: Path) -> None:
    file = app(below, "Nexus(backend=make_backend('memory://', SYSTEM_CLOCK))")
    file.write_text(f"from nexus.clock import SYSTEM_CLOCK\nfrom nexus.plugins import make_backend\n{file.read_text()}")
    bus = _app.load("shop:bus").bus
    assert type(bus.backend).__name__ == "MemoryBackend"


def test_a_store_that_is_elsewhere_is_told_with_its_whole_path(below: Path, place: Path) -> None:
    assert shown_path(Path(".nexus/nexus.db")) == ".nexus/nexus.db"
    assert shown_path(Path("../x.db")) == str(place / "x.db")
    assert shown_path(place / "x.db") == str(place / "x.db")


def test_no_folder_is_made_for_a_path_with_a_slip(nexus: Run, below: Path) -> None:
    app(below, "Nexus()")
    for verb in ("worker", "dev"):
        assert "there is no folder" in nexus(verb, "shop:bus", "--backend", "sqlite:////nowhere/x.db", code=3).stderr


@pytest.mark.slow  # a process
def test_a_worker_below_a_store_consumes_from_it(below: Path, place: Path, start: Start, nexus: Run) -> None:
    file = app(below, "Nexus()")
    with file.open("a") as more:
        more.write('@bus.on("a.*", group="g", start="earliest")\n')
        more.write('async def handle(data: object) -> None: print("got", flush=True)\n')
    process = start("worker", "shop:bus")
    assert process.stdout is not None
    assert process.stdout.readline() == "got\n"
    process.terminate()
    _, talk = process.communicate(timeout=30)
    assert f"on sqlite:///{place / '.nexus' / 'nexus.db'}" in talk
    assert not (below / ".nexus").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bus = (\n", ['  File "{}", line 1', "SyntaxError: '(' was never closed"]),
        ("def make():\n    raise RuntimeError('no \\x1b network')\n\nbus = make()\n",
         ['  File "{}", line 4, in <module>', '  File "{}", line 2, in make', "RuntimeError: no \\x1b network"]),
        ("import missing_module\n", ['  File "{}", line 1, in <module>', "No module named 'missing_module'"]),
    ],
)  # fmt: skip
def test_of_a_fault_in_the_app_only_its_own_frames_are_shown(
    nexus: Run, place: Path, text: str, told: list[str]
) -> None:
    file = place / "shop.py"
    file.write_text(text)
    for verb in ("worker", "dev"):
        shown = nexus(verb, "shop:bus", *(["--no-reload"] if verb == "dev" else []), code=1).stderr
        assert all(line.format(file) in shown for line in told), shown
        assert shown.count("  File ") == sum("File" in line for line in told)


def test_a_handler_that_is_registered_wrongly_is_told_with_its_place(nexus: Run, place: Path) -> None:
    file = app(place, "Nexus()")
    with file.open("a") as more:
        more.write("\n@bus.on\nasync def handle(order: dict) -> None: ...\n")
    told = nexus("worker", "shop:bus", code=2).stderr
    assert f"{file}:4: the decorator `on` was given a function" in told
    assert 'Next: write @bus.on("order.placed"), with brackets' in told


@pytest.mark.parametrize(
    ("parameters", "refused"),
    [
        ("order, event", False),
        ("order, ctx", False),
        ("order: dict, event, context", False),
        ("order: dict, again: list", False),
        ("order, evnt", True),
        ("order: dict, who", True),
        ("event, order, more", True),
    ],
)
def test_a_parameter_without_a_type_beside_the_payload_is_refused(
    nexus: Run, place: Path, parameters: str, refused: bool
) -> None:
    file = app(place, "Nexus()")
    with file.open("a") as more:
        more.write(f'\n@bus.on("a.*", group="g")\nasync def handle({parameters}) -> None: ...\n')
    if not refused:
        assert _app.load("shop:bus").bus.groups
        return
    told = nexus("worker", "shop:bus", code=2).stderr
    assert "would get the payload" in told
    assert f"say what {parameters.split()[-1]} is" in told
