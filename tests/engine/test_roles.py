"""Roles: the line of standbys, promotion, and stepping up or down."""

from __future__ import annotations

import attrs
import pytest

from aegis_core.engine import instances, resources, roles
from aegis_core.engine.decision import Decision, NotYetKnown
from aegis_core.errors import (
    Conflict,
    Forbidden,
    InstanceNotFound,
    InvalidRequest,
    ResourceConflict,
    ResourceLimitExceeded,
    RoleConflict,
    ServiceNotFound,
)
from aegis_core.events import RoleChanged
from aegis_core.models import GroupRoles, Health, ResourceMetadata, Role
from aegis_core.names import role_target
from tests.engine.driver import AT, AUDIT, Driver
from tests.engine.test_claims import claim, owner

GROUP = role_target("svc", "default")


def changes(driver: Driver) -> list[tuple[str, Role | None, Role | None, str]]:
    """The changes of role that were told, and why."""
    return [(e.instance_id, e.old, e.new, e.reason) for e in driver.told(RoleChanged) if isinstance(e, RoleChanged)]


def line(driver: Driver, target: str = GROUP) -> list[str]:
    """Who waits, in order."""
    return [place.instance_id for place in driver.view.line(target)]


@pytest.fixture
def trio(driver: Driver) -> Driver:
    """a is active, b and c wait."""
    driver.register("a", role=Role.ACTIVE, target=GROUP, sticky_active_group="default")
    driver.register("b", role=Role.STANDBY, target=GROUP, sticky_active_group="default")
    driver.register("c", role=Role.STANDBY, target=GROUP, sticky_active_group="default")
    driver.events.clear()
    return driver


def test_higher_priority_waits_first_then_who_came_first(driver: Driver) -> None:
    """And the order stays when records are rewritten."""
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5)):
        driver.register(name)
        driver.run(roles.join_line(driver.view, "x", lease=f"{name}-lease", priority=priority))
    assert line(driver, "x") == ["b", "d", "a", "c"]
    assert driver.run(roles.join_line(driver.view, "x", lease="b-lease", priority=0)) == 14
    assert line(driver, "x") == ["d", "a", "b", "c"]


def test_joining_again_is_idempotent(driver: Driver) -> None:
    """It answers when the place was taken."""
    driver.register("a")
    joined = driver.run(roles.join_line(driver.view, "x", lease="a-lease"))
    again = roles.join_line(driver.view, "x", lease="a-lease")
    assert again.writes == ()
    assert driver.run(again) == joined


def test_only_live_instances_join_lines_of_their_service(driver: Driver) -> None:
    """And none that drains."""
    with pytest.raises(InstanceNotFound):
        roles.join_line(driver.view, "x", lease="a-lease")
    record = driver.register("a")
    with pytest.raises(InvalidRequest, match=r"\$\.resource_id"):
        roles.join_line(driver.view, "bad id", lease="a-lease")
    with pytest.raises(InvalidRequest, match=r"\$\.group"):
        roles.join_line(driver.view, role_target("other", "g"), lease="a-lease")
    driver.hear(attrs.evolve(record, draining=True))
    with pytest.raises(Forbidden, match="draining"):
        roles.join_line(driver.view, "x", lease="a-lease")


def test_a_place_can_be_left(driver: Driver) -> None:
    """Once."""
    driver.register("a")
    driver.run(roles.join_line(driver.view, "w", lease="a-lease"))
    driver.run(roles.join_line(driver.view, "x", lease="a-lease"))
    assert driver.run(roles.leave_line(driver.view, "x", lease="a-lease"))
    assert line(driver, "x") == []
    assert not driver.run(roles.leave_line(driver.view, "x", lease="a-lease"))
    assert changes(driver)[-1] == ("a", Role.STANDBY, None, "left")


def test_the_dead_do_not_wait(trio: Driver) -> None:
    """Their places count for nothing."""
    trio.expire("b")
    assert line(trio) == ["c"]
    assert changes(trio) == [("b", Role.STANDBY, None, "lease_expired")]


