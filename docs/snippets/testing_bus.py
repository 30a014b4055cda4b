from nexus import Retry


async def test_a_charge_is_tried_again_after_ten_minutes(nexus_bus, nexus_clock, published):
    attempts = []

    @nexus_bus.on("order.placed", group="billing", retry=Retry(3, base_s=600, cap_s=600))
    async def charge(order: dict) -> None:
        attempts.append(nexus_clock.now())
        if len(attempts) == 1:
            raise ConnectionError("the bank does not answer")
        await nexus_bus.publish("payment.taken", {"order": order["id"]}, key=order["id"])

    async with nexus_bus:
        await nexus_bus.publish("order.placed", {"id": "o-1"}, key="o-1")
        await nexus_clock.sleep_until(lambda: len(attempts) == 2)
        assert await published.data("payment.*") == [("payment.taken", {"order": "o-1"})]
    assert attempts[1] - attempts[0] <= 601


async def test_time_passes_at_once(nexus_clock):
    before = nexus_clock.now()
    await nexus_clock.sleep(365 * 86_400)
    assert nexus_clock.now() - before >= 365 * 86_400
