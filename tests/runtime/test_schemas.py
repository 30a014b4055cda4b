"""Schemas of event types: which file has a say, what an error tells, what a file may be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from nexus import Event, InvalidEvent, Nexus, SettingsError
from nexus.core.outcome import DeadLetter
from nexus.errors import MissingExtra
from nexus.runtime import schemas
from nexus.runtime.schemas import Schemas

JSON = "application/json"
ORDER = {"type": "object", "required": ["lines"], "properties": {"lines": {"items": {"$ref": "#/$defs/line"}}},
         "$defs": {"line": {"type": "object", "properties": {"a/b": {"type": "integer"}}}}}  # fmt: skip


def written(folder: Path, schema: Any) -> str:
    file = folder / "schema.json"
    file.write_text(schema if isinstance(schema, str) else json.dumps(schema))
    return str(file)


def refusal(checks: Schemas, body: bytes, type: str = "order.placed", media: str = JSON) -> str:
    with pytest.raises(InvalidEvent) as raised:
        checks.check(type, media, body)
    return raised.value.message


def test_an_error_names_the_path_of_each_fault(tmp_path: Path) -> None:
    checks = Schemas({"order.*": written(tmp_path, ORDER)})
    checks.check("order.placed", JSON, b'{"lines": [{"a/b": 1}]}')
    assert '/lines/1/a~1b: "x" is not of type "integer"' in refusal(checks, b'{"lines": [{}, {"a/b": "x"}]}')
    assert "the whole: " in refusal(checks, b"{}")
    assert "the whole: " in refusal(checks, b"")


def test_only_so_many_faults_are_told(tmp_path: Path) -> None:
    checks = Schemas({"**": written(tmp_path, {"items": {"type": "integer"}})})
    told = refusal(checks, json.dumps(["x" * 10_000] * 10).encode())
    assert told.endswith("; and 7 more")
    assert len(told) < 2_000


def test_every_file_whose_pattern_fits_has_a_say_and_others_are_not_read(tmp_path: Path) -> None:
    checks = Schemas({"order.*": written(tmp_path, ORDER), "order.placed": "/nowhere.json", "x": "/nowhere.json"})
    checks.check("invoice.sent", JSON, b"[]")
    assert "does not fit" in refusal(checks, b"{}")
    with pytest.raises(SettingsError, match=r"/nowhere\.json cannot be read"):
        checks.check("order.placed", JSON, b'{"lines": []}')


def test_a_body_that_is_not_json_fits_no_schema(tmp_path: Path) -> None:
    assert "wants JSON" in refusal(Schemas({"**": written(tmp_path, {})}), b"\x00", media="application/octet-stream")


@pytest.mark.parametrize(
    "schema", ["{", "\udcff", {"type": "nonsense"}, [], {"$ref": "http://localhost/x.json"}, {"$ref": "other.json"}]
)
def test_a_file_that_is_no_schema_is_a_fault_of_the_settings(tmp_path: Path, schema: Any) -> None:
    file = tmp_path / "schema.json"
    text = schema if isinstance(schema, str) else json.dumps(schema)
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError, match=r"schema\.json is no JSON Schema"):
        Schemas({"**": str(file)}).check("a", JSON, b"{}")


def test_a_file_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "FILE_LIMIT_BYTES", 10)
    with pytest.raises(SettingsError, match="larger than 10 bytes"):
        Schemas({"**": written(tmp_path, {"type": "object"})}).check("a", JSON, b"{}")


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    with pytest.raises(MissingExtra, match=r"nexus-bus\[schema\]"):
        Schemas({"**": written(tmp_path, {})}).check("a", JSON, b"{}")


async def test_a_requeue_with_a_body_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    bus = Nexus("memory://", settings={"schemas": {"order.*": written(tmp_path, ORDER)}})

    @bus.on("order.*", group="g")
    async def handle(event: Event[Any]) -> DeadLetter:
        return DeadLetter("no")

    async with bus:
        await bus.publish("order.placed", {"not": "checked when it is published"})
        letter = await bus.dead_letters.first("g")
        with pytest.raises(InvalidEvent, match="the whole"):
            await bus.dead_letters.requeue(letter, data=b"{}")
        assert await bus.dead_letters.get(letter.id) == letter
        assert await bus.dead_letters.requeue(letter, data=b'{"lines": []}')
