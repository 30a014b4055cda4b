"""Stages of a request as types."""

from __future__ import annotations

import pytest

from nexus.core.lifecycle import is_request, stage_of


@pytest.mark.parametrize("type", ["commerce:create_order:v1:requested", "order.requested", "order.*.requested"])
def test_a_request_ends_in_requested(type: str) -> None:
    assert is_request(type)
    assert stage_of(type, "failed") == type.removesuffix("requested") + "failed"


@pytest.mark.parametrize("type", ["requested", "order.unrequested", "order.requested.v1"])
def test_nothing_else_is_a_request(type: str) -> None:
    assert not is_request(type)
