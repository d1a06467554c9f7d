"""Values: what they accept, what they say of themselves, and that nobody can change them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from aegis_core.models import (
    BulkReply,
    ClaimReply,
    Failure,
    Health,
    QueryReply,
    Registration,
    ReleaseReply,
    Resource,
    ResourceMetadata,
    Role,
    ServiceInstance,
    TransferReply,
    ids_in_order,
)

AT = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def instance(instance_id: str = "a", **fields: object) -> ServiceInstance:
    """An instance record."""
    values: dict[str, object] = {
        "service_name": "svc",
        "instance_id": instance_id,
        "registered_at": AT,
        "last_heartbeat": AT,
        **fields,
    }
    return ServiceInstance(**values)  # type: ignore[arg-type]


def test_values_cannot_be_changed() -> None:
    """Neither their fields nor the mappings in them."""
    metadata = ResourceMetadata(attributes={"region": "eu"})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        metadata.version = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        metadata.attributes["region"] = "us"  # type: ignore[index]


def test_a_mapping_is_copied() -> None:
    """The caller's own may change afterwards."""
    attributes: dict[str, object] = {"region": "eu"}
    metadata = ResourceMetadata(attributes=attributes)
    attributes["region"] = "us"
    assert metadata.attributes == {"region": "eu"}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"version": 0}, id="version-zero"),
        pytest.param({"version": "1"}, id="version-text"),
        pytest.param({"resource_type": 7}, id="type"),
        pytest.param({"tags": "vip"}, id="tags-one-string"),
        pytest.param({"tags": (1,)}, id="tags-numbers"),
        pytest.param({"created_by": None}, id="created-by"),
        pytest.param({"ttl_seconds": 0}, id="ttl-zero"),
        pytest.param({"priority": "high"}, id="priority"),
    ],
)
def test_metadata_of_the_wrong_kind_are_refused(fields: dict[str, object]) -> None:
    """When they are made, not when they are used."""
    with pytest.raises((TypeError, ValueError)):
        ResourceMetadata(**fields)  # type: ignore[arg-type]


def test_tags_may_come_as_any_collection() -> None:
    """They are kept in a tuple."""
    assert ResourceMetadata(tags=["a", "b"]).tags == ("a", "b")


def test_metadata_expire_by_their_own_ttl() -> None:
    """Without a ttl, or without a time to count from, never."""
    metadata = ResourceMetadata(ttl_seconds=60.0, last_modified=AT)
    assert not metadata.is_expired(AT + timedelta(seconds=59))
    assert metadata.is_expired(AT + timedelta(seconds=60))
    assert not ResourceMetadata(ttl_seconds=60.0).is_expired(AT)
    assert not ResourceMetadata(last_modified=AT).is_expired(AT + timedelta(days=999))


@pytest.mark.parametrize(
    ("role", "health", "status"),
    [
        (Role.ACTIVE, Health.ONLINE, "ACTIVE"),
        (Role.STANDBY, Health.ONLINE, "STANDBY"),
        (Role.ACTIVE, Health.UNHEALTHY, "UNHEALTHY"),
        (Role.STANDBY, Health.OFFLINE, "UNHEALTHY"),
    ],
)
def test_the_status_is_a_view_of_both_axes(role: Role, health: Health, status: str) -> None:
    """Health goes before role."""
    record = instance(role=role, health=health)
    assert record.status == status
    assert record.is_active is (role is Role.ACTIVE)
    assert record.is_healthy is (health is Health.ONLINE)


def test_marking_unhealthy_makes_a_copy() -> None:
    """All else is as before."""
    record = instance(priority=3)
    marked = record.mark_unhealthy()
    assert marked.health is Health.UNHEALTHY
    assert attrs.evolve(marked, health=Health.ONLINE) == record
    assert record.is_healthy


def test_an_active_healthy_instance_stays_active() -> None:
    """Whatever its peers' priorities; an active peer keeps the work as well."""
    active, eager = instance("a", role=Role.ACTIVE), instance("b", priority=100)
    assert active.should_be_active([eager, active])
    assert not eager.should_be_active([active])


def test_without_an_active_one_the_first_in_line_should_be() -> None:
    """Higher priority, then earlier, then the lower id."""
    late = AT + timedelta(seconds=1)
    low, high, early = instance("a"), instance("b", priority=1), instance("c", priority=1, registered_at=late)
    assert high.should_be_active([low, high, early])
    assert not low.should_be_active([high])
    assert not early.should_be_active([high])
    assert instance("a").should_be_active([instance("b")])
    assert not instance("b").should_be_active([instance("a")])
    assert low.should_be_active([])


def test_the_unhealthy_should_never_be_active() -> None:
    """Neither they, nor do they keep others from it."""
    sick = instance("a", role=Role.ACTIVE, health=Health.UNHEALTHY)
    assert not sick.should_be_active([])
    assert instance("b").should_be_active([sick])


def test_a_resource_equals_by_its_id() -> None:
    """Whoever owns it, and whenever it was looked at."""
    first = Resource(resource_id="x", owner_instance_id="a", service_name="svc", registered_at=AT)
    second = Resource(resource_id="x", owner_instance_id="b", service_name="other", registered_at=AT, epoch=9)
    assert first == second
    assert hash(first) == hash(second)
    assert first != attrs.evolve(first, resource_id="y")
    assert first.metadata == ResourceMetadata()


def test_a_registration_hides_its_lease_id() -> None:
    """A repr may come into a log."""
    registration = Registration(
        service_name="svc", instance_id="a", role=Role.STANDBY, registered_at=AT, lease_id="secret", ttl=30.0, heartbeat_interval=10.0
    )  # fmt: skip
    assert registration.success
    assert "secret" not in repr(registration)


def test_replies_say_whether_all_was_done() -> None:
    """By what they list."""
    failure = Failure(resource_id="x", reason="because", error_code="CODE")
    assert ClaimReply(registered=("x",), epochs={"x": 3}).success
    assert not ClaimReply(conflicts={"x": "a"}).success
    assert ReleaseReply().success
    assert not ReleaseReply(errors={"x": "because"}).success
    assert BulkReply(total_requested=0).success
    assert not BulkReply(total_requested=1, failed=(failure,)).success
    assert TransferReply(transfer_id="t").success
    assert not TransferReply(transfer_id="t", failed=(failure,)).success
    assert QueryReply() == QueryReply(resources=(), total_count=0, has_more=False)


def test_ids_keep_the_order_of_their_first_appearance() -> None:
    """And come once each."""
    assert ids_in_order(["b", "a", "b", "c", "a"]) == ("b", "a", "c")
