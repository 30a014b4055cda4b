"""The life of a request as event types: ``requested``, ``started``, ``success`` or ``failed``.

The last segment of the type says where a request is: ``commerce:create_order:v1:requested`` is followed by
``commerce:create_order:v1:started``, and ends with ``…:success`` or ``…:failed``. Types joined by dots do as well.
"""

from __future__ import annotations

from typing import Literal

REQUESTED = "requested"
Stage = Literal["started", "success", "failed"]


def is_request(type: str) -> bool:
    """Tell whether a type, or a pattern of types, is that of requests."""
    return type.endswith((f":{REQUESTED}", f".{REQUESTED}"))


def stage_of(type: str, stage: Stage) -> str:
    """Return the type of another stage of the request that has this type.

    >>> stage_of("commerce:create_order:v1:requested", "success")
    'commerce:create_order:v1:success'
    """
    return type[: -len(REQUESTED)] + stage
