"""Releases, and the other ends of an ownership."""

from __future__ import annotations

import pytest

from aegis_core.engine import instances, resources
from aegis_core.errors import Conflict, InstanceNotFound, InvalidRequest, NotOwner, ResourceNotFound
from aegis_core.events import ResourceExpired, ResourceReleased
from aegis_core.models import ResourceMetadata, Role
from aegis_core.names import role_target
from tests.engine.driver import AT, AUDIT, Driver
from tests.engine.test_claims import claim, owner


@pytest.fixture
def held(driver: Driver) -> Driver:
    """a holds x and y, b holds z."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x", "y"))
    driver.run(claim(driver, "b", "z"))
    driver.events.clear()
    return driver


def test_the_owner_releases(held: Driver) -> None:
    """The resource is free, and observers hear why."""
    reply = held.run(resources.release(held.view, "svc", "a", ["x", "x"], lease="a-lease"))
    assert reply.released == ("x",)
    assert reply.success
    assert owner(held, "x") is None
    (event,) = held.events
    assert isinstance(event, ResourceReleased)
    assert (event.resource_id, event.reason, event.instance_id) == ("x", "released", "a")


def test_others_are_refused_with_the_true_owners_name(held: Driver) -> None:
    """And nothing at all is released."""
    with pytest.raises(NotOwner) as refused:
        resources.release(held.view, "svc", "a", ["x", "z"])
    assert (refused.value.target, refused.value.owner) == ("z", "b")
    with pytest.raises(ResourceNotFound):
        resources.release(held.view, "svc", "a", ["nobody's"])


def test_what_cannot_be_released_can_be_listed(held: Driver) -> None:
    """The rest is released."""
    decision = resources.release(held.view, "svc", "a", ["x", "z", "q"], all_or_nothing=False)
    assert decision.rests_on_view
    reply = held.run(decision)
    assert reply.released == ("x",)
    assert "belongs to instance 'b'" in reply.errors["z"]
    assert "has no owner" in reply.errors["q"]


def test_an_admin_releases_what_anybody_holds(held: Driver) -> None:
    """Also in the name of an instance that is gone."""
    assert held.run(resources.release(held.view, "svc", "gone", ["x", "z"], admin=True)).success
    assert owner(held, "z") is None


def test_a_release_needs_a_live_owner_and_good_ids(held: Driver) -> None:
    """Everything that a dead lease held is free already."""
    with pytest.raises(InvalidRequest):
        resources.release(held.view, "svc", "a", ["bad id"])
    held.expire("a")
    with pytest.raises(InstanceNotFound):
        resources.release(held.view, "svc", "a", ["x"])
    held.register("a", lease="second")
    with pytest.raises(ResourceNotFound):
        resources.release(held.view, "svc", "a", ["x"])


def test_a_release_that_comes_late_conflicts(held: Driver) -> None:
    """It cannot end what was claimed since."""
    late = resources.release(held.view, "svc", "a", ["x"])
    held.run(resources.release(held.view, "svc", "a", ["x"]))
    held.run(claim(held, "b", "x"))
    with pytest.raises(Conflict):
        held.run(late)


def test_giving_up_deletes_what_the_lease_holds_and_nothing_else(held: Driver) -> None:
    """Role groups as well."""
    group = role_target("svc", "default")
    held.register("a", role=Role.ACTIVE, target=group)
    assert held.run(resources.give_up(held.view, ["x", "z", "nothing", group], lease="a-lease")) == ("x", group)
    assert owner(held, "x") is None
    assert owner(held, group) is None
    assert owner(held, "z") == "b"
    assert resources.give_up(held.view, ["x"], lease="a-lease").writes == ()


def test_a_resource_expires_with_an_audit_record(held: Driver) -> None:
    """Observers hear that it expired, not that it was released."""
    held.run(claim(held, "a", "short", metadata=ResourceMetadata(ttl_seconds=60.0)))
    record = held.view.held("short")
    assert record is not None
    assert held.view.limited() == (record,)
    assert held.run(resources.expire(held.view, "short", epoch=record.epoch, audit=AUDIT, at=AT))
    assert owner(held, "short") is None
    assert held.view.limited() == ()
    (event,) = held.told(ResourceExpired)
    assert event.resource_id == "short"
    assert held.told(ResourceReleased) == []
    told = held.view.transfer(AUDIT.transfer_id)
    assert told is not None
    assert told.kind == "expired"


def test_a_later_ownership_does_not_expire(held: Driver) -> None:
    """Neither does one whose lease has died: nothing is to be done."""
    record = held.view.held("x")
    assert record is not None
    assert not held.run(resources.expire(held.view, "x", epoch=record.epoch - 1, audit=AUDIT, at=AT))
    assert not held.run(resources.expire(held.view, "q", epoch=1, audit=AUDIT, at=AT))
    held.expire("a")
    assert not held.run(resources.expire(held.view, "x", epoch=record.epoch, audit=AUDIT, at=AT))
    assert held.view.limited() == ()


def test_an_expiry_is_told_of_that_resource_alone(held: Driver) -> None:
    """A release of another one, or a later release, is a release."""
    record = held.view.held("x")
    assert record is not None
    expiry = resources.expire(held.view, "x", epoch=record.epoch, audit=AUDIT, at=AT)
    held.commit(expiry.writes[:1])
    held.run(claim(held, "a", "x"))
    held.run(resources.release(held.view, "svc", "a", ["x", "y"]))
    assert held.told(ResourceExpired) == []
    assert [e.resource_id for e in held.told(ResourceReleased)] == ["x", "y"]


def test_the_end_of_a_lease_ends_what_it_holds(held: Driver) -> None:
    """With the reason; expired or deregistered."""
    held.expire("b")
    held.run(instances.deregister(held.view, "svc", "a"))
    told = [(e.resource_id, e.reason) for e in held.told(ResourceReleased) if isinstance(e, ResourceReleased)]
    assert told == [("z", "lease_expired"), ("x", "deregistered"), ("y", "deregistered")]
