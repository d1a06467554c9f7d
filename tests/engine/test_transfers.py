"""Transfers: checked first, then committed at once with their audit record."""

from __future__ import annotations

import attrs
import pytest

from aegis_core.engine import instances, roles, transfers
from aegis_core.engine.decision import Decision, NotYetKnown
from aegis_core.engine.limits import Reserved
from aegis_core.errors import (
    Forbidden,
    InstanceNotFound,
    InvalidRequest,
    NotOwner,
    ResourceConflict,
    ResourceLimitExceeded,
    ResourceNotFound,
)
from aegis_core.events import ResourceTransferred, RoleChanged
from aegis_core.models import ResourceMetadata, Role, TransferReply
from aegis_core.names import role_target
from tests.engine.driver import AT, AUDIT, Driver
from tests.engine.test_claims import claim, owner

GROUP = role_target("svc", "default")


@pytest.fixture
def pair(driver: Driver) -> Driver:
    """a holds x and y, and b can adopt them."""
    driver.register("a", adopts=True)
    driver.register("b", adopts=True)
    driver.run(claim(driver, "a", "x", "y", metadata=ResourceMetadata(resource_type="kept")))
    driver.events.clear()
    return driver


def check(driver: Driver, *ids: str, to: str = "b", source: str = "a", **options: object) -> transfers.Transferable:
    """What can move."""
    return driver.run(
        transfers.check_transfer(driver.view, ids, service_name="svc", source=source, to=to, **options)  # type: ignore[arg-type]
    )


def transfer(driver: Driver, *ids: str, to: str = "b", source: str = "a", **options: object) -> Decision[TransferReply]:
    """The decision of a transfer."""
    given: dict[str, object] = {"service_name": "svc", "source": source, "to": to, "audit": AUDIT, "at": AT, **options}
    return transfers.transfer(driver.view, ids, **given)  # type: ignore[arg-type]


def test_all_move_in_one_commit_with_an_audit_record(pair: Driver) -> None:
    """New epochs, old metadata; observers hear of each."""
    before = pair.view.held("x")
    decision = transfer(pair, "x", "y", lease="a-lease")
    assert len(decision.writes) == 3
    reply = pair.run(decision)
    assert reply.success
    assert reply.transferred == ("x", "y")
    after = pair.view.held("x")
    assert before is not None
    assert after is not None
    assert reply.epochs["x"] == after.epoch > before.epoch
    assert (after.instance_id, after.previous, after.reason) == ("b", "a", "transferred")
    assert after.metadata == before.metadata
    told = pair.view.transfer(AUDIT.transfer_id)
    assert told is not None
    assert (told.kind, told.resource_ids, told.from_instance_id, told.to_instance_id, told.reason, told.requested_by) == (
        "transfer", ("x", "y"), "a", "b", "because", "node:test",
    )  # fmt: skip
    assert [(e.resource_id, e.instance_id) for e in pair.told(ResourceTransferred)] == [("x", "b"), ("y", "b")]


def test_the_target_is_checked_before_anything_is_ended(pair: Driver) -> None:
    """It must live, be healthy, not drain, have room, and be another."""
    assert check(pair, "x", "x", "y").targets == ("x", "y")
    with pytest.raises(InstanceNotFound) as missing:
        check(pair, "x", to="c")
    assert missing.value.instance_id == "c"
    with pytest.raises(InvalidRequest, match=r"\$\.to_instance_id"):
        check(pair, "x", to="a")
    pair.run(claim(pair, "b", "z"))
    with pytest.raises(ResourceLimitExceeded) as full:
        check(pair, "x", "y", limit=2)
    assert (full.value.instance_id, full.value.held, full.value.asked) == ("b", 1, 2)
    pair.run(instances.set_draining(pair.view, "svc", "b", draining=True, at=AT))
    with pytest.raises(Forbidden, match="draining"):
        check(pair, "x")


def test_room_that_others_were_given_is_not_there(pair: Driver) -> None:
    """Where it is promised the answer is no; where that is open, it waits. Roles take no room."""
    for decide in (check, transfer):
        with pytest.raises(ResourceLimitExceeded) as full:
            decide(pair, "x", "y", limit=3, reserved=Reserved(promised=2))
        assert (full.value.held, full.value.asked) == (2, 2)
        with pytest.raises(NotYetKnown):
            decide(pair, "x", "y", limit=3, reserved=Reserved(under_way=2))
    assert check(pair, "x", limit=3, reserved=Reserved(promised=1, under_way=1)).targets == ("x",)
    place = roles.join_line(pair.view, GROUP, lease="b-lease")
    pair.run(roles.promote(pair.view, GROUP, lease="a-lease", at=AT))
    pair.run(place)
    assert check(pair, GROUP, limit=1, reserved=Reserved(promised=1)).targets == (GROUP,)


def test_a_silent_target_is_refused(pair: Driver) -> None:
    """As one that says that it is UNHEALTHY."""
    pair.now += 25.0
    pair.level()
    with pytest.raises(Forbidden, match="UNHEALTHY"):
        check(pair, "x", now=pair.now)


