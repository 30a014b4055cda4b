import asyncio
from datetime import UTC, datetime, timedelta

from nexus import Event, Nexus

bus = Nexus("memory://")
reminded = asyncio.Event()


@bus.on("order.overdue", group="reminders")
async def remind(event: Event) -> None:
    reminded.set()


async def main() -> None:
    async with bus:
        soon = datetime.now(UTC) + timedelta(seconds=0.1)
        await bus.publish_later("order.overdue", {"order": 7}, at=soon, key="o-7")
        await bus.schedules.every("nightly", "30 2 * * *", "report.wanted", {"of": "day"}, zone="Europe/Berlin")
        for scheduled in await bus.schedules.all():
            print(scheduled.id, scheduled.type, scheduled.cron)
        await reminded.wait()
        await bus.schedules.cancel("nightly")


asyncio.run(main())
