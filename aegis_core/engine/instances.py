"""Registration, and what becomes of it: renewal, health, draining, deregistration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import attrs

from aegis_core.engine.decision import Decision, Write, answered
from aegis_core.engine.requests import Problems, authentic, target_problem, unknown_service
from aegis_core.engine.view import View
from aegis_core.errors import (
    InstanceConflict,
    InstanceNotFound,
    InvalidRequest,
    RoleConflict,
)
from aegis_core.models import (
    ABSENT,
    Health,
    HeartbeatReply,
    Ownership,
    Role,
    ServiceInstance,
    ServiceView,
    Standby,
    Value,
)
from aegis_core.names import (
    InstanceKey,
    StandbyKey,
    TargetKey,
    describe_target,
    group_problem,
    instance_id_problem,
    instance_key,
    is_role,
    resource_id_problem,
    service_name_problem,
    standby_key,
)

__all__ = [
    "LONGEST_TTL",
    "Registered",
    "deregister",
    "get_instance",
    "get_service",
    "heartbeat",
    "list_services",
    "register",
    "renew",
    "set_draining",
    "set_health",
]

LONGEST_TTL: Final = 86400.0 * 365
"""Seconds: a year, beyond which no registration is meant."""

_STATUS: Final = {
    "healthy": Health.ONLINE,
    "unhealthy": Health.UNHEALTHY,
    "degraded": Health.UNHEALTHY,
}


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Registered(Value):
    """Answer of `register`.

    Args:
        instance: The record as stored.
        role: ACTIVE if it holds the target it asked for, else STANDBY.
        epoch: Of the target, if it holds it.
        new: Whether this registration is new; False when the same was registered already.
    """

    instance: ServiceInstance
    role: Role
    epoch: int = ABSENT
    new: bool = True


def register(
    view: View,
    candidate: ServiceInstance,
    *,
    role: Role | None = None,
    target: str | None = None,
    resource_id: object = None,
    min_ttl: float = 0.0,
    now: float | None = None,
    at: datetime,
) -> Decision[Registered]:
    """Register *candidate*: its record, and the role that it asks for, in one transaction or not at all.

    The same instance under the same lease is idempotent. After the old lease ended, another lease takes the id over.

    Args:
        view: The view.
        candidate: The record to write, with lease tag, ttl, interval, endpoints, metadata, priority, group.
        role: ACTIVE asks to hold *target*, STANDBY to wait in its line, None for neither.
        target: A role group of the service, or a resource (then holding it is a role); without one *role* is only shown.
        resource_id: In the place of *target*, what the registration's metadata name as the resource of its role.
        min_ttl: The shortest TTL that the store keeps, seconds.
        now: The node's clock, monotonic seconds, to tell how long a lease that is in the way lives; None not to.
        at: Aware UTC.

    Raises:
        InvalidRequest: Every bad field with its path.
        InstanceConflict: The id is in use under another lease, and that lease lives.
        RoleConflict: ACTIVE was asked for, and somebody else is.
        NotYetKnown: The view may not judge yet.
    """
    if role is not None and isinstance(resource_id, str):
        target = resource_id
    _check_candidate(candidate, role, target, resource_id, min_ttl)
    service, name = candidate.service_name, candidate.instance_id
    known = view.instance(service, name)
    if known is not None and known.lease != candidate.lease:
        left = 0.0 if now is None else view.lease_left(known, now)
        raise InstanceConflict(owner=name, service_name=service, lease_left=left)
    if known is None and view.by_lease(candidate.lease) is not None:
        raise InvalidRequest.at("$.lease_id", "it is the lease of another instance")
    shown = Role.ACTIVE if role is Role.ACTIVE else Role.STANDBY
    # One that is there already is written again, not merely confirmed: that renews its lease, and a deregistration
    # that was given up while its fate was open finds another revision when it arrives after all.
    record = attrs.evolve(
        candidate,
        role=shown,
        draining=candidate.draining or (known is not None and known.draining),
        registered_at=at if known is None else known.registered_at,
        last_heartbeat=at,
        revision=ABSENT,
    )
    expect = view.expectation(InstanceKey(service, name))
    writes = [Write(instance_key(service, name), record, expect, candidate.ttl)]
    held: Ownership | None = None
    if role is Role.ACTIVE and target is not None:
        held = _acquisition(view, candidate, target, at)
        writes.append(Write.owner(held, view.expectation(TargetKey(target))))
    elif role is Role.STANDBY and target is not None:
        writes += _place(view, candidate, target)

    def answer(revisions: Sequence[int]) -> Registered:
        stored = attrs.evolve(record, revision=revisions[0])
        epoch = ABSENT if held is None else held.epoch or revisions[1]
        return Registered(instance=stored, role=shown, epoch=epoch, new=known is None)

    return Decision(tuple(writes), answer)


def _check_candidate(
    candidate: ServiceInstance, role: Role | None, target: str | None, resource_id: object, min_ttl: float
) -> None:
    problems = Problems()
    if role is not None:
        problems.role("$.role", role)
    problems.note("$.service_name", service_name_problem(candidate.service_name))
    problems.note("$.instance_id", instance_id_problem(candidate.instance_id))
    problems.number("$.ttl", candidate.ttl, low=max(0.001, min_ttl), high=LONGEST_TTL)
    problems.number("$.heartbeat_interval", candidate.heartbeat_interval, low=0.0005)
    if not problems.found and candidate.heartbeat_interval > candidate.ttl / 2:
        problems.note(
            "$.heartbeat_interval",
            f"{candidate.heartbeat_interval:g} s leaves no second chance within a ttl of "
            f"{candidate.ttl:g} s: at most {candidate.ttl / 2:g}",
        )
    problems.priority("$.priority", candidate.priority)
    if candidate.sticky_active_group is not None:
        problems.note("$.group", group_problem(candidate.sticky_active_group))
    if not candidate.lease:
        problems.note("$.lease_id", "a registration needs a lease")
    if role is not None and resource_id is not None:
        problems.note("$.metadata.resource_id", resource_id_problem(resource_id))
    elif role is not None and target is not None:
        path = "$.group" if is_role(target) else "$.metadata.resource_id"
        problems.note(path, target_problem(target, candidate.service_name))
    problems.check()


def _acquisition(view: View, candidate: ServiceInstance, target: str, at: datetime) -> Ownership:
    """The record by which *candidate* holds *target*: a new one, or what there is once more."""
    service, name = candidate.service_name, candidate.instance_id
    record = view.held(target)
    holder = None if record is None else view.holder(record)
    if record is not None and holder is not None:
        if holder.lease != candidate.lease:
            raise RoleConflict(owner=holder.instance_id, service_name=service, target=describe_target(target))
        return attrs.evolve(record, revision=ABSENT)
    fresh = Ownership(
        target=target,
        service_name=service,
        instance_id=name,
        lease=candidate.lease,
        registered_at=at,
        reason="registered",
        previous="" if record is None else record.instance_id,
        as_role=not is_role(target),
    )
    return fresh if record is None else attrs.evolve(fresh, metadata=record.metadata)


def _place(view: View, candidate: ServiceInstance, target: str) -> tuple[Write, ...]:
    name = candidate.instance_id
    known = view.place(target, name)
    if known is not None and known.lease == candidate.lease:
        return ()
    place = Standby(
        target=target,
        service_name=candidate.service_name,
        instance_id=name,
        lease=candidate.lease,
        priority=candidate.priority,
        as_role=not is_role(target),
    )
    expect = view.expectation(StandbyKey(target, name))
    return (Write(standby_key(target, name), place, expect),)


def renew(record: ServiceInstance, *, at: datetime) -> Write:
    """The write that renews a lease: *record* once more, if it is still the last one.

    It names no view: an instance renews what it last wrote itself, changed as it likes (role, health, draining), and a
    `Conflict` means that the lease may have ended.

    Args:
        record: One's own record as last acknowledged, with its revision.
        at: Aware UTC.
    """
    key = instance_key(record.service_name, record.instance_id)
    return Write(key, attrs.evolve(record, last_heartbeat=at), record.revision, record.ttl)


def heartbeat(
    view: View,
    service_name: str,
    instance_id: str,
    *,
    lease: str | None = None,
    status: str = "healthy",
    metadata: Mapping[str, object] | None = None,
    at: datetime,
) -> Decision[HeartbeatReply]:
    """Renew the lease of an instance that does not keep it itself.

    Args:
        view: The view.
        service_name: Its service.
        instance_id: Its id.
        lease: Tag of the lease that it showed; None believes the name alone.
        status: ``healthy``, ``unhealthy`` or ``degraded`` (which counts as UNHEALTHY).
        metadata: Entries to set in the record's metadata.
        at: Aware UTC.

    Raises:
        InvalidRequest: Another status.
        InstanceNotFound: No such instance lives.
        NotOwner: It lives by another lease.
    """
    if status not in _STATUS:
        raise InvalidRequest.at("$.status", f"expected {', '.join(_STATUS)}, got {status!r}")
    known = authentic(view, service_name, instance_id, lease, "heartbeat")
    changed = attrs.evolve(
        known,
        health=_STATUS[status],
        metadata={**known.metadata, **metadata} if metadata else known.metadata,
        role=view.shown_role(known),
    )
    reply = HeartbeatReply(service_name=service_name, instance_id=instance_id, updated_at=at)
    return Decision((renew(changed, at=at),), lambda _: reply)


def deregister(
    view: View, service_name: str, instance_id: str, *, lease: str | None = None
) -> Decision[tuple[str, ...]]:
    """End a lease of one's own will; what it held is free at once. Answers the targets that it held.

    Args:
        view: The view.
        service_name: Its service.
        instance_id: Its id.
        lease: Tag of the lease that was shown; None believes the name alone.

    Raises:
        InstanceNotFound: No such instance lives.
        NotOwner: It lives by another lease.
    """
    known = authentic(view, service_name, instance_id, lease, "deregister")
    freed = tuple(view.held_by(known.lease))
    write = Write(instance_key(service_name, instance_id), None, known.revision)
    return Decision((write,), lambda _: freed)


def set_health(
    view: View,
    service_name: str,
    instance_id: str,
    health: Health,
    *,
    lease: str | None = None,
    at: datetime,
) -> Decision[ServiceInstance]:
    """Say that an instance is ONLINE or UNHEALTHY. The write renews its lease as well.

    Raises:
        InvalidRequest: OFFLINE, which no instance can say of itself.
        InstanceNotFound: No such instance lives.
        NotOwner: It lives by another lease.
    """
    if health is Health.OFFLINE:
        raise InvalidRequest.at("$.health", "expected ONLINE or UNHEALTHY; deregister to go OFFLINE")
    known = authentic(view, service_name, instance_id, lease, "set_health")
    return _rewrite(known, attrs.evolve(known, health=health), at)


def set_draining(
    view: View,
    service_name: str,
    instance_id: str,
    *,
    draining: bool,
    lease: str | None = None,
    at: datetime,
) -> Decision[ServiceInstance]:
    """Say whether an instance is handing over its work: no new claims, out of the rotation. The write renews its lease.

    Raises:
        InstanceNotFound: No such instance lives.
        NotOwner: It lives by another lease.
    """
    known = authentic(view, service_name, instance_id, lease, "drain")
    return _rewrite(known, attrs.evolve(known, draining=draining), at)


def _rewrite(known: ServiceInstance, wanted: ServiceInstance, at: datetime) -> Decision[ServiceInstance]:
    if wanted == known:
        return answered(known)
    write = renew(wanted, at=at)
    stored = attrs.evolve(wanted, last_heartbeat=at)
    return Decision((write,), lambda revisions: attrs.evolve(stored, revision=revisions[0]))


def list_services(view: View, *, now: float) -> tuple[ServiceView, ...]:
    """All services with their live instances, with health as seen from here and role as the ownership records say."""
    return tuple(get_service(view, name, now=now) for name in view.services())


def get_service(view: View, service_name: str, *, now: float) -> ServiceView:
    """One service with its live instances, by id.

    Raises:
        ServiceNotFound: None of its instances lives.
    """
    live = view.live(service_name)
    if not live:
        raise unknown_service(view, service_name)
    shown = (_seen(view, i, now) for i in sorted(live, key=lambda i: i.instance_id))
    return ServiceView(service_name=service_name, instances=tuple(shown))


def get_instance(view: View, instance_id: str, *, service_name: str | None = None, now: float) -> ServiceInstance:
    """The live instance with that id, as `get_service` shows it.

    Args:
        view: The view.
        instance_id: Its id.
        service_name: Its service; None where one service alone has an instance of that id.
        now: The node's clock, monotonic seconds.

    Raises:
        InstanceNotFound: There is none.
        InvalidRequest: Several services have one, and none of them is named.
    """
    found = [i for i in view.by_id(instance_id) if service_name in (None, i.service_name)]
    if not found:
        raise InstanceNotFound(instance_id=instance_id, service_name=service_name or "")
    if len(found) > 1:
        owners = ", ".join(sorted(i.service_name for i in found))
        raise InvalidRequest.at("$.service_name", f"each of these has an instance of that id: {owners}")
    return _seen(view, found[0], now)


def _seen(view: View, instance: ServiceInstance, now: float) -> ServiceInstance:
    """*instance* as seen from here; where that is what it says of itself, the very record, because copies are dear."""
    health, role = view.health(instance, now), view.shown_role(instance)
    if health is instance.health and role is instance.role:
        return instance
    return attrs.evolve(instance, health=health, role=role)
