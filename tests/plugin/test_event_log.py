"""Events of a cluster, each told once, and waited for."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import attrs
import pytest
import trio
from trio.testing import MockClock

from aegis_core import (
    CircuitStateChanged,
    InstanceDeregistered,
    InstanceHealthChanged,
    InstanceLost,
    InstanceRegistered,
    ResourceRegistered,
    ResourceReleased,
    Role,
    RoleChanged,
    Service,
)
from aegis_pytest.cluster import Cluster, open_cluster
from aegis_pytest.event_log import EventLog
from aegis_pytest.faults import Faults

rooms = Service("rooms")
AT = datetime(2000, 1, 1, tzinfo=UTC)


async def test_event_is_expected_by_class_and_fields(aegis_cluster: Cluster, aegis_events: EventLog) -> None:
    """It is returned, so that the fields that were not given can be looked at."""
    instance = await aegis_cluster.serve("a", rooms)
    (claim,) = await instance.claim("room")
    event = await aegis_events.expect(ResourceRegistered, resource_id="room")
    assert (event.epoch, event.instance_id) == (claim.epoch, instance.instance_id)


async def test_event_of_the_future_is_waited_for_on_virtual_time(
    aegis_cluster: Cluster, aegis_events: EventLog
) -> None:
    """The death of a node is told when its lease has expired, and its standby promoted then."""
    await aegis_cluster.serve("a", rooms, role=Role.ACTIVE)
    standby = await aegis_cluster.serve("b", rooms, role=Role.STANDBY)
    await aegis_cluster.kill("a")
    await aegis_events.expect(InstanceLost, service_name="rooms", within=aegis_cluster.ttl + 1)
    await aegis_events.expect(RoleChanged, instance_id=standby.instance_id, new=Role.ACTIVE, within=0.1)


async def test_every_change_is_told_once(aegis_cluster: Cluster, aegis_events: EventLog) -> None:
    """Though all nodes see it, at times of day of their own."""
    for name in "abc":
        await aegis_cluster.serve(name, rooms)
    await aegis_cluster.instances("a")[0].claim("room")
    await trio.sleep(1)
    assert len(aegis_events.of(InstanceRegistered)) == 3
    assert len(aegis_events.of(ResourceRegistered, resource_id="room")) == 1
    assert [type(event) for event in aegis_events] == [*[InstanceRegistered] * 3, ResourceRegistered]
    assert len(aegis_events) == 4
    assert repr(aegis_events) == "<EventLog of 4 events>"


async def test_what_one_node_observes_is_told_by_that_node(aegis_cluster: Cluster, aegis_events: EventLog) -> None:
    """An instance that falls silent is unhealthy to each who listens."""
    await aegis_cluster.serve("a", rooms)
    for name in "bc":
        await aegis_cluster.node(name)
    await aegis_cluster.kill("a")
    for _ in "bc":
        await aegis_events.expect(InstanceHealthChanged, reason="silent")


async def test_event_is_taken_once(aegis_cluster: Cluster, aegis_events: EventLog) -> None:
    """The second expectation wants a second event, in whatever order the two are expected."""
    instance = await aegis_cluster.serve("a", rooms)
    for name in ("room-1", "room-2"):
        await instance.claim(name)
    await aegis_events.expect(ResourceRegistered, resource_id="room-2")
    await aegis_events.expect(ResourceRegistered)
    with pytest.raises(AssertionError, match=r"ResourceRegistered\(\) did not happen within 5 s"):
        await aegis_events.expect(ResourceRegistered, within=5)
    assert len(aegis_events.of(ResourceRegistered)) == 2


async def test_clearing_forgets_what_happened_before(aegis_cluster: Cluster, aegis_events: EventLog) -> None:
    """What comes afterwards is expected as ever."""
    instance = await aegis_cluster.serve("a", rooms)
    await instance.claim("room")
    aegis_events.clear()
    with pytest.raises(AssertionError):
        await aegis_events.expect(ResourceRegistered, within=1)
    await instance.release("room")
    await aegis_events.expect(ResourceReleased, resource_id="room", reason="released")


async def test_event_can_be_expected_by_example(aegis_cluster: Cluster, aegis_events: EventLog) -> None:
    """What the example says must be so; what it leaves out, when it happened, and at which revision may be anything."""
    one = await aegis_cluster.serve("a", rooms, role=Role.ACTIVE)
    two = await aegis_cluster.serve("b", rooms, role=Role.STANDBY)
    event = await aegis_events.expect(InstanceRegistered(instance_id=one.instance_id))
    assert event.revision > 0
    assert event.at > AT
    later = attrs.evolve(event, instance_id=two.instance_id, at=AT, revision=1)
    assert (await aegis_events.expect(later)).instance_id == two.instance_id
    await aegis_cluster.kill("a")
    promoted = await aegis_events.expect(RoleChanged(group="default", new=Role.ACTIVE, old=Role.STANDBY), within=31.1)
    assert promoted.instance_id == two.instance_id
    with pytest.raises(AssertionError, match=r"InstanceDeregistered\(instance_id=another\) did not happen"):
        await aegis_events.expect(InstanceDeregistered(instance_id="another"), within=math.ulp(1.0))


async def test_default_value_is_demanded_by_keyword(aegis_cluster: Cluster, aegis_events: EventLog) -> None:
    """An example with it would not tell it from one without."""
    await aegis_cluster.serve("a", rooms, role=Role.ACTIVE)
    with pytest.raises(AssertionError, match=r"RoleChanged\(group=default, new=None\) did not happen"):
        await aegis_events.expect(RoleChanged(group="default"), new=None, within=1)
    await aegis_events.expect(RoleChanged(group="default"), old=None)


async def test_what_happened_instead_is_told(aegis_cluster: Cluster, aegis_events: EventLog) -> None:
    """The last twelve events that nobody expected, a line each."""
    instance = await aegis_cluster.serve("a", rooms, instance_id="room-1")
    with pytest.raises(AssertionError) as caught:
        await aegis_events.expect(RoleChanged, instance_id="room-1", new=Role.ACTIVE, within=3)
    assert str(caught.value) == (
        "RoleChanged(instance_id=room-1, new=Role.ACTIVE) did not happen within 3 s. "
        "What happened and was not expected yet:\n"
        "  InstanceRegistered(service_name=rooms, instance_id=room-1)"
    )
    for n in range(30):
        await instance.claim(f"desk-{n}")
    with pytest.raises(AssertionError) as caught:
        await aegis_events.expect(RoleChanged, within=3)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  (19 before)"
    assert len(lines) == 14
    assert lines[-1].startswith(
        "  ResourceRegistered(service_name=rooms, instance_id=room-1, resource_id=desk-29, epoch="
    )
    aegis_events.clear()
    with pytest.raises(AssertionError, match=r"not expected yet:\n  nothing"):
        await aegis_events.expect(RoleChanged, within=3)


async def test_field_that_does_not_exist_is_an_error_at_once(aegis_events: EventLog) -> None:
    """Not an event that never comes."""
    with pytest.raises(TypeError, match="RoleChanged has no field 'role'; it has service_name, "):
        await aegis_events.expect(RoleChanged, role=Role.ACTIVE)
    with pytest.raises(TypeError, match="InstanceLost has no field 'instance'"):
        aegis_events.of(InstanceLost, instance="a")


async def test_what_is_no_event_cannot_be_expected(aegis_events: EventLog) -> None:
    """Neither its name, nor a class of something else."""
    for wrong in ("InstanceLost", KeyError):
        with pytest.raises(TypeError, match="expected a class of events, or an example of one, got "):
            await aegis_events.expect(wrong)  # type: ignore[type-var]


@pytest.mark.parametrize(("ttl", "seconds"), [(None, 60), (3.0, 20), (100.0, 200)])
async def test_expectation_has_twice_the_ttl(autojump_clock: MockClock, ttl: float | None, seconds: float) -> None:
    """So that it outlasts a death; where time is real, a test is not over before it is told what is missing."""
    async with open_cluster(ttl=ttl) as cluster:
        with pytest.raises(AssertionError, match=f"did not happen within {seconds} s"):
            await cluster.events.expect(InstanceLost)
    assert trio.current_time() == seconds


async def test_expecting_is_a_checkpoint(aegis_cluster: Cluster, aegis_events: EventLog) -> None:
    """Cancelled, it takes nothing even if the event is there."""
    await aegis_cluster.serve("a", rooms)
    with trio.CancelScope() as scope:
        scope.cancel()
        await aegis_events.expect(InstanceRegistered)
    assert scope.cancelled_caught
    await aegis_events.expect(InstanceRegistered, within=0)


async def test_circuits_that_open_and_close_hide_nothing(
    aegis_cluster: Cluster, aegis_events: EventLog, aegis_faults: Faults
) -> None:
    """They do while a store is away: of what happened last, the last of them is told; where they are expected, all are."""
    instance = await aegis_cluster.serve("a", rooms, ttl=10)
    await instance.claim("room")
    with aegis_faults.partition({"a"}, {"store"}):
        await trio.sleep(120)
        told = [line.partition(": ")[2].partition("(")[0] for line in aegis_events.describe(4)]
        assert "LeaseEnded" in told
        assert told.count("CircuitStateChanged") == 1
        assert len(aegis_events.of(CircuitStateChanged)) > 12
        with pytest.raises(AssertionError, match=r"LeaseEnded") as caught:
            await aegis_events.expect(InstanceHealthChanged, within=1)
        assert str(caught.value).count("CircuitStateChanged") == 1
        with pytest.raises(AssertionError) as caught:
            await aegis_events.expect(CircuitStateChanged(what="nobody"), within=1)
        assert str(caught.value).count("CircuitStateChanged") == 13
