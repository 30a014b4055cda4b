import asyncio

from nexus import Context, Event, Nexus, Selection

bus = Nexus("memory://")
charged: list[tuple[int, str | None]] = []


@bus.on("order.*", group="billing", start="earliest")
async def charge(event: Event[int], context: Context) -> None:
    charged.append((event.data, context.replay))


@bus.handler("archive")
async def archive(event: Event[int]) -> None: ...


async def main() -> None:
    async with bus:
        for number in range(10):
            await bus.publish("order.placed", number, key="o-1")

        groups = bus.subscriptions
        await groups.pause("billing", who="ann")
        await groups.alter("billing", where="data >= 5")
        await groups.seek("billing", "earliest")
        await groups.resume("billing")
        await groups.create("archive-large", "order.**", handler="archive", where="data > 7")

        replays = bus.replays
        again = Selection(("order.*",), where="data < 3", key="o-1")
        print([seen.stored.event.data async for seen in replays.look(again)])
        await groups.alter("billing", where=None)
        id = await replays.start(again, group="billing", rate=500.0)
        await replays.wait(id)
        print([number for number, replay in charged if replay == id])

        seen: list[int] = []

        async def remember(events: list[Event[int]]) -> None:
            seen.extend(event.data for event in events)

        info = await replays.into(remember, Selection(), id="look-at-all")
        print(info.state, len(seen))


asyncio.run(main())
