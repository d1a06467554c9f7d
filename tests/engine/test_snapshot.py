"""The view: two sources, one order, and nothing that comes late or garbled does harm."""

from __future__ import annotations

import attrs

from aegis_core.engine import instances, queries, resources, roles
from aegis_core.engine.snapshot import Snapshot
from aegis_core.events import (
    InstanceLost,
    InstanceRegistered,
    ResourceRegistered,
    ResourceReleased,
    ResourceTransferred,
    RoleChanged,
)
from aegis_core.models import Ownership, Record, Role, Standby, TransferRecord
from aegis_core.names import InstanceKey, StandbyKey, TargetKey, TransferKey, instance_key, role_target, standby_key
from tests.engine.driver import AT, AUDIT, Driver, candidate
from tests.engine.test_claims import claim, owner

GROUP = role_target("svc", "default")


def ownership(target: str, instance_id: str, **fields: object) -> Ownership:
    """A record as a store has it."""
    values: dict[str, object] = {
        "target": target,
        "service_name": "svc",
        "instance_id": instance_id,
        "lease": f"{instance_id}-lease",
        "registered_at": AT,
        **fields,
    }
    return Ownership(**values)  # type: ignore[arg-type]


def found(driver: Driver) -> list[str]:
    """All resources, in the order of pages."""
    return [r.resource_id for r in queries.query_resources(driver.view, now=driver.now).resources]


def test_an_empty_view_is_not_whole(driver: Driver) -> None:
    """Until it is told so."""
    view = Snapshot()
    assert (view.synced, view.revision) == (False, 0)
    assert "loading" in repr(view)
    view.advance(5, now=0.0, at=AT)
    assert (view.synced, view.revision) == (True, 5)
    assert repr(view) == "<Snapshot synced at revision 5: 0 instances, 0 ownership records>"
    assert driver.view.held_by("nobody") == {}
    assert driver.view.count("nobody") == 0
    assert driver.view.places_of("nobody") == ()
    assert driver.view.live("nobody") == ()
    assert driver.view.by_id("nobody") == ()
    assert driver.view.by_lease("nobody") is None


def test_what_changes_while_the_first_snapshot_comes_is_no_news() -> None:
    """Only what it has become counts, once all is there."""
    view = Snapshot()
    key = TargetKey("x")
    assert not view.put(key, ownership("x", "a"), 1, now=0.0, at=AT)
    assert not view.put(key, ownership("x", "b"), 2, now=0.0, at=AT)
    held = view.held("x")
    assert held is not None
    assert held.instance_id == "b"
    assert not view.delete(key, 3, expired=False, now=0.0, at=AT)
    view.advance(3, now=0.0, at=AT)
    assert view.held("x") is None


def test_what_comes_into_an_empty_store_is_news() -> None:
    """Also when the store's revisions begin at 0: that the first snapshot was empty is known all the same."""
    view = Snapshot()
    assert view.advance(0, now=0.0, at=AT) == ()
    key = InstanceKey("svc", "a")
    told = [
        *view.put(key, candidate("a"), 1, now=0.0, at=AT),
        *view.put(TargetKey("x"), ownership("x", "a"), 2, now=0.0, at=AT),
        *view.put(
            StandbyKey(GROUP, "a"),
            Standby(target=GROUP, service_name="svc", instance_id="a", lease="a-lease"),
            3,
            now=0.0,
            at=AT,
        ),
        *view.delete(key, 4, expired=True, now=0.0, at=AT),
    ]
    assert [type(event) for event in told] == [
        *(InstanceRegistered, ResourceRegistered, RoleChanged),
        *(InstanceLost, ResourceReleased, RoleChanged),
    ]


def test_the_first_snapshot_is_no_news(driver: Driver) -> None:
    """Whatever it brings; afterwards everything is."""
    view = Snapshot()
    told = [
        view.put(TargetKey("x"), ownership("x", "a"), 3, now=0.0, at=AT),
        view.put(InstanceKey("svc", "a"), candidate("a"), 4, now=0.0, at=AT),
        view.put(InstanceKey("svc", "a"), candidate("a", lease="newer"), 5, now=0.0, at=AT),
        view.put(
            StandbyKey("x", "a"), Standby(target="x", service_name="svc", instance_id="a", lease="l"), 6, now=0, at=AT
        ),
        view.delete(InstanceKey("svc", "a"), 7, expired=True, now=0.0, at=AT),
        view.advance(7, now=0.0, at=AT),
    ]
    assert told == [()] * 6
    assert view.put(InstanceKey("svc", "a"), candidate("a"), 8, now=0.0, at=AT)


