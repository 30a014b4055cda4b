import asyncio

from nexus import Event, Nexus, Retry

bus = Nexus("memory://")
handled = asyncio.Event()


@bus.on("order.placed", group="billing", retry=Retry(2, base_s=0.01))
async def charge(order: dict, event: Event) -> None:
    if order["total"] < 0:
        raise ValueError("a negative total")
    handled.set()


async def main() -> None:
    async with bus:
        await bus.publish("order.placed", {"total": -5}, key="o-1")
        async with asyncio.timeout(5):
            letter = await bus.dead_letters.first("billing")
        print(letter.id, letter.reason, [attempt.error.splitlines()[0] for attempt in letter.history])
        await bus.dead_letters.requeue(letter, data=b'{"total": 5}', who="me")
        await handled.wait()


asyncio.run(main())