def test_only_the_owner_transfers(pair: Driver) -> None:
    """The true owner is named; what nobody owns is not found."""
    pair.run(claim(pair, "b", "z"))
    with pytest.raises(NotOwner) as refused:
        check(pair, "x", "z")
    assert (refused.value.target, refused.value.owner) == ("z", "b")
    with pytest.raises(ResourceNotFound):
        check(pair, "q")
    with pytest.raises(NotOwner):
        check(pair, "x", lease="forged")


def test_what_cannot_move_any_more_is_listed(pair: Driver) -> None:
    """The rest moves; such an answer needs fresh evidence."""
    decision = transfer(pair, "x", "q")
    assert decision.rests_on_view
    reply = pair.run(decision)
    assert reply.transferred == ("x",)
    assert [(f.resource_id, f.error_code, f.reason) for f in reply.failed] == [
        ("q", "RESOURCE_NOT_FOUND", "resource 'q' has no owner")
    ]
    nothing = transfer(pair, "q")
    assert nothing.writes == ()
    assert pair.run(nothing).failed
    with pytest.raises(ResourceNotFound):
        transfer(pair, "q", all_or_nothing=True)


def test_names_are_checked(pair: Driver) -> None:
    """Each with its path, and not more than a transaction holds."""
    with pytest.raises(InvalidRequest) as refused:
        check(pair, "x", "bad id", role_target("other", "g"), max_transaction=3)
    assert [p.path for p in refused.value.problems] == ["$.resource_ids", "$.resource_ids[1]", "$.resource_ids[2]"]
    with pytest.raises(InvalidRequest, match="at least one"):
        check(pair)


def test_a_target_that_can_do_nothing_with_it_is_refused(driver: Driver) -> None:
    """It has no on_acquire and does not wait for it; the answer says so."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x"))
    with pytest.raises(ResourceConflict, match="no on_acquire and does not wait") as refused:
        check(driver, "x")
    assert refused.value.owner == "a"
    driver.run(roles.join_line(driver.view, "x", lease="b-lease"))
    assert check(driver, "x").targets == ("x",)


def test_old_clients_adopt_anything(driver: Driver) -> None:
    """An instance without endpoints knows no scopes."""
    driver.register("a")
    driver.register("b", endpoints=())
    driver.run(claim(driver, "a", "x"))
    assert check(driver, "x").targets == ("x",)


def test_a_role_moves_to_whoever_waits_for_it(driver: Driver) -> None:
    """Each of the two changes its role once."""
    driver.register("a", role=Role.ACTIVE, target=GROUP, adopts=True)
    driver.register("b", adopts=True)
    with pytest.raises(ResourceConflict, match="svc/default"):
        check(driver, GROUP)
    driver.run(roles.join_line(driver.view, GROUP, lease="b-lease"))
    driver.events.clear()
    driver.run(transfer(driver, GROUP))
    assert owner(driver, GROUP) == "b"
    assert [(e.instance_id, e.old, e.new) for e in driver.told(RoleChanged) if isinstance(e, RoleChanged)] == [
        ("a", Role.ACTIVE, None),
        ("b", Role.STANDBY, Role.ACTIVE),
    ]


def test_a_resource_keeps_being_a_role(driver: Driver) -> None:
    """What was registered as a role steers calls to its new owner."""
    driver.register("a", role=Role.ACTIVE, target="engine")
    b = driver.register("b", adopts=True)
    driver.run(transfer(driver, "engine"))
    assert driver.view.role(b) is Role.ACTIVE


def test_force_needs_admin_and_no_consent(pair: Driver) -> None:
    """Whoever owns it; the answer and the audit record say so. What is there already stays."""
    with pytest.raises(Forbidden, match="force needs admin"):
        check(pair, "x", force=True)
    pair.run(claim(pair, "b", "z"))
    epoch = pair.view.held("z")
    assert epoch is not None
    decision = transfer(pair, "x", "z", source="gone", force=True, admin=True)
    assert decision.rests_on_view
    reply = pair.run(decision)
    assert reply.forced
    assert reply.transferred == ("x", "z")
    assert reply.epochs["z"] == epoch.epoch
    told = pair.view.transfer(AUDIT.transfer_id)
    assert told is not None
    assert (told.kind, told.resource_ids, told.from_instance_id) == ("forced", ("x",), "a")
    record = pair.view.held("x")
    assert record is not None
    assert record.reason == "forced"


def test_a_dead_owners_resource_is_not_transferred(pair: Driver) -> None:
    """It is nobody's: claim it."""
    pair.expire("a")
    with pytest.raises(ResourceNotFound):
        check(pair, "x", force=True, admin=True)
    with pytest.raises(InstanceNotFound):
        check(pair, "x")


def test_targets_that_fell_silent_are_no_concern_of_the_commit(pair: Driver) -> None:
    """The check was before; the commit only looks at what the target says."""
    record = pair.view.instance("svc", "b")
    assert record is not None
    pair.now += 25.0
    pair.level()
    assert transfer(pair, "x").writes
    pair.hear(attrs.evolve(record, draining=True))
    with pytest.raises(Forbidden):
        transfer(pair, "x")
