"""An application's own tests, which say nothing of a backend: ``--aegis-backend`` (in pyproject.toml) runs each on memory and here."""

from __future__ import annotations

import pytest
import trio
from aegis_sqlite import SqliteStore

from aegis_core import Call, Instance, LeaseEnded, LeaseLost, Role, Service
from aegis_core.backend import Store
from aegis_pytest.cluster import Cluster
from aegis_pytest.event_log import EventLog
from aegis_pytest.faults import Faults

rooms = Service("rooms")


@rooms.method
async def who(call: Call) -> str:
    """Who owns the room."""
    assert call.instance is not None
    return call.instance.instance_id


async def keep(instance: Instance, resource_id: str) -> None:
    """Own it whenever it can be owned."""
    while True:
        try:
            async with instance.own(resource_id, role=Role.STANDBY):
                await trio.sleep_forever()
        except LeaseLost:
            continue


async def test_standby_takes_over_and_is_called(aegis_cluster: Cluster) -> None:
    """The owner is dead; whoever calls next reaches the other one."""
    for name in ("a", "b"):
        instance = await aegis_cluster.serve(name, rooms)
        await aegis_cluster.run(name, keep, instance, "room:7")
        await aegis_cluster.wait_owner("room:7", "a")
    await aegis_cluster.kill("a")
    await aegis_cluster.wait_owner("room:7", "b")
    caller = await aegis_cluster.node("c")
    assert await caller.call("rooms", "who", resource_id="room:7") == instance.instance_id


async def test_claim_ends_where_the_store_is_out_of_reach(
    aegis_cluster: Cluster, aegis_faults: Faults, aegis_events: EventLog
) -> None:
    """And comes back with it."""
    instance = await aegis_cluster.serve("a", rooms)
    (before,) = await instance.claim("room:7")
    with aegis_faults.partition({"a"}, {"store"}):
        await aegis_events.expect(LeaseEnded)
        assert not before.held
    after = await aegis_cluster.wait_owner("room:7", "a")
    assert after.epoch > before.epoch


@pytest.mark.aegis_needs("virtual_time")
async def test_lease_is_renewed_for_an_hour(aegis_cluster: Cluster) -> None:
    """Which nobody waits for in earnest: elsewhere it is skipped."""
    instance = await aegis_cluster.serve("a", rooms)
    (claim,) = await instance.claim("room:7")
    await trio.sleep(3000)
    assert claim.held


async def test_store_is_that_of_the_backend_which_is_named(aegis_store: Store, aegis_backend: str) -> None:
    """It is what the option says."""
    assert isinstance(aegis_store, SqliteStore) is (aegis_backend == "sqlite")
