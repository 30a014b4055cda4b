"""`nexus worker` and `nexus dev`, as processes: what they consume, how they drain, when they start anew."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus.cli._files import changed, mtimes

from .conftest import Run, rows

pytestmark = pytest.mark.slow  # real processes

Start = Callable[..., subprocess.Popen[str]]

APP = """\
import asyncio
from nexus import Nexus

bus = Nexus()
other = None

@bus.on("order.*", group="billing", start="earliest")
async def charge(order: int) -> None:
    print("started", order, flush=True)
    {work}
    print("finished", order, flush=True)

@bus.on("mail.*", group="mailing", start="earliest")
async def mail(order: int) -> None:
    print("mailed", order, flush=True)
"""


@pytest.fixture
def app(place: Path) -> Path:
    """An app in ``app.py`` whose store is the default one."""
    file = place / "app.py"
    file.write_text(APP.format(work="pass"))
    return file


def until(process: subprocess.Popen[str], text: str, stream: str = "stderr") -> str:
    """Read lines up to the one that has ``text``."""
    for line in getattr(process, stream):
        if text in line:
            return str(line)
    raise AssertionError(f"{text!r} never came")


def test_a_worker_says_what_it_consumes_and_ends_with_0(nexus: Run, app: Path, start: Start) -> None:
    process = start("worker")
    assert "worker app:bus on sqlite:///.nexus/nexus.db, durable: yes" in until(process, "worker")
    assert "billing: order.*" in until(process, "billing")
    until(process, "consuming")
    nexus("publish", "order.placed", "1")
    assert until(process, "finished", "stdout") == "finished 1\n"
    process.send_signal(signal.SIGTERM)
    _, talk = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "drained billing: 1 acked" in talk
    assert "Traceback" not in talk


def test_sigterm_waits_for_running_handlers(nexus: Run, app: Path, place: Path, start: Start) -> None:
    # The handler goes on only after the signal has come.
    wait = "\n    while not __import__('os').path.exists('go'): await asyncio.sleep(0.01)"
    app.write_text(APP.format(work=wait.strip()))
    process = start("worker", "app:bus")
    until(process, "consuming")
    nexus("publish", "order.placed", "1")
    until(process, "started", "stdout")
    process.send_signal(signal.SIGTERM)
    assert process.poll() is None
    (place / "go").touch()
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "finished 1\n")
    (lag,) = [row["lag"] for row in rows(nexus("groups", "ls", "-o", "json")) if row["group"] == "billing"]
    assert lag == 0


def test_the_drain_has_a_time(nexus: Run, app: Path, start: Start) -> None:
    app.write_text(APP.format(work="await asyncio.Event().wait()"))
    process = start("worker", "--drain", "100ms")
    assert "(0.1 s)" in until(process, "consuming")
    nexus("publish", "order.placed", "1")
    until(process, "started", "stdout")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    (lag,) = [row["lag"] for row in rows(nexus("groups", "ls", "-o", "json")) if row["group"] == "billing"]
    assert lag == 1


def test_a_second_signal_ends_it_at_once(nexus: Run, app: Path, start: Start) -> None:
    app.write_text(
        APP.format(work="await stubborn()")
        + """
