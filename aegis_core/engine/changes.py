"""What a change of the view means, as events. Pure: the snapshot says who held what before and after."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import attrs

from aegis_core.events import (
    Event,
    ResourceExpired,
    ResourceRegistered,
    ResourceReleased,
    ResourceTransferred,
    RoleChanged,
)
from aegis_core.models import Ownership, Role, ServiceInstance
from aegis_core.names import is_role, role_parts

__all__ = ["Part", "ownership_event", "role_events"]


@attrs.frozen
class Part:
    """An instance's part in a target: what it is for it. `lease` tells incarnations apart."""

    service_name: str
    instance_id: str
    lease: str


def part(instance: ServiceInstance) -> Part:
    """The part that *instance* plays."""
    return Part(instance.service_name, instance.instance_id, instance.lease)


def ownership_event(
    old: Ownership | None,
    new: Ownership | None,
    *,
    expired: bool,
    reason: str,
    revision: int,
    at: datetime,
) -> Event | None:
    """What happened to a resource.

    Args:
        old: Who owned it, None when nobody alive did.
        new: Who owns it now, None when nobody alive does.
        expired: Its own time to live ended.
        reason: Why it was lost, where it was.
        revision: Of the change.
        at: Aware UTC.
    """
    record = new or old
    if record is None or is_role(record.target):
        return None
    if new is None:
        kind = ResourceExpired if expired else ResourceReleased
        extra = {} if expired else {"reason": reason}
        return kind(
            service_name=record.service_name,
            instance_id=record.instance_id,
            resource_id=record.target,
            revision=revision,
            at=at,
            epoch=record.epoch,
            **extra,
        )
    if old is not None and old.lease != new.lease:
        return ResourceTransferred(
            service_name=new.service_name,
            instance_id=new.instance_id,
            resource_id=new.target,
            revision=revision,
            at=at,
            old=old.instance_id,
            epoch=new.epoch,
            reason=new.reason,
        )
    if old is not None and old.epoch == new.epoch:
        return None
    return ResourceRegistered(
        service_name=new.service_name,
        instance_id=new.instance_id,
        resource_id=new.target,
        revision=revision,
        at=at,
        epoch=new.epoch,
        reason=new.reason,
    )


def role_events(
    target: str,
    before: Mapping[Part, Role],
    after: Mapping[Part, Role],
    *,
    reason: str,
    revision: int,
    at: datetime,
) -> list[Event]:
    """One `RoleChanged` for each part that differs; those that lose the target come first."""
    group = role_parts(target)[1] if is_role(target) else None
    found: list[tuple[bool, Event]] = []
    for who in {**before, **after}:
        old, new = before.get(who), after.get(who)
        if old is not new:
            event = RoleChanged(
                service_name=who.service_name,
                instance_id=who.instance_id,
                resource_id="" if group is not None else target,
                revision=revision,
                at=at,
                old=old,
                new=new,
                group=group,
                reason=reason,
            )
            found.append((new is Role.ACTIVE, event))
    return [event for _, event in sorted(found, key=lambda pair: pair[0])]
