"""Registration: who may have an instance id, and what comes with it."""

from __future__ import annotations

import attrs
import pytest

from aegis_core.engine import instances
from aegis_core.engine.decision import NotYetKnown
from aegis_core.errors import (
    Conflict,
    InstanceConflict,
    InstanceNotFound,
    InvalidRequest,
    NotOwner,
    RoleConflict,
    ServiceNotFound,
)
from aegis_core.events import InstanceDeregistered, InstanceLost, InstanceRegistered, RoleChanged
from aegis_core.models import Health, Role
from aegis_core.names import role_target
from tests.engine.driver import AT, Driver, candidate

GROUP = role_target("svc", "default")


def test_a_registered_instance_is_live(driver: Driver) -> None:
    """After the commit the view knows the instance by name, id and lease, and says so."""
    record = driver.register("a", priority=3, metadata={"zone": "x"})
    assert driver.view.instance("svc", "a") == record
    assert driver.view.by_id("a") == (record,)
    assert driver.view.by_lease("a-lease") == record
    assert driver.view.services() == ("svc",)
    assert (record.registered_at, record.last_heartbeat, record.revision) == (AT, AT, 11)
    assert [(e.instance_id, e.revision) for e in driver.told(InstanceRegistered)] == [("a", 11)]


def test_registering_again_under_the_same_lease_is_idempotent(driver: Driver) -> None:
    """The record is written again (which renews it), and keeps when it was registered and that it drains."""
    driver.register("a")
    driver.run(instances.set_draining(driver.view, "svc", "a", draining=True, at=AT))
    again = driver.run(instances.register(driver.view, candidate("a", priority=9), at=AT.replace(hour=13)))
    assert not again.new
    assert again.instance.registered_at == AT
    assert again.instance.draining
    assert again.instance.priority == 9
    assert len(driver.told(InstanceRegistered)) == 1


def test_a_live_id_cannot_be_taken_by_another_lease(driver: Driver) -> None:
    """The holder is named."""
    driver.register("a")
    with pytest.raises(InstanceConflict) as refused:
        instances.register(driver.view, candidate("a", lease="other"), at=AT)
    assert (refused.value.owner, refused.value.service_name) == ("a", "svc")


def test_the_same_id_may_live_in_two_services(driver: Driver) -> None:
    """Instance ids are unique within a service."""
    driver.register("a", "svc")
    driver.register("a", "other", lease="another")
    assert [i.service_name for i in driver.view.by_id("a")] == ["svc", "other"]
    assert driver.view.services() == ("other", "svc")


def test_an_id_is_free_again_after_its_lease_expired(driver: Driver) -> None:
    """Another lease takes it; the old one is lost."""
    driver.register("a")
    driver.expire("a")
    assert driver.view.instance("svc", "a") is None
    record = driver.register("a", lease="second")
    assert driver.view.by_lease("a-lease") is None
    assert driver.view.by_lease("second") == record
    assert [type(e) for e in driver.events] == [InstanceRegistered, InstanceLost, InstanceRegistered]


def test_a_record_that_cannot_be_read_is_overwritten(driver: Driver) -> None:
    """It counts as nobody's, at its revision."""
    driver.garble("service-instances.svc.a")
    assert driver.view.instance("svc", "a") is None
    assert driver.register("a").revision == driver.revision


def test_two_who_register_one_id_at_once_cannot_both_succeed(driver: Driver) -> None:
    """The second commit finds another revision than it expects."""
    first = instances.register(driver.view, candidate("a"), at=AT)
    second = instances.register(driver.view, candidate("a", lease="other"), at=AT)
    driver.run(first)
    with pytest.raises(Conflict):
        driver.run(second)


def test_a_lease_is_of_one_instance(driver: Driver) -> None:
    """While it lives."""
    driver.register("a")
    with pytest.raises(InvalidRequest, match=r"another instance @ \$\.lease_id"):
        instances.register(driver.view, candidate("b", lease="a-lease"), at=AT)
    driver.expire("a")
    assert driver.run(instances.register(driver.view, candidate("b", lease="a-lease"), at=AT)).new


