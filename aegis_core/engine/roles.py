"""Roles: who is ACTIVE for a target, who waits in line for it, and how the one becomes the other.

A target is a resource or a role group. Its holder is ACTIVE. Standbys wait in order: higher priority first, then
earlier. When the holder's lease ends or it gives the target up, each waiting instance may take it by one
compare-and-set; the line only says who tries first. Whoever returns goes to the end of the line: roles are sticky.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import attrs

from aegis_core.engine.decision import Audit, Decision, Write, answered
from aegis_core.engine.limits import MAX_RESOURCES, NOTHING_RESERVED, Reserved, check_limit
from aegis_core.engine.requests import (
    Problems,
    authentic,
    check_able,
    checked_target,
    lease_holder,
    unknown_service,
)
from aegis_core.engine.resources import audit_write, stamped
from aegis_core.engine.view import View
from aegis_core.errors import (
    AegisError,
    Forbidden,
    ResourceConflict,
    RoleConflict,
)
from aegis_core.models import (
    ABSENT,
    GroupRoles,
    Ownership,
    ResourceMetadata,
    Role,
    RoleTable,
    ServiceInstance,
    Standby,
)
from aegis_core.names import (
    StandbyKey,
    TargetKey,
    describe_target,
    is_role,
    role_parts,
    role_target,
    standby_key,
)

__all__ = ["join_line", "leave_line", "list_roles", "promote", "rank", "set_role"]

DEFAULT_GROUP = "default"


def join_line(view: View, target: str, *, lease: str, priority: int = 0, as_role: bool = False) -> Decision[int]:
    """Take a place in the line for *target*. Answers the revision at which the place was taken.

    Being there already is idempotent; with another priority the place is kept, and moves by it.

    Args:
        view: The view.
        target: A resource id, or a role group of the instance's service.
        lease: Tag of the lease of the instance that waits.
        priority: Higher first.
        as_role: See `Standby`.

    Raises:
        InvalidRequest: *target* is neither.
        InstanceNotFound: The lease is dead.
        Forbidden: The instance is draining.
    """
    instance = lease_holder(view, lease)
    checked_target(target, instance.service_name)
    if instance.draining:
        raise Forbidden(operation="join_line", target=instance.instance_id, reason="it is draining")
    known = view.place(target, instance.instance_id)
    kept = known.joined if known is not None and known.lease == lease else ABSENT
    if kept and known is not None and known.priority == priority:
        return answered(kept)
    place = _new_place(instance, target, priority, joined=kept, as_role=as_role)
    write = _place_write(view, place)
    return Decision((write,), lambda revisions: kept or revisions[0])


def leave_line(view: View, target: str, *, lease: str) -> Decision[bool]:
    """Give up the place that *lease* has in the line for *target*. Answers whether there was one."""
    for place in view.places_of(lease):
        if place.target == target:
            key = standby_key(target, place.instance_id)
            return Decision((Write(key, None, place.revision),), lambda _: True)
    return answered(False)


def promote(
    view: View,
    target: str,
    *,
    lease: str,
    metadata: ResourceMetadata | None = None,
    reason: str = "promoted",
    limit: int = MAX_RESOURCES,
    reserved: Reserved = NOTHING_RESERVED,
    at: datetime,
) -> Decision[Ownership]:
    """Take *target*, which nobody alive holds: one compare-and-set on its key.

    The place in the line is left afterwards, with `leave_line`. Whether it is one's turn, `rank` says; promoting out of
    turn is allowed, because the compare-and-set decides.

    Args:
        view: The view.
        target: A resource id, or a role group of the instance's service.
        lease: Tag of the lease of the instance that takes it.
        metadata: Of the resource; None keeps what the dead owner's record says.
        reason: Stored with the record.
        limit: Resources that one instance may hold.
        reserved: Room at it that other operations of this node have been given.
        at: Aware UTC.

    Raises:
        InvalidRequest: *target* is neither.
        InstanceNotFound: The lease is dead.
        Forbidden: The instance is UNHEALTHY or draining.
        ResourceConflict, RoleConflict: Somebody alive holds it: wait on.
        ResourceLimitExceeded: The instance holds too many.
        NotYetKnown: The view may not judge yet.
    """
    instance = lease_holder(view, lease)
    checked_target(target, instance.service_name)
    check_able(view, instance, "promote")
    record = view.held(target)
    holder = None if record is None else view.holder(record)
    if record is not None and holder is not None:
        if holder.lease != lease:
            raise _taken(target, holder)
        # Written again, not merely confirmed; see `resources.acquire`.
        again = Write.owner(attrs.evolve(record, revision=ABSENT), record.revision)
        return Decision((again,), lambda revisions: attrs.evolve(record, revision=revisions[0]))
    if not is_role(target):
        check_limit(view, instance, 1, limit=limit, reserved=reserved)
    place = view.place(target, instance.instance_id)
    said = record.metadata if metadata is None and record is not None else stamped(metadata, at)
    fresh = Ownership(
        target=target,
        service_name=instance.service_name,
        instance_id=instance.instance_id,
        lease=lease,
        metadata=said,
        registered_at=at,
        reason=reason,
        previous=record.instance_id if record is not None else "",
        as_role=(place is not None and place.as_role) or (record is not None and record.as_role),
    )
    expect = view.expectation(TargetKey(target))

    def answer(revisions: Sequence[int]) -> Ownership:
        return attrs.evolve(fresh, epoch=revisions[0], revision=revisions[0])

    return Decision((Write.owner(fresh, expect),), answer)


def rank(view: View, target: str, *, lease: str, ranking: Sequence[str] = ()) -> int:
    """How many instances should try before this one: 0 is the first.

    Args:
        view: The view.
        target: What is waited for.
        lease: Tag of the lease of the waiting instance. Not in the line (yet), it comes after all who are.
        ranking: Instance ids that a plug-in wants first, in its order; the others follow in the order of the line.
            Instances that say they are UNHEALTHY, or drain, come last in any case.
    """
    order = {instance_id: at for at, instance_id in enumerate(ranking)}

    def turn(place: Standby) -> tuple[bool, int]:
        instance = view.by_lease(place.lease)
        able = instance is not None and instance.is_healthy and not instance.draining
        return not able, order.get(place.instance_id, len(order))

    line = sorted(view.line(target), key=turn)
    return next((at for at, place in enumerate(line) if place.lease == lease), len(line))


def set_role(
    view: View,
    service_name: str,
    role: Role,
    instance_ids: Sequence[str],
    *,
    group: str | None = None,
    lease: str | None = None,
    admin: bool = False,
    audit: Audit,
    at: datetime,
) -> Decision[tuple[str, ...]]:
    """Make instances ACTIVE or STANDBY in their role groups, all in one transaction, with an audit record.

    ACTIVE: the instance takes the group, and who held it waits in its line from now on. STANDBY: the first of the others
    in line takes the group, and the instance waits; with nobody else in line the group is left without an active.

    Args:
        view: The view.
        service_name: The service.
        role: The role to have.
        instance_ids: One or more.
        group: The role group; None for the one that each instance was registered with.
        lease: Tag of the lease that the caller showed: it may change its own role.
        admin: The caller may change anybody's.
        audit: How it is recorded.
        at: Aware UTC.

    Returns:
        The instances whose role changes; the others have it already.

    Raises:
        InvalidRequest: No instance, no group, or two that are to be ACTIVE in one group.
        InstanceNotFound: One does not live.
        Forbidden: It is not the caller's own, and the caller is no admin; or it is UNHEALTHY or draining and should
            become ACTIVE.
        NotYetKnown: The view may not judge yet.
    """
    chosen = _members(view, service_name, role, instance_ids, group, lease=lease, admin=admin)
    writes: list[Write] = []
    changed: list[str] = []
    moved: dict[str, tuple[ServiceInstance | None, ServiceInstance | None]] = {}
    leaving: ServiceInstance | None
    successor: ServiceInstance | None
    for instance, target in chosen:
        record = view.held(target)
        holder = None if record is None else view.holder(record)
        active = holder is not None and holder.lease == instance.lease
        if active is (role is Role.ACTIVE):
            continue
        if role is Role.ACTIVE:
            check_able(view, instance, "set_role")
            leaving, successor = holder, instance
        else:
            leaving, successor = instance, _next_in_line(view, target, but=[i for i, _ in chosen])
        changed.append(instance.instance_id)
        moved[target] = (leaving, successor)
        writes += _hand_over(view, target, leaving, successor, record, at)
    if not writes:
        return answered(())
    old, new = (_named(ends) for ends in zip(*moved.values(), strict=True))
    writes.append(audit_write(audit, kind="role", ids=tuple(moved), old=old, new=new, at=at))
    answer = tuple(changed)
    return Decision(tuple(writes), lambda _: answer, refuses=len(changed) < len(chosen))


def _named(instances: Iterable[ServiceInstance | None]) -> str:
    """Them together, as an audit record names them."""
    return ", ".join(dict.fromkeys(i.instance_id for i in instances if i is not None))


def _members(
    view: View,
    service_name: str,
    role: Role,
    instance_ids: Sequence[str],
    group: str | None,
    *,
    lease: str | None,
    admin: bool,
) -> list[tuple[ServiceInstance, str]]:
    problems = Problems()
    problems.role("$.role", role)
    if not instance_ids:
        problems.note("$.instance_ids", "at least one instance id is needed")
    chosen: list[tuple[ServiceInstance, str]] = []
    for at, instance_id in enumerate(dict.fromkeys(instance_ids)):
        path = f"$.instance_ids[{at}]"
        instance = authentic(view, service_name, instance_id, None, "set_role")
        if not admin and instance.lease != lease:
            raise Forbidden(operation="set_role", target=instance_id, reason="only its own, or an admin, may")
        name = group or instance.sticky_active_group
        if name is None:
            problems.note(path, "it has no role group, and none was named")
            continue
        target = checked_target(role_target(service_name, name), service_name)
        if role is Role.ACTIVE and any(target == t for _, t in chosen):
            problems.note(path, f"group {name!r} can have one active instance only")
        chosen.append((instance, target))
    problems.check()
    return chosen


def _next_in_line(view: View, target: str, *, but: Sequence[ServiceInstance]) -> ServiceInstance | None:
    """The first in line who can take the target, *but* for some."""
    for place in view.line(target):
        instance = view.by_lease(place.lease)
        if instance is not None and instance.is_healthy and not instance.draining and instance not in but:
            return instance
    return None


def _hand_over(
    view: View,
    target: str,
    leaving: ServiceInstance | None,
    successor: ServiceInstance | None,
    record: Ownership | None,
    at: datetime,
) -> list[Write]:
    """The writes by which *target* goes from *leaving* to *successor*.

    First the place of the one who leaves, then the ownership, then the end of the other's place: so every view sees
    each of them change its role once.
    """
    writes: list[Write] = []
    if leaving is not None and successor is not None:
        place = _new_place(leaving, target, leaving.priority, joined=ABSENT, as_role=False)
        writes.append(_place_write(view, place))
    expect = view.expectation(TargetKey(target))
    if successor is None:
        writes.append(Write.no_owner(target, expect))
        return writes
    fresh = Ownership(
        target=target,
        service_name=successor.service_name,
        instance_id=successor.instance_id,
        lease=successor.lease,
        metadata=record.metadata if record is not None else ResourceMetadata(),
        registered_at=at,
        reason="transferred",
        previous=record.instance_id if record is not None else "",
    )
    writes.append(Write.owner(fresh, expect))
    known = view.place(target, successor.instance_id)
    if known is not None:
        key = standby_key(target, successor.instance_id)
        writes.append(Write(key, None, known.revision))
    return writes


def list_roles(view: View, service_name: str) -> RoleTable:
    """Who is ACTIVE and who waits: per role group of the service, and per resource that has a line or is held as a role.

    Raises:
        ServiceNotFound: The service has no live instance.
    """
    live = view.live(service_name)
    if not live:
        raise unknown_service(view, service_name)
    targets = dict.fromkeys(view.lines(service_name))
    for instance in live:
        if instance.sticky_active_group is not None:
            targets[role_target(service_name, instance.sticky_active_group)] = None
    resources: dict[str, GroupRoles] = {}
    groups: dict[str, GroupRoles] = {}
    for target in sorted(targets):
        owned = view.owner(target)
        standbys = tuple(p.instance_id for p in view.line(target))
        if owned is None and not standbys and not is_role(target):
            continue
        shown = GroupRoles(active=owned[1].instance_id if owned else None, standbys=standbys)
        if is_role(target):
            groups[role_parts(target)[1]] = shown
        else:
            resources[target] = shown
    return RoleTable(service_name=service_name, resources=resources, groups=groups)


def _taken(target: str, holder: ServiceInstance) -> AegisError:
    if is_role(target):
        return RoleConflict(
            owner=holder.instance_id,
            service_name=holder.service_name,
            target=describe_target(target),
        )
    return ResourceConflict(resource_id=target, owner=holder.instance_id, conflicts={target: holder.instance_id})


def _new_place(instance: ServiceInstance, target: str, priority: int, *, joined: int, as_role: bool) -> Standby:
    return Standby(
        target=target,
        service_name=instance.service_name,
        instance_id=instance.instance_id,
        lease=instance.lease,
        priority=priority,
        joined=joined,
        as_role=as_role,
    )


def _place_write(view: View, place: Standby) -> Write:
    expect = view.expectation(StandbyKey(place.target, place.instance_id))
    return Write(standby_key(place.target, place.instance_id), place, expect)