async def stubborn():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("cancelled", flush=True)
"""
    )
    process = start("worker", "--drain", "1ms")
    until(process, "consuming")
    nexus("publish", "order.placed", "1")
    until(process, "started", "stdout")
    process.send_signal(signal.SIGINT)
    until(process, "cancelled", "stdout")
    for _ in range(100):  # one that comes at once is taken for the same wish
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(0.2) == 130
            return
    raise AssertionError("it does not end")


def test_only_some_groups(nexus: Run, app: Path, start: Start) -> None:
    process = start("worker", "--only", "mailing")
    talk = until(process, "  ")
    assert "mailing: mail.*" in talk
    assert "consuming" in until(process, "")
    nexus("publish", "order.placed", "1")
    nexus("publish", "mail.sent", "2")
    assert until(process, "", "stdout") == "mailed 2\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert [row["group"] for row in rows(nexus("groups", "ls", "-o", "json"))] == ["mailing"]


@pytest.mark.parametrize(
    ("given", "code", "hint"),
    [
        (["worker", "--only", "biling"], 3, "did you mean 'billing'?"),
        (["worker", "nowhere:bus"], 3, "no module nowhere"),
        (["worker", ":bus"], 2, "':bus' names no module"),
        (["worker", "app..x:bus"], 2, "names no module"),
        (["worker", "app:buss"], 3, "did you mean app:bus?"),
        (["worker", "app:other"], 3, "no Nexus named 'other'"),
        (["worker", "--backend", "sqlit:///x"], 2, "did you mean sqlite://?"),
        (["worker", "--drain", "30"], 2, "not a duration"),
        (["dev", "--ephemeral", "--backend", "memory://"], 2, "leave out --backend"),
    ],
)
def test_what_cannot_run_says_why(app: Path, start: Start, given: list[str], code: int, hint: str) -> None:
    out, talk = start(*given).communicate(timeout=30)
    assert (code, out) == (start(*given).wait(30), "")
    assert hint in talk


def test_without_an_app_the_default_is_named(start: Start) -> None:
    process = start("worker")
    _, talk = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "app:bus is the default" in talk


def test_an_app_without_handlers_is_an_error(place: Path, start: Start) -> None:
    (place / "empty.py").write_text("from nexus import Nexus\nshop = Nexus()\n")
    process = start("worker", "empty.py")
    _, talk = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "empty:shop has no handlers" in talk


def test_a_fault_in_the_app_is_shown_as_it_is(place: Path, start: Start) -> None:
    (place / "app.py").write_text("import missing_module\n")
    process = start("worker")
    _, talk = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "No module named 'missing_module'" in talk


def test_the_backend_of_the_argument_wins(nexus: Run, app: Path, place: Path, start: Start) -> None:
    process = start("worker", "--backend", "sqlite:///mine.db")
    assert "on sqlite:///mine.db" in until(process, "worker")
    until(process, "consuming")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert (place / "mine.db").exists()
    assert not (place / ".nexus").exists()


# -- dev -------------------------------------------------------------------------------------------------------------


def test_dev_starts_anew_when_a_file_changes(nexus: Run, app: Path, start: Start) -> None:
    process = start("dev")
    assert "app app:bus (reload on)" in until(process, "dev   app")
    assert "durable: yes (fsync per batch), kept across restarts" in until(process, "store")
    assert "Ctrl-C drains (10 s), twice = now" in until(process, "workers")
    assert "nexus publish order.placed" in until(process, "next")
    nexus("publish", "order.placed", "1")
    until(process, "finished 1", "stdout")
    app.write_text(app.read_text().replace("finished", "completed"))
    assert until(process, "changed") == "app.py changed\n"
    until(process, "reloaded app:bus")
    nexus("publish", "order.placed", "2")
    until(process, "completed 2", "stdout")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_dev_waits_for_a_change_when_the_app_has_a_fault(app: Path, start: Start) -> None:
    whole = app.read_text()
    app.write_text("import missing_module\n")
    process = start("dev")
    until(process, "it starts again when a file changes")
    app.write_text(whole)
    until(process, "reloaded app:bus")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_dev_drains_at_ctrl_c_and_ends_at_the_second(nexus: Run, app: Path, start: Start) -> None:
    app.write_text(APP.format(work="await asyncio.Event().wait()"))
    process = start("dev")
    until(process, "next")
    nexus("publish", "order.placed", "1")
    until(process, "started", "stdout")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) in (0, 130)


def test_dev_without_workers_and_in_memory(app: Path, place: Path, start: Start) -> None:
    process = start("dev", "--ephemeral", "--no-workers", "--no-reload", "--drain", "1s")
    assert "reload off" in until(process, "dev   app")
    assert "durable: no (lost when it stops)" in until(process, "store")
    assert "workers    none" in until(process, "workers")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not (place / ".nexus").exists()


def test_files_that_change_are_found(place: Path) -> None:
    (place / "sub" / "deep").mkdir(parents=True)
    (place / ".hidden").mkdir()
    for name in ("a.py", "b.txt", "sub/deep/c.py", ".hidden/d.py"):
        (place / name).touch()
    before = mtimes(place)
    assert sorted(before) == ["a.py", "sub/deep/c.py"]
    (place / "a.py").unlink()
    (place / "new.py").touch()
    assert changed(before, mtimes(place)) == ["a.py", "new.py"]


def test_the_number_of_watched_files_has_a_bound(place: Path) -> None:
    for number in range(20):
        (place / f"m{number}.py").touch()
    assert len(mtimes(place, limit=7)) == 7


def test_a_folder_that_cannot_be_made_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nexus import Nexus
    from nexus.cli._app import make_folder
    from nexus.errors import ReadOnly

    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ReadOnly, match=r"cannot make .*\.nexus"):
        make_folder(Nexus(f"sqlite:///{tmp_path / 'file' / '.nexus' / 'nexus.db'}", settings={}))
