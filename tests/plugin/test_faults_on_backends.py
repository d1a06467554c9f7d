"""Faults of an application's tests, the same on each backend: virtual in memory, and on servers that the plugin starts."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RunTests

EVERYWHERE = """
from aegis_core import CallTimeout, InstanceLost, InstanceRegistered, LeaseEnded, LeaseLost, Outcome


async def test_owner_that_is_cut_off_stops_before_another_begins(aegis_cluster, aegis_faults, aegis_events, aegis_calls):
    for name in "ab":
        instance = await aegis_cluster.serve(name, rooms)
        await aegis_cluster.run(name, again, instance)
        await aegis_cluster.wait_owner("room", "a")
    caller = await aegis_cluster.node("c")
    with aegis_faults.partition({"a"}):
        await aegis_cluster.wait_owner("room", "b")
        assert "room" not in aegis_cluster.instances("a")[0].claims
        assert await caller.call("rooms", "enter", resource_id="room") == instance.instance_id
        aegis_events.clear()
    (back,) = aegis_cluster.instances("a")
    await aegis_events.expect(InstanceRegistered, instance_id=back.instance_id)
    await aegis_cluster.expect_claims({"b": ["room"], "a": []})
    await caller.call("rooms", "enter", instance_id=back.instance_id)
    await aegis_calls.expect_none_lost()


async def test_node_is_killed_while_it_is_cut_off(aegis_cluster, aegis_faults, aegis_events):
    instance = await aegis_cluster.serve("a", rooms)
    other = await aegis_cluster.serve("b", rooms)
    await instance.claim("room")
    with aegis_faults.partition({"a"}):
        await trio.sleep(0.2)
        await aegis_cluster.kill("a")
    await aegis_events.expect(InstanceLost, released=("room",))
    await other.claim("room")


async def again(instance):
    while True:
        try:
            await hold(instance)
        except LeaseLost:
            pass


async def test_node_without_store_is_called_and_loses_its_claims(aegis_cluster, aegis_faults, aegis_events):
    instance = await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    await instance.claim("room")
    with aegis_faults.partition({"a"}, {"store"}):
        assert await caller.call("rooms", "enter", resource_id="room") == instance.instance_id
        await aegis_events.expect(LeaseEnded)
    await aegis_cluster.wait_owner("room", "a")


async def test_slow_node_is_slow(aegis_cluster, aegis_faults):
    instance = await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    await instance.claim("room")
    with aegis_faults.slow("a", 0.2):
        began = trio.current_time()
        await caller.call("rooms", "enter", resource_id="room")
        assert trio.current_time() - began > 0.39
        began = trio.current_time()
        await instance.claim("other-room")
        assert trio.current_time() - began > 0.39
    with aegis_faults.slow(("a", "store"), 0.2):
        began = trio.current_time()
        await instance.release("other-room")
        assert trio.current_time() - began > 0.39
        await caller.call("rooms", "enter", resource_id="room")


async def test_lost_answer_tells_that_nobody_knows(aegis_cluster, aegis_faults, aegis_calls):
    instance = await aegis_cluster.serve("a", rooms)
    caller = await aegis_cluster.node("b")
    with aegis_faults.drop(("a", "b")), pytest.raises(CallTimeout) as caught:
        await caller.call("rooms", "enter", instance_id=instance.instance_id, timeout=2)
    assert caught.value.outcome is Outcome.MAYBE_EXECUTED
    with aegis_faults.duplicate(("b", "a"), times=1):
        await caller.call("rooms", "enter", instance_id=instance.instance_id)
    for _ in range(3):
        await aegis_calls.expect("rooms", "enter")


async def test_doubtful_commit_and_lost_lease(aegis_cluster, aegis_faults, aegis_events):
    instance = await aegis_cluster.serve("a", rooms)
    with aegis_faults.indeterminate("a", applied=True, prefix="resources."):
        (before,) = await instance.claim("room")
    with aegis_faults.lose_lease("a"):
        await aegis_events.expect(LeaseEnded)
    assert (await aegis_cluster.wait_owner("room", "a")).epoch > before.epoch


async def test_paused_node_and_wrong_clock(aegis_cluster, aegis_faults, aegis_events):
    instance = await aegis_cluster.serve("a", rooms)
    await aegis_cluster.node("b")
    aegis_events.clear()
    with aegis_faults.drift("a", -0.005), aegis_faults.pause("a"):
        await aegis_events.expect(InstanceLost, instance_id=instance.instance_id)
    await aegis_events.expect(LeaseEnded)
    await aegis_events.expect(InstanceRegistered)
    with aegis_faults.skew("a", aegis_cluster.ttl):
        await aegis_events.expect(LeaseEnded)
"""


@pytest.mark.parametrize(
    "backend", ["memory", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("nats", "http"))]
)
def test_faults_are_the_same_everywhere(run_tests: RunTests, backend: str) -> None:
    """Not one test of these says where it runs."""
    result = run_tests(EVERYWHERE, f"--aegis-backend={backend}")
    result.assert_outcomes(passed=7)


RESET = """
from aegis_core import InstanceLost, LeaseEnded


@pytest.mark.aegis_needs("network")
async def test_connections_are_reset(aegis_cluster, aegis_faults, aegis_events):
    instance = await aegis_cluster.serve("a", rooms)
    other = await aegis_cluster.serve("b", rooms)
    (claim,) = await instance.claim("room")
    with aegis_faults.reset("a"):
        pass
    assert await other.claim("desk")
    (desk,) = await instance.claim("other-desk")
    assert claim.held and desk.held
    with aegis_faults.reset("a"):
        await aegis_events.expect(LeaseEnded)
        assert not claim.held
        await aegis_events.expect(InstanceLost, instance_id=instance.instance_id)
        await other.claim("room")
    await other.release("room")
    await aegis_cluster.wait_owner("other-desk", "a")
"""


@pytest.mark.thorough
def test_connections_to_real_servers_can_be_reset(run_tests: RunTests) -> None:
    """Once, and nothing is lost; for longer than the lease lasts, and another may have what it held."""
    result = run_tests(RESET, "-rs", "--aegis-backend=memory,nats,http")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["*backend memory has no network"])


def test_fault_that_the_backend_cannot_have_is_refused(run_tests: RunTests) -> None:
    """It says where it can be had, and what can be had here."""
    result = run_tests("""
async def test_reset(aegis_cluster, aegis_faults):
    await aegis_cluster.node("a")
    with aegis_faults.reset("a"):
        pass
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*UsageError: node 'a' has no connections that could be reset: nodes have some on the backends nats and http, *What can go wrong here: partition, pause, skew, drift, slow, drop, duplicate, indeterminate, lose_lease"
        ]
    )
