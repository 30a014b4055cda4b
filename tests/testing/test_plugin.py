"""The pytest plug-in, as a project that uses it sees it."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import nexus

pytest_plugins = ["pytester"]

SOURCE = str(Path(nexus.__file__).parent.parent)
SNIPPETS = Path(__file__).resolve().parents[2] / "docs" / "snippets"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the project's tests with the plug-in, which loads by itself where the package is installed."""
    installed = any(point.name == "nexus" for point in entry_points(group="pytest11"))
    return project.runpytest_subprocess(*([] if installed else ["-p", "nexus.testing.plugin"]), *arguments)


def test_a_test_runs_once_for_each_backend(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from nexus.spi.backend import TopicSpec

        async def test_it(nexus_backend, nexus_backend_url):
            info = await nexus_backend.ensure(TopicSpec("orders", partitions=2))
            assert info.end == info.first
            assert nexus_backend_url.startswith(nexus_backend.name)
        """
    )
    run(project, "--nexus-backends=memory,sqlite").assert_outcomes(passed=2)
    run(project, "--nexus-backends=memory").assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=2)


def test_a_backend_that_cannot_be_opened_fails_and_is_not_skipped(project: pytest.Pytester) -> None:
    project.makepyfile("async def test_it(nexus_backend): pass")
    result = run(project, "--nexus-backends=memory,kafak://nowhere")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*no backend for URLs that begin with 'kafak'*"])


def test_no_backend_at_all_is_a_mistake(project: pytest.Pytester) -> None:
    project.makepyfile("async def test_it(nexus_backend): pass")
    assert run(project, "--nexus-backends=").ret != 0


def test_a_store_is_new_for_each_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from nexus.spi.backend import TopicSpec

        @pytest.mark.parametrize("turn", range(2))
        async def test_it(nexus_backend, turn):
            assert await nexus_backend.topics() == []
            await nexus_backend.ensure(TopicSpec("orders"))
        """
    )
    run(project, "--nexus-backends=memory,sqlite,memory://mine-{id}").assert_outcomes(passed=6)


def test_time_is_virtual_for_who_asks_for_the_clock(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import asyncio

        async def test_it(nexus_clock):
            before = nexus_clock.monotonic(), nexus_clock.now()
            await asyncio.sleep(86_400)
            assert abs(nexus_clock.monotonic() - before[0] - 86_400) < 0.001
            assert abs(nexus_clock.now() - before[1] - 86_400) < 0.001
        """
    )
    run(project).assert_outcomes(passed=1)


def test_a_bus_and_what_was_published_on_it(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import asyncio
        from nexus.core.retry import Retry
        from nexus.runtime.subscription import Publish

        async def test_it(nexus_bus, published):
            tries = []

            @nexus_bus.on("order.placed", group="billing", retry=Retry(5, base_s=600, cap_s=600), hold_s=1)
            async def charge(order):
                tries.append(order)
                if len(tries) < 3:
                    raise ValueError("not yet")
                return Publish("payment.taken", {"of": order})

            async with nexus_bus:
                await nexus_bus.publish("order.placed", 7, key="k")
                await asyncio.sleep(3_600)
                assert await published.data("payment.*") == [("payment.taken", {"of": 7})]
                assert [event.data for event in await published()] == [7, {"of": 7}]
            assert tries == [7, 7, 7]
        """
    )
    run(project).assert_outcomes(passed=1)


def test_the_shipped_suite_runs_by_its_name(project: pytest.Pytester) -> None:
    result = run(
        project,
        "--pyargs",
        "nexus.testing.conformance.test_topics",
        "--nexus-backends=memory",
        "-o",
        "asyncio_mode=strict",
    )
    result.assert_outcomes(passed=24)


def test_loading_the_plug_in_loads_nothing_heavy(project: pytest.Pytester) -> None:
    heavy = {"apsw", "nexus.backends.memory", "nexus.testing.clock", "nexus.testing.conformance"}
    program = f"import sys, nexus.testing.plugin; assert not {heavy} & set(sys.modules)"
    assert project.run(sys.executable, "-c", program).ret == 0


@pytest.mark.parametrize("name", ["testing_bus.py", "testing_faults.py"])
def test_what_the_page_on_testing_shows_passes(project: pytest.Pytester, name: str) -> None:
    project.makepyfile((SNIPPETS / name).read_text("utf-8"))
    run(project, "--nexus-backends=memory,sqlite").assert_outcomes(passed=2)
