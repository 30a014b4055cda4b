import pytest

from nexus import Nexus, UnknownOutcome
from nexus.testing.faults import Faulty


async def test_a_lost_answer_is_cleared_up_by_publishing_again(nexus_backend):
    backend = Faulty(nexus_backend)
    async with Nexus(backend=backend) as bus:
        event = bus.event("order.placed", {"total": 3}, key="o-1")
        backend.lose_answers()
        with pytest.raises(UnknownOutcome):
            await bus.publish(event)
        assert (await bus.publish(event)).duplicate
