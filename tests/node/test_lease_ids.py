"""The lease ids of instances that no node serves: secrets that their registrants choose."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from aegis_core.errors import NotOwner
from aegis_core.node.node import open_node


async def test_instances_that_share_a_lease_id_have_leases_of_their_own(autojump_clock: MockClock) -> None:
    """Every node knows both, and what one of them owns nobody else gets while it lives, wherever it is asked for."""
    async with open_node("memory://test") as node:
        for name in ("i1", "i2"):
            await node.registry.register("svc", name, ttl=60, lease_id="secret")
        await node.registry.register("svc", "i3", ttl=60)
        await node.registry.claim("svc", "i1", "r1")
        # The record of i1 becomes younger than that of i2: who reads them anew reads i2 first.
        await node.registry.heartbeat("svc", "i1", lease_id="secret")
        async with open_node("memory://test") as later:
            for asked in (node, later):
                (view,) = await asked.registry.list_services()
                assert [i.instance_id for i in view.instances] == ["i1", "i2", "i3"]
                assert (await asked.registry.claim("svc", "i3", "r1")).conflicts == {"r1": "i1"}
        with pytest.raises(NotOwner):
            await node.registry.deregister("svc", "i3", lease_id="secret")
        await node.registry.register("svc", "i1", ttl=60, lease_id="secret")
        await node.registry.deregister("svc", "i2", lease_id="secret")
        assert (await node.registry.get_owner("r1")).owner_instance_id == "i1"
