"""Records that are damaged, forged or absurd: they name nobody, and break nothing."""

from __future__ import annotations

import pytest

from aegis_core.engine.decision import Write
from aegis_core.events import InstanceLost, InstanceRegistered, ResourceReleased, RoleChanged
from aegis_core.models import Role, Standby, TransferRecord
from aegis_core.names import TargetKey, instance_key, parse_key, role_target, standby_key
from tests.engine.driver import AT, Driver, candidate
from tests.engine.test_claims import claim, owner
from tests.engine.test_snapshot import found, ownership

GROUP = role_target("svc", "default")


@pytest.mark.parametrize(
    ("key", "record"),
    [
        pytest.param("resources.x", ownership("y", "a"), id="another-resource"),
        pytest.param("resources.x", candidate("a"), id="another-kind"),
        pytest.param("service-instances.svc.a", candidate("b"), id="another-instance"),
        pytest.param("service-instances.svc.a", candidate("a", "other"), id="another-service"),
        pytest.param(
            "standbys.resources.x.a", Standby(target="y", service_name="svc", instance_id="a", lease="l"), id="line"
        ),
        pytest.param(
            "standbys.resources.x.a", Standby(target="x", service_name="svc", instance_id="b", lease="l"), id="place"
        ),
        pytest.param(
            "transfers.t",
            TransferRecord(transfer_id="u", kind="", resource_ids=(), from_instance_id="", at=AT),
            id="transfer",
        ),
        pytest.param("transfers.t", None, id="nothing"),
    ],
)
def test_what_does_not_fit_its_key_names_nobody(driver: Driver, key: str, record: object) -> None:
    """It can be overwritten, at its revision, and deleted."""
    parsed = parse_key(key)
    assert parsed is not None
    assert driver.view.put(parsed, record, 20, now=0.0, at=AT) == ()  # type: ignore[arg-type]
    assert driver.view.expectation(parsed) == 20
    assert driver.view.services() == ()
    driver.view.delete(parsed, 21, expired=False, now=0.0, at=AT)
    assert driver.view.expectation(parsed) == 0


def test_a_record_that_becomes_unreadable_ends_what_it_said(driver: Driver) -> None:
    """An instance is lost, a resource released, a place left."""
    driver.register("a")
    driver.register("b", role=Role.STANDBY, target=GROUP)
    driver.run(claim(driver, "a", "x", "y"))
    driver.events.clear()
    driver.garble("resources.x")
    driver.garble(standby_key(GROUP, "b"))
    driver.garble(instance_key("svc", "a"))
    kinds = [type(e) for e in driver.events]
    assert ResourceReleased in kinds
    assert RoleChanged in kinds
    assert owner(driver, "y") is None
    assert driver.view.line(GROUP) == ()
    assert [e.reason for e in driver.told(ResourceReleased)[:1] if isinstance(e, ResourceReleased)] == ["unreadable"]
    driver.register("a", lease="second")
    driver.run(claim(driver, "a", "x"))
    assert owner(driver, "x") == "a"


def test_a_lease_tag_belongs_to_whoever_had_it_first(driver: Driver) -> None:
    """Another instance that shows it is not believed."""
    driver.register("a")
    driver.run(claim(driver, "a", "x"))
    driver.write(instance_key("svc", "thief"), candidate("thief", lease="a-lease"))
    assert driver.view.instance("svc", "thief") is None
    assert owner(driver, "x") == "a"
    driver.expire("a")
    driver.write(instance_key("svc", "thief"), candidate("thief", lease="a-lease"))
    assert driver.view.instance("svc", "thief") is not None
    assert owner(driver, "x") is None


def test_an_instance_without_lease_is_known_and_holds_nothing(driver: Driver) -> None:
    """A record that names no lease either is nobody's."""
    driver.write(instance_key("svc", "a"), candidate("a", lease=""))
    driver.write("resources.x", ownership("x", "a", lease=""))
    driver.level()
    assert driver.view.instance("svc", "a") is not None
    assert owner(driver, "x") is None
    assert driver.view.orphans() == ("",)
    driver.expire("a")
    assert driver.view.instance("svc", "a") is None
    driver.write("resources.x", None)
    assert driver.view.orphans() == ()


def test_a_record_takes_its_epoch_from_its_revision(driver: Driver) -> None:
    """And no epoch beyond it is believed."""
    driver.register("a")
    driver.tell("resources.x", ownership("x", "a", epoch=1 << 60), 20)
    driver.tell("resources.y", ownership("y", "a", epoch=-4), 21)
    driver.tell("resources.z", ownership("z", "a", epoch=7), 22)
    driver.tell(
        standby_key("x", "a"), Standby(target="x", service_name="svc", instance_id="a", lease="q", joined=99), 23
    )
    held = [driver.view.held(r) for r in "xyz"]
    assert [r.epoch for r in held if r is not None] == [20, 21, 7]
    place = driver.view.place("x", "a")
    assert place is not None
    assert (place.joined, place.revision) == (23, 23)


def test_a_record_of_another_instance_does_not_come_to_life(driver: Driver) -> None:
    """Neither when its lease is born nor when it dies."""
    driver.tell("resources.x", ownership("x", "stranger", lease="a-lease"), 11)
    driver.tell("service-instances.svc.a", candidate("a"), 12)
    driver.tell("resources.y", ownership("y", "stranger", lease="a-lease", service_name="other"), 13)
    driver.tell("service-instances.svc.a", None, 14, expired=True)
    assert [type(e) for e in driver.events] == [InstanceRegistered, InstanceLost]
    assert found(driver) == []


def test_a_write_knows_what_its_key_names() -> None:
    """And the engine writes no keys but its own."""
    assert Write("resources.a=3Ab", None, 3).named == TargetKey("a:b")
    assert Write("resources.a=3Ab", ownership("a:b", "a"), 3).named == TargetKey("a:b")
    with pytest.raises(ValueError, match="is no key of the engine's"):
        _ = Write("foreign.key", None, 3).named