def test_records_come_to_life_with_the_lease_that_they_name(driver: Driver) -> None:
    """A feed that merges changes may bring the record first; then it is told when the instance comes."""
    driver.tell("resources.x", ownership("x", "a"), 11)
    driver.tell("roles.svc.default", ownership(GROUP, "a"), 12)
    assert driver.events == []
    assert owner(driver, "x") is None
    driver.tell("service-instances.svc.a", candidate("a"), 13)
    assert owner(driver, "x") == "a"
    assert found(driver) == ["x"]
    assert [type(e) for e in driver.events] == [InstanceRegistered, ResourceRegistered, RoleChanged]


def test_folding_a_commit_early_does_not_move_the_view_on(driver: Driver) -> None:
    """Others' commits before it are still to come."""
    driver.register("a")
    driver.run(claim(driver, "a", "x"), level=False)
    assert driver.view.revision == driver.revision - 1
    assert owner(driver, "x") == "a"
    told = len(driver.events)
    driver.tell("resources.x", driver.records["resources.x"], driver.revision)
    assert len(driver.events) == told


def test_what_is_late_or_repeated_changes_nothing(driver: Driver) -> None:
    """Puts and deletions alike."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x"))
    old = driver.view.held("x")
    driver.run(resources.release(driver.view, "svc", "a", ["x"]))
    driver.run(claim(driver, "b", "x"))
    driver.events.clear()
    driver.tell("resources.x", old, driver.revision - 2)
    driver.tell("resources.x", None, driver.revision - 1)
    driver.tell("resources.x", None, driver.revision)
    assert owner(driver, "x") == "b"
    assert driver.events == []


def test_a_deletion_folded_early_is_not_undone_by_the_put_before_it(driver: Driver) -> None:
    """It is remembered until the watch has passed it."""
    driver.register("a")
    driver.run(claim(driver, "a", "x"), level=False)
    record = driver.records["resources.x"]
    put_at = driver.revision
    driver.run(resources.release(driver.view, "svc", "a", ["x"]), level=False)
    driver.tell("resources.x", record, put_at)
    assert driver.view.held("x") is None
    driver.tell("resources.x", None, driver.revision)
    driver.level()
    driver.tell("resources.x", record, put_at)
    assert driver.view.held("x") is None
    driver.run(claim(driver, "a", "x"))
    assert owner(driver, "x") == "a"


def test_a_claim_after_a_deletion_folded_early_stands(driver: Driver) -> None:
    """It is newer than what is remembered."""
    driver.register("a")
    driver.run(claim(driver, "a", "x"), level=False)
    driver.run(resources.release(driver.view, "svc", "a", ["x"]), level=False)
    driver.run(claim(driver, "a", "x"), level=False)
    assert owner(driver, "x") == "a"
    driver.level()
    assert owner(driver, "x") == "a"


def test_pages_are_in_the_order_of_revisions_on_every_node(driver: Driver) -> None:
    """Also where one's own commit was folded before the watch brought others' earlier ones."""
    driver.register("a")
    driver.tell("resources.mine", ownership("mine", "a"), 20)
    driver.tell("resources.early", ownership("early", "a"), 18)
    assert found(driver) == ["mine", "early"]
    driver.tell("resources.mine", ownership("mine", "a"), 20)
    driver.tell("service-instances.svc.a", candidate("a"), 11)
    driver.revision = 20
    driver.level()
    assert found(driver) == ["early", "mine"]
    assert list(driver.view.held_by("a-lease")) == ["early", "mine"]
    driver.tell("resources.mine", ownership("mine", "a"), 20)
    assert found(driver) == ["early", "mine"]


def test_a_new_lease_over_a_live_record_ends_the_old_one(driver: Driver) -> None:
    """As a feed shows it that merges changes."""
    driver.register("a")
    driver.run(claim(driver, "a", "x"))
    driver.events.clear()
    driver.hear(candidate("a", lease="second"))
    assert [type(e) for e in driver.events] == [InstanceLost, ResourceReleased, InstanceRegistered]
    assert owner(driver, "x") is None


def test_ownership_that_changed_unseen_is_told_once(driver: Driver) -> None:
    """Released and claimed again by the same, or given to another, between two looks."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x"))
    driver.events.clear()
    driver.write("resources.x", ownership("x", "a"))
    driver.write("resources.x", ownership("x", "b"))
    assert [type(e) for e in driver.events] == [ResourceRegistered, ResourceTransferred]


