"""The webhooks: 329 payloads that people recorded, and the schema that was published for them."""

from __future__ import annotations

import gzip
from importlib.resources import files
from typing import Any

import msgspec

PREFIX = "github"


class Webhook(msgspec.Struct, frozen=True):
    """One delivery of GitHub's."""

    number: int
    name: str
    payload: dict[str, Any]

    @property
    def type(self) -> str:
        """Its event type: the name of the hook, and the action if it has one."""
        return ".".join([PREFIX, self.name, *([action] if (action := self.payload.get("action")) else [])])

    @property
    def key(self) -> str | None:
        """What it happened to: a repository, else an organization, else an installation's account."""
        for name, of in (("repository", "full_name"), ("organization", "login")):
            if found := self.payload.get(name):
                return str(found[of])
        account = self.payload.get("installation", {}).get("account")
        return str(account["login"]) if account else None

    @property
    def id(self) -> str:
        return f"{self.type}.{self.number}"


def read_webhooks() -> list[Webhook]:
    """Read all webhooks of this package, in the order in which they were published."""
    return [
        Webhook(number, name, payload)
        for number, (name, payload) in enumerate(map(msgspec.json.decode, _text("github.jsonl.gz").splitlines()))
    ]


def read_schema() -> bytes:
    """Read the published schema: one of the payload of any hook, with a definition for each hook and action."""
    return _text("github-schema.json.gz")


def _text(name: str) -> bytes:
    return gzip.decompress((files("nexus.demo") / "data" / name).read_bytes())
