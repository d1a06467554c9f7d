"""Leases are kept by renewals, and health is said by an instance or seen by its silence."""

from __future__ import annotations

import attrs
import pytest

from aegis_core.engine import instances, resources
from aegis_core.errors import Conflict, InstanceNotFound, InvalidRequest, NotOwner
from aegis_core.events import InstanceHealthChanged
from aegis_core.models import Health, Role
from tests.engine.driver import AT, Driver

LATER = AT.replace(hour=13)


def changes(driver: Driver) -> list[tuple[str, Health, Health, str]]:
    """The changes of health that were told."""
    return [
        (e.instance_id, e.old, e.new, e.reason)
        for e in driver.told(InstanceHealthChanged)
        if isinstance(e, InstanceHealthChanged)
    ]


def test_a_renewal_rewrites_the_last_record(driver: Driver) -> None:
    """With its TTL, at its revision, and without any event."""
    record = driver.register("a", ttl=12.0, heartbeat_interval=4.0)
    driver.events.clear()
    write = instances.renew(record, at=LATER)
    assert (write.expect, write.ttl) == (record.revision, 12.0)
    driver.commit((write,))
    renewed = driver.view.instance("svc", "a")
    assert renewed is not None
    assert renewed.last_heartbeat == LATER
    assert driver.events == []


def test_a_renewal_of_a_lease_that_ended_conflicts(driver: Driver) -> None:
    """It never brings a dead lease back."""
    record = driver.register("a")
    driver.expire("a")
    with pytest.raises(Conflict):
        driver.commit((instances.renew(record, at=LATER),))


def test_a_heartbeat_renews_for_those_who_keep_no_lease(driver: Driver) -> None:
    """It says how the instance is, adds to its metadata, and shows the role that it has."""
    driver.register("a", metadata={"zone": "x"}, role=Role.ACTIVE, target="engine")
    reply = driver.run(
        instances.heartbeat(driver.view, "svc", "a", lease="a-lease", status="degraded", metadata={"load": 3}, at=LATER)
    )
    record = driver.view.instance("svc", "a")
    assert record is not None
    assert dict(record.metadata) == {"zone": "x", "load": 3}
    assert (record.health, record.role, record.status) == (Health.UNHEALTHY, Role.ACTIVE, "UNHEALTHY")
    assert reply.updated_at == LATER
    driver.run(instances.heartbeat(driver.view, "svc", "a", at=LATER))
    assert changes(driver) == [
        ("a", Health.ONLINE, Health.UNHEALTHY, "said"),
        ("a", Health.UNHEALTHY, Health.ONLINE, "said"),
    ]


def test_a_heartbeat_keeps_a_role_that_is_only_shown(driver: Driver) -> None:
    """A role about a resource is shown as long as it is held, and no longer."""
    driver.register("a", role=Role.ACTIVE)
    driver.register("b", role=Role.ACTIVE, target="engine", metadata={"resource_id": "engine"})
    driver.run(resources.give_up(driver.view, ["engine"], lease="b-lease"))
    for name in "ab":
        driver.run(instances.heartbeat(driver.view, "svc", name, at=LATER))
    shown = instances.get_service(driver.view, "svc", now=driver.now).instances
    assert [instance.role for instance in shown] == [Role.ACTIVE, Role.STANDBY]
    assert [instance.role for instance in driver.view.live("svc")] == [Role.ACTIVE, Role.STANDBY]


def test_a_heartbeat_is_refused_to_strangers(driver: Driver) -> None:
    """Unknown instance, another's lease, or another word for health."""
    driver.register("a")
    with pytest.raises(InstanceNotFound):
        instances.heartbeat(driver.view, "svc", "b", at=AT)
    with pytest.raises(NotOwner, match="heartbeat a"):
        instances.heartbeat(driver.view, "svc", "a", lease="forged", at=AT)
    with pytest.raises(InvalidRequest, match="healthy, unhealthy, degraded"):
        instances.heartbeat(driver.view, "svc", "a", status="fine", at=AT)


