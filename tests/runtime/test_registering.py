"""What a program says of its handlers, refused where it would be passed over in silence."""

from __future__ import annotations

from typing import Any

import pytest

from nexus import Event, HandlerError, Nexus
from nexus.errors import FilterError


async def handle(event: Event[Any]) -> None: ...


@pytest.mark.parametrize("decorator", ["on", "handler"])
def test_a_decorator_without_brackets_says_so(decorator: str) -> None:
    with pytest.raises(HandlerError, match="was given a function") as caught:
        getattr(Nexus("memory://"), decorator)(handle)
    assert caught.value.hint is not None
    assert f"@bus.{decorator}(" in caught.value.hint


async def test_a_bus_that_runs_takes_no_handler_of_either_kind() -> None:
    async with Nexus("memory://") as bus:
        for register in (lambda: bus.on("a.*"), lambda: bus.handler("write"), lambda: bus.include(Nexus("memory://"))):
            with pytest.raises(HandlerError, match="before it starts"):
                register()


def test_an_empty_filter_does_not_mean_all() -> None:
    with pytest.raises(FilterError):
        Nexus("memory://").on("a", where="")(handle)
