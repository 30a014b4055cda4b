"""The pytest plug-in: backends by option, and virtual time by fixture.

    pytest --nexus-backends=memory,sqlite,nats://localhost

Each test that asks for ``nexus_backend_url`` or ``nexus_backend`` runs once for each backend. One that cannot be opened
fails the test; nothing is skipped. ``nexus_bus`` is always in memory and on virtual time, so that it does the same in
every run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nexus.app import Nexus
    from nexus.spi.backend import Backend
    from nexus.testing.clock import VirtualClock
    from nexus.testing.published import Published

if TYPE_CHECKING:
    _async_fixture = pytest.fixture
else:
    try:
        from pytest_asyncio import fixture as _async_fixture
    except ImportError:  # the fixtures below then need another plug-in that runs async fixtures
        _async_fixture = pytest.fixture


# So that a failing case of the shipped suite shows its values.
pytest.register_assert_rewrite("nexus.testing.conformance")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("nexus").addoption(
        "--nexus-backends",
        default="memory,sqlite",
        help="backends to test on, by name or URL, separated by commas; {id} in a URL is new for each test",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes long on backends whose time is real")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "nexus_backend_url" in metafunc.fixturenames:
        wishes = [
            wish.strip()
            for wish in metafunc.config.getoption("--nexus-backends", "memory,sqlite").split(",")
            if wish.strip()
        ]
        if not wishes:
            raise pytest.UsageError("--nexus-backends names no backend")
        metafunc.parametrize("nexus_backend_url", wishes, indirect=True)


@pytest.fixture
def nexus_backend_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a store that is new for this test; parametrised by ``--nexus-backends``."""
    from nexus.testing.backends import fresh_url

    return fresh_url(request.param, tmp_path)


@_async_fixture
async def nexus_clock() -> AsyncIterator[VirtualClock]:
    """Make time virtual for this test: sleeps, retries and timers pass at once, in the right order."""
    import asyncio

    from nexus.testing.clock import make_virtual

    yield make_virtual(asyncio.get_running_loop())


@_async_fixture
async def nexus_backend(nexus_backend_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """An opened backend; on virtual time if the test asks for ``nexus_clock`` before it."""
    from nexus.plugins import make_backend

    backend = make_backend(nexus_backend_url, _clock(request))
    await backend.open()
    yield backend
    await backend.close()


@_async_fixture
async def nexus_bus(nexus_clock: VirtualClock) -> AsyncIterator[Nexus]:
    """A bus in memory on virtual time: register handlers, then ``async with nexus_bus:``; closed at the end."""
    from nexus.app import Nexus

    bus = Nexus("memory://", clock=nexus_clock, settings={})
    yield bus
    await bus.close()


@pytest.fixture
def published(nexus_bus: Nexus) -> Published:
    """What was published on ``nexus_bus``: ``await published("order.*")`` while it is open."""
    from nexus.testing.published import Published

    return Published(nexus_bus)


def _clock(request: pytest.FixtureRequest) -> Any:
    from nexus.clock import SYSTEM_CLOCK

    return request.getfixturevalue("nexus_clock") if "nexus_clock" in request.fixturenames else SYSTEM_CLOCK
