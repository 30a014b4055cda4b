"""Topics, news and settings on a real server, and what other programs see and write."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from nats_help import NOON, Server, all_of, api, event, ids, new_prefix, opened, plain, read, served, url

from nexus.backends.nats import NatsLog, Settings
from nexus.errors import SettingsError, UnknownTopic
from nexus.spi.backend import Appended, TopicSpec, Want

ORDERS = TopicSpec("orders.eu", 4)


async def test_topics_are_made_once_and_listed() -> None:
    async with opened(ORDERS, TopicSpec("größe *", 1)) as log, opened(prefix=log.settings.prefix, keep=True) as other:
        await asyncio.gather(*(each.create(TopicSpec("new", 2)) for each in (log, other) for _ in range(5)))
        assert sorted(await other.topics()) == ["größe *", "new", "orders.eu"]
        state = await log.describe("new")
        assert (state.first, state.end, state.size_bytes) == ((1, 1), (1, 1), 0)
        for partitions in (1, 3):
            with pytest.raises(SettingsError, match="2 partitions"):
                await other.create(TopicSpec("new", partitions))
        with pytest.raises(UnknownTopic):
            await log.describe("nothing")


async def test_many_topics_are_listed_page_by_page() -> None:
    async with opened(options="storage=memory") as log:
        names = {f"topic-{n}" for n in range(30)}
        await asyncio.gather(*(log.create(TopicSpec(name, 1)) for name in names))
        assert set(await log.topics()) == names


async def test_a_new_retention_is_taken_over_and_the_rest_left_alone() -> None:
    async with opened(ORDERS) as log, plain() as client:
        stream = log._names_of("orders.eu").stream
        config = (await api(client, f"STREAM.INFO.{stream}"))["config"]
        await api(client, f"STREAM.UPDATE.{stream}", {**config, "description": "by an operator"})
        await log.create(TopicSpec("orders.eu", 4, retention_age_s=60.0, retention_bytes=10**6))
        config = (await api(client, f"STREAM.INFO.{stream}"))["config"]
        assert (config["max_age"], config["max_bytes"], config["discard"]) == (60 * 10**9, 10**6, "old")
        assert (config["description"], config["duplicate_window"]) == ("by an operator", 60 * 10**9)
        await log.create(ORDERS)
        config = (await api(client, f"STREAM.INFO.{stream}"))["config"]
        assert (config["max_age"], config["max_bytes"], config["duplicate_window"]) == (0, -1, 120 * 10**9)


async def test_a_stream_that_nexus_did_not_make_is_no_topic() -> None:
    async with opened() as log, plain() as client:
        names = log._names_of("foreign")
        await api(client, f"STREAM.CREATE.{names.stream}", {"name": names.stream, "subjects": [names.subjects]})
        with pytest.raises(UnknownTopic):
            await log.describe("foreign")
        with pytest.raises(SettingsError, match="Nexus"):
            await log.create(TopicSpec("foreign", 1))


async def test_ends_follow_the_events_of_their_own_partition() -> None:
    async with opened(ORDERS) as log:
        answers = await log.append("orders.eu", [(1, event(n)) for n in range(5)], dedup=True)
        state = await log.describe("orders.eu")
        assert state.end == (1, (answers[-1].position or 0) + 1, 1, 1)
        assert state.first == (1, 1, 1, 1)
        assert state.size_bytes > 0
        await log.trim("orders.eu", 1, 1_000)
        for each in (log, NatsLog(url(log.settings.prefix))):
            if each is not log:
                await each.open()
            state = await each.describe("orders.eu")
            assert (state.first[1], state.end[1]) == (6, 6)
            if each is not log:
                await each.close()


async def test_trims_of_several_processes_at_once_are_all_kept() -> None:
    async with opened(ORDERS) as log, opened(prefix=log.settings.prefix, keep=True) as other:
        answers = await log.append("orders.eu", [(n % 4, event(n)) for n in range(40)], dedup=True)
        await asyncio.gather(
            *((log, other)[n % 2].trim("orders.eu", n % 4, answers[n].position or 0) for n in range(16, 20))
        )
        assert (await log.describe("orders.eu")).first == tuple(answers[n].position for n in range(16, 20))
        await log.trim("orders.eu", 0, answers[8].position or 0)
        assert (await log.describe("orders.eu")).first[0] == answers[16].position


# -- news ------------------------------------------------------------------------------------------------------------


class Bell:
    def __init__(self) -> None:
        self.rung = asyncio.Event()
        self.times = 0

    def ring(self) -> None:
        self.times += 1
        self.rung.set()

    async def hears(self) -> None:
        async with asyncio.timeout(0.25):
            await self.rung.wait()
        self.rung.clear()


async def test_an_append_of_any_process_wakes_who_watches() -> None:
    async with opened(ORDERS) as log, opened(prefix=log.settings.prefix, keep=True) as other:
        bell, unheard = Bell(), Bell()
        log.watch(["orders.eu", "later"], bell.ring)
        stop = log.watch(["orders.eu"], unheard.ring)
        stop()
        stop()
        for number in range(20):
            await (log, other)[number % 2].append("orders.eu", [(0, event(number))], dedup=True)
            await bell.hears()
        await other.create(TopicSpec("later", 1))
        await other.append("later", [(0, event("x"))], dedup=True)
        await bell.hears()
        assert unheard.times == 0


async def test_what_another_program_appends_wakes_who_reads() -> None:
    async with opened(ORDERS) as log, plain() as client:
        await read(log, "orders.eu", 2)
        bell = Bell()
        log.watch(["orders.eu"], bell.ring)
        for number in range(5):
            await client.request(log._names_of("orders.eu").subject(2), b"%d" % number)
            await bell.hears()
        slices = await log.read([Want("orders.eu", 2, 0, 9)], 1 << 20, fresh=False)
        assert len(slices[0].events) == 5


async def test_a_flood_of_appends_is_a_trickle_of_news() -> None:
    async with opened(ORDERS) as log, plain() as client:
        heard = 0

        async def hear(_message: object) -> None:
            nonlocal heard
            heard += 1

        await client.subscribe(log._names_of("orders.eu").news, cb=hear)
        await client.flush()
        began = asyncio.get_running_loop().time()
        for number in range(300):
            await log.append("orders.eu", [(0, event(number))], dedup=True)
        took = asyncio.get_running_loop().time() - began
        await client.flush()
        assert 1 <= heard <= took / 0.002 + 2


# -- other programs --------------------------------------------------------------------------------------------------


async def test_another_program_reads_what_nexus_wrote() -> None:
    async with opened(ORDERS) as log, plain() as client:
        sent = event("ü 1", b"\x00\xff", datacontenttype="text/plain; charset=utf-8", extensions={"n": 3})
        await log.append("orders.eu", [(3, sent)], dedup=True)
        names = log._names_of("orders.eu")
        message = await client.jetstream().get_last_msg(names.stream, names.subject(3))
        assert message.data == b"\x00\xff"
        assert message.headers is not None
        assert message.headers["ce-specversion"] == "1.0"
        assert message.headers["ce-id"] == message.headers["ce-partitionkey"] == "%C3%BC%201"
        assert message.headers["ce-type"] == "order.placed"
        assert message.headers["content-type"] == "text/plain; charset=utf-8"
        assert message.headers["ce-datacontenttype"] == "text/plain;%20charset=utf-8"
        assert message.headers["ce-n"] == "3"
        assert message.headers["Nats-Msg-Id"] == "/test %C3%BC%201"


async def test_nexus_reads_what_another_program_wrote() -> None:
    async with opened(ORDERS) as log, plain() as client:
        names = log._names_of("orders.eu")
        stream = client.jetstream()
        binary = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/other", "ce-type": "t", "content-type": "a/b"}
        await stream.publish(names.subject(1), b"body", headers=binary)
        members = {
            "specversion": "1.0",
            "id": "2",
            "source": "/other",
            "type": "t",
            "time": NOON.isoformat(),
            "data": 5,
        }
        await stream.publish(
            names.subject(1), json.dumps(members).encode(), headers={"content-type": "application/cloudevents+json"}
        )
        await stream.publish(names.subject(1), b"bare")
        await stream.publish(names.subject(1), b"broken", headers={"ce-specversion": "1.0", "ce-id": "4"})
        found = await all_of(log, "orders.eu", 1)
        assert [stored.event.type for stored in found] == ["t", "t", "nexus.foreign.record", "nexus.foreign.record"]
        assert [stored.event.body for stored in found] == [b"body", b"5", b"bare", b"broken"]
        assert found[0].event.datacontenttype == "a/b"
        assert abs(found[0].event.time.timestamp() - found[0].recorded_at) < 0.001
        assert found[1].event.time == NOON
        assert (found[2].event.id, found[2].event.source) == ("3", f"nats:///{names.subject(1)}")
        # What the other program sent with an id is recognised when Nexus sends it.
        await stream.publish(names.subject(1), b"5", headers={**binary, "ce-id": "9", "Nats-Msg-Id": "/other 9"})
        (answer,) = await log.append("orders.eu", [(1, event("9", b"5", source="/other"))], dedup=True)
        assert answer == Appended(1, 5, True)


# -- settings --------------------------------------------------------------------------------------------------------


async def test_durability_is_what_was_seen(tmp_path: Path) -> None:
    always = lambda server: server.jetstream(', sync_interval: "always"')  # noqa: E731
    async with served(tmp_path / "always", always) as careful, served(tmp_path / "usual") as usual:
        for server, options, word in (
            (careful, "", "process"),  # nobody has looked
            (careful, f"monitor=http://127.0.0.1:{careful.monitor_port}", "disk"),
            (usual, f"monitor=http://127.0.0.1:{usual.monitor_port}", "process"),
            (careful, f"monitor=http://127.0.0.1:{careful.monitor_port}&storage=memory", "memory"),
        ):
            async with opened(ORDERS, servers=server.address, options=options) as log:
                assert (await log.describe("orders.eu")).durability == word
        with pytest.raises(SettingsError, match="monitor"):
            async with opened(servers=usual.address, options="monitor=http://127.0.0.1:1"):
                pass


async def test_replicas_that_there_are_no_servers_for_are_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as server, opened(options="replicas=3", servers=server.address) as log:
        with pytest.raises(SettingsError, match="replicas"):
            await log.create(ORDERS)


async def test_who_may_not_in_is_told_at_once(tmp_path: Path) -> None:
    def guarded(server: Server) -> str:
        return f"{server.jetstream()}\nauthorization {{ user: nexus, password: secret }}"

    async with served(tmp_path, guarded) as server:
        prefix = new_prefix()
        with pytest.raises(SettingsError, match="let this user in"):
            await NatsLog(url(prefix, "connect_s=20", server.address)).open()
        log = NatsLog(Settings.parse(url(prefix, "user=nexus", server.address), {"password": "secret"}))
        await log.open()
        await log.create(ORDERS)
        await log.append("orders.eu", [(0, event("a"))], dedup=True)
        assert await ids(log, "orders.eu") == ["a"]
        await log.close()


async def test_a_server_without_jetstream_is_no_store(tmp_path: Path) -> None:
    async with served(tmp_path, lambda _server: "# no JetStream") as server:
        log = NatsLog(url(new_prefix(), "timeout_s=0.5&dedup_s=5", server.address))
        await log.open()
        with pytest.raises(Exception, match="JetStream"):
            await log.create(ORDERS)
        await log.close()
