"""What a node's death leaves undone, what `kill -9` would not have done either; and how a crash is told."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from aegis_core import Call, Claim, NodeCrashed, Service
from aegis_pytest.cluster import Cluster, open_cluster


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


async def test_crash_of_a_node_is_told_while_it_serves(autojump_clock: trio.testing.MockClock) -> None:
    """At once, and not when the test's time is over: its blocks are tasks of the cluster, and end with it."""

    async def fail() -> None:
        await trio.sleep(1)
        raise ValueError("a defect")

    async def use() -> None:
        async with open_cluster() as cluster:
            await cluster.serve("a", Service("rooms"))
            node = await cluster.node("a")
            node.runtime.nursery.start_soon(fail)
            await trio.sleep_forever()

    with pytest.raises(NodeCrashed, match="ValueError: a defect"):
        await use()
    assert trio.current_time() == pytest.approx(1)
