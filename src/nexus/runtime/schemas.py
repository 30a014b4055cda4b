"""JSON Schemas of event types: does a body that somebody edited still fit?

The setting ``schemas`` gives each pattern of event types a file. A file is read when an event of such a type is first
checked; every file whose pattern fits has a say. Needs the extra ``schema``. A schema may refer to parts of itself;
another document is never fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexus.core.pattern import Router
from nexus.errors import InvalidEvent, MissingExtra, SettingsError
from nexus.event import is_json

FILE_LIMIT_BYTES = 16 * 1024 * 1024
_SHOWN_LIMIT_CHARS = 300
_FAULTS_SHOWN = 3


class Schemas:
    """The schemas of a program, by patterns of event types."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._router = Router[str]()
        for pattern, file in files.items():
            self._router.add(file, pattern)
        self._validators: dict[str, Any] = {}

    def check(self, event_type: str, content_type: str, body: bytes) -> None:
        """Raise `InvalidEvent` that names the first places of a body that do not fit the schemas of its event's type.

        Raises `MissingExtra`, and `SettingsError` for a file that holds no schema.
        """
        for file in self._router.match(event_type):
            if not is_json(content_type):
                raise InvalidEvent(f"the body is {content_type}, and {file} wants JSON")
            if file not in self._validators:
                self._validators[file] = _validator(file)
            faults = list(self._validators[file].iter_errors(json.loads(body or b"null")))
            if faults:
                told = "; ".join(_shown(fault) for fault in faults[:_FAULTS_SHOWN])
                more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
                raise InvalidEvent(f"the body does not fit {file}: {told}{more}")


def _shown(fault: Any) -> str:
    path = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in fault.instance_path)
    return f"{path or 'the whole'}: {fault.message[:_SHOWN_LIMIT_CHARS]}"


def _validator(file: str) -> Any:
    try:
        with Path(file).open("rb") as stream:
            text = stream.read(FILE_LIMIT_BYTES + 1)
        if len(text) > FILE_LIMIT_BYTES:
            raise SettingsError(f"schemas: {file} is larger than {FILE_LIMIT_BYTES:,} bytes")
        return compiled(json.loads(text))
    except OSError as error:
        raise SettingsError(f"schemas: {file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # no JSON, no text, or no schema
        raise SettingsError(f"schemas: {file} is no JSON Schema: {getattr(error, 'message', error)}") from error


def compiled(schema: Any) -> Any:
    """Return what checks values against a schema. Raises `MissingExtra`, and `ValueError` for what is no schema."""
    try:
        import jsonschema_rs  # an extra: most programs need none
    except ImportError as error:
        raise MissingExtra(
            "JSON Schemas need the package jsonschema-rs", hint="pip install 'nexus-bus[schema]'"
        ) from error
    return jsonschema_rs.validator_for(schema, retriever=_refuse)


def _refuse(url: str) -> Any:
    raise ValueError(f"{url} is another document, and none is fetched; put it under $defs")
