import asyncio
from dataclasses import dataclass

from nexus import Context, DeadLetter, Event, Nexus, Park, Publish, Retry, RetryIn

bus = Nexus("memory://")


@dataclass
class Order:
    id: str
    total: float


# What a handler asks for by its annotations it gets: the payload in a type of yours, the envelope, what is known of the
# delivery. A list of them makes it a batch handler. A plain function runs in a thread.
@bus.on(
    "order.placed",
    group="billing",  # members of one group share the events; each group gets all of them
    where="data.total > 10",
    retry=Retry(5, base_s=0.5, never=(KeyError,), on={TimeoutError: Retry(20)}),
    timeout_s=30,
    start="earliest",  # a new group begins at the first kept event; the default is "latest": at now
)
async def charge(order: Order, event: Event[Order], context: Context) -> Publish | RetryIn | Park | DeadLetter | None:
    if order.total > 1_000_000:
        return DeadLetter("needs a person")  # outcomes are values
    if order.total > 100_000 and context.attempt == 1:
        return Park(60)  # the key is set aside for a minute, durable, in order
    if order.id == "busy" and context.attempt < 3:
        return RetryIn(0.1)
    return Publish("payment.taken", {"order": order.id}, key=order.id)


@bus.on("order.*", group="lake", batch_size=500, ordered=False, start="earliest")
async def store(orders: list[Order]) -> list[RetryIn | None]:
    return [None for order in orders]  # one outcome for each, or None for all


done = asyncio.Event()


@bus.on("payment.taken", group="done", start="earliest")
async def finish(event: Event) -> None:
    done.set()


async def main() -> None:
    async with bus:
        await bus.publish("order.placed", Order("busy", 20.0), key="busy")
        await done.wait()


asyncio.run(main())
