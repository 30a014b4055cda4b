"""`nexus doctor` on NATS: servers, versions, JetStream's limits, what the user may do, and what survives."""

from __future__ import annotations

from pathlib import Path

import pytest
from nats_help import Server, address, new_prefix, opened, served, url

from nexus.backends.nats import NatsLog, Settings
from nexus.backends.nats.examine import _Account, _Limits, _room, needed
from nexus.errors import ReadOnly
from nexus.spi.backend import Durability, Finding, TopicSpec


async def examined(where: str, options: dict[str, str] | None = None, **levels: Durability) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in await NatsLog(Settings.parse(where, options)).examine(levels):
        found.setdefault(finding.check, []).append(finding)
        assert (finding.advice is None) == (finding.state == "green"), finding
    return found


async def test_a_server_in_order_is_green() -> None:
    found = await examined(url(new_prefix()), orders="replicated")
    assert {finding.state for findings in found.values() for finding in findings} == {"green"}
    assert set(found) == {"client", "nodes", "version", "JetStream", "rights", "durability"}
    assert "nats-py" in found["client"][0].found
    assert found["nodes"][0].found.startswith("1 of 1 answer: ")
    assert "num_replicas" in found["durability"][0].found


async def test_an_open_store_may_be_examined_too() -> None:
    async with opened(TopicSpec("orders", 1)) as log:
        durability = (await log.describe("orders")).durability
        (*_, last) = await log.examine({"orders": durability})
        assert (last.state, last.found.partition(" ")[0]) == ("yellow", "process")
        assert "sync_interval: always" in (last.advice or "")


async def test_a_server_that_is_away_is_told() -> None:
    (found,) = (await examined("nats://127.0.0.1:1/?connect_s=0.5"))["nodes"]
    assert found.state == "red"
    own = address().removeprefix("nats://")
    (found,) = (await examined(url(new_prefix(), servers=f"{own},127.0.0.1:1")))["nodes"]
    assert found.state == "yellow"
    assert "not 127.0.0.1:1" in found.found


async def test_a_user_without_rights_is_told_each_of_them(tmp_path: Path) -> None:
    prefix = new_prefix()

    def guarded(server: Server) -> str:
        deny = f'"$JS.API.STREAM.CREATE.>", "{prefix}.log.>"'
        few = f"{{ user: few, password: p, permissions: {{ publish: {{ deny: [{deny}] }} }} }}"
        blind = '{ user: blind, password: p, permissions: { publish: { allow: "other.>" } } }'
        deaf = f'{{ user: deaf, password: p, permissions: {{ subscribe: {{ deny: "{prefix}.news.>" }} }} }}'
        return f"{server.jetstream()}\nauthorization {{ users: [ {few}, {blind}, {deaf} ] }}"

    async with served(tmp_path, guarded) as server:
        found = await examined(url(prefix, "user=few", server.address), {"password": "p"})
        red = {finding.found: finding.advice for finding in found["rights"] if finding.state == "red"}
        assert set(red) == {"may not make topics", "may not append events"}
        assert f"publish to $JS.API.STREAM.CREATE.{prefix}_*" in (red["may not make topics"] or "")
        log = NatsLog(Settings.parse(url(prefix, "user=few", server.address), {"password": "p"}))
        await log.open()
        with pytest.raises(ReadOnly, match=r"STREAM\.CREATE"):  # at once, not after timeout_s
            await log.create(TopicSpec("orders", 1))
        await log.close()

        found = await examined(url(prefix, "user=deaf", server.address), {"password": "p"})
        assert [finding.found for finding in found["rights"] if finding.state == "red"] == ["may not hear news"]

        found = await examined(url(prefix, "user=blind", server.address), {"password": "p"})
        assert (found["rights"][0].state, found["JetStream"][0].state) == ("yellow", "red")
        assert "$JS.API.>" in (found["JetStream"][0].advice or "")

        (found_in,) = (await examined(url(prefix, "user=few&connect_s=5", server.address), {"password": "no"}))["nodes"]
        assert "does not let this user in" in found_in.found


async def test_a_server_without_jetstream_is_told_what_to_set(tmp_path: Path) -> None:
    async with served(tmp_path, lambda _server: "# no JetStream") as server:
        (found,) = (await examined(url(new_prefix(), servers=server.address)))["JetStream"]
        assert "jetstream {" in (found.advice or "")


def test_a_limit_that_is_near_is_told() -> None:
    assert _room(_Account(10, 10, 1)).state == "green"
    near = _room(_Account(streams=9, limits=_Limits(max_streams=10)))
    assert (near.state, near.advice) == ("yellow", "raise max_streams of the account's JetStream limits")
    assert _room(_Account(storage=10, streams=1, limits=_Limits(max_storage=10, max_memory=0))).state == "red"


async def test_what_is_said_to_be_needed_is_what_a_store_does(tmp_path: Path) -> None:
    """A user who may do that and nothing else has a store that works."""
    prefix = new_prefix()
    publish, subscribe = [
        [subject.replace(f"{prefix}_doctor", f"{prefix}_orders").replace("log.doctor.0", "log.orders.>")
         .replace("news.doctor", "news.orders").replace(".reader", ".>").replace(f".>.{prefix}.log.orders.>", ".>")
         for kind, subject in needed(prefix).values() if kind == way]
        for way in ("publish", "subscribe")
    ]  # fmt: skip

    def guarded(server: Server) -> str:
        allowed = f"publish: {{ allow: {publish} }}, subscribe: {{ allow: {[*subscribe, '_INBOX.>']} }}"
        user = f"{{ user: store, password: p, permissions: {{ {allowed} }} }}".replace("'", '"')
        return f"{server.jetstream()}\nauthorization {{ users: [ {user} ] }}"

    async with served(tmp_path, guarded) as server:
        log = NatsLog(Settings.parse(url(prefix, "user=store", server.address), {"password": "p"}))
        await log.open()
        await log.create(TopicSpec("orders", 1))
        assert await log.topics() == ["orders"]
        await log.trim("orders", 0, (await log.describe("orders")).end[0])
        await log.create(TopicSpec("orders", 1, retention_age_s=60.0))
        await log.close()