def test_a_resync_drops_what_the_new_snapshot_lacks(driver: Driver) -> None:
    """Whatever it is; what was folded ahead of the snapshot stays."""
    driver.register("gone", role=Role.STANDBY, target="x")
    driver.register("stays", role=Role.STANDBY, target="x")
    driver.run(claim(driver, "gone", "x"))
    driver.run(claim(driver, "stays", "y"))
    driver.garble("resources.garbled")
    driver.run(roles.set_role(driver.view, "svc", Role.ACTIVE, ["stays"], group="g", admin=True, audit=AUDIT, at=AT))
    driver.events.clear()
    snapshot_at = driver.revision
    driver.run(claim(driver, "stays", "ahead"), level=False)
    driver.view.resync()
    assert "loading" in repr(driver.view)
    for key in (instance_key("svc", "stays"), "resources.y", standby_key("x", "stays")):
        driver.tell(key, driver.records[key], driver.revisions[key])
    assert driver.events == [e for e in driver.events if isinstance(e, ResourceRegistered)]
    driver.events.clear()
    driver.events += driver.view.advance(snapshot_at, now=driver.now, at=AT)
    assert driver.view.synced
    assert driver.view.services() == ("svc",)
    assert [i.instance_id for i in driver.view.live("svc")] == ["stays"]
    assert found(driver) == ["y", "ahead"]
    assert driver.view.held("x") is None
    assert [p.instance_id for p in driver.view.line("x")] == ["stays"]
    assert driver.view.owner(role_target("svc", "g")) is None
    assert driver.view.transfers() == ()
    assert driver.view.expectation(TargetKey("garbled")) == 0
    assert [type(e) for e in driver.events] == [InstanceLost, ResourceReleased, RoleChanged, RoleChanged]
    again = driver.view.advance(driver.revision, now=driver.now, at=AT)
    assert again == ()
    assert found(driver) == ["y", "ahead"]


def test_a_view_that_is_forgotten_begins_from_empty(driver: Driver) -> None:
    """All ends, and lower revisions than before count; what was deleted at a higher one may come back."""
    driver.register("a", role=Role.STANDBY, target="x")
    driver.run(claim(driver, "a", "x", "y"))
    driver.write("resources.y", None)
    driver.level()
    before = {key: driver.records[key] for key in (instance_key("svc", "a"), "resources.x")}
    claimed_again = ownership("y", "a", lease=driver.view.live("svc")[0].lease)
    driver.events.clear()
    driver.events += driver.view.forget(AT)
    assert repr(driver.view) == "<Snapshot loading at revision 0: 0 instances, 0 ownership records>"
    assert {InstanceLost, ResourceReleased} <= {type(event) for event in driver.events}
    assert driver.view.line("x") == ()
    for revision, (key, record) in enumerate(before.items(), start=1):
        driver.tell(key, record, revision)
    driver.tell("resources.y", claimed_again, 3)
    driver.view.advance(3, now=driver.now, at=AT)
    assert (driver.view.revision, found(driver)) == (3, ["x", "y"])


def test_a_late_acknowledgement_does_not_bring_back_the_dead(driver: Driver) -> None:
    """Not even while the view is being rebuilt."""
    driver.register("a")
    driver.run(claim(driver, "a", "x"))
    record = driver.records["resources.x"]
    at = driver.revision
    driver.write("resources.x", None)
    driver.level()
    driver.view.resync()
    driver.tell("resources.x", record, at)
    assert driver.view.held("x") is None


