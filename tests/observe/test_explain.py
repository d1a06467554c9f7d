"""Why is it there? What a node says of one resource, after all that can happen to it."""

from __future__ import annotations

import trio
import trio.testing

from aegis_core import Role, open_node
from aegis_core.node.claims import Claim
from tests.node.accounts import accounts


async def test_explanation_follows_a_resource_through_its_life(autojump_clock: trio.testing.MockClock) -> None:
    """Calls since it was acquired, from the owner; each move with its reason; and what became of an owner that died."""
    service = accounts()

    @service.on_acquire
    async def take(claim: Claim) -> None:
        await trio.lowlevel.checkpoint()

    async with open_node("memory://") as asking, open_node("memory://") as node:
        async with node.serve(service, instance_id="a") as a, node.serve(service, instance_id="b", ttl=20) as b:
            await a.claim("r:1")
            await asking.runtime.directory.sync()
            for _ in range(3):
                await asking.call("account-service", "who", resource_id="r:1")
            before = await asking.explain("r:1")
            assert before.owner is not None
            assert (before.owner.instance_id, before.calls) == ("a", 3)
            assert before.last_call_at is not None
            await a.transfer("r:1", to="b", reason="make room")
            await asking.runtime.directory.sync()
            await asking.call("account-service", "who", resource_id="r:1")
            moved = await asking.explain("r:1")
            assert moved.owner is not None
            assert (moved.owner.instance_id, moved.calls) == ("b", 1)
            assert moved.epoch > before.epoch
            assert moved.lease_left is not None
            assert 0 < moved.lease_left <= 20
            assert "make room" in moved.history[0]
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def wait_in_line() -> None:
                    async with a.own("r:1", role=Role.STANDBY, priority=5):
                        raise AssertionError("it was promoted")

                await trio.sleep(1)
                assert (await asking.explain("r:1")).standbys == ("a",)
                nursery.cancel_scope.cancel()
            assert b.claims
        gone = await asking.explain("r:1")
    assert gone.owner is None
    assert gone.calls is None
    assert "has no owner" in gone.summary
    assert any("make room" in line for line in gone.history)
