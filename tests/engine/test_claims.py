"""Claims: who becomes the owner of a resource, and who is refused with whose name."""

from __future__ import annotations

import attrs
import pytest

from aegis_core.engine import instances, resources
from aegis_core.engine.decision import Decision, NotYetKnown
from aegis_core.engine.limits import Reserved
from aegis_core.errors import (
    Conflict,
    Forbidden,
    InstanceNotFound,
    InvalidRequest,
    NotOwner,
    ResourceConflict,
    ResourceLimitExceeded,
    VersionConflict,
)
from aegis_core.events import ResourceRegistered, ResourceTransferred
from aegis_core.models import ClaimReply, Health, ResourceMetadata, TransferRecord
from aegis_core.names import InstanceKey, parse_key
from tests.engine.driver import AT, AUDIT, Driver


def claim(driver: Driver, instance_id: str, *ids: str, **options: object) -> Decision[ClaimReply]:
    """The decision of a claim by an instance of the service ``svc``."""
    given: dict[str, object] = {"now": driver.now, "at": AT, **options}
    return resources.claim(driver.view, "svc", instance_id, ids, **given)  # type: ignore[arg-type]


def owner(driver: Driver, resource_id: str) -> str | None:
    """Who owns it, as the view says."""
    owned = driver.view.owner(resource_id)
    return None if owned is None else owned[1].instance_id


def test_a_free_resource_is_claimed(driver: Driver) -> None:
    """Its epoch is the revision of the commit; observers hear of it."""
    driver.register("a")
    reply = driver.run(claim(driver, "a", "account:42", "x"))
    assert reply.success
    assert reply.registered == ("account:42", "x")
    assert dict(reply.epochs) == {"account:42": 12, "x": 13}
    assert owner(driver, "account:42") == "a"
    assert [(e.resource_id, e.revision) for e in driver.told(ResourceRegistered)] == [("account:42", 12), ("x", 13)]


def test_a_held_resource_is_refused_with_its_owners_name(driver: Driver) -> None:
    """All or nothing: every conflict is listed, nothing is claimed."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x", "y"))
    with pytest.raises(ResourceConflict) as refused:
        claim(driver, "b", "free", "y", "x")
    assert (refused.value.resource_id, refused.value.owner) == ("y", "a")
    assert refused.value.conflicts == {"y": "a", "x": "a"}
    assert owner(driver, "free") is None


def test_an_owner_that_is_unhealthy_or_drains_owns_on(driver: Driver) -> None:
    """Only the end of its lease takes anything from it: how it is, it says itself, and it may be well again."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x"))
    driver.run(instances.set_health(driver.view, "svc", "a", Health.UNHEALTHY, at=AT))
    driver.run(instances.set_draining(driver.view, "svc", "a", draining=True, at=AT))
    with pytest.raises(ResourceConflict) as refused:
        claim(driver, "b", "x")
    assert refused.value.owner == "a"
    assert owner(driver, "x") == "a"


def test_the_free_ones_can_be_taken_and_the_others_listed(driver: Driver) -> None:
    """Such an answer holds a refusal, so it needs fresh evidence."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x"))
    decision = claim(driver, "b", "x", "free", all_or_nothing=False)
    assert decision.rests_on_view
    reply = driver.run(decision)
    assert not reply.success
    assert reply.registered == ("free",)
    assert dict(reply.conflicts) == {"x": "a"}
    assert set(reply.epochs) == {"free"}


def test_two_claims_of_one_resource_cannot_both_succeed(driver: Driver) -> None:
    """Both are decided on the same view; one commit finds another revision."""
    driver.register("a")
    driver.register("b")
    first, second = claim(driver, "a", "x"), claim(driver, "b", "x")
    driver.run(first)
    with pytest.raises(Conflict):
        driver.run(second)


def test_claiming_again_keeps_the_epoch(driver: Driver) -> None:
    """The record is written once more, so that what is under way against it fails; nobody hears of it."""
    driver.register("a")
    epoch = driver.run(claim(driver, "a", "x")).epochs["x"]
    late = resources.release(driver.view, "svc", "a", ["x"])
    driver.events.clear()
    assert driver.run(claim(driver, "a", "x")).epochs["x"] == epoch
    assert driver.events == []
    with pytest.raises(Conflict):
        driver.run(late)


def test_a_dead_owners_resource_is_free(driver: Driver) -> None:
    """It is taken over at its revision, by a new epoch; the old owner is remembered."""
    driver.register("a")
    driver.register("b")
    old = driver.run(claim(driver, "a", "x")).epochs["x"]
    driver.expire("a")
    assert owner(driver, "x") is None
    assert driver.run(claim(driver, "b", "x")).epochs["x"] > old
    record = driver.view.held("x")
    assert record is not None
    assert record.previous == "a"


def test_a_new_lease_does_not_inherit_what_the_old_one_held(driver: Driver) -> None:
    """The same instance id claims it as anybody would."""
    driver.register("a")
    old = driver.run(claim(driver, "a", "x")).epochs["x"]
    driver.expire("a")
    driver.register("a", lease="second")
    assert owner(driver, "x") is None
    assert driver.run(claim(driver, "a", "x")).epochs["x"] > old


def test_a_record_newer_than_the_view_is_not_judged(driver: Driver) -> None:
    """Its lease may be one that the view has not seen yet."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x"))
    record = driver.view.held("x")
    assert record is not None
    driver.tell("resources.x", attrs.evolve(record, lease="unheard of"), driver.revision + 1)
    with pytest.raises(NotYetKnown):
        claim(driver, "b", "x")
    driver.revision += 1
    driver.level()
    assert len(claim(driver, "b", "x").writes) == 1


