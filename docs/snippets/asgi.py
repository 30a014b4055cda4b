import asyncio

from nexus import BlockingNexus, Nexus

bus = Nexus("memory://shared")

# In an ASGI application: Starlette(lifespan=bus.lifespan), FastAPI(lifespan=bus.lifespan).


async def serve() -> None:
    async with bus.lifespan():
        async for event in bus.subscribe("ping", group="pong", start="earliest"):
            print(event.data)
            break  # leaving the loop gives this event back: it was not acknowledged


# In a script without a loop:
with BlockingNexus("memory://shared") as script:
    script.publish("ping", "hello")

asyncio.run(serve())
