import asyncio

import msgspec

from nexus import Event, Nexus, Retry

bus = Nexus()  # nexus.toml, NEXUS_BACKEND, or a SQLite file in .nexus


class OrderPlaced(msgspec.Struct):  # your own type; dataclass, TypedDict and pydantic work too
    order_id: str
    total: float


class PaymentTaken(msgspec.Struct):
    order_id: str
    amount: float


@bus.on("order.placed", group="billing", retry=Retry(5), start="earliest")
async def charge(order: OrderPlaced, event: Event[OrderPlaced]) -> PaymentTaken:
    return PaymentTaken(order.order_id, order.total)  # published as payment.taken, with the same key


done = asyncio.Event()


@bus.on("payment.*", group="mail", start="earliest")
async def thank(payment: PaymentTaken) -> None:
    print(f"{payment.amount} received for {payment.order_id}")
    done.set()


async def main() -> None:
    async with bus:
        order = OrderPlaced("o-1", 99.5)
        receipt = await bus.publish("order.placed", order, key=order.order_id)
        print(receipt.topic, receipt.partition, receipt.durability)
        await done.wait()


asyncio.run(main())
