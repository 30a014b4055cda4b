"""The story of the webhooks: what it finds is what the published schema says, and every webhook is accounted for."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from demo_process import report, run

from nexus import brokers
from nexus.demo.github.payloads import read_schema, read_webhooks
from nexus.demo.github.report import problems_of
from nexus.demo.github.schema import DEFAULTS, Checker, DoesNotFit

CHECKSUMS = {
    "github.jsonl.gz": "19dce01c18de401f6b6040ccfae94c2d6d143cadbd9f1a5becd0448c21c78aa1",
    "github-schema.json.gz": "12a9f359807871445c445bd6b6ff23403e8795e01dd9e97bbae608e0f4ac44ad",
}
HOOKS = read_webhooks()


@pytest.mark.parametrize("name", CHECKSUMS)
def test_the_extract_is_what_it_was(name: str) -> None:
    data = gzip.decompress((files("nexus.demo") / "data" / name).read_bytes())
    assert hashlib.sha256(data).hexdigest() == CHECKSUMS[name]


def test_every_webhook_is_there() -> None:
    assert (len(HOOKS), len({hook.name for hook in HOOKS}), len({hook.type for hook in HOOKS})) == (329, 58, 161)
    assert len({hook.id for hook in HOOKS}) == 329
    assert Counter(hook.key for hook in HOOKS).most_common(1) == [("Codertocat/Hello-World", 230)]


def fits_the_whole(payloads: list[Any]) -> list[bool]:
    """What the published schema says as it stands, without the choice of a definition."""
    validator = jsonschema_rs.validator_for(msgspec.json.decode(read_schema()))
    return [validator.is_valid(payload) for payload in payloads]


def test_the_definition_of_a_type_says_what_the_whole_schema_says() -> None:
    checker = Checker()
    whole = fits_the_whole([hook.payload for hook in HOOKS])
    assert whole.count(False) == 53
    for hook, fits in zip(HOOKS, whole, strict=True):
        if fits:
            checker.check(hook.type, hook.payload)
        else:
            with pytest.raises(DoesNotFit):
                checker.check(hook.type, hook.payload)


def test_what_is_mended_fits_and_has_lost_or_changed_nothing() -> None:
    checker = Checker()
    bad = [hook for hook, fits in zip(HOOKS, fits_the_whole([h.payload for h in HOOKS]), strict=True) if not fits]
    mended = [(hook.payload, checker.mend(hook.type, hook.payload)) for hook in bad]
    found = [(before, after) for before, after in mended if after is not None]
    assert len(found) == 38
    assert all(fits_the_whole([after for _, after in found]))
    for before, after in found:
        assert without_defaults(after, before) == before


def without_defaults(after: Any, before: Any) -> Any:
    """Take away again what the rule may have added."""
    if isinstance(after, dict):
        kept = {name: value for name, value in after.items() if name in before or name not in DEFAULTS}
        return {name: without_defaults(value, before[name]) for name, value in kept.items()}
    if isinstance(after, list):
        return [without_defaults(*pair) for pair in zip(after, before, strict=True)]
    return after


def check(found: dict[str, Any]) -> None:
    assert (found["ok"], found["problems"]) == (True, [])
    assert (found["published"], found["types"]) == (329, 161)
    assert found["expected"] == {"check": 329, "issues": 49, "pulls": 41, "builds": 35, "opened": 72}
    assert (found["dead"], found["requeued"], found["discarded"], found["dead_after"]) == (53, 38, 15, 0)
    assert found["handled"] == found["expected"] | {"check": 329 - 15}
    assert sum(error["count"] for error in found["errors"]) == 53
    assert found["errors"][0]["example"] == "repository lacks is_template, and 4 more"
    assert "the body does not fit" in found["refused_edit"]
    assert found["mended"]["added"]["/repository/is_template"] is False
    assert (found["replay"]["selected"], found["replay"]["handled"]) == (58, 58)
    assert found["replay"]["live_groups_moved"] is False
    types = Counter(hook.type for hook in HOOKS if hook.name in ("issues", "pull_request"))
    assert found["replay"]["by_type"] == dict(sorted(types.items()))


async def test_all_webhooks_are_accounted_for(tmp_path: Path) -> None:
    check(await report(tmp_path, "github"))


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.parametrize("kind", brokers.KINDS)
async def test_a_broker_changes_no_figure_of_the_webhooks(tmp_path: Path, kind: str) -> None:
    names = ("NEXUS_BROKERS_DIR", brokers.KINDS[kind].VARIABLE)
    given = {name: os.environ[name] for name in names if name in os.environ}
    check(await report(tmp_path, "github", "--backend", kind, **given))


@pytest.mark.slow
async def test_the_talk_shows_the_edit_and_the_report_goes_to_stdout(tmp_path: Path) -> None:
    code, out, err = await run(tmp_path, "github")
    assert code == 0, err
    assert "all adds up" in out
    assert "53 webhooks do not fit their schema" in err
    assert "/repository/is_template: false" in err
    assert "refused" in err
    assert "Traceback" not in err + out


@pytest.mark.parametrize("wrong", [("github", "--quick"), ("github", "--speed", "60x"), ("gitlab",)])
async def test_a_wish_of_the_other_story_is_a_usage_error(tmp_path: Path, wrong: tuple[str, ...]) -> None:
    code, out, err = await run(tmp_path / "data", *wrong)
    assert (code, out) == (2, "")
    assert "Error" in err


def test_what_does_not_add_up_is_said() -> None:
    assert problems_of({"check": 3}, {"check": 2}, {"check": 1}, 0) == []
    assert problems_of({"check": 3}, {"check": 1}, {"check": 1}, 2) == [
        "group check: 1 handled and 1 given up of 3 events",
        "2 events were out of order",
    ]