def test_nothing_is_judged_while_the_view_is_not_whole(driver: Driver) -> None:
    """A dead lease may turn out to be alive."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x"))
    driver.expire("a")
    driver.view.resync()
    with pytest.raises(NotYetKnown):
        claim(driver, "b", "x")


def test_a_record_that_cannot_be_read_is_free(driver: Driver) -> None:
    """It names nobody alive, and is overwritten at its revision."""
    driver.register("a")
    driver.garble("resources.x")
    assert driver.run(claim(driver, "a", "x")).registered == ("x",)


def test_only_registered_instances_claim(driver: Driver) -> None:
    """And only under their own lease."""
    with pytest.raises(InstanceNotFound):
        claim(driver, "a", "x")
    driver.register("a")
    with pytest.raises(NotOwner):
        claim(driver, "a", "x", lease="forged")


def test_who_is_unhealthy_draining_or_without_lease_does_not_claim(driver: Driver) -> None:
    """Each is told why."""
    record = driver.register("a")
    driver.run(instances.set_health(driver.view, "svc", "a", Health.UNHEALTHY, at=AT))
    with pytest.raises(Forbidden, match="UNHEALTHY"):
        claim(driver, "a", "x")
    driver.hear(attrs.evolve(record, draining=True))
    with pytest.raises(Forbidden, match="draining"):
        claim(driver, "a", "x")
    driver.hear(attrs.evolve(record, lease=""))
    with pytest.raises(Forbidden, match="without a lease"):
        claim(driver, "a", "x")


def test_who_has_fallen_silent_does_not_claim(driver: Driver) -> None:
    """Silence counts as UNHEALTHY."""
    driver.register("a", heartbeat_interval=10.0)
    driver.now += 25.0
    driver.level()
    with pytest.raises(Forbidden, match="UNHEALTHY"):
        claim(driver, "a", "x")


def test_every_bad_id_is_named_with_its_path(driver: Driver) -> None:
    """Whatever its kind."""
    driver.register("a")
    with pytest.raises(InvalidRequest) as refused:
        claim(driver, "a", "ok", "bad id", "", 7)  # type: ignore[arg-type]
    assert [p.path for p in refused.value.problems] == ["$.resource_ids[1]", "$.resource_ids[2]", "$.resource_ids[3]"]
    with pytest.raises(InvalidRequest, match="at least one"):
        claim(driver, "a")
    with pytest.raises(InvalidRequest, match="got one string"):
        resources.claim(driver.view, "svc", "a", "abc", now=driver.now, at=AT)


def test_repeated_ids_count_once(driver: Driver) -> None:
    """In the order of their first appearance."""
    driver.register("a")
    assert driver.run(claim(driver, "a", "y", "x", "y", limit=2)).registered == ("y", "x")


def test_one_claim_fits_one_transaction(driver: Driver) -> None:
    """More ids than that are for the bulk operation."""
    driver.register("a")
    with pytest.raises(InvalidRequest, match="at most 2 at once; use the bulk operation"):
        claim(driver, "a", "x", "y", "z", max_transaction=2)


def test_the_limit_is_judged_for_the_whole_request(driver: Driver) -> None:
    """Nothing is claimed; the answer names limit, held and asked. What is held already does not count again."""
    driver.register("a")
    driver.run(claim(driver, "a", "r1", "r2"))
    with pytest.raises(ResourceLimitExceeded) as refused:
        claim(driver, "a", "r3", "r4", limit=3)
    assert (refused.value.limit, refused.value.held, refused.value.asked) == (3, 2, 2)
    assert "spread the ids" in refused.value.message
    assert driver.run(claim(driver, "a", "r1", "r2", "r3", limit=3)).success
    assert claim(driver, "a", "r1", limit=1).writes


def test_what_is_being_claimed_counts_towards_the_limit(driver: Driver) -> None:
    """While it is open whether it will, nothing is said."""
    driver.register("a")
    with pytest.raises(NotYetKnown):
        claim(driver, "a", "x", limit=3, reserved=Reserved(under_way=3))
    with pytest.raises(ResourceLimitExceeded):
        claim(driver, "a", "x", limit=0, reserved=Reserved(under_way=3))
    assert claim(driver, "a", "x", limit=3, reserved=Reserved(under_way=2)).writes


def test_promised_room_counts_as_held(driver: Driver) -> None:
    """There is nothing to wait for: what exceeds it is refused."""
    driver.register("a")
    with pytest.raises(ResourceLimitExceeded) as refused:
        claim(driver, "a", "x", "y", limit=3, reserved=Reserved(promised=2))
    assert (refused.value.limit, refused.value.held, refused.value.asked) == (3, 2, 2)
    assert claim(driver, "a", "x", limit=3, reserved=Reserved(promised=2)).writes
    with pytest.raises(NotYetKnown):
        claim(driver, "a", "x", limit=3, reserved=Reserved(promised=2, under_way=1))


def test_metadata_are_stored_and_stamped(driver: Driver) -> None:
    """One for all ids, or one for each; without any, the default."""
    driver.register("a")
    said = ResourceMetadata(resource_type="session", tags=("vip",))
    driver.run(claim(driver, "a", "x", metadata=said))
    driver.run(claim(driver, "a", "y", "z", metadata={"y": attrs.evolve(said, last_modified=AT.replace(year=2020))}))
    stored = {r: driver.view.held(r) for r in "xyz"}
    assert stored["x"] is not None
    assert stored["x"].metadata == attrs.evolve(said, last_modified=AT)
    assert stored["y"] is not None
    assert stored["y"].metadata.last_modified == AT.replace(year=2020)
    assert stored["z"] is not None
    assert stored["z"].metadata == ResourceMetadata()


def test_metadata_change_by_claiming_again_with_the_version_that_stands(driver: Driver) -> None:
    """The version grows, the epoch stays."""
    driver.register("a")
    epoch = driver.run(claim(driver, "a", "x", metadata=ResourceMetadata(priority=1))).epochs["x"]
    assert driver.run(claim(driver, "a", "x", metadata=ResourceMetadata(priority=2))).epochs["x"] == epoch
    record = driver.view.held("x")
    assert record is not None
    assert (record.metadata.priority, record.metadata.version, record.epoch) == (2, 2, epoch)


def test_a_change_made_from_an_old_version_is_refused(driver: Driver) -> None:
    """Unless it says what stands already: then it was this change, and it is repeated."""
    driver.register("a")
    driver.run(claim(driver, "a", "x", metadata=ResourceMetadata(priority=1)))
    driver.run(claim(driver, "a", "x", metadata=ResourceMetadata(priority=2)))
    with pytest.raises(VersionConflict) as refused:
        claim(driver, "a", "x", metadata=ResourceMetadata(priority=3))
    assert (refused.value.resource_id, refused.value.expected, refused.value.actual) == ("x", 1, 2)
    driver.run(claim(driver, "a", "x", metadata=ResourceMetadata(priority=2)))
    record = driver.view.held("x")
    assert record is not None
    assert record.metadata.version == 2


def test_force_takes_what_lives_and_needs_admin(driver: Driver) -> None:
    """The record, the audit record and the event say so."""
    driver.register("a")
    driver.register("b")
    old = driver.run(claim(driver, "a", "x")).epochs["x"]
    with pytest.raises(Forbidden, match="force needs admin"):
        claim(driver, "b", "x", force=True)
    reply = driver.run(claim(driver, "b", "x", "free", force=True, admin=True, audit=AUDIT))
    assert reply.epochs["x"] > old
    record = driver.view.held("x")
    free = driver.view.held("free")
    assert record is not None
    assert free is not None
    assert (record.reason, record.previous, free.reason) == ("forced", "a", "claimed")
    told = driver.view.transfer(AUDIT.transfer_id)
    assert isinstance(told, TransferRecord)
    assert (told.kind, told.resource_ids, told.from_instance_id, told.to_instance_id) == ("forced", ("x",), "a", "b")
    assert [(e.resource_id, e.instance_id) for e in driver.told(ResourceTransferred)] == [("x", "b")]


def test_force_over_nobody_is_a_plain_claim(driver: Driver) -> None:
    """Nothing is recorded."""
    driver.register("a")
    driver.run(claim(driver, "a", "x", force=True, admin=True, audit=AUDIT))
    assert driver.view.transfers() == ()


def test_what_is_activated_says_so(driver: Driver) -> None:
    """The reason of a claim is stored with it."""
    driver.register("a")
    driver.run(claim(driver, "a", "x", reason="activated"))
    (event,) = driver.told(ResourceRegistered)
    assert isinstance(event, ResourceRegistered)
    assert event.reason == "activated"


def test_a_lease_tag_of_another_instance_owns_nothing(driver: Driver) -> None:
    """A record must name the very instance whose lease it shows."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x"))
    record = driver.view.held("x")
    assert record is not None
    driver.write("resources.x", attrs.evolve(record, instance_id="b"))
    driver.level()
    assert owner(driver, "x") is None
    assert driver.run(claim(driver, "b", "x")).success
    assert driver.view.expectation(InstanceKey("svc", "a")) == driver.revisions["service-instances.svc.a"]
    assert parse_key("resources.x") is not None