def test_every_bad_field_is_named_with_its_path(driver: Driver) -> None:
    """One answer for all of them."""
    bad = candidate(
        "-a", "Bad Service", ttl=-1.0, heartbeat_interval=float("nan"), priority=True, lease="",
        sticky_active_group="no group",
    )  # fmt: skip
    with pytest.raises(InvalidRequest) as refused:
        instances.register(driver.view, bad, role=Role.ACTIVE, target="bad id", at=AT)
    assert [p.path for p in refused.value.problems] == [
        "$.service_name", "$.instance_id", "$.ttl", "$.heartbeat_interval", "$.priority", "$.group", "$.lease_id",
        "$.metadata.resource_id",
    ]  # fmt: skip
    assert "expected int, got bool" in refused.value.message


def test_an_interval_must_leave_a_second_chance(driver: Driver) -> None:
    """More than half the TTL is refused, and the answer says what would be right."""
    with pytest.raises(InvalidRequest, match="at most 15"):
        instances.register(driver.view, candidate("a", ttl=30.0, heartbeat_interval=16.0), at=AT)


def test_a_ttl_must_be_one_that_the_store_keeps(driver: Driver) -> None:
    """The limit is named."""
    with pytest.raises(InvalidRequest, match=r"5.0 is not between 10 and .* @ \$\.ttl"):
        instances.register(driver.view, candidate("a", ttl=5.0, heartbeat_interval=1.0), min_ttl=10.0, at=AT)


def test_a_priority_must_be_in_range(driver: Driver) -> None:
    """A number beyond every use is refused."""
    with pytest.raises(InvalidRequest, match="is not between"):
        instances.register(driver.view, candidate("a", priority=1 << 40), at=AT)


def test_registering_as_active_holds_the_role_in_the_same_commit(driver: Driver) -> None:
    """The answer has the epoch, the view the owner, and observers one change of role."""
    decision = instances.register(driver.view, candidate("a"), role=Role.ACTIVE, target=GROUP, at=AT)
    assert len(decision.writes) == 2
    registered = driver.run(decision)
    assert (registered.role, registered.epoch) == (Role.ACTIVE, 12)
    owned = driver.view.owner(GROUP)
    assert owned is not None
    assert (owned[0].epoch, owned[0].reason, owned[1].instance_id) == (12, "registered", "a")
    assert driver.view.role(registered.instance) is Role.ACTIVE
    (changed,) = driver.told(RoleChanged)
    assert isinstance(changed, RoleChanged)
    assert (changed.old, changed.new, changed.group, changed.resource_id) == (None, Role.ACTIVE, "default", "")


def test_a_second_active_is_refused_as_a_whole(driver: Driver) -> None:
    """Neither the role nor the instance is registered."""
    driver.register("a", role=Role.ACTIVE, target=GROUP)
    with pytest.raises(RoleConflict) as refused:
        driver.register("b", role=Role.ACTIVE, target=GROUP)
    assert (refused.value.owner, refused.value.target) == ("a", "svc/default")
    assert driver.view.instance("svc", "b") is None


def test_registering_as_active_again_keeps_the_epoch(driver: Driver) -> None:
    """The same lease holds the role already."""
    driver.register("a", role=Role.ACTIVE, target=GROUP)
    again = driver.run(instances.register(driver.view, candidate("a"), role=Role.ACTIVE, target=GROUP, at=AT))
    assert again.epoch == 12


def test_a_dead_actives_role_is_free_and_keeps_its_metadata(driver: Driver) -> None:
    """The next one to register as ACTIVE has it, under a new epoch."""
    driver.register("a", role=Role.ACTIVE, target="engine")
    dead = driver.view.held("engine")
    assert dead is not None
    driver.write("resources.engine", attrs.evolve(dead, metadata=attrs.evolve(dead.metadata, resource_type="kept")))
    driver.level()
    driver.expire("a")
    driver.register("b", role=Role.ACTIVE, target="engine")
    record = driver.view.held("engine")
    assert record is not None
    assert (record.previous, record.metadata.resource_type, record.as_role) == ("a", "kept", True)
    assert record.epoch == record.revision