def test_transfers_come_and_go(driver: Driver) -> None:
    """In the order of their revisions."""
    for name in ("t1", "t2"):
        driver.write(
            f"transfers.{name}",
            TransferRecord(transfer_id=name, kind="transfer", resource_ids=("x",), from_instance_id="a", at=AT),
        )
    driver.write("transfers.t1", driver.records["transfers.t1"])
    assert [t.transfer_id for t in driver.view.transfers()] == ["t2", "t1"]
    assert driver.view.expectation(TransferKey("t2")) == 12
    driver.write("transfers.t2", None, expired=True)
    driver.write("transfers.t2", None, expired=True)
    assert [t.transfer_id for t in driver.view.transfers()] == ["t1"]
    assert driver.view.transfer("t2") is None


def test_deletions_of_what_was_never_there_are_nothing(driver: Driver) -> None:
    """They are normal after a resync."""
    for key in (instance_key("svc", "a"), "resources.x", standby_key("x", "a"), "transfers.t"):
        driver.write(key, None)
    assert driver.events == []


def test_a_service_that_lost_its_last_instance_is_gone(driver: Driver) -> None:
    """And so is its lease, once nothing names it."""
    driver.register("a")
    driver.run(instances.deregister(driver.view, "svc", "a"))
    assert driver.view.services() == ()
    assert driver.view.orphans() == ()


def test_a_place_that_is_rewritten_moves_with_its_lease(driver: Driver) -> None:
    """The old lease is forgotten."""
    driver.register("a")
    driver.register("b")
    driver.run(roles.join_line(driver.view, "x", lease="a-lease"))
    driver.write(standby_key("x", "a"), Standby(target="x", service_name="svc", instance_id="a", lease="other"))
    driver.level()
    assert driver.view.line("x") == ()
    assert driver.view.orphans() == ("other",)
    driver.write(standby_key("x", "a"), Standby(target="x", service_name="svc", instance_id="a", lease="a-lease"))
    driver.level()
    assert driver.view.orphans() == ()


def test_records_that_come_complete_are_kept_as_they_are(driver: Driver) -> None:
    """A decoder fills in the revision; nothing is copied then."""
    complete: list[tuple[str, Record]] = [
        ("service-instances.svc.a", candidate("a", revision=20)),
        ("resources.x", ownership("x", "a", epoch=21, revision=21)),
        (
            standby_key("x", "a"),
            Standby(target="x", service_name="svc", instance_id="a", lease="a-lease", joined=22, revision=22),
        ),
    ]
    for at, (key, record) in enumerate(complete, 20):
        driver.tell(key, record, at)
    assert driver.view.instance("svc", "a") is complete[0][1]
    assert driver.view.held("x") is complete[1][1]
    assert driver.view.place("x", "a") is complete[2][1]


def test_an_expiry_that_is_older_than_the_record_explains_nothing(driver: Driver) -> None:
    """The resource was claimed anew since, by a commit folded early."""
    driver.register("a")
    driver.tell("resources.x", ownership("x", "a"), 30)
    expiry = TransferRecord(transfer_id="t", kind="expired", resource_ids=("x", "q"), from_instance_id="b", at=AT)
    driver.tell("transfers.t", expiry, 20)
    driver.tell("resources.x", None, 31)
    (released,) = driver.told(ResourceReleased)
    assert released.resource_id == "x"


def test_lines_and_roles_are_of_the_service_asked_for(driver: Driver) -> None:
    """Others' lines are not."""
    driver.register("a", role=Role.STANDBY, target="x")
    driver.register("b", "other", role=Role.STANDBY, target="y")
    driver.register("c", role=Role.ACTIVE, target="engine")
    driver.register("d", role=Role.ACTIVE, target="motor")
    assert sorted(driver.view.lines("svc")) == ["engine", "motor", "x"]
    driver.run(resources.give_up(driver.view, ["engine"], lease="c-lease"))
    assert sorted(driver.view.lines("svc")) == ["motor", "x"]


def test_moving_on_needs_an_ownership_record(driver: Driver) -> None:
    """A garbled one that is told again has no order."""
    driver.garble("resources.x")
    at = driver.revision
    assert driver.view.put(TargetKey("x"), None, at, now=0.0, at=AT) == ()
    record = driver.register("a")
    assert driver.view.put(InstanceKey("svc", "a"), record, record.revision, now=0.0, at=AT) == ()
    assert attrs.evolve(record) == driver.view.instance("svc", "a")
