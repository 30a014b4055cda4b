"""What the published schema says of a payload, and what an operator would do about it.

Most of the payloads that do not fit are older than the schema: they lack what GitHub added since. The rule for these
fills in what GitHub sends where nobody ever set the new property. What is there and of the wrong kind is left alone:
to correct that is to invent it.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec

from nexus.demo.github.payloads import PREFIX, read_schema
from nexus.runtime.schemas import compiled

_ROUNDS = 8
"""A property that was filled in may lack others in turn."""
DEFAULTS: dict[str, Any] = {
    "active_lock_reason": None,
    "allow_forking": True,
    "auto_merge": None,
    "custom_properties": {},
    "description": None,
    "draft": False,
    "is_custom_amount": False,
    "is_one_time": False,
    "is_template": False,
    "performed_via_github_app": None,
    "requester": None,
    "start_line": None,
    "start_side": None,
    "suspended_at": None,
    "suspended_by": None,
    "topics": [],
    "visibility": "public",
    "web_commit_signoff_required": False,
}
"""What GitHub sends for these properties where nobody ever set them."""


class DoesNotFit(Exception):
    """A payload is not what its published schema says."""


class Checker:
    """Checks payloads against the definition that the schema has for their hook and action."""

    def __init__(self) -> None:
        self._schema = msgspec.json.decode(read_schema())
        self._validators: dict[str, Any] = {}

    def check(self, event_type: str, payload: Any) -> None:
        """Raise `DoesNotFit` that names the first fault and how many follow. Raises `MissingExtra`."""
        faults = self._faults(event_type, payload)
        if faults:
            more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
            raise DoesNotFit(_told(faults[0]) + more)

    def mend(self, event_type: str, payload: Any) -> Any | None:
        """Return the payload with the properties of `DEFAULTS` that it lacks; None if it does not fit even then."""
        mended = copy.deepcopy(payload)
        for _ in range(_ROUNDS):
            faults = self._faults(event_type, mended)
            if not faults:
                return mended
            for fault in faults:
                if fault.kind.name != "required" or fault.kind.property not in DEFAULTS:
                    return None
                place = mended
                for part in fault.instance_path:
                    place = place[part]
                place[fault.kind.property] = copy.copy(DEFAULTS[fault.kind.property])
        return None

    def _faults(self, event_type: str, payload: Any) -> list[Any]:
        if event_type not in self._validators:
            definition = _definition(event_type, self._schema["definitions"])
            about = {"$schema": self._schema["$schema"], "definitions": self._schema["definitions"]}
            self._validators[event_type] = compiled(about | {"allOf": [{"$ref": f"#/definitions/{definition}"}]})
        return list(self._validators[event_type].iter_errors(payload))


def _definition(event_type: str, definitions: dict[str, Any]) -> str:
    """Name the definition of a hook and its action: ``issues$opened``; without an action ``push$event``."""
    name, _, action = event_type.removeprefix(f"{PREFIX}.").partition(".")
    return next(one for one in (f"{name}${action}", f"{name}$event", f"{name}_event") if one in definitions)


def _told(fault: Any) -> str:
    """Say a fault without quotes, so that faults of different properties are not taken for the same."""
    path = "/".join(map(str, fault.instance_path)) or "the payload"
    if fault.kind.name == "required":
        return f"{path} lacks {fault.kind.property}"
    return f"{path} fails {fault.kind.name}"
