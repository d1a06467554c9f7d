"""Resources that are claimed exactly by those named, and by nobody else."""

from __future__ import annotations

import pytest
import trio

from aegis_core import Claim, Role, Service
from aegis_pytest.cluster import Cluster
from aegis_pytest.faults import Faults

rooms = Service("rooms")


@rooms.on_acquire
async def open_book(_claim: Claim) -> None:
    """Take it over."""


async def test_claims_are_as_expected(aegis_cluster: Cluster) -> None:
    """By name of a node, or by instance id; role groups are no resources, and who is not named may claim others."""
    first = await aegis_cluster.serve("a", rooms, role=Role.ACTIVE)
    second = await aegis_cluster.serve("a", rooms, instance_id="rooms-2")
    third = await aegis_cluster.serve("b", rooms)
    await first.claim("room:1")
    await second.claim("room:2")
    await third.claim("room:3")
    await aegis_cluster.expect_claims({"a": ["room:1", "room:2"], "rooms-2": ["room:2"]}, within=0)
    await aegis_cluster.expect_claims({"b": "room:3", first.instance_id: {"room:1"}}, within=0)


async def test_claims_are_waited_for(aegis_cluster: Cluster) -> None:
    """Until the dead one's lease has ended, and longer than it takes is not waited."""
    first = await aegis_cluster.serve("a", rooms)
    second = await aegis_cluster.serve("b", rooms)
    await first.claim("room:7")

    async def stand_by() -> None:
        async with second.own("room:7", role=Role.STANDBY):
            await trio.sleep_forever()

    await aegis_cluster.run("b", stand_by)
    await aegis_cluster.kill("a")
    with pytest.raises(AssertionError, match=r"room:7 should be claimed by b; it is claimed by .* on node a"):
        await aegis_cluster.expect_claims({"b": ["room:7"]}, within=1)
    began = trio.current_time()
    await aegis_cluster.expect_claims({"b": ["room:7"], "a": []})
    assert trio.current_time() - began < aegis_cluster.ttl + 1
    await aegis_cluster.restart("a")
    with pytest.raises(AssertionError, match=r"room:7 should not be claimed by b; it is claimed by"):
        await aegis_cluster.expect_claims({"b": []}, within=1)


async def test_belief_and_registry_must_say_the_same(aegis_cluster: Cluster, aegis_faults: Faults) -> None:
    """Who was told to give a resource away and has not heard of it does not claim it, and neither does who has heard only."""
    first = await aegis_cluster.serve("a", rooms, instance_id="rooms-1")
    second = await aegis_cluster.serve("b", rooms, instance_id="rooms-2")
    (claim,) = await first.claim("room:7")
    node = await aegis_cluster.node("b")
    with aegis_faults.lose_lease("rooms-1"), aegis_faults.partition({"a"}):
        await trio.sleep(1)
        (taken,) = await second.claim("room:7")
        with pytest.raises(AssertionError) as caught:
            await aegis_cluster.expect_claims({"b": ["room:7"]}, within=1)
        new = f"rooms-2 on node b (epoch {taken.epoch})"
        old = f"rooms-1 on node a (epoch {claim.epoch}, of which the registry does not know)"
        assert str(caught.value).splitlines() == [
            "claims are not as expected after 1 s:",
            f"  room:7 should be claimed by b; it is claimed by {new} and {old}",
        ]
    assert node.owner_of("room:7") is not None
    with aegis_faults.pause("b"):
        await aegis_cluster.kill("b")
        with pytest.raises(AssertionError, match=r"rooms-2 on node b \(epoch \d+, which does not hold it\)"):
            await aegis_cluster.expect_claims({"b": ["room:7"]}, within=1)


async def test_expecting_claims_is_a_checkpoint(aegis_cluster: Cluster) -> None:
    """Whether they are there or not."""
    await aegis_cluster.node("a")
    with trio.CancelScope() as scope:
        scope.cancel()
        await aegis_cluster.expect_claims({"a": []})
    assert scope.cancelled_caught
    await aegis_cluster.expect_claims({"a": []}, within=0)


async def test_who_is_nobody_is_told(aegis_cluster: Cluster) -> None:
    """A misspelt name claims nothing, which proves nothing; nor does an expectation of nobody."""
    with pytest.raises(pytest.UsageError, match=r"^expect_claims\(\{\}\) expects nothing: name who claims what"):
        await aegis_cluster.expect_claims({})
    await aegis_cluster.serve("a", rooms)
    with pytest.raises(AssertionError) as caught:
        await aegis_cluster.expect_claims({"a": [], "nodeA": []})
    assert str(caught.value).splitlines() == [
        "claims are not as expected after 35 s:",
        "  there is neither a node nor an instance named 'nodeA'",
    ]


async def test_who_is_named_may_come_later_or_be_gone(aegis_cluster: Cluster) -> None:
    """An instance that registers meanwhile; one that was released, or died before its node came back."""
    first = await aegis_cluster.serve("a", rooms)
    await aegis_cluster.restart("a")

    async def serve_later() -> None:
        await trio.sleep(5)
        await aegis_cluster.serve("b", rooms, instance_id="rooms-b")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_later)
        began = trio.current_time()
        await aegis_cluster.expect_claims({"rooms-b": [], first.instance_id: []})
        assert trio.current_time() - began == pytest.approx(5, abs=0.1)
    await aegis_cluster.stop("b")
    await aegis_cluster.expect_claims({"rooms-b": []}, within=0)