def test_registering_as_standby_takes_a_place_in_line(driver: Driver) -> None:
    """In the same commit; again is idempotent."""
    driver.register("a", role=Role.ACTIVE, target=GROUP)
    registered = driver.run(
        instances.register(driver.view, candidate("b", priority=5), role=Role.STANDBY, target=GROUP, at=AT)
    )
    assert registered.role is Role.STANDBY
    assert [(p.instance_id, p.priority) for p in driver.view.line(GROUP)] == [("b", 5)]
    again = instances.register(driver.view, candidate("b", priority=5), role=Role.STANDBY, target=GROUP, at=AT)
    assert len(again.writes) == 1


def test_a_standby_whose_lease_changed_takes_its_place_anew(driver: Driver) -> None:
    """The place of the dead lease is overwritten: it goes to the end."""
    driver.register("a", role=Role.STANDBY, target=GROUP)
    driver.register("b", role=Role.STANDBY, target=GROUP)
    driver.expire("a")
    driver.register("a", lease="second", role=Role.STANDBY, target=GROUP)
    assert [p.instance_id for p in driver.view.line(GROUP)] == ["b", "a"]


def test_a_role_without_target_is_only_shown(driver: Driver) -> None:
    """Several may be active, none is refused, and nothing is held."""
    first = driver.register("a", role=Role.ACTIVE)
    second = driver.register("b", role=Role.ACTIVE)
    assert first.is_active
    assert second.is_active
    assert driver.view.role(first) is Role.STANDBY


def test_a_role_of_another_service_is_refused(driver: Driver) -> None:
    """Role groups belong to their service."""
    with pytest.raises(InvalidRequest, match="is not for instances of 'svc'"):
        driver.register("a", role=Role.ACTIVE, target=role_target("other", "default"))


def test_a_role_record_newer_than_the_view_is_not_judged(driver: Driver) -> None:
    """It may name a lease that the view has not seen."""
    record = driver.register("x", role=Role.ACTIVE, target=GROUP)
    held = driver.view.held(GROUP)
    assert held is not None
    other = Driver()
    other.tell("roles.svc.default", held, held.revision)
    with pytest.raises(NotYetKnown):
        instances.register(other.view, candidate("b"), role=Role.ACTIVE, target=GROUP, at=AT)
    assert record.instance_id == "x"


def test_deregistering_frees_everything_at_once(driver: Driver) -> None:
    """The event names the resources; the lease is gone."""
    driver.register("a", role=Role.ACTIVE, target="engine")
    assert driver.run(instances.deregister(driver.view, "svc", "a", lease="a-lease")) == ("engine",)
    assert driver.view.owner("engine") is None
    (left,) = driver.told(InstanceDeregistered)
    assert isinstance(left, InstanceDeregistered)
    assert left.released == ("engine",)


def test_only_the_registrant_may_deregister(driver: Driver) -> None:
    """Another lease is refused, an unknown instance is not found."""
    driver.register("a")
    with pytest.raises(NotOwner) as refused:
        instances.deregister(driver.view, "svc", "a", lease="forged")
    assert refused.value.owner == "a"
    with pytest.raises(InstanceNotFound):
        instances.deregister(driver.view, "svc", "b")
    with pytest.raises(InvalidRequest) as bad:
        instances.deregister(driver.view, "", "b b")
    assert [p.path for p in bad.value.problems] == ["$.service_name", "$.instance_id"]


def test_services_show_health_and_role_as_seen_from_here(driver: Driver) -> None:
    """Instances by id; an unknown service is not found."""
    driver.register("b", role=Role.STANDBY, target=GROUP)
    driver.register("a", role=Role.ACTIVE, target=GROUP)
    driver.register("z", "other")
    driver.run(instances.set_health(driver.view, "svc", "b", Health.UNHEALTHY, at=AT))
    shown = instances.get_service(driver.view, "svc", now=driver.now)
    assert [(i.instance_id, i.role, i.health) for i in shown.instances] == [
        ("a", Role.ACTIVE, Health.ONLINE),
        ("b", Role.STANDBY, Health.UNHEALTHY),
    ]
    assert [s.service_name for s in instances.list_services(driver.view, now=driver.now)] == ["other", "svc"]
    with pytest.raises(ServiceNotFound):
        instances.get_service(driver.view, "nobody", now=driver.now)