def test_health_is_said_once(driver: Driver) -> None:
    """Saying it again writes nothing; OFFLINE cannot be said."""
    driver.register("a")
    said = driver.run(instances.set_health(driver.view, "svc", "a", Health.UNHEALTHY, at=LATER))
    assert (said.health, said.revision) == (Health.UNHEALTHY, driver.revision)
    again = instances.set_health(driver.view, "svc", "a", Health.UNHEALTHY, at=LATER)
    assert again.writes == ()
    assert again.rests_on_view
    assert driver.run(again).health is Health.UNHEALTHY
    with pytest.raises(InvalidRequest, match="deregister"):
        instances.set_health(driver.view, "svc", "a", Health.OFFLINE, at=AT)


def test_draining_can_be_said_and_taken_back(driver: Driver) -> None:
    """By the registrant only."""
    driver.register("a")
    assert driver.run(instances.set_draining(driver.view, "svc", "a", draining=True, at=AT)).draining
    assert not driver.run(instances.set_draining(driver.view, "svc", "a", draining=False, at=AT)).draining
    with pytest.raises(NotOwner):
        instances.set_draining(driver.view, "svc", "a", draining=True, lease="forged", at=AT)


def test_two_silent_intervals_make_unhealthy(driver: Driver) -> None:
    """As seen from here, and told once; a renewal makes it ONLINE again."""
    record = driver.register("a", heartbeat_interval=10.0)
    driver.now += 20.0
    driver.level()
    assert driver.view.health(record, driver.now) is Health.ONLINE
    driver.now += 0.1
    driver.level()
    assert driver.view.health(record, driver.now) is Health.UNHEALTHY
    driver.events += driver.view.tell_silence(driver.now, AT)
    driver.events += driver.view.tell_silence(driver.now, AT)
    driver.hear(record)
    assert driver.view.health(record, driver.now) is Health.ONLINE
    assert changes(driver) == [
        ("a", Health.ONLINE, Health.UNHEALTHY, "silent"),
        ("a", Health.UNHEALTHY, Health.ONLINE, "heartbeat"),
    ]


def test_silence_counts_only_while_the_watch_speaks(driver: Driver) -> None:
    """When nothing at all is heard, it is the watch that is silent."""
    record = driver.register("a", heartbeat_interval=10.0)
    driver.now += 60.0
    assert driver.view.health(record, driver.now) is Health.ONLINE
    assert driver.view.tell_silence(driver.now, AT) == ()
    driver.level()
    assert driver.view.health(record, driver.now) is Health.UNHEALTHY


def test_what_an_instance_says_stands_over_silence(driver: Driver) -> None:
    """An instance that was silent and comes back UNHEALTHY has not changed; one that was UNHEALTHY and comes back has."""
    record = driver.register("a", heartbeat_interval=10.0)
    driver.now += 30.0
    driver.level()
    driver.events += driver.view.tell_silence(driver.now, AT)
    driver.hear(attrs.evolve(record, health=Health.UNHEALTHY))
    assert changes(driver) == [("a", Health.ONLINE, Health.UNHEALTHY, "silent")]
    driver.now += 30.0
    driver.level()
    assert driver.view.tell_silence(driver.now, AT) == ()
    driver.hear(attrs.evolve(record, health=Health.ONLINE))
    assert changes(driver)[1:] == [("a", Health.UNHEALTHY, Health.ONLINE, "said")]


def test_an_instance_that_is_gone_is_offline(driver: Driver) -> None:
    """Also one whose id lives on under another lease."""
    record = driver.register("a")
    driver.expire("a")
    assert driver.view.health(record, driver.now) is Health.OFFLINE
    driver.register("a", lease="second")
    assert driver.view.health(record, driver.now) is Health.OFFLINE
    assert driver.view.health(attrs.evolve(record, lease="second"), driver.now) is Health.ONLINE


def test_the_lease_left_is_counted_from_the_last_renewal_seen(driver: Driver) -> None:
    """And is never negative."""
    record = driver.register("a", ttl=30.0)
    assert driver.view.lease_left(record, driver.now + 10.0) == 20.0
    assert driver.view.lease_left(record, driver.now + 100.0) == 0.0