def test_nobody_is_promoted_over_a_live_holder(trio: Driver) -> None:
    """A role and a resource each say so in their own way."""
    with pytest.raises(RoleConflict) as refused:
        roles.promote(trio.view, GROUP, lease="b-lease", at=AT)
    assert (refused.value.owner, refused.value.target) == ("a", "svc/default")
    trio.run(claim(trio, "a", "x"))
    with pytest.raises(ResourceConflict) as held:
        roles.promote(trio.view, "x", lease="b-lease", at=AT)
    assert held.value.conflicts == {"x": "a"}


def test_the_first_in_line_takes_over_from_the_dead(trio: Driver) -> None:
    """One change of role each; the place is left afterwards without anybody noticing."""
    trio.expire("a")
    trio.events.clear()
    record = trio.run(roles.promote(trio.view, GROUP, lease="b-lease", at=AT))
    assert (record.instance_id, record.previous, record.reason) == ("b", "a", "promoted")
    assert record == trio.view.held(GROUP)
    assert line(trio) == ["c"]
    trio.run(roles.leave_line(trio.view, GROUP, lease="b-lease"))
    assert changes(trio) == [("b", Role.STANDBY, Role.ACTIVE, "promoted")]


def test_the_first_in_line_takes_over_what_was_released(trio: Driver) -> None:
    """The holder that gave it up waits nowhere."""
    trio.run(resources.give_up(trio.view, [GROUP], lease="a-lease"))
    trio.run(roles.promote(trio.view, GROUP, lease="b-lease", at=AT))
    assert changes(trio) == [
        ("a", Role.ACTIVE, None, "released"),
        ("b", Role.STANDBY, Role.ACTIVE, "promoted"),
    ]


def test_two_promotions_cannot_both_succeed(trio: Driver) -> None:
    """Whatever the ranks, the commit decides."""
    trio.expire("a")
    first = roles.promote(trio.view, GROUP, lease="c-lease", at=AT)
    second = roles.promote(trio.view, GROUP, lease="b-lease", at=AT)
    trio.run(first)
    with pytest.raises(Conflict):
        trio.run(second)
    assert owner(trio, GROUP) == "c"


def test_whoever_returns_waits(trio: Driver) -> None:
    """Roles are sticky: a higher priority does not drive out the active one."""
    trio.expire("a")
    trio.run(roles.promote(trio.view, GROUP, lease="b-lease", at=AT))
    trio.register("a", lease="second", role=Role.STANDBY, target=GROUP, priority=100)
    assert owner(trio, GROUP) == "b"
    assert line(trio) == ["a", "c"]
    with pytest.raises(RoleConflict):
        roles.promote(trio.view, GROUP, lease="second", at=AT)


def test_a_promotion_keeps_what_the_dead_owner_said(driver: Driver) -> None:
    """Unless the new one says something itself; being a role stays in any case."""
    driver.register("a", role=Role.ACTIVE, target="engine")
    driver.run(claim(driver, "a", "engine", metadata=ResourceMetadata(resource_type="old")))
    driver.register("b")
    driver.run(roles.join_line(driver.view, "engine", lease="b-lease"))
    driver.expire("a")
    plain = roles.promote(driver.view, "engine", lease="b-lease", at=AT)
    said = roles.promote(driver.view, "engine", lease="b-lease", metadata=ResourceMetadata(resource_type="new"), at=AT)
    assert plain.answer([99]).metadata.resource_type == "old"
    assert said.answer([99]).metadata == ResourceMetadata(resource_type="new", last_modified=AT)
    assert plain.answer([99]).as_role


def test_a_place_for_a_role_makes_a_role(driver: Driver) -> None:
    """Also when the old record is gone."""
    b = driver.register("b", role=Role.STANDBY, target="engine")
    driver.run(roles.promote(driver.view, "engine", lease="b-lease", at=AT))
    assert driver.view.role(b) is Role.ACTIVE


def test_promoting_oneself_again_keeps_the_epoch(trio: Driver) -> None:
    """The record is written once more, so that what is under way against it fails."""
    before = trio.view.held(GROUP)
    assert before is not None
    again = trio.run(roles.promote(trio.view, GROUP, lease="a-lease", at=AT))
    assert again.epoch == before.epoch
    assert again.revision > before.revision


