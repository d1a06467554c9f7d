"""What a node's death leaves undone: what `kill -9` would not have done either."""

from __future__ import annotations

import pytest
import trio

from aegis_core import Call, Claim, Service
from aegis_pytest.cluster import Cluster


@pytest.mark.parametrize("own", [False, True], ids=["claimed", "owned"])
async def test_dead_node_releases_nothing_and_believes_nothing(aegis_cluster: Cluster, *, own: bool) -> None:
    """Neither ``on_release`` runs, nor is a claim held while blocks unwind; what it had saved last is what there is."""
    rooms = Service("rooms")
    told: list[str] = []
    endings: list[bool] = []

    @rooms.method
    async def ping(call: Call) -> str:
        return "pong"

    @rooms.on_release
    async def save(claim: Claim) -> None:
        told.append(claim.resource_id)

    instance = await aegis_cluster.serve("a", rooms, instance_id="a-1")
    await aegis_cluster.node("b")
    if own:

        async def work() -> None:
            async with instance.own("room") as claim:
                try:
                    await trio.sleep_forever()
                finally:
                    endings.append(claim.held)

        await aegis_cluster.run("a", work)
        await aegis_cluster.wait_owner("room", "a", within=1)
    else:
        await instance.claim("room")
    await aegis_cluster.kill("a")
    await trio.sleep(2 * aegis_cluster.ttl)
    assert told == []
    assert endings == [False] * own