def test_promotion_has_the_limits_of_a_claim(driver: Driver) -> None:
    """Healthy, not too many, and nothing that the view may not judge."""
    record = driver.register("a")
    driver.run(claim(driver, "a", "one"))
    with pytest.raises(ResourceLimitExceeded):
        roles.promote(driver.view, "two", lease="a-lease", limit=1, at=AT)
    assert roles.promote(driver.view, GROUP, lease="a-lease", limit=1, at=AT).writes
    held = driver.view.held("one")
    assert held is not None
    driver.tell("resources.new", attrs.evolve(held, target="new", lease="unheard of"), driver.revision + 1)
    with pytest.raises(NotYetKnown):
        roles.promote(driver.view, "new", lease="a-lease", at=AT)
    driver.hear(attrs.evolve(record, health=Health.UNHEALTHY))
    with pytest.raises(Forbidden, match="UNHEALTHY"):
        roles.promote(driver.view, "three", lease="a-lease", at=AT)


def test_ranks_follow_the_line_and_a_ranking_goes_before_it(trio: Driver) -> None:
    """Unable ones come last, strangers after all."""
    trio.register("d", role=Role.STANDBY, target=GROUP)
    trio.expire("a")

    def ranks(*ranking: str) -> list[int]:
        return [roles.rank(trio.view, GROUP, lease=f"{name}-lease", ranking=ranking) for name in "bcd"]

    assert ranks() == [0, 1, 2]
    assert ranks("d", "nobody") == [1, 2, 0]
    trio.run(instances.set_health(trio.view, "svc", "b", Health.UNHEALTHY, at=AT))
    assert ranks() == [2, 0, 1]
    assert ranks("b") == [2, 0, 1]
    assert roles.rank(trio.view, GROUP, lease="stranger") == 3


def set_role(driver: Driver, role: Role, *ids: str, **options: object) -> Decision[tuple[str, ...]]:
    """The decision of an admin, unless said otherwise."""
    given: dict[str, object] = {"admin": True, "audit": AUDIT, "at": AT, **options}
    return roles.set_role(driver.view, "svc", role, ids, **given)  # type: ignore[arg-type]


def test_stepping_up_puts_the_active_one_in_line(trio: Driver) -> None:
    """One transaction, one change of role each, one audit record."""
    assert trio.run(set_role(trio, Role.ACTIVE, "c")) == ("c",)
    assert owner(trio, GROUP) == "c"
    assert line(trio) == ["b", "a"]
    assert changes(trio) == [
        ("a", Role.ACTIVE, Role.STANDBY, "transferred"),
        ("c", Role.STANDBY, Role.ACTIVE, "transferred"),
    ]
    told = trio.view.transfer(AUDIT.transfer_id)
    assert told is not None
    assert (told.kind, told.resource_ids, told.to_instance_id) == ("role", (GROUP,), "c")


def test_stepping_down_promotes_the_next(trio: Driver) -> None:
    """Who stepped down waits at the end."""
    assert trio.run(set_role(trio, Role.STANDBY, "a")) == ("a",)
    assert owner(trio, GROUP) == "b"
    assert line(trio) == ["c", "a"]
    assert changes(trio) == [
        ("a", Role.ACTIVE, Role.STANDBY, "transferred"),
        ("b", Role.STANDBY, Role.ACTIVE, "transferred"),
    ]


def test_stepping_down_skips_those_who_are_to_wait_as_well_or_cannot(trio: Driver) -> None:
    """With nobody left, the group has no active, and the one that stepped down does not take it again."""
    trio.run(instances.set_health(trio.view, "svc", "c", Health.UNHEALTHY, at=AT))
    decision = set_role(trio, Role.STANDBY, "a", "b")
    assert decision.rests_on_view
    assert trio.run(decision) == ("a",)
    assert owner(trio, GROUP) is None
    assert line(trio) == ["b", "c"]


def test_stepping_up_where_nobody_is_active(driver: Driver) -> None:
    """Or where the active one is dead."""
    driver.register("a")
    driver.register("b")
    driver.run(set_role(driver, Role.ACTIVE, "a", group="g"))
    assert owner(driver, role_target("svc", "g")) == "a"
    driver.expire("a")
    driver.run(
        roles.set_role(
            driver.view, "svc", Role.ACTIVE, ["b"], group="g", lease="b-lease", at=AT,
            audit=attrs.evolve(AUDIT, transfer_id="transfer_1"),
        )
    )  # fmt: skip
    record = driver.view.held(role_target("svc", "g"))
    assert record is not None
    assert (record.instance_id, record.previous) == ("b", "a")


def test_a_role_that_one_has_is_no_change(trio: Driver) -> None:
    """Nothing is written."""
    for role, name in ((Role.ACTIVE, "a"), (Role.STANDBY, "b")):
        decision = set_role(trio, role, name)
        assert decision.writes == ()
        assert trio.run(decision) == ()


def test_who_may_change_roles(trio: Driver) -> None:
    """One's own, or an admin; only the able become ACTIVE, one in each group."""
    with pytest.raises(Forbidden, match="only its own"):
        set_role(trio, Role.ACTIVE, "b", admin=False, lease="c-lease")
    assert set_role(trio, Role.ACTIVE, "b", admin=False, lease="b-lease").writes
    with pytest.raises(InstanceNotFound):
        set_role(trio, Role.ACTIVE, "nobody")
    with pytest.raises(InvalidRequest, match="one active instance only"):
        set_role(trio, Role.ACTIVE, "b", "c")
    with pytest.raises(InvalidRequest, match="at least one instance id"):
        set_role(trio, Role.ACTIVE)
    trio.register("loner")
    with pytest.raises(InvalidRequest, match="no role group"):
        set_role(trio, Role.ACTIVE, "loner")
    with pytest.raises(InvalidRequest, match="not a role group"):
        set_role(trio, Role.ACTIVE, "loner", group="bad group")
    trio.run(instances.set_draining(trio.view, "svc", "b", draining=True, at=AT))
    with pytest.raises(Forbidden, match="draining"):
        set_role(trio, Role.ACTIVE, "b")


def test_who_changes_roles_looks_at_level_records_only(trio: Driver) -> None:
    """A role held under an unheard-of lease is not judged."""
    held = trio.view.held(GROUP)
    assert held is not None
    trio.tell("roles.svc.default", attrs.evolve(held, lease="unheard of"), trio.revision + 1)
    with pytest.raises(NotYetKnown):
        set_role(trio, Role.ACTIVE, "b")


def test_the_table_of_roles(trio: Driver) -> None:
    """Role groups, also without active; resources with a line or held as a role; nothing else."""
    trio.register("d", sticky_active_group="spare")
    trio.register("e", role=Role.ACTIVE, target="engine")
    trio.run(claim(trio, "a", "plain", "lined"))
    trio.run(roles.join_line(trio.view, "lined", lease="b-lease"))
    table = roles.list_roles(trio.view, "svc")
    assert dict(table.groups) == {"default": GroupRoles(active="a", standbys=("b", "c")), "spare": GroupRoles()}
    assert dict(table.resources) == {
        "engine": GroupRoles(active="e"),
        "lined": GroupRoles(active="a", standbys=("b",)),
    }
    trio.expire("e")
    assert "engine" not in roles.list_roles(trio.view, "svc").resources
    with pytest.raises(ServiceNotFound):
        roles.list_roles(trio.view, "nobody")


def test_changes_of_role_are_told_of_resources_with_lines_only(driver: Driver) -> None:
    """A plain claim is no role."""
    driver.register("a")
    driver.register("b")
    driver.run(claim(driver, "a", "x"))
    assert changes(driver) == []
    driver.run(roles.join_line(driver.view, "x", lease="b-lease"))
    driver.run(resources.release(driver.view, "svc", "a", ["x"]))
    (first, last) = driver.told(RoleChanged)
    assert changes(driver) == [("b", None, Role.STANDBY, "joined"), ("a", Role.ACTIVE, None, "released")]
    assert first.resource_id == last.resource_id == "x"
